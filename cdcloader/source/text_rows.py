"""Rows whose values are text to change rows: each value is parsed strictly, each row held to the rules (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from cdcloader.changes.schema import Schema
from cdcloader.errors import TableError
from cdcloader.source.change_rows import checked_chunk, deletes, is_clean, not_in_table
from cdcloader.source.inference import INTEGER, widen
from cdcloader.source.row_format import Chunk, Columns, FileInput, RowFormat
from cdcloader.source.text_values import parse_text

_SHOWN_CHARS = 60


def types_in_use(file: FileInput, fmt: RowFormat, schema: Schema, columns: Columns) -> dict[str, str]:
    """The columns that are read and the types that they are read as; TableError where one was not described."""
    fixed = {field.name: field.type for field in schema}
    unknown = [name for name in columns.source if name not in fixed]
    if unknown and not fmt.by_value:
        raise TableError(
            f"column {unknown[0]!r} is not among the columns that were described", where=file.name, hint="describe it"
        )
    types = {name: fixed.get(name, "string") for name in columns.source}
    if columns.op is not None:
        types[columns.op] = "string"
    types |= {name: "string" for name in fmt.sequence_by if name not in types}
    types |= {image: fixed[name] for name, image in columns.before if image not in types}
    if columns.time is not None:
        types.setdefault(columns.time, "timestamp")
    return types


@dataclass(frozen=True, slots=True)
class TextReader:
    """One file of text being read; `types` names the columns in use, `inferred` those whose types were guessed."""

    file: FileInput
    fmt: RowFormat
    schema: Schema
    columns: Columns
    types: dict[str, str]
    inferred: frozenset[str]

    @property
    def strangers(self) -> frozenset[str]:
        """The columns that the table lacks, in which no row but a D may have a value."""
        return frozenset(self.columns.source).difference(field.name for field in self.schema)

    def is_clean(self, frame: pl.DataFrame) -> bool:
        """Whether every row of a typed frame meets the rules as it stands."""
        empty = all(frame.get_column(name).null_count() == frame.height for name in self.strangers)
        return empty and is_clean(frame, self.columns, self.file, self.fmt)

    def typed(
        self,
        texts: pl.DataFrame,
        numbers: pl.Series,
        raw: Callable[[pl.Series], pl.Series],
        unset: Sequence[pl.Series] = (),
    ) -> Chunk:
        """The chunk of rows whose columns are text; `raw` renders the rows of a mask for the quarantine.

        `unset` are `UNSET` columns, of the cells that the text says were not logged.
        """
        typed: list[pl.Series] = []
        reasons = pl.repeat(None, texts.height, dtype=pl.String, eager=True)
        misfits: dict[str, str] = {}
        strangers = self.strangers
        for name, kind in self.types.items():
            text = texts.get_column(name)
            values = parse_text(text, kind)
            typed.append(values.alias(name))
            failed = text.is_not_null() & values.is_null()
            if name in strangers:
                # Like other faults of a row, of which the first is told.
                needed = text.is_not_null() & ~deletes(texts, self.columns, self.file, self.fmt)
                told = pl.when(pl.lit(needed)).then(pl.lit(not_in_table(name)))
                reasons = pl.select(pl.coalesce(pl.lit(reasons), told)).to_series()
            elif name in self.inferred:
                failed |= is_lax(text, kind)
                if failed.any():
                    misfits[name] = widen(kind, text.filter(failed), self.fmt.timestamp_type)
            elif failed.any() and name != self.columns.time:
                message = pl.format(
                    f"column '{_escaped(name)}': '{{}}' is not a {kind}", pl.lit(text).str.slice(0, _SHOWN_CHARS)
                )
                reasons = pl.select(pl.coalesce(pl.lit(reasons), pl.when(pl.lit(failed)).then(message))).to_series()
        chunk = checked_chunk(
            pl.DataFrame([*typed, *unset]), self.columns, self.file, self.fmt, self.schema, numbers,
            reasons=reasons, raw=raw,
        )  # fmt: skip
        return replace(chunk, misfits=misfits)


def _escaped(name: str) -> str:
    """A column's name for a format string."""
    return name.replace("{", "(").replace("}", ")")


def is_lax(text: pl.Series, kind: str) -> pl.Series:
    """Values of an inferred column that parse as its type, and would not be written like that."""
    if kind == "long":
        return ~text.str.contains(INTEGER).fill_null(value=True)
    if kind == "boolean":
        return ~text.is_in(["true", "false"]).fill_null(value=True)
    return pl.repeat(value=False, n=len(text), eager=True)
