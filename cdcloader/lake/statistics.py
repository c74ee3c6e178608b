"""Per-file statistics as the Delta protocol wants them ("Per-file Statistics") (pure).

Strings are cut at 32 characters (a cut maximum is raised so that it still bounds), timestamps are ISO 8601, decimals
are JSON numbers. A summary is a frame of one row: per column the number of NULLs (`n:`), minimum (`a:`), maximum
(`z:`) and, for floats, whether there is a NaN (`x:`); summaries of parts combine to the summary of the whole.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl

_STRING_LIMIT = 32


def summarise(frame: pl.DataFrame) -> pl.DataFrame:
    """The summary of a frame."""
    bounded = [name for name, dtype in frame.schema.items() if dtype != pl.Binary]
    floats = [name for name in bounded if frame.schema[name].is_float()]
    return frame.select(
        pl.all().null_count().name.prefix("n:"),
        *(pl.col(name).min().alias(f"a:{name}") for name in bounded),
        *(pl.col(name).max().alias(f"z:{name}") for name in bounded),
        *(pl.col(name).is_nan().any().alias(f"x:{name}") for name in floats),
    )


def combine(summaries: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The summary of the rows of several frames."""
    combined = {"n": pl.Expr.sum, "a": pl.Expr.min, "z": pl.Expr.max, "x": pl.Expr.any}
    whole = pl.concat(summaries)
    return whole.select(combined[name[0]](pl.col(name)) for name in whole.columns)


def to_json(rows: int, summary: pl.DataFrame) -> str:
    """The `stats` of an add action for a file of `rows` rows."""
    row = summary.select(_readable(name, dtype) for name, dtype in summary.schema.items()).row(0, named=True)
    columns = [name[2:] for name in summary.columns if name.startswith("n:")]
    usable = [name for name in columns if row.get(f"a:{name}") is not None and not row.get(f"x:{name}")]
    temporal = {name[2:] for name, dtype in summary.schema.items() if dtype.is_temporal()}
    usable = [name for name in usable if name not in temporal or not _beyond_years(row, name)]
    lows = {name: _bound(row[f"a:{name}"], upper=False) for name in usable}
    highs = {name: _bound(row[f"z:{name}"], upper=True) for name in usable}
    nulls = {name: str(row[f"n:{name}"]) for name in columns}
    return (
        f'{{"numRecords":{rows},"minValues":{_object(lows)},"maxValues":{_object(highs)},"nullCount":{_object(nulls)}}}'
    )


def _readable(name: str, dtype: pl.DataType) -> pl.Expr:
    """Moments as text, because Python knows no year before 1 or after 9999."""
    if not dtype.is_temporal():
        return pl.col(name)
    pattern = "%Y-%m-%d" if dtype == pl.Date else "%Y-%m-%dT%H:%M:%S%.6f"
    zone = "Z" if isinstance(dtype, pl.Datetime) and dtype.time_zone else ""
    return (pl.col(name).dt.to_string(pattern) + zone).alias(name)


def _object(members: Mapping[str, str | None]) -> str:
    return "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in members.items() if v is not None) + "}"


def _bound(value: Any, *, upper: bool) -> str | None:
    """A bound as a JSON literal; None when there is none to give."""
    if isinstance(value, str):
        return _string_bound(value, upper=upper)
    if isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return json.dumps(value) if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return f"{value:f}"
    return None


def _beyond_years(row: Mapping[str, Any], name: str) -> bool:
    """Whether a bound has no four-digit year, which readers of statistics cannot parse."""
    return not all(re.match(r"\d{4}-", row[f"{side}:{name}"]) for side in "az")


def _string_bound(value: str, *, upper: bool) -> str | None:
    if len(value) <= _STRING_LIMIT or not upper:
        return json.dumps(value[:_STRING_LIMIT], ensure_ascii=False)
    # Raising the last character that can be raised keeps the cut text above every value it stands for.
    cut = value[:_STRING_LIMIT]
    while cut:
        raised = ord(cut[-1]) + 1
        if not 0xD800 <= raised <= 0xDFFF and raised <= 0x10FFFF:
            return json.dumps(cut[:-1] + chr(raised), ensure_ascii=False)
        cut = cut[:-1]
    return None
