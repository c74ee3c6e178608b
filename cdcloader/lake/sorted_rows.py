"""The live rows of data files as one stream in key order, in bounded memory."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from cdcloader.changes.schema import polars_schema
from cdcloader.errors import TableError
from cdcloader.lake import datafiles
from cdcloader.lake.datafiles import POSITION
from cdcloader.lake.snapshot import DataFile
from cdcloader.lake.target import STORED_SHARE, Target

Key = tuple[Any, ...]
_BATCH_ROWS = (1_024, 131_072)
_BUFFER_BYTES = 1 << 20


class OutOfOrder(Exception):
    """A file whose rows do not stand in key order, as another writer may have left it."""

    def __init__(self, file: DataFile) -> None:
        super().__init__(file.path)
        self.file = file


class Unordered(Exception):
    """A file that has no order at all: there are NULLs or NaNs in its key."""

    def __init__(self, file: DataFile) -> None:
        super().__init__(file.path)
        self.file = file


class Rows:
    """The live rows of a data file from the key `low` up to, and without, `high`; those of a whole file by default.

    `batch_bytes` bounds a frame; a file that is `sorted_here` is read whole and sorted. `positions` are those of the
    rows that were given out.
    """

    def __init__(
        self,
        target: Target,
        file: DataFile,
        *,
        batch_bytes: int,
        low: Key | None = None,
        high: Key | None = None,
        sorted_here: bool = False,
    ) -> None:
        self.file = file
        self.positions = BitMap64()
        self._target = target
        self._dead: npt.NDArray[np.uint64] = np.frombuffer(target.dead(file).to_array(), dtype=np.uint64)
        self._low, self._high = low, high
        self._batch_bytes = batch_bytes
        self._sorted_here = sorted_here
        self._types = polars_schema(target.schema)

    @property
    def is_whole(self) -> bool:
        """Whether all live rows of the file are asked for."""
        return self._low is None and self._high is None

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows in key order.

        OutOfOrder where the file is not and `sorted_here` is not set; Unordered; TableError when it is unreadable.
        """
        if not self._sorted_here:
            yield from self._checked(self.stored())
            return
        frames = [*self.stored()]
        if frames and self._target.key:
            whole = pl.concat(frames).sort(self._target.key, maintain_order=True)
            rows = _batch_rows(self._batch_bytes, self.file, whole.height)
            yield from self._checked(whole.slice(start, rows) for start in range(0, whole.height, rows))
        else:
            yield from frames

    def stored(self) -> Iterator[pl.DataFrame]:
        """The rows in the order of the file, with the table's columns, partition columns too."""
        key = datafiles.key_of(self._target.path, self.file)
        try:
            with self._target.objects.open_reader(key, buffer_bytes=_BUFFER_BYTES) as source:
                yield from self._read(pq.ParquetFile(source))
        except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
            raise TableError(
                f"a data file of the target cannot be read: {error}",
                where=self._target.objects.path_of(key),
                hint="restore the file, or reload the table",
            ) from error

    def _read(self, content: pq.ParquetFile) -> Iterator[pl.DataFrame]:
        stored = [name for name in self._types if name in content.schema_arrow.names]
        stored = [name for name in stored if name not in self.file.partition_values]
        columns = [self._column(name, stored) for name in self._types]
        rows = _batch_rows(self._batch_bytes, self.file, content.metadata.num_rows)
        start = 0
        for number in range(content.metadata.num_row_groups):
            group = content.metadata.row_group(number)
            position, start = start, start + group.num_rows
            if not self._may_hold(group):
                continue
            for part in content.iter_batches(batch_size=rows, row_groups=[number], columns=stored, use_threads=False):
                yield from self._wanted(pl.DataFrame(pl.from_arrow(pa.Table.from_batches([part]))), columns, position)
                position += part.num_rows

    def _wanted(self, frame: pl.DataFrame, columns: Sequence[pl.Expr], start: int) -> Iterator[pl.DataFrame]:
        """The rows of a frame that live and lie in the range."""
        positions = pl.int_range(start, start + frame.height, dtype=pl.UInt64).alias(POSITION)
        wanted = self._alive(frame.select(*columns, positions), start).filter(*self._between())
        if wanted.height:
            self.positions |= BitMap64(wanted[POSITION].to_numpy())
            yield wanted.drop(POSITION)

    def _may_hold(self, group: Any) -> bool:
        """Whether the footer allows rows of the range in a row group, by the leading column of the key."""
        if self.is_whole:
            return True
        leading = self._target.key[0]
        found = [group.column(at) for at in range(group.num_columns) if group.column(at).path_in_schema == leading]
        bounds = found[0].statistics if found else None
        if bounds is None or not bounds.has_min_max or self._types[leading].is_float():
            return True
        try:
            below = self._low is not None and bounds.max < self._low[0]
            return not (below or (self._high is not None and bounds.min > self._high[0]))
        except TypeError:
            return True  # The file has the column in another type than the table.

    def _column(self, name: str, stored: Sequence[str]) -> pl.Expr:
        dtype = self._types[name]
        if name in self.file.partition_values:
            return datafiles.partition_literal(self.file.partition_values[name], dtype).alias(name)
        return pl.col(name).cast(dtype) if name in stored else pl.lit(None, dtype=dtype).alias(name)

    def _alive(self, frame: pl.DataFrame, start: int) -> pl.DataFrame:
        first, last = np.searchsorted(self._dead, [start, start + frame.height])
        if first == last:
            return frame
        alive = np.ones(frame.height, dtype=np.bool_)
        alive[self._dead[first:last] - np.uint64(start)] = False
        return frame.filter(pl.Series(alive))

    def _between(self) -> list[pl.Expr]:
        key = self._target.key
        from_low = [] if self._low is None else [~_before(self._low, key, self._types, inclusive=False)]
        to_high = [] if self._high is None else [_before(self._high, key, self._types, inclusive=False)]
        return from_low + to_high

    def _checked(self, frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The frames as they are, as long as they stand in key order."""
        key = self._target.key
        if not key:
            yield from frames
            return
        last: Key | None = None
        for frame in frames:
            empty = [pl.col(name).is_null().any() for name in key]
            empty += [pl.col(name).is_nan().any() for name in key if self._types[name].is_float()]
            if frame.select(pl.any_horizontal(empty)).item():
                raise Unordered(self.file)
            first = frame.select(key).row(0)
            columns = pl.struct(key) if len(key) > 1 else pl.col(key[0])
            if (last is not None and first < last) or not frame.select(columns).to_series().is_sorted():
                raise OutOfOrder(self.file)
            last = frame.select(key).row(-1)
            yield frame


def merged(
    sources: Sequence[tuple[Key | None, Rows]], key: Sequence[str], going_on: Callable[[], None]
) -> Iterator[pl.DataFrame]:
    """The rows of all sources in key order; each source comes with a key that none of its rows is below, if known.

    Sources are opened when their turn comes, so that neighbours are never in memory at once. `going_on` is called
    for each frame and may raise. Without a key one source follows the other; a file alone keeps the order that it has.
    """
    if not key or len(sources) == 1:
        for _, rows in sources:
            for frame in rows.stored():
                going_on()
                yield frame
        return
    # None stands first: such a source may begin anywhere.
    waiting = sorted(sources, key=lambda source: (source[0] is not None, source[0] or ()))
    open_ones: list[_Open] = []
    while waiting or open_ones:
        going_on()
        bound = min((each.last for each in open_ones), default=None)
        while waiting and (bound is None or waiting[0][0] is None or waiting[0][0] <= bound):
            begun = _Open.begin(waiting.pop(0)[1].frames(), key)
            open_ones += [begun] if begun else []
            bound = min((each.last for each in open_ones), default=None)
        if bound is None:
            return
        taken = [part for each in open_ones if (part := each.take(bound)).height]
        yield taken[0] if len(taken) == 1 else pl.concat(taken).sort(key, maintain_order=True)
        open_ones = [each for each in open_ones if each.advance()]


class _Open:
    """A source that is being read: what is left of its current frame."""

    def __init__(self, frame: pl.DataFrame, frames: Iterator[pl.DataFrame], key: Sequence[str]) -> None:
        self._frame, self._frames, self._key = frame, frames, key
        self.last: Key = frame.select(key).row(-1)

    @classmethod
    def begin(cls, frames: Iterator[pl.DataFrame], key: Sequence[str]) -> _Open | None:
        frame = next(frames, None)
        return None if frame is None else cls(frame, frames, key)

    def take(self, bound: Key) -> pl.DataFrame:
        """The rows up to the bound."""
        if self.last <= bound:
            taken, self._frame = self._frame, self._frame.clear()
            return taken
        taken = self._frame.filter(_before(bound, self._key, self._frame.schema, inclusive=True))
        self._frame = self._frame.slice(taken.height)
        return taken

    def advance(self) -> bool:
        """Go on to the next frame where the current one is used up; False when that was the last."""
        if not self._frame.height:
            frame = next(self._frames, None)
            if frame is None:
                return False
            self._frame, self.last = frame, frame.select(self._key).row(-1)
        return True


def _before(bound: Key, key: Sequence[str], types: Any, *, inclusive: bool) -> pl.Expr:
    """Rows whose key, or its first columns, is below the bound, or at most equal to it, in the order of tuples."""
    pairs = [(pl.col(name), pl.lit(value, dtype=types[name])) for name, value in zip(key, bound, strict=False)]
    column, limit = pairs[-1]
    expression = column <= limit if inclusive else column < limit
    return functools.reduce(
        lambda inner, pair: operator.lt(*pair) | (operator.eq(*pair) & inner), reversed(pairs[:-1]), expression
    )


def _batch_rows(batch_bytes: int, file: DataFile, rows: int) -> int:
    width = max(1.0, file.size / STORED_SHARE / max(1, rows))
    return int(min(_BATCH_ROWS[1], max(_BATCH_ROWS[0], batch_bytes / width)))
