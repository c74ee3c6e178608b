"""Which columns a Parquet file has, which of them are DMS's, and the Delta types of the others (pure)."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cdcloader.changes.schema import VOID, delta_type
from cdcloader.errors import TableError
from cdcloader.source.row_format import (
    TIMESTAMP_TEXT,
    Columns,
    FileInput,
    RowFormat,
    columns_of,
    place_of,
    renamed,
    resolve,
    usual_time_places,
)

_LOOKED_AT = 16
_MAX_DIGITS = 38
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


@dataclass(frozen=True, slots=True)
class ParquetLayout:
    """A file's columns, and the Delta type of each as the file has it."""

    columns: Columns
    types: dict[str, str]


def layout(parquet: pq.ParquetFile, file: FileInput, fmt: RowFormat, table_names: Sequence[str]) -> ParquetLayout:
    """The layout of an open file; `table_names` are the table's columns as far as they are known."""
    schema = parquet.schema_arrow
    names = resolve(renamed(schema.names, file, fmt), table_names)
    of_the_source = set(table_names) - set(fmt.keep_columns)
    op = _op_place(names, of_the_source, file)
    time = _time_place(parquet, names, of_the_source, op, fmt)
    columns = columns_of(names, op, time, file, fmt)
    types = {name: _file_type(parquet, column, file, fmt) for name, column in zip(names, schema, strict=True)}
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
        return place_of(names, fmt.timestamp_column)
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


def _file_type(parquet: pq.ParquetFile, field: pa.Field, file: FileInput, fmt: RowFormat) -> str:
    kind = field.type
    if is_wide(kind):
        return "string"
    if pa.types.is_timestamp(kind) and kind.tz is not None and _is_legacy(parquet, field.name):
        kind = pa.timestamp(kind.unit)
    if pa.types.is_null(kind):
        return VOID
    try:
        return _delta_type(kind, fmt.timestamps)
    except (ValueError, *UNREADABLE) as error:
        raise TableError(
            f"column {field.name!r} has the type {field.type}, which a Delta table cannot hold",
            where=file.name,
            hint="leave the column out, or change its type, by a DMS transformation rule",
        ) from error


def is_wide(kind: pa.DataType) -> bool:
    """Whether it is a decimal of more than 38 digits, which Delta has not, nor Polars; it becomes text."""
    return bool(pa.types.is_decimal256(kind)) and kind.precision > _MAX_DIGITS


@functools.lru_cache(maxsize=1_000)
def _delta_type(kind: pa.DataType, timestamps: str) -> str:
    # Not by way of an empty table: pyarrow would import pandas for it, where that is installed.
    return delta_type(pl.Schema(pa.schema([("column", kind)]))["column"], timestamps=timestamps)


def _is_legacy(parquet: pq.ParquetFile, name: str) -> bool:
    """Whether a timestamp has only the old annotation that DMS writes, which cannot say that it names no zone."""
    leaves = (parquet.schema.column(place) for place in range(len(parquet.schema)))
    leaf = next(leaf for leaf in leaves if leaf.path.split(".")[0] == name)
    logical = json.loads(leaf.logical_type.to_json())
    return bool(logical.get("is_from_converted_type"))
