"""What to do next with one source: full load, batch, replay, or nothing (pure; DESIGN section 3).

`make_plan` is a function of the listing, of where the table stands, and of the time. It is asked anew after
every step, so a plan never has to survive a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cdcloader.source.names import Kind, RawFile, position_of_name, position_of_time, time_of_position

_COPIED_AFTER = timedelta(hours=1)
_RELOAD_HINT = "reload the table: set LastFullLoadDate to 1900-01-01 00:00:00"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a table stands. Times carry a zone.

    `position` is the watermark of this generation and `floor` the position up to which it skips CDC files.
    `ledger` maps the names of applied CDC files from the position `ledger_from` on to their ETags; within one
    full load `ledger_from` never moves back, or files that the ledger forgot would look late.
    `full_load_date` is the earliest LastModified of the loaded set in whole seconds, None when nothing was
    ever loaded; `full_load_newest` is its newest, exact; `full_load_files` is `FullLoad.files_in_window`.
    """

    generation: int
    position: int
    floor: int
    ledger: Mapping[str, str]
    ledger_from: int
    full_load_date: datetime | None
    full_load_newest: datetime | None
    full_load_files: int
    full_load_date_edited: bool

    @property
    def applied_up_to(self) -> int:
        """The position up to which nothing new is expected: files at or below it are applied or skipped."""
        return max(self.position, self.floor)


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one batch (bytes as stored, compressed) and the two waiting times of a full load."""

    max_files: int
    max_bytes: int
    quiet_seconds: float
    overlap_seconds: float


@dataclass(frozen=True, slots=True)
class FullLoad:
    """Replace the table by these LOAD files; a new generation begins, which skips CDC files up to `floor`.

    `leftovers` are LOAD files of an older load, to be named in the log. `first_modified` and `newest` are the
    bounds of the set's LastModified. `reload` is False for the first load of a table.
    """

    files: tuple[RawFile, ...]
    leftovers: tuple[RawFile, ...]
    floor: int
    first_modified: datetime
    newest: datetime
    reload: bool
    reason: str

    @property
    def files_in_window(self) -> int:
        """How many LOAD files, leftovers of the same second included, a later listing must not exceed."""
        since = _whole_second(self.first_modified)
        return len(self.files) + sum(since <= file.last_modified for file in self.leftovers)


@dataclass(frozen=True, slots=True)
class Wait:
    """DMS may still be writing these LOAD files; at `until` they count as complete if none has come or changed."""

    reason: str
    until: datetime
    files: tuple[RawFile, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Apply these CDC files in this order; `more` when further ones wait."""

    files: tuple[RawFile, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """Begin a new generation with the watermark `from_position`, and apply again from there.

    `floor`, `ledger` and `ledger_from` are what it begins with. They go on knowing the files before
    `from_position`, so that one of those that comes even later is late too, and not lost.
    """

    from_position: int
    floor: int
    ledger: Mapping[str, str]
    ledger_from: int
    late: tuple[RawFile, ...]
    replaced: tuple[RawFile, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class AppendLate:
    """Append these late files and enter them in the ledger; the watermark stays (tables without a key)."""

    files: tuple[RawFile, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """An operator must decide."""

    reason: str
    file: RawFile
    hint: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """Every file of the source is in the table."""


Action = FullLoad | Wait | Batch | Replay | AppendLate | Blocked | Nothing


@dataclass(frozen=True, slots=True)
class Plan:
    """The next action, and what is not yet applied: CDC files, their bytes, and the oldest one's LastModified.

    A replaced file counts as not applied. `newest_position` is the highest in the listing, 0 without CDC files.
    """

    action: Action
    backlog_files: int
    backlog_bytes: int
    oldest_unapplied: datetime | None
    newest_position: int


def make_plan(files: Sequence[RawFile], progress: Progress, limits: Limits, *, keyed: bool, now: datetime) -> Plan:
    """The next step for a source whose listing (in any order) is `files`.

    The listing must reach back to `list_from(progress)`, and to the start where `needs_full_listing` says so.
    """
    cdc = _of_kind(files, Kind.CDC)
    due = _due_set(files, progress)
    if due is not None:
        floor = _floor_of(due, cdc, limits)
        pending = [file for file in cdc if file.position > floor]
        return _plan(_full_load(due, files, floor, limits, now), pending, cdc)
    late = [file for file in cdc if _is_late(file, progress)]
    replaced = [file for file in cdc if _is_replaced(file, progress)]
    unapplied = [file for file in cdc if file.position > progress.applied_up_to]
    action: Action = Nothing()
    if late or replaced:
        action = _replay(late, replaced, progress) if keyed else _without_key(late, replaced, limits)
    elif unapplied:
        batch = _bounded(unapplied, limits)
        action = Batch(batch, more=len(batch) < len(unapplied))
    return _plan(action, [*late, *replaced, *unapplied], cdc)


def list_from(progress: Progress) -> int:
    """The position from which a listing of CDC files suffices for the next plan; 0 is the start.

    Below the ledger a file counts as applied, at or below the floor as skipped, so neither can change the
    plan. LOAD files and markers sort behind all CDC files: such a listing holds every one of them.
    """
    return min(progress.applied_up_to, max(progress.ledger_from, progress.floor))


def needs_full_listing(files: Sequence[RawFile], progress: Progress) -> bool:
    """Whether a listing from `list_from` asks for one from the start before `make_plan`: a full load is due.

    The floor of a reload rests on whether LastModified can be trusted. In a prefix that was copied within the
    hour after its last CDC file, only the older files show that it was copied.
    """
    return list_from(progress) > 0 and _due_set(files, progress) is not None


@dataclass(frozen=True, slots=True)
class _DueSet:
    """LOAD files that wait to be loaded, and the older ones that are not part of their load."""

    files: tuple[RawFile, ...]
    leftovers: tuple[RawFile, ...]
    reload: bool
    reason: str

    @property
    def first_modified(self) -> datetime:
        return min(file.last_modified for file in self.files)

    @property
    def newest(self) -> datetime:
        return max(file.last_modified for file in self.files)


def _due_set(files: Iterable[RawFile], progress: Progress) -> _DueSet | None:
    loads = _of_kind(files, Kind.LOAD)
    if not loads:
        return None
    if progress.full_load_date is None:
        return _DueSet(tuple(loads), (), reload=False, reason="first full load")
    newer = [file for file in loads if _is_newer(file, progress)]
    if newer and newer[0] is loads[0]:
        return _split(loads, newer, _why_again(progress))
    whole = _whole_set(loads, progress)
    if _has_joined(newer, whole, progress):
        return _split(loads, whole, "a LOAD file joined the set that was loaded")
    return None


def _why_again(progress: Progress) -> str:
    if progress.full_load_date_edited:
        return f"an operator set LastFullLoadDate to {progress.full_load_date:%Y-%m-%d %H:%M:%S}"
    return "DMS loaded the table again: its first LOAD file is newer than the last full load"


def _split(loads: Sequence[RawFile], chosen: Sequence[RawFile], reason: str) -> _DueSet:
    names = {file.key for file in chosen}
    leftovers = tuple(file for file in loads if file.key not in names)
    return _DueSet(tuple(chosen), leftovers, reload=True, reason=reason)


def _is_newer(file: RawFile, progress: Progress) -> bool:
    """Whether a LOAD file was written after the last full load, as an operator's edit or our own record has it."""
    if progress.full_load_date_edited or progress.full_load_newest is None:
        return progress.full_load_date is not None and _whole_second(file.last_modified) > progress.full_load_date
    return file.last_modified > progress.full_load_newest


def _whole_set(loads: Sequence[RawFile], progress: Progress) -> list[RawFile]:
    """The LOAD files of the last full load and those that joined it."""
    if progress.full_load_date is None or progress.full_load_date_edited:
        # An edited date says what to load again; it no longer says where the loaded set began, and leaving out
        # files of that set would lose rows.
        return list(loads)
    return [file for file in loads if _whole_second(file.last_modified) >= progress.full_load_date]


def _has_joined(newer: Sequence[RawFile], whole: Sequence[RawFile], progress: Progress) -> bool:
    newest = progress.full_load_newest
    if newest is None:
        return bool(newer)
    if progress.full_load_date_edited:
        # Files that were loaded before the edit have not joined by it.
        return any(file.last_modified > newest for file in newer)
    known = sum(file.last_modified <= newest for file in whole)
    return bool(newer) or known > progress.full_load_files


def _full_load(due: _DueSet, files: Iterable[RawFile], floor: int, limits: Limits, now: datetime) -> FullLoad | Wait:
    until = due.newest + timedelta(seconds=limits.quiet_seconds)
    proof = _proof_of_completeness(due.newest, files)
    if not proof and now < until:
        waiting = (
            f"{due.reason}; {len(due.files)} LOAD file{'s' if len(due.files) > 1 else ''} so far, and DMS may write "
            "more: "
            f"waiting up to {(until - now).total_seconds():.0f} s more for a CDC file, a FULL_LOAD_COMPLETE marker, "
            f"or {limits.quiet_seconds:g} s without a new LOAD file (full_load.quiet_seconds: set it to 0 for files "
            "that you copied)"
        )
        return Wait(waiting, until, due.files)
    reason = f"{due.reason}; complete: {proof or f'no LOAD file came for {limits.quiet_seconds:g} s'}"
    return FullLoad(due.files, due.leftovers, floor, due.first_modified, due.newest, due.reload, reason)


def _proof_of_completeness(newest: datetime, files: Iterable[RawFile]) -> str:
    after = position_of_time(newest)
    for file in sorted(files, key=lambda file: file.key):
        if file.kind is Kind.MARKER and file.last_modified >= newest:
            return f"{file.name} is there"
        if file.kind is Kind.CDC and file.position > after:
            return f"CDC file {file.name} was written after it"
    return ""


def _floor_of(due: _DueSet, cdc: Iterable[RawFile], limits: Limits) -> int:
    """Where the CDC files that a full load does not contain begin; 0 when that cannot be told from LastModified."""
    if not due.reload or any(_was_copied(file) for file in cdc):
        return 0
    return position_of_time(due.first_modified - timedelta(seconds=limits.overlap_seconds))


def _was_copied(file: RawFile) -> bool:
    return abs(file.last_modified - time_of_position(file.position)) > _COPIED_AFTER


def _is_late(file: RawFile, progress: Progress) -> bool:
    in_window = max(progress.floor + 1, progress.ledger_from) <= file.position <= progress.position
    return in_window and file.name not in progress.ledger


def _is_replaced(file: RawFile, progress: Progress) -> bool:
    in_window = progress.floor < file.position <= progress.position
    return in_window and progress.ledger.get(file.name, file.etag) != file.etag


def _replay(late: Sequence[RawFile], replaced: Sequence[RawFile], progress: Progress) -> Replay:
    start = min(file.position for file in (*late, *replaced)) - 1
    known = {name: etag for name, etag in progress.ledger.items() if (position_of_name(name) or 0) <= start}
    causes = [f"{_names(late)} came late"] if late else []
    causes += [f"{_names(replaced)} was replaced"] if replaced else []
    reason = f"{' and '.join(causes)}: applying again from there"
    return Replay(start, progress.floor, known, progress.ledger_from, tuple(late), tuple(replaced), reason)


def _without_key(late: Sequence[RawFile], replaced: Sequence[RawFile], limits: Limits) -> AppendLate | Blocked:
    if replaced:
        reason = f"{_names(replaced)} was replaced after it was applied, and the table has no primary key"
        return Blocked(reason, replaced[0], _RELOAD_HINT)
    return AppendLate(_bounded(late, limits), f"{_names(late)} came late")


def _names(files: Sequence[RawFile]) -> str:
    return files[0].name if len(files) == 1 else f"{files[0].name} (and {len(files) - 1} more)"


def _bounded(ordered: Sequence[RawFile], limits: Limits) -> tuple[RawFile, ...]:
    """The longest start of `ordered` within the limits that splits no position, and at least one position."""
    end, total = 0, 0
    while end < len(ordered):
        stop = end
        while stop < len(ordered) and ordered[stop].position == ordered[end].position:
            stop += 1
        total += sum(file.size for file in ordered[end:stop])
        if end > 0 and (stop > limits.max_files or total > limits.max_bytes):
            break
        end = stop
    return tuple(ordered[:end])


def _plan(action: Action, pending: Sequence[RawFile], cdc: Sequence[RawFile]) -> Plan:
    return Plan(
        action,
        backlog_files=len(pending),
        backlog_bytes=sum(file.size for file in pending),
        oldest_unapplied=min((file.last_modified for file in pending), default=None),
        newest_position=max((file.position for file in cdc), default=0),
    )


def _of_kind(files: Iterable[RawFile], kind: Kind) -> list[RawFile]:
    return sorted((file for file in files if file.kind is kind), key=lambda file: file.sort_key)


def _whole_second(time: datetime) -> datetime:
    return time.replace(microsecond=0)
