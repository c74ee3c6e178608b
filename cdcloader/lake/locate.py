"""Where keys stand in the table: which files may hold them, and which rows do."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import Any

import numpy as np
import polars as pl
from pyroaring import BitMap64

from cdcloader.changes.schema import Schema, polars_type
from cdcloader.changes.type_names import decimal_parts
from cdcloader.lake import datafiles, key_index, row_groups
from cdcloader.lake.key_cache import Found, KeyCache
from cdcloader.lake.key_index import NET, Hits, KeyIndex
from cdcloader.lake.pruning import Bounds, narrowed
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects

# Spark cuts the timestamps of its statistics to milliseconds, so a maximum may lie that much too low.
_TIMESTAMP_SLACK = timedelta(milliseconds=1)
_FLOAT_DIGITS = 17
_INTEGER_LIMITS = (-(1 << 63), (1 << 63) - 1)
# A file with fewer rows is read whole: asking its footer first would cost more.
WHOLE_ROWS = 1 << 16
# At most this part of a file's row groups is read by itself.
_PARTIAL_SHARE = 4
# So few hits are looked up in a vector one by one; for more its rows are spread out first.
_FEW_HITS = 4_096
# Files are read side by side: on S3 most of the time is waiting.
_LOOKUPS = 8
# Files that are searched together. More would hold more: an index that comes from the disk may be copied for it.
_TOGETHER = 16

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Located:
    """A file that was looked into.

    `hits` pairs live rows of the file with rows of the net changes; `first` is the file's lowest key, or its lower
    bounds, or (), as far as it is known; `rows` its number of live rows.
    """

    file: DataFile
    hits: Hits
    first: Key
    rows: int


def candidates(files: Iterable[DataFile], keys: pl.DataFrame, schema: Schema) -> list[tuple[DataFile, pl.DataFrame]]:
    """The files whose statistics allow some of `keys`, each with those keys.

    `keys` holds the key columns and `NET`, sorted by key.
    """
    types = {field.name: field.type for field in schema}
    names = [name for name in keys.columns if name != NET]
    # NULL is no key, so a partition of NULL holds none.
    listed = [file for file in files if all(file.partition_values.get(name, "") is not None for name in names)]
    bounds = [{name: bounds_of(file, name, types[name]) for name in names} for file in listed]
    return [(listed[number], allowed) for number, allowed in narrowed(keys, bounds)]


def locate_all(
    objects: Objects,
    table: str,
    wanted: Sequence[tuple[DataFile, pl.DataFrame]],
    schema: Schema,
    *,
    cache: KeyCache,
    dead: Callable[[DataFile], BitMap64],
) -> list[Located]:
    """Look for the keys of `candidates`, each in its file; several are read at once, as far as they fit."""

    def one(number: int) -> Located:
        file, keys = wanted[number]
        return locate(objects, table, file, keys, schema, cache=cache, dead=dead(file))

    located: dict[int, Located] = {}
    kinds = _key_types(wanted[0][1], schema) if wanted else {}
    for start in range(0, len(wanted), _TOGETHER):
        portion = dict(enumerate(wanted[start : start + _TOGETHER], start))
        located |= _locate_known(objects.path_of(table), portion, kinds, cache, dead)
    rest = [number for number in range(len(wanted)) if number not in located]
    largest = max((wanted[number][0].size for number in rest), default=0)
    lookups = min(_LOOKUPS, len(rest), max(1, cache.memory_bytes // max(1, largest)))
    if lookups < 2:
        located |= {number: one(number) for number in rest}
    else:
        with ThreadPoolExecutor(lookups, thread_name_prefix="cdcloader-locate") as pool:
            located |= zip(rest, pool.map(one, rest), strict=True)
    return [located[number] for number in range(len(wanted))]


def _locate_known(
    place: str,
    wanted: Mapping[int, tuple[DataFile, pl.DataFrame]],
    kinds: Mapping[str, str],
    cache: KeyCache,
    dead: Callable[[DataFile], BitMap64],
) -> dict[int, Located]:
    """What is found in those files of which enough is known; without any reading.

    They are searched together: one by one, each search would find the processor's caches full of another file's keys.
    """
    lookups: dict[int, tuple[KeyIndex, pl.DataFrame]] = {}
    for number, (file, keys) in wanted.items():
        sought = key_index.physical(_in_partition(keys, file, kinds))
        known = cache.get(place, file) if sought.height and sought.width > 1 else None
        if known is not None and known[0].has(sought) and _suffices(known[0], sought):
            cache.count(known[1])
            lookups[number] = known[0], sought
    found = key_index.find_together(list(lookups.values()))
    located = {}
    for (number, (index, _)), (hits, better) in zip(lookups.items(), found, strict=True):
        file, _ = wanted[number]
        if better is not index:
            cache.put(place, file, better)
        located[number] = _located(file, index, hits, dead(file), kinds)
    return located


def locate(
    objects: Objects,
    table: str,
    file: DataFile,
    keys: pl.DataFrame,
    schema: Schema,
    *,
    cache: KeyCache,
    dead: BitMap64,
) -> Located:
    """Look for keys in one file, whose `dead` rows do not count. A key that stands there twice is found twice.

    `keys` holds the key columns and `NET`, sorted by key. Only key columns are read, and only those that the cache
    lacks. TableError when the file cannot be read.
    """
    kinds = _key_types(keys, schema)
    sought = key_index.physical(_in_partition(keys, file, kinds))
    if sought.width == 1 or not sought.height:
        rows = datafiles.stored_rows(objects, table, file)
        hits = _live(_every_row(rows, sought), dead)
        lows = tuple(bounds_of(file, name, kind)[0] for name, kind in kinds.items())
        return Located(file, hits, () if None in lows else lows, rows - len(dead))
    index = _index(objects, table, file, sought, schema, cache)
    hits, better = key_index.find(index, sought)
    if better is not index:
        cache.put(objects.path_of(table), file, better)
    return _located(file, index, hits, dead, kinds)


def _located(file: DataFile, index: KeyIndex, hits: Hits, dead: BitMap64, kinds: Mapping[str, str]) -> Located:
    lowest = index.first({name: polars_type(kinds[name]) for name in index.names})
    first = tuple(lowest[name] if name in lowest else bounds_of(file, name, kind)[0] for name, kind in kinds.items())
    return Located(file, _live(hits, dead), () if None in first else first, index.rows - len(dead))


def _key_types(keys: pl.DataFrame, schema: Schema) -> dict[str, str]:
    """The Delta types of the key columns, in their order."""
    types = {field.name: field.type for field in schema}
    return {name: types[name] for name in keys.columns if name != NET}


def _index(
    objects: Objects, table: str, file: DataFile, keys: pl.DataFrame, schema: Schema, cache: KeyCache
) -> KeyIndex:
    """The index of the file's keys, as far as these keys need it; reads what is not known."""
    place = objects.path_of(table)
    known, found = cache.get(place, file) or (None, Found.READ)
    if known is not None and not known.has(keys):
        known = None
    if known is not None and _suffices(known, keys):
        cache.count(found)
        return known
    cache.count(Found.READ)
    names = [name for name in keys.columns if name != NET]
    index = _read_partly(objects, table, file, keys, schema, known) or _read_whole(objects, table, file, schema, names)
    cache.put(place, file, index)
    return index


def _read_whole(objects: Objects, table: str, file: DataFile, schema: Schema, names: Sequence[str]) -> KeyIndex:
    stored = datafiles.read(objects, table, file, schema, columns=names, dead=BitMap64())
    return key_index.build(stored.select(names), stored.height)


def _read_partly(
    objects: Objects, table: str, file: DataFile, keys: pl.DataFrame, schema: Schema, known: KeyIndex | None
) -> KeyIndex | None:
    """An index of the row groups that may hold the keys, beside those known; None when they are not few."""
    names = [name for name in keys.columns if name != NET]
    groups = known.groups if known is not None else None
    if groups is None:
        if int(file.statistics().get("numRecords") or WHOLE_ROWS) < WHOLE_ROWS:
            return None
        groups = row_groups.read_footer(objects, table, file, schema, names)
    covered = known.covered if known is not None and known.covered is not None else frozenset[int]()
    missing = frozenset(number for number, _ in narrowed(keys, groups.bounds)) - covered
    if (len(missing) + len(covered)) * _PARTIAL_SHARE > len(groups):
        return None
    read = row_groups.read_groups(objects, table, file, schema, names, groups, sorted(missing))
    return key_index.extend(known, read, groups, sorted(missing), names)


def _suffices(known: KeyIndex, keys: pl.DataFrame) -> bool:
    """Whether the index holds all row groups that may hold the keys."""
    if known.covered is None or known.groups is None:
        return True
    return all(number in known.covered for number, _ in narrowed(keys, known.groups.bounds))


def _in_partition(keys: pl.DataFrame, file: DataFile, kinds: Mapping[str, str]) -> pl.DataFrame:
    """The keys whose partition columns have the file's values, without these columns, which its rows do not repeat."""
    for name in [name for name in kinds if name in file.partition_values] if file.partition_values else ():
        value = _partition_value(file.partition_values[name], kinds[name])
        keys = keys.filter(keys[name] == value) if value.null_count() == 0 else keys.clear()
        keys = keys.drop(name)
    return keys


def _every_row(rows: int, keys: pl.DataFrame) -> Hits:
    """Each row of a file whose partition is the whole key."""
    nets = keys[NET].to_numpy()
    return Hits(np.repeat(np.arange(rows), len(nets)), np.tile(nets, rows))


def _live(hits: Hits, dead: BitMap64) -> Hits:
    if not dead or not len(hits):
        return hits
    if len(hits) > _FEW_HITS:
        return hits.only(datafiles.alive(hits.positions, dead))
    return hits.only(np.array([position not in dead for position in hits.positions.tolist()], dtype=np.bool_))


def bounds_of(file: DataFile, name: str, kind: str) -> Bounds:
    """(minimum, maximum) of a column in a file, (None, None) where the file does not say."""
    if name in file.partition_values:
        value = _partition_value(file.partition_values[name], kind).item()
        return value, value
    return _bounds_in(file.stats, name, kind) if file.stats else (None, None)


@functools.lru_cache(maxsize=10_000)
def _partition_value(text: str | None, kind: str) -> pl.Series:
    return pl.select(datafiles.partition_literal(text, polars_type(kind))).to_series()


# Every batch asks for the key bounds of every file, and a file's statistics never change.
@functools.lru_cache(maxsize=50_000)
def _bounds_in(stats: str, name: str, kind: str) -> Bounds:
    lows, highs = _extremes(stats)
    low, high = lows.get(name), highs.get(name)
    if low is None or high is None:
        return None, None
    try:
        if parts := decimal_parts(kind):
            return _decimal_bound(low, parts[1], ROUND_FLOOR), _decimal_bound(high, parts[1], ROUND_CEILING)
        return _typed(low, kind), _typed(high, kind, slack=_TIMESTAMP_SLACK)
    except OverflowError:
        return None, None


# The columns of a composite key are asked for one after the other.
@functools.lru_cache(maxsize=8)
def _extremes(stats: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    statistics = json.loads(stats, parse_float=Decimal)
    return statistics.get("minValues") or {}, statistics.get("maxValues") or {}


def _typed(value: Any, kind: str, slack: timedelta = timedelta(0)) -> Any:
    if kind == "date":
        return date.fromisoformat(value)
    if kind in ("timestamp", "timestamp_ntz"):
        moment = datetime.fromisoformat(value) + slack
        if kind == "timestamp_ntz":
            return moment.replace(tzinfo=None)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return float(value) if kind in ("float", "double") else value


def _decimal_bound(value: Any, scale: int, rounding: str) -> Decimal:
    """A bound of a decimal column, widened where its writer may have rounded it.

    delta-rs takes decimals through 64-bit floats, which loses nothing up to 2**53 units of the last digit and shows in
    no more than 17 digits; whole numbers go on to 64-bit integers, cut at their limits: OverflowError.
    """
    if value in _INTEGER_LIMITS:
        raise OverflowError
    exact = Decimal(value)
    with localcontext(prec=80):
        digits = 0 if isinstance(value, int) else len(exact.as_tuple().digits)
        if digits > _FLOAT_DIGITS or abs(exact.scaleb(scale)) <= 1 << 53:
            return exact
        slack = abs(exact) / (1 << 52)
        return (exact + (slack if rounding == ROUND_CEILING else -slack)).quantize(Decimal(1).scaleb(-scale), rounding)
