"""Where keys stand in the table: which files may hold them, and which rows do."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from cdcloader.changes.schema import Schema, polars_type
from cdcloader.lake import datafiles
from cdcloader.lake.datafiles import POSITION
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects

NET = "__net"
# Spark cuts the timestamps of its statistics to milliseconds, so a maximum may lie that much too low.
_TIMESTAMP_SLACK = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Located:
    """A file that was looked into.

    `hits` pairs a row of the file (`POSITION`) with a row of the net changes (`NET`); `first` is the file's
    lowest key, `rows` its number of live rows.
    """

    file: DataFile
    hits: pl.DataFrame
    first: tuple[Any, ...]
    rows: int


def candidates(files: Iterable[DataFile], keys: pl.DataFrame, schema: Schema) -> list[tuple[DataFile, pl.DataFrame]]:
    """The files whose statistics allow some of `keys`, each with those keys.

    `keys` holds the key columns and `NET`, sorted by key.
    """
    listed = list(files)
    types = {field.name: field.type for field in schema}
    names = [name for name in keys.columns if name != NET]
    bounds = [{name: bounds_of(file, name, types[name]) for name in names} for file in listed]
    if not keys.height:
        return []
    leading = names[0]
    starts, ends = _slices(keys[leading], [bound[leading] for bound in bounds])
    found = []
    for file, bound, start, end in zip(listed, bounds, starts, ends, strict=True):
        allowed = keys.slice(start, max(0, end - start))
        for name in names[1:]:
            low, high = bound[name]
            dtype = polars_type(types[name])
            if allowed.height and low is not None:
                allowed = allowed.filter(pl.col(name).is_between(pl.lit(low, dtype=dtype), pl.lit(high, dtype=dtype)))
        if allowed.height:
            found.append((file, allowed))
    return found


def locate(objects: Objects, table: str, file: DataFile, keys: pl.DataFrame, schema: Schema) -> Located:
    """Look for keys in one file; reads its key columns only. A key that stands there twice is found twice."""
    names = [name for name in keys.columns if name != NET]
    stored = datafiles.read(objects, table, file, schema, columns=names)
    hits = stored.join(keys, on=names, how="inner").select(POSITION, NET)
    return Located(file, hits, lowest(stored, names), stored.height)


def lowest(frame: pl.DataFrame, names: Sequence[str]) -> tuple[Any, ...]:
    """The lowest key of a frame as a tuple; () when it has no rows."""
    for name in names:
        if frame.height:
            frame = frame.filter(pl.col(name) == pl.col(name).min())
    return frame.select(names).row(0) if frame.height else ()


def bounds_of(file: DataFile, name: str, kind: str) -> tuple[Any, Any]:
    """(minimum, maximum) of a column in a file, (None, None) where the file does not say."""
    if name in file.partition_values:
        text = file.partition_values[name]
        if text is None:
            return None, None
        value = pl.select(datafiles.partition_literal(text, polars_type(kind))).item()
        return value, value
    low, high = _stored_bounds(file, name)
    if low is None or high is None:
        return None, None
    return _typed(low, kind), _typed(high, kind, slack=_TIMESTAMP_SLACK)


# Every batch asks for the key bounds of every file, and a file's statistics never change.
@functools.lru_cache(maxsize=20_000)
def _bounds_in(stats: str, name: str) -> tuple[Any, Any]:
    statistics = json.loads(stats, parse_float=Decimal)
    return statistics.get("minValues", {}).get(name), statistics.get("maxValues", {}).get(name)


def _stored_bounds(file: DataFile, name: str) -> tuple[Any, Any]:
    return _bounds_in(file.stats, name) if file.stats else (None, None)


def _typed(value: Any, kind: str, slack: timedelta = timedelta(0)) -> Any:
    if kind == "date":
        return date.fromisoformat(value)
    if kind in ("timestamp", "timestamp_ntz"):
        moment = datetime.fromisoformat(value) + slack
        return moment if kind == "timestamp" else moment.replace(tzinfo=None)
    if kind.startswith("decimal"):
        return Decimal(value)
    return float(value) if kind in ("float", "double") else value


def _slices(keys: pl.Series, bounds: Sequence[tuple[Any, Any]]) -> tuple[list[int], list[int]]:
    """Per file, where its range of the sorted leading key column begins and ends."""
    lows = pl.Series([low for low, _ in bounds], dtype=keys.dtype, strict=False)
    highs = pl.Series([high for _, high in bounds], dtype=keys.dtype, strict=False)
    starts = keys.search_sorted(lows, side="left").to_list()
    ends = keys.search_sorted(highs, side="right").to_list()
    known = [low is not None for low, _ in bounds]
    return (
        [start if k else 0 for start, k in zip(starts, known, strict=True)],
        [end if k else keys.len() for end, k in zip(ends, known, strict=True)],
    )
