"""Parquet files to change rows: Polars reads small ones, row groups of big ones are streamed by pyarrow (pure).

A timestamp without a zone is UTC (or naive, as the table's format says); nanoseconds are cut to microseconds, which
is all that Delta holds. TIME becomes text. A text column is parsed like CSV where the table has another type.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cdcloader.changes.schema import Schema, delta_type, fits, polars_type
from cdcloader.errors import TableError
from cdcloader.source.change_rows import change_rows, checked_chunk, is_clean, no_rejects
from cdcloader.source.row_format import (
    TIMESTAMP_TEXT,
    Chunk,
    Columns,
    FileInput,
    RowFormat,
    columns_of,
    configured_time_place,
    resolve,
    usual_time_places,
)
from cdcloader.source.text_values import parse_text

_LOOKED_AT = 16
_SHOWN_CHARS = 60
_UNREADABLE = (pa.ArrowException, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


@dataclass(frozen=True, slots=True)
class ParquetLayout:
    """A file's columns, and the Delta type of each as the file has it."""

    columns: Columns
    types: dict[str, str]


def parquet_layout(file: FileInput, fmt: RowFormat, names: Sequence[str]) -> ParquetLayout:
    """The layout of a Parquet file; `names` are the table's columns as far as they are known."""
    with _opened(file) as stored, _readable(file):
        return _layout(pq.ParquetFile(stored), file, fmt, names)


def read_parquet(file: FileInput, fmt: RowFormat, schema: Schema, *, chunk_bytes: int) -> Iterator[Chunk]:
    """The file's rows, in pieces of about `chunk_bytes` of uncompressed data."""
    names = [field.name for field in schema]
    with _opened(file) as stored:
        stream = io.BytesIO(stored.read()) if file.size <= chunk_bytes else stored
        with _readable(file):
            parquet = pq.ParquetFile(stream)
            found = _layout(parquet, file, fmt, names)
        reader = _reader(found, file, fmt, schema)
        first = 1
        for frame in _frames(parquet, stream, file, chunk_bytes):
            yield reader.chunk(frame, first)
            first += frame.height


@contextmanager
def _opened(file: FileInput) -> Iterator[BinaryIO]:
    with file.open() as stored:
        yield stored


@contextmanager
def _readable(file: FileInput) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise TableError(
            "not a readable Parquet file: truncated or damaged",
            where=file.name,
            hint="wait for DMS to write it again, or delete it if its rows are of no use",
        ) from error


def _frames(parquet: pq.ParquetFile, stream: BinaryIO, file: FileInput, chunk_bytes: int) -> Iterator[pl.DataFrame]:
    """The file's rows with its own names and types, some row groups at a time."""
    total = sum(_group_bytes(parquet, group) for group in range(parquet.num_row_groups))
    if isinstance(stream, io.BytesIO) and total <= chunk_bytes:
        if parquet.metadata.num_rows:
            yield _whole(parquet, stream, file)
        return
    for groups in _group_runs(parquet, chunk_bytes):
        rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
        size = sum(_group_bytes(parquet, group) for group in groups)
        if size <= chunk_bytes:
            with _readable(file):
                table = parquet.read_row_groups(groups)
            yield _frame(table)
            continue
        batch_rows = max(1, rows * chunk_bytes // max(size, 1))
        batches = parquet.iter_batches(batch_size=batch_rows, row_groups=groups)
        while True:
            with _readable(file):
                batch = next(batches, None)
            if batch is None:
                break
            yield _frame(pa.Table.from_batches([batch]))


def _whole(parquet: pq.ParquetFile, stream: io.BytesIO, file: FileInput) -> pl.DataFrame:
    """The whole file: by Polars, and by pyarrow where Polars gives up."""
    try:
        return pl.read_parquet(stream.getvalue())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        with _readable(file):
            return _frame(parquet.read())


def _frame(table: pa.Table) -> pl.DataFrame:
    return cast("pl.DataFrame", pl.from_arrow(table, rechunk=False))


def _group_bytes(parquet: pq.ParquetFile, group: int) -> int:
    return int(parquet.metadata.row_group(group).total_byte_size)


def _group_runs(parquet: pq.ParquetFile, chunk_bytes: int) -> Iterator[list[int]]:
    """Neighbouring row groups that fit a chunk together; a larger one stands alone."""
    run: list[int] = []
    size = 0
    for group in range(parquet.num_row_groups):
        group_bytes = _group_bytes(parquet, group)
        if run and size + group_bytes > chunk_bytes:
            yield run
            run, size = [], 0
        run.append(group)
        size += group_bytes
    if run:
        yield run


def _layout(parquet: pq.ParquetFile, file: FileInput, fmt: RowFormat, table_names: Sequence[str]) -> ParquetLayout:
    schema = parquet.schema_arrow
    names = resolve(schema.names, table_names)
    of_the_source = set(table_names) - set(fmt.keep_columns)
    op = _op_place(names, of_the_source, file)
    time = _time_place(parquet, names, of_the_source, op, fmt)
    columns = columns_of(names, op, time, file, fmt)
    types = {name: _file_type(parquet, place, file, fmt) for place, name in enumerate(names)}
    return ParquetLayout(columns, types)


def _op_place(names: Sequence[str], of_the_source: set[str], file: FileInput) -> int | None:
    """The first column if it is named Op; else the only column of that name, in a LOAD file not beyond the second."""
    places = [place for place, name in enumerate(names) if name.lower() == "op"]
    if 0 in places:
        return 0
    searched = 2 if file.kind == "load" else len(names)
    found = [place for place in places if place < searched and names[place] not in of_the_source]
    return found[0] if len(found) == 1 else None


def _time_place(
    parquet: pq.ParquetFile, names: Sequence[str], of_the_source: set[str], op: int | None, fmt: RowFormat
) -> int | None:
    """DMS's timestamp column: as configured, the only REQUIRED column if it is text, or by its usual names."""
    if fmt.timestamp_column is not None:
        return configured_time_place(names, fmt.timestamp_column)
    schema = parquet.schema_arrow
    required = [place for place in range(len(names)) if not schema.field(place).nullable]
    candidates = [*(required if len(required) == 1 else []), *usual_time_places(names)]
    for place in candidates:
        if place == op or names[place] in of_the_source or not _is_text(schema.field(place).type):
            continue
        if _holds_times(parquet, schema.names[place]):
            return place
    return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_times(parquet: pq.ParquetFile, column: str) -> bool:
    batch = next(parquet.iter_batches(batch_size=_LOOKED_AT, columns=[column]), None)
    values = [] if batch is None else batch.column(0).to_pylist()
    return all(value is None or re.match(TIMESTAMP_TEXT, value) for value in values)


def _file_type(parquet: pq.ParquetFile, place: int, file: FileInput, fmt: RowFormat) -> str:
    field = parquet.schema_arrow.field(place)
    kind = field.type
    if pa.types.is_timestamp(kind) and kind.tz is not None and _is_legacy(parquet, field.name):
        kind = pa.timestamp(kind.unit)
    try:
        # Not by way of an empty table: pyarrow would import pandas for it, where that is installed.
        dtype = pl.Schema(pa.schema([(field.name, kind)]))[field.name]
        return delta_type(dtype, timestamps=fmt.timestamps)
    except (ValueError, *_UNREADABLE) as error:
        raise TableError(
            f"column {field.name!r} has the type {field.type}, which a Delta table cannot hold",
            where=file.name,
            hint="leave the column out, or change its type, by a DMS transformation rule",
        ) from error


def _is_legacy(parquet: pq.ParquetFile, name: str) -> bool:
    """Whether a timestamp has only the old annotation that DMS writes, which cannot say that it names no zone."""
    leaves = (parquet.schema.column(place) for place in range(len(parquet.schema)))
    leaf = next(leaf for leaf in leaves if leaf.path.split(".")[0] == name)
    logical = json.loads(leaf.logical_type.to_json())
    return bool(logical.get("is_from_converted_type"))


def _reader(found: ParquetLayout, file: FileInput, fmt: RowFormat, schema: Schema) -> _Reader:
    wanted = {field.name: field.type for field in schema}
    for name in found.columns.source:
        if name not in wanted:
            raise TableError(f"column {name!r} is not among the columns that were described", where=file.name)
        have, want = found.types[name], wanted[name]
        if have != "string" and not fits(have, want):
            raise TableError(
                f"column {name!r} has type {have}, the table has {want}",
                where=file.name,
                hint="set the column's type under `columns`, or reload the table to take the new type",
            )
    return _Reader(file, fmt, schema, found, {name: wanted[name] for name in found.columns.source})


@dataclass(frozen=True, slots=True)
class _Reader:
    """One Parquet file being read; `types` are the target types of its columns."""

    file: FileInput
    fmt: RowFormat
    schema: Schema
    found: ParquetLayout
    types: dict[str, str]

    def chunk(self, frame: pl.DataFrame, first: int) -> Chunk:
        """The chunk of the next rows of the file, numbered from `first`."""
        frame = frame.rename(dict(zip(frame.columns, self.found.columns.names, strict=True)))
        numbers = pl.int_range(first, first + frame.height, eager=True)
        columns = self.found.columns
        typed: dict[str, pl.Series] = {}
        failed: dict[str, pl.Series] = {}
        for name, want in self.types.items():
            column = frame.get_column(name)
            typed[name] = _cast(column, self.found.types[name], want)
            if typed[name].null_count() > column.null_count():
                failed[name] = typed[name].is_null() & column.is_not_null()
        for helper in (columns.op, columns.time, *self.fmt.sequence_by):
            if helper is not None and helper not in typed:
                values = frame.get_column(helper)
                typed[helper] = _text(values) if helper == columns.op else values
        ready = pl.DataFrame(list(typed.values()))
        if not failed and is_clean(ready, columns, self.file, self.fmt):
            rows = change_rows(ready, columns, self.file, self.fmt, self.schema, numbers)
            return Chunk(rows, no_rejects(), rows.height, {})
        return checked_chunk(
            ready, columns, self.file, self.fmt, self.schema, numbers,
            reasons=self._reasons(frame, failed), raw=lambda bad: _json_rows(frame.filter(bad)),
        )  # fmt: skip

    def _reasons(self, frame: pl.DataFrame, failed: dict[str, pl.Series]) -> pl.Series:
        reasons = pl.repeat(None, frame.height, dtype=pl.String, eager=True)
        for name, mask in failed.items():
            shown = "'" + _text(frame.get_column(name)).str.slice(0, _SHOWN_CHARS) + f"' is not a {self.types[name]}"
            reasons = reasons.zip_with(~mask | reasons.is_not_null(), f"column '{name}': " + shown)
        return reasons


def _cast(column: pl.Series, have: str, want: str) -> pl.Series:
    """The column as the target type; text that does not parse becomes NULL."""
    dtype = polars_type(want)
    if isinstance(column.dtype, pl.Datetime):
        return _timestamps(column, dtype)
    if have == "string" and column.dtype != dtype:
        text = _text(column)
        return parse_text(text, want).alias(column.name)
    if have == "string":
        return parse_text(column, want).alias(column.name)
    return column if column.dtype == dtype else column.cast(dtype)


def _timestamps(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Microseconds, in UTC or naive: a file's times are UTC whether or not the reader says so."""
    kind = cast("pl.Datetime", column.dtype)
    utc = column if kind.time_zone in (None, "UTC") else column.dt.convert_time_zone("UTC")
    naive = utc.dt.replace_time_zone(None).dt.cast_time_unit("us")
    return naive.dt.replace_time_zone("UTC") if cast("pl.Datetime", dtype).time_zone else naive


def _text(column: pl.Series) -> pl.Series:
    if column.dtype == pl.Time:
        return column.dt.to_string("%H:%M:%S%.6f").str.replace(r"\.0{6}$", "")
    return column.cast(pl.String)


def _json_rows(frame: pl.DataFrame) -> pl.Series:
    """Each row as JSON, in the file's column order; bytes as hex digits."""
    rows = [
        json.dumps(
            row, default=lambda value: value.hex() if isinstance(value, bytes) else str(value), ensure_ascii=False
        )
        for row in frame.iter_rows(named=True)
    ]
    return pl.Series(rows, dtype=pl.String)
