"""Typed columns as another Delta type, value by value: what does not come through unchanged has failed (pure).

Two casts leave something out because that is what they are for: a timestamp's time of day where it becomes a date,
and digits where a number becomes a float or double.
"""

from __future__ import annotations

import polars as pl

from cdcloader.changes.conversion import as_text
from cdcloader.changes.schema import fits, polars_type
from cdcloader.changes.type_names import decimal_parts
from cdcloader.source.text_values import parse_text

_INTEGERS = ("byte", "short", "integer", "long")
_FLOATS = ("float", "double")
_TIMES = ("date", "timestamp", "timestamp_ntz")


def castable(have: str, want: str) -> bool:
    """Whether values of type `have` may be values of type `want` at all."""
    if "string" in (have, want) or have == want:
        return True
    if have in _TIMES and want in _TIMES:
        return True
    if "boolean" in (have, want):
        return {have, want} <= {"boolean", *_INTEGERS}
    return _is_number(have) and _is_number(want)


def keeps_apart(have: str, want: str) -> bool:
    """Whether no two values of type `have` become one, and none is lost: what a key's type may become."""
    if fits(have, want) or (have, want) in (("date", "timestamp"), ("date", "timestamp_ntz")):
        return True
    return want == "string" and have not in (*_FLOATS, "binary")


def cast_values(column: pl.Series, have: str, want: str) -> tuple[pl.Series, pl.Series]:
    """The column as `want`, and where a value has failed (its place holds NULL or anything)."""
    if have == want:
        return column, pl.repeat(value=False, n=len(column), eager=True)
    if have == "string":
        values = parse_text(column, want)
        return values, values.is_null() & column.is_not_null()
    if want == "string":
        return as_text(column), pl.repeat(value=False, n=len(column), eager=True)
    values = _times(column, want) if have in _TIMES else column.cast(polars_type(want), strict=False)
    lost = values.is_null() & column.is_not_null()
    if want in _FLOATS:
        beyond = values.is_infinite() & column.cast(pl.Float64, strict=False).is_finite()
        return values, lost | beyond.fill_null(value=False)
    if _is_number(have) or have == "boolean":
        back = values.cast(column.dtype, strict=False)
        return values, lost | (back != column).fill_null(value=False)
    return values, lost


def as_stored(values: pl.Series, kind: str) -> pl.Series:
    """The values of an expression as the Delta type that holds them: a moment that names no zone is one of UTC."""
    dtype = polars_type(kind)
    if values.dtype == dtype:
        return values
    if kind == "string" and values.dtype != pl.Null:
        return as_text(values)
    if isinstance(values.dtype, pl.Datetime):
        return _times(values.cast(pl.Datetime("us", values.dtype.time_zone)), kind)
    return values.cast(dtype)


def _times(column: pl.Series, want: str) -> pl.Series:
    if want == "date":
        return column.dt.date() if isinstance(column.dtype, pl.Datetime) else column
    if not isinstance(column.dtype, pl.Datetime):
        return column.cast(polars_type(want))
    naive = column if column.dtype.time_zone is None else column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return naive.dt.replace_time_zone("UTC") if want == "timestamp" else naive


def _is_number(kind: str) -> bool:
    return kind in _INTEGERS or kind in _FLOATS or decimal_parts(kind) is not None
