"""Rows put aside by a hash of their key, so that two sides of any size can be compared part by part.

They stay in memory while they fit; then all of them go to a temporary file of the machine, which has no name, so that
nothing of it is left when the process is killed.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import polars as pl

from cdcloader.errors import TransientError
from cdcloader.loader.comparison import key_hashes

_PART = "__part"


@dataclass(frozen=True, slots=True)
class _Block:
    start: int
    length: int
    bytes: int


class Aside:
    """Rows of one side, in `parts` by the hash of their key (of the whole row without one).

    At most about `held_bytes` are in memory, and as much again while they are written. TransientError when the disk is
    full.
    """

    def __init__(self, key: Sequence[str], parts: int, held_bytes: int) -> None:
        self._key, self._parts, self._held_bytes = key, parts, held_bytes
        self._held: list[pl.DataFrame] = []
        self._size = self._end = 0
        self._blocks: list[list[_Block]] = [[] for _ in range(parts)]
        self._file: IO[bytes] | None = None
        self.rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Take some rows."""
        if not frame.height:
            return
        self._held.append(frame)
        self._size += int(frame.estimated_size())
        self.rows += frame.height
        if self._size > self._held_bytes:
            self._write()

    def settle(self) -> None:
        """All rows were added: what waits in memory follows what is on disk, if anything is."""
        if self._file is not None and self._held:
            self._write()

    def size(self, part: int) -> int:
        """About the bytes of a part in memory."""
        return sum(block.bytes for block in self._blocks[part]) + self._size // self._parts

    def read(self, part: int, share: int = 0, shares: int = 1) -> Iterator[pl.DataFrame]:
        """The rows of a part, or of one of its shares (by their hash too), in any order."""
        for block in self._blocks[part]:
            yield self._of(self._stored(block), part, share, shares)
        for frame in self._held:
            yield self._of(frame, part, share, shares)

    def clear(self) -> None:
        """Forget all rows."""
        self.close()
        self._size = self._end = self.rows = 0
        self._blocks = [[] for _ in range(self._parts)]
        self._file = None

    def close(self) -> None:
        """Give memory and disk back."""
        self._held = []
        if self._file is not None:
            # On a full disk it tries to write once more what it could not write; its space is given back all the same.
            with suppress(OSError):
                self._file.close()

    def _of(self, frame: pl.DataFrame, part: int, share: int, shares: int) -> pl.DataFrame:
        if self._parts * shares == 1:
            return frame
        hashes = key_hashes(frame, self._key)
        wanted = (hashes % self._parts == part) & (hashes // self._parts % shares == share)
        return frame.filter(wanted)

    def _write(self) -> None:
        frame = pl.concat(self._held)
        self._held, self._size = [], 0
        part = key_hashes(frame, self._key) % self._parts
        groups = frame.with_columns(part.cast(pl.UInt32).alias(_PART)).partition_by(
            _PART, as_dict=True, include_key=False
        )
        try:
            # A file without a name; `close` closes it.
            self._file = self._file or tempfile.TemporaryFile(prefix="cdcloader-")  # noqa: SIM115
            for (number,), rows in groups.items():
                content = io.BytesIO()
                rows.write_ipc(content, compression="lz4")
                body = content.getbuffer()
                self._file.write(body)
                self._blocks[int(number)].append(_Block(self._end, len(body), int(rows.estimated_size())))
                self._end += len(body)
            self._file.flush()
        except OSError as error:
            raise _disk_error(error) from error

    def _stored(self, block: _Block) -> pl.DataFrame:
        if self._file is None:
            raise AssertionError("a block without a file")
        return pl.read_ipc(io.BytesIO(os.pread(self._file.fileno(), block.length, block.start)))


def _disk_error(error: OSError) -> TransientError:
    return TransientError(
        f"rows cannot be put aside on disk: {error.strerror or error}",
        where=tempfile.tempdir or "the temporary folder",
        hint="free space, or let TMPDIR name a larger disk's folder",
    )
