"""Values of one type as another: text of any value, and values of a narrower type where they are any (pure).

The text of a value is its canonical one, so that a column that turns into text holds the same, whether a value was
there before or comes later: digits as the type has them (a decimal with all of its scale, a double as short as it can
be and without `.0`), `true` and `false`, `2026-03-01`, `2026-03-01 12:00:00` with six digits of fraction where it has
one and without a zone (UTC), bytes as hex digits.
"""

from __future__ import annotations

import polars as pl

from cdcloader.changes.schema import fits, polars_type
from cdcloader.changes.type_names import decimal_parts

_NUMBERS = frozenset({"byte", "short", "integer", "long", "float", "double"})
_MOMENTS = frozenset({"date", "timestamp", "timestamp_ntz"})


def as_text(column: pl.Series) -> pl.Series:
    """The canonical text of each value."""
    dtype = column.dtype
    if dtype == pl.Binary:
        return column.bin.encode("hex")
    if dtype == pl.Date:
        return column.dt.to_string("%Y-%m-%d")
    if dtype == pl.Time:
        return column.dt.to_string("%H:%M:%S%.6f").str.replace(r"\.0{6}$", "")
    if isinstance(dtype, pl.Datetime):
        return column.dt.to_string("%Y-%m-%d %H:%M:%S%.6f").str.replace(r"\.0{6}$", "")
    text = column.cast(pl.String)
    return text.str.replace(r"\.0$", "") if dtype.is_float() else text


def text_through(column: pl.Series, have: str, through: str | None) -> pl.Series:
    """The text of values of type `have` in a column that was of type `through` before it turned into text.

    A value that such a column could have held reads as it would have read there.
    """
    if through is not None and have != through and fits(have, through):
        column = column.cast(polars_type(through))
    return as_text(column)


def may_hold(have: str, want: str) -> bool:
    """Whether some values of type `have` may be values of type `want`: both are numbers, or both are times."""
    kinds = {"number" if kind in _NUMBERS or decimal_parts(kind) else kind for kind in (have, want)}
    return len(kinds) == 1 or kinds <= _MOMENTS


def exactly(column: pl.Series, have: str, want: str) -> pl.Series:
    """The values as type `want`; NULL where one is no value of it."""
    dtype = polars_type(want)
    if not may_hold(have, want):
        return pl.Series(column.name, [None], dtype=dtype).new_from_index(0, len(column))
    typed = column.cast(dtype, strict=False)
    # A cast cuts fractions and rounds digits: only what comes back as it was is the same value.
    back = typed.cast(column.dtype, strict=False)
    return typed.set((back.ne_missing(column)) & column.is_not_null(), None)
