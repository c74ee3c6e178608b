"""Shared files that hold no row of a table: its watermark goes past them with one write to its record.

A thousand tables may share a folder, of which each file changes a few. The others take no lease, read no log and commit
nothing. The log then says less of the watermark than the record does; where the record is lost, the files are looked at
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdcloader.errors import TableError
from cdcloader.loader.account import without_rows
from cdcloader.loader.context import Context
from cdcloader.source.actions import Action, AppendLate, Batch, Replay
from cdcloader.source.names import RawFile
from cdcloader.state.record import Phase, Record


def passed_by(context: Context, record: Record, action: Action) -> Record | None:
    """The record after the files of a plan that hold no row of the table; None where there are rows to apply."""
    if record.lease_owner not in (None, context.settings.owner):
        return None
    match action:
        case Batch(files=files) if files_without_rows(context, files) == list(files):
            seconds = context.settings.look_back_seconds
            moved = without_rows(record, files, seconds, context.now(), context.naming)
            # The table is as it was, or is not there yet.
            phase = Phase.NEW if record.recorded_version is None else Phase.STREAMING
            return replace(moved, recorded_version=record.recorded_version, phase=phase)
        case AppendLate(files=files) | Replay(late=files) if empty := files_without_rows(context, files):
            ledger = {**record.ledger, **{file.name: file.etag for file in empty}}
            return replace(record, ledger=ledger, updated_at=context.now())
    return None


def files_without_rows(context: Context, files: Sequence[RawFile]) -> list[RawFile]:
    """Those of the files that hold the changes of all tables, and none of this one."""
    shared = [file for file in files if file.transactions]
    try:
        shares = context.shares(shared) if shared else []
    except TableError:
        # Who applies the files before the damaged one says what is wrong with it.
        return []
    return [file for file, share in zip(shared, shares, strict=True) if not share.rows]


def as_taken(context: Context, files: Sequence[RawFile]) -> list[RawFile]:
    """The files, the shared ones with the bytes that the table takes from them: memory is granted by these."""
    shared = [file for file in files if file.transactions]
    try:
        shares = iter(context.shares(shared) if shared else [])
    except TableError:
        return list(files)
    return [replace(file, size=next(shares).size, gzip=False) if file.transactions else file for file in files]
