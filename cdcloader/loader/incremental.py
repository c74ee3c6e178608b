"""A batch of CDC files -> one commit: read, net, locate, write, account. It may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from cdcloader.changes.evolution import Change
from cdcloader.changes.net import OP, unset_columns
from cdcloader.errors import CommitConflict
from cdcloader.lake.apply import Application, Applied
from cdcloader.lake.snapshot import Snapshot, check_supported
from cdcloader.loader.account import Account, applied_file, logged_progress
from cdcloader.loader.context import Context, Stopwatch, check_same_layout
from cdcloader.loader.passes import insert_passes, net_passes
from cdcloader.loader.publish import commit
from cdcloader.loader.reading import Reading
from cdcloader.loader.retyping import retype_table
from cdcloader.source.names import RawFile
from cdcloader.state.record import Record

# Counting the keys of so many rows takes some milliseconds.
_COUNTED_ROWS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Committed:
    """A step's commit: its account, the new version, what changed, the seconds of its phases, and its raw files.

    `newest_time` is the newest source commit (or file) time among its rows, None for a full load without one;
    `changes` are those of the columns.
    """

    account: Account
    snapshot: Snapshot
    applied: Applied
    seconds: dict[str, float]
    files: tuple[RawFile, ...]
    newest_time: datetime | None
    changes: tuple[Change, ...] = ()


def apply_batch(
    context: Context,
    base: Snapshot | None,
    record: Record,
    files: Sequence[RawFile],
    *,
    late: bool = False,
    keep_going: Callable[[], None] = lambda: None,
    changed: Callable[[Sequence[Change]], None] = lambda _changes: None,
) -> Committed | None:
    """Apply files to the table, or make it from them. Late files are applied without moving the watermark.

    None when there is no table and the files, being empty, say nothing of its columns. `keep_going` is called
    again and again while a batch that is larger than memory is worked on. Where the files have wider types than the
    table, it is written again first, as a commit of its own; `changed` is told of that.
    """
    watch = Stopwatch()
    if base is not None:
        check_supported(base, where=context.log.where)
        check_same_layout(context, base)
    with context.fetched(files) as fetched:
        with watch.phase("read"):
            reading = Reading(context, base, fetched.inputs, context.quarantine(files))
        if not reading.schema:
            return None
        if base is not None and reading.evolution.retyped:
            with watch.phase("retype"):
                base = retype_table(context, base, reading.evolution, keep_going, changed)
        # Readers of a new table need its columns, so a batch may add them without adding rows.
        application = Application(context.target(reading.schema), base, piece_bytes=context.settings.piece_bytes)
        try:
            netted, keys = 0, _Keys(context.key)
            for frame in _passes(context, reading, keys.noted(reading.frames(watch)), watch, keep_going):
                netted += frame.height
                with watch.phase("apply"):
                    application.add(frame)
            with watch.phase("apply"):
                applied = application.finish()
                reading.quarantine.flush()
        except BaseException:
            application.discard()
            raise
    living = netted if keys.count is None else keys.count
    account = _account(record, files, reading, applied, superseded=reading.rows - living, late=late)
    logged = logged_progress(base.transactions) if base is not None else None
    if logged is not None and logged[0] < record.generation:
        account = replace(account, after=logged[1])
    try:
        with watch.phase("commit"):
            snapshot = commit(
                context,
                base,
                account,
                columns=reading.evolution.rest,
                adds=applied.adds,
                removes=applied.removes,
                operation="MERGE",
                doubled=applied.doubled,
            )
    except CommitConflict:
        # Only now is it certain that no version names these files; after a lost answer one may.
        application.discard()
        raise
    newest = reading.newest or max(context.naming.written_at(file) for file in files)
    changes = reading.evolution.rest.changes
    return Committed(account, snapshot, applied, watch.seconds, tuple(files), newest, changes)


def files_before(context: Context, files: Sequence[RawFile], bad: str) -> list[RawFile]:
    """The files at positions before that of the file whose path is `bad`; [] when that is the first, or none of them.

    A file that cannot be read must not keep those before it waiting; a position is never split.
    """
    position = next((file.position for file in files if context.raw.path_of(file.key) == bad), 0)
    return [file for file in files if file.position < position]


def _passes(
    context: Context,
    reading: Reading,
    frames: Iterator[pl.DataFrame],
    watch: Stopwatch,
    keep_going: Callable[[], None],
) -> Iterator[pl.DataFrame]:
    """The batch's net changes, as `Application` takes them."""
    settings = context.settings
    names = [*(column.name for column in reading.schema), OP]
    passes = (
        net_passes(frames, context.key, settings.batch_bytes, settings.pass_bytes, watch, keep_going)
        if context.key
        else insert_passes(frames, settings.pass_bytes)
    )
    for number, frame in enumerate(passes):
        if number:
            keep_going()
        yield frame.select(names + unset_columns(frame.columns))


class _Keys:
    """How many keys the rows of a batch have, counted by hash: netting sorts, so one mistake cannot hide in both.

    None for a batch of many rows, and without a key.
    """

    def __init__(self, key: Sequence[str]) -> None:
        self._key = key
        self._frames: list[pl.DataFrame] = []
        self._rows = 0

    def noted(self, frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The same frames."""
        for frame in frames:
            self._rows += frame.height
            if self._rows > _COUNTED_ROWS_MAX:
                self._frames.clear()
            elif self._key:
                self._frames.append(frame.select(self._key))
            yield frame

    @property
    def count(self) -> int | None:
        if not self._key or self._rows > _COUNTED_ROWS_MAX:
            return None
        return pl.concat(self._frames).n_unique() if self._rows else 0


def _account(
    record: Record, files: Sequence[RawFile], reading: Reading, applied: Applied, *, superseded: int, late: bool
) -> Account:
    last = max(files, key=lambda file: file.sort_key)
    return Account(
        generation=record.generation,
        position=record.recorded_position if late else last.position,
        floor=record.floor,
        file=record.last_incremental_file if late else applied_file(record, last),
        files={file.name: file.etag for file in files},
        full_load_date=record.recorded_full_load_date,
        full_load_newest=record.full_load_newest,
        full_load_files=record.full_load_files,
        full_load_layout=record.full_load_layout,
        rows_in=reading.rows_in,
        inserted=applied.inserted,
        updated=applied.updated,
        deleted=applied.deleted,
        noop=applied.noop + reading.left_out,
        superseded=superseded,
        quarantined=reading.quarantine.rows,
        skipped=record.skipped_files,
        version=record.source_version,
    )
