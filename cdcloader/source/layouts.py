"""How the files of one source are named: which are its own, in which order they stand, and when that was (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from heapq import nlargest
from zoneinfo import ZoneInfo

from cdcloader.source.custom_layout import named_by
from cdcloader.source.names import (
    SECOND_PASS,
    SECOND_PASS_FIELD,
    Kind,
    Named,
    RawFile,
    in_second_pass,
    local_of_position,
    named,
    named_transactions,
    position_of_local,
    position_of_name,
    position_of_number,
    position_of_time,
    time_of_position,
)
from cdcloader.source.partitions import date_folder

# How far LastModified may lie from the second reading of a name's time and still tell for it.
_NEAR = timedelta(minutes=30)
_QUARTER = timedelta(minutes=15)
_OFFSET_MAX = timedelta(hours=14)
_NUMERIC = re.compile(r"[0-9_/-]+|year=.*")
_VERSION = re.compile(r"v[0-9]+")


@dataclass(frozen=True, slots=True)
class Naming:
    """The names of one source. `zone` is DatePartitionTimezone (None: UTC), `layout` the pattern that the config gives.

    `cdc_path` is the folder, relative to raw, of the CDC files of PreserveTransactions.
    """

    zone: ZoneInfo | None = None
    layout: re.Pattern[str] | None = None
    cdc_path: str | None = None

    def parse(self, folder: str, name: str, size: int, etag: str, last_modified: datetime) -> RawFile | None:
        """The file `name`, relative to the source's `folder` (with its slash); None when it is no file of ours."""
        found = named_by(self.layout, name) if self.layout else _named(name)
        return self._file(found, folder, name, size, etag, last_modified) if found else None

    def parse_transactions(self, name: str, size: int, etag: str, last_modified: datetime) -> RawFile | None:
        """The file `name` in `cdc_path`; None when it is no file of PreserveTransactions."""
        found = named_transactions(name)
        folder = f"{self.cdc_path}/"
        return self._file(found, folder, name, size, etag, last_modified, transactions=True) if found else None

    def _file(
        self,
        found: Named,
        folder: str,
        name: str,
        size: int,
        etag: str,
        modified: datetime,
        *,
        transactions: bool = False,
    ) -> RawFile:
        position, told = found.position or 0, name
        if self.zone and position and found.number is None and self._is_second_pass(position, modified):
            position, told = in_second_pass(position), name + SECOND_PASS
        return RawFile(
            key=folder + name,
            name=told,
            kind=found.kind,
            format=found.format,
            gzip=found.gzip,
            position=position,
            load_number=found.load_number,
            size=size,
            etag=etag,
            last_modified=modified,
            group=found.group,
            transactions=transactions,
            numbered=found.kind is Kind.CDC and found.number is not None,
        )

    def is_unread(self, name: str) -> bool:
        """Whether a name that `parse` leaves out looks like DMS's own, in a place that may mean several things."""
        folder, _, base = name.rpartition("/")
        found = named(base) if folder and not self.layout else None
        if found is None or found.kind is Kind.MARKER or found.number is not None:
            return False
        if _is_aside(folder) or _named(name) is not None:
            return False
        return found.kind is Kind.LOAD or _NUMERIC.fullmatch(folder) is not None

    def position_of_name(self, name: str) -> int | None:
        """The position of a CDC file's name, with or without the path before it; None for any other text."""
        if self.layout:
            rest = name.strip().removesuffix(SECOND_PASS)
            second = rest != name.strip()
            while rest:
                found = named_by(self.layout, rest)
                if found is not None and found.kind is Kind.CDC:
                    position = found.position or 0
                    return in_second_pass(position) if second else position
                rest = rest.partition("/")[2]
        return position_of_name(name)

    def position_of_time(self, time: datetime) -> int:
        """The position of a file written at this time; a time without a zone is UTC."""
        if self.zone is None:
            return position_of_time(time)
        aware = time if time.tzinfo else time.replace(tzinfo=UTC)
        local = aware.astimezone(self.zone)
        position = position_of_local(local)
        return in_second_pass(position) if local.fold else position

    def time_of_position(self, position: int) -> datetime:
        """The UTC time of a position; what no calendar or clock has becomes the nearest before it that they have."""
        if self.zone is None:
            return time_of_position(position)
        local, again = local_of_position(position)
        if not MINYEAR < local.year < MAXYEAR:
            return local.replace(tzinfo=UTC)
        if again is not None and self._turned_back(again) > timedelta():
            return again.replace(tzinfo=self.zone, fold=1).astimezone(UTC)
        # A time that the clock jumped over: no file has it, and its later offset leads to a time before the jump.
        fold = 1 if self._turned_back(local) < timedelta() else 0
        return local.replace(tzinfo=self.zone, fold=fold).astimezone(UTC)

    def name_before(self, position: int) -> str:
        """A text that sorts before every file name of this position or a later one: where a listing may start.

        LOAD files and markers sort behind every CDC file, so such a listing holds them too.
        """
        if position <= 0:
            return ""
        digits = f"{position:018d}"
        if self.zone and self._repeats(position):
            # The second pass has the names of the first once more.
            return f"{digits[:8]}-{digits[8:10]}"
        return f"{digits[:8]}-{digits[8:17]}"

    def position_before(self, position: int, seconds: float) -> int:
        """The position of a file that was written so many seconds before another; 0 where the calendar ends.

        Where positions are numbers of the config's own, it is 0: nothing tells how long ago they were.
        """
        if not position or not self.by_time:
            return 0
        try:
            return self.position_of_time(self.time_of_position(position) - timedelta(seconds=seconds))
        except OverflowError:
            return 0

    def named_position(self, position: int) -> int:
        """The highest position at or below this one that `file_at` can name."""
        if not self.by_time:
            return max(position, 0)
        return self.position_of_time(self.time_of_position(position)) if position else 0

    def file_at(self, path: str, position: int) -> str:
        """The LastIncrementalFile that stands for a position at which there is no file."""
        if not position:
            return f"{path}0.parquet"
        digits = f"{position:018d}"
        if self.by_time and int(digits[10:14]) < SECOND_PASS_FIELD:
            name = f"{path}{digits[:8]}-{digits[8:]}.parquet"
            if position_of_name(name) == position:
                return name
        return f"{path}position-{digits}"

    @property
    def by_time(self) -> bool:
        """Whether positions are times, as far as names have them."""
        return self.layout is None or bool({"date", "time"} <= self.layout.groupindex.keys())

    def local_time(self, time: datetime) -> datetime:
        """A time as the clock of the names shows it."""
        return time.astimezone(self.zone or UTC).replace(tzinfo=None)

    def written_at(self, file: RawFile) -> datetime:
        """When a CDC file was written: by its name, or by LastModified where its name is no time."""
        return file.last_modified if file.numbered else self.time_of_position(file.position)

    def _is_second_pass(self, position: int, modified: datetime) -> bool:
        """Whether LastModified lies near the second reading of a time that the clock shows twice."""
        local = local_of_position(position)[0]
        if self._turned_back(local) <= timedelta():
            return False
        first, second = (local.replace(tzinfo=self.zone, fold=fold) for fold in (0, 1))
        away = abs(modified - second)
        return away <= _NEAR and away < abs(modified - first)

    def _repeats(self, position: int) -> bool:
        """Whether the hour of a position is one of which the clock shows a part twice."""
        local = local_of_position(position)[0]
        return any(self._turned_back(local.replace(minute=minute)) > timedelta() for minute in (0, 15, 30, 45, 59))

    def _turned_back(self, local: datetime) -> timedelta:
        """By how much the clock was turned back around a local time that it shows twice; below 0 where it jumped it."""
        first, second = (local.replace(tzinfo=self.zone, fold=fold).utcoffset() for fold in (0, 1))
        return (first or timedelta()) - (second or timedelta())


PLAIN = Naming()


def zone_offset(files: Iterable[RawFile], naming: Naming) -> timedelta | None:
    """By how much the clock of the newest files' names goes before that of LastModified: whole quarters of an hour.

    None where it does not, and where that is not certain: few files, or files that were copied.
    """
    timed = (file for file in files if file.kind is Kind.CDC and not file.numbered)
    newest = nlargest(5, timed, key=lambda file: file.position)
    pairs = [(naming.time_of_position(file.position), file.last_modified) for file in newest]
    # Files that were copied have about one LastModified, whatever their names say.
    if len(pairs) < 3 or pairs[0][0] - pairs[-1][0] < timedelta(minutes=3):
        return None
    offsets = [named - modified for named, modified in pairs]
    offset = round(offsets[0] / _QUARTER) * _QUARTER
    agree = all(abs(each - offset) <= timedelta(seconds=90) for each in offsets)
    return offset if agree and 2 * _QUARTER <= abs(offset) <= _OFFSET_MAX else None


def naming_of(timezone: str, layout: str | None, cdc_path: str | None) -> Naming:
    """The naming that a table's config tells."""
    zone = None if timezone in ("UTC", "Etc/UTC") else ZoneInfo(timezone)
    return Naming(zone, re.compile(layout) if layout else None, cdc_path)


def _named(name: str) -> Named | None:
    """What DMS's own layouts and those of the articles make of a name."""
    folder, _, base = name.rpartition("/")
    found = named(base)
    if found is None or (folder and _is_aside(folder)):
        return None
    date = date_folder(folder) if folder else None
    if found.number is not None:
        return _numbered(found, folder) if date is not None else None
    match found.kind:
        case Kind.CDC:
            return found if not folder or date is not None else None
        case Kind.LOAD:
            return _in_group(found, folder) if "/" not in folder else None
        case _:
            return found if "/" not in folder or date is not None else None


def _in_group(found: Named, folder: str) -> Named:
    """A LOAD file of a partition or segment that has a folder of its own: the counter begins again in each."""
    if not folder:
        return found
    return Named(Kind.LOAD, found.format, found.gzip, None, found.load_number, f"{folder}/{found.group}")


def _numbered(found: Named, folder: str) -> Named | None:
    """A numbered file in the folder of a day; the data files of all days are numbered together."""
    if found.kind is Kind.LOAD:
        return found
    position = position_of_number(folder, found.number or 0)
    return None if not position else Named(Kind.CDC, found.format, found.gzip, position, number=found.number)


def _is_aside(folder: str) -> bool:
    """Whether a folder is hidden, or a version that the config does not name."""
    parts = folder.split("/")
    return any(not part or part[0] == "." for part in parts) or _VERSION.fullmatch(parts[0]) is not None
