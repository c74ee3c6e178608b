"""Many tables, few workers: isolation of tables, the schedule, and an orderly end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.events import EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor as SchedulerPool
from apscheduler.schedulers.background import BackgroundScheduler

from cdcloader.errors import (
    CdcloaderError,
    CommitConflict,
    StateConflict,
    Stopped,
    TableError,
    TransientError,
)
from cdcloader.loader.table import Outcome, Step, TableLoader
from cdcloader.metrics import Metrics
from cdcloader.state.record import Phase

# A table with a backlog gives its worker to the next table after this long, between two of its batches.
_SLICE_SECONDS = 10.0
_CONFLICTS_MAX = 10
_RETRIES_MAX = 6
_BACKOFF_SECONDS_MAX = 900.0
_LEASED_PAUSE_SECONDS = 2.0
_TICK_SECONDS = 5.0
_STALLED_SECONDS = 60.0
DRAIN_SECONDS = 25.0


@dataclass(frozen=True, slots=True)
class Pass:
    """How a table's turn ended: the last step, or what stopped it, and whether it wants another turn at once."""

    loader: TableLoader
    step: Step | None = None
    error: CdcloaderError | None = None
    failures: int = 0
    more: bool = False

    @property
    def retriable(self) -> bool:
        """Whether the same work may succeed later without anybody's doing."""
        return isinstance(self.error, TransientError | StateConflict | CommitConflict)


def take_turn(
    loader: TableLoader,
    stopping: threading.Event,
    *,
    slice_seconds: float = _SLICE_SECONDS,
    tidying: threading.Semaphore | None = None,
) -> Pass:
    """Step a table until nothing is left, its time slice is over, or something stops it; never raises.

    This is the boundary that keeps one table's trouble from the others. A table that is up to date is tidied; where
    `tidying` has no room for it, at a later turn.
    """
    end = time.monotonic() + slice_seconds
    conflicts = 0
    step: Step | None = None
    while not stopping.is_set():
        try:
            step = loader.step()
        except (CommitConflict, StateConflict) as error:
            # Somebody else was faster: what we know is old. Look again, a little later each time.
            conflicts += 1
            if conflicts > _CONFLICTS_MAX:
                return _failed(loader, error)
            loader.conflict(error)
            stopping.wait(random.uniform(0, 0.05 * 2**conflicts))  # noqa: S311
        except Stopped:
            break
        except Exception as error:  # noqa: BLE001
            return _failed(loader, _known(loader, error))
        else:
            if step.outcome is Outcome.IDLE and _tidied(loader, tidying):
                continue
            if step.outcome is not Outcome.DONE:
                break
            if time.monotonic() >= end:
                return Pass(loader, step, more=True)
    _release(loader)
    return Pass(loader, step)


def _tidied(loader: TableLoader, tidying: threading.Semaphore | None) -> bool:
    """Upkeep, in the table's own turn; True when new data came meanwhile. Its trouble does not stop the table."""
    if tidying is not None and not tidying.acquire(blocking=False):
        return False
    try:
        return loader.tidy()
    except Exception as error:  # noqa: BLE001
        loader.untidy(_known(loader, error))
        return False
    finally:
        if tidying is not None:
            tidying.release()


def _known(loader: TableLoader, error: Exception) -> CdcloaderError:
    """The error as one of ours; what nobody foresaw goes into the log with its trace."""
    if isinstance(error, CdcloaderError):
        return error
    structlog.get_logger().error("unexpected error", table=loader.source, exc_info=error)
    hint = "this is a bug in cdcloader, or trouble that it does not know: please report it with the log"
    return TableError(f"{type(error).__name__}: {error}", where=loader.source, hint=hint)


def _failed(loader: TableLoader, error: CdcloaderError) -> Pass:
    phase = Phase.RETRYING if Pass(loader, error=error).retriable else Phase.BLOCKED
    failures = loader.failed(error, phase)
    _release(loader)
    return Pass(loader, error=error, failures=failures)


def _release(loader: TableLoader) -> None:
    try:
        loader.release()
    except CdcloaderError as error:
        structlog.get_logger().warning("the lease was not released", table=loader.source, error=str(error))


def run_once(
    loaders: Sequence[TableLoader],
    *,
    workers: int,
    stopping: threading.Event,
    lease_seconds: float,
    on_wait: Callable[[str, Step], None] = lambda _table, _step: None,
) -> list[Pass]:
    """Turn after turn until every table is up to date or stopped; transient trouble is retried a few times."""
    results: dict[str, Pass] = {}
    retries: dict[str, int] = {}
    due = [(0.0, loader) for loader in loaders]
    leased_until = time.monotonic() + 3 * lease_seconds
    with ThreadPoolExecutor(workers, thread_name_prefix="cdcloader-table") as pool:
        running: set[Future[Pass]] = set()
        while (due or running) and not (stopping.is_set() and not running):
            now = time.monotonic()
            ready = [] if stopping.is_set() else [loader for at, loader in due if at <= now]
            due = [(at, loader) for at, loader in due if loader not in ready]
            running |= {pool.submit(take_turn, loader, stopping) for loader in ready}
            if running:
                done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            else:
                stopping.wait(min(0.5, max(0.0, min(at for at, _ in due) - now)))
                done = set()
            for ended in (future.result() for future in done):
                results[ended.loader.source] = ended
                pause = _pause_once(ended, retries, leased_until)
                if pause is not None:
                    if ended.step and ended.step.outcome is Outcome.WAITING:
                        on_wait(ended.loader.source, ended.step)
                    due.append((time.monotonic() + pause, ended.loader))
    return [results.get(loader.source, Pass(loader)) for loader in loaders]


def _pause_once(ended: Pass, retries: dict[str, int], leased_until: float) -> float | None:
    """Seconds until a table's next turn in a single run, None when it is done."""
    if ended.more:
        return 0.0
    if ended.retriable:
        tried = retries[ended.loader.source] = retries.get(ended.loader.source, 0) + 1
        return min(30.0, 2.0**tried * random.uniform(0.5, 1)) if tried < _RETRIES_MAX else None  # noqa: S311
    if ended.step is None or ended.error is not None:
        return None
    retries.pop(ended.loader.source, None)
    if ended.step.outcome is Outcome.WAITING and ended.step.until is not None:
        left = (ended.step.until - datetime.now(UTC)).total_seconds()
        return min(max(left, 0.0) + 0.05, 5.0)
    if ended.step.outcome is Outcome.LEASED and time.monotonic() < leased_until:
        return _LEASED_PAUSE_SECONDS
    return None


class Daemon:
    """Polls every table on its schedule, with at most `workers` at work and never two turns of one table."""

    def __init__(
        self,
        loaders: Sequence[TableLoader],
        metrics: Metrics,
        *,
        workers: int,
        poll_interval_seconds: float,
        stopping: threading.Event,
    ) -> None:
        self._loaders = {loader.source: loader for loader in loaders}
        self._metrics = metrics
        self._poll_seconds = poll_interval_seconds
        self._stopping = stopping
        self._ticked = time.monotonic()
        self._running: set[str] = set()
        # Upkeep takes at most every other worker, so that new data of another table finds one free.
        self._tidying = threading.Semaphore(max(1, workers // 2))
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": SchedulerPool(workers), "tick": SchedulerPool(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Begin to poll; tables start spread over a few seconds, so that they do not all list at once."""
        self._scheduler.add_listener(self._turn_ended, EVENT_JOB_EXECUTED)
        spread = min(5.0, self._poll_seconds) / max(1, len(self._loaders))
        for number, source in enumerate(self._loaders):
            first = datetime.now(UTC) + timedelta(seconds=number * spread)
            self._scheduler.add_job(
                self._turn, "interval", seconds=self._poll_seconds, args=[source], id=source, next_run_time=first
            )
        self._scheduler.add_job(
            self._tick, "interval", seconds=_TICK_SECONDS, id="tick", executor="tick", next_run_time=datetime.now(UTC)
        )
        self._scheduler.start()

    def drain(self, seconds: float = DRAIN_SECONDS) -> list[str]:
        """Take no more turns, wait for those in hand; returns the tables whose batch was left to the next start."""
        self._stopping.set()
        self._scheduler.pause()
        end = time.monotonic() + seconds
        while self._running and time.monotonic() < end:
            time.sleep(0.05)
        unfinished = sorted(self._running)
        self._scheduler.shutdown(wait=False)
        return unfinished

    def live(self) -> tuple[bool, str]:
        """Whether the schedule still ticks, and words for it."""
        silent = time.monotonic() - self._ticked
        return silent < _STALLED_SECONDS, f"the schedule ticked {silent:.0f} s ago"

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self._metrics.tick(datetime.now(UTC))

    def _turn(self, source: str) -> Pass:
        self._running.add(source)
        try:
            return take_turn(self._loaders[source], self._stopping, tidying=self._tidying)
        finally:
            self._running.discard(source)

    def _turn_ended(self, event: JobExecutionEvent) -> None:
        """Bring a table with more to do to the back of the queue at once, and one in trouble later and later."""
        ended = event.retval
        if not isinstance(ended, Pass) or self._stopping.is_set():
            return
        if ended.more:
            pause = 0.0
        elif ended.error is not None:
            backoff = self._poll_seconds * 2.0 ** min(ended.failures - 1, 10)
            pause = min(backoff, max(_BACKOFF_SECONDS_MAX, self._poll_seconds)) * random.uniform(0.8, 1)  # noqa: S311
        else:
            return
        self._scheduler.modify_job(ended.loader.source, next_run_time=datetime.now(UTC) + timedelta(seconds=pause))
