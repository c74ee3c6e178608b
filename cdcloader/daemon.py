"""The schedule: many tables, few workers, and an orderly end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor as SchedulerPool
from apscheduler.schedulers.background import BackgroundScheduler

from cdcloader.loader.table import TableLoader
from cdcloader.metrics import Metrics
from cdcloader.turns import Pass, take_turn

_BACKOFF_SECONDS_MAX = 900.0
_TICK_SECONDS = 5.0
_STALLED_SECONDS = 60.0
DRAIN_SECONDS = 25.0


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
