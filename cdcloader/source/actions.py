"""The words of planning: where a table stands, the limits of a step, and what can be done next (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cdcloader.source.layouts import PLAIN, Naming
from cdcloader.source.names import RawFile


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a table stands. Times carry a zone.

    `position` is the watermark of this generation and `floor` the position up to which it skips CDC files.
    `ledger` maps the names of applied CDC files from the position `ledger_from` on to their ETags; within one
    full load `ledger_from` never moves back, or files that the ledger forgot would look late.
    `full_load_date` is the earliest LastModified of the loaded set in whole seconds, None when nothing was
    ever loaded; `full_load_newest` is its newest, exact; `full_load_files` is `FullLoad.files_in_window`, and
    `full_load_layout` is `layout_of` its files. `naming` is the source's. `anew`: nothing is loaded of these LOAD
    files' version, and the files of changes are those of the version before it too.
    """

    generation: int
    position: int
    floor: int
    ledger: Mapping[str, str]
    ledger_from: int
    full_load_date: datetime | None
    full_load_newest: datetime | None
    full_load_files: int
    full_load_date_edited: bool
    full_load_layout: str = ""
    naming: Naming = PLAIN
    anew: bool = False

    @property
    def applied_up_to(self) -> int:
        """The position up to which nothing new is expected: files at or below it are applied or skipped."""
        return max(self.position, self.floor)


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one batch (bytes as stored, compressed) and the two waiting times of a full load."""

    max_files: int
    max_bytes: int
    quiet_seconds: float
    overlap_seconds: float


@dataclass(frozen=True, slots=True)
class FullLoad:
    """Replace the table by these LOAD files; a new generation begins, which skips CDC files up to `floor`.

    `leftovers` are LOAD files of an older load, to be named in the log. `first_modified` and `newest` are the
    bounds of the set's LastModified. `reload` is False for the first load of a table, or of a `version` of it.
    """

    files: tuple[RawFile, ...]
    leftovers: tuple[RawFile, ...]
    floor: int
    first_modified: datetime
    newest: datetime
    reload: bool
    reason: str
    version: str | None = None

    @property
    def files_in_window(self) -> int:
        """How many LOAD files, leftovers of the same second included, a later listing must not exceed."""
        since = whole_second(self.first_modified)
        return len(self.files) + sum(since <= file.last_modified for file in self.leftovers)


@dataclass(frozen=True, slots=True)
class Wait:
    """DMS may still be writing these LOAD files; at `until` they count as complete if none has come or changed."""

    reason: str
    until: datetime
    files: tuple[RawFile, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Apply these CDC files in this order; `more` when further ones wait."""

    files: tuple[RawFile, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """Begin a new generation with the watermark `from_position`, and apply again from there.

    `floor`, `ledger` and `ledger_from` are what it begins with. They go on knowing the files before
    `from_position`, so that one of those that comes even later is late too, and not lost.
    """

    from_position: int
    floor: int
    ledger: Mapping[str, str]
    ledger_from: int
    late: tuple[RawFile, ...]
    replaced: tuple[RawFile, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class AppendLate:
    """Append these late files and enter them in the ledger; the watermark stays (tables without a key)."""

    files: tuple[RawFile, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """An operator must decide."""

    reason: str
    file: RawFile
    hint: str


@dataclass(frozen=True, slots=True)
class Truncate:
    """Remove every row: the source table was emptied."""

    reason: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """Every file of the source is in the table."""


Action = FullLoad | Wait | Batch | Replay | AppendLate | Blocked | Truncate | Nothing


@dataclass(frozen=True, slots=True)
class Plan:
    """The next action, and what is not yet applied: CDC files, their bytes, and the oldest one's LastModified.

    A replaced file counts as not applied. `newest_position` is the highest in the listing, 0 without CDC files.
    """

    action: Action
    backlog_files: int
    backlog_bytes: int
    oldest_unapplied: datetime | None
    newest_position: int


def whole_second(time: datetime) -> datetime:
    """A time as LastFullLoadDate holds it."""
    return time.replace(microsecond=0)
