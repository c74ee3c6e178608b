"""Columns and their Delta types, and what a batch's columns mean for the table's (pure).

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
    if narrow == wide:
        return True
    if narrow in _INTEGERS and wide in _INTEGERS:
        return _INTEGERS.index(narrow) < _INTEGERS.index(wide)
    if (narrow, wide) == ("float", "double"):
        return True
    to = decimal_parts(wide)
    if to is None:
        return wide == "double" and narrow in ("byte", "short", "integer")
    digits = {"byte": (3, 0), "short": (5, 0), "integer": (10, 0), "long": (19, 0)}
    source = decimal_parts(narrow) or digits.get(narrow)
    return source is not None and source[0] - source[1] <= to[0] - to[1] and source[1] <= to[1]


def merge(batch: Schema, table: Schema, *, where: str) -> Schema:
    """The table's schema after a batch: its own columns, then the batch's new ones.

    A column that the batch lacks stays (new rows hold NULL). TableError when a column's values would not
    fit the table's type.
    """
    known = {field.name: field for field in table}
    added = tuple(field for field in batch if field.name not in known)
    for field in batch:
        old = known.get(field.name)
        if old is not None and not fits(field.type, old.type):
            raise TableError(
                f"column {field.name!r} has type {field.type}, the table has {old.type}",
                where=where,
                hint="set the column's type under `columns`, or reload the table to take the new type",
            )
    return (*table, *added)


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
