"""What to do next with one source: full load, batch, replay, or nothing (pure; DESIGN section 3).

`make_plan` is a function of the listing, of where the table stands, and of the time. It is asked anew after
every step, so a plan never has to survive a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from cdcloader.source.actions import (
    Action,
    AppendLate,
    Batch,
    Blocked,
    Limits,
    Nothing,
    Plan,
    Progress,
    Replay,
)
from cdcloader.source.load_sets import due_set, floor_of, full_load_of, unclear
from cdcloader.source.names import SECOND_PASS, Kind, RawFile, base_of, of_kind

_RELOAD_HINT = "reload the table: set LastFullLoadDate to 1900-01-01 00:00:00"


def make_plan(files: Sequence[RawFile], progress: Progress, limits: Limits, *, keyed: bool, now: datetime) -> Plan:
    """The next step for a source whose listing (in any order) is `files`.

    The listing must reach back to `list_from(progress)`, and to the start where `needs_full_listing` says so.
    """
    cdc = of_kind(files, Kind.CDC)
    due = due_set(files, progress)
    if due is not None:
        floor = floor_of(due, cdc, limits, progress)
        pending = [file for file in cdc if file.position > floor]
        load = unclear(due, progress) or full_load_of(due, files, floor, limits, now, progress.naming)
        return _plan(load, pending, cdc)
    late, replaced, unapplied = _waiting(cdc, progress)
    action: Action = Nothing()
    if late or replaced:
        action = _with_key(late, replaced, cdc, progress) if keyed else _without_key(late, replaced, limits)
    elif unapplied:
        batch = _bounded(unapplied, limits)
        action = Batch(batch, more=len(batch) < len(unapplied))
    return _plan(action, [*late, *replaced, *unapplied], cdc)


def without_skipped(files: Iterable[RawFile], skipped: Mapping[str, str]) -> list[RawFile]:
    """The files but those that an operator had us skip (name -> ETag): under another ETag a name is another file."""
    return [file for file in files if skipped.get(file.name) != file.etag]


def spelled_so(file: RawFile, text: str) -> bool:
    """Whether an operator means this file: its name without folders, its name below the source, or its path."""
    wanted = text.strip().removesuffix(SECOND_PASS)
    name = file.name.removesuffix(SECOND_PASS)
    return wanted in (name, base_of(name)) or wanted.endswith(f"/{name}") or f"/{wanted}".endswith(f"/{file.key}")


def pending_files(files: Sequence[RawFile], progress: Progress) -> list[RawFile]:
    """The files that are still to be applied: of a full load that is due its LOAD files, and CDC files."""
    cdc = of_kind(files, Kind.CDC)
    due = due_set(files, progress)
    if due is not None:
        return [*due.files, *cdc]
    late, replaced, unapplied = _waiting(cdc, progress)
    return [*late, *replaced, *unapplied]


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
    return list_from(progress) > 0 and due_set(files, progress) is not None


def _waiting(cdc: Sequence[RawFile], progress: Progress) -> tuple[list[RawFile], list[RawFile], list[RawFile]]:
    """The CDC files that came late, that were replaced, and that are new."""
    late = [file for file in cdc if _is_late(file, progress)]
    replaced = [file for file in cdc if _is_replaced(file, progress)]
    return late, replaced, [file for file in cdc if file.position > progress.applied_up_to]


def _is_late(file: RawFile, progress: Progress) -> bool:
    in_window = max(progress.floor + 1, progress.ledger_from) <= file.position <= progress.position
    return in_window and file.name not in progress.ledger


def _is_replaced(file: RawFile, progress: Progress) -> bool:
    in_window = progress.floor < file.position <= progress.position
    return in_window and progress.ledger.get(file.name, file.etag) != file.etag


def _with_key(
    late: Sequence[RawFile], replaced: Sequence[RawFile], cdc: Iterable[RawFile], progress: Progress
) -> Replay | Blocked:
    """A replay, if all that it must apply again is still there: older changes must not end on top of newer ones."""
    replay = _replay(late, replaced, progress)
    here = {file.name for file in cdc}
    place = progress.naming.position_of_name
    applied = [name for name in progress.ledger if (place(name) or 0) > replay.from_position]
    gone = sorted(name for name in applied if name not in here)
    if not gone:
        return replay
    first = min((*late, *replaced), key=lambda file: file.sort_key)
    are = "is" if len(gone) == 1 else "are"
    reason = f"{_causes(late, replaced)}, and {len(gone)} of the files that were applied after it {are} gone: {gone[0]}"
    hint = f"put them back, or skip this file (`cdcloader resume TABLE --skip {first.name}`), or {_RELOAD_HINT}"
    return Blocked(reason, first, hint)


def _replay(late: Sequence[RawFile], replaced: Sequence[RawFile], progress: Progress) -> Replay:
    start = min(file.position for file in (*late, *replaced)) - 1
    place = progress.naming.position_of_name
    known = {name: etag for name, etag in progress.ledger.items() if (place(name) or 0) <= start}
    reason = f"{_causes(late, replaced)}: applying again from there"
    return Replay(start, progress.floor, known, progress.ledger_from, tuple(late), tuple(replaced), reason)


def _causes(late: Sequence[RawFile], replaced: Sequence[RawFile]) -> str:
    causes = [f"{_names(late)} came late"] if late else []
    causes += [f"{_names(replaced)} was replaced"] if replaced else []
    return " and ".join(causes)


def _without_key(late: Sequence[RawFile], replaced: Sequence[RawFile], limits: Limits) -> AppendLate | Blocked:
    if replaced:
        reason = f"{_names(replaced)} was replaced after it was applied, and the table has no primary key"
        return Blocked(reason, replaced[0], _RELOAD_HINT)
    return AppendLate(_bounded(late, limits), f"{_names(late)} came late")


def _names(files: Sequence[RawFile]) -> str:
    return files[0].name if len(files) == 1 else f"{files[0].name} (and {len(files) - 1} more)"


def _bounded(ordered: Sequence[RawFile], limits: Limits) -> tuple[RawFile, ...]:
    """The longest start of `ordered` within the limits that splits no position, and at least one position.

    Files of PreserveTransactions are read in another way than the others, so that no batch holds both.
    """
    end, total = 0, 0
    while end < len(ordered) and ordered[end].transactions is ordered[0].transactions:
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
