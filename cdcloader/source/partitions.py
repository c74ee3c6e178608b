"""Folders that are dates (DatePartitionEnabled, `year=/month=/day=`), and where in a listing new files stand (pure).

A folder is the day on which its changes were committed, a name the time at which its file was written: order is told by
names alone. What a folder's date is good for is to know where files that are new can stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

DAY = timedelta(days=1)
# More requests than this cost more than a listing of everything.
FOLDERS_MAX = 60
_FIELDS = {
    "YYYY": ("%Y", "(?P<year>(?:19|20)[0-9]{2})"),
    "MM": ("%m", "(?P<month>0[1-9]|1[0-2])"),
    "DD": ("%d", "(?P<day>0[1-9]|[12][0-9]|3[01])"),
    "HH": ("%H", "(?P<hour>[01][0-9]|2[0-3])"),
}
_SEQUENCES = (
    ("YYYY", "MM", "DD"),
    ("YYYY", "MM", "DD", "HH"),
    ("YYYY", "MM"),
    ("MM", "YYYY", "DD"),
    ("DD", "MM", "YYYY"),
)
_DELIMITERS = ("/", "-", "_", "")
_HIVE = {"YYYY": "year=", "MM": "month=", "DD": "day=", "HH": "hour="}
_HIVE_LOOSE = re.compile(
    r"year=(?P<year>[0-9]{4})/month=(?P<month>[0-9]{1,2})(?:/day=(?P<day>[0-9]{1,2})(?:/hour=(?P<hour>[0-9]{1,2}))?)?"
)
_MAY_BE_DATE = re.compile(r"[0-9_/-]+|year=[0-9a-z=/]+")


@dataclass(frozen=True, slots=True)
class Style:
    """How dates are written as folders. `ordered`: the order of the texts is that of the dates."""

    pattern: str
    hive: bool = False
    ordered: bool = True

    def text(self, date: datetime) -> str:
        """The folder of a date, without a slash at its end."""
        return date.strftime(self.pattern) if self.pattern else ""


@dataclass(frozen=True, slots=True)
class DateFolder:
    """A folder that is a date, and the first moment of it (in the time zone of the names)."""

    style: Style
    date: datetime


@dataclass(frozen=True, slots=True)
class Range:
    """The keys in a folder that are greater than `after` and, unless it is "", less than `before`."""

    after: str
    before: str = ""


def _styles() -> list[tuple[re.Pattern[str], Style]]:
    made = []
    for fields in _SEQUENCES:
        for delimiter in _DELIMITERS:
            text = re.compile(delimiter.join(_FIELDS[field][1] for field in fields))
            made.append(
                (text, Style(delimiter.join(_FIELDS[field][0] for field in fields), ordered=fields[0] == "YYYY"))
            )
    for fields in _SEQUENCES[:3]:
        text = re.compile("/".join(_HIVE[field] + _FIELDS[field][1] for field in fields))
        made.append((text, Style("/".join(_HIVE[field] + _FIELDS[field][0] for field in fields), hive=True)))
    # Without leading zeros the texts have no order, and no date tells its text.
    return [*made, (_HIVE_LOOSE, Style("", hive=True, ordered=False))]


_STYLES = _styles()


@lru_cache(maxsize=4096)
def date_folder(folder: str) -> DateFolder | None:
    """The date that a folder (without a slash at its end) is; None where it is none."""
    if not _MAY_BE_DATE.fullmatch(folder):
        return None
    for text, style in _STYLES:
        match = text.fullmatch(folder)
        if match is None:
            continue
        parts = match.groupdict()
        try:
            date = datetime(  # noqa: DTZ001 (local to the names)
                int(parts["year"]), int(parts["month"]), int(parts.get("day") or 1), int(parts.get("hour") or 0)
            )
        except ValueError:
            continue
        return DateFolder(style, date)
    return None


def ranges_since(style: Style, since: datetime, now: datetime, name: str) -> list[Range] | None:
    """Where the files of folders from a date on are, and everything that is in no such folder but CDC files.

    CDC files whose names sort before `name` may be left out. `now` is the time in the zone of the names. None where
    that takes more requests than a listing of everything.
    """
    first = since - DAY
    if style.ordered:
        # Behind digits stand LOAD files, segments and markers; "year=" stands behind those.
        tail = Range(f"{style.text(first)}/{name}")
        return [Range(":", "year="), tail] if style.hive else [tail]
    days = (now + DAY - first).days + 1
    if not style.pattern or days > FOLDERS_MAX:
        return None
    folders = dict.fromkeys(style.text(first + day * DAY) for day in range(days))
    return [*(Range(f"{folder}/{name}", f"{folder}0") for folder in folders), Range(":")]


def ranges_beside(start: str) -> list[Range]:
    """Where folders of dates can stand that a listing which begins at the CDC file name `start` does not reach."""
    year, month = start[:4], start[:6]
    return [Range("", "2015"), Range(f"{year}-", f"{year}0"), Range(f"{month}/", f"{month}0")]


def united(ranges: Iterable[Range]) -> list[Range]:
    """The same keys, none of them twice, in order."""
    made: list[Range] = []
    for each in sorted(ranges, key=lambda each: each.after):
        last = made[-1] if made else None
        if last is not None and (not last.before or each.after < last.before):
            end = max(last.before, each.before) if last.before and each.before else ""
            made[-1] = Range(last.after, end)
        else:
            made.append(each)
    return made
