"""A full load of any size: chunks in, data files in key order out, in bounded memory.

What follows in key order grows a data file. What does not is sorted and put aside (`spill.py`), and merged at the
end with the files that it overlaps, so that a key stands in the table once and the files keep to ranges of
their own. Of rows with the same key, the one that was read last stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import polars as pl
import pyarrow.parquet as pq

from cdcloader.changes import net
from cdcloader.changes.schema import polars_schema
from cdcloader.lake import datafiles
from cdcloader.lake.filewriter import FileWriter
from cdcloader.lake.snapshot import DataFile
from cdcloader.lake.spill import Place, Spill, place, repeated
from cdcloader.lake.target import STORED_SHARE, Target

Partition = tuple[str | None, ...]
_READ_BUFFER_BYTES = 1 << 20
_READ_BATCHES_A_PIECE = 4
# Of a piece, what is sorted at once: a sort makes copies that writing in order does not.
_SORTED_SHARE = 1 / 2
# From this part of a piece on, rows that came in order begin a file of their own.
_BEGINNINGS_A_PIECE = 4


@dataclass(frozen=True, slots=True)
class Run:
    """A sorted data file of the load with its range; `rank` orders what was read, later wins."""

    file: DataFile
    partition: Partition
    low: Place
    high: Place
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
        self._sorted_bytes = int(piece_bytes * _SORTED_SHARE)
        self._names = [column.name for column in target.schema]
        self._order = target.order
        self._files = _Files(target, min(target.file_bytes, piece_bytes))
        self._spill: Spill | None = None
        self._waiting: list[pl.DataFrame] = []
        self._waiting_bytes: float = 0
        self._rank = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cdcloader-write")
        self._written: Future[None] | None = None
        self._going_on: Callable[[], None] = lambda: None

    def add(self, rows: pl.DataFrame) -> None:
        """Take a chunk of typed rows, with the helper columns of `changes.net` if they order its rows."""
        sequence = net.sequence_columns(rows.columns)
        # The other helper columns would only be sorted, and dropped.
        rows = rows.select(self._names + (net.order_columns(rows.columns) if sequence else []))
        self._waiting.append(rows)
        self._waiting_bytes += rows.estimated_size()
        if self._waiting_bytes >= self._sorted_bytes or (len(self._waiting) == 1 and self._is_ordered(rows)):
            self._flush()

    def finish(self, going_on: Callable[[], None] = lambda: None) -> None:
        """Merge what overlaps: after this the files hold the whole set, and nothing else of it is left behind.

        `going_on` is called while that goes on, and may raise to give it up.
        """
        self._going_on = going_on
        self._flush()
        self._settle()
        self._files.close()
        if self._spill is not None:
            spill, self._spill = self._spill, None
            # Without a key no row replaces another, and nothing has to be merged with the files.
            self._merge(spill, _overlapping(self._files.whole, spill.low, spill.high) if self.target.key else [])
        small_bytes = min(self.target.file_bytes // 4, int(self._piece_bytes * STORED_SHARE) // 2)
        for group in _groups(self._files.whole, small_bytes, keyed=bool(self.target.key)):
            if len(group) > 1:
                self._merge(Spill(self._order, self.target.key, self._sorted_bytes), group)
        self._writer.shutdown()

    @property
    def files(self) -> list[DataFile]:
        """The files written so far; after `finish`, those of the load."""
        return [run.file for run in self._files.whole]

    def discard(self) -> None:
        """Delete the files written so far, when the load starts over."""
        self._writer.shutdown(cancel_futures=True)
        if self._spill is not None:
            self._spill.close()
        self._delete(self._files.whole)

    def _is_ordered(self, rows: pl.DataFrame) -> bool:
        return not self._order or (_is_sorted(rows, self._order) and not net.sequence_columns(rows.columns))

    def _flush(self) -> None:
        """Hand what is waiting to the writing thread, once that has finished what it has."""
        if not self._waiting:
            return
        self._settle()
        self._written = self._writer.submit(self._put, self._waiting)
        self._waiting = []
        self._waiting_bytes = 0

    def _settle(self) -> None:
        if self._written is not None:
            self._written.result()
            self._written = None

    def _put(self, frames: list[pl.DataFrame]) -> None:
        frame = pl.concat(frames)
        # The pool remembers its arguments until this returns; what is sorted needs no second copy until then.
        frames.clear()
        before = frame.height
        came_ordered = self._is_ordered(frame)
        frame = _ordered(frame, self._order, self.target.key, came_ordered=came_ordered).select(self._names)
        self.superseded += before - frame.height
        self.rows += frame.height
        begins = came_ordered and frame.estimated_size() * _BEGINNINGS_A_PIECE >= self._piece_bytes
        if begins or self._files.follows(frame):
            self._files.append(frame, self._rank)
        else:
            # What is written after this has a higher rank, so that it needs a file of its own.
            self._files.close()
            self._spill = self._spill or Spill(self._order, self.target.key, self._sorted_bytes)
            self._spill.add([frame], self._rank)
        self._rank += 1

    def _merge(self, spill: Spill, runs: Sequence[Run]) -> None:
        """Merge what was put aside and these files into files that do not overlap, in place of the old ones."""
        before = spill.rows + sum(run.file.statistics()["numRecords"] for run in runs)
        after = 0
        try:
            for run in runs:
                self._going_on()
                spill.add(self._stream(run), run.rank)
                self._files.whole.remove(run)
                self._delete([run])
            # A merge makes one frame while the one before is written.
            for frame in spill.merged():
                self._going_on()
                self._settle()
                self._written = self._writer.submit(self._files.append, frame, self._rank)
                after += frame.height
            self._settle()
            self._files.close()
        finally:
            spill.close()
        self.superseded += before - after
        self.rows -= before - after

    def _stream(self, run: Run) -> Iterator[pl.DataFrame]:
        """A file's rows with all columns of the table, in frames of a part of a piece."""
        types = polars_schema(self.target.schema)
        values = run.file.partition_values
        width = max(1.0, run.file.size / STORED_SHARE / max(1, int(run.file.statistics()["numRecords"])))
        batch = max(1024, int(self._piece_bytes / _READ_BATCHES_A_PIECE / width))
        columns = [
            datafiles.partition_literal(values[name], dtype).alias(name) if name in values else pl.col(name).cast(dtype)
            for name, dtype in types.items()
        ]
        stored = [name for name in types if name not in values]
        key = datafiles.key_of(self.target.path, run.file)
        with self.target.objects.open_reader(key, buffer_bytes=_READ_BUFFER_BYTES) as source:
            for part in pq.ParquetFile(source).iter_batches(batch_size=batch, columns=stored, use_threads=False):
                yield cast("pl.DataFrame", pl.from_arrow(part)).select(columns)

    def _delete(self, runs: Sequence[Run]) -> None:
        self.target.objects.delete([datafiles.key_of(self.target.path, run.file) for run in runs])


class _Files:
    """Data files written one after the other, each as long as rows of its partition follow in key order."""

    def __init__(self, target: Target, file_bytes: int) -> None:
        self.whole: list[Run] = []
        self._target = target
        # Compressed bytes stay in memory until their file is whole.
        self._file_bytes = file_bytes
        self._growing: FileWriter | None = None
        self._partition: Partition = ()
        self._low: Place = ()
        self._high: Place | None = None
        self._rank = 0

    def follows(self, frame: pl.DataFrame) -> bool:
        """Whether the frame's rows all come behind those that were written last."""
        if self._high is None or not frame.height:
            return True
        low = place(frame, self._target.order, 0)
        return low > self._high or (low == self._high and not self._target.key)

    def append(self, frame: pl.DataFrame, rank: int) -> None:
        """Write a frame in order, behind the growing file if it follows it."""
        target = self._target
        for values, part in datafiles.split_partitions(frame, target.partition_by):
            if self._partition != tuple(values.values()) or not self.follows(part):
                self.close()
            if self._growing is None:
                self._growing = FileWriter(target.objects, target.path, values)
                self._partition, self._low = tuple(values.values()), place(part, target.order, 0)
            self._growing.append(part)
            self._high, self._rank = place(part, target.order, -1), rank
            if self._growing.size >= self._file_bytes:
                self.close()

    def close(self) -> None:
        """Finish the file that grows, if there is one."""
        growing, self._growing = self._growing, None
        if growing is not None and self._high is not None:
            file = growing.close(now_ms=self._target.now_ms)
            self.whole.append(Run(file, self._partition, self._low, self._high, self._rank))


def _is_sorted(frame: pl.DataFrame, order: Sequence[str]) -> bool:
    columns = pl.struct(order) if len(order) > 1 else pl.col(order[0])
    return frame.select(columns).to_series().is_sorted()


def _ordered(frame: pl.DataFrame, order: list[str], key: Sequence[str], *, came_ordered: bool) -> pl.DataFrame:
    """The frame in (partition, key) order with each key once; sorted only where it is not already.

    A frame comes in the order in which it was read, so a stable sort puts the last of a key's rows last.
    """
    if net.sequence_columns(frame.columns):
        frame = frame.sort(net.order_columns(frame.columns), nulls_last=False, maintain_order=True)
    if key and set(order) != set(key):
        # Rows of one key may lie in two partitions, where no neighbour tells.
        frame = frame.unique(list(key), keep="last", maintain_order=True)
    if not came_ordered:
        frame = frame.sort(order, maintain_order=True)
    same = repeated(frame, key) if key else None
    return frame.filter(~same) if same is not None and same.any() else frame


def _overlapping(runs: Sequence[Run], low: Place, high: Place) -> list[Run]:
    """The runs that overlap a range, and those that overlap these."""
    while True:
        found = [run for run in runs if run.low <= high and low <= run.high]
        reach = min([low, *(run.low for run in found)]), max([high, *(run.high for run in found)])
        if reach == (low, high):
            return found
        low, high = reach


def _groups(runs: Sequence[Run], small_bytes: int, *, keyed: bool) -> list[list[Run]]:
    """Runs that belong into one merge: they overlap, or are small neighbours in one partition."""
    groups: list[list[Run]] = []
    high: Place = ()
    size = 0
    for run in sorted(runs, key=lambda r: (r.low, r.rank)):
        overlaps = keyed and bool(groups) and run.low <= high
        small = bool(groups) and groups[-1][0].partition == run.partition and size + run.file.size <= small_bytes
        if overlaps or small:
            groups[-1].append(run)
            high, size = max(high, run.high), size + run.file.size
        else:
            groups.append([run])
            high, size = run.high, run.file.size
    return groups
