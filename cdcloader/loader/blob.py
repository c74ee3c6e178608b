"""Bytes that are kept for a while: in memory, or in temporary files of this machine, which have no names."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref

from cdcloader.errors import TransientError

# Blobs that are put aside share files of about this size, so that few files are open.
_FILE_BYTES = 64 << 20


class Scratch:
    """The temporary files; a file's space is given back when the last of its blobs is let go of. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._files: weakref.WeakSet[_File] = weakref.WeakSet()
        self._current: _File | None = None
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether the files take more than they should."""
        with self._lock:
            return sum(file.size for file in self._files) > self._max_bytes

    def file(self) -> _File:
        """A file for one blob alone."""
        file = _File()
        with self._lock:
            self._files.add(file)
        return file

    def shared(self) -> _File:
        """A file for further blobs; OSError when there can be none."""
        with self._lock:
            if self._current is None or self._current.size >= _FILE_BYTES:
                self._current = _File()
                self._files.add(self._current)
            return self._current

    def leave(self, file: _File) -> None:
        """Put no further blobs into the file, so that its space can be given back."""
        with self._lock:
            if self._current is file:
                self._current = None


class Blob:
    """Bytes that are appended to, and read at places. Up to `memory_bytes` they stay in memory.

    Any thread may read, also while another puts the blob aside.
    """

    def __init__(self, scratch: Scratch, memory_bytes: int) -> None:
        self._scratch = scratch
        self._memory_max = memory_bytes
        self._memory: bytearray | None = bytearray()
        self._file: _File | None = None
        self._start = self._size = 0

    @property
    def memory_bytes(self) -> int:
        """What it takes of memory."""
        memory = self._memory
        return len(memory) if memory is not None else 0

    def append(self, data: memoryview) -> int:
        """The place where `data` now stands; TransientError when it has no room on disk either."""
        place = self._size
        if self._memory is not None and place + len(data) <= self._memory_max:
            self._memory += data
        else:
            try:
                if self._file is None:
                    self._file = self._scratch.file()
                if self._memory is not None:
                    self._file.append(memoryview(self._memory))
                    self._memory = None
                self._file.append(data)
            except OSError as error:
                raise TransientError(
                    f"the rows of a shared file cannot be kept on disk: {error.strerror or error}",
                    where=tempfile.gettempdir(),
                    hint="free space, or let TMPDIR name a larger disk's folder",
                ) from error
        self._size += len(data)
        return place

    def read(self, place: int, length: int) -> bytes:
        """`length` bytes from `place`."""
        memory = self._memory
        if memory is not None:
            return bytes(memoryview(memory)[place : place + length])
        return self._file.read(self._start + place, length) if self._file else b""

    def put_aside(self) -> bool:
        """From memory to disk; False when there is no room on it."""
        if self._memory is None:
            return True
        try:
            file = self._scratch.shared()
            self._start = file.append(memoryview(self._memory))
        except OSError:
            return False
        # In this order: who reads meanwhile finds one or the other.
        self._file, self._memory = file, None
        return True

    def let_go(self) -> None:
        """Nobody will ask for it again but those who hold it."""
        if self._file is not None:
            self._scratch.leave(self._file)


class _File:
    """A temporary file without a name, so that nothing of it is left when the process is killed."""

    def __init__(self) -> None:
        file = tempfile.TemporaryFile(prefix="cdcloader-", buffering=0)  # noqa: SIM115 - closed with the object
        self._number = file.fileno()
        self._lock = threading.Lock()
        self.size = 0
        weakref.finalize(self, file.close)

    def append(self, data: memoryview) -> int:
        """The place where `data` now stands."""
        with self._lock:
            place = at = self.size
            self.size += len(data)
            while len(data):
                done = os.pwrite(self._number, data, at)
                data, at = data[done:], at + done
            return place

    def read(self, place: int, length: int) -> bytes:
        """`length` bytes from `place`."""
        parts = []
        while length and (got := os.pread(self._number, length, place)):
            parts.append(got)
            place, length = place + len(got), length - len(got)
        return b"".join(parts)
