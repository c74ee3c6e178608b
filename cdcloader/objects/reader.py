"""One version of an S3 object as a stream."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING

import obstore

from cdcloader.objects.failures import READ, errors_at

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import GetOptions
    from obstore.store import LocalStore, S3Store


class ObjectReader(io.RawIOBase):
    """One version of an S3 object as a raw stream: one ranged GET per read."""

    def __init__(self, store: S3Store | LocalStore, key: str, where: str, *, size: int, etag: str | None) -> None:
        super().__init__()
        self._store, self._key, self._where = store, key, where
        self._size, self._etag, self._at = size, etag, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "a seek before the start of the object")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        got = self._next(len(view))
        view[: len(got)] = got
        return len(got)

    def readall(self) -> bytes:
        # The inherited one would ask for a few kilobytes at a time.
        return bytes(self._next(self._size))

    def _next(self, length: int) -> memoryview:
        end = min(self._at + length, self._size)
        if end <= self._at:
            return memoryview(b"")
        options: GetOptions = {"range": (self._at, end), "if_match": self._etag}
        with errors_at(self._where, READ):
            got = obstore.get(self._store, self._key, options=options).bytes()
        self._at += len(got)
        return memoryview(got)
