"""Notices work that hangs: each table's turn beats at its steps, and one that has fallen silent is named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watchdog:
    """The last beats of the turns that are under way, and whether any turn begins at all. Thread-safe.

    A turn may be silent for `silent_seconds`. Where none is under way, the next must begin within `idle_seconds`,
    the longest pause of the schedule, and as much again.
    """

    def __init__(
        self, silent_seconds: float, idle_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._silent_seconds = silent_seconds
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._beats: dict[str, float] = {}
        self._turned = clock()
        self._lock = threading.Lock()

    def begin(self, table: str) -> None:
        """A turn of the table begins."""
        with self._lock:
            self._beats[table] = self._turned = self._clock()

    def beat(self, table: str) -> None:
        """The table's turn has come on; nothing where none is under way."""
        with self._lock:
            if table in self._beats:
                self._beats[table] = self._clock()

    def end(self, table: str) -> None:
        """The turn has ended."""
        with self._lock:
            self._beats.pop(table, None)
            self._turned = self._clock()

    def trouble(self) -> str:
        """What hangs, in words; "" when nothing does."""
        with self._lock:
            beats, turned, now = dict(self._beats), self._turned, self._clock()
        silent = {table: now - last for table, last in beats.items() if now - last > self._silent_seconds}
        if silent:
            return "; ".join(
                f"{table} has made no progress for {seconds:.0f} s" for table, seconds in sorted(silent.items())
            )
        if not beats and now - turned > self._idle_seconds + self._silent_seconds:
            return f"no table has had a turn for {now - turned:.0f} s"
        return ""
