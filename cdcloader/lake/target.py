"""A table to write to: where it is, what its files look like, and what this process knows of them already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import polars as pl
from pyroaring import BitMap64

from cdcloader.changes.schema import Schema
from cdcloader.lake import datafiles
from cdcloader.lake.key_cache import KeyCache
from cdcloader.lake.snapshot import DataFile
from cdcloader.lake.vectors import Vectors
from cdcloader.objects import Objects

# What a row of zstd Parquet takes of the same row in memory, before a first file has shown it.
STORED_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Target:
    """A table, its columns, key and partitions; `key` is () for an insert-only table.

    `mode` is the config's `write_mode`; `keys` and `vectors` keep what was read or written of data files;
    `beat` tells that work comes on.
    """

    objects: Objects
    path: str
    schema: Schema
    key: tuple[str, ...]
    partition_by: tuple[str, ...]
    file_bytes: int
    now_ms: int
    mode: str = "auto"
    keys: KeyCache = field(default_factory=KeyCache)
    vectors: Vectors = field(default_factory=Vectors)
    beat: Callable[[], None] = lambda: None

    @property
    def order(self) -> list[str]:
        """The columns by which rows stand in order: partitions, then the key."""
        return list(dict.fromkeys([*self.partition_by, *self.key]))

    @property
    def marks(self) -> bool:
        """Whether rows may die by deletion vectors."""
        return self.mode != "copy_on_write"

    def dead(self, file: DataFile) -> BitMap64:
        """The dead rows of a data file, to be copied before they are changed."""
        # Asked for each file that is looked into: with thousands of files there is no other sign of progress.
        self.beat()
        return self.vectors.dead(self.objects, self.path, file)

    def mark(self, marks: Sequence[tuple[DataFile, BitMap64]]) -> list[DataFile]:
        """The files with vectors of all their dead rows, to be added in place of those given."""
        return self.vectors.mark(self.objects, self.path, marks)

    def read(self, file: DataFile) -> pl.DataFrame:
        """The live rows of a data file, without their positions."""
        return datafiles.read(self.objects, self.path, file, self.schema, dead=self.dead(file)).drop(datafiles.POSITION)

    def write(self, frame: pl.DataFrame, bytes_per_row: float) -> list[DataFile]:
        """Write rows that stand in `order` as files of about `file_bytes`; their keys need not be read again."""
        files = []
        for values, rows in datafiles.pieces(
            frame, self.partition_by, target_bytes=self.file_bytes, bytes_per_row=bytes_per_row
        ):
            self.beat()
            file = datafiles.write(self.objects, self.path, rows, values, now_ms=self.now_ms)
            if self.key:
                self.keys.remember(self.objects.path_of(self.path), file, rows.select(self.key))
            files.append(file)
        return files
