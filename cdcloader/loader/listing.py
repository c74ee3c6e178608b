"""What the folder of a source holds: files that are read, and files that are not, which must not go unseen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cdcloader.errors import Stopped, TableError
from cdcloader.loader.account import logged_progress, progress_of
from cdcloader.loader.context import Context
from cdcloader.loader.sightings import Sightings
from cdcloader.loader.versions import nothing_loaded, of_version, version_of
from cdcloader.objects import ObjectInfo
from cdcloader.source.actions import AppendLate, Blocked, FullLoad, Nothing, Plan, Progress, Replay, Wait
from cdcloader.source.names import Kind, RawFile, is_table_folder, local_of_position
from cdcloader.source.partitions import DateFolder, Range, Style, date_folder, ranges_beside, ranges_since, united
from cdcloader.source.plan import list_from, make_plan, needs_full_listing, without_skipped
from cdcloader.source.truncation import is_emptied
from cdcloader.state.record import Record

_SILENCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source.

    `unread` are the keys of DMS files in places that may mean several things, `strange` those of all other objects.
    `whole`: it holds every object; `certain`: it holds every CDC file from the position on that it was asked from.
    """

    files: list[RawFile]
    unread: list[str]
    strange: list[str]
    whole: bool = True
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a source has found: its listing, the plan, and whether all that the table was made of is gone.

    `blank`: it is, with all else in a local `raw`, as where a volume is not mounted. `later_version` is not complete.
    """

    listing: Listing
    plan: Plan
    emptied: bool
    blank: bool
    later_version: str | None = None


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
    return replace(look, plan=plan, emptied=False, blank=False, later_version=later)


def _look_at_newer(context: Context, record: Record) -> Look:
    """A look at a version that is to replace the one that the table is made of, which only LOAD files can begin."""
    # What was seen of the folders of the one tells nothing of the other's.
    listing = list_source(replace(context, sightings=Sightings()))
    plan = _planned(context, record, listing, nothing_loaded(record, context.naming))
    return Look(
        listing, of_version(plan, context.version, instead_of=record.source_version), emptied=False, blank=False
    )


def _look_in(context: Context, record: Record) -> Look:
    progress = progress_of(record, context.naming)
    listing = list_new(context, record, progress)
    if not listing.whole and needs_full_listing(without_skipped(listing.files, record.skipped_files), progress):
        listing = list_source(context)
    plan = _planned(context, record, listing, progress)
    if not listing.certain and isinstance(plan.action, Replay | AppendLate | Blocked):
        # What it compares with the ledger must be all that is there.
        listing = list_source(context)
        plan = _planned(context, record, listing, progress)
    plan = of_version(plan, context.version, instead_of=context.version)
    emptied = record.recorded_version is not None and is_emptied(listing.files, progress)
    emptied = emptied and _is_emptied_for_certain(context, record, progress)
    return Look(listing, plan, emptied, blank=emptied and context.raw.is_blank())


def _planned(context: Context, record: Record, listing: Listing, progress: Progress) -> Plan:
    files = without_skipped(listing.files, record.skipped_files)
    return make_plan(files, progress, context.settings.limits, keyed=bool(context.key), now=context.now())


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
    everything = list_source(context)
    moved = map(context.naming.position_of_name, everything.strange)
    return is_emptied(everything.files, progress) and not any(moved)


def list_source(context: Context) -> Listing:
    """List every file of a source: about 600 bytes of memory a file.

    Stopped between two pages when the process ends.
    """
    listing = _listed(context, [Range("")], 0, certain=True, whole=True)
    context.sightings.sweep(listing.files, context.now())
    return listing


def list_new(context: Context, record: Record, progress: Progress) -> Listing:
    """List the CDC files that the next plan needs, and every LOAD file.

    Where names alone tell what is new, one request is enough. Folders of dates are listed from the day before the last
    applied file's on; now and then all of them, because a task that begins again earlier writes into older ones.
    """
    start, now, seen = list_from(progress), context.now(), context.sightings
    if start <= 0 or context.naming.layout is not None:
        return list_source(context)
    last = _last_folder(record)
    styles = seen.styles | ({last.style} if last else set())
    first_look, due = seen.swept_at is None, seen.is_due(now, context.settings.look_back_seconds / 2)
    unknown = first_look and not progress.ledger  # The last file's name, which would tell its folder, is ours.
    if unknown or ((styles or progress.full_load_layout == "folders") and (first_look or due)):
        return _swept(context, start)
    ranges = _ranges(context, styles, last, start) if styles else _plain_ranges(context, start, beside=due)
    if ranges is None:
        return _swept(context, start)
    listing = _listed(context, ranges, start, certain=not styles)
    if first_look and not styles and _is_silent(listing, now):
        # It looks so where DMS goes on in folders of dates.
        listing = _listed(context, _plain_ranges(context, start, beside=True), start, certain=True)
    if first_look or due:
        seen.swept_at = now
    return _swept(context, start) if seen.note(listing.files) and not styles else listing


def _swept(context: Context, start: int) -> Listing:
    """The CDC files from a position on, wherever they stand, and every LOAD file: all is listed, and little is kept."""
    listing = _listed(context, [Range("")], start, certain=True)
    context.sightings.sweep(listing.files, context.now())
    return listing


def _last_folder(record: Record) -> DateFolder | None:
    """The folder of a date that the last applied file lies in."""
    folder = record.last_incremental_file.removeprefix(record.path).rpartition("/")[0]
    while folder:
        if found := date_folder(folder):
            return found
        folder = folder.partition("/")[2]
    return None


def _ranges(context: Context, styles: set[Style], last: DateFolder | None, start: int) -> list[Range] | None:
    """Where new files are in folders of dates; None where only a listing of everything tells."""
    if last is None or styles != {last.style}:
        return None
    naming, since = context.naming, min(last.date, local_of_position(start)[0])
    return ranges_since(last.style, since, naming.local_time(context.now()), naming.name_before(start))


def _plain_ranges(context: Context, start: int, *, beside: bool) -> list[Range]:
    name = context.naming.name_before(start)
    return [Range(name), *(ranges_beside(name) if beside else ())]


def _is_silent(listing: Listing, now: datetime) -> bool:
    """Whether no CDC file came for so long that DMS may be writing elsewhere."""
    return not any(file.kind is Kind.CDC and now - file.last_modified < _SILENCE for file in listing.files)


def _listed(context: Context, ranges: Iterable[Range], start: int, *, certain: bool, whole: bool = False) -> Listing:
    """The files in some ranges of the source's folder, and of PreserveTransactions; CDC files from `start` on."""
    naming, listing = context.naming, Listing([], [], [], whole, certain)
    for each in united(ranges):
        for item, name in _items(context, context.folder, each):
            file = naming.parse(context.folder, name, item.size, item.etag, item.last_modified)
            if file is not None:
                if file.kind is not Kind.CDC or file.position >= start:
                    listing.files.append(file)
            else:
                (listing.unread if naming.is_unread(name) else listing.strange).append(item.key)
    if naming.cdc_path is not None:
        since = naming.name_before(start).replace("-", "")
        folder, after = f"{naming.cdc_path}/", f"CDC_TXN-{since}" if since else ""
        for item, name in _items(context, folder, Range(after), shared=True):
            file = naming.parse_transactions(name, item.size, item.etag, item.last_modified)
            if file is not None:
                listing.files.append(file)
            else:
                listing.strange.append(item.key)
    return listing


def _items(context: Context, folder: str, part: Range, *, shared: bool = False) -> Iterator[tuple[ObjectInfo, str]]:
    """The objects of a part of a folder, with their names below it; `shared`: other tables list it too."""
    raw, start = context.raw, f"{folder}{part.after}" if part.after else ""
    listings = context.transactions.listings
    for page in listings.pages(raw, folder, start) if shared else raw.pages(folder, start_after=start):
        context.beat()
        if context.stopping():
            raise Stopped("the process ends; the source is listed at the next start", where=context.table.source)
        for item in page:
            name = item.key.removeprefix(folder)
            if part.before and name >= part.before:
                return
            yield item, name


def check_complete(context: Context, listing: Listing, *, loaded: bool) -> None:
    """TableError when the files that are read are not all that DMS wrote, or when there are none to begin with."""
    where = context.raw.path_of(context.folder.rstrip("/"))
    if not is_table_folder(context.table.source) or context.table.source == context.naming.cdc_path:
        raise TableError(
            "this is a folder of DMS's own (control tables, validation reports, transaction files) and no table",
            where=where,
            hint="take it out of `tables`",
        )
    if listing.unread:
        count = len(listing.unread)
        raise TableError(
            f"{'a file' if count == 1 else f'the first of {count} files'} of DMS's in a folder that is no date that "
            "DMS writes, or too deep for a segment of a full load: it may be new, or moved aside",
            where=context.raw.path_of(listing.unread[0]),
            hint="move these out of the source's folder if they are of no use, or give the table a `layout` that tells "
            "how its files are named; nothing is loaded until then",
        )
    if not listing.files and not loaded:
        others = len(listing.strange)
        raise TableError(
            f"there are no files that cdcloader reads; {_others(others)}, such as {listing.strange[0]}"
            if others
            else "there are no files of this source",
            where=where,
            hint="check `raw` and `source`; DMS makes the folder when it writes the table's first row",
        )


def _others(count: int) -> str:
    return "1 other is there" if count == 1 else f"{count} others are there"
