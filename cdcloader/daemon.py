"""The schedule: many tables, few workers, and an orderly end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from apscheduler.events import EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor as SchedulerPool
from apscheduler.schedulers.background import BackgroundScheduler

from cdcloader.loader.discovery import SEARCH
from cdcloader.loader.steps import Outcome
from cdcloader.loader.table import TableLoader
from cdcloader.metrics import Metrics
from cdcloader.replicas import Replica
from cdcloader.turns import Pass, hand_over, take_turn
from cdcloader.watchdog import Watchdog

_TICK_SECONDS = 5.0
_STALLED_SECONDS = 60.0
DRAIN_SECONDS = 25.0
# A store that does not answer must not keep a process whose work is done.
_LEAVE_SECONDS = 5.0


class Daemon:
    """Polls every table on its schedule, with at most `workers` at work and never two turns of one table.

    `discover`, where tables may be found while the daemon runs, makes the loaders of those that are new.
    """

    def __init__(
        self,
        loaders: Sequence[TableLoader],
        metrics: Metrics,
        *,
        workers: int,
        poll_interval_seconds: float,
        stopping: threading.Event,
        watchdog: Watchdog,
        replica: Replica,
        discover: Callable[[], Sequence[TableLoader]] | None = None,
    ) -> None:
        self._replica = replica
        self._discover = discover
        # Tables may be added while the schedule goes on; a table that is known has its job.
        self._adding = threading.RLock()
        self._ours: set[str] = set()
        self._loaders = {loader.source: loader for loader in loaders}
        self._metrics = metrics
        self._poll_seconds = poll_interval_seconds
        self._stopping = stopping
        self._watchdog = watchdog
        self._ticked = time.monotonic()
        self._wall_ahead = time.time() - time.monotonic()
        self._running: set[str] = set()
        self._handed_over: set[str] = set()
        # Upkeep takes at most every other worker, so that new data of another table finds one free.
        self._tidying = threading.Semaphore(max(1, workers // 2))
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": SchedulerPool(workers), "tick": SchedulerPool(1), "search": SchedulerPool(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Begin to poll; tables start spread over a few seconds, so that they do not all list at once."""
        self._replica.start(self._tables_moved)
        self._tables_moved()
        self._scheduler.add_listener(self._turn_ended, EVENT_JOB_EXECUTED)
        spread = min(5.0, self._poll_seconds) / max(1, len(self._loaders))
        for number, source in enumerate(self._loaders):
            self._poll(source, datetime.now(UTC) + timedelta(seconds=number * spread))
        self._scheduler.add_job(
            self._tick, "interval", seconds=_TICK_SECONDS, id="tick", executor="tick", next_run_time=datetime.now(UTC)
        )
        if self._discover is not None:
            # Its own thread: a listing that hangs keeps no table from its turn.
            self._scheduler.add_job(
                self._search,
                "interval",
                seconds=self._poll_seconds,
                args=[self._discover],
                id=SEARCH,
                executor="search",
            )
        self._scheduler.start()

    def _poll(self, source: str, first: datetime) -> None:
        self._scheduler.add_job(
            self._turn, "interval", seconds=self._poll_seconds, args=[source], id=source, next_run_time=first
        )

    def _search(self, discover: Callable[[], Sequence[TableLoader]]) -> None:
        """Take up the tables that are new."""
        self._watchdog.begin(SEARCH)
        try:
            new = discover()
        finally:
            self._watchdog.end(SEARCH)
        with self._adding:
            self._loaders = {**self._loaders, **{loader.source: loader for loader in new}}
            for loader in new:
                self._poll(loader.source, datetime.now(UTC))
            if new:
                self._tables_moved()

    def drain(self, seconds: float = DRAIN_SECONDS) -> list[str]:
        """Take no more turns, wait for those in hand; returns the tables whose batch was left to the next start."""
        self._stopping.set()
        self._replica.leave()
        self._scheduler.pause()
        end = time.monotonic() + seconds
        while self._running and time.monotonic() < end:
            time.sleep(0.05)
        unfinished = sorted(self._running)
        self._scheduler.shutdown(wait=False)
        self._replica.wait(min(_LEAVE_SECONDS, end - time.monotonic()))
        return unfinished

    def live(self) -> tuple[bool, str]:
        """Whether the schedule still ticks and no turn hangs, and words for it."""
        silent = time.monotonic() - self._ticked
        trouble = self._watchdog.trouble()
        words = f"the schedule ticked {silent:.0f} s ago"
        return silent < _STALLED_SECONDS and not trouble, f"{words}; {trouble}" if trouble else words

    def keep_time(self) -> None:
        """Poll at once where the wall clock was set anew: the schedule goes by it.

        Set back, it would rest for as long; set forward, it would count every poll that it has missed.
        """
        ahead = time.time() - time.monotonic()
        step, self._wall_ahead = ahead - self._wall_ahead, ahead
        if abs(step) > _TICK_SECONDS:
            structlog.get_logger().warning("the clock was set anew", seconds=round(step, 3))
            with self._adding:
                for job in ("tick", *self._loaders, *([SEARCH] if self._discover is not None else [])):
                    self._scheduler.modify_job(job, next_run_time=datetime.now(UTC))

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        self._metrics.tick(datetime.now(UTC))

    def _tables_moved(self) -> None:
        """Replicas have come or gone: a table that is ours from now on has its turn at once."""
        with self._adding:
            ours = {source for source in self._loaders if self._is_ours(source)}
            gained, self._ours = ours - self._ours, ours
            self._metrics.shared(replicas=len(self._replica.alive), tables_owned=len(ours))
            if self._scheduler.running and not self._stopping.is_set():
                for source in gained:
                    self._scheduler.modify_job(source, next_run_time=datetime.now(UTC))

    def _is_ours(self, source: str) -> bool:
        return self._replica.owns(self._loaders[source].context.path)

    def _turn(self, source: str) -> Pass | None:
        """A table's turn; none of it, and no request, where the table is another replica's."""
        loader = self._loaders[source]
        self._running.add(source)
        self._watchdog.begin(source)
        try:
            if self._is_ours(source):
                self._handed_over.discard(source)
                ours = partial(self._is_ours, source)
                return take_turn(loader, self._stopping, tidying=self._tidying, may_go_on=ours)
            if source not in self._handed_over:
                hand_over(loader)
                self._handed_over.add(source)
            return None
        finally:
            self._watchdog.end(source)
            self._running.discard(source)

    def _turn_ended(self, event: JobExecutionEvent) -> None:
        """Bring a table back before its poll: at once with more to do, soon where something passing is in its way."""
        ended = event.retval
        if not isinstance(ended, Pass) or self._stopping.is_set():
            return
        if ended.more:
            pause = 0.0
        elif ended.step is not None and ended.step.outcome is Outcome.LEASED:
            # Two looks that far apart tell a dead holder; a long poll must not make them rarer.
            pause = min(ended.loader.context.settings.lease_seconds / 2, self._poll_seconds)
        elif 0 < ended.pause_seconds < self._poll_seconds:
            # A longer pause is kept by the loader itself: until it is over, a poll only looks.
            pause = ended.pause_seconds
        else:
            return
        # Not here: the scheduler calls us before it sets the next time itself, where a turn ended quickly enough.
        due = datetime.now(UTC) + timedelta(seconds=pause)
        self._scheduler.add_job(self._bring_forward, args=[ended.loader.source, due], executor="tick")

    def _bring_forward(self, source: str, due: datetime) -> None:
        self._scheduler.modify_job(source, next_run_time=due)
