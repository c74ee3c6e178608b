"""What the rows of a batch amount to: one net change per key (pure).

Rows come with helper columns beside the source's: `OP` (I, U or D), `FILE` (the file's ordinal in the batch's
order), `ROW` (the row's number in its file) and one `SEQ` column for each column of `sequence_by`. Changes of
one key are ordered by (`sequence_by`, file, row); the last one wins. A NULL or empty sequence value sorts first,
because DMS leaves the sequence columns of a full load empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

OP = "__op"
FILE = "__file"
ROW = "__row"
SEQ = "__seq_"
TIME = "__time"
INSERT, UPDATE, DELETE = "I", "U", "D"
_PLACE = "__place"


def sequence_columns(columns: Sequence[str]) -> list[str]:
    """The `SEQ` columns among a frame's columns, in the order of `sequence_by`."""
    found = [name for name in columns if name.startswith(SEQ)]
    return sorted(found, key=lambda name: int(name.removeprefix(SEQ)))


def order_columns(columns: Sequence[str]) -> list[str]:
    """The columns that order the changes of one key, most significant first."""
    return [*sequence_columns(columns), FILE, ROW]


def net_places(rows: pl.DataFrame, key: Sequence[str]) -> pl.Series:
    """The places of the last change of each key, in key order; it looks at key and sequence columns only.

    Rows must stand in (file, row) order, which is how files are read: their place decides where `sequence_by`
    does not.
    """
    order = [*key, *sequence_columns(rows.columns), _PLACE]
    # Sorting takes half the time of hashing the keys, and a quarter of the memory.
    found = rows.with_row_index(_PLACE).select(order).sort(order, nulls_last=False)
    same_as_next = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(-1)) for name in key)
    is_last = pl.int_range(pl.len()) == pl.len() - 1
    return found.filter(is_last | ~same_as_next).get_column(_PLACE)


def net_changes(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """One row per key: the last change of each, with its `OP`; sorted by key. Rows must stand in (file, row) order."""
    return rows[net_places(rows, key)]
