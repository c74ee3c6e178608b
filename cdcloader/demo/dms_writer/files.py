"""Whole files as they land below raw: where each stands, and what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from cdcloader.demo.dms_writer.names import (
    FULL_LOAD_COMPLETE,
    article_name,
    cdc_folder,
    cdc_name,
    load_name,
    segment_load_name,
    transactions_name,
)
from cdcloader.demo.dms_writer.rendering import render_cdc, render_load, render_transactions
from cdcloader.demo.dms_writer.settings import Change, Columns, DmsSettings, Row

Layout = Literal["dms", "articles"]


class RawFile(NamedTuple):
    """A file's key below raw and its bytes."""

    key: str
    content: bytes


def load_files(
    settings: DmsSettings,
    source: str,
    columns: Columns,
    pieces: Sequence[Sequence[Row]],
    *,
    at: datetime,
    parallel: Literal["ranges", "folders"] | None = None,
    layout: Layout = "dms",
) -> list[RawFile]:
    """A full load: one LOAD file for each piece of the rows (MaxFileSize), which `parallel` makes segments.

    `ranges` are numbered segments, `folders` partitions or segments with names.
    """
    files = []
    for number, rows in enumerate(pieces, start=1):
        if layout == "articles":
            name = article_name("data", at.date(), number, settings)
        elif parallel == "ranges":
            name = segment_load_name(number, 1, settings)
        elif parallel == "folders":
            name = f"part_{number}/{load_name(1, settings)}"
        else:
            name = load_name(number, settings)
        files.append(RawFile(f"{source}/{name}", render_load(settings, columns, rows, transferred_at=at)))
    if layout == "articles":
        files.append(RawFile(f"{source}/{at:%Y%m%d}/{FULL_LOAD_COMPLETE}", b""))
    return files


def cdc_files(
    settings: DmsSettings, source: str, columns: Columns, changes: Sequence[Change], *, at: datetime
) -> list[RawFile]:
    """The changes that DMS writes at `at`: one file, or one for each date partition that they were committed in."""
    folders: dict[str, list[Change]] = {}
    for change in changes:
        folders.setdefault(cdc_folder(change.commit_time, settings), []).append(change)
    name = cdc_name(at, settings)
    return [
        RawFile(f"{source}/{folder}{name}", render_cdc(settings, columns, some)) for folder, some in folders.items()
    ]


def article_cdc_file(
    settings: DmsSettings, source: str, columns: Columns, changes: Sequence[Change], *, at: datetime, number: int
) -> RawFile:
    """Changes in the layout of the articles; `number` counts the day's files."""
    name = article_name("cdc", at.date(), number, settings)
    return RawFile(f"{source}/{name}", render_cdc(settings, columns, changes))


def transactions_file(
    settings: DmsSettings, changes: Sequence[tuple[str, Columns, Change]], *, at: datetime
) -> RawFile:
    """The changes of all tables, in the order of their transactions, below `cdc_path`."""
    return RawFile(f"{settings.cdc_path}/{transactions_name(at, settings)}", render_transactions(settings, changes))


def write_file(folder: Path, name: str, content: bytes) -> Path:
    """Put a file into a local folder in one step, so that a poller never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    unfinished = folder / f".{name}"
    unfinished.write_bytes(content)
    unfinished.replace(path)
    return path
