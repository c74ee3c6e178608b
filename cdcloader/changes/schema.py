"""Columns and their Delta types, and which type holds the values of which (pure).

A type is written by its Delta name, as in the schema string of the Delta protocol ("Primitive Types"):
string, long, integer, short, byte, float, double, boolean, binary, date, timestamp (UTC), timestamp_ntz,
decimal(p,s).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from cdcloader.changes.type_names import decimal_parts, normal_type
from cdcloader.errors import TableError

_SIMPLE: dict[str, pl.DataType] = {
    "string": pl.String(),
    "long": pl.Int64(),
    "integer": pl.Int32(),
    "short": pl.Int16(),
    "byte": pl.Int8(),
    "float": pl.Float32(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
    "binary": pl.Binary(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
    "timestamp_ntz": pl.Datetime("us"),
}
_INTEGERS = ("byte", "short", "integer", "long")
# The most digits that a value of an integer type has.
_DIGITS = {"byte": 3, "short": 5, "integer": 10, "long": 19}
_MAX_DIGITS = 38
# Besides integers and decimals: what holds each value of what.
_EXACT = frozenset(
    {
        ("float", "double"), ("byte", "float"), ("short", "float"), ("byte", "double"), ("short", "double"),
        ("integer", "double"), ("date", "timestamp"), ("date", "timestamp_ntz"),
    }
)  # fmt: skip
# A column of a file that can hold nothing but NULL, which every type has.
VOID = "void"


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a table: its name and its Delta type name; `nullable` as the table's schema says."""

    name: str
    type: str
    nullable: bool = True
    metadata: Mapping[str, object] | None = None


Schema = tuple[Field, ...]


def polars_type(name: str) -> pl.DataType:
    """The Polars type that holds a Delta type in memory."""
    parts = decimal_parts(name)
    return pl.Decimal(*parts) if parts else _SIMPLE[name]


def polars_schema(schema: Schema) -> dict[str, pl.DataType]:
    """Column name -> Polars type, in the table's order."""
    return {field.name: polars_type(field.type) for field in schema}


def delta_type(dtype: pl.DataType, *, timestamps: str = "utc") -> str:
    """The Delta type that holds a raw Polars column without loss.

    Unsigned integers widen, TIME becomes text, a naive timestamp is UTC unless `timestamps` is "naive".
    ValueError for types that no DMS column has (lists, structs).
    """
    widened = {
        pl.UInt8: "short", pl.UInt16: "integer", pl.UInt32: "long", pl.UInt64: "decimal(20,0)",
        pl.Time: "string", pl.Null: "string", pl.Categorical: "string", pl.Enum: "string",
        pl.Int128: "decimal(38,0)",
    }  # fmt: skip
    for raw, name in widened.items():
        if dtype == raw:
            return name
    if isinstance(dtype, pl.Datetime):
        return "timestamp_ntz" if timestamps == "naive" and dtype.time_zone is None else "timestamp"
    if isinstance(dtype, pl.Decimal):
        return f"decimal({dtype.precision or 38},{dtype.scale})"
    for name, simple in _SIMPLE.items():
        if dtype == simple:
            return name
    raise ValueError(f"no Delta type for {dtype}")


def fits(narrow: str, wide: str) -> bool:
    """Whether every value of type `narrow` is a value of type `wide`, unchanged."""
    if narrow in (wide, VOID):
        return True
    if narrow in _INTEGERS and wide in _INTEGERS:
        return _INTEGERS.index(narrow) < _INTEGERS.index(wide)
    if (narrow, wide) in _EXACT:
        return True
    to, source = decimal_parts(wide), decimal_parts(narrow)
    if to is None:
        # A decimal without a fraction whose digits every value of the integer type's length has room for.
        return source is not None and wide in _DIGITS and source[1] == 0 and source[0] < _DIGITS[wide]
    source = source or ((_DIGITS[narrow], 0) if narrow in _DIGITS else None)
    return source is not None and source[0] - source[1] <= to[0] - to[1] and source[1] <= to[1]


def wider(one: str, other: str) -> str | None:
    """The narrowest type that holds the values of both, unchanged; None when there is none."""
    if fits(one, other):
        return other
    if fits(other, one):
        return one
    if fits(one, "double") and fits(other, "double"):
        return "double"
    parts = [decimal_parts(kind) or ((_DIGITS[kind], 0) if kind in _DIGITS else None) for kind in (one, other)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    scale = max(part[1] for part in known)
    precision = scale + max(part[0] - part[1] for part in known)
    return f"decimal({precision},{scale})" if precision <= _MAX_DIGITS else None


def to_json(schema: Schema) -> str:
    """The schemaString of a Delta metaData action."""
    fields = [
        {"name": f.name, "type": f.type, "nullable": f.nullable, "metadata": dict(f.metadata or {})} for f in schema
    ]
    return json.dumps({"type": "struct", "fields": fields}, separators=(",", ":"))


def from_json(text: str, *, where: str) -> Schema:
    """A table's schema from its schemaString; TableError for nested types, which DMS tables do not have."""
    fields: Sequence[Mapping[str, object]] = json.loads(text)["fields"]
    schema = []
    for field in fields:
        try:
            kind = normal_type(str(field["type"])) if isinstance(field["type"], str) else _nested(field)
        except ValueError as error:
            raise TableError(str(error), where=f"{where}, column {field['name']!r}") from error
        metadata = field.get("metadata")
        schema.append(
            Field(
                str(field["name"]),
                kind,
                bool(field.get("nullable", True)),
                metadata if isinstance(metadata, dict) else None,
            )
        )
    return tuple(schema)


def _nested(field: Mapping[str, object]) -> str:
    raise ValueError(f"column {field['name']!r} has a nested type, which cdcloader does not write")
