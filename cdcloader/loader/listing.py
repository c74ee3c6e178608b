"""What the folder of a source holds: files that are read, and files that are not, which must not go unseen."""

from __future__ import annotations

from dataclasses import dataclass

from cdcloader.errors import TableError
from cdcloader.loader.context import Context
from cdcloader.source import names
from cdcloader.source.names import RawFile


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source in key order.

    `unread` are the keys of DMS files in layouts that are not read yet, `strange` those of all other objects.
    """

    files: list[RawFile]
    unread: list[str]
    strange: list[str]


def list_source(context: Context, position: int) -> Listing:
    """List the CDC files from a position on (0: all), and every LOAD file."""
    prefix = f"{context.table.source}/"
    start = names.name_before(position)
    listing = Listing([], [], [])
    for item in context.raw.list(prefix, start_after=f"{prefix}{start}" if start else ""):
        file = names.parse(item.key, item.size, item.etag, item.last_modified)
        if file is not None:
            listing.files.append(file)
        elif names.unread_layout(item.key):
            listing.unread.append(item.key)
        else:
            listing.strange.append(item.key)
    return listing


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
