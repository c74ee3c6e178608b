"""One table: where it stands, what its source holds, and the next step, carried out in crash-safe order.

A kill at any point is repaired by taking the next step: there is no resume code, only reading again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from cdcloader.errors import CdcloaderError, Stopped, TableError, TransientError, Treatment, treatment
from cdcloader.lake.snapshot import Snapshot
from cdcloader.lake.upkeep import checkpoint_if_due
from cdcloader.loader.account import edited_position, replayed, without_rows
from cdcloader.loader.attempts import Attempts
from cdcloader.loader.context import Context
from cdcloader.loader.emptying import empty_table
from cdcloader.loader.forwarding import brought_forward, forwarded
from cdcloader.loader.full_load import load
from cdcloader.loader.incremental import Committed, apply_batch, files_before
from cdcloader.loader.lease import Lease
from cdcloader.loader.listing import check_complete, look_at
from cdcloader.loader.passing_by import as_taken, passed_by
from cdcloader.loader.records import first_record, next_generation, own_record, same_place
from cdcloader.loader.report import Reporter
from cdcloader.loader.status import status_of
from cdcloader.loader.steps import Outcome, Step
from cdcloader.loader.upkeep import Upkeep
from cdcloader.source.actions import AppendLate, Batch, Blocked, FullLoad, Nothing, Plan, Replay, Truncate, Wait
from cdcloader.source.names import RawFile
from cdcloader.source.truncation import with_truncation
from cdcloader.state.record import Phase, Record
from cdcloader.state.store import StateStore


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
        owner, seconds = context.settings.owner, context.settings.lease_seconds
        self._lease = Lease(store, context.path, owner, seconds, is_gone=is_gone, now=context.now, clock=clock)
        self._upkeep = Upkeep(context, left_alone=reporter.left_alone, failed=reporter.upkeep_failed, clock=clock)
        self._attempts = Attempts(context, clock)
        self._emptied_at: datetime | None = None
        self.quarantined = 0

    @property
    def source(self) -> str:
        """The table's name for people, logs and metrics."""
        return self.context.table.source

    def step(self) -> Step:
        """Take the next step. Raises what stands in its way; nothing is half done then."""
        taken = self._held() or self._step()
        unsettled = taken.outcome in (Outcome.DONE, Outcome.LEASED, Outcome.HELD)
        self._attempts.end(well=taken.committed is not None or not unsettled)
        return taken

    @property
    def held_seconds(self) -> float:
        """How long a table in trouble waits from now on, unless something changes; 0 where it is not in trouble."""
        return self._attempts.held_seconds

    def _held(self) -> Step | None:
        """The step of a table in trouble before it is due: only a look. None when it may be worked on."""
        attempts = self._attempts
        hold = attempts.hold
        if hold is None:
            return None
        try:
            record = self._store.get(self.context.path)
            if record is None or attempts.may_go_on(record):
                return None
            if hold.looks:
                self._look(record)
        except CdcloaderError as error:
            return Step(Outcome.HELD, str(error))
        if hold.looks and attempts.may_go_on_by_files():
            return None
        self._report.idle(record)
        return Step(Outcome.HELD, record.last_error or "")

    def _step(self) -> Step:
        self._attempts.begin()
        record = self._report.record = own_record(self.context, self._store)
        self._attempts.has_read(record)
        if not record.active:
            self._look(record)
            self._report.phase(Phase.PAUSED)
            return Step(Outcome.PAUSED, "ActiveFlag is false")
        if (edited := edited_position(record, self.context.naming)) is not None and record.recorded_version is not None:
            self._rewind(record, edited, "an operator changed LastIncrementalFile")
            return Step(Outcome.DONE, "rewound")
        plan = self._look(record)
        match plan.action:
            case Wait() as wait:
                self._idle(record)
                if wait.files:
                    self._report.phase(Phase.FULL_LOAD)
                return Step(Outcome.WAITING, wait.reason, wait.until)
            case FullLoad() | Batch() | Replay() | AppendLate() | Blocked() | Truncate():
                return self._work(record, plan)
            case _:
                self._idle(record)
                return Step(Outcome.IDLE)

    def _idle(self, record: Record) -> None:
        """Nothing can be done just now, so that nothing is in the way either."""
        if record.phase in (Phase.BLOCKED, Phase.RETRYING):
            record = self._update(record, record.healed(self.context.now()))
        self._report.idle(record)

    def tidy(self) -> bool:
        """Make the table tidier, if that is due; for a table that a step has found idle. True when it has work again.

        What stands in the way is told and leaves the table as it is: it can be loaded all the same.
        """
        record = self._report.record
        if record is None or not self._upkeep.is_due(record):
            return False
        try:
            with self.context.admitted() as admitted:
                return admitted is not None and self._tidy()
        except CdcloaderError as error:
            match treatment(error):
                case Treatment.REPLAN:
                    self._report.conflict(error)
                case Treatment.STOP:
                    pass
                case _:
                    self.untidy(error)
        finally:
            self._attempts.end(well=False)
        return False

    def untidy(self, error: CdcloaderError) -> None:
        """Upkeep has met trouble, and rests for a while."""
        self._upkeep.pause()
        self._report.upkeep_failed(error)

    def status(self, *, look: bool) -> dict[str, Any]:
        """The table's line in `status`, read-only; `look` lists the source, else the last look is told.

        What was never looked at, because it is another replica's, is told as the record has it.
        """
        context, record, plan, error = self.context, self._report.record, self._report.plan, None
        if look or record is None:
            try:
                record = self._store.get(context.path)
                plan = self._look(record or first_record(context)) if look else None
            except CdcloaderError as trouble:
                error, plan = str(trouble), self._report.plan
        note = self._report.note
        return status_of(self.source, context.table.target, record, plan, context.now(), error=error, note=note)

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
        # Who was overtaken must not write its trouble over another loader's healthy record.
        mine = recorded is not None and self._lease.may_report(recorded, self._report.record)
        base = recorded or self._report.record or first_record(self.context)
        marked = self._attempts.failed(error, phase, recorded, base)
        self._report.failed(marked, error)
        try:
            if recorded is not None and mine:
                recorded = self._store.update(recorded, marked)
        except CdcloaderError as trouble:
            unrecorded = trouble
        self._attempts.stands(recorded)
        if unrecorded is not None:
            self._report.not_recorded(error, unrecorded)
        return marked.consecutive_failures

    def release(self) -> None:
        """Let go of the lease, if it is still ours."""
        if self._lease.held:
            self._report.lease(held=False)
            self._lease.release()

    def forget(self) -> None:
        """Tell nothing more about the table: it is another's."""
        self._report.forget()

    def _keep_going(self) -> None:
        """Called between the parts of long work: stop if the process ends, or the table is another's."""
        self.context.beat()
        if self.context.stopping():
            raise Stopped("the process ends; this work begins again at the next start", where=self.source)
        self._lease.check()

    def _look(self, record: Record) -> Plan:
        """List the source and plan; the metrics of the backlog are true after this, whatever happens then."""
        context = self.context
        self._attempts.looks()
        look = look_at(context, record)
        truncates = context.table.on_source_truncate == "truncate" and not look.blank
        listing, plan = look.listing, self._truncated(look.plan) if look.emptied and truncates else look.plan
        self._attempts.has_seen(listing.files)
        self._report.strange_files(listing.strange)
        self._report.names_in_zone(listing.files)
        self._report.skipped_files(record.skipped_files)
        if not look.emptied or look.blank:
            self._emptied_at = None
        self._report.source(
            emptied=look.emptied, truncate=truncates, blank=look.blank, later_version=look.later_version
        )
        loaded = record.recorded_version is not None
        if listing.files or loaded:
            self._report.backlog(plan)
        if record.active:
            check_complete(context, listing, loaded=loaded)
        self._attempts.works()
        return plan

    def _truncated(self, plan: Plan) -> Plan:
        """The plan for a source of which every file is gone that the table is known to be made of: it was emptied."""
        now = self.context.now()
        self._emptied_at = self._emptied_at or now
        return with_truncation(plan, self._emptied_at, self.context.settings.limits, now)

    def _work(self, seen: Record, plan: Plan) -> Step:
        """Carry out a plan as soon as there is memory for it; DONE asks for it again where there is none yet."""
        if passed := self._pass_by(seen, plan):
            return passed
        files = plan.action.files if isinstance(plan.action, Batch | AppendLate) else ()
        with self.context.admitted(as_taken(self.context, files)) as context:
            return self._leased(context, seen, plan) if context else Step(Outcome.DONE, "waits for memory")

    def _pass_by(self, record: Record, plan: Plan) -> Step | None:
        """Go past shared files without a row of this table; None where there are rows to apply."""
        passed = passed_by(self.context, record, plan.action)
        if passed is None:
            return None
        self._report.passed(self._update(record, passed))
        return Step(Outcome.DONE, "files without a row of this table")

    def _leased(self, context: Context, seen: Record, plan: Plan) -> Step:
        """Carry out a plan under the lease, on the log as it is now."""
        record = self._lease.take()
        if record is None:
            return Step(Outcome.LEASED, "another loader holds the lease")
        self._report.lease(held=True)
        if not same_place(record, seen):
            return Step(Outcome.DONE, "the state record changed; planning again")
        base = self.context.log.snapshot()
        known = brought_forward(self.context, record, base)
        if known is not record:
            self._update(record, known)
            self._report.forwarded(known)
            return Step(Outcome.DONE, "the record was behind the Delta log")
        return self._carry_out(context, record, base, plan)

    def _carry_out(self, context: Context, record: Record, base: Snapshot | None, plan: Plan) -> Step:
        if passed := self._pass_by(record, plan):
            return passed
        match plan.action:
            case FullLoad() as action:
                return self._full_load(context, record, base, action)
            case Batch(files=files):
                return self._apply(context, record, base, files, late=False)
            case AppendLate(files=files):
                return self._apply(context, record, base, files, late=True)
            case Replay() as action:
                self._replay(record, base, action)
                return Step(Outcome.DONE, "rewound")
            case Truncate() if base is not None:
                return self._finish(record, empty_table(self.context, base, record, next_generation(record, base)))
            case Blocked() as action:
                where = self.context.raw.path_of(action.file.key)
                raise TableError(action.reason, where=where, hint=action.hint)
        raise AssertionError(f"no work for {plan.action}")

    def _full_load(self, context: Context, record: Record, base: Snapshot | None, action: FullLoad) -> Step:
        self._report.phase(Phase.FULL_LOAD)
        self._report.full_load(action)
        generation, confirm, skipped = next_generation(record, base), self._lease.confirm, record.skipped_files
        committed = load(context, base, action, generation, self._keep_going, confirm=confirm, skipped=skipped)
        return self._finish(record, committed)

    def _apply(
        self, context: Context, record: Record, base: Snapshot | None, files: Sequence[RawFile], *, late: bool
    ) -> Step:
        """Apply a batch; where a file of it cannot be read, only what comes before, so that it alone is in the way."""
        while True:
            try:
                told, going = self._report.schema_changed, self._keep_going
                committed = apply_batch(context, base, record, files, late=late, keep_going=going, changed=told)
            except TableError as error:
                readable = [] if late else files_before(self.context, files, error.where)
                if not readable:
                    raise
                files = readable
            else:
                return self._finish(record, committed) if committed else self._skip_empty(record, files)

    def _skip_empty(self, record: Record, files: Sequence[RawFile]) -> Step:
        """Files without a byte cannot make a table, but they are done with."""
        context = self.context
        seconds = context.settings.look_back_seconds
        self._update(record, without_rows(record, files, seconds, context.now(), context.naming))
        return Step(Outcome.DONE, "empty files")

    def _finish(self, record: Record, committed: Committed) -> Step:
        """The commit stands; now the record, then metrics and the log line."""
        moved = forwarded(self.context, record, committed.account, committed.snapshot.version)
        # Counted before the record is written: where that fails, the next step brings the record forward, and no more.
        self.quarantined += committed.account.quarantined
        self._update(record, moved)
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
        record = self._lease.take()
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
        held = self._lease.take()
        if held is None or held.lease_epoch != record.lease_epoch or self.context.stopping():
            return False
        return isinstance(self._look(record).action, Nothing)

    def _replay(self, record: Record, base: Snapshot | None, action: Replay) -> None:
        """Apply again from the late or replaced file on; what came before it stays known as applied."""
        begun = replayed(record, action, next_generation(record, base), self.context.naming)
        self._update(record, begun)
        self._report.rewound(begun, action.reason)

    def _rewind(self, record: Record, position: int, reason: str) -> None:
        generation = next_generation(record, self.context.log.snapshot())
        naming = self.context.naming
        place = naming.named_position(position)
        rewound = record.rewound(generation=generation, position=place, file=naming.file_at(record.path, place))
        self._update(record, rewound)
        self._report.rewound(rewound, reason)

    def _update(self, old: Record, new: Record) -> Record:
        return self._store.update(old, new)
