"""A table's history: rows with every hard value, changes of them, and the oracle that knows what is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from cdcloader.demo.dms_writer import Change, DmsSettings

Row = dict[str, Any]
KEY = ("id", "part")
COLUMNS = (
    ("id", "long"),
    ("part", "string"),
    ("text", "string"),
    ("price", "decimal(12,2)"),
    ("ratio", "double"),
    ("flag", "boolean"),
    ("raw", "binary"),
    ("day", "date"),
    ("at", "timestamp"),
    ("small", "uint1"),
    ("big", "uint8"),
    ("clock", "time"),
)
TEXTS = (
    "plain", "", 'say "x", twice', "two\nlines", "\r\n", "ümlaut 日本", "NULL", "null", " padded ", "a|b;c\td", "'",
    "\\N", "I", "0x1F", "007", "1e5", "?", "true", '"', "x" * 300,
)  # fmt: skip
LATE, DROPPED = ("late", "string"), "clock"
# What is left where fields are copied raw (Rfc4180=false): anything else could not be told apart.
TAME = ("plain", "ümlaut 日本", " padded ", "'", "007", "true", 'half "quoted')

_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass
class History:
    """One table of a source database, and what its target must hold in the end: `rows` by key.

    `changed_keys` counts the changes that are two, because they move a row to another key.
    """

    settings: DmsSettings
    chance: Random
    texts: tuple[str, ...] = TEXTS
    moves_keys: bool = False
    rows: dict[tuple[Any, ...], Row] = field(default_factory=dict)
    changed_keys: int = 0
    written: int = 0
    columns: tuple[tuple[str, str], ...] = COLUMNS
    """Those of the files; the table has `columns_of_table`."""
    _source: dict[tuple[Any, ...], Row] = field(default_factory=dict)
    _last_id: int = 0
    _number: int = 0
    _last: datetime = _BEGINNING

    @property
    def columns_of_table(self) -> tuple[tuple[str, str], ...]:
        """Columns that were dropped stay in the table."""
        return (*COLUMNS, *(column for column in self.columns if column not in COLUMNS))

    def evolve(self) -> None:
        """The source's table gets a column and loses one."""
        self.columns = (*(column for column in COLUMNS if column[0] != DROPPED), LATE)
        self._source = {key: {**row, DROPPED: None, LATE[0]: None} for key, row in self._source.items()}

    def load(self, count: int) -> list[Row]:
        """The rows of a full load."""
        for _ in range(count):
            self._put(self._new_row())
        self.rows = dict(self._source)
        self.written += count
        return list(self._source.values())

    def changes(self, count: int, at: datetime) -> list[Change]:
        """Further changes in their order, committed in the hour before `at`, and after those before them."""
        start = max(at - timedelta(hours=1), self._last)
        self._last = at
        return [change for place in range(count) for change in self._change(start + (at - start) * place / count)]

    def _change(self, time: datetime) -> Iterator[Change]:
        kind = self.chance.choice("IIUUUUDR" + ("KK" if self.moves_keys else ""))
        if kind == "I" or not self._source:
            row = self._new_row()
            self._put(row)
            yield self._told("I", row, time)
            return
        key = self.chance.choice(sorted(self._source))
        before = self._source[key]
        if kind in "DR":
            del self._source[key]
            yield self._told("D", before, time)
        if kind == "R":
            row = {**self._new_row(), **{name: before[name] for name in KEY}}
            self._put(row)
            yield self._told("I", row, time)
        if kind == "U":
            names = [name for name, _ in self.columns if name not in KEY and self.chance.random() < 0.5]
            fresh = self._new_row()
            row = {**before, **{name: fresh[name] for name in names}}
            self._put(row)
            logged = {name: row[name] for name in (*KEY, *names)} if self.settings.no_supplemental_value else row
            yield self._told("U", logged, time, before)
        if kind == "K":
            self._last_id += 1
            row = {**before, "id": self._last_id}
            del self._source[key]
            self._put(row)
            yield self._told("U", row, time, before)

    def _told(self, op: str, row: Row, time: datetime, before: Row | None = None) -> Change:
        """The change, after the oracle has heard of it as far as the settings let it through."""
        self._number += 1
        if self.settings.writes(op):
            self.written += 1
            key = tuple(row[name] for name in KEY)
            if op == "D":
                self.rows.pop(key, None)
            else:
                old = self.rows.get(key, {}) if op == "U" else {}
                if op == "U" and before is not None and before["id"] != row["id"]:
                    self.rows.pop(tuple(before[name] for name in KEY), None)
                    self.changed_keys += 1
                # What the files no longer have is NULL in the rows that they bring.
                absent = {DROPPED: None} if LATE in self.columns else {}
                self.rows[key] = {**dict.fromkeys(name for name, _ in self.columns), **old, **row, **absent}
        return Change(op, row, time, before, self._number)

    def _put(self, row: Row) -> None:
        self._source[tuple(row[name] for name in KEY)] = row

    def _new_row(self) -> Row:
        """A new key; the other columns hold hard values, or NULL."""
        chance = self.chance
        self._last_id += 1
        digits = 0 if self.settings.format != "parquet" and self.settings.datetime_scale == 0 else 3
        if not self.settings.parquet_timestamp_in_millisecond and digits and self.settings.datetime_scale == 6:
            digits = 6
        at = datetime(1890 + chance.randrange(300), 1 + chance.randrange(12), 3, chance.randrange(24), 2, 3, tzinfo=UTC)
        fraction = chance.randrange(10**digits) * 10 ** (6 - digits)
        values: Row = {
            "text": chance.choice(self.texts),
            "price": Decimal(chance.randrange(-(10**12) + 1, 10**12)).scaleb(-2),
            "ratio": chance.choice((0.0, -1.5, 1e300, chance.random() * 10 ** chance.randrange(-20, 20))),
            "flag": chance.random() < 0.5,
            "raw": chance.randbytes(chance.randrange(4)) or b"\0",
            "day": chance.choice((date(1, 1, 1), date(1899, 12, 31), date(9999, 12, 31), date(2026, 9, 1))),
            "at": chance.choice((at.replace(microsecond=fraction), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))),
            "small": chance.randrange(256),
            "big": Decimal(chance.choice((0, 2**63, 2**64 - 1))),
            "clock": f"{chance.randrange(24):02d}:30:00",
            "late": chance.choice(self.texts[:4]),
        }
        values = {name: values[name] for name, _ in self.columns if name not in KEY}
        nulls = {name: None for name in values if chance.random() < 0.15}
        return {"id": self._last_id, "part": chance.choice("ab"), **values, **nulls}
