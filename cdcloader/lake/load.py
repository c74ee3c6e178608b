"""A full load of any size: chunks in, data files in key order out, in bounded memory.

Each chunk is sorted and written at once. Where the files of one partition then overlap (DMS did not read the
source in key order) or are small, they are merged as sorted streams, so that a key stands in the table once
and the files keep to ranges of their own. Of rows with the same key, the one that was read last stays.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import polars as pl
import pyarrow.parquet as pq

from cdcloader.changes import net
from cdcloader.changes.schema import polars_schema
from cdcloader.lake import datafiles
from cdcloader.lake.apply import STORED_SHARE, Target
from cdcloader.lake.filewriter import FileWriter
from cdcloader.lake.snapshot import DataFile

Key = tuple[Any, ...]
Partition = tuple[str | None, ...]
# As many runs are merged at once as row groups make a piece, because each open run has one in memory.
_ROW_GROUPS_A_PIECE = 16
_RANK = "__rank"


@dataclass(frozen=True, slots=True)
class Run:
    """A sorted data file of the load with its key range; `rank` orders what was read, later wins."""

    file: DataFile
    low: Key
    high: Key
    rank: int


class FullLoad:
    """Collects a LOAD set for `target`; `piece_bytes` is what one of the few frames in memory may take.

    What comes in order is written behind what was written before, in a thread of its own, while the next chunk
    is read. `superseded` counts rows that a later one of the same key replaced.
    """

    def __init__(self, target: Target, piece_bytes: int) -> None:
        self.target = target
        self.superseded = 0
        self.rows = 0
        self._piece_bytes = piece_bytes
        self._row_group_bytes = min(datafiles.ROW_GROUP_BYTES, max(1, piece_bytes // _ROW_GROUPS_A_PIECE))
        # Compressed bytes stay in memory until their file is whole.
        self._file_bytes = min(target.file_bytes, piece_bytes)
        self._order = list(dict.fromkeys([*target.partition_by, *target.key]))
        self._runs: dict[Partition, list[Run]] = {}
        self._growing: _Growing | None = None
        self._waiting: list[pl.DataFrame] = []
        self._waiting_bytes: float = 0
        self._rank = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cdcloader-write")
        self._written: Future[None] | None = None

    def add(self, rows: pl.DataFrame) -> None:
        """Take a chunk of typed rows with the helper columns of `changes.net`."""
        self._waiting.append(rows)
        self._waiting_bytes += rows.estimated_size()
        if self._waiting_bytes >= self._piece_bytes or (len(self._waiting) == 1 and self._is_ordered(rows)):
            self._flush()

    def finish(self) -> None:
        """Merge what overlaps: after this the files hold the whole set, and nothing else of it is left behind."""
        self._flush()
        self._settle()
        self._close()
        for partition, runs in self._runs.items():
            groups = _groups(runs, min(self.target.file_bytes // 4, int(self._piece_bytes * STORED_SHARE) // 2))
            # Each group's old files are gone before the next is merged, so that a failure knows what to discard.
            for at, group in enumerate(groups):
                groups[at] = self._merged(group) if len(group) > 1 else group
                self._runs[partition] = [run for each in groups for run in each]
        self._writer.shutdown()

    @property
    def files(self) -> list[DataFile]:
        """The files written so far; after `finish`, those of the load."""
        return [run.file for runs in self._runs.values() for run in runs]

    def discard(self) -> None:
        """Delete the files written so far, when the load starts over."""
        self._writer.shutdown(cancel_futures=True)
        self._delete([run for runs in self._runs.values() for run in runs])
        self._runs.clear()

    def _is_ordered(self, rows: pl.DataFrame) -> bool:
        return not self._order or (_is_sorted(rows, self._order) and not net.sequence_columns(rows.columns))

    def _flush(self) -> None:
        """Hand what is waiting to the writing thread, once that has finished what it has."""
        if not self._waiting:
            return
        self._settle()
        frame = pl.concat(self._waiting)
        self._waiting = []
        self._waiting_bytes = 0
        self._written = self._writer.submit(self._put, frame)

    def _settle(self) -> None:
        if self._written is not None:
            self._written.result()
            self._written = None

    def _put(self, frame: pl.DataFrame) -> None:
        before = frame.height
        if self.target.key:
            frame = _ordered(frame, self._order, self.target.key)
        elif self.target.partition_by:
            frame = frame.sort(self._order, maintain_order=True)
        self.superseded += before - frame.height
        self.rows += frame.height
        frame = frame.select([column.name for column in self.target.schema])
        for values, part in datafiles.split_partitions(frame, self.target.partition_by):
            self._append(values, part)
        self._rank += 1

    def _append(self, values: Mapping[str, str | None], part: pl.DataFrame) -> None:
        """Write rows behind the growing file, if they follow it; else they begin a new one."""
        low, high = _range(part, self.target.key)
        growing = self._growing
        if growing and (growing.partition != tuple(values.values()) or (low and low <= growing.high)):
            self._close()
        if self._growing is None:
            writer = self._new_file(values)
            self._growing = _Growing(tuple(values.values()), writer, low, high, self._rank)
        self._growing.writer.append(part)
        self._growing.high, self._growing.rank = high, self._rank
        if self._growing.writer.size >= self._file_bytes:
            self._close()

    def _close(self) -> None:
        growing, self._growing = self._growing, None
        if growing is not None:
            file = growing.writer.close(now_ms=self.target.now_ms)
            self._runs.setdefault(growing.partition, []).append(Run(file, growing.low, growing.high, growing.rank))

    def _new_file(self, values: Mapping[str, str | None]) -> FileWriter:
        target = self.target
        return FileWriter(target.objects, target.path, values, row_group_bytes=self._row_group_bytes)

    def _merged(self, group: Sequence[Run]) -> list[Run]:
        """One merge, or several levels of them, so that what is open at once stays within the piece."""
        sequences = [[run] for run in sorted(group, key=lambda run: run.rank)]
        while len(sequences) > _ROW_GROUPS_A_PIECE:
            batches = [sequences[at : at + _ROW_GROUPS_A_PIECE] for at in range(0, len(sequences), _ROW_GROUPS_A_PIECE)]
            sequences = [self._merge_once([run for sequence in batch for run in sequence]) for batch in batches]
        return self._merge_once([run for sequence in sequences for run in sequence])

    def _merge_once(self, runs: Sequence[Run]) -> list[Run]:
        """Merge sorted files into sorted files that do not overlap, and delete the old ones."""
        rank, values = max(run.rank for run in runs), runs[0].file.partition_values
        merged: list[Run] = []
        growing: _Growing | None = None
        before = sum(run.file.statistics()["numRecords"] for run in runs)
        after = 0
        for frame in self._merge_stream(runs):
            low, high = _range(frame, self.target.key)
            if growing is None:
                growing = _Growing((), self._new_file(values), low, high, rank)
            growing.writer.append(frame)
            growing.high = high
            after += frame.height
            if growing.writer.size >= self._file_bytes:
                merged.append(Run(growing.writer.close(now_ms=self.target.now_ms), growing.low, growing.high, rank))
                growing = None
        if growing is not None:
            merged.append(Run(growing.writer.close(now_ms=self.target.now_ms), growing.low, growing.high, rank))
        self.superseded += before - after
        self.rows -= before - after
        self._delete(runs)
        return merged

    def _merge_stream(self, runs: Sequence[Run]) -> Iterator[pl.DataFrame]:
        """The rows of all runs in key order, each key once, in frames of bounded size."""
        key = list(self.target.key)
        if not key:
            for run in sorted(runs, key=lambda r: r.rank):
                yield from self._stream(run, len(runs))
            return
        closed = sorted(runs, key=lambda run: (run.low, run.rank))
        open_runs: list[_Open] = []
        while closed or open_runs:
            bound = min((run.last for run in open_runs), default=None)
            while closed and (bound is None or closed[0].low <= bound):
                run = closed.pop(0)
                open_runs.append(_Open(self._stream(run, len(runs)), key, run.rank))
                bound = min(run.last for run in open_runs)
            if bound is None:
                return
            taken = [run.take(bound, key) for run in open_runs]
            open_runs = [run for run in open_runs if run.frame is not None]
            frame = pl.concat(taken).sort([*key, _RANK]).unique(key, keep="last", maintain_order=True)
            yield frame.drop(_RANK)

    def _stream(self, run: Run, fan_in: int) -> Iterator[pl.DataFrame]:
        """A run's rows in frames, small enough that all open runs together stay within the piece."""
        names = [c.name for c in self.target.schema if c.name not in run.file.partition_values]
        types = {name: dtype for name, dtype in polars_schema(self.target.schema).items() if name in names}
        constant = self._key_literals(run.file)
        count = max(1, int(run.file.statistics()["numRecords"]))
        width = max(1.0, run.file.size / STORED_SHARE / count)
        batch = max(1024, int(self._piece_bytes / min(fan_in, _ROW_GROUPS_A_PIECE) / width))
        key, buffer = datafiles.key_of(self.target.path, run.file), max(1 << 16, self._row_group_bytes // 4)
        with self.target.objects.open_reader(key, buffer_bytes=buffer) as source:
            for part in pq.ParquetFile(source).iter_batches(batch_size=batch, columns=names, use_threads=False):
                frame = cast("pl.DataFrame", pl.from_arrow(part))
                yield frame.select(*(pl.col(name).cast(dtype) for name, dtype in types.items()), *constant)

    def _key_literals(self, file: DataFile) -> list[pl.Expr]:
        """The key columns that are partition columns too, and thus not in the file."""
        types = polars_schema(self.target.schema)
        values = file.partition_values
        names = [name for name in self.target.key if name in values]
        return [datafiles.partition_literal(values[name], types[name]).alias(name) for name in names]

    def _delete(self, runs: Sequence[Run]) -> None:
        self.target.objects.delete([datafiles.key_of(self.target.path, run.file) for run in runs])


@dataclass(slots=True)
class _Growing:
    """The file that is being written, and the range of keys in it."""

    partition: Partition
    writer: FileWriter
    low: Key
    high: Key
    rank: int


class _Open:
    """A run that is being read: its current frame, and the highest key that the frame reaches."""

    def __init__(self, frames: Iterator[pl.DataFrame], key: Sequence[str], rank: int) -> None:
        self._frames = frames
        self._rank = rank
        self.frame: pl.DataFrame | None = None
        self.last: Key = ()
        self._next(key)

    def _next(self, key: Sequence[str]) -> None:
        self.frame = next((frame for frame in self._frames if frame.height), None)
        if self.frame is not None:
            self.last = self.frame.select(key).row(-1)

    def take(self, bound: Key, key: Sequence[str]) -> pl.DataFrame:
        """The rows up to the bound; a frame that is used up is replaced by the next."""
        if self.frame is None:
            raise AssertionError("a run that is used up was asked for rows")
        taken = self.frame.filter(_up_to(bound, key, self.frame.schema))
        rest = self.frame.slice(taken.height)
        if rest.height:
            self.frame = rest
        else:
            self._next(key)
        return taken.with_columns(pl.lit(self._rank).alias(_RANK))


def _up_to(bound: Key, key: Sequence[str], schema: pl.Schema) -> pl.Expr:
    """Rows whose key is at most the bound, in the order of tuples."""
    pairs = [(pl.col(name), pl.lit(value, dtype=schema[name])) for name, value in zip(key, bound, strict=True)]
    column, limit = pairs[-1]
    expression = column <= limit
    for column, limit in reversed(pairs[:-1]):
        expression = (column < limit) | ((column == limit) & expression)
    return expression


def _range(frame: pl.DataFrame, key: Sequence[str]) -> tuple[Key, Key]:
    """The first and last key of a frame in key order; () without a key."""
    low, high = (frame.select(key).row(at) if key else () for at in (0, -1))
    return low, high


def _is_sorted(frame: pl.DataFrame, order: Sequence[str]) -> bool:
    columns = pl.struct(order) if len(order) > 1 else pl.col(order[0])
    return frame.select(columns).to_series().is_sorted()


def _ordered(frame: pl.DataFrame, order: list[str], key: Sequence[str]) -> pl.DataFrame:
    """The frame in (partition, key) order with each key once; sorted only where it is not already.

    A frame comes in the order in which it was read, so a stable sort puts the last of a key's rows last.
    """
    if net.sequence_columns(frame.columns):
        frame = frame.sort(net.order_columns(frame.columns), nulls_last=False, maintain_order=True)
    if set(order) != set(key):
        # Rows of one key may lie in two partitions, where no neighbour tells.
        frame = frame.unique(list(key), keep="last", maintain_order=True)
    if not _is_sorted(frame, order):
        frame = frame.sort(order, maintain_order=True)
    same = functools.reduce(lambda a, b: a & b, [pl.col(name) == pl.col(name).shift(-1) for name in key])
    repeated = frame.select(same.fill_null(value=False).alias("same")).to_series()
    return frame.filter(~repeated) if repeated.any() else frame


def _groups(runs: Sequence[Run], small_bytes: int) -> list[list[Run]]:
    """Runs of one partition that belong into one merge: they overlap, or are small neighbours."""
    groups: list[list[Run]] = []
    high: Key = ()
    size = 0
    for run in sorted(runs, key=lambda r: (r.low, r.rank)):
        overlaps = bool(groups) and bool(run.low) and run.low <= high
        small = bool(groups) and size + run.file.size <= small_bytes
        if overlaps or small:
            groups[-1].append(run)
            high, size = max(high, run.high), size + run.file.size
        else:
            groups.append([run])
            high, size = run.high, run.file.size
    return groups
