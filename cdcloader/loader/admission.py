"""The memory budget as a gate before each table's work: shares are granted in the order in which they are asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cdcloader.loader.sizes import Sizes, sizes_of

# How long a table waits before it gives its worker to the next one; it keeps its place in the queue.
_WAIT_SECONDS = 5.0
# A table that has not come back for so long has no work any more, and loses its place.
_KEPT_SECONDS = 60.0
# So often a waiting table looks whether the process ends.
_LOOK_SECONDS = 0.2
_MIB = 1 << 20


@dataclass(slots=True)
class _Place:
    """A place in the queue: when its table was last here, and whether it is here now."""

    seen: float
    here: bool = True


class Admission:
    """Grants equal shares of the memory budget, at least one to each work, in the order of asking. Thread-safe.

    There are as many shares as tables may work at once. A work that has use for more gets what is free, but one that
    stays for the next table, and only while nobody waits. A holder must not ask again before it has given back.
    """

    def __init__(
        self,
        budget_mb: int,
        shares: int,
        *,
        wait_seconds: float = _WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wait_seconds = wait_seconds
        self._budget_mb = budget_mb
        self._shares = self._free = shares
        self._clock = clock
        self._queue: dict[str, _Place] = {}
        self._changed = threading.Condition()

    def sizes(self, shares: int) -> Sizes:
        """The bounds of a work that holds so many shares."""
        return sizes_of(self._budget_mb, shares, self._shares)

    def granted_bytes(self) -> int:
        """The part of the budget that is granted now."""
        return (self._shares - self._free) * self._budget_mb * _MIB // self._shares

    def waiting(self) -> int:
        """How many tables have work and wait for memory."""
        with self._changed:
            self._drop_gone()
            return len(self._queue)

    @contextmanager
    def grant(
        self, table: str, wanted: int, *, stopping: Callable[[], bool] = lambda: False, seconds: float | None = None
    ) -> Iterator[int]:
        """Between one share and `wanted`, given back at the end of the block; 0 when none was free in time.

        Whoever gets 0 should ask again: its place in the queue is kept for a minute.
        """
        granted = self._take(
            table, wanted, stopping, self._clock() + (self._wait_seconds if seconds is None else seconds)
        )
        try:
            yield granted
        finally:
            with self._changed:
                self._free += granted
                self._changed.notify_all()

    def _take(self, table: str, wanted: int, stopping: Callable[[], bool], end: float) -> int:
        with self._changed:
            place = self._queue.setdefault(table, _Place(self._clock()))
            place.here = True
            while not self._is_next(table):
                place.seen = self._clock()
                left = end - place.seen
                if left <= 0 or stopping():
                    place.here = False
                    self._changed.notify_all()
                    return 0
                self._changed.wait(min(left, _LOOK_SECONDS))
            del self._queue[table]
            spare = 0 if self._queue else self._free - min(1, self._shares - 1)
            granted = max(1, min(wanted, spare))
            self._free -= granted
            self._changed.notify_all()
            return granted

    def _is_next(self, table: str) -> bool:
        """Whether a share is free and nobody that is here came before; who is away does not hold up the others."""
        self._drop_gone()
        return self._free > 0 and table == next(name for name, place in self._queue.items() if place.here)

    def _drop_gone(self) -> None:
        oldest = self._clock() - _KEPT_SECONDS
        for name in [name for name, place in self._queue.items() if not place.here and place.seen < oldest]:
            del self._queue[name]
