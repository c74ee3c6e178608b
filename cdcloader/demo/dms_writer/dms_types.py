"""The types of columns: Delta type names, and the DMS types that no Delta type says (uint1 to uint8, time)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cdcloader.changes.type_names import decimal_parts

# A table holds unsigned numbers in the next wider type, and a time as text.
_DELTA = {"uint1": "short", "uint2": "integer", "uint4": "long", "uint8": "decimal(20,0)", "time": "string"}
_ARROW = {
    "string": pa.string(), "long": pa.int64(), "integer": pa.int32(), "short": pa.int16(), "byte": pa.int8(),
    "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(), "binary": pa.binary(), "date": pa.date32(),
    "uint1": pa.uint8(), "uint2": pa.uint16(), "uint4": pa.uint32(), "uint8": pa.uint64(), "time": pa.time32("ms"),
}  # fmt: skip


def delta_type(kind: str) -> str:
    """The Delta type of a column's kind."""
    return _DELTA.get(kind, kind)


def arrow_type(kind: str, *, milliseconds: bool) -> Any:
    """The Arrow type that Parquet stores as DMS does: timestamps adjusted to UTC, decimals as fixed bytes."""
    parts = decimal_parts(kind)
    if parts:
        return pa.decimal128(*parts)
    if kind in ("timestamp", "timestamp_ntz"):
        return pa.timestamp("ms" if milliseconds else "us", tz="UTC")
    return _ARROW[kind]
