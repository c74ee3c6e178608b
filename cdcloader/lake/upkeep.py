"""What upkeep needs to know of a table, and what it does to its log: the protocol without vectors, checkpoints."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from cdcloader.changes.schema import Schema
from cdcloader.errors import TransientError
from cdcloader.lake import datafiles, locate
from cdcloader.lake.compaction import Spread
from cdcloader.lake.live import Key, Live
from cdcloader.lake.snapshot import Action, DataFile, Snapshot
from cdcloader.lake.target import Target
from cdcloader.objects import Objects

CHECKPOINT_COMMITS = 50
VECTORS_PROPERTY = "delta.enableDeletionVectors"
_SLACK = timedelta(milliseconds=1)
# Features that say nothing as long as no column and no property uses them; a table that we support uses none of them.
_UNUSED_FEATURES = frozenset(
    {
        "deletionVectors", "variantType", "variantType-preview", "appendOnly", "invariants", "checkConstraints",
        "changeDataFeed", "generatedColumns", "identityColumns", "columnMapping",
    }
)  # fmt: skip
_NAIVE = "timestampNtz"


def describe(target: Target, file: DataFile) -> Live:
    """A live file as planning sees it, by its log entry alone."""
    kinds = {column.name: column.type for column in target.schema}
    bounds = [_bounds(file, name, kinds[name]) for name in target.key]
    known = bool(bounds) and all(low is not None for low, _ in bounds)
    return Live(
        path=file.path,
        partition=tuple(file.partition_values.get(name) for name in target.partition_by),
        size=file.size,
        rows=_stored_rows(file.stats),
        dead=file.vector.cardinality if file.vector else 0,
        low=tuple(low for low, _ in bounds) if known else None,
        high=tuple(high for _, high in bounds) if known else None,
        written=file.modification_time,
        vector=file.vector is not None,
    )


def spread_of(target: Target, files: Mapping[str, DataFile]) -> Spread:
    """Counts the live rows of a file between keys; reads its key columns."""

    def spread(path: str, starts: Sequence[Key]) -> list[int]:
        file, key = files[path], list(target.key)
        stored = datafiles.read(
            target.objects, target.path, file, target.schema, columns=key, dead=target.dead(file)
        ).select(key)
        # Where a start holds only the first columns of a key, the NULLs of the others stand before all values.
        marks = pl.DataFrame([dict(zip(key, start, strict=False)) for start in starts], schema=stored.schema)
        numbered = marks.with_columns(tile=pl.int_range(1, len(starts) + 1, dtype=pl.Int64))
        # A mark stands before the rows that are equal to it, because the sort keeps the order of equals.
        order = pl.concat([numbered, stored.with_columns(tile=pl.lit(None, dtype=pl.Int64))]).sort(
            key, maintain_order=True, nulls_last=False
        )
        tiles = order.select(
            pl.col("tile").forward_fill().fill_null(0).alias("at"), is_row=pl.col("tile").is_null()
        ).filter("is_row")["at"]
        counts = dict(tiles.value_counts().iter_rows())
        return [int(counts.get(tile, 0)) for tile in range(len(starts) + 1)]

    return spread


def downgrade(snapshot: Snapshot, schema: Schema) -> list[Action]:
    """The actions that make a table without vectors one for readers that know none; [] when there is nothing to do."""
    if any(file.vector for file in snapshot.files.values()):
        return []
    enabled = snapshot.configuration.get(VECTORS_PROPERTY, "false").lower() == "true"
    named = {*(snapshot.protocol.get("readerFeatures") or ()), *(snapshot.protocol.get("writerFeatures") or ())}
    if not enabled and "deletionVectors" not in named:
        return []
    configuration = {**snapshot.configuration, VECTORS_PROPERTY: "false"}
    return [
        {"protocol": _lowest_protocol(snapshot.protocol, schema)},
        {"metaData": {**snapshot.metadata, "configuration": configuration}},
    ]


def checkpoint_if_due(objects: Objects, table: str, snapshot: Snapshot) -> bool:
    """Write a checkpoint at every 50th version, so that a new reader reads few commits; True when one was written.

    TransientError when delta-rs cannot write it; the table is right without it.
    """
    if snapshot.version == 0 or snapshot.version % CHECKPOINT_COMMITS:
        return False
    checkpoint(objects, table, snapshot.version)
    return True


def checkpoint(objects: Objects, table: str, version: int) -> None:
    """Write a checkpoint of a version.

    A crash leaves either no checkpoint or a whole one: `_last_checkpoint` names it only when it stands.
    TransientError when delta-rs cannot write it; the table is right without it.
    """
    # Imported here: most processes never write a checkpoint, and a small budget feels the megabytes.
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    location, options = objects.scan_target(table)
    try:
        DeltaTable(location, version=version, storage_options=options).create_checkpoint()
    except (DeltaError, OSError) as error:
        raise TransientError(f"no checkpoint was written: {error}", where=objects.path_of(table)) from error


# Planning looks at every file, and a file's statistics never change.
@functools.lru_cache(maxsize=20_000)
def _stored_rows(stats: str | None) -> int:
    return int(json.loads(stats).get("numRecords") or 0) if stats else 0


def _bounds(file: DataFile, name: str, kind: str) -> tuple[Any, Any]:
    """A column's bounds as its writer meant them; `locate` widens those of moments, and neighbours would overlap."""
    low, high = locate.bounds_of(file, name, kind)
    if isinstance(high, datetime) and name not in file.partition_values:
        return low, max(low, high - _SLACK)
    return low, high


def _lowest_protocol(protocol: Action, schema: Schema) -> Action:
    """The lowest protocol without vectors; features that the table may use stay."""
    naive = {_NAIVE} if any(column.type == "timestamp_ntz" for column in schema) else set()
    dropped = _UNUSED_FEATURES | {_NAIVE}
    readers = ({*(protocol.get("readerFeatures") or ())} - dropped) | naive
    writers = ({*(protocol.get("writerFeatures") or ())} - dropped) | naive
    if not readers and not writers:
        return {"minReaderVersion": 1, "minWriterVersion": 2}
    lowest: Action = {"minReaderVersion": 3 if readers else 1, "minWriterVersion": 7}
    # What writer version 2 stands for, spelled as features.
    lowest["writerFeatures"] = ["appendOnly", "invariants", *sorted(writers)]
    return {**lowest, "readerFeatures": sorted(readers)} if readers else lowest
