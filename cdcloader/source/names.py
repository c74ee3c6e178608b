"""What the name of a raw object says: LOAD, CDC file or marker, and its place in the order (pure).

A position is the time in a CDC file's name as 18 digits: YYYYMMDDHHMMSS and four digits of fraction.
Sources: "Using Amazon S3 as a target" in the AWS DMS user guide, and real files; AWS shows ten digits after
the dash in its example, DMS writes nine.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Kind(StrEnum):
    """What a DMS file is for."""

    LOAD = "load"
    CDC = "cdc"
    MARKER = "marker"  # FULL_LOAD_COMPLETE, written by whoever knows that the full load has ended


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of a source, as its name and the listing describe it.

    `key` is relative to the raw root. `position` is 0 but for CDC, `load_number` but for LOAD, `format` is
    "csv" or "parquet", "" for a marker. `size` is in bytes, as stored.
    """

    key: str
    name: str
    kind: Kind
    format: str
    gzip: bool
    position: int
    load_number: int
    size: int
    etag: str
    last_modified: datetime

    @property
    def sort_key(self) -> tuple[int, str]:
        """The order among files of one kind: by load number or position, then by name."""
        return (self.position if self.kind is Kind.CDC else self.load_number, self.name)


_FORMAT = r"\.(?P<format>(?i:csv|parquet))(?P<gzip>\.(?i:gz))?"
_CDC_STEM = r"(?P<date>[0-9]{8})-(?P<time>[0-9]{6})(?P<fraction>[0-9]{3,})"
# A new kind of name is a new line here; the named groups say what it carries.
_PATTERNS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(_CDC_STEM + _FORMAT), Kind.CDC),
    (re.compile(r"LOAD(?P<load>[0-9A-Fa-f]{8})" + _FORMAT), Kind.LOAD),
    (re.compile(r"FULL_LOAD_COMPLETE"), Kind.MARKER),
)
_SEGMENT = r"SEGMENT[0-9]+_LOAD[0-9A-Fa-f]{8}"
_UNREAD = re.compile(
    rf"(?:(?P<segment>{_SEGMENT})|(?P<load>LOAD[0-9A-Fa-f]{{8}})|{_CDC_STEM})"
    r"\.(?P<format>(?i:csv|parquet|json))(?:\.(?i:gz))?"
)
_DATE_FOLDERS = re.compile(r"[0-9_/-]+")  # 2024/01/31, 2024-01-31, 20240131, with the hour or without
_START = re.compile(r"0(\.\w+)?")  # "0.parquet": how the walkthrough writes "nothing applied yet"
_STEM = re.compile(_CDC_STEM + r"(\.\w+)*")
_SOURCE_PARTS = 2  # schema and table


def parse(key: str, size: int, etag: str, last_modified: datetime) -> RawFile | None:
    """The file that `key` (schema/table/name) names; None when DMS writes no such file there.

    Files in folders below the table are None too: whoever moved files aside does not want them loaded.
    """
    source, _, name = key.rpartition("/")
    if source.count("/") != _SOURCE_PARTS - 1:
        return None
    for pattern, kind in _PATTERNS:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        groups = match.groupdict()
        form, gzip = (groups.get("format") or "").lower(), bool(groups.get("gzip"))
        position = _position(groups["date"], groups["time"], groups["fraction"]) if kind is Kind.CDC else 0
        if position is None or (gzip and form != "csv"):
            return None
        number = int(groups.get("load") or "0", 16)
        return RawFile(key, name, kind, form, gzip, position, number, size, etag, last_modified)
    return None


def unread_layout(key: str) -> bool:
    """Whether a key that `parse` leaves out looks like DMS's own file, in a layout that is not read yet.

    These are the segments of a parallel load (by name or by folder), CDC files in date partitions, and JSON.
    """
    source = source_key(key)
    folder, _, name = key.removeprefix(f"{source}/").rpartition("/")
    match = _UNREAD.fullmatch(name) if source else None
    if match is None:
        return False
    if match["segment"] or not folder:
        return bool(match["segment"]) or match["format"].lower() == "json"
    return bool(match["load"]) or _DATE_FOLDERS.fullmatch(folder) is not None


def source_key(key: str) -> str:
    """The source ("schema/table") that a raw key belongs to; "" for a key above the tables."""
    parts = key.split("/")
    return "/".join(parts[:_SOURCE_PARTS]) if len(parts) > _SOURCE_PARTS else ""


def is_table_folder(name: str) -> bool:
    """Whether a folder of this name can be a table: not a DMS control table, nor its validation reports."""
    folder = name.rstrip("/").rpartition("/")[2].lower()
    return not folder.startswith("awsdms_") and folder not in ("", "s3_validation_failures")


def position_of_name(name: str) -> int | None:
    """The position of a CDC file's name, with or without folders, bucket and extension; None for any other text.

    The walkthrough's "0.parquet" (nothing applied yet) is position 0.
    """
    base = name.strip().rpartition("/")[2]
    if _START.fullmatch(base):
        return 0
    match = _STEM.fullmatch(base)
    return _position(match["date"], match["time"], match["fraction"]) if match else None


def position_of_time(time: datetime) -> int:
    """The position of a file written at this time; a time without a zone is UTC."""
    utc = time.astimezone(UTC) if time.tzinfo else time
    # The year is written out because strftime does not pad years before 1000 everywhere.
    seconds = (((utc.year * 100 + utc.month) * 100 + utc.day) * 100 + utc.hour) * 100 + utc.minute
    return (seconds * 100 + utc.second) * 10_000 + utc.microsecond // 100


def time_of_position(position: int) -> datetime:
    """The UTC time of a position; a field that no calendar has (month 13, 0) becomes the nearest that it has."""
    digits = f"{max(position, 0):018d}"
    year = min(max(int(digits[:-14]), 1), 9999)
    month = min(max(int(digits[-14:-12]), 1), 12)
    day = min(max(int(digits[-12:-10]), 1), monthrange(year, month)[1])
    hour, minute, second = min(int(digits[-10:-8]), 23), min(int(digits[-8:-6]), 59), min(int(digits[-6:-4]), 59)
    return datetime(year, month, day, hour, minute, second, int(digits[-4:]) * 100, tzinfo=UTC)


def name_before(position: int) -> str:
    """A text that sorts before every file name of this position or a later one: where a listing may start.

    LOAD files and markers sort behind every CDC file, so such a listing holds them too.
    """
    if position <= 0:
        return ""
    digits = f"{position:018d}"
    return f"{digits[:8]}-{digits[8:17]}"


def _position(date: str, time: str, fraction: str) -> int | None:
    try:
        datetime(int(date[:4]), int(date[4:6]), int(date[6:]), int(time[:2]), int(time[2:4]), int(time[4:]), tzinfo=UTC)
    except ValueError:
        return None
    return int(date + time + f"{fraction:0<4}"[:4])


def of_kind(files: Iterable[RawFile], kind: Kind) -> list[RawFile]:
    """The files of one kind, in their source's order."""
    return sorted((file for file in files if file.kind is kind), key=lambda file: file.sort_key)
