"""A table's turn: steps until nothing is left, and the boundary that keeps one table's trouble from the others."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from cdcloader.errors import CdcloaderError, Treatment, as_ours, treatment
from cdcloader.loader.steps import Outcome, Step
from cdcloader.loader.table import TableLoader
from cdcloader.state.record import Phase

# A table with a backlog gives its worker to the next table after this long, between two of its batches.
_SLICE_SECONDS = 10.0
_CONFLICTS_MAX = 10
# A single run gives up sooner than the daemon, which has all the time there is.
_RETRIES_MAX = 6
_PAUSE_SECONDS_MAX = 30.0
_LEASED_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Pass:
    """How a table's turn ended: the last step, or what stopped it, and whether it wants another turn at once.

    `pause_seconds` is after how long a table in trouble is tried again, 0 for any other.
    """

    loader: TableLoader
    step: Step | None = None
    error: CdcloaderError | None = None
    failures: int = 0
    more: bool = False
    pause_seconds: float = 0.0

    @property
    def retriable(self) -> bool:
        """Whether the same work may succeed later without anybody's doing."""
        return self.error is not None and treatment(self.error) in (Treatment.REPLAN, Treatment.RETRY)


def take_turn(
    loader: TableLoader,
    stopping: threading.Event,
    *,
    slice_seconds: float = _SLICE_SECONDS,
    tidying: threading.Semaphore | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
) -> Pass:
    """Step a table until nothing is left, its time slice is over, or something stops it; never raises.

    This is the boundary that keeps one table's trouble from the others. A table that is up to date is tidied; where
    `tidying` has no room for it, at a later turn. `may_go_on` is asked before each step.
    """
    end = time.monotonic() + slice_seconds
    conflicts = 0
    step: Step | None = None
    while not stopping.is_set() and may_go_on():
        try:
            step = loader.step()
        except BaseException as error:
            answer = treatment(error)
            if answer is Treatment.STOP and not isinstance(error, CdcloaderError):
                raise  # Somebody wants the process to end at once.
            if answer is Treatment.STOP:
                break
            conflicts += answer is Treatment.REPLAN
            if answer is not Treatment.REPLAN or conflicts > _CONFLICTS_MAX:
                return _failed(loader, _known(loader, error))
            # Somebody else was faster: what we know is old. Look again, a little later each time.
            loader.conflict(_known(loader, error))
            stopping.wait(random.uniform(0, min(2.0, 0.05 * 2**conflicts)))  # noqa: S311
        else:
            if step.outcome is Outcome.IDLE and _tidied(loader, tidying):
                continue
            if step.outcome is not Outcome.DONE:
                break
            if time.monotonic() >= end:
                # Its next turn may be long in coming, or never come: between turns no lease is held, nor renewed.
                _release(loader)
                return Pass(loader, step, more=True)
    _release(loader)
    return Pass(loader, step, pause_seconds=loader.held_seconds)


def hand_over(loader: TableLoader) -> None:
    """The table is another replica's: let go of it, and tell nothing more about it. Never raises."""
    _release(loader)
    loader.forget()


def _tidied(loader: TableLoader, tidying: threading.Semaphore | None) -> bool:
    """Upkeep, in the table's own turn; True when new data came meanwhile. Its trouble does not stop the table."""
    if tidying is not None and not tidying.acquire(blocking=False):
        return False
    try:
        return loader.tidy()
    except BaseException as error:
        if treatment(error) is Treatment.STOP:
            raise
        loader.untidy(_known(loader, error))
        return False
    finally:
        if tidying is not None:
            tidying.release()


def _known(loader: TableLoader, error: BaseException) -> CdcloaderError:
    """The error as one of ours; what nobody foresaw goes into the log with its trace."""
    known = as_ours(error, where=loader.source)
    if known is not error:
        structlog.get_logger().error("unexpected error", table=loader.source, exc_info=error)
    return known


def _failed(loader: TableLoader, error: CdcloaderError) -> Pass:
    ended = Pass(loader, error=error)
    try:
        failures = loader.failed(error, Phase.RETRYING if ended.retriable else Phase.BLOCKED)
    except Exception as trouble:  # noqa: BLE001
        _known(loader, trouble)
        failures = 1
    _release(loader)
    return replace(ended, failures=failures, pause_seconds=loader.held_seconds)


def _release(loader: TableLoader) -> None:
    try:
        loader.release()
    except Exception as error:  # noqa: BLE001
        text = str(_known(loader, error))
        structlog.get_logger().warning("the lease was not released", table=loader.source, error=text)


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
    leased: dict[str, float] = {}
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
                # Three lease times from the first look that found it held, which may come late in a long run.
                if ended.step is not None and ended.step.outcome is Outcome.LEASED:
                    leased.setdefault(ended.loader.source, time.monotonic() + 3 * lease_seconds)
                else:
                    leased.pop(ended.loader.source, None)
                pause = _pause_once(ended, retries, leased.get(ended.loader.source, 0.0))
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
        return min(_PAUSE_SECONDS_MAX, ended.pause_seconds) if tried < _RETRIES_MAX else None
    if ended.step is None or ended.error is not None:
        return None
    if ended.step.outcome is not Outcome.HELD:
        retries.pop(ended.loader.source, None)
    return _waits_once(ended, ended.step, leased_until)


def _waits_once(ended: Pass, step: Step, leased_until: float) -> float | None:
    """Seconds until the next turn of a table that is not in the way of itself; None when it is done."""
    match step.outcome:
        case Outcome.HELD:
            return min(_PAUSE_SECONDS_MAX, ended.pause_seconds)
        case Outcome.WAITING if step.until is not None:
            left = (step.until - datetime.now(UTC)).total_seconds()
            return min(max(left, 0.0) + 0.05, 5.0)
        case Outcome.LEASED if time.monotonic() < leased_until:
            return _LEASED_PAUSE_SECONDS
    return None
