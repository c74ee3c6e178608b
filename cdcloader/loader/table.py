"""One table: where it stands, what its source holds, and the next step, carried out in crash-safe order.

A kill at any point is repaired by taking the next step: there is no resume code, only reading again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from cdcloader.errors import CdcloaderError, CommitConflict, StateConflict, Stopped, TableError, TransientError
from cdcloader.lake.snapshot import Snapshot
from cdcloader.lake.upkeep import checkpoint_if_due
from cdcloader.loader.account import (
    edited_position,
    file_at,
    logged_progress,
    named_position,
    progress_of,
    replayed,
    trim,
    unclaimed,
)
from cdcloader.loader.context import Context
from cdcloader.loader.forwarding import brought_forward, forwarded
from cdcloader.loader.full_load import load
from cdcloader.loader.incremental import Committed, apply_batch, files_before
from cdcloader.loader.lease import Lease
from cdcloader.loader.listing import check_complete, list_source
from cdcloader.loader.report import Reporter
from cdcloader.loader.status import status_of
from cdcloader.loader.upkeep import Upkeep
from cdcloader.source.names import RawFile
from cdcloader.source.plan import (
    AppendLate,
    Batch,
    Blocked,
    FullLoad,
    Nothing,
    Plan,
    Replay,
    Wait,
    list_from,
    make_plan,
    needs_full_listing,
)
from cdcloader.state.record import Phase, Record, new_record
from cdcloader.state.store import StateStore


class Outcome(StrEnum):
    """How a step ended; DONE asks for the next step, WAITING is for the end of a full load, LEASED to another."""

    DONE = "done"
    IDLE = "idle"
    WAITING = "waiting"
    PAUSED = "paused"
    LEASED = "leased"


@dataclass(frozen=True, slots=True)
class Step:
    """What a step came to; `until` is when a wait for the end of a full load ends, `reason` is for people."""

    outcome: Outcome
    reason: str = ""
    until: datetime | None = None
    committed: Committed | None = None


class TableLoader:
    """Steps one table; not to be used by two threads at once.

    `is_gone` tells of a lease owner whether it certainly no longer runs. `quarantined` counts the rows that this
    process has quarantined.
    """

    def __init__(
        self,
        context: Context,
        store: StateStore,
        reporter: Reporter,
        is_gone: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.context = context
        self._store = store
        self._report = reporter
        self._lease = Lease(store, context.settings.owner, context.settings.lease_seconds, is_gone)
        self._upkeep = Upkeep(context, left_alone=reporter.left_alone, failed=reporter.upkeep_failed, clock=clock)
        self._failures = 0
        self.quarantined = 0

    @property
    def source(self) -> str:
        """The table's name for people, logs and metrics."""
        return self.context.table.source

    def step(self) -> Step:
        """Take the next step. Raises what stands in its way; nothing is half done then."""
        taken = self._step()
        self._failures = 0
        return taken

    def _step(self) -> Step:
        record = self._report.record = self._record()
        if not record.active:
            self._look(record)
            self._report.phase(Phase.PAUSED)
            return Step(Outcome.PAUSED, "ActiveFlag is false")
        if (edited := edited_position(record)) is not None and record.recorded_version is not None:
            self._rewind(record, edited, "an operator changed LastIncrementalFile")
            return Step(Outcome.DONE, "rewound")
        plan = self._look(record)
        match plan.action:
            case Wait() as wait:
                self._report.phase(Phase.FULL_LOAD)
                return Step(Outcome.WAITING, wait.reason, wait.until)
            case FullLoad() | Batch() | Replay() | AppendLate() | Blocked():
                return self._work(record, plan)
            case _:
                if record.phase in (Phase.BLOCKED, Phase.RETRYING):
                    record = self._update(record, record.healed(self.context.now()))
                self._report.idle(record)
                return Step(Outcome.IDLE)

    def tidy(self) -> bool:
        """Make the table tidier, if that is due; for a table that a step has found idle. True when it has work again.

        What stands in the way is told and leaves the table as it is: it can be loaded all the same.
        """
        record = self._report.record
        if record is None or not self._upkeep.is_due(record):
            return False
        try:
            return self._tidy()
        except (CommitConflict, StateConflict) as error:
            self._report.conflict(error)
        except Stopped:
            return False
        except CdcloaderError as error:
            self.untidy(error)
        return False

    def untidy(self, error: CdcloaderError) -> None:
        """Upkeep has met trouble, and rests for a while."""
        self._upkeep.pause()
        self._report.upkeep_failed(error)

    def status(self, *, look: bool) -> dict[str, Any]:
        """The table's line in `status`, read-only; `look` lists the source, else the last look is told."""
        context, record, plan, error = self.context, self._report.record, self._report.plan, None
        if look:
            try:
                record = self._store.get(context.path)
                plan = self._look(record or self._first_record())
            except CdcloaderError as trouble:
                error, plan = str(trouble), self._report.plan
        return status_of(self.source, context.table.target, record, plan, context.now(), error=error)

    def conflict(self, error: CdcloaderError) -> None:
        """Somebody else changed the table or its record between our look and our write."""
        self._report.conflict(error)

    def failed(self, error: CdcloaderError, phase: Phase) -> int:
        """Tell what stopped the table where operators look first; returns the failures in a row.

        The state store may be the very thing that fails: metrics, status and log tell it then all the same.
        """
        recorded, unrecorded = None, None
        try:
            recorded = self._store.get(self.context.path)
        except CdcloaderError as trouble:
            unrecorded = trouble
        marked = self._marked(recorded or self._report.record or self._first_record(), error, phase)
        self._report.failed(marked, error)
        try:
            if recorded is not None:
                self._store.update(recorded, marked)
        except CdcloaderError as trouble:
            unrecorded = trouble
        if unrecorded is not None:
            self._report.not_recorded(error, unrecorded)
        return self._failures

    def _marked(self, record: Record, error: CdcloaderError, phase: Phase) -> Record:
        self._failures = max(self._failures, record.consecutive_failures) + 1
        marked = record.failed(
            phase=phase, error=error.what, file=error.where or None, hint=error.hint or None, now=self.context.now()
        )
        return replace(marked, consecutive_failures=self._failures)

    def release(self) -> None:
        """Let go of the lease, if it is still ours."""
        if self._lease.held:
            self._lease.release(self._store.get(self.context.path))
            self._report.lease(held=False)

    def _keep_going(self) -> None:
        """Called between the parts of long work: stop if the process ends, renew the lease if it is due."""
        if self.context.stopping():
            raise Stopped("the process ends; this work begins again at the next start", where=self.source)
        self._lease.renew(self.context.path, self.context.now())

    def _record(self) -> Record:
        """The state record; made when there is none."""
        context = self.context
        record = self._store.get(context.path)
        if record is not None:
            if record.recorded_version is None and record.updated_at is None:
                # The walkthrough wrote it, about a table that is not ours: ours begins with its full load.
                return self._update(record, replace(unclaimed(record), updated_at=context.now()))
            return record
        record = self._first_record()
        try:
            self._store.create(record)
        except StateConflict:
            return self._record()
        return record

    def _first_record(self) -> Record:
        context = self.context
        s3 = context.raw.location.startswith("s3://")
        bucket, _, below = context.path.partition("/") if s3 else ("", "", context.path)
        folder = f"{context.table.source.rpartition('/')[2]}/"
        record = new_record(
            context.path,
            bucket,
            below.removesuffix(folder),
            folder,
            context.table.primary_key,
            context.table.partition_by,
            context.lake.path_of(context.table.target),
        )
        return replace(record, updated_at=context.now())

    def _look(self, record: Record) -> Plan:
        """List the source and plan; the metrics of the backlog are true after this, whatever happens then."""
        context, progress = self.context, progress_of(record)
        listing = list_source(context, list_from(progress))
        if needs_full_listing(listing.files, progress):
            listing = list_source(context, 0)
        self._report.strange_files(listing.strange)
        plan = make_plan(listing.files, progress, context.settings.limits, keyed=bool(context.key), now=context.now())
        loaded = record.recorded_version is not None
        if listing.files or loaded:
            self._report.backlog(plan)
        if record.active:
            check_complete(context, listing, loaded=loaded)
        return plan

    def _work(self, seen: Record, plan: Plan) -> Step:
        """Carry out a plan under the lease, on the log as it is now."""
        record = self._lease.take(self._store.get(seen.path), self.context.now())
        if record is None:
            return Step(Outcome.LEASED, "another loader holds the lease")
        self._report.lease(held=True)
        if not _same_place(record, seen):
            return Step(Outcome.DONE, "the state record changed; planning again")
        base = self.context.log.snapshot()
        known = brought_forward(self.context, record, base)
        if known is not record:
            self._update(record, known)
            self._report.forwarded(known)
            return Step(Outcome.DONE, "the record was behind the Delta log")
        return self._carry_out(record, base, plan)

    def _carry_out(self, record: Record, base: Snapshot | None, plan: Plan) -> Step:
        match plan.action:
            case FullLoad() as action:
                return self._full_load(record, base, action)
            case Batch(files=files):
                return self._apply(record, base, files, late=False)
            case AppendLate(files=files):
                return self._apply(record, base, files, late=True)
            case Replay() as action:
                self._replay(record, base, action)
                return Step(Outcome.DONE, "rewound")
            case Blocked() as action:
                where = self.context.raw.path_of(action.file.key)
                raise TableError(action.reason, where=where, hint=action.hint)
        raise AssertionError(f"no work for {plan.action}")

    def _full_load(self, record: Record, base: Snapshot | None, action: FullLoad) -> Step:
        self._report.phase(Phase.FULL_LOAD)
        self._report.full_load(action)
        committed = load(self.context, base, action, _next_generation(record, base), self._keep_going)
        return self._finish(record, committed)

    def _apply(self, record: Record, base: Snapshot | None, files: Sequence[RawFile], *, late: bool) -> Step:
        """Apply a batch; where a file of it cannot be read, only what comes before, so that it alone is in the way."""
        while True:
            try:
                committed = apply_batch(self.context, base, record, files, late=late, keep_going=self._keep_going)
            except TableError as error:
                readable = [] if late else files_before(self.context, files, error.where)
                if not readable:
                    raise
                files = readable
            else:
                return self._finish(record, committed) if committed else self._skip_empty(record, files)

    def _skip_empty(self, record: Record, files: Sequence[RawFile]) -> Step:
        """Files without a byte cannot make a table, but they are done with."""
        last = max(files, key=lambda file: file.sort_key)
        ledger, ledger_from = trim(
            {**record.ledger, **{file.name: file.etag for file in files}},
            record.ledger_from,
            last.position,
            self.context.settings.look_back_seconds,
        )
        moved = record.advanced(
            position=last.position,
            file=f"{record.path}{last.name}",
            ledger=ledger,
            ledger_from=ledger_from,
            version=None,
            inserted=0,
            updated=0,
            deleted=0,
            quarantined=0,
            now=self.context.now(),
        )
        self._update(record, moved)
        return Step(Outcome.DONE, "empty files")

    def _finish(self, record: Record, committed: Committed) -> Step:
        """The commit stands; now the record, then metrics and the log line."""
        moved = forwarded(self.context, record, committed.account, committed.snapshot.version)
        self._update(record, moved)
        self.quarantined += committed.account.quarantined
        self._report.committed(moved, committed)
        self._checkpoint(committed.snapshot)
        return Step(Outcome.DONE, committed.applied.strategy, committed=committed)

    def _checkpoint(self, snapshot: Snapshot) -> None:
        try:
            checkpoint_if_due(self.context.lake, self.context.table.target, snapshot)
        except TransientError as error:
            # The batch is in the table and recorded; a shorter log can wait for the next chance.
            self._report.upkeep_failed(error)

    def _tidy(self) -> bool:
        context = self.context
        record = self._lease.take(self._store.get(context.path), context.now())
        base = context.log.snapshot() if record is not None else None
        if record is None or base is None:
            return False
        self._report.lease(held=True)
        known = brought_forward(self.context, record, base)
        if known is not record:
            record = self._update(record, known)
        tidied = self._upkeep.run(base, record, lambda: self._may_tidy(record), self._keep_going)
        self._report.record = self._update(record, self._upkeep.after(record, tidied))
        self._report.tidied(tidied)
        return tidied.interrupted and not context.stopping()

    def _may_tidy(self, record: Record) -> bool:
        """Whether the table is still ours and still has nothing more important to do."""
        held = self._lease.take(self._store.get(record.path), self.context.now())
        if held is None or held.lease_epoch != record.lease_epoch or self.context.stopping():
            return False
        return isinstance(self._look(record).action, Nothing)

    def _replay(self, record: Record, base: Snapshot | None, action: Replay) -> None:
        """Apply again from the late or replaced file on; what came before it stays known as applied."""
        begun = replayed(record, action, _next_generation(record, base))
        self._update(record, begun)
        self._report.rewound(begun, action.reason)

    def _rewind(self, record: Record, position: int, reason: str) -> None:
        generation = _next_generation(record, self.context.log.snapshot())
        place = named_position(position)
        rewound = record.rewound(generation=generation, position=place, file=file_at(record.path, place))
        self._update(record, rewound)
        self._report.rewound(rewound, reason)

    def _update(self, old: Record, new: Record) -> Record:
        return self._store.update(old, new)


def _next_generation(record: Record, base: Snapshot | None) -> int:
    """A generation that neither the record nor the log has seen."""
    logged = logged_progress(base.transactions) if base else None
    return max(record.generation, logged[0] if logged else 0) + 1


def _same_place(record: Record, seen: Record) -> bool:
    """Whether a plan that was made for `seen` holds for `record`."""
    return progress_of(record) == progress_of(seen) and record.active == seen.active
