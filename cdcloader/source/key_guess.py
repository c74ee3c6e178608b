"""A guess at a table's primary key, from the names of its columns and a sample of its rows (pure)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

_LIKELY_MAX = 6
# A sample of fewer rows says nothing of columns that no name and no place speaks for.
_TELLING_ROWS = 20
_KEY_NAME = re.compile(r"(_?(id|key|no|nr|num|number|code|uuid|guid|pk))$", re.IGNORECASE)
_PART_NAME = re.compile(
    r"(line|pos|position|item|seq|sequence|nr|no|number|version|lang|language|year)$", re.IGNORECASE
)
_NO_KEY = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?|\d{4}-\d\d-\d\d[ T]\d\d:.*|true|false", re.IGNORECASE)
_UNLIKELY = 9

Row = Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Guess:
    """The columns of a key, () where nothing looks like one, and what speaks for them, for people."""

    columns: tuple[str, ...]
    why: str


def guess_key(table: str, columns: Sequence[str], rows: Sequence[Row], partial: Sequence[Row] = ()) -> Guess:
    """The likeliest key of a table: no NULL and no value twice in `rows`, which are rows that exist side by side.

    In `partial` rows (of updates and deletes) other columns than the key's may be empty, but never the key's.
    """
    places = [place for place in range(len(columns)) if _is_filled(place, rows, partial)]
    likely = sorted(places, key=lambda place: (_rank(table, columns[place], place, rows), place))
    counted = f"{len(rows)} row{'' if len(rows) == 1 else 's'}"
    for place in likely:
        rank = _rank(table, columns[place], place, rows)
        if rank < _UNLIKELY and _is_unique((place,), rows) and (rank <= _NAMED or len(rows) >= _TELLING_ROWS):
            return Guess((columns[place],), _why(counted, rows))
    parts = [place for place in likely if _may_be_part(columns[place], place, rows)][:_LIKELY_MAX]
    for pair in itertools.combinations(sorted(parts), 2):
        if len(rows) > 1 and _is_unique(pair, rows):
            return Guess(tuple(columns[place] for place in pair), f"together {_why(counted, rows)}")
    return Guess((), f"no column, and no likely two, without NULLs and doubles in {counted}")


_NAMED = 4


def _why(counted: str, rows: Sequence[Row]) -> str:
    return f"no NULL and no value twice in {counted}" if len(rows) > 1 else f"by its name alone: {counted} seen"


def _rank(table: str, name: str, place: int, rows: Sequence[Row]) -> int:
    """How far a column is from looking like a key: by its name, then by its place."""
    folded, stem = name.lower(), table.lower()
    singular = stem[:-3] + "y" if stem.endswith("ies") else stem.removesuffix("s")
    if folded == "id":
        return 0
    if folded.replace("_", "") in {f"{each.replace('_', '')}{end}" for each in (stem, singular) for end in _ENDS}:
        return 1
    if any(_NO_KEY.fullmatch(row[place] or "") for row in rows):
        return _UNLIKELY
    if _KEY_NAME.search(name):
        return 2 if place == 0 else 3
    return _NAMED if place == 0 else _NAMED + 1


_ENDS = ("id", "key", "no", "nr", "number", "code", "uuid", "pk")


def _may_be_part(name: str, place: int, rows: Sequence[Row]) -> bool:
    named = place < 2 or _KEY_NAME.search(name) or _PART_NAME.search(name)
    return bool(named) and not any(_NO_KEY.fullmatch(row[place] or "") for row in rows)


def _is_filled(place: int, rows: Sequence[Row], partial: Sequence[Row]) -> bool:
    return all(row[place] is not None for row in itertools.chain(rows, partial))


def _is_unique(places: Sequence[int], rows: Sequence[Row]) -> bool:
    return len({tuple(row[place] for place in places) for row in rows}) == len(rows)
