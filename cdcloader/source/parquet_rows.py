"""Parquet files to change rows: Polars reads small ones, row groups of big ones are streamed by pyarrow (pure).

Small neighbours of one schema are decoded and checked together: for a file of a few thousand rows, doing so costs more
than its rows do.

A timestamp without a zone is UTC (or naive, as the table's format says); nanoseconds are cut to microseconds, which
is all that Delta holds. TIME becomes text. A text column is parsed like CSV where the table has another type.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq

from cdcloader.changes.evolution import TEXT_OF
from cdcloader.changes.net import FILE
from cdcloader.changes.schema import Schema, fits
from cdcloader.errors import TableError
from cdcloader.source.change_rows import (
    change_rows,
    checked_chunk,
    deletes,
    is_clean,
    no_rejects,
    not_in_table,
    short_op,
)
from cdcloader.source.parquet_frames import check_rows, data_bytes, frames, frames_together, opened, readable
from cdcloader.source.parquet_layout import ParquetLayout, layout
from cdcloader.source.parquet_values import always_fits, cast_column, text_of
from cdcloader.source.row_format import Chunk, FileInput, RowFormat

_SHOWN_CHARS = 60


def parquet_layout(file: FileInput, fmt: RowFormat, names: Sequence[str]) -> ParquetLayout:
    """The layout of a Parquet file; `names` are the table's columns as far as they are known."""
    with opened(file) as stored, readable(file):
        return layout(pq.ParquetFile(stored), file, fmt, names)


def read_parquet(
    file: FileInput, fmt: RowFormat, schema: Schema, *, chunk_bytes: int, only: Collection[str] | None = None
) -> Iterator[Chunk]:
    """The file's rows, in pieces of about `chunk_bytes` of uncompressed data.

    With `only` no more columns are decoded than these and those that decide which rows are rejects.
    """
    names = [field.name for field in schema]
    with opened(file) as stored:
        stream = io.BytesIO(stored.read()) if file.size <= chunk_bytes else stored
        with readable(file):
            parquet = pq.ParquetFile(stream)
            found = layout(parquet, file, fmt, names)
        reader = _reader(found, file, fmt, schema, only)
        first = 1
        for frame in frames(parquet, stream, file, chunk_bytes, reader.stored(parquet)):
            yield reader.chunk(frame, first)
            first += frame.height
        check_rows(first - 1, parquet, file)


def read_parquet_together(
    files: Sequence[FileInput],
    fmt: RowFormat,
    schema: Schema,
    *,
    chunk_bytes: int,
    only: Collection[str] | None = None,
) -> Iterator[Chunk]:
    """The rows of small files, in order; neighbours of one schema come as one chunk of about `chunk_bytes`."""
    names = [field.name for field in schema]
    run: list[_Whole] = []
    size = 0
    for file in files:
        whole = _whole_file(file, fmt, names)
        if run and (size + whole.size > chunk_bytes or not whole.is_like(run[-1])):
            yield from _read_run(run, fmt, schema, chunk_bytes, only)
            run, size = [], 0
        run.append(whole)
        size += whole.size
    yield from _read_run(run, fmt, schema, chunk_bytes, only)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A file that is in memory; `size` is that of its data, uncompressed."""

    file: FileInput
    content: bytes
    parquet: pq.ParquetFile
    found: ParquetLayout
    size: int

    def is_like(self, other: _Whole) -> bool:
        """Whether both files can be read as one."""
        return bool(
            self.found == other.found
            and self.parquet.schema.equals(other.parquet.schema)
            and self.parquet.schema_arrow.equals(other.parquet.schema_arrow)
        )


def _whole_file(file: FileInput, fmt: RowFormat, names: Sequence[str]) -> _Whole:
    with opened(file) as stored:
        content = stored.read()
    with readable(file):
        parquet = pq.ParquetFile(pa.BufferReader(content))
        found = layout(parquet, file, fmt, names)
    return _Whole(file, content, parquet, found, data_bytes(parquet))


def _read_run(
    run: Sequence[_Whole], fmt: RowFormat, schema: Schema, chunk_bytes: int, only: Collection[str] | None
) -> Iterator[Chunk]:
    """Files that are alike, as one chunk if all of their rows are clean."""
    frame = None
    if len(run) > 1:
        reader = _reader(run[0].found, run[0].file, fmt, schema, only)
        frame = frames_together([(one.content, one.parquet) for one in run], reader.stored(run[0].parquet))
    if frame is not None:
        yield from reader.together(frame, [(one.file, one.parquet.metadata.num_rows) for one in run])
        return
    for one in run:
        reader, first = _reader(one.found, one.file, fmt, schema, only), 1
        for frame in frames(one.parquet, io.BytesIO(one.content), one.file, chunk_bytes, reader.stored(one.parquet)):
            yield reader.chunk(frame, first)
            first += frame.height
        check_rows(first - 1, one.parquet, one.file)


def _reader(
    found: ParquetLayout, file: FileInput, fmt: RowFormat, schema: Schema, only: Collection[str] | None
) -> _Reader:
    wanted = {field.name: field.type for field in schema}
    for name in found.columns.source:
        if fmt.by_value:
            break
        if name not in wanted:
            raise TableError(f"column {name!r} is not among the columns that were described", where=file.name)
        have, want = found.types[name], wanted[name]
        if "string" not in (have, want) and not fits(have, want):
            raise TableError(
                f"column {name!r} has type {have}, the table has {want}",
                where=file.name,
                hint="set the column's type under `columns`, or reload the table to take the new type",
            )
    types = {name: wanted[name] for name in found.columns.source if name in wanted}
    strangers = tuple(name for name in found.columns.source if name not in wanted)
    images = {image: wanted[name] for name, image in found.columns.before if image not in types}
    types |= images
    if only is not None:
        # A value may turn out to be none of its type, and a key NULL: either makes its row a reject. So does what is
        # unset in a row that changes its key.
        wide = {*only, *(fmt.primary_key or ()), *images}
        wide |= {*fmt.unset_names(types)} if found.columns.before else set()
        few = {name: want for name, want in types.items() if name in wide or not always_fits(found.types[name], want)}
        fields = tuple(field for field in schema if field.name in few or field.name in wide)
        narrow = _Reader(file, fmt, fields, found, few, strangers, whole=False)
        # Without any column in use the number of rows would be lost.
        if narrow.names():
            return narrow
    return _Reader(file, fmt, schema, found, types, strangers)


@dataclass(frozen=True, slots=True)
class _Reader:
    """One Parquet file being read; `types` are the target types of its columns in use, `whole`: that is all of them.

    `strangers` are the columns that the table lacks, in which no row but a D may have a value.
    """

    file: FileInput
    fmt: RowFormat
    schema: Schema
    found: ParquetLayout
    types: dict[str, str]
    strangers: tuple[str, ...] = ()
    whole: bool = True

    def stored(self, parquet: pq.ParquetFile) -> list[str] | None:
        """The columns in use as the file names them; None for all of them."""
        if self.whole:
            return None
        used = set(self.names())
        return [
            own for own, name in zip(parquet.schema_arrow.names, self.found.columns.names, strict=True) if name in used
        ]

    def names(self) -> tuple[str, ...]:
        """The columns in use, in the file's order."""
        columns = self.found.columns
        if self.whole:
            return columns.names
        used = {*self.types, *self.strangers, columns.op, columns.time, *self.fmt.sequence_by}
        return tuple(name for name in columns.names if name in used)

    def chunk(self, frame: pl.DataFrame, first: int) -> Chunk:
        """The chunk of the next rows of the file, numbered from `first`."""
        numbers = pl.int_range(first, first + frame.height, eager=True)
        columns = self.found.columns
        frame, ready, failed = self._typed(frame)
        if not failed and is_clean(ready, columns, self.file, self.fmt):
            rows = change_rows(ready, columns, self.file, self.fmt, self.schema, numbers)
            return Chunk(rows, no_rejects(), rows.height, {})
        reasons = self._reasons(frame, failed, deletes(ready, columns, self.file, self.fmt))
        return checked_chunk(
            ready, columns, self.file, self.fmt, self.schema, numbers,
            reasons=reasons, raw=lambda bad: _json_rows(frame.filter(bad)),
        )  # fmt: skip

    def together(self, frame: pl.DataFrame, files: Sequence[tuple[FileInput, int]]) -> Iterator[Chunk]:
        """The chunk of several files that are alike, given with their rows; a chunk each if a row is not clean."""
        _, ready, failed = self._typed(frame)
        if failed or not is_clean(ready, self.found.columns, self.file, self.fmt):
            first = 0
            for file, height in files:
                yield replace(self, file=file).chunk(frame.slice(first, height), 1)
                first += height
            return
        numbers = pl.concat([pl.int_range(1, height + 1, eager=True) for _, height in files])
        places = [pl.repeat(file.ordinal, height, dtype=pl.UInt32, eager=True) for file, height in files]
        rows = change_rows(ready, self.found.columns, self.file, self.fmt, self.schema, numbers)
        rows = rows.with_columns(pl.concat(places).alias(FILE))
        yield Chunk(rows, no_rejects(), rows.height, {})

    def _typed(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, pl.Series]]:
        """The frame with the table's names, the columns in use with their types, and where values do not parse."""
        frame = frame.rename(dict(zip(frame.columns, self.names(), strict=True)))
        columns = self.found.columns
        typed: dict[str, pl.Series] = {}
        failed: dict[str, pl.Series] = {}
        for name, want in self.types.items():
            column = frame.get_column(name)
            have = self.found.types[name]
            through = self._through(name) if want == "string" != have else None
            typed[name] = cast_column(column, have, want, through)
            if typed[name].null_count() > column.null_count():
                failed[name] = typed[name].is_null() & column.is_not_null()
        for name in self.strangers:
            if (values := frame.get_column(name).is_not_null()).any():
                failed[name] = values
        for helper in (columns.op, columns.time, *self.fmt.sequence_by):
            if helper is not None and helper not in typed:
                values = frame.get_column(helper)
                typed[helper] = text_of(values) if helper == columns.op else values
        ready = pl.DataFrame(list(typed.values()))
        return frame, short_op(ready, columns, self.file, self.fmt), failed

    def _through(self, name: str) -> str | None:
        """The type that a column of text had before, if it was another."""
        metadata = next((field.metadata for field in self.schema if field.name == name), None) or {}
        through = metadata.get(TEXT_OF)
        return through if isinstance(through, str) else None

    def _reasons(self, frame: pl.DataFrame, failed: dict[str, pl.Series], is_delete: pl.Series) -> pl.Series:
        """Why rows are rejected for their values; what a D has beside its key and its place in the order is nothing."""
        counts = {*(self.fmt.primary_key or ()), *self.fmt.sequence_by}
        reasons = pl.repeat(None, frame.height, dtype=pl.String, eager=True)
        for name, found in failed.items():
            mask = found if name in counts else found & ~is_delete
            if name not in self.types:
                reasons = reasons.zip_with(~mask | reasons.is_not_null(), pl.Series([not_in_table(name)]))
                continue
            shown = "'" + text_of(frame.get_column(name)).str.slice(0, _SHOWN_CHARS) + f"' is not a {self.types[name]}"
            reasons = reasons.zip_with(~mask | reasons.is_not_null(), f"column '{name}': " + shown)
        return reasons


def _json_rows(frame: pl.DataFrame) -> pl.Series:
    """Each row as JSON, in the file's column order; bytes as hex digits."""
    try:
        rows = list(frame.iter_rows(named=True))
    except (ValueError, OverflowError, pl.exceptions.PanicException):
        # Python has no dates before the year 1 and behind 9999: such columns show the number that is stored.
        rows = list(frame.with_columns(cs.temporal().to_physical()).iter_rows(named=True))
    return pl.Series([_json(row) for row in rows], dtype=pl.String)


def _json(row: dict[str, object]) -> str:
    return json.dumps(
        row, default=lambda value: value.hex() if isinstance(value, bytes) else str(value), ensure_ascii=False
    )
