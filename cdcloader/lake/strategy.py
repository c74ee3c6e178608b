"""What to do with each file that a batch hits, and where the new rows go: the write plan (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

APPEND, REWRITE, DROP = "append", "rewrite", "drop"
_NO_FILE = -1
# Writing this much again costs less than one more file to open costs every reader.
_TRIVIAL_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Touched:
    """One live file of a partition: its size, its live rows as far as known, and how many of them the batch hits.

    `first` is its lowest key (or the lower bounds of its statistics), None where nothing is known.
    """

    index: int
    partition: tuple[str | None, ...]
    size: int
    first: tuple[Any, ...] | None
    hits: int = 0
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class WritePlan:
    """`rewrite`: files to write again without their hit rows, with the new rows that `home` gives them.

    `drop`: files whose rows are all hit and that get no new ones. `home`: per new row the index of the file
    that it joins, or -1 for a new file. `absorb`: per partition the small files that join its new file.
    """

    rewrite: frozenset[int]
    drop: frozenset[int]
    home: pl.Series
    absorb: Mapping[tuple[str | None, ...], tuple[int, ...]]

    @property
    def name(self) -> str:
        """The strategy as metrics and logs call it."""
        if self.rewrite or any(self.absorb.values()):
            return REWRITE
        return DROP if self.drop and not self.home.len() else APPEND


def make_plan(
    files: Sequence[Touched],
    new_rows: pl.DataFrame,
    new_partitions: Mapping[tuple[str | None, ...], float],
    *,
    key: Sequence[str],
    small_bytes: int,
) -> WritePlan:
    """Plan a copy-on-write batch.

    `new_rows` holds the key columns, `partition` (the index of the row's partition in `new_partitions`) and
    `home` (the file that an updated row stays in, or -1); `new_partitions` estimates the stored bytes of the
    new rows of each partition. A new row joins the file that precedes it in key order if that file is
    rewritten anyway, so that files keep to their ranges; the others make a new file, which absorbs small ones
    so that the number of files grows with the logarithm of the number of batches.
    """
    hit = {file.index for file in files if file.hits}
    placed = _place(files, new_rows, list(new_partitions), hit, key)
    occupied = set(placed.to_list())
    drop = {file.index for file in files if file.index in hit and file.hits == file.rows and file.index not in occupied}
    left = set(new_rows.filter(placed == _NO_FILE)["partition"].to_list()) if new_rows.height else set()
    absorb = {
        partition: _absorbed([f for f in files if f.partition == partition and f.index not in hit], size, small_bytes)
        for number, (partition, size) in enumerate(new_partitions.items())
        if number in left
    }
    return WritePlan(frozenset(hit - drop), frozenset(drop), placed, absorb)


def _place(
    files: Sequence[Touched],
    new_rows: pl.DataFrame,
    partitions: Sequence[tuple[str | None, ...]],
    rewritten: set[int],
    key: Sequence[str],
) -> pl.Series:
    """The file that each new row joins: its own, else the rewritten file that precedes it in key order."""
    if not new_rows.height or not key:
        return pl.Series("home", [_NO_FILE] * new_rows.height, dtype=pl.Int64)
    numbers = {partition: number for number, partition in enumerate(partitions)}
    starts = [f for f in files if f.first and f.partition in numbers]
    rows = new_rows.select(*key, "partition", "home").with_row_index("row")
    if not starts:
        return rows["home"].alias("home")
    marks = pl.DataFrame(
        {name: [start.first[i] for start in starts if start.first] for i, name in enumerate(key)},
        schema={name: rows.schema[name] for name in key},
        strict=False,
    ).with_columns(
        pl.Series("partition", [numbers[start.partition] for start in starts], dtype=rows.schema["partition"]),
        pl.Series("file", [start.index for start in starts], dtype=pl.Int64),
    )
    order = ["partition", *key]
    merged = pl.concat([marks, rows], how="diagonal").sort([*order, "row"], nulls_last=False, maintain_order=True)
    near = pl.col("file").forward_fill().over("partition").fill_null(pl.col("file").backward_fill().over("partition"))
    joined = (
        merged.with_columns(near=near)
        .filter(pl.col("row").is_not_null())
        .sort("row")
        .select(
            pl.when(pl.col("home") != _NO_FILE)
            .then(pl.col("home"))
            .when(pl.col("near").is_in(list(rewritten)))
            .then(pl.col("near"))
            .otherwise(_NO_FILE)
        )
    )
    return joined.to_series().cast(pl.Int64).alias("home")


def _absorbed(files: Sequence[Touched], new_bytes: float, small_bytes: int) -> tuple[int, ...]:
    """Small files, from the smallest, as long as each is at most twice what has come together so far."""
    chosen: list[int] = []
    gathered = new_bytes
    for file in sorted(files, key=lambda f: f.size):
        if file.size > small_bytes or file.size > max(2 * gathered, _TRIVIAL_BYTES):
            break
        chosen.append(file.index)
        gathered += file.size
    return tuple(chosen)
