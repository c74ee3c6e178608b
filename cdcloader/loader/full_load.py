"""A LOAD set -> one commit that replaces the table: readers see the old rows or the new, never half."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from cdcloader.changes.evolution import evolve
from cdcloader.changes.schema import Field, Schema
from cdcloader.errors import CommitConflict, StateConflict
from cdcloader.lake.apply import Applied
from cdcloader.lake.load import FullLoad as LoadFiles
from cdcloader.lake.snapshot import Snapshot, check_supported
from cdcloader.loader.account import Account, logged_progress, utc_second
from cdcloader.loader.columns import Columns, load_columns, source_columns
from cdcloader.loader.context import Context, Stopwatch, overlay
from cdcloader.loader.incremental import Committed
from cdcloader.loader.publish import commit
from cdcloader.source.actions import FullLoad
from cdcloader.source.load_sets import layout_of
from cdcloader.source.rows import TEXT_FORMATS, Chunk, read, survey

_COMMIT_TRIES_MAX = 5


class _TooNarrow(Exception):
    """An inferred type does not hold all values; the load begins again with wider ones."""

    def __init__(self, wider: dict[str, str]) -> None:
        super().__init__(f"wider types are needed: {wider}")
        self.wider = wider


def load(
    context: Context,
    base: Snapshot | None,
    plan: FullLoad,
    generation: int,
    keep_alive: Callable[[], None],
    *,
    confirm: Callable[[], None] = lambda: None,
    skipped: Mapping[str, str] = MappingProxyType({}),
) -> Committed:
    """Load the set and publish it as `generation`; `keep_alive` is called between chunks, `confirm` before a commit.

    `confirm` raises StateConflict where the table is another loader's by now, who may have come to another plan.
    `skipped` are the files that an operator had us skip; none of them is in the set.
    """
    if base is not None:
        check_supported(base, where=context.log.where)
    watch = Stopwatch()
    with watch.phase("describe"):
        source, inferred = _source(context, base, plan)
    while True:
        columns = load_columns(context, base, source, plan.files[0].name)
        try:
            files, account = _write(context, plan, columns, inferred, generation, watch, keep_alive)
            account = replace(account, skipped=skipped)
            break
        except _TooNarrow as narrow:
            source = tuple(replace(c, type=narrow.wider.get(c.name, c.type)) for c in source)
    try:
        with watch.phase("commit"):
            return _publish(context, plan, columns, files, account, watch, confirm)
    except (CommitConflict, StateConflict):
        # Only now is it certain that no version names these files; after a lost answer one may.
        files.discard()
        raise


def _source(context: Context, base: Snapshot | None, plan: FullLoad) -> tuple[Schema, frozenset[str]]:
    """The set's columns, and those whose types were guessed. CSV and JSON keep the types that the table has already."""
    text = any(file.format in TEXT_FORMATS for file in plan.files)
    pinned = source_columns(context.table, base, context.log.where) if text else ()
    known = overlay(pinned, context.table)
    seen = survey(context.inputs(plan.files), context.row_format(known))
    # The table's own order and nullability do not matter.
    schema = evolve(seen, (), context.source_policy).schema or tuple(Field(c.name, c.type) for c in known)
    names = {column.name for column in known}
    guessed = frozenset(column.name for column in schema if column.name not in names) if text else frozenset()
    # A column that is guessed may hold NULL in every sample.
    return schema, guessed


def _write(
    context: Context,
    plan: FullLoad,
    columns: Columns,
    inferred: frozenset[str],
    generation: int,
    watch: Stopwatch,
    keep_alive: Callable[[], None],
) -> tuple[LoadFiles, Account]:
    files = LoadFiles(context.target(columns.evolution.schema), context.settings.piece_bytes)
    quarantine = context.quarantine(plan.files)
    fmt = context.row_format(columns.source)
    rows_in = left_out = 0
    inputs = context.inputs(plan.files)
    try:
        for file in inputs:
            chunks = read(file, fmt, columns.source, inferred=inferred, chunk_bytes=context.settings.chunk_bytes)
            while True:
                with watch.phase("read"):
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                _refuse_misfits(chunk)
                rows_in += chunk.rows_in
                rows, rejects = chunk.rows, chunk.rejects
                if columns.differ:
                    with watch.phase("read"):
                        ruled = columns.applied(chunk, inputs, leave_out=True)
                    rows, rejects, left_out = ruled.rows, ruled.rejects, left_out + ruled.left_out
                quarantine.add(file.name, rejects)
                with watch.phase("write"):
                    files.add(rows)
                keep_alive()
        with watch.phase("write"):
            files.finish(keep_alive)
            quarantine.flush()
    except BaseException:
        files.discard()
        raise
    account = _account(context, plan, generation, rows_in, files, quarantine.rows)
    return files, replace(account, noop=left_out)


def _refuse_misfits(chunk: Chunk) -> None:
    if chunk.misfits:
        raise _TooNarrow(dict(chunk.misfits))


def _account(
    context: Context, plan: FullLoad, generation: int, rows_in: int, files: LoadFiles, quarantined: int
) -> Account:
    floor = context.naming.named_position(plan.floor)
    return Account(
        generation=generation,
        position=floor,
        floor=floor,
        file=context.naming.file_at(context.path, floor),
        files={},
        full_load_date=utc_second(plan.first_modified),
        full_load_newest=plan.newest,
        full_load_files=plan.files_in_window,
        full_load_layout=layout_of(plan.files),
        rows_in=rows_in,
        inserted=files.rows,
        superseded=files.superseded,
        quarantined=quarantined,
        version=plan.version,
    )


def _publish(
    context: Context,
    plan: FullLoad,
    columns: Columns,
    files: LoadFiles,
    account: Account,
    watch: Stopwatch,
    confirm: Callable[[], None],
) -> Committed:
    """Replace whatever the newest version holds; a full load depends on no earlier version."""
    for _ in range(_COMMIT_TRIES_MAX):
        base = context.log.snapshot()
        if base is not None:
            # Another writer may have changed the table's features while the files were read.
            check_supported(base, where=context.log.where)
        logged = logged_progress(base.transactions) if base else None
        if logged is not None and logged[0] >= account.generation:
            raise CommitConflict(
                f"generation {account.generation} was loaded by another loader", where=context.log.where
            )
        # Behind the reading of the log: whoever takes over from here on cannot commit unseen.
        confirm()
        removes = list(base.files.values()) if base else []
        try:
            snapshot = commit(
                context,
                base,
                account,
                columns=columns.evolution,
                adds=files.files,
                removes=removes,
                operation="WRITE",
            )
        except CommitConflict:
            continue
        applied = Applied(adds=list(files.files), inserted=account.inserted, strategy="full_load")
        return Committed(account, snapshot, applied, watch.seconds, plan.files, None, columns.evolution.changes)
    raise CommitConflict(
        f"other writers took the version {_COMMIT_TRIES_MAX} times in a row",
        where=context.log.where,
        hint="stop other writers of this table while it is loaded",
    )
