"""A table whose columns take wider types, or turn into text -> one commit that changes no row, before its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from cdcloader import __version__
from cdcloader.changes.evolution import Change, Evolution, retyped
from cdcloader.errors import CommitConflict, TransientError
from cdcloader.lake.log import INFO
from cdcloader.lake.retype import retype
from cdcloader.lake.rewriting import discard
from cdcloader.lake.snapshot import Action, Snapshot
from cdcloader.lake.upkeep import checkpoint_if_due
from cdcloader.loader.account import UPKEEP
from cdcloader.loader.context import Context
from cdcloader.loader.publish import check_same_rows, table_actions
from cdcloader.loader.schema_changes import changes_info


def retype_table(
    context: Context,
    base: Snapshot,
    evolution: Evolution,
    keep_going: Callable[[], None],
    changed: Callable[[Sequence[Change]], None],
) -> Snapshot:
    """Commit the table's own columns with the types that a batch asks for; `changed` is told when it stands.

    It moves no watermark, so that a kill behind it leaves a batch that finds its types there. CommitConflict when
    another writer was first.
    """
    where, now_ms = context.log.where, context.now_ms
    before = base.schema(where)
    after = retyped(before, evolution)
    target = context.target(before)
    # Partitions stand in the log as text, which stays as it is where their type may change at all.
    stored = any(change.column not in base.partition_columns for change in evolution.retyped)
    files = list(base.files.values()) if stored else []
    written = retype(target, after, files, piece_bytes=context.settings.piece_bytes, going_on=keep_going)
    check_same_rows(written.removes, written.adds, where)
    actions = [*table_actions(context, base, after, now_ms, vectors=False), *written.actions(now_ms)]
    info: Action = {
        "timestamp": now_ms,
        "operation": "CHANGE COLUMN",
        "operationParameters": {},
        "operationMetrics": {"numAddedFiles": str(len(written.adds)), "numRemovedFiles": str(len(written.removes))},
        "engineInfo": f"cdcloader/{__version__}",
        INFO: {UPKEEP: "retype", **changes_info(evolution.retyped)},
    }
    try:
        snapshot = context.log.commit(base, actions, info)
    except CommitConflict:
        discard(target, written.new)
        raise
    changed(evolution.retyped)
    with suppress(TransientError):
        # The table is right without it.
        checkpoint_if_due(context.lake, context.table.target, snapshot)
    return snapshot
