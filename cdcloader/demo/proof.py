"""Compares a table with what it ought to hold, row for row, and says where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from cdcloader.changes.schema import polars_type
from cdcloader.demo.dms_writer import Columns, Row, frame

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """How an actual table differs from the expected one: counts of keys, faults of columns, a few examples.

    `duplicates` counts the rows beyond the first of each key.
    """

    expected_rows: int
    actual_rows: int
    missing: int = 0
    extra: int = 0
    changed: int = 0
    duplicates: int = 0
    column_faults: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether both hold the same rows, under the same columns of the same types."""
        return not (self.missing or self.extra or self.changed or self.duplicates or self.column_faults)

    def __str__(self) -> str:
        if self.equal:
            return f"equal, {self.expected_rows} rows"
        counts = [f"{self.expected_rows} rows expected, {self.actual_rows} found"]
        for name in ("missing", "extra", "changed", "duplicates"):
            if getattr(self, name):
                counts.append(f"{getattr(self, name)} {name}")
        return "; ".join([*counts, *self.column_faults, *self.examples])


def compare(
    expected: Mapping[tuple[object, ...], Row], actual: pl.DataFrame, key: Sequence[str], columns: Columns
) -> Difference:
    """The difference between a model (key -> row) and a table; NULL equals NULL, and the order of rows is free.

    `columns` are (name, Delta type name); a column that is absent, of another type or not expected is a fault,
    and then no rows are compared.
    """
    faults = _column_faults(actual, columns)
    if faults:
        return Difference(len(expected), actual.height, column_faults=faults)
    model = frame(columns, list(expected.values()))
    table = actual.select(model.columns)
    distinct = table.unique(subset=list(key), keep="first")
    missing = model.join(distinct, on=list(key), how="anti", nulls_equal=True)
    extra = distinct.join(model, on=list(key), how="anti", nulls_equal=True)
    changed = _changed(model, distinct, key)
    return Difference(
        expected_rows=model.height,
        actual_rows=table.height,
        missing=missing.height,
        extra=extra.height,
        changed=changed.height,
        duplicates=table.height - distinct.height,
        examples=(
            *(f"missing {row}" for row in _first_keys(missing, key)),
            *(f"extra {row}" for row in _first_keys(extra, key)),
            *(_describe(row, key) for row in changed.sort(key).head(_EXAMPLES).iter_rows(named=True)),
        ),
    )


def _column_faults(actual: pl.DataFrame, columns: Columns) -> tuple[str, ...]:
    expected = {name: polars_type(kind) for name, kind in columns}
    faults = [f"column {name!r} is missing" for name in expected if name not in actual.columns]
    for name, dtype in actual.schema.items():
        if name not in expected:
            faults.append(f"column {name!r} is not expected")
        elif dtype != expected[name]:
            faults.append(f"column {name!r} is {dtype}, expected {expected[name]}")
    return tuple(faults)


def _changed(model: pl.DataFrame, table: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The rows of both sides whose values differ, the table's under `<name>__actual`."""
    values = [name for name in model.columns if name not in key]
    both = model.join(table, on=list(key), how="inner", suffix="__actual", nulls_equal=True)
    return both.filter(pl.any_horizontal(pl.lit(value=False), *(_differs(name) for name in values)))


def _differs(name: str) -> pl.Expr:
    return pl.col(name).ne_missing(pl.col(f"{name}__actual"))


def _first_keys(rows: pl.DataFrame, key: Sequence[str]) -> list[tuple[object, ...]]:
    return rows.select(key).sort(key).head(_EXAMPLES).rows()


def _describe(row: Mapping[str, object], key: Sequence[str]) -> str:
    """`changed (key): column expected -> actual`, for the columns that differ."""
    pairs = [
        f"{name} {row[name]!r} -> {row[f'{name}__actual']!r}"
        for name in row
        if f"{name}__actual" in row and row[name] != row[f"{name}__actual"]
    ]
    return f"changed {tuple(row[name] for name in key)}: {', '.join(pairs)}"
