"""A batch of CDC files -> one commit: read, net, locate, rewrite, account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from cdcloader.changes.net import FILE, OP, ROW, SEQ, TIME, net_changes
from cdcloader.changes.schema import Field, Schema, merge, polars_schema
from cdcloader.lake.apply import Applied, apply_net
from cdcloader.lake.quarantine import Quarantine
from cdcloader.lake.snapshot import Snapshot, check_supported
from cdcloader.loader.account import Account
from cdcloader.loader.context import Context, Stopwatch, check_columns, check_same_layout, overlay
from cdcloader.loader.publish import commit
from cdcloader.source.names import RawFile, time_of_position
from cdcloader.source.rows import RowFormat, describe, read
from cdcloader.state.record import Record


@dataclass(frozen=True, slots=True)
class Committed:
    """A step's commit: its account, the new version, what changed, the seconds of its phases, and its raw files.

    `newest_time` is the newest source commit (or file) time among its rows, None for a full load without one.
    """

    account: Account
    snapshot: Snapshot
    applied: Applied
    seconds: dict[str, float]
    files: tuple[RawFile, ...]
    newest_time: datetime | None


@dataclass(frozen=True, slots=True)
class _Read:
    rows: pl.DataFrame
    schema: Schema
    rows_in: int
    quarantine: Quarantine


def apply_batch(
    context: Context, base: Snapshot | None, record: Record, files: Sequence[RawFile], *, late: bool = False
) -> Committed | None:
    """Apply files to the table, or make it from them. Late files are applied without moving the watermark.

    None when there is no table and the files, being empty, say nothing of its columns.
    """
    watch = Stopwatch()
    if base is not None:
        check_supported(base, where=context.log.where)
        check_same_layout(context, base)
    with watch.phase("read"):
        batch = _gather(context, base, files)
    if not batch.schema:
        return None
    with watch.phase("net"):
        net = net_changes(batch.rows, context.key) if context.key else batch.rows
        # Readers of a new table need its columns, so a batch may add them without adding rows.
        net = net.select([*(column.name for column in batch.schema), OP])
    with watch.phase("apply"):
        applied = apply_net(context.target(batch.schema), base, net)
        batch.quarantine.flush()
    account = _account(record, files, batch, applied, superseded=batch.rows.height - net.height, late=late)
    with watch.phase("commit"):
        snapshot = commit(
            context, base, account, schema=batch.schema, adds=applied.adds, removes=applied.removes, operation="MERGE"
        )
    newest = _newest_time(batch.rows, files)
    return Committed(account, snapshot, applied, watch.seconds, tuple(files), newest)


def files_before(context: Context, files: Sequence[RawFile], bad: str) -> list[RawFile]:
    """The files at positions before that of the file whose path is `bad`; [] when that is the first, or none of them.

    A file that cannot be read must not keep those before it waiting; a position is never split.
    """
    position = next((file.position for file in files if context.raw.path_of(file.key) == bad), 0)
    return [file for file in files if file.position < position]


def _gather(context: Context, base: Snapshot | None, files: Sequence[RawFile]) -> _Read:
    """All rows of the batch, in order, with the types of the table as it will be after the batch."""
    table_schema = base.schema(context.log.where) if base else ()
    inputs = context.fetched(files)
    known = overlay(table_schema, context.table)
    found = describe(inputs, context.row_format(known))
    where = inputs[0].name if len(inputs) == 1 else f"{inputs[0].name} .. {inputs[-1].name}"
    schema = merge(tuple(Field(c.name, c.type) for c in found), table_schema, where=where)
    if schema:
        check_columns(context.table, schema, where)
    fmt = context.row_format(schema)
    quarantine = context.quarantine(files)
    frames, rows_in = [], 0
    for file in inputs:
        for chunk in read(file, fmt, schema, chunk_bytes=context.settings.chunk_bytes):
            rows_in += chunk.rows_in
            quarantine.add(file.name, chunk.rejects)
            frames.append(chunk.rows)
    rows = pl.concat(frames) if frames else _no_rows(schema, fmt)
    return _Read(rows, schema, rows_in, quarantine)


def _no_rows(schema: Schema, fmt: RowFormat) -> pl.DataFrame:
    """What a batch of empty files amounts to."""
    helpers = {OP: pl.String(), FILE: pl.UInt32(), ROW: pl.Int64(), TIME: pl.Datetime("us", "UTC")}
    sequence = {f"{SEQ}{number}": pl.String() for number in range(len(fmt.sequence_by))}
    return pl.DataFrame(schema={**polars_schema(schema), **helpers, **sequence})


def _account(
    record: Record, files: Sequence[RawFile], batch: _Read, applied: Applied, *, superseded: int, late: bool
) -> Account:
    last = max(files, key=lambda file: file.sort_key)
    return Account(
        generation=record.generation,
        position=record.recorded_position if late else last.position,
        floor=record.floor,
        file=record.last_incremental_file if late else f"{record.path}{last.name}",
        files={file.name: file.etag for file in files},
        full_load_date=record.recorded_full_load_date,
        full_load_newest=record.full_load_newest,
        full_load_files=record.full_load_files,
        rows_in=batch.rows_in,
        inserted=applied.inserted,
        updated=applied.updated,
        deleted=applied.deleted,
        noop=applied.noop,
        superseded=superseded,
        quarantined=batch.quarantine.rows,
    )


def _newest_time(rows: pl.DataFrame, files: Sequence[RawFile]) -> datetime:
    """The newest commit time that the rows tell, else the time in the newest file's name."""
    newest = rows[TIME].max()
    if isinstance(newest, datetime):
        return newest.astimezone(UTC)
    return time_of_position(max(file.position for file in files))
