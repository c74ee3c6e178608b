"""Rows that could not be applied: `<lake>/_quarantine/<target>/`, Parquet with file, row number, reason, raw text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from io import BytesIO

import polars as pl

from cdcloader.objects import Objects

FOLDER = "_quarantine"
# A part is written when this many rows have come together, so that a broken file cannot fill the memory.
_PART_ROWS = 100_000


class Quarantine:
    """Collects the rejected rows of one batch or load, per raw file.

    A file's rows go to a name made of the file's name and ETag, so that reading the file again writes the same
    objects again instead of more of them. `etags` maps the raw files' full keys to their ETags.
    """

    def __init__(self, objects: Objects, target: str, etags: Mapping[str, str]) -> None:
        self._objects = objects
        self._target = target
        self._etags = etags
        self._waiting: dict[str, list[pl.DataFrame]] = {}
        self._parts: dict[str, int] = {}
        self.rows = 0

    @property
    def folder(self) -> str:
        """Where the rows are, for people."""
        return self._objects.path_of(f"{FOLDER}/{self._target}")

    def add(self, file: str, rejects: pl.DataFrame) -> None:
        """Take the rejected rows (file, row, reason, raw) of a raw file, in the file's order."""
        if not rejects.height:
            return
        self._waiting.setdefault(file, []).append(rejects)
        self.rows += rejects.height
        if self._height(file) >= _PART_ROWS:
            self._write(file)
        elif sum(map(self._height, self._waiting)) >= _PART_ROWS:
            # Files come one after the other: those before this one are whole, so that their parts stay the same.
            for whole in [name for name in self._waiting if name != file]:
                self._write(whole)

    def flush(self) -> None:
        """Write what is waiting; after this every rejected row can be read."""
        for file in list(self._waiting):
            self._write(file)

    def _height(self, file: str) -> int:
        return sum(frame.height for frame in self._waiting[file])

    def _write(self, file: str) -> None:
        frames = self._waiting.pop(file)
        part = self._parts.get(file, 0)
        self._parts[file] = part + 1
        digest = hashlib.sha256(f"{file}\n{self._etags.get(file, '')}".encode()).hexdigest()[:12]
        buffer = BytesIO()
        pl.concat(frames).write_parquet(buffer, compression="zstd")
        name = file.rpartition("/")[2]
        self._objects.write(f"{FOLDER}/{self._target}/{name}-{digest}-{part:04d}.parquet", buffer.getbuffer())
