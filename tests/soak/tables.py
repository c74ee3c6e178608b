"""The tables of a soak: their columns and keys, and random rows for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from cdcloader.demo.dms_writer import DmsSettings

SCHEMA = "soak"
FORMATS = {
    "parquet": DmsSettings(format="parquet", include_op_for_full_load=True),
    "csv": DmsSettings(header=True, include_op_for_full_load=True),
    "gzip": DmsSettings(header=True, gzip=True),
}
_REGIONS = ("north", "south east", "Östlich", "a,b", '"q"', "100%")
_TEXTS = ("", "plain", 'a "quoted" one', "x,y", "two\nlines", "ünïcode ✓", "NULL", " space ", "0012", "-")
_DAYS = tuple(date(2026, 9, day) for day in range(1, 6))
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Table:
    """One table: `load` is its LOAD files' format, which DMS does not change; `space` is how many keys there are."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    load: str
    rows: int
    space: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return f"{SCHEMA}/{self.name}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    @property
    def config(self) -> dict[str, Any]:
        """The table in the config."""
        key = list(self.key) or None
        return {"source": self.source, "primary_key": key, "columns": dict(self.columns), **self.options}

    def key_of(self, number: int) -> dict[str, Any]:
        """The key columns of the key `number`."""
        if "region" in self.key:
            return {"region": _REGIONS[number % len(_REGIONS)], "number": number // len(_REGIONS)}
        return {"id": number}

    def row(self, number: int, rng: random.Random) -> dict[str, Any]:
        """A row of the key `number` with new values."""
        return {name: _value(kind, rng) for name, kind in self.columns} | self.key_of(number)


_ORDER = (("id", "long"), ("name", "string"), ("amount", "decimal(10,2)"), ("at", "timestamp"), ("note", "string"))
_LINE = (("region", "string"), ("number", "long"), ("quantity", "integer"), ("price", "double"), ("note", "string"))
_PART = (("id", "long"), ("day", "date"), ("open", "boolean"), ("note", "string"))
_EVENT = (("id", "long"), ("at", "timestamp"), ("note", "string"))

TABLES = (
    Table("orders", _ORDER, ("id",), "csv", 1_500, 4_000),
    Table("lines", _LINE, ("region", "number"), "parquet", 800, 2_400, {"write_mode": "merge_on_read"}),
    Table("parts", _PART, ("id",), "gzip", 600, 1_500, {"partition_by": ["day"]}),
    Table("events", _EVENT, (), "parquet", 400, 1_000_000),
    Table("log", _EVENT, (), "csv", 0, 1_000_000),
    Table("wide", _ORDER, ("id",), "parquet", 30_000, 45_000),
    Table("plain", _PART, ("id",), "parquet", 500, 1_200, {"write_mode": "copy_on_write"}),
)


_VALUES: dict[str, Callable[[random.Random], Any]] = {
    "string": lambda rng: rng.choice(_TEXTS) if rng.random() < 0.5 else f"note {rng.getrandbits(48):x}",
    "date": lambda rng: rng.choice(_DAYS),
    "timestamp": lambda rng: _EPOCH + timedelta(microseconds=rng.randrange(10**13)),
    "boolean": lambda rng: rng.random() < 0.5,
    "double": lambda rng: rng.uniform(-1e6, 1e6),
    "decimal(10,2)": lambda rng: Decimal(rng.randrange(-(10**8), 10**8)).scaleb(-2),
    "integer": lambda rng: rng.randrange(10**6),
    "long": lambda rng: rng.randrange(10**15),
}


def _value(kind: str, rng: random.Random) -> Any:
    # Dates partition; a NULL there is another test's.
    return None if kind != "date" and rng.random() < 0.08 else _VALUES[kind](rng)
