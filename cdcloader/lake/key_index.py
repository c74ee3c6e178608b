"""The key columns of one data file, made ready so that a lookup costs what the batch costs, not the file.

Rows in key order are searched as they stand. Otherwise they are sorted, each with its position. Composite keys are
searched by their leading column while few rows share its values, else by a sorted hash of the whole key; a hash only
proposes, the key columns decide. NULL is no key, so rows that hold one are left out. No I/O happens here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, cast

import numpy as np
import polars as pl

from cdcloader.lake.datafiles import POSITION, Numbers

NET = "__net"
HASH = "__hash"

# From this part of the file's rows on, a join is quicker than a search for each key. Integers that stand in order are
# joined by merging.
_MERGE_SHARE, _JOIN_SHARE = 64, 4
# So many rows of the same leading values a key are compared before a hash pays.
_SHARED_ROWS_A_KEY, _SHARED_ROWS = 8, 4_096
# Up to here a decimal's digits fit 64 bits.
SHORT_DIGITS = 18

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the zone is that of the column
# Integers are searched as NumPy has them: Polars takes a tenth of a millisecond a call, whatever it has to do.
Column = pl.Series | Numbers


@dataclass(frozen=True, slots=True)
class RowGroups:
    """The row groups of a Parquet file: the bounds of the key columns (in physical form) in each.

    `starts` are their first positions and, at the end, the number of rows.
    """

    starts: tuple[int, ...]
    bounds: tuple[Mapping[str, tuple[Any, Any]], ...]

    def __len__(self) -> int:
        return len(self.bounds)

    @property
    def rows(self) -> int:
        """The rows of the file."""
        return self.starts[-1]


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Pairs of a row of the file (its position) and a row of the net changes: two columns of the same length."""

    positions: Numbers
    nets: Numbers

    def __len__(self) -> int:
        return len(self.positions)

    def only(self, chosen: Numbers) -> Hits:
        """The pairs that the flags choose."""
        return Hits(self.positions[chosen], self.nets[chosen])


@dataclass(frozen=True)
class KeyIndex:
    """`frame` holds the key columns `names` in physical form, in the order of what is searched.

    Without a column `POSITION` its rows are those of the file. `rows` are the file's rows, dead ones included, and
    `lowest` is the frame's row with the lowest key. `covered` are the row groups that were read, None for all of them.
    """

    names: tuple[str, ...]
    frame: pl.DataFrame
    rows: int
    lowest: int | None
    groups: RowGroups | None = None
    covered: frozenset[int] | None = None

    @functools.cached_property
    def bytes(self) -> int:
        """What the index takes in memory."""
        views = sum(dtype in (pl.String, pl.Binary) for dtype in self.frame.dtypes)
        return int(self.frame.estimated_size()) + 16 * views * self.frame.height

    @property
    def searched(self) -> str:
        """The column by which the frame is ordered."""
        return HASH if HASH in self.frame.columns else self.names[0]

    @functools.cached_property
    def column(self) -> Column:
        """The column by which the frame is ordered, as it is searched."""
        return _column(self.frame[self.searched])

    @functools.cached_property
    def positions(self) -> Numbers | None:
        """The frame's rows in the file; None where they stand as there."""
        return self.frame[POSITION].to_numpy() if POSITION in self.frame.columns else None

    @functools.cached_property
    def dtypes(self) -> list[pl.DataType]:
        """The types of the key columns in physical form."""
        return [self.frame[name].dtype for name in self.names]

    def ready(self) -> KeyIndex:
        """The same; what a search asks it is worked out now, not in the batch that comes next."""
        for name in ("bytes", "column", "positions", "dtypes"):
            getattr(self, name)
        return self

    def has(self, keys: pl.DataFrame) -> bool:
        """Whether the index is of these key columns, with these types."""
        return keys.columns == [*self.names, NET] and keys.dtypes[:-1] == self.dtypes

    def first(self, types: Mapping[str, pl.DataType]) -> dict[str, Any]:
        """The lowest key as the table's values; empty when it is not known, or Python cannot say it."""
        if self.lowest is None or self.covered is not None:
            return {}
        try:
            return {name: _logical(self.frame[name][self.lowest], types[name]) for name in self.names}
        except (OverflowError, ValueError):
            return {}


def build(
    keys: pl.DataFrame, rows: int, *, groups: RowGroups | None = None, covered: frozenset[int] | None = None
) -> KeyIndex:
    """The index of a file of `rows` rows from its key columns in the table's types (or in physical form).

    Rows stand as in the file; unless `keys` has them all, its column `POSITION` says which they are.
    """
    names = tuple(name for name in keys.columns if name != POSITION)
    # A column in one piece is searched as it lies; each search of several pieces would first copy them together.
    frame = physical(keys).rechunk()
    if any(frame[name].null_count() for name in names):
        frame = _positioned(frame).drop_nulls(list(names))
    if frame[names[0]].is_sorted():
        frame = _flagged(frame, names[0])
    elif len(names) == 1:
        frame = _positioned(frame).sort(names[0])
    else:
        frame = _hashed(frame, names)
    return KeyIndex(names, frame, rows, _lowest_row(frame, names), groups, covered)


def restore(names: Sequence[str], frame: pl.DataFrame, rows: int, lowest: int | None) -> KeyIndex:
    """An index of a whole file from its parts, when they come from the disk."""
    index = KeyIndex(tuple(names), frame, rows, lowest)
    return replace(index, frame=_flagged(frame, index.searched)).ready()


def extend(
    index: KeyIndex | None, keys: pl.DataFrame, groups: RowGroups, numbers: Sequence[int], names: Sequence[str]
) -> KeyIndex:
    """An index of some row groups that covers further ones, whose `keys` have a `POSITION`."""
    read = physical(keys).select(*names, POSITION)
    covered = frozenset(numbers)
    if index is not None and index.covered is not None:
        read = pl.concat([index.frame.select(*names, POSITION), read]).sort(POSITION)
        covered |= index.covered
    return build(read, groups.rows, groups=groups, covered=covered)


def physical(keys: pl.DataFrame) -> pl.DataFrame:
    """Key columns as what is compared and kept: moments and short decimals as integers, one zero for floats."""
    as_they_are = (pl.String, pl.Binary, pl.Boolean)
    if all(dtype.is_integer() or dtype in as_they_are for dtype in keys.dtypes):
        return keys
    return keys.select(_physical(name, dtype) for name, dtype in keys.schema.items())


def _physical(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Decimal):
        # Longer ones have no integer type that Arrow knows; they are ordered and compared as they are.
        return column.to_physical().cast(pl.Int64) if dtype.precision <= SHORT_DIGITS else column
    if dtype.is_float():
        return column + pl.lit(0, dtype=dtype)
    return column.to_physical()


def _logical(value: Any, dtype: pl.DataType) -> Any:
    """A physical value as the table's; OverflowError or ValueError for a moment that Python does not know."""
    if isinstance(dtype, pl.Decimal):
        return value if isinstance(value, Decimal) else Decimal(value).scaleb(-dtype.scale)
    if dtype == pl.Date:
        return date.fromordinal(_EPOCH.toordinal() + value)
    if isinstance(dtype, pl.Datetime):
        return _EPOCH.replace(tzinfo=UTC if dtype.time_zone else None) + timedelta(microseconds=value)
    return value


def find(index: KeyIndex, keys: pl.DataFrame) -> tuple[Hits, KeyIndex]:
    """(hits, index): the rows that hold the keys.

    `keys` has the key columns in physical form and `NET`, sorted by key. The index that comes back is the given one,
    or one with a hash that later lookups should use.
    """
    if not keys.height or not index.frame.height:
        return _hits(index, _none(), keys, _none()), index
    if keys.height * _join_share(index) >= index.frame.height:
        return _join(index, keys), index
    if len(index.names) == 1:
        at, needle = _pairs(index.column, _column(keys[index.names[0]]))
        return _hits(index, at, keys, needle), index
    if HASH not in index.frame.columns:
        spans = _spans(index.column, _column(keys[index.names[0]]))
        if int((spans[1] - spans[0]).sum()) <= _SHARED_ROWS + _SHARED_ROWS_A_KEY * keys.height:
            return _verified(index, *expanded(*spans, np.arange(keys.height)), keys, index.names[1:]), index
        index = _with_hash(index)
    hashes = _hash(keys, index.names).to_numpy()
    order = np.argsort(hashes)
    at, needle = _pairs(index.column, hashes[order])
    return _verified(index, at, order[needle], keys, index.names), index


def find_together(lookups: Sequence[tuple[KeyIndex, pl.DataFrame]]) -> list[tuple[Hits, KeyIndex]]:
    """`find` of several files' indexes and keys. Integers are searched file by file, and compared all at once."""
    plain = [number for number, (index, keys) in enumerate(lookups) if _is_plain(index, keys)]
    hits = dict(zip(plain, _find_numbers([lookups[number] for number in plain]), strict=True)) if plain else {}
    return [
        (hits[number], index) if number in hits else find(index, keys) for number, (index, keys) in enumerate(lookups)
    ]


def _is_plain(index: KeyIndex, keys: pl.DataFrame) -> bool:
    """Whether `find` would search one column of integers."""
    if len(index.names) > 1 or not isinstance(index.column, np.ndarray):
        return False
    return 0 < keys.height * max(1, _join_share(index)) < len(index.column)


def _find_numbers(lookups: Sequence[tuple[KeyIndex, pl.DataFrame]]) -> list[Hits]:
    columns = [cast("Numbers", index.column) for index, _ in lookups]
    needles = [keys.to_series(0).to_numpy() for _, keys in lookups]
    nets = np.concatenate([keys.get_column(NET).to_numpy() for _, keys in lookups])
    places = [np.searchsorted(column, sought) for column, sought in zip(columns, needles, strict=True)]
    sought = np.concatenate(needles)
    equal = np.concatenate([column.take(at, mode="clip") for column, at in zip(columns, places, strict=True)]) == sought
    # A key rarely stands in a table twice; behind a file's last row, this compares that row itself.
    behind = [column.take(at + 1, mode="clip") for column, at in zip(columns, places, strict=True)]
    again = equal & (np.concatenate(behind) == sought)
    found = equal.nonzero()[0]
    ends = np.cumsum([len(keys) for keys in needles])
    borders = [0, *np.searchsorted(found, ends).tolist()]
    rows, nets = np.concatenate(places)[found], nets[found]
    twice = {int(number) for number in np.searchsorted(ends, again.nonzero()[0], side="right")}
    return [
        find(*lookup)[0] if number in twice else Hits(_in_file(lookup[0], rows[start:end]), nets[start:end])
        for number, (lookup, start, end) in enumerate(zip(lookups, borders, borders[1:], strict=False))
    ]


def _in_file(index: KeyIndex, rows: Numbers) -> Numbers:
    return rows if index.positions is None else index.positions[rows]


def _join_share(index: KeyIndex) -> int:
    dtypes = index.dtypes
    if any(dtype.is_float() for dtype in dtypes):
        # Joins of Polars 2.1 lose NaN where a frame has one row, or where both are in order.
        return 0
    return _MERGE_SHARE if len(dtypes) == 1 and dtypes[0].is_integer() else _JOIN_SHARE


def _join(index: KeyIndex, keys: pl.DataFrame) -> Hits:
    names = list(index.names)
    if len(names) == 1 and keys[names[0]].is_sorted():
        keys = _flagged(keys, names[0])
    found = _positioned(index.frame).join(keys, on=names, how="inner")
    return Hits(found[POSITION].to_numpy(), found[NET].to_numpy())


def _pairs(column: Column, needles: Column) -> tuple[Numbers, Numbers]:
    """(row of the ordered column, needle) for each row that equals a needle."""
    at = _search(column, needles, "left")
    last = len(column) - 1
    found = _where(_values(column, np.minimum(at, last)) == needles)
    at = at[found]
    # A key rarely stands in a table twice: only for one that does, the end of its rows is looked for.
    twice = _where(_values(column, np.minimum(at + 1, last)) == _values(column, at))
    twice = twice[at[twice] < last]
    if not twice.size:
        return at, found
    ends = at + 1
    ends[twice] = _search(column, _values(needles, found[twice]), "right")
    return expanded(at, ends, found)


def _spans(column: Column, needles: Column) -> tuple[Numbers, Numbers]:
    return _search(column, needles, "left"), _search(column, needles, "right")


def _column(column: pl.Series) -> Column:
    return column.to_numpy() if column.dtype.is_integer() else column


def _search(column: Column, needles: Column, side: Literal["left", "right"]) -> Numbers:
    if isinstance(column, np.ndarray):
        return np.searchsorted(column, needles, side=side)
    return column.search_sorted(pl.Series(needles), side=side).to_numpy().astype(np.int64)


def _values(column: Column, rows: Numbers) -> Column:
    return column[rows] if isinstance(column, np.ndarray) else taken(column, rows)


def taken(column: pl.Series, rows: Numbers) -> pl.Series:
    """The column's values at these rows, without the constant cost of `gather`."""
    return column[pl.Series(values=rows.astype(np.uint32))]


def _where(flags: Column) -> Numbers:
    return (flags if isinstance(flags, np.ndarray) else flags.to_numpy()).nonzero()[0]


def expanded(starts: Numbers, ends: Numbers, needles: Numbers) -> tuple[Numbers, Numbers]:
    """The rows of each span from start to end, one by one, beside the span's needle."""
    counts = ends.astype(np.int64) - starts
    before = np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.arange(int(counts.sum())) - before + np.repeat(starts, counts)
    return rows, np.repeat(needles, counts)


def _verified(index: KeyIndex, at: Numbers, needle: Numbers, keys: pl.DataFrame, names: Sequence[str]) -> Hits:
    """The hits among the proposed pairs: those whose columns `names` are equal."""
    same = np.ones(len(at), dtype=np.bool_)
    for name in names:
        same &= (taken(index.frame[name], at) == taken(keys[name], needle)).to_numpy()
    return _hits(index, at[same], keys, needle[same])


def _hits(index: KeyIndex, at: Numbers, keys: pl.DataFrame, needle: Numbers) -> Hits:
    return Hits(_in_file(index, at), keys[NET].to_numpy()[needle])


def _with_hash(index: KeyIndex) -> KeyIndex:
    frame = _hashed(index.frame, index.names)
    return replace(index, frame=frame, lowest=_lowest_row(frame, index.names))


def _hashed(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    return _positioned(frame).with_columns(_hash(frame, names)).sort(HASH)


def _hash(frame: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    return frame.select(names).hash_rows().alias(HASH)


def _positioned(frame: pl.DataFrame) -> pl.DataFrame:
    return frame if POSITION in frame.columns else frame.with_row_index(POSITION)


def _flagged(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    columns = frame.get_columns()
    # `with_columns` does the same in a hundred times the time.
    return pl.DataFrame([column.set_sorted() if column.name == name else column for column in columns])


def _lowest_row(frame: pl.DataFrame, names: Sequence[str]) -> int | None:
    if not frame.height:
        return None
    if len(names) == 1:
        return 0
    if HASH not in frame.columns:
        leading = frame[names[0]]
        frame = frame.head(int(_search(_column(leading), _column(leading.head(1)), "right")[0]))
    return int(frame.select(names).with_row_index(POSITION).bottom_k(1, by=names)[POSITION][0])


def _none() -> Numbers:
    return np.zeros(0, dtype=np.int64)
