"""What this process knows of data files' key columns: in memory, then in a folder of the local disk.

Data files never change, so that an entry is right for ever; a file's dead rows are no part of it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from io import BytesIO
from pathlib import Path

import polars as pl

from cdcloader.lake import key_index
from cdcloader.lake.key_folder import KeyFolder
from cdcloader.lake.key_index import KeyIndex
from cdcloader.lake.snapshot import DataFile

# What an entry takes beside its columns.
_ENTRY_BYTES = 2_048
# A larger entry that the disk has is mapped from there: memory of its own would hold the same bytes twice.
_MAPPED_BYTES = 1 << 20

Name = tuple[str, str]


class Found(StrEnum):
    """Where a lookup's key columns came from."""

    MEMORY = "memory"
    DISK = "disk"
    READ = "read"


def _nobody(_found: Found) -> None:
    """Nobody counts."""


class KeyCache:
    """The key columns of the data files of all tables. Thread-safe.

    It keeps `memory_bytes` in memory and `disk_bytes` in `folder` (None: nowhere), those used last. Trouble with the
    folder costs time, never a batch. `on_lookup` is told where each lookup's keys came from.
    """

    def __init__(
        self,
        memory_bytes: int = 64 << 20,
        folder: Path | None = None,
        disk_bytes: int = 0,
        *,
        on_lookup: Callable[[Found], None] = _nobody,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._folder = KeyFolder(folder, disk_bytes) if folder is not None and disk_bytes > 0 else None
        self._on_lookup = on_lookup
        self._kept: OrderedDict[Name, tuple[KeyIndex, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What the entries in memory take."""
        return self._bytes

    @property
    def memory_bytes(self) -> int:
        """What they may take."""
        return self._memory_bytes

    def remember(self, table: str, file: DataFile, keys: pl.DataFrame) -> None:
        """Keep the key columns of a file that was just written, so that it is never read back.

        `table` is the table's full path; `keys` has the file's rows in their order, in the table's types.
        """
        names = [name for name in keys.columns if name not in file.partition_values]
        if not names or not keys.height:
            return
        index = key_index.build(keys.select(names), keys.height)
        if not self._is_mapped(table, file, index):
            self._keep((table, file.path), key_index.restore(names, _copied(index.frame), index.rows, index.lowest))

    def put(self, table: str, file: DataFile, index: KeyIndex) -> None:
        """Keep an index that was made from what was read."""
        if index.covered is not None or not self._is_mapped(table, file, index):
            self._keep((table, file.path), index)
        else:
            self._forget((table, file.path))

    def get(self, table: str, file: DataFile) -> tuple[KeyIndex, Found] | None:
        """The index of a file's keys, as far as it is known, and where it was."""
        name = (table, file.path)
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name][0], Found.MEMORY
        index = self._folder.get(name) if self._folder else None
        if index is None:
            return None
        if index.bytes <= _MAPPED_BYTES:
            self._keep(name, key_index.restore(index.names, _copied(index.frame), index.rows, index.lowest))
        return index, Found.DISK

    def count(self, found: Found) -> None:
        """A lookup was answered from there."""
        self._on_lookup(found)

    def _is_mapped(self, table: str, file: DataFile, index: KeyIndex) -> bool:
        """Whether the disk has the index now, and it is large enough to be used from there."""
        name = (table, file.path)
        if self._folder is None or not self._folder.put(name, index) or index.bytes <= _MAPPED_BYTES:
            return False
        # Mapped at once, because the next batch will not wait for it then.
        self._folder.get(name)
        return True

    def _keep(self, name: Name, index: KeyIndex) -> None:
        size = index.bytes + _ENTRY_BYTES
        self._forget(name)
        if size > self._memory_bytes:
            return
        with self._lock:
            self._kept[name] = (index, size)
            self._bytes += size
            while self._bytes > self._memory_bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self._bytes -= freed

    def _forget(self, name: Name) -> None:
        with self._lock:
            _, freed = self._kept.pop(name, (None, 0))
            self._bytes -= freed


def _copied(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows in memory of their own: a part of a frame would keep all of it, and a mapped one its file."""
    content = BytesIO()
    frame.write_ipc(content, compression="uncompressed", record_batch_size=max(1, frame.height))
    content.seek(0)
    return pl.read_ipc(content)
