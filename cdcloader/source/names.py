"""What the name of a raw file says: LOAD, CDC file or marker, and its place in the order (pure).

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

from cdcloader.source.partitions import date_folder


class Kind(StrEnum):
    """What a DMS file is for."""

    LOAD = "load"
    CDC = "cdc"
    MARKER = "marker"  # FULL_LOAD_COMPLETE, written by whoever knows that the full load has ended


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of a source, as its name and the listing describe it.

    `key` is relative to the raw root, `name` to the source's folder; a CDC file of the second pass through an hour
    that the clock repeats has `SECOND_PASS` behind its name. `position` is 0 but for CDC, `load_number` but for LOAD,
    `format` is "csv", "parquet" or "json", "" for a marker. `size` is in bytes, as stored. `group` is what stands
    before a LOAD file's number: the counter begins again in each folder and each segment. `transactions`: a file of
    PreserveTransactions, which holds rows of many tables. `numbered`: its position is no time.
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
    group: str = ""
    transactions: bool = False
    numbered: bool = False

    @property
    def sort_key(self) -> tuple[int, str, str]:
        """The order among files of one kind: by position, name and folder, or by group, number and name.

        Changes that were committed before midnight and written behind it stand in two folders, in files of one name.
        """
        if self.kind is Kind.CDC:
            folder = self.folder
            date = date_folder(folder[:-1]) if folder else None
            return (self.position, base_of(self.name), f"{date.date:%Y%m%d%H}/{self.name}" if date else self.name)
        return (0, self.group, f"{self.load_number:020d}/{self.name}")

    @property
    def folder(self) -> str:
        """The folder of the source's that it lies in, with its slash; "" for the source's own."""
        return self.name[: len(self.name) - len(base_of(self.name))]


@dataclass(frozen=True, slots=True)
class Named:
    """What the last part of a file's name says; `position` is None where a CDC file's is not told by it alone."""

    kind: Kind
    format: str = ""
    gzip: bool = False
    position: int | None = None
    load_number: int = 0
    group: str = ""
    number: int | None = None


SECOND_PASS = "#2"  # noqa: S105 (a pass through an hour)
SECOND_PASS_FIELD = 6000
POSITION_MAX = 10**18 - 1
FORMATS = {"csv": "csv", "parquet": "parquet", "json": "json", "jsonl": "json", "ndjson": "json"}
_FORMAT = r"\.(?P<format>(?i:csv|parquet|json|jsonl|ndjson))(?P<gzip>\.(?i:gz))?"
_CDC_STEM = r"(?P<date>[0-9]{8})-(?P<time>[0-9]{6})(?P<fraction>[0-9]{3,})"
_TRANSACTIONS_STEM = r"CDC_TXN-(?P<date>[0-9]{8})(?P<time>[0-9]{6})(?P<fraction>[0-9]{3,})"
_CDC = re.compile(_CDC_STEM + _FORMAT)
# A new kind of name is a new line here; the named groups say what it carries.
_PATTERNS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(r"(?P<group>SEGMENT[0-9]+_)?LOAD(?P<load>[0-9A-Fa-f]{8})" + _FORMAT), Kind.LOAD),
    # Qlik Replicate, the engine inside DMS, numbers its files so.
    (re.compile(r"(?P<group>LOAD_[0-9]+_)(?P<load>[0-9A-Fa-f]{8})" + _FORMAT), Kind.LOAD),
    # The layouts of AWS's articles: numbered files in a folder per day.
    (re.compile(r"data-(?P<number>[0-9]{1,10})" + _FORMAT), Kind.LOAD),
    (re.compile(r"cdc-(?P<number>[0-9]{1,10})" + _FORMAT), Kind.CDC),
    (re.compile(r"FULL_LOAD_COMPLETE"), Kind.MARKER),
)
_TRANSACTIONS = re.compile(_TRANSACTIONS_STEM + _FORMAT)
_START = re.compile(r"0(\.\w+)?")  # "0.parquet": how the walkthrough writes "nothing applied yet"
_STEM = re.compile(rf"(?:{_CDC_STEM})(\.\w+)*")
_TRANSACTIONS_NAME = re.compile(_TRANSACTIONS_STEM + r"(\.\w+)*")
_NUMBERED = re.compile(r"cdc-(?P<number>[0-9]{1,10})(\.\w+)*")
_PLACE = re.compile(r"position-(?P<position>[0-9]{1,18})")  # How we name a position that no file's name can have.
_SOURCE_PARTS = 2  # schema and table


def named(base: str) -> Named | None:
    """What the last part of a name says; None when DMS writes no such name."""
    if match := _CDC.fullmatch(base):
        # By far the most names are such, and a listing may hold millions.
        date, time, fraction, form, gz = match.groups()
        position = position_of_digits(date, time, fraction)
        form = FORMATS[form.lower()]
        return None if position is None or (gz and form == "parquet") else Named(Kind.CDC, form, bool(gz), position)
    for pattern, kind in _PATTERNS:
        match = pattern.fullmatch(base)
        if match is not None:
            return _named(match, kind)
    return None


def named_transactions(base: str) -> Named | None:
    """What the name of a file of PreserveTransactions says: it is always CSV."""
    match = _TRANSACTIONS.fullmatch(base)
    found = _named(match, Kind.CDC) if match else None
    return found if found and found.format == "csv" else None


def _named(match: re.Match[str], kind: Kind) -> Named | None:
    groups = match.groupdict()
    form, gzip = FORMATS.get((groups.get("format") or "").lower(), ""), bool(groups.get("gzip"))
    position = position_of_digits(groups["date"], groups["time"], groups["fraction"]) if groups.get("date") else None
    if (groups.get("date") and position is None) or (gzip and form == "parquet"):
        return None
    number = groups.get("number")
    load = int(groups.get("load") or "0", 16) if number is None else int(number)
    told = None if number is None else int(number)
    return Named(kind, form, gzip, position, load if kind is Kind.LOAD else 0, groups.get("group") or "", told)


def base_of(name: str) -> str:
    """The last part of a name or key."""
    return name.rpartition("/")[2]


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
    folder, _, base = name.strip().rpartition("/")
    if _START.fullmatch(base):
        return 0
    if place := _PLACE.fullmatch(base):
        return int(place["position"])
    if numbered := _NUMBERED.fullmatch(base):
        return position_of_number(base_of(folder), int(numbered["number"]))
    stem = base.removesuffix(SECOND_PASS)
    match = _STEM.fullmatch(stem) or _TRANSACTIONS_NAME.fullmatch(stem)
    position = position_of_digits(match["date"], match["time"], match["fraction"]) if match else None
    return position if position is None or stem is base else in_second_pass(position)


def in_second_pass(position: int) -> int:
    """The position of a file written in the second pass through an hour that the clock repeats.

    6000 and the seconds of the hour stand where minutes and seconds stood: behind the first pass (at most 5959), and
    before the next hour.
    """
    hour, rest = divmod(position, 10**8)
    clock, fraction = divmod(rest, 10**4)
    return hour * 10**8 + (SECOND_PASS_FIELD + clock // 100 * 60 + clock % 100) * 10**4 + fraction


def position_of_number(day: str, number: int) -> int | None:
    """The position of a numbered file in the folder of a day, YYYYMMDD; None where no calendar has that day."""
    if not (len(day) == 8 and day.isascii() and day.isdigit() and number < 10**10):
        return None
    midnight = position_of_digits(day, "000000", "0")
    return None if midnight is None else midnight + number


def position_of_time(time: datetime) -> int:
    """The position of a file written at this time, where names are in UTC; a time without a zone is UTC."""
    return position_of_local(time.astimezone(UTC) if time.tzinfo else time)


def time_of_position(position: int) -> datetime:
    """The UTC time of a position, where names are in UTC; the nearest time where the position is none."""
    return local_of_position(position)[0].replace(tzinfo=UTC)


def position_of_local(local: datetime) -> int:
    """The position of a file whose name shows this time."""
    # The year is written out because strftime does not pad years before 1000 everywhere.
    minutes = (((local.year * 100 + local.month) * 100 + local.day) * 100 + local.hour) * 100 + local.minute
    return (minutes * 100 + local.second) * 10_000 + local.microsecond // 100


def local_of_position(position: int) -> tuple[datetime, datetime | None]:
    """The local time of a position, and the one that it is of a second pass, if the clock has one there.

    A field that no calendar has (month 13, 0) becomes the nearest that it has.
    """
    digits = f"{max(position, 0):018d}"
    year = min(max(int(digits[:-14]), 1), 9999)
    month = min(max(int(digits[-14:-12]), 1), 12)
    day = min(max(int(digits[-12:-10]), 1), monthrange(year, month)[1])
    hour, minute, second = min(int(digits[-10:-8]), 23), min(int(digits[-8:-6]), 59), min(int(digits[-6:-4]), 59)
    time = datetime(year, month, day, hour, minute, second, int(digits[-4:]) * 100)  # noqa: DTZ001 (local to the names)
    field = int(digits[-8:-4])
    if field < SECOND_PASS_FIELD:
        return time, None
    minute, second = divmod(min(field - SECOND_PASS_FIELD, 3599), 60)
    return time, time.replace(minute=minute, second=second)


def position_of_digits(date: str, time: str, fraction: str) -> int | None:
    """The position of YYYYMMDD, HHMMSS and digits of fraction; None where no calendar has that time."""
    try:
        datetime(int(date[:4]), int(date[4:6]), int(date[6:]), int(time[:2]), int(time[2:4]), int(time[4:]), tzinfo=UTC)
    except ValueError:
        return None
    return int(date + time + f"{fraction:0<4}"[:4])


def of_kind(files: Iterable[RawFile], kind: Kind) -> list[RawFile]:
    """The files of one kind, in their source's order."""
    return sorted((file for file in files if file.kind is kind), key=lambda file: file.sort_key)
