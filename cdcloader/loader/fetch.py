"""Raw files ahead of their use: small ones are fetched side by side, within a bound of bytes."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from types import TracebackType
from typing import BinaryIO, Self

from cdcloader.source.rows import FileInput

_FETCHES = 16


class Ahead:
    """The same inputs, of which small ones open at once when they are opened in order, from the first, once or again.

    Hundreds of small objects, one after the other, would be mostly waiting. `read` gives the whole object of a
    place in the order. What fits `ahead_bytes` as a whole is fetched once; else what was opened is let go of.
    """

    def __init__(self, inputs: Sequence[FileInput], read: Callable[[int], bytes], ahead_bytes: int) -> None:
        self._read, self._ahead_bytes = read, ahead_bytes
        self._sizes = {place: item.size for place, item in enumerate(inputs) if 0 < item.size <= ahead_bytes}
        self._places = sorted(self._sizes)
        self._keep = sum(self._sizes.values()) <= ahead_bytes
        self._fetched: dict[int, Future[bytes]] = {}
        self._next = self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(min(_FETCHES, max(1, len(self._places))), thread_name_prefix="cdcloader-fetch")
        self.inputs = [
            replace(item, open=functools.partial(self._open, place)) if place in self._sizes else item
            for place, item in enumerate(inputs)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _open(self, place: int) -> BinaryIO:
        with self._lock:
            if place not in self._fetched:
                self._begin_at(place)
            self._fetch()
            content = self._fetched[place] if self._keep else self._fetched.pop(place)
            self._waiting_bytes -= 0 if self._keep else self._sizes[place]
        return BytesIO(content.result())

    def _begin_at(self, place: int) -> None:
        """Files are opened anew from this one on; all of them where all are kept."""
        for future in self._fetched.values():
            future.cancel()
        self._fetched.clear()
        self._waiting_bytes = 0
        self._next = 0 if self._keep else self._places.index(place)

    def _fetch(self) -> None:
        while self._next < len(self._places):
            place = self._places[self._next]
            if self._fetched and self._waiting_bytes + self._sizes[place] > self._ahead_bytes:
                return
            self._fetched[place] = self._pool.submit(self._read, place)
            self._waiting_bytes += self._sizes[place]
            self._next += 1
