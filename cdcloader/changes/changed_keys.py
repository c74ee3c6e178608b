"""Updates that changed a key: the row of the old key is deleted, then the new one's is written (pure).

A reader tells the old key of such a row in columns `BEFORE` + name, one for each key column; they are NULL in all other
rows, and are not there when a frame holds no such row.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from cdcloader.changes.net import DELETE, OP, TIME, order_columns, unset_columns

BEFORE = "__before_"
_AT = "__at"


def before_columns(columns: Sequence[str]) -> list[str]:
    """The `BEFORE` columns among a frame's columns."""
    return [name for name in columns if name.startswith(BEFORE)]


def with_old_keys_deleted(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows without `BEFORE` columns; before each row that changed a key stands a D of its old key.

    That D has the place and the sequence of the row behind it, and no value but its key.
    """
    before = before_columns(rows.columns)
    if not before:
        return rows
    numbered = rows.with_row_index(_AT)
    changed = numbered.filter(pl.any_horizontal(pl.col(before).is_not_null()))
    values = {
        OP: pl.lit(DELETE),
        **{name: pl.col(name) for name in (*order_columns(rows.columns), TIME, _AT)},
        **{name: pl.lit(value=False) for name in unset_columns(rows.columns)},
        **{name.removeprefix(BEFORE): pl.col(name) for name in before},
    }
    deletes = changed.select(
        values.get(name, pl.lit(None, dtype=dtype)).alias(name) for name, dtype in numbered.schema.items()
    )
    # The sort is stable, so that a D stays before its row.
    return pl.concat([deletes, numbered]).sort(_AT, maintain_order=True).drop(_AT, *before)
