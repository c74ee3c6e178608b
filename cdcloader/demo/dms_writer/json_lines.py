"""One JSON object a line, as articles convert DMS's files to; numbers of any size are written out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal

import polars as pl

from cdcloader.demo.dms_writer.csv_text import packed, spelled
from cdcloader.demo.dms_writer.settings import Columns, DmsSettings

_NUMBERS = ("long", "integer", "short", "byte", "uint1", "uint2", "uint4", "uint8", "boolean", "float", "double")


def json_bytes(settings: DmsSettings, columns: Columns, data: Sequence[pl.Series]) -> bytes:
    """A file of these columns; what is no number or boolean is text as in CSV, and NULL is null."""
    names = [json.dumps(name, ensure_ascii=False) for name, _ in columns]
    texts = [_values(settings, series, kind) for (_, kind), series in zip(columns, data, strict=True)]
    lines = (
        "{" + ", ".join(f"{name}: {value}" for name, value in zip(names, row, strict=True)) + "}"
        for row in zip(*texts, strict=True)
    )
    return packed(settings, "".join(f"{line}\n" for line in lines))


def _values(settings: DmsSettings, series: pl.Series, kind: str) -> list[str]:
    if kind in _NUMBERS or kind.startswith("decimal"):
        return [_number(value) for value in series]
    return [json.dumps(text, ensure_ascii=False) for text in spelled(settings, series, kind)]


def _number(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else json.dumps(value)
