"""The key cache's folder: one Arrow file a data file, mapped into memory, with a checksum.

Several processes may share the folder. An entry is written beside its place and renamed into it, and never changed.
A damaged entry is deleted and read from the lake again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import os
import struct
import threading
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import structlog

from cdcloader.lake import key_index
from cdcloader.lake.key_index import KeyIndex

_FORMAT = f"keys-1-polars-{pl.__version__}"
_FORMATS = "keys-*"
_MAGIC = b"CDCKEYS1"
# Behind the Arrow file and a JSON text: the JSON's length, the checksum of both, the magic.
_TRAILER = struct.Struct("<II8s")
_SUFFIX, _PART_SUFFIX = ".arrow", ".part"
# Each map takes a file handle.
_MAPS = 192
# The entries of our own that are known to be whole.
_WRITTEN = 10_000
# After an eviction so much is free, that the folder need not be listed for every entry.
_KEPT_SHARE = 0.9
_RELIST_SHARE = 16
_BLOCK_BYTES = 4_096
_PAUSE_SECONDS = 60
_TOUCH_SECONDS = 60
_PART_LIVES_SECONDS = 3_600

Name = tuple[str, str]


@dataclass(slots=True)
class _Map:
    """An entry that is mapped: what it is, which file it is mapped from, and when its use was last noted."""

    index: KeyIndex
    identity: tuple[int, int, int]
    touched: float


class _Damaged(ValueError):
    """An entry is not what was written."""


class KeyFolder:
    """Indexes of whole files in `folder`, up to `max_bytes`, those used last. Thread-safe; raises nothing.

    While several processes write to the folder, it may hold a sixteenth more for each of the others.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._root = folder
        self._folder = folder / _FORMAT
        self._max_bytes = max_bytes
        self._maps: OrderedDict[str, _Map] = OrderedDict()
        self._written: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes: int | None = None
        self._unlisted_bytes = 0
        self._paused_until = 0.0
        self._warned: set[str] = set()

    def get(self, name: Name) -> KeyIndex | None:
        """The index of a file, mapped; None when the folder has none that can be used."""
        path = self._path(name)
        try:
            status = path.stat()
            identity = (status.st_ino, status.st_size, status.st_mtime_ns)
            with self._lock:
                known = self._maps.pop(path.name, None)
            if known is None or known.identity != identity:
                known = _Map(_load(path, checked=self._written.get(path.name) == identity), identity, 0.0)
            self._touch(path, known, status.st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError):
            with self._lock:
                self._maps.pop(path.name, None)
            return None
        except (OSError, ValueError) as error:
            self._warn("an entry of the key cache cannot be used; its keys are read again", path, error)
            self._delete(path)
            return None
        with self._lock:
            self._maps[path.name] = known
            while len(self._maps) > _MAPS:
                self._maps.popitem(last=False)
        return known.index

    def put(self, name: Name, index: KeyIndex) -> bool:
        """Write an entry; False when it is not there afterwards."""
        if index.bytes > self._max_bytes or time.monotonic() < self._paused_until:
            return False
        path = self._path(name)
        part = path.with_name(f"{uuid.uuid4()}{_PART_SUFFIX}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            size = _store(part, index)
            status = part.stat()
            part.replace(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            # A full disk is not tried again for every file.
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            self._warn("the key cache cannot be written to its folder; keys are kept in memory", path, error)
            self._delete(part)
            return False
        with self._lock:
            self._maps.pop(path.name, None)
            # What this process has written needs no second look at every byte.
            self._written[path.name] = (status.st_ino, status.st_size, status.st_mtime_ns)
            while len(self._written) > _WRITTEN:
                self._written.popitem(last=False)
        self._grow(size)
        return True

    def _path(self, name: Name) -> Path:
        return self._folder / _file_name(name)

    def _touch(self, path: Path, entry: _Map, mtime_ns: int) -> None:
        """Note the use where other processes and later ones see it: in the file's access time."""
        now = time.time()
        if now - entry.touched > _TOUCH_SECONDS:
            os.utime(path, ns=(int(now * 1e9), mtime_ns))
            entry.touched = now

    def _grow(self, size: int) -> None:
        with self._lock:
            self._unlisted_bytes += size
            listed = self._bytes is not None and self._unlisted_bytes <= self._max_bytes // _RELIST_SHARE
            if listed and (self._bytes or 0) + self._unlisted_bytes <= self._max_bytes:
                return
            # Another process may write here too, so what counts is what the folder holds.
            self._bytes, self._unlisted_bytes = self._evict(), 0

    def _evict(self) -> int:
        """Delete what was used longest ago until the folder is within its bounds; the bytes that are left."""
        entries = sorted(_entries(self._root))
        total = sum(size for _, size, _ in entries)
        bound = self._max_bytes
        for _, size, path in entries:
            if total <= bound:
                break
            bound = int(self._max_bytes * _KEPT_SHARE)
            self._delete(path)
            self._maps.pop(path.name, None)
            total -= size
        return total

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            self._warn("an entry of the key cache cannot be deleted", path, error)

    def _warn(self, event: str, path: Path, error: Exception) -> None:
        if event not in self._warned:
            self._warned.add(event)
            structlog.get_logger().warning(event, path=path, error=str(error))


# Every batch asks for the same files.
@functools.lru_cache(maxsize=10_000)
def _file_name(name: Name) -> str:
    table, file = (hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() for text in name)
    return f"{table[:24]}-{file[:40]}{_SUFFIX}"


def _entries(root: Path) -> Iterator[tuple[float, int, Path]]:
    """(last use, bytes on the disk, path) of each entry; those of other formats and what was left half-written too."""
    now = time.time()
    for path in root.glob(f"{_FORMATS}/*"):
        try:
            status = path.stat()
        except OSError:
            continue
        size = max(status.st_size, _BLOCK_BYTES)
        if path.suffix == _SUFFIX:
            yield max(status.st_atime, status.st_mtime), size, path
        elif path.suffix == _PART_SUFFIX and now - status.st_mtime > _PART_LIVES_SECONDS:
            yield 0.0, size, path


def _store(path: Path, index: KeyIndex) -> int:
    """Write an index; returns the file's bytes."""
    index.frame.write_ipc(path, compression="uncompressed", record_batch_size=max(1, index.frame.height))
    about = json.dumps({"names": index.names, "rows": index.rows, "lowest": index.lowest}).encode()
    with path.open("r+b") as target:
        with mmap.mmap(target.fileno(), 0, access=mmap.ACCESS_READ) as content:
            checksum = zlib.crc32(about, zlib.crc32(content))
        target.seek(0, os.SEEK_END)
        target.write(about + _TRAILER.pack(len(about), checksum, _MAGIC))
        return target.tell()


def _load(path: Path, *, checked: bool) -> KeyIndex:
    """Map an entry; _Damaged when it is not what was written, as far as that is not `checked` already."""
    with path.open("rb") as source:
        if os.fstat(source.fileno()).st_size <= _TRAILER.size:
            raise _Damaged("it is cut")
        content = memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
    length, checksum, magic = _TRAILER.unpack(content[-_TRAILER.size :])
    if magic != _MAGIC or (not checked and zlib.crc32(content[: -_TRAILER.size]) != checksum):
        raise _Damaged("its checksum is wrong")
    end = len(content) - _TRAILER.size - length
    about = json.loads(bytes(content[end : end + length]))
    table = pa.ipc.open_file(pa.py_buffer(content[:end])).read_all()
    frame = pl.DataFrame(pl.from_arrow(table, rechunk=False))
    return key_index.restore(about["names"], frame, about["rows"], about["lowest"])
