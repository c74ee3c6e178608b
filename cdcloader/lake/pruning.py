"""Which ranges of keys may hold which of the keys looked for: files by their statistics, row groups by the footer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from cdcloader.lake.datafiles import Numbers
from cdcloader.lake.key_index import NET, expanded, taken

Bounds = tuple[Any, Any]
_UNKNOWN: Bounds = (None, None)
_PAIRS = 1 << 20


def narrowed(keys: pl.DataFrame, ranges: Sequence[Mapping[str, Bounds]]) -> Iterator[tuple[int, pl.DataFrame]]:
    """(number, keys) of each range that may hold some of `keys`, which has the key columns and `NET`, sorted by key.

    A range gives (minimum, maximum) of key columns; a column that it lacks, or that is None, may hold anything.
    """
    if not keys.height or not ranges:
        return
    leading, *others = [name for name in keys.columns if name != NET]
    starts, ends = _slices(keys[leading], *_bounds(keys[leading], ranges))
    hit = (starts < ends).nonzero()[0]
    if not others:
        for number in hit.tolist():
            yield number, keys.slice(starts[number], ends[number] - starts[number])
        return
    for numbers in _portions(hit, ends - starts):
        yield from _compared(keys, others, ranges, numbers, starts[numbers], ends[numbers])


def _bounds(keys: pl.Series, ranges: Sequence[Mapping[str, Bounds]]) -> tuple[pl.Series, pl.Series]:
    """The ranges' minima and maxima of a key column, NULL where they are not known."""
    bounds = [each.get(keys.name, _UNKNOWN) for each in ranges]
    if keys.dtype.is_float() and keys.is_nan().any():
        # No bounds say whether a NaN lies between them.
        bounds = [_UNKNOWN] * len(bounds)
    lows = pl.Series([low for low, _ in bounds], dtype=keys.dtype, strict=False)
    return lows, pl.Series([high for _, high in bounds], dtype=keys.dtype, strict=False)


def _slices(keys: pl.Series, lows: pl.Series, highs: pl.Series) -> tuple[Numbers, Numbers]:
    """Per range, where it begins and ends in the sorted leading key column."""
    starts = keys.search_sorted(lows, side="left").to_numpy().astype(np.int64)
    ends = keys.search_sorted(highs, side="right").to_numpy().astype(np.int64)
    return (
        np.where(lows.is_null().to_numpy(), 0, starts),
        np.where(highs.is_null().to_numpy(), keys.len(), ends),
    )


def _portions(numbers: Numbers, counts: Numbers) -> list[Numbers]:
    """The ranges in portions that hold about `_PAIRS` pairs of a range and a key each."""
    portion = np.cumsum(counts[numbers]) // _PAIRS
    return np.split(numbers, (np.diff(portion) > 0).nonzero()[0] + 1)


def _compared(
    keys: pl.DataFrame,
    names: Sequence[str],
    ranges: Sequence[Mapping[str, Bounds]],
    numbers: Numbers,
    starts: Numbers,
    ends: Numbers,
) -> Iterator[tuple[int, pl.DataFrame]]:
    """What the other key columns allow of the ranges' slices; all at once, as there may be thousands of ranges."""
    rows, at = expanded(starts, ends, np.arange(len(numbers)))
    allowed = np.ones(len(rows), dtype=np.bool_)
    portion = [ranges[number] for number in numbers]
    for name in names:
        lows, highs = _bounds(keys[name], portion)
        values = taken(keys[name], rows)
        inside = (values >= taken(lows, at)).fill_null(value=True) & (values <= taken(highs, at)).fill_null(value=True)
        allowed &= inside.to_numpy()
    picked = keys[pl.Series(values=rows[allowed].astype(np.uint32))]
    counts = np.bincount(at[allowed], minlength=len(numbers))
    begins = np.cumsum(counts) - counts
    for each in counts.nonzero()[0].tolist():
        yield int(numbers[each]), picked.slice(begins[each], counts[each])
