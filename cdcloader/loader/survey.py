"""A look at a prefix that nothing is known of: which tables there are, by few listings and the heads of few files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from cdcloader.errors import CdcloaderError
from cdcloader.objects import ObjectInfo, Objects
from cdcloader.source.heads import HEAD_BYTES, Head, csv_head, json_head, parquet_head
from cdcloader.source.names import Kind, RawFile, is_table_folder
from cdcloader.source.parquet_layout import UNREADABLE
from cdcloader.source.survey import Found, Listed, counted, hours_off, listed, understood

_AT_ONCE = 16
_PAGE = 1_000
_BEHIND_DATES = ":"  # Sorts behind every digit: LOAD files and markers stand there.
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The tables under a prefix, in order; `unread` are folders that are none, each with the reason.

    `cdc_paths` are the folders of transaction files, `hours_off` is how far the names' clock is ahead of UTC.
    """

    tables: tuple[Found, ...]
    unread: tuple[tuple[str, str], ...]
    cdc_paths: tuple[str, ...]
    hours_off: float


def survey(raw: Objects) -> Surveyed:
    """Look at every folder below `raw`: one or two requests to list each, and one or two to read.

    What stands in the way of a listing is raised; a file that cannot be read is a doubt about its table.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="cdcloader-survey") as pool:
        schemas = [name for name in raw.folders() if is_table_folder(name)]
        below = dict(zip(schemas, pool.map(raw.folders, schemas), strict=True))
        alone = [schema for schema, names in below.items() if not names]
        wanted = [f"{schema}/{name}" for schema, names in below.items() for name in names if is_table_folder(name)]
        listings = list(pool.map(lambda path: _listed(raw, path), [*wanted, *alone]))
        tables = [each for each in listings if each.files and "/" in each.source and not each.deeper]
        found = list(pool.map(lambda each: _understood(raw, each), tables))
    others = [each for each in listings if each.deeper or not (each.files or each.transactions)]
    unread = tuple((each.source, _why_unread(each)) for each in others if each.deeper or each.strange)
    paths = tuple(each.source for each in listings if each.transactions and not each.files)
    return Surveyed(tuple(found), unread, paths, hours_off(file for each in tables for file in each.files))


def _listed(raw: Objects, source: str) -> Listed:
    """The first objects of a folder; where there are many, those behind the CDC files too."""
    prefix = f"{source}/"
    items = list(next(iter(raw.pages(prefix)), ()))
    more = len(items) >= _PAGE
    if more:
        known = {item.key for item in items}
        behind = next(iter(raw.pages(prefix, start_after=prefix + _BEHIND_DATES)), ())
        items += [item for item in behind if item.key not in known]
    return listed(source, (_told(item, prefix) for item in items), more=more)


def _told(item: ObjectInfo, prefix: str) -> tuple[str, int, str, datetime]:
    return item.key.removeprefix(prefix), item.size, item.etag, item.last_modified


def _understood(raw: Objects, listing: Listed) -> Found:
    heads: list[tuple[RawFile, Head]] = []
    troubles: list[str] = []
    for file in listing.samples():
        try:
            head = _head(raw, file)
        except (CdcloaderError, *UNREADABLE) as error:
            troubles.append(f"{file.name} could not be read: {error}")
            continue
        if head is not None:
            heads.append((file, head))
    return understood(listing, heads, troubles)


def _head(raw: Objects, file: RawFile) -> Head | None:
    if file.format == "parquet":
        with closing(raw.open_reader(file.key)) as stream:
            return parquet_head(stream)
    content, whole = raw.read_range(file.key, 0, HEAD_BYTES), file.size <= HEAD_BYTES
    if file.format == "json":
        return json_head(content, gzip=file.gzip, whole=whole)
    return csv_head(content, gzip=file.gzip, whole=whole, cdc=file.kind is Kind.CDC)


def _why_unread(listing: Listed) -> str:
    if listing.deeper:
        return (
            f"its files lie in folders, such as {listing.deeper}; if these are tables, give as RAW the folder above "
            "<schema>/<table>/; if not, `layout` may describe the files"
        )
    names: Sequence[str] = listing.strange[:_NAMED_MAX]
    files = f"{counted(len(listing.strange), 'file')}, such as {', '.join(names)}"
    return f"no file there has a name of DMS's ({files}); `layout` may describe them"
