"""Whether a target holds what its raw files say: recomputed from them, and compared row for row. It only reads.

One version of the target is looked at, so a loader that commits meanwhile does no harm. The rows are read back by
delta-rs, which did not write them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from cdcloader.changes.changed_keys import with_old_keys_deleted
from cdcloader.changes.evolution import TEXT_OF, Evolution
from cdcloader.changes.net import FILE, OP, ROW, UNSET, can_be_netted_again, sequence_columns
from cdcloader.changes.schema import Schema
from cdcloader.errors import CdcloaderError, TableError
from cdcloader.lake.snapshot import Snapshot
from cdcloader.loader.account import UPKEEP, Account, from_info, logged_progress
from cdcloader.loader.aside import Aside
from cdcloader.loader.columns import SOURCE_PROPERTY, Columns, check_unmixed, has_rules, rules_of, source_columns
from cdcloader.loader.comparison import BATCH, Difference, Digest, compare, digest, latest, living
from cdcloader.loader.context import Context, check_same_layout, overlay
from cdcloader.loader.holdings import History, Holdings, history, history_of, holdings, replaces_all
from cdcloader.loader.listing import list_source
from cdcloader.loader.passing_by import files_without_rows
from cdcloader.loader.readback import Readback
from cdcloader.loader.reading import neighbours
from cdcloader.source.names import Kind, RawFile
from cdcloader.source.rows import TEXT_FORMATS, describe, read, read_together
from cdcloader.state.record import Record

ADVICE = (
    "reload the table: set LastFullLoadDate in its state record to 1900-01-01 00:00:00 (docs/operating.md); "
    "if nobody else wrote to it, report the difference"
)
_COMMITS_AT_ONCE = 64
# What the process takes before it has compared a row, delta-rs included.
_RUNNING_BYTES = 230 << 20
# Shares of the rest: rows of one side that wait in memory, and a part, of which a comparison holds several copies.
_HELD_SHARE, _PART_SHARE = 8, 16
# Smaller parts would be mostly the work of cutting them.
_PART_BYTES_MIN = 4 << 20
_PARTS_MAX = 1024
# Stored rows grow about so many times when they are read.
_GROWTH = 6
# Files of this share of a chunk (as stored) are read together.
_SMALL_SHARE = 4


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` has found out about one table; `reason` and `hint` say why it could not.

    `quick` compares counts and, in a table that is `keyed`, the hashes of keys; then only the rows of `difference` are
    told, and `keys_differ` whether the keys are others.
    """

    source: str
    target: str
    quick: bool
    keyed: bool
    verified: bool = False
    version: int | None = None
    generation: int | None = None
    watermark: str | None = None
    files: int = 0
    rows_in: int = 0
    difference: Difference = field(default_factory=Difference)
    keys_differ: bool = False
    reader: str = ""
    notes: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether the table was compared and is what it should be."""
        return self.verified and self.difference.equal and not self.keys_differ


def verify(
    context: Context, record: Record | None, *, budget_bytes: int, quick: bool = False, version: int | None = None
) -> Verified:
    """Compare the newest version of a target, or the given one, with its raw files.

    `budget_bytes` is what the process may take. What stands in the way is the result's `reason`, and no exception.
    """
    started = time.perf_counter()
    found = Verified(context.table.source, context.log.where, quick, keyed=bool(context.key))
    try:
        snapshot = _pinned(context, version)
        found = replace(found, version=snapshot.version)
        if record is not None and (record.recorded_version or 0) > snapshot.version:
            record = None  # It tells of a later version.
        told = _history(context, snapshot, record)
        found = replace(found, generation=told.newest.generation, watermark=told.newest.file)
        context = context.in_version(told.newest.version)
        held = _holdings(context, told, record)
        notes = (*held.notes, *_spelling_notes(snapshot.schema(context.log.where), held))
        found = replace(found, files=len(held.loads) + len(held.changes), notes=notes)
        with closing(_Comparison(context, snapshot, held, budget_bytes)) as comparison:
            found = comparison.quick(found) if quick else comparison.full(found)
    except CdcloaderError as error:
        where = "" if error.where == context.log.where else f"{error.where}: "
        found = replace(found, reason=f"{where}{error.what}", hint=error.hint)
    return replace(found, seconds=round(time.perf_counter() - started, 3))


def _pinned(context: Context, version: int | None) -> Snapshot:
    snapshot = context.log.snapshot()
    if snapshot is None:
        raise TableError("there is no target yet", where=context.log.where, hint="load the table first: cdcloader run")
    if version is not None and version > snapshot.version:
        hint = "leave out --table-version for the newest"
        raise TableError(
            f"there is no version {version}: the newest is {snapshot.version}", where=context.log.where, hint=hint
        )
    if version is not None and version < snapshot.version:
        snapshot = context.log.snapshot(version) or snapshot
    check_same_layout(context, snapshot)
    return snapshot


def _history(context: Context, snapshot: Snapshot, record: Record | None) -> History:
    """What the log tells, else the state record, if that stands where the log does."""
    accounts, from_start = _accounts(context, snapshot.version)
    if accounts:
        return history(accounts, from_start=from_start, naming=context.naming)
    logged = logged_progress(snapshot.transactions)
    if logged is None:
        raise TableError("the target was not written by cdcloader", where=context.log.where, hint="name its own source")
    if record is None or (record.generation, record.recorded_position) != logged:
        raise TableError(
            "the Delta log no longer has a commit that tells which files were applied, and the state record does not "
            "stand where the table does",
            where=context.log.where,
            hint="its entries are older than delta.logRetentionDuration and were cleaned away",
        )
    return history_of(record)


def _accounts(context: Context, last: int) -> tuple[list[tuple[int, Account]], bool]:
    """Our accounts, oldest first, back to the newest that replaced all rows; whether the log goes back to its start."""
    folder = f"{context.table.target}/_delta_log/"
    names = (item.key.removeprefix(folder) for item in context.lake.list(folder))
    versions = sorted(
        (int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()), reverse=True
    )
    versions = [version for version in versions if version <= last]
    found: list[tuple[int, Account]] = []
    with ThreadPoolExecutor(16, thread_name_prefix="cdcloader-log") as pool:
        for at in range(0, len(versions), _COMMITS_AT_ONCE):
            for infos in pool.map(lambda v: context.log.infos(v, v), versions[at : at + _COMMITS_AT_ONCE]):
                found += [(version, from_info(info)) for version, info in infos if UPKEEP not in info]
                if found and replaces_all(found[-1][1]):
                    return found[::-1], True
    return found[::-1], len(versions) == last + 1


def _holdings(context: Context, told: History, record: Record | None) -> Holdings:
    return holdings(
        told,
        _with_rows(context, told, list_source(context).files),
        record,
        keyed=bool(context.key),
        sequenced=bool(context.table.sequence_by),
        look_back_seconds=context.settings.look_back_seconds,
        overlap_seconds=context.settings.limits.overlap_seconds,
        where=context.log.where,
        naming=context.naming,
    )


def _spelling_notes(schema: Schema, held: Holdings) -> Iterator[str]:
    """What may differ with nothing wrong: a text file does not tell that its values were numbers when they were read.

    Only the config turns such a file's column into text, and an order holds for what comes after it.
    """
    if not any(file.format in TEXT_FORMATS for file in (*held.loads, *held.changes)):
        return
    for column in schema:
        was = (column.metadata or {}).get(TEXT_OF)
        if was is not None:
            yield (
                f"column {column.name!r} was {was} and turned into text: values of older CSV or JSON files keep the "
                f"spelling that they had as {was} (1.50 for 1.5), which counts as changed here until a reload"
            )


def _with_rows(context: Context, told: History, files: Sequence[RawFile]) -> list[RawFile]:
    """The files but those that hold other tables' changes alone: no commit tells of them."""
    last = told.newest.position
    open_ones = [f for f in files if f.transactions and f.name not in told.applied and f.position <= last]
    empty = {file.name for file in files_without_rows(context, open_ones)}
    return [file for file in files if file.name not in empty]


class _Comparison:
    """One version of a target beside the raw files that it ought to hold."""

    def __init__(self, context: Context, snapshot: Snapshot, held: Holdings, budget_bytes: int) -> None:
        self._context, self._held = context, held
        self._schema = self._source = snapshot.schema(context.log.where)
        self._ruled = has_rules(context.table)
        check_unmixed(context.table, snapshot, context.log.where)
        if self._ruled or SOURCE_PROPERTY in snapshot.configuration:
            self._source = source_columns(context.table, snapshot, context.log.where)
        self._readback = Readback(context, snapshot, self._schema)
        free = max(budget_bytes - _RUNNING_BYTES, budget_bytes // 8)
        self._part_bytes = max(free // _PART_SHARE, _PART_BYTES_MIN)
        stored = sum(file.size for file in (*held.loads, *held.changes))
        stored += sum(file.size for file in snapshot.files.values())
        parts = min(_PARTS_MAX, 1 + _GROWTH * stored // self._part_bytes)
        self._sides = [Aside(context.key, parts, self._part_bytes * _PART_SHARE // _HELD_SHARE) for _ in range(2)]
        self._parts = parts
        self._rows_in = 0

    def close(self) -> None:
        for side in self._sides:
            side.close()

    def full(self, found: Verified) -> Verified:
        """Every row, every column."""
        names = [column.name for column in self._schema]
        expected, actual = self._sides
        for frame in self._expected(names):
            expected.add(frame)
        self._readback.put_aside(actual, names)
        difference = Difference()
        for part, share, shares in self._shares():
            ours = pl.concat([self._empty(), *actual.read(part, share, shares)])
            theirs = self._living(expected, part, share, shares, names)
            difference = difference.plus(compare(theirs, ours, self._context.key))
        return self._told(found, difference)

    def quick(self, found: Verified) -> Verified:
        """The number of rows, and a hash over their keys that knows no order."""
        key = list(self._context.key)
        if not key:
            column = [self._schema[0].name]
            rows = sum(frame.height for frame in self._expected(column))
            return self._counted(found, Digest(rows), self._readback.digest(column, ()))
        expected = self._sides[0]
        for frame in self._expected(key):
            expected.add(frame)
        theirs = Digest()
        for part, share, shares in self._shares():
            theirs = theirs.plus(digest(self._living(expected, part, share, shares, key), key))
        return self._counted(found, theirs, self._readback.digest(key, key))

    def _counted(self, found: Verified, expected: Digest, actual: Digest) -> Verified:
        missing, surplus = max(0, expected.rows - actual.rows), max(0, actual.rows - expected.rows)
        difference = Difference(expected.rows, actual.rows, missing=missing, surplus=surplus)
        return replace(self._told(found, difference), keys_differ=expected != actual)

    def _told(self, found: Verified, difference: Difference) -> Verified:
        rows_in, reader = self._rows_in, self._readback.reader
        return replace(found, verified=True, difference=difference, rows_in=rows_in, reader=reader)

    def _shares(self) -> Iterator[tuple[int, int, int]]:
        """(part, share, shares): what is compared at once is about a part, however unevenly the hashes fall."""
        for side in self._sides:
            side.settle()
        for part in range(self._parts):
            shares = max(1, math.ceil(sum(side.size(part) for side in self._sides) / self._part_bytes))
            for share in range(shares):
                yield part, share, shares

    def _living(self, side: Aside, part: int, share: int, shares: int, names: Sequence[str]) -> pl.DataFrame:
        frames = list(side.read(part, share, shares))
        if not frames:
            return self._empty(names)
        rows = pl.concat(frames)
        return (living(rows, self._context.key) if self._context.key else rows).select(names)

    def _empty(self, names: Sequence[str] | None = None) -> pl.DataFrame:
        return self._readback.empty(names)

    def _expected(self, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The changes of all files: columns of the table and, with a key, what orders them."""
        files = [*self._held.loads, *self._held.changes]
        first = 0
        for group in neighbours(files, self._context.settings.chunk_bytes // _SMALL_SHARE):
            for rows in self._read(group, names):
                ordered = self._ordered(rows, first, names)
                # A key that changes again and again would else make its part as large as its history.
                again = bool(self._context.key) and group[0].kind is Kind.CDC and can_be_netted_again(ordered.columns)
                yield latest(ordered, self._context.key) if again else ordered
            first += len(group)

    def _read(self, group: Sequence[RawFile], names: Sequence[str]) -> Iterator[pl.DataFrame]:
        context, chunk_bytes = self._context, self._context.settings.chunk_bytes
        with context.fetched(group) as fetched:
            inputs = fetched.inputs
            described = describe(inputs, context.row_format(overlay(self._source, context.table)))
            known = {column.name for column in self._source}
            fmt = context.row_format(self._source)
            if not fmt.by_value:
                # A column that the table no longer has is read, because the reader knows no other way, and left out.
                fmt = replace(fmt, known=(*fmt.known, *(each for each in described if each.name not in known)))
            schema = fmt.known
            ruled = rules_of(context.table).over(schema, inputs[0].name) if self._ruled else None
            columns = Columns(schema, Evolution(self._schema), ruled)
            # A rule may ask for any column.
            alone, only = len(inputs) == 1, None if self._ruled else frozenset(names)
            chunks = (
                read(inputs[0], fmt, schema, chunk_bytes=chunk_bytes, only=only)
                if alone
                else read_together(inputs, fmt, schema, chunk_bytes=chunk_bytes, only=only)
            )
            for chunk in chunks:
                self._rows_in += chunk.rows_in
                rows = chunk.rows
                if self._source is not self._schema:
                    leave_out = not context.key or group[0].kind is Kind.LOAD
                    rows = columns.applied(chunk, inputs, leave_out=leave_out).rows
                yield with_old_keys_deleted(rows)

    def _ordered(self, rows: pl.DataFrame, first: int, names: Sequence[str]) -> pl.DataFrame:
        if not self._context.key:
            return rows.select(names)
        unset = [UNSET + name for name in names if UNSET + name in rows.columns]
        rows = rows.select(*names, OP, *sequence_columns(rows.columns), *unset, pl.col(FILE) + first, ROW)
        if not self._held.batches:
            return rows
        batches = pl.Series([0] * len(self._held.loads) + [batch + 1 for batch in self._held.batches], dtype=pl.Int64)
        return rows.with_columns(batches.gather(rows[FILE]).alias(BATCH))


def as_json(found: Verified, *, show_keys: bool) -> dict[str, Any]:
    """The result for programs; keys are values of rows, and are only told when they are asked for."""
    difference = found.difference
    told: dict[str, Any] = {
        "source": found.source,
        "target": found.target,
        "result": "equal" if found.equal else "different" if found.verified else "not verified",
        "compared": "rows" if not found.quick else "counts and keys" if found.keyed else "counts",
        "delta_version": found.version,
        "generation": found.generation,
        "watermark": found.watermark,
        "files": found.files,
        "rows_in": found.rows_in,
        "rows_expected": difference.expected,
        "rows": difference.actual,
        "missing": difference.missing,
        "surplus": difference.surplus,
        "changed": difference.changed,
        "duplicates": difference.duplicates,
        "columns": dict(difference.columns),
        "keys_differ": found.keys_differ,
        "reader": found.reader,
        "notes": list(found.notes),
        "reason": found.reason or None,
        "hint": found.hint or (ADVICE if found.verified and not found.equal else None),
        "seconds": found.seconds,
    }
    return {**told, "keys": [list(key) for key in difference.keys]} if show_keys else told
