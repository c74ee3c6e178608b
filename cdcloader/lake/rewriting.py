"""Writes the live rows of some data files again, in key order and in bounded memory, as files of the right size.

Nothing here commits: nobody sees the new files before the commit that names them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import polars as pl
from pyroaring import BitMap64

from cdcloader.errors import CdcloaderError
from cdcloader.lake import datafiles
from cdcloader.lake.compaction import WHOLE_FILES_MAX, Job, Kind
from cdcloader.lake.filewriter import FileWriter
from cdcloader.lake.live import Key
from cdcloader.lake.snapshot import Action, DataFile
from cdcloader.lake.sorted_rows import OutOfOrder, Rows, Unordered, merged
from cdcloader.lake.target import STORED_SHARE, Target
from cdcloader.lake.upkeep import describe

# Open files share a piece of memory; frames are gathered until they make good row groups.
_GATHERED_SHARE, _GATHERED_BYTES = 8, 4 * datafiles.ROW_GROUP_BYTES


class Unfit(Exception):
    """A file that upkeep cannot write again in key order within the memory that it has."""

    def __init__(self, file: DataFile, reason: str) -> None:
        super().__init__(f"{file.path}: {reason}")
        self.file, self.reason = file, reason


@dataclass(frozen=True, slots=True)
class Written:
    """What a commit of upkeep will change: the same rows in other files; `new` are the files written for it."""

    adds: tuple[DataFile, ...]
    removes: tuple[DataFile, ...]
    new: tuple[DataFile, ...]

    @property
    def bytes(self) -> int:
        """The bytes of the new files."""
        return sum(file.size for file in self.new)

    def actions(self, now_ms: int) -> list[Action]:
        """The actions of the commit, which say that no row changes."""
        return [
            *(file.remove(now_ms, data_change=False) for file in self.removes),
            *(file.add(data_change=False) for file in self.adds),
        ]


def carry_out(
    target: Target, job: Job, files: Mapping[str, DataFile], *, piece_bytes: int, going_on: Callable[[], None]
) -> Written:
    """Write the files of a job; `files` are the live ones by path, `piece_bytes` bounds the rows in memory.

    Files aim at `target.file_bytes`. `going_on` is called often and may raise; then, as after any other error, nothing
    that was written is left behind. Unfit when a file has no key order and is too large to be sorted here.
    """
    sorted_here: set[str] = set()
    while True:
        writing = _Writing(target, piece_bytes, going_on, frozenset(sorted_here))
        try:
            return writing.settle(job, files) if job.kind is Kind.SETTLE else writing.rewrite(job, files)
        except OutOfOrder as error:
            discard(target, writing.files)
            if error.file.size / STORED_SHARE > piece_bytes:
                raise Unfit(error.file, "its rows are not in key order, and it is too large to sort") from error
            sorted_here.add(error.file.path)
        except Unordered as error:
            discard(target, writing.files)
            raise Unfit(error.file, "its key holds NULL or NaN") from error
        except BaseException:
            discard(target, writing.files)
            raise


def discard(target: Target, files: Iterable[DataFile]) -> None:
    """Delete files that no commit names; where that fails they are orphans, which a sweep removes."""
    with suppress(CdcloaderError):
        target.objects.delete([datafiles.key_of(target.path, file) for file in files])


class _Writing:
    """The work of one job, and the files that it has written so far."""

    def __init__(
        self, target: Target, piece_bytes: int, going_on: Callable[[], None], sorted_here: frozenset[str]
    ) -> None:
        self.files: list[DataFile] = []
        self._target = target
        self._piece_bytes = piece_bytes
        self._going_on = going_on
        self._sorted_here = sorted_here

    def rewrite(self, job: Job, files: Mapping[str, DataFile]) -> Written:
        """Each group of files as one run of files."""
        removes = [files[path] for group in job.groups for path in group]
        for group in job.groups:
            batch_bytes = self._piece_bytes // self._open_at_once([files[path] for path in group])
            self._write([self._rows(files[path], batch_bytes) for path in group])
        return Written((*self.files,), (*removes,), (*self.files,))

    def settle(self, job: Job, files: Mapping[str, DataFile]) -> Written:
        """A file of the base with the overlays' rows of its range, which die in the overlays."""
        base = [files[path] for group in job.groups for path in group]
        batch_bytes = self._piece_bytes // (len(base) + len(job.overlays))
        over = [self._rows(files[path], batch_bytes, job.low, job.high) for path in job.overlays]
        self._write([*(self._rows(file, batch_bytes) for file in base), *over], job.bytes)
        removes, marks = [*base], list[tuple[DataFile, BitMap64]]()
        for _, rows in over:
            if not rows.positions:
                continue
            removes.append(rows.file)
            dead = self._target.dead(rows.file) | rows.positions
            if len(dead) < datafiles.stored_rows(self._target.objects, self._target.path, rows.file):
                marks.append((rows.file, dead))
        marked = self._target.mark(marks) if marks else []
        return Written((*self.files, *marked), (*removes,), (*self.files,))

    def _open_at_once(self, files: Sequence[DataFile]) -> int:
        """How many of the files are read at once: neighbours come one after the other, overlapping files together."""
        lives = [describe(self._target, file) for file in files]
        ranges = [(live.low, live.high) for live in lives if live.low is not None and live.high is not None]
        highs: list[Key] = []
        most = 0
        for low, high in sorted(ranges):
            while highs and highs[0] < low:
                heapq.heappop(highs)
            heapq.heappush(highs, high)
            most = max(most, len(highs))
        return max(1, most + len(lives) - len(ranges))

    def _rows(
        self, file: DataFile, batch_bytes: int, low: Key | None = None, high: Key | None = None
    ) -> tuple[Key | None, Rows]:
        lowest = describe(self._target, file).low
        begins = max(lowest, low) if lowest is not None and low is not None else lowest
        sorted_here = file.path in self._sorted_here
        rows = Rows(self._target, file, batch_bytes=batch_bytes, low=low, high=high, sorted_here=sorted_here)
        return begins, rows

    def _write(self, sources: Sequence[tuple[Key | None, Rows]], stored_bytes: float | None = None) -> None:
        target = self._target
        lives = [self._live(rows.file) for _, rows in sources]
        own = sum(size for size, _ in lives)
        size = own if stored_bytes is None else stored_bytes
        # Of the overlays' rows it is known only about how many come.
        expected = math.ceil(sum(count for _, count in lives) * size / max(1.0, own))
        run = _Run(target, sources[0][1].file.partition_values, expected, size, self._piece_bytes, self.files)
        for frame in merged(sources, target.key, self._going_on):
            run.append(frame)
        run.close()
        given = sum(len(rows.positions) for _, rows in sources)
        if run.rows != given:
            raise AssertionError(f"{given} rows were read, {run.rows} written")
        self._check_counts(rows for _, rows in sources if rows.is_whole)

    def _live(self, file: DataFile) -> tuple[float, int]:
        """The bytes and the number of a file's live rows."""
        stored = datafiles.stored_rows(self._target.objects, self._target.path, file)
        alive = stored - (file.vector.cardinality if file.vector else 0)
        return file.size * alive / max(1, stored), alive

    def _check_counts(self, sources: Iterable[Rows]) -> None:
        """What the log counts must have been read: a file that holds another number of rows is left alone."""
        for rows in sources:
            alive = self._live(rows.file)[1]
            if len(rows.positions) != alive:
                raise Unfit(rows.file, f"it has {len(rows.positions)} live rows, the log says {alive}")


class _Run:
    """Files in key order, of about even size, that grow one after the other."""

    def __init__(
        self,
        target: Target,
        values: Mapping[str, str | None],
        rows: int,
        stored_bytes: float,
        piece_bytes: int,
        files: list[DataFile],
    ) -> None:
        large = stored_bytes > WHOLE_FILES_MAX * target.file_bytes
        self._left = max(1, round(stored_bytes / target.file_bytes)) if large else 1
        self._rows_each = max(1, math.ceil(rows / self._left))
        self._target, self._values, self._files = target, values, files
        self._piece_bytes = piece_bytes
        self._gathered_bytes = min(_GATHERED_BYTES, piece_bytes // _GATHERED_SHARE)
        self._begin()
        self.rows = 0

    def append(self, frame: pl.DataFrame) -> None:
        """Take rows that follow those before; full files are closed."""
        self.rows += frame.height
        while frame.height:
            room = self._rows_each - self._in_file if self._left > 1 else frame.height
            part, frame = frame.slice(0, room), frame.slice(room)
            self._waiting.append(part)
            self._waiting_bytes += part.estimated_size()
            self._in_file += part.height
            if self._waiting_bytes >= self._gathered_bytes:
                self._flush()
            if self._left > 1 and self._in_file >= self._rows_each:
                self.close()

    def close(self) -> None:
        """End the file that grows, if there is one."""
        if not self._in_file:
            return
        self._flush()
        file = self._writer.close(now_ms=self._target.now_ms)
        self._files.append(file)
        if self._keys and self._keys_bytes <= self._piece_bytes // 2:
            target = self._target
            target.keys.remember(target.objects.path_of(target.path), file, pl.concat(self._keys))
        self._left -= 1
        self._begin()

    def _begin(self) -> None:
        self._writer = FileWriter(self._target.objects, self._target.path, self._values)
        self._waiting: list[pl.DataFrame] = []
        self._waiting_bytes: float = 0
        self._keys: list[pl.DataFrame] = []
        self._keys_bytes: float = 0
        self._in_file = 0

    def _flush(self) -> None:
        if not self._waiting:
            return
        frame = pl.concat(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self._writer.append(frame)
        if self._target.key and self._keys_bytes <= self._piece_bytes // 2:
            keys = frame.select(self._target.key)
            self._keys.append(keys)
            self._keys_bytes += keys.estimated_size()
