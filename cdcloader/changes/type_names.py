"""The names of Delta types, as a config and a schema string spell them (pure).

It imports nothing heavy: a config is read before Polars is, because what it says may decide how Polars takes memory.
"""

from __future__ import annotations

import re

SIMPLE_NAMES = (
    "string",
    "long",
    "integer",
    "short",
    "byte",
    "float",
    "double",
    "boolean",
    "binary",
    "date",
    "timestamp",
    "timestamp_ntz",
)
TYPE_NAMES = (*SIMPLE_NAMES, "decimal(p,s)")
_DECIMAL = re.compile(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def normal_type(name: str) -> str:
    """The canonical spelling of a Delta type name; ValueError when there is no such type."""
    text = name.strip().lower()
    if text in SIMPLE_NAMES:
        return text
    match = _DECIMAL.fullmatch(text)
    if match and 1 <= int(match[1]) <= 38 and int(match[2]) <= int(match[1]):
        return f"decimal({int(match[1])},{int(match[2])})"
    raise ValueError(f"unknown type {name!r}; the types are {', '.join(TYPE_NAMES)}, with p up to 38")


def decimal_parts(name: str) -> tuple[int, int] | None:
    """(precision, scale) of a decimal type name, None for any other type."""
    match = _DECIMAL.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None
