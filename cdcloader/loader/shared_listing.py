"""One listing of a shared folder serves all its tables for some seconds: else each would pay for a listing of its own.

With a thousand tables and a look at each every minute, the listings would cost more than all else that they do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cdcloader.objects import ObjectInfo, Objects

# A listing of more objects is that of a history, which no two tables read at the same time.
_KEPT_OBJECTS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a folder held at `at` behind the key `start_after`."""

    at: float
    start_after: str
    pages: tuple[Sequence[ObjectInfo], ...]


class SharedListings:
    """Listings of folders, each at most `seconds` old (0: none is kept). Thread-safe."""

    def __init__(self, seconds: float = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kept: dict[str, _Listing] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def pages(self, raw: Objects, folder: str, start_after: str) -> Iterator[Sequence[ObjectInfo]]:
        """As `Objects.pages`; who asks while another lists waits for its answer."""
        if not self._seconds:
            yield from raw.pages(folder, start_after=start_after)
            return
        with self._lock:
            lock = self._locks.setdefault(folder, threading.Lock())
        with lock:
            kept = self._fresh(folder, start_after)
            at, listed, objects = self._clock(), [], 0
            pages = iter(()) if kept else raw.pages(folder, start_after=start_after)
            for page in pages:
                listed.append(page)
                objects += len(page)
                if objects > _KEPT_OBJECTS_MAX:
                    break
            else:
                kept = kept or self._keep(folder, _Listing(at, start_after, tuple(listed)))
        if kept is not None:
            for page in kept.pages:
                yield [item for item in page if item.key > start_after]
            return
        # A long one is handed on as it comes, and not while others wait.
        yield from listed
        yield from pages

    def _fresh(self, folder: str, start_after: str) -> _Listing | None:
        kept = self._kept.get(folder)
        if kept is None or kept.start_after > start_after or self._clock() - kept.at > self._seconds:
            return None
        return kept

    def _keep(self, folder: str, listing: _Listing) -> _Listing:
        self._kept[folder] = listing
        return listing
