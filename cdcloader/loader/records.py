"""The state record of a table as its loader begins it, and what follows from a record and the log together."""

from __future__ import annotations

from dataclasses import replace

from cdcloader.errors import StateConflict
from cdcloader.lake.snapshot import Snapshot
from cdcloader.loader.account import logged_progress, progress_of, unclaimed
from cdcloader.loader.context import VERSION_PROPERTY, Context
from cdcloader.state.record import Record, new_record
from cdcloader.state.store import StateStore


def own_record(context: Context, store: StateStore) -> Record:
    """The state record; made when there is none, and made ours when the AWS walkthrough wrote it."""
    record = store.get(context.path)
    if record is not None:
        if record.recorded_version is None and record.updated_at is None:
            # The walkthrough wrote it, about a table that is not ours: ours begins with its full load.
            began = replace(unclaimed(record), updated_at=context.now(), source_version=context.table.version)
            return store.update(record, began)
        if has_no_files(record) and record.source_version != context.table.version:
            begun = replace(record, source_version=_first_version(context))
            return record if begun == record else store.update(record, begun)
        return record
    record = replace(first_record(context), source_version=_first_version(context))
    try:
        store.create(record)
    except StateConflict:
        return own_record(context, store)
    return record


def first_record(context: Context) -> Record:
    """The record of a table that nothing is known of."""
    s3 = context.raw.location.startswith("s3://")
    bucket, _, below = context.path.partition("/") if s3 else ("", "", context.path)
    folder = f"{context.table.source.rpartition('/')[2]}/"
    record = new_record(
        context.path,
        bucket,
        below.removesuffix(folder),
        folder,
        context.table.primary_key,
        context.table.partition_by,
        context.lake.path_of(context.table.target),
    )
    return replace(record, updated_at=context.now(), source_version=context.table.version)


def _first_version(context: Context) -> str | None:
    """The version that a table without a file begins with, or that it is made of where its record was lost."""
    base = context.log.snapshot() if context.table.version is not None else None
    return base.configuration.get(VERSION_PROPERTY) if base is not None else context.table.version


def has_no_files(record: Record) -> bool:
    """Whether no file of the source counts as applied yet."""
    return record.recorded_version is None and not record.recorded_position


def next_generation(record: Record, base: Snapshot | None) -> int:
    """A generation that neither the record nor the log has seen."""
    logged = logged_progress(base.transactions) if base else None
    return max(record.generation, logged[0] if logged else 0) + 1


def same_place(record: Record, seen: Record) -> bool:
    """Whether a plan that was made for `seen` holds for `record`."""
    same = progress_of(record) == progress_of(seen) and record.active == seen.active
    # An edit of LastIncrementalFile is an order to rewind, which the watermark that we recorded does not tell.
    same = same and record.last_incremental_file == seen.last_incremental_file
    return same and dict(record.skipped_files) == dict(seen.skipped_files)
