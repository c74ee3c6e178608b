"""What the folder of a source holds: files that are read, and files that are not, which must not go unseen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cdcloader.errors import Stopped, TableError
from cdcloader.loader.account import logged_progress, progress_of
from cdcloader.loader.context import Context
from cdcloader.loader.versions import nothing_loaded, of_version, version_of
from cdcloader.objects import ObjectInfo
from cdcloader.source import names
from cdcloader.source.actions import FullLoad, Nothing, Plan, Progress, Wait
from cdcloader.source.names import RawFile
from cdcloader.source.plan import list_from, make_plan, needs_full_listing, without_skipped
from cdcloader.source.truncation import is_emptied
from cdcloader.state.record import Record


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source in key order.

    `unread` are the keys of DMS files in layouts that are not read yet, `strange` those of all other objects.
    """

    files: list[RawFile]
    unread: list[str]
    strange: list[str]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a source has found: its listing, the plan, and whether all that the table was made of is gone.

    `blank`: it is, with all else in a local `raw`, as where a volume is not mounted.
    """

    listing: Listing
    plan: Plan
    emptied: bool
    blank: bool


def look_at(context: Context, record: Record) -> Look:
    """List the source and plan the next step for a table that stands where `record` says.

    A later version is loaded as soon as its LOAD files are complete; until then the changes of this one go on.
    """
    version, later = version_of(context, record)
    if later is None:
        return _look_in(context.in_version(version), record)
    newer = _look_at_newer(context.in_version(later), record)
    if isinstance(newer.plan.action, FullLoad):
        return newer
    look = _look_in(context.in_version(version), record)
    # Whoever brings a new version may well have deleted the old one: that empties no table.
    plan = newer.plan if isinstance(newer.plan.action, Wait) and isinstance(look.plan.action, Nothing) else look.plan
    return replace(look, plan=plan, emptied=False, blank=False)


def _look_at_newer(context: Context, record: Record) -> Look:
    """A look at a version that is to replace the one that the table is made of, which only LOAD files can begin."""
    listing = list_source(context, 0)
    files = without_skipped(listing.files, record.skipped_files)
    plan = make_plan(files, nothing_loaded(record), context.settings.limits, keyed=bool(context.key), now=context.now())
    return Look(
        listing, of_version(plan, context.version, instead_of=record.source_version), emptied=False, blank=False
    )


def _look_in(context: Context, record: Record) -> Look:
    progress = progress_of(record)
    listing = list_source(context, list_from(progress))
    if needs_full_listing(without_skipped(listing.files, record.skipped_files), progress):
        listing = list_source(context, 0)
    files = without_skipped(listing.files, record.skipped_files)
    plan = make_plan(files, progress, context.settings.limits, keyed=bool(context.key), now=context.now())
    plan = of_version(plan, context.version, instead_of=context.version)
    emptied = record.recorded_version is not None and is_emptied(listing.files, progress)
    emptied = emptied and _is_emptied_for_certain(context, record, progress)
    return Look(listing, plan, emptied, blank=emptied and context.raw.is_blank())


def _is_emptied_for_certain(context: Context, record: Record, progress: Progress) -> bool:
    """Whether nothing but an emptied source explains a listing without any file that the table is known to be made of.

    What would: a table that was made of another raw folder, a rewind (it forgets what was applied), files that are
    older than the look-back, and files that were moved into folders of the source's.
    """
    if not record.last_incremental_file.startswith(record.path):
        return False
    base = context.log.snapshot()
    logged = logged_progress(base.transactions) if base else None
    if logged is None or logged[0] < record.generation:
        return False
    everything = list_source(context, 0)
    return is_emptied(everything.files, progress) and not any(map(names.position_of_name, everything.strange))


def list_source(context: Context, position: int) -> Listing:
    """List the CDC files from a position on (0: all), and every LOAD file.

    About 600 bytes of memory a file; Stopped between two pages when the process ends.
    """
    prefix = context.folder
    start = names.name_before(position)
    listing = Listing([], [], [])
    for page in context.raw.pages(prefix, start_after=f"{prefix}{start}" if start else ""):
        context.beat()
        if context.stopping():
            raise Stopped("the process ends; the source is listed at the next start", where=context.table.source)
        for item in page:
            _sort_into(listing, item, prefix, context.table.source)
    return listing


def _sort_into(listing: Listing, item: ObjectInfo, prefix: str, source: str) -> None:
    below = f"{source}/{item.key.removeprefix(prefix)}"
    file = names.parse(below, item.size, item.etag, item.last_modified)
    if file is not None:
        listing.files.append(replace(file, key=item.key))
    elif names.unread_layout(item.key):
        listing.unread.append(item.key)
    else:
        listing.strange.append(item.key)


def check_complete(context: Context, listing: Listing, *, loaded: bool) -> None:
    """TableError when the files that are read are not all that DMS wrote, or when there are none to begin with."""
    if not names.is_table_folder(context.table.source):
        raise TableError(
            "this is a folder of DMS's own (control tables, validation reports) and no table",
            where=context.raw.path_of(context.table.source),
            hint="take it out of `tables`",
        )
    if listing.unread:
        count = len(listing.unread)
        raise TableError(
            f"{'a file' if count == 1 else f'the first of {count} files'} in a layout that is not read yet: read are "
            "LOAD00000001 and YYYYMMDD-HHMMSSmmm files, as .csv, .csv.gz or .parquet, in the table's folder itself",
            where=context.raw.path_of(listing.unread[0]),
            hint="have DMS write such files (no date partitions, no parallel load of one table, no JSON), or move "
            "these out of the source's folder if they are of no use; nothing is loaded until then",
        )
    if not listing.files and not loaded:
        others = len(listing.strange)
        raise TableError(
            f"there are no files that cdcloader reads; {_others(others)}, such as {listing.strange[0]}"
            if others
            else "there are no files of this source",
            where=context.raw.path_of(context.table.source),
            hint="check `raw` and `source`; DMS makes the folder when it writes the table's first row",
        )


def _others(count: int) -> str:
    return "1 other is there" if count == 1 else f"{count} others are there"
