"""Brings a state record up to what the Delta log says: the log is the truth about a table."""

from __future__ import annotations

from dataclasses import replace

from cdcloader.errors import TableError
from cdcloader.lake.snapshot import Snapshot
from cdcloader.loader.account import UPKEEP, Account, forward, from_info, logged_progress, without_ledger
from cdcloader.loader.context import VERSION_PROPERTY, Context
from cdcloader.state.record import Record

INFOS_MAX = 1_000


def brought_forward(context: Context, record: Record, base: Snapshot | None) -> Record:
    """The record after every commit of ours that it has missed; the same object when there is none.

    TableError when table and record cannot belong together.
    """
    where = context.log.where
    if base is None:
        if record.recorded_version is None:
            return record
        raise TableError(
            f"the target is gone; the state record says that version {record.recorded_version} was written",
            where=where,
            hint="restore it, or load it anew: delete the table's state record",
        )
    if record.recorded_version is not None and base.version < record.recorded_version:
        raise TableError(
            f"the target is at version {base.version}, the state record at {record.recorded_version}",
            where=where,
            hint="it was restored or made anew behind our back. To go on from that version, delete the state "
            "record; to load it anew, delete the target's folder and the record",
        )
    logged = logged_progress(base.transactions)
    if logged is None:
        raise TableError(
            "the target exists and was not written by cdcloader",
            where=where,
            hint="give the source another `target`, or delete the table if it may be replaced",
        )
    before = record
    first = record.recorded_version + 1 if record.recorded_version is not None else 0
    infos = context.log.infos(max(first, base.version - INFOS_MAX + 1), base.version)
    for version, info in infos:
        if UPKEEP in info:
            continue
        account = from_info(info)
        if account.generation >= record.generation:
            record = forwarded(context, record, account, version)
    if logged > (record.generation, record.recorded_position):
        # The commits in between are cleaned away: the position is known, the ledger before it is not.
        record = without_ledger(record, *logged, version=base.version, naming=context.naming)
        record = replace(record, source_version=base.configuration.get(VERSION_PROPERTY))
    return _with_order(record, before)


def _with_order(record: Record, before: Record) -> Record:
    """The record with the reload that an operator ordered, where no full load has come since.

    The order came while the batch was in hand whose commit has brought the record forward.
    """
    ordered = before.last_full_load_date != before.recorded_full_load_date
    if record is before or not ordered or record.generation != before.generation:
        return record
    return replace(record, last_full_load_date=before.last_full_load_date)


def forwarded(context: Context, record: Record, account: Account, version: int) -> Record:
    """The record after a commit of ours."""
    moved = forward(
        record,
        account,
        version=version,
        look_back_seconds=context.settings.look_back_seconds,
        now=context.now(),
        naming=context.naming,
    )
    table = context.table
    return replace(moved, primary_key=table.primary_key, partition_key=table.partition_by)
