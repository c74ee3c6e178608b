"""A TRUNCATE of the source -> one commit that removes every row."""

from __future__ import annotations

from cdcloader.changes.evolution import Evolution
from cdcloader.lake.apply import Applied
from cdcloader.lake.snapshot import Snapshot, check_supported
from cdcloader.loader.account import Account
from cdcloader.loader.context import Context, Stopwatch, check_same_layout
from cdcloader.loader.incremental import Committed
from cdcloader.loader.publish import commit
from cdcloader.state.record import Record

STRATEGY = "truncate"


def empty_table(context: Context, base: Snapshot, record: Record, generation: int) -> Committed:
    """Remove every row in one commit, as a new generation that begins at the watermark.

    No file counts as applied in it, so that the emptied source is not found emptied again.
    """
    check_supported(base, where=context.log.where)
    check_same_layout(context, base)
    watch = Stopwatch()
    removes = list(base.files.values())
    rows = sum(
        int(file.statistics().get("numRecords") or 0) - (file.vector.cardinality if file.vector else 0)
        for file in removes
    )
    account = Account(
        generation=generation,
        position=record.recorded_position,
        floor=record.recorded_position,
        file=record.last_incremental_file,
        files={},
        full_load_date=record.recorded_full_load_date,
        full_load_newest=record.full_load_newest,
        full_load_files=0,
        full_load_layout=record.full_load_layout,
        rows_in=rows,
        deleted=rows,
        skipped=record.skipped_files,
        version=record.source_version,
    )
    with watch.phase("commit"):
        columns = Evolution(base.schema(context.log.where))
        snapshot = commit(context, base, account, columns=columns, adds=(), removes=removes, operation="DELETE")
    applied = Applied(removes=removes, deleted=rows, strategy=STRATEGY)
    return Committed(account, snapshot, applied, watch.seconds, files=(), newest_time=None)
