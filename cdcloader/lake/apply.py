"""A batch's net changes -> the files to add and to remove, and the account of every row."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from pyroaring import BitMap64

from cdcloader.changes.net import DELETE, OP
from cdcloader.lake import datafiles, locate, old_values, strategy
from cdcloader.lake.datafiles import POSITION, Numbers
from cdcloader.lake.key_index import NET
from cdcloader.lake.load import FullLoad
from cdcloader.lake.locate import Located
from cdcloader.lake.snapshot import DataFile, Snapshot
from cdcloader.lake.strategy import Touched, WritePlan
from cdcloader.lake.target import STORED_SHARE, Target
from cdcloader.lake.vectors import is_markable

Partition = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """What a commit will change. Rows counted are net changes; `rewritten_bytes` are those of files written again.

    `doubled` are the rows that end beside another one of their key: a foreign writer may have left a key there twice.
    `strategy` and `reason` tell what the batch did to the files that were there.
    """

    adds: list[DataFile] = field(default_factory=list)
    removes: list[DataFile] = field(default_factory=list)
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    noop: int = 0
    strategy: str = strategy.APPEND
    reason: str = ""
    rewritten_bytes: int = 0
    doubled: int = 0


def apply_net(target: Target, snapshot: Snapshot | None, net: pl.DataFrame, *, piece_bytes: int = 256 << 20) -> Applied:
    """Plan and write a batch that is one frame of net changes; see `Application`."""
    application = Application(target, snapshot, piece_bytes=piece_bytes)
    application.add(net)
    return application.finish()


@dataclass(slots=True)
class _File:
    """A file that was looked into: its hit rows so far, its live rows, its lowest key."""

    rows: int
    first: tuple[object, ...]
    hits: BitMap64


class Application:
    """Plans and writes one batch against a snapshot; nobody sees its files before they are committed.

    `add` takes the net changes in one frame or, where they are larger than memory, in passes: frames with the
    table's columns, `OP` and maybe `UNSET` columns, sorted by key, no key in two of them. What a row leaves unset is
    read from the table. In an insert-only table every row is inserted.
    The rows of the first pass wait for a second one; from then on they are written as they come, in files that
    grow to at most `piece_bytes`.
    """

    def __init__(self, target: Target, snapshot: Snapshot | None, *, piece_bytes: int) -> None:
        self._target = target
        self._files = list(snapshot.files.values()) if snapshot else []
        self._numbers = {file.id: number for number, file in enumerate(self._files)}
        self._piece_bytes = piece_bytes
        self._found: dict[int, _File] = {}
        self._counts = dict.fromkeys(("inserted", "updated", "deleted", "noop"), 0)
        self._waiting: tuple[pl.DataFrame, list[Located]] | None = None
        self._written: FullLoad | None = None
        self._passes = self._known = 0

    def add(self, net: pl.DataFrame) -> None:
        """Take a pass: locate its keys, and keep or write its new rows."""
        for part in old_values.parts(net, self._files, self._piece_bytes):
            self._add(part)

    def _add(self, net: pl.DataFrame) -> None:
        net = net.with_row_index(NET)
        located = self._locate(net)
        self._count(net, located)
        for found in located:
            number = self._numbers[found.file.id]
            hits, kept = _bitmap(found.hits.positions), self._found.get(number)
            if kept is None:
                self._found[number] = _File(found.rows, found.first, hits)
            else:
                kept.hits |= hits
        upserts = old_values.completed(self._target, net.filter(pl.col(OP) != DELETE), located)
        self._passes += 1
        if self._passes == 1:
            self._waiting = (upserts, located)
            return
        if self._waiting is not None:
            first, self._waiting = self._waiting[0], None
            self._write(first)
        self._write(upserts)

    def finish(self) -> Applied:
        """Decide for each file what becomes of it, and write what is left to write."""
        target, files = self._target, self._files
        upserts, located = self._waiting or (None, [])
        sizes: dict[Partition, float] = {}
        touched = [self._touched(number, file) for number, file in enumerate(files)]
        if upserts is None:
            rows = pl.DataFrame()
        else:
            parts = _partitions_of(target, upserts)
            rows = self._with_home(upserts, parts, located, touched)
            sizes = _sizes(rows, parts)
        # Files that are written again are read whole: how large they may be depends on the memory, and a batch that is
        # larger than memory leaves them to upkeep, which reads in pieces.
        plan = strategy.make_plan(
            touched,
            rows,
            sizes,
            key=target.key,
            mode=target.mode,
            file_bytes=min(target.file_bytes, self._piece_bytes),
            rewritable_bytes=self._piece_bytes * STORED_SHARE if self._passes <= 1 else 0,
        )
        adds = self._carry_out(plan, rows, list(sizes))
        gone = sorted(plan.mark | plan.rewrite | plan.drop | plan.absorbed)
        return Applied(
            adds=adds,
            removes=[files[number] for number in gone],
            strategy=plan.name,
            reason=plan.reason(touched),
            rewritten_bytes=sum(files[number].size for number in plan.rewrite | plan.absorbed),
            doubled=sum(len(found.hits) for found in self._found.values()) - self._known,
            **self._counts,
        )

    def discard(self) -> None:
        """Delete the files that were written for passes, when the batch fails before its commit."""
        if self._written is not None:
            self._written.discard()

    def _locate(self, net: pl.DataFrame) -> list[Located]:
        target = self._target
        if not target.key or not self._files or not net.height:
            return []
        candidates = locate.candidates(self._files, net.select(*target.key, NET), target.schema)
        looked = locate.locate_all(
            target.objects, target.path, candidates, target.schema, cache=target.keys, dead=target.dead
        )
        return [found for found in looked if len(found.hits)]

    def _count(self, net: pl.DataFrame, located: Sequence[Located]) -> None:
        hit = np.zeros(net.height, dtype=np.bool_)
        for found in located:
            hit[found.hits.nets] = True
        known, is_delete = pl.Series(hit), net[OP] == DELETE
        self._known += int(hit.sum())
        self._counts["inserted"] += int((~known & ~is_delete).sum())
        self._counts["updated"] += int((known & ~is_delete).sum())
        self._counts["deleted"] += int((known & is_delete).sum())
        self._counts["noop"] += int((~known & is_delete).sum())

    def _write(self, upserts: pl.DataFrame) -> None:
        if self._written is None:
            self._written = FullLoad(self._target, self._piece_bytes)
        self._written.add(upserts.select([column.name for column in self._target.schema]))

    def _touched(self, number: int, file: DataFile) -> Touched:
        partition = tuple(file.partition_values.get(name) for name in self._target.partition_by)
        dead, markable = file.vector.cardinality if file.vector else 0, is_markable(file)
        found = self._found.get(number)
        if found is not None:
            return Touched(number, partition, file.size, found.first, len(found.hits), found.rows, dead, markable)
        types = {column.name: column.type for column in self._target.schema}
        lows = tuple(locate.bounds_of(file, name, types[name])[0] for name in self._target.key)
        return Touched(number, partition, file.size, None if None in lows else lows, dead=dead, markable=markable)

    def _with_home(
        self, upserts: pl.DataFrame, parts: pl.DataFrame, located: Sequence[Located], touched: Sequence[Touched]
    ) -> pl.DataFrame:
        """The rows with `partition` and `home`: the first file of its partition that holds an updated row."""
        names = [name for name in parts.columns if name not in ("partition", "text")]
        if names:
            rows = upserts.join(parts.drop("text"), on=names, how="left", nulls_equal=True, maintain_order="left")
        else:
            rows = upserts.with_columns(partition=pl.lit(0, dtype=pl.UInt32))
        places = {partition: number for number, partition in enumerate(parts["text"].to_list() if names else [()])}
        hits = [
            (number, places[touched[number].partition], found.hits.nets)
            for found in located
            for number in [self._numbers[found.file.id]]
            if touched[number].partition in places
        ]
        if not hits:
            return rows.with_columns(home=pl.lit(strategy.NO_FILE, dtype=pl.Int64))
        counts = [len(nets) for _, _, nets in hits]
        homes = pl.DataFrame(
            {
                NET: np.concatenate([nets for _, _, nets in hits]),
                "partition": np.repeat(np.array([place for _, place, _ in hits], dtype=np.uint32), counts),
                "home": np.repeat(np.array([number for number, _, _ in hits], dtype=np.int64), counts),
            }
        )
        first = homes.unique([NET, "partition"], keep="first", maintain_order=True)
        return rows.join(first, on=[NET, "partition"], how="left", maintain_order="left").with_columns(
            pl.col("home").fill_null(strategy.NO_FILE)
        )

    def _carry_out(self, plan: WritePlan, rows: pl.DataFrame, partitions: Sequence[Partition]) -> list[DataFile]:
        if self._written is not None:
            self._written.finish()
        adds = list(self._written.files) if self._written is not None else []
        rows = rows.with_columns(home=plan.home) if rows.height else rows
        for number in sorted(plan.rewrite):
            joining = rows.filter(pl.col("home") == number) if rows.height else None
            adds += self._rewrite(number, joining)
        for partition_number, partition in enumerate(partitions):
            fresh = rows.filter((pl.col("home") == strategy.NO_FILE) & (pl.col("partition") == partition_number))
            if fresh.height:
                adds += self._append(fresh, plan.absorb.get(partition, ()))
        if plan.mark:
            adds += self._target.mark([(self._files[number], self._dead(number)) for number in sorted(plan.mark)])
        return adds

    def _dead(self, number: int) -> BitMap64:
        """All dead rows of a file: those that were, and those that the batch hits."""
        dead = self._target.dead(self._files[number])
        found = self._found.get(number)
        if found is None:
            return dead
        return dead | found.hits if dead else found.hits

    def _live(self, number: int) -> pl.DataFrame:
        """The rows of a file that live on."""
        target, file = self._target, self._files[number]
        return datafiles.read(target.objects, target.path, file, target.schema, dead=self._dead(number)).drop(POSITION)

    def _rewrite(self, number: int, joining: pl.DataFrame | None) -> list[DataFile]:
        """A file again, without its hit rows and with the rows that join it, in key order."""
        kept, file = self._live(number), self._files[number]
        stored = self._found[number].rows + (file.vector.cardinality if file.vector else 0)
        # A file lies in one partition, so its rows stand in key order.
        frame = _in_order(kept, joining.select(kept.columns), list(self._target.key)) if joining is not None else kept
        return self._target.write(frame, file.size / max(1, stored))

    def _append(self, fresh: pl.DataFrame, absorbed: Sequence[int]) -> list[DataFile]:
        """A new file of new rows and of the small files that it absorbs."""
        target = self._target
        frame = pl.concat([*map(self._live, absorbed), fresh.select([column.name for column in target.schema])])
        if target.key:
            frame = frame.sort(target.order)
        return target.write(frame, frame.estimated_size() * STORED_SHARE / max(1, frame.height))


def _bitmap(positions: Numbers) -> BitMap64:
    numbers = array("Q")
    numbers.frombytes(positions.astype(np.uint64).tobytes())
    return BitMap64(numbers)


def _partitions_of(target: Target, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows' distinct partitions: the columns, `partition` (a number), `text` (as in the log)."""
    if not target.partition_by:
        return pl.DataFrame({"partition": [0]}, schema={"partition": pl.UInt32}).with_columns(text=pl.lit(None))
    names = list(target.partition_by)
    distinct = rows.select(names).unique(maintain_order=True).with_row_index("partition")
    texts = [tuple(datafiles.partition_text(v) for v in row) for row in distinct.select(names).iter_rows()]
    return distinct.with_columns(pl.Series("text", texts, dtype=pl.Object))


def _sizes(rows: pl.DataFrame, parts: pl.DataFrame) -> dict[Partition, float]:
    """The estimated stored bytes of the new rows of each partition, in the order of their numbers."""
    texts: list[Partition] = [()] if len(parts.columns) == 2 else parts["text"].to_list()
    width = rows.estimated_size() * STORED_SHARE / max(1, rows.height)
    fresh = rows["partition"].value_counts()
    counts = dict(zip(fresh["partition"], fresh["count"], strict=True))
    return {text: counts.get(number, 0) * width for number, text in enumerate(texts)}


def _in_order(kept: pl.DataFrame, joining: pl.DataFrame, order: list[str]) -> pl.DataFrame:
    """Both frames' rows in order; a file that stands in order by one column is merged, which a sort would not see."""
    if len(order) == 1 and kept[order[0]].is_sorted():
        return kept.merge_sorted(joining.sort(order), key=order[0])
    return pl.concat([kept, joining]).sort(order)
