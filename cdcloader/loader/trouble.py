"""What becomes of a table in trouble: how long it waits, and what lets it go on before that (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cdcloader.source.names import RawFile
from cdcloader.state.record import Phase, Record

_FIRST_SECONDS = 2.0
_BLOCKED_FIRST_SECONDS = 60.0
_DOUBLINGS_MAX = 30


@dataclass(frozen=True, slots=True)
class Pauses:
    """The longest pauses of a table: after passing trouble, and where something must change first."""

    retry_max_seconds: float = 300.0
    blocked_max_seconds: float = 900.0


def pause_seconds(phase: Phase, attempts: int, pauses: Pauses, draw: float) -> float:
    """How long a table waits after so many failed attempts in a row; `draw` is a random number in [0, 1).

    Twice as long each time, up to a cap. Passing trouble has full jitter, so that tables that failed together do not
    come back together; a blocked table waits at least half of its time, because trying it reads its bad file.
    """
    doubled = 2.0 ** min(max(attempts - 1, 0), _DOUBLINGS_MAX)
    if phase is Phase.BLOCKED:
        return min(_BLOCKED_FIRST_SECONDS * doubled, pauses.blocked_max_seconds) * (0.5 + draw / 2)
    return min(_FIRST_SECONDS * doubled, pauses.retry_max_seconds) * draw


class Stage(StrEnum):
    """How far a step had come when it failed."""

    RECORD = "record"
    LOOK = "look"
    WORK = "work"


Orders = tuple[bool, str, datetime, str, tuple[tuple[str, str], ...]]


def orders_of(record: Record) -> Orders:
    """What an operator may change in a record, `resume` included: another value is an order to try again."""
    skipped = tuple(sorted(record.skipped_files.items()))
    return (record.active, record.last_incremental_file, record.last_full_load_date, str(record.phase), skipped)


@dataclass(frozen=True, slots=True)
class Hold:
    """A table that is left alone until `due`, seconds of the process's own clock, or until something changes.

    `attempts` are those that failed in a row for the same reason. `orders` are the record's as the failure left it,
    None when it could not be read. `file` is the raw file that is in the way, where one is.
    """

    phase: Phase
    stage: Stage
    attempts: int
    due: float
    orders: Orders | None
    file: RawFile | None

    @property
    def looks(self) -> bool:
        """Whether the source is listed while the table waits: not where listing itself may pass by waiting."""
        return self.stage is not Stage.LOOK or self.phase is Phase.BLOCKED

    def lifted_by_order(self, record: Record | None) -> bool:
        """Whether an operator has changed the record since, or has mended it."""
        return record is None or orders_of(record) != self.orders

    def lifted_by_files(self, files: Iterable[RawFile]) -> bool:
        """Whether a successful look says that what was in the way has gone: a file replaced or removed, or the look."""
        if self.stage is Stage.LOOK:
            return True
        blocking = self.file
        if blocking is None:
            return False
        return not any(file.key == blocking.key and file.etag == blocking.etag for file in files)
