"""One table's attempts: how far the one in hand is, how many failed in a row, until when the table is left alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from cdcloader.errors import CdcloaderError
from cdcloader.loader.context import Context
from cdcloader.loader.trouble import Hold, Orders, Stage, orders_of, pause_seconds
from cdcloader.redaction import redacted_text
from cdcloader.source.names import RawFile
from cdcloader.state.record import Phase, Record


class Attempts:
    """Kept by the process that makes them: another process tries a table in trouble at once. `clock` counts seconds."""

    def __init__(self, context: Context, clock: Callable[[], float]) -> None:
        self._context = context
        self._clock = clock
        # Seeded by the table, so that tables that failed together are tried again at different times.
        self._jitter = random.Random(context.path + context.settings.owner)  # noqa: S311
        self._failures = 0
        self._hold: Hold | None = None
        self._stage = Stage.RECORD
        self._orders: Orders | None = None
        self._files: Sequence[RawFile] = ()

    @property
    def held_seconds(self) -> float:
        """How long a table in trouble waits from now on, unless something changes; 0 where it is not in trouble."""
        return max(0.0, self._hold.due - self._clock()) if self._hold else 0.0

    @property
    def hold(self) -> Hold | None:
        """Why and until when the table is left alone; None when it may be worked on."""
        return self._hold if self.held_seconds else None

    def begin(self) -> None:
        """A step begins."""
        self._stage, self._orders = Stage.RECORD, None

    def has_read(self, record: Record) -> None:
        """The step has read the record, and acts on what it says."""
        self._orders = orders_of(record)

    def looks(self) -> None:
        """The step is about to list the source."""
        self._stage = Stage.LOOK

    def has_seen(self, files: Sequence[RawFile]) -> None:
        """The source holds these files."""
        self._files = files

    def works(self) -> None:
        """The look was a success; what fails now is the work."""
        self._stage = Stage.WORK

    def end(self, *, well: bool) -> None:
        """The step ended without an error; `well` when that says that there is no trouble any more."""
        self._files = ()
        if well:
            self._failures, self._hold = 0, None

    def may_go_on(self, record: Record | None) -> bool:
        """Whether an operator has changed the record since the last failure; then what fails next fails first."""
        return self._hold is None or self._lifted(by=record is None or self._hold.lifted_by_order(record))

    def may_go_on_by_files(self) -> bool:
        """Whether the look that was just made says that what was in the way is gone."""
        return self._hold is None or self._lifted(by=self._hold.lifted_by_files(self._files))

    def failed(self, error: CdcloaderError, phase: Phase, recorded: Record | None, base: Record) -> Record:
        """What the record says after a failure; `recorded` is what the store has, `base` the best that is known."""
        attempts = self._hold.attempts + 1 if self._hold else 1
        pause = pause_seconds(phase, attempts, self._context.settings.pauses, self._jitter.random())
        if recorded is not None and self._orders is not None and orders_of(recorded) != self._orders:
            pause = 0.0  # An operator has acted while this attempt was made, and knows better.
        places = {self._context.raw.path_of(file.key): file for file in self._files}
        file, now = places.get(error.where), self._context.now()
        self._hold = Hold(phase, self._stage, attempts, self._clock() + pause, None, file)
        self._files = ()
        self._failures = max(self._failures, base.consecutive_failures) + 1
        where = redacted_text(error.where) or None  # It may be a server's URL.
        marked = base.failed(phase=phase, error=error.what, file=where, hint=error.hint or None, now=now)
        return replace(
            marked,
            consecutive_failures=self._failures,
            blocked_etag=file.etag if file else None,
            retry_at=now + timedelta(seconds=pause),
        )

    def stands(self, recorded: Record | None) -> None:
        """How the record stands after the failure was written down; None when it cannot be read."""
        if self._hold is not None:
            self._hold = replace(self._hold, orders=orders_of(recorded) if recorded else None)

    def _lifted(self, *, by: bool) -> bool:
        if by and self._hold is not None:
            self._hold, self._failures = replace(self._hold, attempts=0, due=self._clock()), 0
        return by
