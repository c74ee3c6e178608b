"""A batch's net changes -> the files to add and to remove, and the account of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from cdcloader.changes.net import DELETE, OP
from cdcloader.changes.schema import Schema
from cdcloader.lake import datafiles, locate, strategy
from cdcloader.lake.datafiles import POSITION
from cdcloader.lake.locate import NET, Located
from cdcloader.lake.snapshot import DataFile, Snapshot
from cdcloader.lake.strategy import Touched
from cdcloader.objects import Objects

# What a row of zstd Parquet takes of the same row in memory, before a first file has shown it.
STORED_SHARE = 0.3
_SMALL_SHARE = 8

Partition = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """What a commit will change. Rows counted are net changes; `rewritten_bytes` are those of replaced files."""

    adds: list[DataFile] = field(default_factory=list)
    removes: list[DataFile] = field(default_factory=list)
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    noop: int = 0
    strategy: str = strategy.APPEND

    @property
    def rewritten_bytes(self) -> int:
        """Bytes of the files that were read and written again."""
        return sum(file.size for file in self.removes)


@dataclass(frozen=True, slots=True)
class Target:
    """A table to write to: where it is, its columns, key and partitions; `key` is () for an insert-only table."""

    objects: Objects
    path: str
    schema: Schema
    key: tuple[str, ...]
    partition_by: tuple[str, ...]
    file_bytes: int
    now_ms: int


def apply_net(target: Target, snapshot: Snapshot | None, net: pl.DataFrame) -> Applied:
    """Plan and write one batch of net changes, sorted by key, against a snapshot; nobody sees the files yet.

    `net` has the table's columns and `OP`. In an insert-only table every row is inserted.
    """
    files = list(snapshot.files.values()) if snapshot else []
    net = net.with_row_index(NET)
    found = _locate(target, files, net)
    hit = pl.concat([f.hits[NET] for f in found], rechunk=False).unique() if found else pl.Series(NET, [], pl.UInt32)
    known = net[NET].is_in(hit.implode())
    is_delete = net[OP] == DELETE
    upserts = net.filter(~is_delete)
    adds, removes, name = _write(target, files, found, upserts)
    return Applied(
        adds=adds,
        removes=removes,
        inserted=int((~known & ~is_delete).sum()),
        updated=int((known & ~is_delete).sum()),
        deleted=int((known & is_delete).sum()),
        noop=int((~known & is_delete).sum()),
        strategy=name,
    )


def _locate(target: Target, files: Sequence[DataFile], net: pl.DataFrame) -> list[Located]:
    if not target.key or not files:
        return []
    keys = net.select(*target.key, NET)
    looked = [
        locate.locate(target.objects, target.path, file, allowed, target.schema)
        for file, allowed in locate.candidates(files, keys, target.schema)
    ]
    return [found for found in looked if found.hits.height]


def _write(
    target: Target, files: Sequence[DataFile], found: Sequence[Located], upserts: pl.DataFrame
) -> tuple[list[DataFile], list[DataFile], str]:
    parts = _partitions_of(target, upserts)
    numbers = {file.id: number for number, file in enumerate(files)}
    located = {numbers[f.file.id]: f for f in found}
    touched = [_touched(target, number, file, located.get(number)) for number, file in enumerate(files)]
    rows = _with_home(upserts, parts, located, touched)
    sizes = _sizes(rows, parts)
    plan = strategy.make_plan(
        touched, rows, sizes, key=target.key, small_bytes=target.file_bytes // _SMALL_SHARE
    )  # fmt: skip
    rows = rows.with_columns(home=plan.home)
    adds: list[DataFile] = []
    for number in sorted(plan.rewrite):
        adds += _rewrite(target, located[number], rows.filter(pl.col("home") == number))
    for partition_number, partition in enumerate(sizes):
        fresh = rows.filter((pl.col("home") == -1) & (pl.col("partition") == partition_number))
        if fresh.height:
            absorbed = [files[number] for number in plan.absorb.get(partition, ())]
            adds += _append(target, fresh, absorbed)
    gone = plan.rewrite | plan.drop | {number for numbers_ in plan.absorb.values() for number in numbers_}
    return adds, [files[number] for number in sorted(gone)], plan.name


def _partitions_of(target: Target, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows' distinct partitions: the columns, `partition` (a number), `text` (as in the log)."""
    if not target.partition_by:
        return pl.DataFrame({"partition": [0]}, schema={"partition": pl.UInt32}).with_columns(text=pl.lit(None))
    names = list(target.partition_by)
    distinct = rows.select(names).unique(maintain_order=True).with_row_index("partition")
    texts = [tuple(datafiles.partition_text(v) for v in row) for row in distinct.select(names).iter_rows()]
    return distinct.with_columns(pl.Series("text", texts, dtype=pl.Object))


def _touched(target: Target, number: int, file: DataFile, located: Located | None) -> Touched:
    partition = tuple(file.partition_values.get(name) for name in target.partition_by)
    if located:
        return Touched(number, partition, file.size, located.first, located.hits[POSITION].n_unique(), located.rows)
    types = {column.name: column.type for column in target.schema}
    lows = tuple(locate.bounds_of(file, name, types[name])[0] for name in target.key)
    return Touched(number, partition, file.size, None if None in lows else lows)


def _with_home(
    upserts: pl.DataFrame, parts: pl.DataFrame, located: dict[int, Located], touched: Sequence[Touched]
) -> pl.DataFrame:
    """The rows with `partition` and `home`: an updated row stays in the first file that holds its key."""
    names = [name for name in parts.columns if name not in ("partition", "text")]
    if names:
        rows = upserts.join(parts.drop("text"), on=names, how="left", nulls_equal=True, maintain_order="left")
    else:
        rows = upserts.with_columns(partition=pl.lit(0, dtype=pl.UInt32))
    if not located:
        return rows.with_columns(home=pl.lit(-1, dtype=pl.Int64))
    texts = parts["text"].to_list() if names else [()]
    places = {partition: number for number, partition in enumerate(texts)}
    homes = pl.concat(
        [
            found.hits.select(
                NET,
                partition=pl.lit(places.get(touched[number].partition), dtype=pl.UInt32),
                home=pl.lit(number, dtype=pl.Int64),
            )
            for number, found in located.items()
            if touched[number].partition in places
        ]
        or [pl.DataFrame(schema={NET: pl.UInt32, "partition": pl.UInt32, "home": pl.Int64})]
    ).unique([NET, "partition"], keep="first", maintain_order=True)
    return rows.join(homes, on=[NET, "partition"], how="left", maintain_order="left").with_columns(
        pl.col("home").fill_null(-1)
    )


def _sizes(rows: pl.DataFrame, parts: pl.DataFrame) -> dict[Partition, float]:
    """The estimated stored bytes of the new rows of each partition, in the order of their numbers."""
    texts: list[Partition] = [()] if len(parts.columns) == 2 else parts["text"].to_list()
    width = rows.estimated_size() * STORED_SHARE / max(1, rows.height)
    fresh = rows.filter(pl.col("home") == -1)["partition"].value_counts()
    counts = dict(zip(fresh["partition"], fresh["count"], strict=True))
    return {text: counts.get(number, 0) * width for number, text in enumerate(texts)}


def _rewrite(target: Target, found: Located, joining: pl.DataFrame) -> list[DataFile]:
    """A file again, without its hit rows and with the rows that join it, in key order."""
    stored = datafiles.read(target.objects, target.path, found.file, target.schema)
    kept = stored.join(found.hits.select(POSITION).unique(), on=POSITION, how="anti").drop(POSITION)
    # A file lies in one partition, so its rows stand in key order.
    frame = _in_order(kept, joining.select(kept.columns), list(target.key))
    return _write_files(target, frame, found.file.size / max(1, stored.height))


def _in_order(kept: pl.DataFrame, joining: pl.DataFrame, order: list[str]) -> pl.DataFrame:
    """Both frames' rows in order; a file that stands in order by one column is merged, which a sort would not see."""
    if len(order) == 1 and kept[order[0]].is_sorted():
        return kept.merge_sorted(joining.sort(order), key=order[0])
    return pl.concat([kept, joining]).sort(order)


def _append(target: Target, fresh: pl.DataFrame, absorbed: Sequence[DataFile]) -> list[DataFile]:
    """A new file of new rows and of the small files that it absorbs."""
    names = [column.name for column in target.schema]
    frames = [datafiles.read(target.objects, target.path, file, target.schema).drop(POSITION) for file in absorbed]
    frame = pl.concat([*frames, fresh.select(names)])
    if target.key:
        frame = frame.sort([*target.partition_by, *target.key])
    return _write_files(target, frame, frame.estimated_size() * STORED_SHARE / max(1, frame.height))


def _write_files(target: Target, frame: pl.DataFrame, bytes_per_row: float) -> list[DataFile]:
    return datafiles.write_all(
        target.objects,
        target.path,
        frame,
        target.partition_by,
        target_bytes=target.file_bytes,
        bytes_per_row=bytes_per_row,
        now_ms=target.now_ms,
    )
