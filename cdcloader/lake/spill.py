"""Rows that came out of order: sorted runs in a temporary file of this machine, and their merge in bounded memory.

A run is stored in small units, and the index in memory knows the first row of each. The merge reads units in the
order of their first rows: whatever stands before the first row of the next unit is complete, and can be sorted
and handed on. So a merge holds a few frames and half a unit of each run, however large the runs are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa

from cdcloader.changes import net
from cdcloader.errors import TransientError

Place = tuple[tuple[bool, bool, Any], ...]
_RANK, _RUN, _START, _LENGTH, _BYTES = "__rank", "__run", "__start", "__length", "__bytes"
# Runs that are merged at once, and units of a piece: half a unit of each run is in memory, together a piece at most.
_FAN_IN, _UNITS_A_PIECE = 512, 256
_UNIT_ROWS_MIN = 16
# Written at once, so that little of a frame is in memory as Arrow and as bytes too.
_UNITS_A_WRITE = 32
# A third of the CPU time of zstd, for twice its bytes, which stay on this machine and are read once.
_COMPRESSION = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)


class Spill:
    """Runs of rows that stand in `order`; of rows with the same `key` (part of the order), the highest rank stays.

    Columns in `sequence` say before the rank which row is the highest; NULL is the lowest. Rows that may be partial are
    netted (`changes.net`) in that order.
    `piece_bytes` is what one of the few frames in memory may take. TransientError when the disk is full.
    """

    def __init__(
        self, order: Sequence[str], key: Sequence[str], piece_bytes: int, sequence: Sequence[str] = ()
    ) -> None:
        # Without a key no row replaces another, and equal ones stay as they were read.
        self._order = [*order] if key else [*order, _RANK]
        self._key, self._piece_bytes = list(key), piece_bytes
        self._sequence = list(sequence)
        with _errors_of_the_disk():
            # It has no name, so that nothing of it is left when the process is killed.
            self._file = tempfile.TemporaryFile(prefix="cdcloader-")  # noqa: SIM115 - `close` closes it
        self._end = self._rows = 0
        self._index: list[pl.DataFrame] = []
        self._bounds: list[tuple[Place, Place]] = []
        self._schema: pa.Schema | None = None

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return self._rows

    @property
    def low(self) -> Place:
        """The place of the first row of all."""
        return min(low for low, _ in self._bounds)

    @property
    def high(self) -> Place:
        """The place of the last row of all."""
        return max(high for _, high in self._bounds)

    def add(self, frames: Iterable[pl.DataFrame], rank: int) -> None:
        """Take one run: frames in order, each behind the one before."""
        self._add(frame.with_columns(pl.lit(rank, pl.UInt32).alias(_RANK)) for frame in frames)

    def merged(self) -> Iterator[pl.DataFrame]:
        """All rows in order, each key once, in frames of about a piece; the spill is closed after the last."""
        spill = self
        try:
            while _depth(spill._bounds) > _FAN_IN:
                spill = spill._of_fewer_runs()
            for frame in spill._merge():  # noqa: SLF001 - of this class
                yield frame.drop(_RANK)
        finally:
            spill.close()

    def close(self) -> None:
        """Give the disk space back."""
        # On a full disk it tries to write once more what it could not write; its space is given back all the same.
        with suppress(OSError):
            self._file.close()
        self._index, self._bounds = [], []

    def _add(self, frames: Iterable[pl.DataFrame]) -> None:
        low: Place | None = None
        high: Place = ()
        for frame in frames:
            if frame.height:
                self._write(frame)
                low = place(frame, self._order, 0) if low is None else low
                high = place(frame, self._order, -1)
        if low is not None:
            self._bounds.append((low, high))

    def _write(self, frame: pl.DataFrame) -> None:
        width = max(1, int(frame.estimated_size()) // frame.height)
        rows = max(_UNIT_ROWS_MIN, self._piece_bytes // _UNITS_A_PIECE // width)
        borders = [self._end]
        for part in frame.iter_slices(rows * _UNITS_A_WRITE):
            borders += self._write_units(part, rows)
        counts = np.minimum(rows, frame.height - np.arange(0, frame.height, rows))
        self._index.append(
            pl.DataFrame(
                [
                    *frame.select(self._order).gather_every(rows).get_columns(),
                    pl.Series(_RUN, np.full(len(counts), len(self._bounds), np.uint32)),
                    pl.Series(_START, np.array(borders[:-1], np.int64)),
                    pl.Series(_LENGTH, np.diff(borders).astype(np.int64)),
                    pl.Series(_BYTES, counts * width),
                ]
            )
        )
        self._rows += frame.height

    def _write_units(self, frame: pl.DataFrame, rows: int) -> list[int]:
        """Write units of so many rows each; returns where each ends."""
        (batch,) = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks().to_batches()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=_COMPRESSION) as writer:
            # The schema is written before the first batch, and belongs to no unit.
            writer.write_batch(batch.slice(0, 0))
            first, ends = sink.tell(), []
            for start in range(0, batch.num_rows, rows):
                writer.write_batch(batch.slice(start, rows))
                ends.append(self._end + sink.tell() - first)
        with _errors_of_the_disk():
            self._file.write(sink.getvalue()[first : first + ends[-1] - self._end])
            self._file.flush()
        self._schema, self._end = batch.schema, ends[-1]
        return ends

    def _of_fewer_runs(self) -> Spill:
        """The same rows in longer runs; this spill is closed."""
        fewer = Spill(self._order, self._key, self._piece_bytes, self._sequence)
        for first in range(0, len(self._bounds), _FAN_IN):
            fewer._add(self._merge(range(first, first + _FAN_IN), whole=False))
        self.close()
        return fewer

    def _merge(self, runs: range | None = None, *, whole: bool = True) -> Iterator[pl.DataFrame]:
        """The rows of some runs in order, each key once if they are the `whole`; they keep their ranks."""
        if not self._index:
            return
        index = pl.concat(self._index)
        if runs is not None:
            index = index.filter(pl.col(_RUN).is_between(runs.start, runs.stop - 1))
        index = index.sort(self._order, maintain_order=True)
        until = np.cumsum(index[_BYTES].to_numpy())
        rest: pl.DataFrame | None = None
        at = 0
        while at < index.height:
            # Half a piece, because what was left over of the units before stands beside it.
            wanted = (int(until[at - 1]) if at else 0) + self._piece_bytes // 2
            end = max(at + 1, int(np.searchsorted(until, wanted)))
            frame = self._read(index[at:end])
            frame = frame if rest is None else pl.concat([rest, frame])
            if end < index.height:
                complete = self._before(index.select(self._order).row(end), frame.schema)
                done, rest = frame.filter(complete), frame.filter(~complete)
            else:
                done, rest = frame, None
            at = end
            # What waits for the one who asks must not hold more than it needs.
            del frame
            if done.height:
                done = self._sorted(done, whole=whole)
                yield done
            del done

    def _read(self, units: pl.DataFrame) -> pl.DataFrame:
        batches = []
        with _errors_of_the_disk():
            for start, length in units.select(_START, _LENGTH).sort(_START).iter_rows():
                message = pa.ipc.read_message(os.pread(self._file.fileno(), length, start))
                batches.append(pa.ipc.read_record_batch(message, self._schema))
        return cast("pl.DataFrame", pl.from_arrow(pa.Table.from_batches(batches).combine_chunks()))

    def _before(self, bound: tuple[Any, ...], schema: pl.Schema) -> pl.Expr:
        """Rows before the bound; at the bound too where there is no key, because no other can replace them."""
        before = pl.lit(value=not self._key)
        for name, value in reversed(list(zip(self._order, bound, strict=True))):
            column, limit = pl.col(name), pl.lit(value, dtype=schema[name])
            # NULL stands first.
            less = pl.lit(value=False) if value is None else (column < limit).fill_null(value=True)
            before = less | (column.eq_missing(limit) & before)
        return before

    def _sorted(self, frame: pl.DataFrame, *, whole: bool) -> pl.DataFrame:
        if not self._key:
            return frame.sort(self._order, maintain_order=True)
        ordered = frame.sort(self._order)
        if not repeated(ordered, self._order).any():
            return ordered
        partial = bool(net.unset_columns(frame.columns))
        # Of one run the rows of a key stand in their order, which a stable sort keeps.
        ordered = frame.sort([*self._order, *self._sequence, _RANK], maintain_order=partial)
        if partial:
            return net.net_changes(ordered, self._key) if whole or net.can_be_netted_again(frame.columns) else ordered
        return ordered.filter(~repeated(ordered, self._order))


def place(frame: pl.DataFrame, order: Sequence[str], row: int) -> Place:
    """A row's place in the order, to be compared with others: NULL first, NaN last."""
    return tuple((value is not None, value != value, value) for value in frame.select(order).row(row)) if order else ()  # noqa: PLR0124


def repeated(frame: pl.DataFrame, key: Sequence[str]) -> pl.Series:
    """Which rows of a sorted frame have the same values in `key` as the next row."""
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(-1)) for name in key)
    return frame.select((same & (pl.int_range(pl.len()) < pl.len() - 1)).alias("repeated")).to_series()


def _depth(bounds: Sequence[tuple[Place, Place]]) -> int:
    """How many runs overlap at most at one place."""
    starts, ends = sorted(low for low, _ in bounds), sorted(high for _, high in bounds)
    deepest = ended = 0
    for number, start in enumerate(starts):
        while ends[ended] < start:
            ended += 1
        deepest = max(deepest, number + 1 - ended)
    return deepest


@contextmanager
def _errors_of_the_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransientError(
            f"rows that came out of key order cannot be kept on disk: {error.strerror or error}",
            where=tempfile.tempdir or "the temporary folder",
            hint="full loads and large batches are sorted there: free space, or let TMPDIR name a larger disk's folder",
        ) from error
