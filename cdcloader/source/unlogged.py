"""Cells of a CSV file that the source did not log: DMS writes a text of its own for them, `CsvNoSupValue` (pure)."""

from __future__ import annotations

import re

import polars as pl

from cdcloader.changes.net import UNSET
from cdcloader.source.row_format import CsvFormat


def holds_unlogged(text: memoryview, csv: CsvFormat) -> bool:
    """Whether there may be such a cell in a piece of a file."""
    token = csv.no_supplemental_value
    return token is not None and re.search(re.escape(token.encode()), text) is not None


def without_unlogged(texts: pl.DataFrame, logged: pl.DataFrame, op: str | None) -> tuple[pl.DataFrame, list[pl.Series]]:
    """Columns of text with NULL in such cells, and the `UNSET` columns that say where; `op` names the Op column.

    `logged` are the same `texts`, parsed with the text for such cells as one more that stands for NULL: a parser tells
    it from a quoted value.
    """
    names = [name for name in texts.columns if name != op]
    unset = [(texts[name].is_not_null() & logged[name].is_null()).alias(UNSET + name) for name in names]
    return texts.with_columns(logged[name] for name in names), unset
