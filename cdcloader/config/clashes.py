"""What no key tells alone: tables that share files, and a lake and a raw that lie in one another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from cdcloader.config.faults import Faults
from cdcloader.config.patterns import is_pattern
from cdcloader.config.values import place, table_name


def find_clashes(merged: dict[str, Any], faults: Faults) -> None:
    """Note them, as far as the values can be read at all; the others are faults already."""
    raw, lake = _good(place, merged.get("raw")), _good(place, merged.get("lake"))
    if raw and lake and (inner := _overlap(_real(raw), _real(lake))):
        faults.add(("lake",), f"{inner}; raw and lake should lie apart")
    tables = merged.get("tables")
    rows = [table if isinstance(table, dict) else {} for table in tables] if isinstance(tables, list) else []
    _find_shared("source", [_good(table_name, row.get("source")) for row in rows], faults)
    # A target that follows its source would only repeat what was said of the source.
    faulty = [f"tables[{index}].source" in faults.messages and "target" not in row for index, row in enumerate(rows)]
    # What the folders of a pattern are called, and clash with, is seen when they are found.
    faulty = [bad or is_pattern(str(row.get("source"))) for bad, row in zip(faulty, rows, strict=True)]
    targets = [_good(table_name, row.get("target", row.get("source"))) for row in rows]
    _find_shared("target", [None if bad else name for bad, name in zip(faulty, targets, strict=True)], faults)


def _find_shared(key: str, names: list[str | None], faults: Faults) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name is not None and first.setdefault(name, index) != index:
            faults.add(("tables", index, key), f"{name!r} is the {key} of tables[{first[name]}] already")
    for index, name in enumerate(names):
        for parent in map(str, PurePosixPath(name or "").parents):
            if parent in first:
                faults.add(("tables", index, key), f"{name!r} lies inside the {key} of tables[{first[parent]}]")


def _good(rule: Callable[[str], str], value: object) -> str | None:
    try:
        return rule(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _real(location: str) -> str:
    return location if location.startswith("s3://") else os.path.realpath(location)


def _overlap(raw: str, lake: str) -> str:
    if raw == lake:
        return "is the same place as raw"
    if lake.startswith(f"{raw.rstrip('/')}/"):
        return "lies inside raw"
    return "holds raw inside it" if raw.startswith(f"{lake.rstrip('/')}/") else ""
