"""Which LOAD files make a full load, whether they are all there, and which changes they already hold (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cdcloader.source.actions import FullLoad, Limits, Progress, Wait, whole_second
from cdcloader.source.names import Kind, RawFile, of_kind, position_of_time, time_of_position

_COPIED_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class DueSet:
    """LOAD files that wait to be loaded, and the older ones that are not part of their load."""

    files: tuple[RawFile, ...]
    leftovers: tuple[RawFile, ...]
    reload: bool
    reason: str

    @property
    def first_modified(self) -> datetime:
        """The oldest LastModified."""
        return min(file.last_modified for file in self.files)

    @property
    def newest(self) -> datetime:
        """The newest LastModified."""
        return max(file.last_modified for file in self.files)


def due_set(files: Iterable[RawFile], progress: Progress) -> DueSet | None:
    """The LOAD files that are not in the table yet, with those that they are loaded with; None when all are."""
    loads = of_kind(files, Kind.LOAD)
    if not loads:
        return None
    if progress.full_load_date is None:
        return DueSet(tuple(loads), (), reload=False, reason="first full load")
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


def _split(loads: Sequence[RawFile], chosen: Sequence[RawFile], reason: str) -> DueSet:
    names = {file.key for file in chosen}
    leftovers = tuple(file for file in loads if file.key not in names)
    return DueSet(tuple(chosen), leftovers, reload=True, reason=reason)


def _is_newer(file: RawFile, progress: Progress) -> bool:
    """Whether a LOAD file was written after the last full load, as an operator's edit or our own record has it."""
    if progress.full_load_date_edited or progress.full_load_newest is None:
        return progress.full_load_date is not None and whole_second(file.last_modified) > progress.full_load_date
    return file.last_modified > progress.full_load_newest


def _whole_set(loads: Sequence[RawFile], progress: Progress) -> list[RawFile]:
    """The LOAD files of the last full load and those that joined it."""
    if progress.full_load_date is None or progress.full_load_date_edited:
        # An edited date says what to load again; it no longer says where the loaded set began, and leaving out
        # files of that set would lose rows.
        return list(loads)
    return [file for file in loads if whole_second(file.last_modified) >= progress.full_load_date]


def _has_joined(newer: Sequence[RawFile], whole: Sequence[RawFile], progress: Progress) -> bool:
    newest = progress.full_load_newest
    if newest is None:
        return bool(newer)
    if progress.full_load_date_edited:
        # Files that were loaded before the edit have not joined by it.
        return any(file.last_modified > newest for file in newer)
    known = sum(file.last_modified <= newest for file in whole)
    return bool(newer) or known > progress.full_load_files


def full_load_of(due: DueSet, files: Iterable[RawFile], floor: int, limits: Limits, now: datetime) -> FullLoad | Wait:
    """The load of a due set, or the wait for the rest of it."""
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


def floor_of(due: DueSet, cdc: Iterable[RawFile], limits: Limits) -> int:
    """Where the CDC files that a full load does not contain begin; 0 when that cannot be told from LastModified."""
    if not due.reload or _were_copied(due, cdc):
        return 0
    return position_of_time(due.first_modified - timedelta(seconds=limits.overlap_seconds))


def _were_copied(due: DueSet, cdc: Iterable[RawFile]) -> bool:
    """Whether LastModified is the time of a copy, by most of the files that are old enough to tell.

    One file that came very late, or was put there again, says nothing about the others.
    """
    times = [(time_of_position(file.position), file.last_modified) for file in cdc]
    told = [abs(modified - named) > _COPIED_AFTER for named, modified in times if named < due.newest - _COPIED_AFTER]
    return bool(told) and 2 * sum(told) >= len(told)
