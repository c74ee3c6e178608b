"""Keeps the log of a table short, between batches and in the table's own worker."""

from __future__ import annotations

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from cdcloader.errors import TransientError
from cdcloader.lake.snapshot import Snapshot
from cdcloader.objects import Objects

CHECKPOINT_COMMITS = 50


def checkpoint_if_due(objects: Objects, table: str, snapshot: Snapshot) -> bool:
    """Write a checkpoint at every 50th version, so that a new reader reads few commits; True when one was written.

    A crash leaves either no checkpoint or a whole one: `_last_checkpoint` names it only when it stands.
    TransientError when delta-rs cannot write it; the table is right without it.
    """
    if snapshot.version == 0 or snapshot.version % CHECKPOINT_COMMITS:
        return False
    location, options = objects.scan_target(table)
    try:
        DeltaTable(location, version=snapshot.version, storage_options=options).create_checkpoint()
    except (DeltaError, OSError) as error:
        raise TransientError(f"no checkpoint was written: {error}", where=objects.path_of(table)) from error
    return True
