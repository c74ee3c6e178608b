"""What the rows of a batch amount to: one net change per key (pure).

Rows come with helper columns beside the source's: `OP` (I, U or D), `FILE` (the file's ordinal in the batch's
order), `ROW` (the row's number in its file) and one `SEQ` column for each column of `sequence_by`. Changes of
one key are ordered by (`sequence_by`, file, row); the last one wins. A NULL or empty sequence value sorts first,
because DMS leaves the sequence columns of a full load empty.

Partial rows have a Boolean column `UNSET` + name for each column that may be unset: where it is true the source did not
log the value, and the one before it stays. Then a net change takes each value from the change that set it last; what
none of them set stays unset, and is the row's that the table has. A D unsets nothing: behind it every value is NULL.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

OP = "__op"
FILE = "__file"
ROW = "__row"
SEQ = "__seq_"
TIME = "__time"
UNSET = "__unset_"
INSERT, UPDATE, DELETE = "I", "U", "D"
PLACE = "__place"
_NONE = -1


def sequence_columns(columns: Sequence[str]) -> list[str]:
    """The `SEQ` columns among a frame's columns, in the order of `sequence_by`."""
    found = [name for name in columns if name.startswith(SEQ)]
    return sorted(found, key=lambda name: int(name.removeprefix(SEQ)))


def unset_columns(columns: Sequence[str]) -> list[str]:
    """The `UNSET` columns among a frame's columns."""
    return [name for name in columns if name.startswith(UNSET)]


def order_columns(columns: Sequence[str]) -> list[str]:
    """The columns that order the changes of one key, most significant first."""
    return [*sequence_columns(columns), FILE, ROW]


def net_places(rows: pl.DataFrame, key: Sequence[str]) -> pl.Series:
    """The places of the last change of each key, in key order; it looks at key and sequence columns only.

    Rows must stand in (file, row) order, which is how files are read: their place decides where `sequence_by`
    does not.
    """
    order = [*key, *sequence_columns(rows.columns), PLACE]
    # Sorting takes half the time of hashing the keys, and a quarter of the memory.
    found = rows.with_row_index(PLACE).select(order).sort(order, nulls_last=False)
    is_last = pl.int_range(pl.len()) == pl.len() - 1
    return found.filter(is_last | ~_same(key, -1)).get_column(PLACE)


def net_plan(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Where each key's net change comes from, in key order, to be `picked`: `PLACE` is that of its last change.

    For each column that may be unset, the `UNSET` column holds the place of the change that set it last, NULL where
    none did. Rows must stand in (file, row) order.
    """
    unset = unset_columns(rows.columns)
    if not unset:
        return net_places(rows, key).to_frame()
    order = [*key, *sequence_columns(rows.columns), PLACE]
    found = rows.with_row_index(PLACE).select(*order, OP, *unset).sort(order, nulls_last=False)
    number, place = pl.int_range(pl.len()), pl.col(PLACE).cast(pl.Int64)
    is_last = (number == pl.len() - 1) | ~_same(key, -1)
    is_first = (number == 0) | ~_same(key, 1)
    # A key's first change stops the look back from reaching the key before.
    setting = {
        name: pl.when(~pl.col(name) | (pl.col(OP) == DELETE)).then(place).when(is_first).then(_NONE).forward_fill()
        for name in unset
    }
    last = found.select(pl.col(PLACE), is_last.alias(OP), **setting).filter(pl.col(OP)).drop(OP)
    return last.with_columns(pl.col(name).replace(_NONE, None) for name in unset)


def full_plan(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """All rows, in the order of their keys and of the changes of one key, to be `picked`."""
    order = [*key, *sequence_columns(rows.columns), PLACE]
    return rows.with_row_index(PLACE).select(order).sort(order, nulls_last=False).select(PLACE)


def picked(rows: pl.DataFrame, plan: pl.DataFrame) -> pl.DataFrame:
    """The rows of a plan, or of a part of it, with each value taken from where it says."""
    net = rows[plan.get_column(PLACE)]
    taken: list[pl.Series] = []
    for helper in unset_columns(plan.columns):
        places = plan.get_column(helper)
        values = rows.get_column(helper.removeprefix(UNSET)).gather(places)
        of_deleted = rows.get_column(OP).gather(places) == DELETE
        taken += [values.set(of_deleted.fill_null(value=False), None), places.is_null().alias(helper)]
    return net.with_columns(taken) if taken else net


def can_be_netted_again(columns: Sequence[str]) -> bool:
    """Whether net changes of the parts of a batch make those of the whole.

    A partial row of a later part may come before some of the changes that an earlier part has made one of, where a
    sequence says so.
    """
    return not (unset_columns(columns) and sequence_columns(columns))


def net_changes(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """One row per key: the last change of each, with its `OP`; sorted by key. Rows must stand in (file, row) order."""
    return picked(rows, net_plan(rows, key))


def _same(key: Sequence[str], rows: int) -> pl.Expr:
    """Whether a row has the key of the one so many rows before it."""
    return pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(rows)) for name in key)
