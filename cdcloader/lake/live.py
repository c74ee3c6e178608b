"""A live data file as planning sees it: its size, its rows, and where its keys lie as far as statistics tell (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Key = tuple[Any, ...]
Partition = tuple[str | None, ...]

# Dead rows above this share cost readers more than writing the live ones once.
_DEAD_SHARE_MAX = 0.2
# Statistics hold so many characters of a text.
_CUT_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Live:
    """A live file as planning sees it; `low` and `high` bound its keys and are None where they are not known.

    `rows` counts dead rows too, and is 0 where it is not known. `written` orders the files of a table without a key.
    """

    path: str
    partition: Partition
    size: int
    rows: int = 0
    dead: int = 0
    low: Key | None = None
    high: Key | None = None
    written: int = 0
    vector: bool = False

    @property
    def live_bytes(self) -> float:
        """The bytes of its live rows."""
        return self.size * (self.rows - self.dead) / self.rows if self.rows else float(self.size)

    @property
    def is_dying(self) -> bool:
        """Whether so many of its rows are dead that the others are worth writing again."""
        return bool(self.rows) and self.dead > _DEAD_SHARE_MAX * self.rows

    @property
    def is_cut(self) -> bool:
        """Whether its bounds are texts that statistics may have cut."""
        return any(isinstance(value, str) and len(value) >= _CUT_CHARACTERS for value in (self.low or ()))

    @property
    def is_placed(self) -> bool:
        """Whether its bounds tell where it lies: cut texts that begin alike do not."""
        if self.low is None or self.high is None:
            return False
        for low, high in zip(self.low, self.high, strict=True):
            if isinstance(low, str) and len(low) >= _CUT_CHARACTERS and low[:-1] == high[: len(low) - 1]:
                return False
            if low != high:
                return True
        return True


def span_of(file: Live) -> tuple[Key, Key]:
    """A file's range in a form that compares as ranges of keys should.

    Statistics bound each column for itself, so where a file holds several values of a column, nothing is known of the
    next one at its ends: two files that share such a value are taken to meet there, not to overlap.
    """
    low: list[Any] = []
    high: list[Any] = []
    for least, raised in zip(file.low or (), file.high or (), strict=True):
        most = max(least, _unraised(raised))
        if least != most:
            return (*low, least, 2), (*high, most, 0)
        low += [least, 1]
        high += [most, 1]
    return tuple(low), tuple(high)


def end_of(file: Live) -> Key:
    """Where a file's range ends as `span_of` takes it: what is behind this belongs to the next file."""
    ends = list(zip(file.low or (), file.high or (), strict=True))
    at = next((at for at, (low, high) in enumerate(ends) if low != high), len(ends) - 1)
    return () if file.high is None else (*file.high[:at], _unraised(file.high[at]))


def _unraised(high: Any) -> Any:
    """The text of which a cut maximum was raised; neighbours would else overlap wherever they share that text."""
    if not isinstance(high, str) or len(high) < _CUT_CHARACTERS:
        return high
    return high[: _CUT_CHARACTERS - 1] + chr(max(0, ord(high[_CUT_CHARACTERS - 1]) - 1))
