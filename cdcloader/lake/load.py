"""A full load of any size: chunks in, data files in key order out, in bounded memory.

Each chunk is sorted and written at once. Where the files of one partition then overlap (DMS did not read the
source in key order) or are small, they are merged as sorted streams, so that a key stands in the table once
and the files keep to ranges of their own. Of rows with the same key, the one that was read last stays.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import polars as pl
import pyarrow.parquet as pq

from cdcloader.changes import net
from cdcloader.changes.schema import polars_schema
from cdcloader.lake import datafiles
from cdcloader.lake.apply import STORED_SHARE, Target
from cdcloader.lake.snapshot import DataFile

Key = tuple[Any, ...]
_FAN_IN = 128
_RANK = "__rank"


@dataclass(frozen=True, slots=True)
class Run:
    """A sorted data file of the load with its key range; `rank` orders what was read, later wins."""

    file: DataFile
    low: Key
    high: Key
    rank: int


@dataclass(slots=True)
class FullLoad:
    """Collects a LOAD set for `target`. `piece_bytes` bounds what is held in memory (uncompressed)."""

    target: Target
    piece_bytes: int
    superseded: int = 0
    rows: int = 0
    _runs: dict[tuple[str | None, ...], list[Run]] = field(default_factory=dict)
    _waiting: list[pl.DataFrame] = field(default_factory=list)
    _waiting_bytes: float = 0
    _rank: int = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Take a chunk of typed rows with the helper columns of `changes.net`."""
        self._waiting.append(rows)
        self._waiting_bytes += rows.estimated_size()
        if self._waiting_bytes >= self.piece_bytes:
            self._flush()

    def finish(self) -> None:
        """Merge what overlaps: after this the files hold the whole set, and nothing else of it is left behind."""
        self._flush()
        for partition, runs in self._runs.items():
            groups = _groups(runs, self.target.file_bytes)
            # Each group's old files are gone before the next is merged, so that a failure knows what to discard.
            for at, group in enumerate(groups):
                groups[at] = self._merged(group) if len(group) > 1 else group
                self._runs[partition] = [run for each in groups for run in each]

    @property
    def files(self) -> list[DataFile]:
        """The files written so far; after `finish`, those of the load."""
        return [run.file for runs in self._runs.values() for run in runs]

    def discard(self) -> None:
        """Delete the files written so far, when the load starts over."""
        self._delete([run for runs in self._runs.values() for run in runs])
        self._runs.clear()
        self._waiting.clear()
        self._waiting_bytes = 0

    def _flush(self) -> None:
        if not self._waiting:
            return
        frame = pl.concat(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        # A column may be in both.
        order = list(dict.fromkeys([*self.target.partition_by, *self.target.key]))
        before = frame.height
        if self.target.key:
            frame = _ordered(frame, order, self.target.key)
        elif self.target.partition_by:
            frame = frame.sort(order, maintain_order=True)
        self.superseded += before - frame.height
        self.rows += frame.height
        self._write(frame.select([column.name for column in self.target.schema]))

    def _write(self, frame: pl.DataFrame) -> None:
        target = self.target
        for values, part in datafiles.split_partitions(frame, target.partition_by):
            file = datafiles.write(target.objects, target.path, part, values, now_ms=target.now_ms)
            low, high = (part.select(target.key).row(at) if target.key else () for at in (0, -1))
            self._runs.setdefault(tuple(values.values()), []).append(Run(file, low, high, self._rank))
        self._rank += 1

    def _merged(self, group: Sequence[Run]) -> list[Run]:
        """One merge, or several levels of them, so that the number of files open at once stays bounded."""
        sequences = [[run] for run in sorted(group, key=lambda run: run.rank)]
        while len(sequences) > _FAN_IN:
            batches = [sequences[at : at + _FAN_IN] for at in range(0, len(sequences), _FAN_IN)]
            sequences = [self._merge_once([run for sequence in batch for run in sequence]) for batch in batches]
        return self._merge_once([run for sequence in sequences for run in sequence])

    def _merge_once(self, runs: Sequence[Run]) -> list[Run]:
        """Merge sorted files into sorted files that do not overlap, and delete the old ones."""
        target, rank = self.target, max(run.rank for run in runs)
        values = runs[0].file.partition_values
        merged: list[Run] = []
        pending: list[pl.DataFrame] = []
        size = 0.0

        def put() -> None:
            frame = pl.concat(pending)
            file = datafiles.write(target.objects, target.path, frame, values, now_ms=target.now_ms)
            low, high = (frame.select(target.key).row(at) if target.key else () for at in (0, -1))
            merged.append(Run(file, low, high, rank))

        before = sum(run.file.statistics()["numRecords"] for run in runs)
        after = 0
        for frame in self._merge_stream(runs):
            pending.append(frame)
            size += frame.estimated_size()
            after += frame.height
            if size * STORED_SHARE >= target.file_bytes or size >= self.piece_bytes:
                put()
                pending, size = [], 0.0
        if pending:
            put()
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
        batch = max(1024, int(self.piece_bytes / min(fan_in, _FAN_IN) / width))
        with self.target.objects.open_reader(datafiles.key_of(self.target.path, run.file)) as source:
            for part in pq.ParquetFile(source).iter_batches(batch_size=batch, columns=names):
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


def _ordered(frame: pl.DataFrame, order: list[str], key: Sequence[str]) -> pl.DataFrame:
    """The frame in (partition, key) order with each key once; sorted only where it is not already."""
    columns = pl.struct(order) if len(order) > 1 else pl.col(order[0])
    if frame.select(columns).to_series().is_sorted() and not net.sequence_columns(frame.columns):
        same = functools.reduce(lambda a, b: a & b, [pl.col(name) == pl.col(name).shift(-1) for name in key])
        repeated = frame.select(same.fill_null(value=False).alias("same")).to_series()
        return frame.filter(~repeated) if repeated.any() else frame
    if net.sequence_columns(frame.columns):
        frame = frame.sort(net.order_columns(frame.columns), nulls_last=False, maintain_order=True)
    return frame.unique(list(key), keep="last", maintain_order=False).sort(order)


def _groups(runs: Sequence[Run], file_bytes: int) -> list[list[Run]]:
    """Runs of one partition that belong into one merge: they overlap, or are small neighbours."""
    groups: list[list[Run]] = []
    high: Key = ()
    size = 0
    for run in sorted(runs, key=lambda r: (r.low, r.rank)):
        overlaps = bool(groups) and bool(run.low) and run.low <= high
        small = bool(groups) and size + run.file.size <= file_bytes // 4
        if overlaps or small:
            groups[-1].append(run)
            high, size = max(high, run.high), size + run.file.size
        else:
            groups.append([run])
            high, size = run.high, run.file.size
    return groups
