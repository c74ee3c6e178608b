"""Which LOAD files make a full load, whether they are all there, and which changes they already hold (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cdcloader.source.actions import Blocked, FullLoad, Limits, Progress, Wait, whole_second
from cdcloader.source.layouts import Naming
from cdcloader.source.names import Kind, RawFile, of_kind

_COPIED_AFTER = timedelta(hours=1)
_ASIDE_HINT = "move the files of the older load out of the source's folder"


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
    whole = _whole_set(loads, progress)
    if _begins_again(loads, newer, whole, progress):
        return _split(loads, newer, _why_again(progress))
    if _has_joined(newer, whole, progress):
        return _split(loads, whole, "a LOAD file joined the set that was loaded")
    return None


def _begins_again(
    loads: Sequence[RawFile], newer: Sequence[RawFile], whole: Sequence[RawFile], progress: Progress
) -> bool:
    """Whether the first file of a counter is newer than the last full load: DMS, or an operator, loads once more.

    Segments are written side by side and have a counter each. A further segment that comes while all files of the set
    are there as they were loaded has joined it; when one of theirs was written again, or is gone, it is another load.
    """
    lowest: dict[str, int] = {}
    for file in loads:
        lowest[file.group] = min(lowest.get(file.group, file.load_number), file.load_number)
    if not any(file.load_number == lowest[file.group] for file in newer):
        return False
    if len(lowest) == 1 or progress.full_load_date_edited or progress.full_load_newest is None:
        return True
    if layout_of(newer) != progress.full_load_layout:
        return True
    places = {(file.group, file.load_number) for file in newer}
    old = [file for file in whole if not _is_newer(file, progress)]
    return len(old) < progress.full_load_files or any((file.group, file.load_number) in places for file in old)


def layout_of(loads: Iterable[RawFile]) -> str:
    """How LOAD files share out the table: "" (one counter), "segments" or "folders"; "mixed" where they disagree."""
    found = {"folders" if "/" in file.group else "segments" if file.group else "" for file in loads}
    return found.pop() if len(found) == 1 else "mixed" if found else ""


def unclear(due: DueSet, progress: Progress) -> Blocked | None:
    """Why a set may hold rows twice: it is not certain that all of its files are of one load."""
    found = layout_of(due.files) if progress.naming.layout is None else ""
    if found == "mixed":
        other = next(file for file in due.files if layout_of([file]) != layout_of(due.files[:1]))
        reason = (
            f"LOAD files of two loads lie beside each other, such as {due.files[0].name} and {other.name}: the table's "
            "own folder, its segments and its folders each hold the whole table"
        )
        return Blocked(reason, other, _ASIDE_HINT)
    if found == "folders" and progress.full_load_layout != found and due.reload and not progress.full_load_date_edited:
        reason = (
            f"LOAD files came into a folder, such as {due.files[0].name}, and the table was loaded from files in its "
            "own folder: they are a parallel load, or files that were moved aside"
        )
        hint = f"{_ASIDE_HINT}; if they are a new load, set LastFullLoadDate to 1900-01-01 00:00:00"
        return Blocked(reason, due.files[0], hint)
    seen: dict[tuple[str, int], RawFile] = {}
    for file in due.files:
        first = seen.setdefault((file.group, file.load_number), file)
        if first is not file:
            reason = f"{first.name} and {file.name} have one number: they are of two loads"
            return Blocked(reason, file, _ASIDE_HINT)
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


def full_load_of(
    due: DueSet, files: Iterable[RawFile], floor: int, limits: Limits, now: datetime, naming: Naming
) -> FullLoad | Wait:
    """The load of a due set, or the wait for the rest of it."""
    until = due.newest + timedelta(seconds=limits.quiet_seconds)
    proof = _proof_of_completeness(due, files, naming)
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


def _proof_of_completeness(due: DueSet, files: Iterable[RawFile], naming: Naming) -> str:
    newest = due.newest
    after = naming.position_of_time(newest)
    for file in sorted(files, key=lambda file: file.key):
        # A marker speaks for what lies in its folder.
        covers = file.kind is Kind.MARKER and all(load.name.startswith(file.folder) for load in due.files)
        if covers and file.last_modified >= newest:
            return f"{file.name} is there"
        # A file of PreserveTransactions may hold other tables' changes alone.
        if file.kind is Kind.CDC and file.position > after and not file.transactions:
            return f"CDC file {file.name} was written after it"
    return ""


def floor_of(due: DueSet, cdc: Sequence[RawFile], limits: Limits, progress: Progress) -> int:
    """Where the CDC files that a full load does not contain begin; 0 when LastModified or names cannot tell that."""
    naming, reload = progress.naming, due.reload or progress.anew
    if not reload or any(file.numbered for file in cdc) or _were_copied(due, cdc, naming):
        return 0
    return naming.position_of_time(due.first_modified - timedelta(seconds=limits.overlap_seconds))


def _were_copied(due: DueSet, cdc: Iterable[RawFile], naming: Naming) -> bool:
    """Whether LastModified is the time of a copy, by most of the files that are old enough to tell.

    One file that came very late, or was put there again, says nothing about the others.
    """
    times = [(naming.time_of_position(file.position), file.last_modified) for file in cdc]
    told = [abs(modified - named) > _COPIED_AFTER for named, modified in times if named < due.newest - _COPIED_AFTER]
    return bool(told) and 2 * sum(told) >= len(told)
