"""Which raw files a version of a table ought to hold, by its own commits and by what lies in raw (pure).

The commits name the CDC files that were applied since the last full load, and the full load tells its LOAD files by
their times. What no longer tells for certain is a reason why the table cannot be verified; it is never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from cdcloader.errors import TableError
from cdcloader.loader.account import Account, positions
from cdcloader.source.layouts import PLAIN, Naming
from cdcloader.source.names import Kind, RawFile
from cdcloader.source.plan import without_skipped
from cdcloader.state.record import NEVER, Record

_RELOAD_HINT = "reload the table if you doubt it: set LastFullLoadDate to 1900-01-01 00:00:00"
_AGAIN_HINT = "try again when the loader has caught up"


@dataclass(slots=True)
class History:
    """What the commits since `base` (the newest that replaced all rows) tell; None when the log is cleaned up to it.

    `applied` maps the names of CDC files to the ETag and the version of the commit that applied them last. `passed`
    are ranges of positions that an operator had the loader leave out. `repeated` counts the files that were applied
    more than once. `start` is the position before the first commit that is known.
    """

    newest: Account
    base: Account | None
    start: int = 0
    applied: dict[str, tuple[str, int]] = field(default_factory=dict)
    passed: list[tuple[int, int]] = field(default_factory=list)
    repeated: int = 0

    def batch_of(self, file: RawFile) -> int | None:
        """The version of the commit that applied a file last, as far as it is known."""
        return self.applied[file.name][1] if file.name in self.applied else None


@dataclass(frozen=True, slots=True)
class Holdings:
    """The raw files that a version holds, in their order, and what is to be said of them.

    `batches` orders the CDC files by the commits that applied them, where `sequence_by` needs that.
    """

    loads: tuple[RawFile, ...]
    changes: tuple[RawFile, ...]
    batches: tuple[int, ...]
    notes: tuple[str, ...]


def history(accounts: Sequence[tuple[int, Account]], *, from_start: bool, naming: Naming = PLAIN) -> History:
    """The history that (version, account) of our commits tell, oldest first, back to a base if there is one.

    `from_start`: the log still holds every version, so that without a base there was no full load.
    """
    first = accounts[0][1]
    base = first if replaces_all(first) else None
    told = History(accounts[-1][1], base)
    generation, position = first.generation, max(first.floor, first.position)
    if base is None:
        generation, position = (0, 0) if from_start else (first.generation, _before(first, naming))
        told.start = position
        told.base = _nothing(first) if from_start else None
    for version, account in accounts[1 if base else 0 :]:
        if account.generation > generation and account.floor > position:
            told.passed.append((position, account.floor))
        told.repeated += sum(name in told.applied for name in account.files)
        told.applied.update((name, (etag, version)) for name, etag in account.files.items())
        generation, position = account.generation, account.position
    return told


def replaces_all(account: Account) -> bool:
    """Whether a commit made the table anew: a full load, or a TRUNCATE; every other one names its CDC files."""
    return not account.files


def holdings(  # noqa: PLR0913
    told: History,
    files: Iterable[RawFile],
    record: Record | None,
    *,
    keyed: bool,
    sequenced: bool,
    look_back_seconds: float,
    overlap_seconds: float,
    where: str,
    naming: Naming = PLAIN,
) -> Holdings:
    """The files that the table ought to hold; TableError, with the reason, when that is not certain."""
    listed = list(files)
    files = without_skipped(listed, _skipped(told, record))
    loads = _load_set(told.newest, files, where)
    floor = _floor(told, overlap_seconds, where, naming)
    cdc = sorted((file for file in files if file.kind is Kind.CDC), key=lambda file: file.sort_key)
    _check_present(told, {file.name for file in cdc}, where)
    _check_settled(told, where, naming)
    notes: list[str] = []
    if left_out := sorted({file.name for file in listed} - {file.name for file in files}):
        names = f"{len(left_out)}, the first is {left_out[0]}"
        notes.append(f"files that an operator had skipped (cdcloader resume --skip) were left out: {names}")
    changes = _changes(told, cdc, floor, _late_from(told, record, look_back_seconds, naming), notes)
    if told.repeated and not keyed:
        notes.append(f"{told.repeated} files were applied more than once (a rewind of a table without a primary key)")
    return Holdings(tuple(loads), tuple(changes), _batches(told, changes, where) if sequenced else (), tuple(notes))


def history_of(record: Record) -> History:
    """What the state record tells, where the log is cleaned up to the newest commit."""
    account = Account(
        generation=record.generation,
        position=record.recorded_position,
        floor=record.floor,
        file=record.last_incremental_file,
        files=record.ledger,
        full_load_date=record.recorded_full_load_date,
        full_load_newest=record.full_load_newest,
        full_load_files=record.full_load_files,
        version=record.source_version,
        full_load_layout=record.full_load_layout,
    )
    return History(account, None, start=record.recorded_position)


def _before(account: Account, naming: Naming) -> int:
    """The position up to which files count as applied before the first commit that is known."""
    places = positions(account.files, naming)
    # Late files are appended without moving the watermark.
    return max(account.floor, min(places) - 1 if account.position in places else account.position)


def _nothing(first: Account) -> Account:
    """The base of a table that was never loaded: it held nothing."""
    return replace(first, position=0, floor=0, files={}, full_load_files=0, full_load_newest=None)


def _load_set(account: Account, files: Iterable[RawFile], where: str) -> list[RawFile]:
    if not account.full_load_files or account.full_load_date <= NEVER:
        return []
    newest = account.full_load_newest
    found = [
        file
        for file in files
        if file.kind is Kind.LOAD
        and file.last_modified.replace(microsecond=0) >= account.full_load_date
        and (newest is None or file.last_modified <= newest)
    ]
    if len(found) < account.full_load_files:
        raise TableError(
            f"of the {account.full_load_files} LOAD files of the last full load, {len(found)} are still there as they "
            "were loaded",
            where=where,
            hint=f"they were deleted or replaced. Where DMS loads the table again, {_AGAIN_HINT}; else {_RELOAD_HINT}",
        )
    if len(found) > account.full_load_files:
        raise TableError(
            f"{len(found)} LOAD files belong to the set of which {account.full_load_files} were loaded",
            where=where,
            hint=f"the whole set is about to be loaded again: {_AGAIN_HINT}",
        )
    return sorted(found, key=lambda file: file.sort_key)


def _floor(told: History, overlap_seconds: float, where: str, naming: Naming) -> int:
    """The position up to which the newest full load left CDC files out."""
    if told.base is not None:
        return max(told.base.floor, told.base.position)
    account = told.newest
    if account.full_load_date <= NEVER:
        raise TableError(
            "the Delta log no longer tells which files were applied, and there was no full load to begin with",
            where=where,
            hint="its entries are older than delta.logRetentionDuration and were cleaned away",
        )
    if account.floor:
        begun = naming.time_of_position(account.floor)
        earliest = account.full_load_date - timedelta(seconds=overlap_seconds + 1)
        if not earliest <= begun <= account.full_load_date + timedelta(seconds=1):
            raise TableError(
                "the table was rewound, and the Delta log no longer tells what the full load before that left out",
                where=where,
                hint=_RELOAD_HINT,
            )
    return account.floor


def _skipped(told: History, record: Record | None) -> Mapping[str, str]:
    """The files that an operator had us skip, but those that were applied all the same, because the skip came later."""
    skipped = {**told.newest.skipped, **(record.skipped_files if record else {})}
    return {name: etag for name, etag in skipped.items() if told.applied.get(name, ("", 0))[0] != etag}


def _check_present(told: History, there: set[str], where: str) -> None:
    gone = sorted(name for name in told.applied if name not in there)
    if gone:
        raise TableError(
            f"of the CDC files that were applied ({len(told.applied):,}), {len(gone):,} "
            f"{'is' if len(gone) == 1 else 'are'} gone from raw, such as {gone[0]}",
            where=where,
            hint="a lifecycle rule or somebody deleted them. Restore them, or have DMS load the table again",
        )


def _check_settled(told: History, where: str, naming: Naming) -> None:
    """Half of a replay is no state of the history: keys that it has reached are older than the others."""
    newest = max((naming.position_of_name(name) or 0 for name in told.applied), default=0)
    if newest > max(told.newest.position, told.newest.floor):
        raise TableError(
            f"files are being applied again (generation {told.newest.generation}), and the table has not reached the "
            "state that it had before",
            where=where,
            hint=_AGAIN_HINT,
        )


def _late_from(told: History, record: Record | None, look_back_seconds: float, naming: Naming) -> int:
    """The position from which a file that was not applied still will be."""
    account = told.newest
    if record is not None and record.generation == account.generation:
        return max(record.floor + 1, record.ledger_from)
    if record is not None and record.generation > account.generation:
        return record.recorded_position + 1
    return max(account.floor + 1, naming.position_before(account.position, look_back_seconds))


def _changes(told: History, cdc: Iterable[RawFile], floor: int, late_from: int, notes: list[str]) -> list[RawFile]:
    """The CDC files of the history up to the watermark, and what is to be noted about them."""
    chosen: list[RawFile] = []
    kinds: dict[str, list[str]] = {}
    assumed = 0
    for file in cdc:
        known = told.applied.get(file.name)
        if known is not None:
            chosen.append(file)
            if known[0] != file.etag:
                kinds.setdefault("were replaced in raw after they were applied", []).append(file.name)
            continue
        if not floor < file.position <= told.newest.position or not file.size:
            continue
        if told.base is None and file.position <= told.start:
            assumed += 1
            chosen.append(file)
        elif any(low < file.position <= high for low, high in told.passed):
            kinds.setdefault("were passed over by an operator (LastIncrementalFile) and left out", []).append(file.name)
        elif file.position >= late_from:
            kinds.setdefault("came late, wait to be applied, and were left out", []).append(file.name)
        else:
            kinds.setdefault("came later than the look-back and were never applied", []).append(file.name)
            chosen.append(file)
    notes += [f"CDC files that {what}: {len(names)}, the first is {names[0]}" for what, names in kinds.items()]
    if assumed:
        notes.append(f"CDC files that count as applied because the Delta log no longer goes back to them: {assumed}")
    return chosen


def _batches(told: History, changes: Sequence[RawFile], where: str) -> tuple[int, ...]:
    """For each file the commit before which no later file was applied: the order that stands above `sequence_by`."""
    batches, newest = [], 0
    for file in changes:
        version = told.batch_of(file)
        if version is None:
            raise TableError(
                f"{file.name} was applied by a commit that the Delta log no longer has, and sequence_by orders the "
                "changes of one commit",
                where=where,
                hint=_RELOAD_HINT,
            )
        newest = max(newest, version)
        batches.append(newest)
    return tuple(batches)
