"""Columns of Parquet files as the types that the table has (pure)."""

from __future__ import annotations

from typing import cast

import polars as pl

from cdcloader.changes.conversion import as_text, exactly, text_through
from cdcloader.changes.schema import VOID, fits, polars_type
from cdcloader.source.text_values import parse_text


def always_fits(have: str, want: str) -> bool:
    """Whether no value of a file's column can turn out to be none of the table's."""
    return want == "string" or (have != "string" and fits(have, want))


def cast_column(column: pl.Series, have: str, want: str, through: str | None) -> pl.Series:
    """The column as the target type; what is no value of it becomes NULL.

    A column of text was of the type `through` before, if it was of another.
    """
    dtype = polars_type(want)
    if want == "string" and have not in ("string", VOID):
        return text_through(cast_column(column, have, have, None), have, through).alias(column.name)
    if not always_fits(have, want) and have != "string":
        return exactly(cast_column(column, have, have, None), have, want).alias(column.name)
    if isinstance(column.dtype, pl.Datetime):
        return _timestamps(column, dtype)
    if have == "string" and column.dtype != dtype:
        text = text_of(column)
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


def text_of(column: pl.Series) -> pl.Series:
    return as_text(column) if column.dtype == pl.Time else column.cast(pl.String)
