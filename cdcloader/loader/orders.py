"""What an operator orders of one table: to pause, to resume, to skip a file. Its loader obeys at its next look.

An order is a conditional write of the state record, tried again when a loader moves the record meanwhile.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

from cdcloader.errors import ConfigError, StateConflict
from cdcloader.loader.account import progress_of
from cdcloader.loader.context import Context
from cdcloader.loader.forwarding import brought_forward
from cdcloader.loader.listing import list_source
from cdcloader.loader.records import own_record
from cdcloader.loader.versions import nothing_loaded, version_of
from cdcloader.source.names import RawFile
from cdcloader.source.plan import pending_files, spelled_so, without_skipped
from cdcloader.state.record import Record
from cdcloader.state.store import StateStore

SKIPPED_FILES_MAX = 200
_TRIES_MAX = 10
_NAMED_FILES_MAX = 5


def pause(context: Context, store: StateStore) -> Record:
    """Apply nothing more until `resume`; a batch in hand is finished."""
    return _changed(context, store, lambda record: replace(record, active=False))


def resume(context: Context, store: StateStore) -> Record:
    """Load the table again, and forget the trouble that it was in, so that it is tried at once."""
    now = context.now()
    return _changed(context, store, lambda record: replace(record.healed(now), active=True))


def skip(context: Context, store: StateStore, file: str) -> Record:
    """Resume, and never apply this file as it is now: a raw file's name, or its path.

    ConfigError when the source has no such file, or when it is applied already.
    """
    now = context.now()

    def skipping(record: Record) -> Record:
        known = brought_forward(context, record, context.log.snapshot())
        chosen = _pending(context, known, file)
        resumed = replace(known.healed(now), active=True, skipped_files=_with(known, chosen, context))
        # A new epoch fences off a loader that may be applying the file just now: it must read the record again.
        return replace(resumed, lease_epoch=record.lease_epoch + 1)

    return _changed(context, store, skipping)


def _changed(context: Context, store: StateStore, change: Callable[[Record], Record]) -> Record:
    """The record after a change of what stands there now; StateConflict when it never stands still."""
    for tried in range(1, _TRIES_MAX + 1):
        try:
            record = own_record(context, store)
            return store.update(record, change(record))
        except StateConflict:
            if tried == _TRIES_MAX:
                raise
            time.sleep(random.uniform(0, 0.02 * 2**tried))  # noqa: S311
    raise AssertionError("a loop that returns or raises has ended")


def _pending(context: Context, record: Record, file: str) -> RawFile:
    """The file of that name that waits to be applied."""
    where = context.raw.path_of(context.folder.rstrip("/"))
    version, later = version_of(context, record)
    listed = list_source(context.in_version(version)).files
    pending = pending_files(without_skipped(listed, record.skipped_files), progress_of(record, context.naming))
    if later is not None:
        newer = list_source(context.in_version(later)).files
        fresh = nothing_loaded(record, context.naming)
        pending += pending_files(without_skipped(newer, record.skipped_files), fresh)
        listed += newer
    meant = [waiting for waiting in pending if spelled_so(waiting, file)]
    if len(meant) > 1:
        names = ", ".join(waiting.name for waiting in meant[:_NAMED_FILES_MAX])
        raise ConfigError(f"{file!r} may be any of {names}", where=where, hint="name it with its folder")
    if meant:
        return meant[0]
    shown = ", ".join(waiting.name for waiting in pending[:_NAMED_FILES_MAX]) or "none"
    hint = f"files that are not applied yet: {shown}"
    found = next((each for each in listed if spelled_so(each, file)), None)
    if found is None:
        raise ConfigError(f"there is no file {file.rpartition('/')[2]!r}", where=where, hint=hint)
    state = "skipped" if record.skipped_files.get(found.name) == found.etag else "applied"
    raise ConfigError(f"{found.name!r} is {state} already", where=where, hint=hint)


def _with(record: Record, file: RawFile, context: Context) -> dict[str, str]:
    """The record's skipped files and this one; where there is no room, without those that are never read again."""
    skipped = {**record.skipped_files, file.name: file.etag}
    if len(skipped) > SKIPPED_FILES_MAX:
        place = context.naming.position_of_name
        skipped = {name: etag for name, etag in skipped.items() if (place(name) or record.floor + 1) > record.floor}
    if len(skipped) > SKIPPED_FILES_MAX:
        raise ConfigError(
            f"{SKIPPED_FILES_MAX} files are skipped already",
            where=context.raw.path_of(context.table.source),
            hint="move bad files out of the source's folder instead, or reload the table",
        )
    return skipped
