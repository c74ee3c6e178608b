"""What to do with each file that a batch hits, and where the new rows go: the write plan (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import polars as pl

APPEND, MARK, REWRITE, DROP = "append", "mark", "rewrite", "drop"
NO_FILE = -1
# Shares of the size that files aim at. Up to the first, files are small enough to join new rows; up to the second,
# writing it again costs less than one more file, or one more vector, costs every reader.
_SMALL_SHARE, _TRIVIAL_SHARE = 8, 512
# A file that is mostly dead costs its readers more than writing its live rows once.
_DEAD_SHARE_MAX = 0.5

Partition = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Touched:
    """One live file: its size and rows as far as known, those that are dead already, and those that the batch hits.

    `first` is its lowest key (or the lower bounds of its statistics), None where nothing is known. `rows` counts
    live rows and is None where the file was not looked into. A file that is not `markable` gets no vector.
    """

    index: int
    partition: Partition
    size: int
    first: tuple[Any, ...] | None
    hits: int = 0
    rows: int | None = None
    dead: int = 0
    markable: bool = True

    @property
    def kept_bytes(self) -> float:
        """The bytes of the rows that will live on."""
        return self.size if self.rows is None else self.size * (self.rows - self.hits) / max(1, self.rows + self.dead)

    @property
    def dead_share(self) -> float:
        """The share of the file's rows that will be dead."""
        return 0.0 if self.rows is None else (self.dead + self.hits) / max(1, self.rows + self.dead)


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What becomes of the files, by index; the other files are left as they are.

    `mark`: their hit rows die by a vector. `rewrite`: written again without their hit rows and with the new rows that
    `home` gives them. `drop`: no row of them lives on. `absorb`: per partition the small files whose live rows join
    its new file. `home`: per new row the index of the file that it joins, or -1 for a new file.
    """

    mark: frozenset[int] = frozenset()
    rewrite: frozenset[int] = frozenset()
    drop: frozenset[int] = frozenset()
    absorb: Mapping[Partition, tuple[int, ...]] = field(default_factory=dict)
    home: pl.Series = field(default_factory=lambda: pl.Series("home", [], dtype=pl.Int64))

    @property
    def absorbed(self) -> frozenset[int]:
        """The files that join new ones, of all partitions."""
        return frozenset(index for indices in self.absorb.values() for index in indices)

    @property
    def name(self) -> str:
        """The strategy as metrics and logs call it: what the batch did to the files that were there."""
        if self.mark:
            return MARK
        if self.rewrite or self.absorbed:
            return REWRITE
        return DROP if self.drop and not self.home.len() else APPEND

    def reason(self, files: Sequence[Touched]) -> str:
        """Why, for people: what was done to how many files."""
        hit = [file for file in files if file.hits]
        parts = [
            f"{len(self.mark)} marked ({_share(hit, self.mark)} of their rows hit)" if self.mark else "",
            f"{len(self.rewrite)} rewritten ({_share(hit, self.rewrite)} of their rows hit)" if self.rewrite else "",
            f"{len(self.drop)} dropped (no row left)" if self.drop else "",
            f"{len(self.absorbed)} small absorbed" if self.absorbed else "",
        ]
        done = [part for part in parts if part]
        left = len(files) - len(self.mark | self.rewrite | self.drop | self.absorbed)
        if done and left:
            done.append(f"{left} left alone")
        return f"files: {', '.join(done)}" if done else "no key of the batch is in the table"


def _share(hit: Sequence[Touched], chosen: frozenset[int]) -> str:
    rows = sum(file.rows or 0 for file in hit if file.index in chosen)
    return f"{sum(file.hits for file in hit if file.index in chosen) / max(1, rows):.2%}"


def make_plan(
    files: Sequence[Touched],
    new_rows: pl.DataFrame,
    new_partitions: Mapping[Partition, float],
    *,
    key: Sequence[str],
    mode: str,
    file_bytes: int,
    rewritable_bytes: float = math.inf,
) -> WritePlan:
    """Plan a batch.

    `new_rows` holds the key columns, `partition` (the index of the row's partition in `new_partitions`) and `home`
    (the file that holds the row's key, or -1); `new_partitions` estimates the stored bytes of the new rows of each
    partition; files aim at `file_bytes`. `mode` is the table's `write_mode`: copy_on_write rewrites every file that is
    hit, merge_on_read marks it (unless it is not markable), auto weighs bytes, and marks what is larger than
    `rewritable_bytes`. A new row joins the file that precedes
    it in key order if that file is rewritten anyway, so that files keep to their ranges; the others make a new file,
    which absorbs small ones so that the number of files grows with the logarithm of the number of batches.
    """
    hit = {file.index: file for file in files if file.hits}
    gone = {index for index, file in hit.items() if file.hits == file.rows}
    trivial_bytes = file_bytes // _TRIVIAL_SHARE
    marked = {
        index
        for index, file in hit.items()
        if index not in gone and _is_marked(file, mode, trivial_bytes, rewritable_bytes)
    }
    light = {
        index for index, file in hit.items() if index not in gone | marked and _is_light(file, mode, trivial_bytes)
    }
    homes = hit.keys() if mode == "copy_on_write" else hit.keys() - marked - light - gone
    placed = _place(files, new_rows, list(new_partitions), frozenset(homes), key)
    drop = gone - set(placed.unique().to_list())
    absorb = {
        partition: _absorbed([f for f in files if f.partition == partition], size, light, homes | drop, file_bytes)
        for partition, size in _partitions_left(new_rows, placed, new_partitions).items()
    }
    joined = {index for indices in absorb.values() for index in indices}
    return WritePlan(
        mark=frozenset(marked - joined),
        rewrite=frozenset((homes | light) - drop - joined),
        drop=frozenset(drop),
        absorb=absorb,
        home=placed,
    )


def _is_marked(file: Touched, mode: str, trivial_bytes: int, rewritable_bytes: float) -> bool:
    """Whether the hit rows of a file die by a vector; otherwise the file is written again."""
    if mode == "copy_on_write" or not file.markable:
        return False
    worth_rewriting = file.dead_share >= _DEAD_SHARE_MAX and file.size <= rewritable_bytes
    return mode == "merge_on_read" or (file.kept_bytes > trivial_bytes and not worth_rewriting)


def _is_light(file: Touched, mode: str, trivial_bytes: int) -> bool:
    """Whether so little of a file lives on that it may as well join the new rows."""
    return mode != "copy_on_write" and file.kept_bytes <= trivial_bytes


def _partitions_left(
    new_rows: pl.DataFrame, placed: pl.Series, new_partitions: Mapping[Partition, float]
) -> dict[Partition, float]:
    """The partitions that get a new file, with its estimated bytes."""
    if not new_rows.height:
        return {}
    shares = dict(
        new_rows.select("partition", left=placed == NO_FILE)
        .group_by("partition")
        .agg(pl.col("left").mean())
        .iter_rows()
    )
    return {
        partition: size * shares[number]
        for number, (partition, size) in enumerate(new_partitions.items())
        if shares.get(number)
    }


def _place(
    files: Sequence[Touched],
    new_rows: pl.DataFrame,
    partitions: Sequence[Partition],
    rewritten: frozenset[int],
    key: Sequence[str],
) -> pl.Series:
    """The file that each new row joins: its own if that is rewritten, else the rewritten file that precedes it."""
    if not new_rows.height or not key or not rewritten:
        return pl.Series("home", [NO_FILE], dtype=pl.Int64).new_from_index(0, new_rows.height)
    numbers = {partition: number for number, partition in enumerate(partitions)}
    starts = [f for f in files if f.first and f.partition in numbers]
    rows = new_rows.select(*key, "partition", home=_kept_home(rewritten)).with_row_index("row")
    if not starts:
        return rows["home"]
    marks = pl.DataFrame(
        {name: [start.first[i] for start in starts if start.first] for i, name in enumerate(key)},
        schema={name: rows.schema[name] for name in key},
        strict=False,
    ).with_columns(
        pl.Series("partition", [numbers[start.partition] for start in starts], dtype=rows.schema["partition"]),
        pl.Series("file", [start.index for start in starts], dtype=pl.Int64),
    )
    merged = pl.concat([marks, rows], how="diagonal").sort(
        ["partition", *key, "row"], nulls_last=False, maintain_order=True
    )
    near = pl.col("file").forward_fill().over("partition").fill_null(pl.col("file").backward_fill().over("partition"))
    joined = merged.with_columns(near=near).filter(pl.col("row").is_not_null()).sort("row")
    return joined.select(
        pl.when(pl.col("home") != NO_FILE)
        .then(pl.col("home"))
        .when(pl.col("near").is_in(list(rewritten)))
        .then(pl.col("near"))
        .otherwise(NO_FILE)
        .cast(pl.Int64)
        .alias("home")
    ).to_series()


def _kept_home(rewritten: frozenset[int]) -> pl.Expr:
    """An updated row's file, if that is written again; where it is marked or dropped, the row goes elsewhere."""
    return pl.when(pl.col("home").is_in(list(rewritten))).then(pl.col("home")).otherwise(NO_FILE).cast(pl.Int64)


def _absorbed(
    files: Sequence[Touched], new_bytes: float, light: AbstractSet[int], others: AbstractSet[int], file_bytes: int
) -> tuple[int, ...]:
    """The light files, then small ones from the smallest, each at most twice what has come together so far.

    Together they stay small, so that no batch waits long for them: larger files are merged by upkeep.
    """
    chosen = [file.index for file in files if file.index in light]
    gathered = new_bytes + sum(file.kept_bytes for file in files if file.index in light)
    for file in sorted(files, key=lambda f: f.kept_bytes):
        size = file.kept_bytes
        if file.index in light or file.index in others:
            continue
        if gathered + size > file_bytes / _SMALL_SHARE or size > max(2 * gathered, file_bytes / _TRIVIAL_SHARE):
            break
        chosen.append(file.index)
        gathered += size
    return tuple(chosen)
