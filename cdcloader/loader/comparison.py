"""What a table ought to hold, and how what it holds differs from that (pure).

The last change of a key is found here anew, in a plain way of its own, so that a fault of the code that wrote the
table is seen and not repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from cdcloader.changes.net import DELETE, FILE, OP, ROW, net_plan, picked, sequence_columns, unset_columns

BATCH = "__batch"
_COUNT, _OURS = "__count", "__actual"
KEYS_MAX = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """How a table differs from its history; all counts are of rows.

    `missing` are not in the table, `surplus` ought not to be, `changed` have other values (`columns` says how many in
    which column), `duplicates` are rows beyond the first of their key. `keys` are up to `KEYS_MAX` of those concerned.
    """

    expected: int = 0
    actual: int = 0
    missing: int = 0
    surplus: int = 0
    changed: int = 0
    duplicates: int = 0
    columns: Mapping[str, int] = field(default_factory=dict)
    keys: tuple[tuple[str, ...], ...] = ()

    @property
    def equal(self) -> bool:
        """Whether both hold the same rows."""
        return not (self.missing or self.surplus or self.changed or self.duplicates)

    def plus(self, other: Difference) -> Difference:
        """The difference of two parts of a table that share no row."""
        return Difference(
            self.expected + other.expected,
            self.actual + other.actual,
            self.missing + other.missing,
            self.surplus + other.surplus,
            self.changed + other.changed,
            self.duplicates + other.duplicates,
            dict(Counter(self.columns) + Counter(other.columns)),
            (*self.keys, *other.keys)[:KEYS_MAX],
        )


@dataclass(frozen=True, slots=True)
class Digest:
    """The number of some rows, and the sum and the XOR of the 64-bit hashes of their keys, whatever their order."""

    rows: int = 0
    total: int = 0
    mixed: int = 0

    def plus(self, other: Digest) -> Digest:
        """The digest of both together."""
        return Digest(self.rows + other.rows, (self.total + other.total) % 2**64, self.mixed ^ other.mixed)


def latest(changes: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The last change of each key, of changes that come in any order; of partial rows, what they amount to.

    They are ordered by `BATCH` (if there is one), sequence, file and row; a NULL sequence is the oldest.
    """
    ordered = changes.sort(_order(changes), nulls_last=False)
    if unset_columns(ordered.columns):
        # The order is made; to the plan a sequence would come before the batch.
        return picked(ordered, net_plan(ordered.drop(sequence_columns(ordered.columns)), key))
    return ordered.unique(list(key), keep="last", maintain_order=True)


def living(changes: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The rows that live after `changes`, with the columns of the table."""
    return latest(changes, key).filter(pl.col(OP) != DELETE).drop(OP, *_order(changes))


def compare(expected: pl.DataFrame, actual: pl.DataFrame, key: Sequence[str]) -> Difference:
    """The difference of two frames of the same columns; NULL equals NULL, and NaN equals NaN."""
    if not key:
        return _compare_multisets(expected, actual.select(expected.columns))
    distinct = actual.select(expected.columns).unique(list(key), keep="first")
    doubled = actual.filter(actual.select(key).is_duplicated()) if distinct.height < actual.height else actual.clear()
    missing = expected.join(distinct, on=list(key), how="anti", nulls_equal=True)
    surplus = distinct.join(expected, on=list(key), how="anti", nulls_equal=True)
    columns, changed = _changed(expected, distinct, key)
    return Difference(
        expected=expected.height,
        actual=actual.height,
        missing=missing.height,
        surplus=surplus.height,
        changed=changed.height,
        duplicates=actual.height - distinct.height,
        columns=columns,
        keys=_keys([missing, surplus, changed, doubled], key),
    )


def digest(rows: pl.DataFrame, key: Sequence[str]) -> Digest:
    """The digest of the rows' keys; without a key it counts only."""
    if not key or not rows.height:
        return Digest(rows.height)
    hashes = key_hashes(rows, key).to_numpy()
    return Digest(rows.height, int(np.add.reduce(hashes)), int(np.bitwise_xor.reduce(hashes)))


def key_hashes(rows: pl.DataFrame, key: Sequence[str]) -> pl.Series:
    """A 64-bit hash of each row's key, or of the whole row without a key; equal for equal values of the same types."""
    return rows.select(key or sorted(rows.columns)).hash_rows(seed=0)


def _order(changes: pl.DataFrame) -> list[str]:
    return [name for name in (BATCH, *sequence_columns(changes.columns), FILE, ROW) if name in changes.columns]


def _changed(expected: pl.DataFrame, actual: pl.DataFrame, key: Sequence[str]) -> tuple[dict[str, int], pl.DataFrame]:
    """How many values differ in which column, and the rows with such a value."""
    values = [name for name in expected.columns if name not in key]
    if not values:
        return {}, expected.clear()
    both = expected.join(actual, on=list(key), how="inner", suffix=_OURS, nulls_equal=True)
    differs = both.select(pl.col(name).ne_missing(pl.col(f"{name}{_OURS}")) for name in values)
    counts = {name: int(count) for name, count in differs.sum().row(0, named=True).items() if count}
    return counts, both.filter(differs.select(pl.any_horizontal(pl.all())).to_series()) if counts else both.clear()


def _compare_multisets(expected: pl.DataFrame, actual: pl.DataFrame) -> Difference:
    names = expected.columns
    counted = [frame.group_by(names).agg(pl.len().cast(pl.Int64).alias(_COUNT)) for frame in (expected, actual)]
    both = counted[0].join(counted[1], on=names, how="full", suffix=_OURS, nulls_equal=True)
    more = pl.col(_COUNT).fill_null(0) - pl.col(f"{_COUNT}{_OURS}").fill_null(0)
    missing, surplus = both.select(more.clip(0).sum(), (-more).clip(0).sum().alias("surplus")).row(0)
    return Difference(expected.height, actual.height, missing=missing, surplus=surplus)


def _keys(concerned: Sequence[pl.DataFrame], key: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    found = [frame.select(key).head(KEYS_MAX) for frame in concerned if frame.height]
    rows = pl.concat(found).unique(maintain_order=True).head(KEYS_MAX).rows() if found else []
    return tuple(tuple(str(value) for value in row) for row in rows)
