"""Upkeep of one table: what is due, within a budget of time, one commit after the other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cdcloader import __version__
from cdcloader.errors import CdcloaderError, CommitConflict, TransientError
from cdcloader.lake.compaction import Job, make_jobs
from cdcloader.lake.log import INFO
from cdcloader.lake.rewriting import Unfit, carry_out, discard
from cdcloader.lake.snapshot import Action, Snapshot, check_supported
from cdcloader.lake.sweep import Swept, sweep
from cdcloader.lake.target import Target
from cdcloader.lake.upkeep import checkpoint, checkpoint_if_due, describe, downgrade, spread_of
from cdcloader.loader.account import UPKEEP
from cdcloader.loader.context import Context, check_same_layout
from cdcloader.loader.publish import check_same_rows, table_actions
from cdcloader.state.record import Record

_SWEEP_EVERY = timedelta(days=1)
# After trouble upkeep waits, so that a table whose files cannot be read is not read again at every poll.
_PAUSE = timedelta(minutes=15)
# Jobs read and write for seconds between two looks at the lease.
_LOOK_SECONDS = 1.0


@dataclass(slots=True)
class Tidied:
    """What one turn of upkeep did: the newest version, its commits by kind, the bytes written, and what was swept.

    `done` tells that nothing is left to do, `interrupted` that something more important came up.
    """

    snapshot: Snapshot
    files_before: int
    jobs: Counter[str] = field(default_factory=Counter)
    written_bytes: int = 0
    swept: Swept | None = None
    done: bool = False
    interrupted: bool = False
    seconds: float = 0.0


class Upkeep:
    """Keeps one table tidy; it must not run beside a batch of the same table.

    `left_alone` is told of a file that cannot be worked on (its path, the reason), `failed` of trouble that does not
    end the turn. `clock` counts seconds.
    """

    def __init__(
        self,
        context: Context,
        *,
        left_alone: Callable[[str, str], None],
        failed: Callable[[CdcloaderError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._left_alone = left_alone
        self._failed = failed
        self._clock = clock
        self._unfit: set[str] = set()
        self._paused_until: datetime | None = None

    def is_due(self, record: Record) -> bool:
        """Whether there may be something to do, by the state record alone: no request is made to find that out."""
        context = self._context
        if record.recorded_version is None or not context.settings.upkeep_seconds:
            return False
        if self._paused_until is not None and context.now() < self._paused_until:
            return False
        known = (record.tidied_version, record.tidied_mode) == (record.recorded_version, context.table.write_mode)
        return not known or self._is_sweep_due(record)

    def pause(self) -> None:
        """Leave the table alone for a while, after trouble."""
        self._paused_until = self._context.now() + _PAUSE

    def run(
        self, base: Snapshot, record: Record, may_go_on: Callable[[], bool], going_on: Callable[[], None]
    ) -> Tidied:
        """Do what is due, from `base` on, until it is done, the time is up, or `may_go_on()` says no before a job.

        `going_on` is called while a job works, and may raise to give it up. CommitConflict when another writer was
        first.
        """
        context, begun = self._context, self._clock()
        check_supported(base, where=context.log.where)
        check_same_layout(context, base)
        tidied = Tidied(base, len(base.files))
        budget = _Budget(self._clock, begun + context.settings.upkeep_seconds, may_go_on)
        slow = _Slowly(self._clock, going_on)
        try:
            self._compact(tidied, budget, slow)
            if tidied.done and context.table.write_mode == "copy_on_write":
                self._purge_feature(tidied)
            if self._is_sweep_due(record) and budget.is_left():
                self._sweep(tidied, record, budget)
        finally:
            tidied.seconds = self._clock() - begun
            tidied.interrupted = budget.interrupted
        return tidied

    def after(self, record: Record, tidied: Tidied) -> Record:
        """The state record after a turn: from here a later look tells by itself whether there is anything to do."""
        version = tidied.snapshot.version
        moved = replace(record, recorded_version=version)
        if tidied.done:
            moved = replace(moved, tidied_version=version, tidied_mode=self._context.table.write_mode)
        if tidied.swept is None:
            return moved
        if tidied.swept.next_key:
            return replace(moved, swept_to=tidied.swept.next_key)
        return replace(moved, swept_to=None, swept_at=self._context.now())

    def _compact(self, tidied: Tidied, budget: _Budget, slow: _Slowly) -> None:
        while True:
            target = self._target(tidied.snapshot)
            jobs = self._plan(target, tidied.snapshot)
            if not jobs:
                tidied.done = True
                return
            for job in jobs:
                if not budget.is_left():
                    return
                self._do(job, tidied, slow)

    def _target(self, snapshot: Snapshot) -> Target:
        """The target, with files of a size that one piece of memory can hold, as full loads make them."""
        context = self._context
        target = context.target(snapshot.schema(context.log.where))
        return replace(target, file_bytes=min(target.file_bytes, context.settings.piece_bytes))

    def _plan(self, target: Target, snapshot: Snapshot) -> list[Job]:
        files = {file.path: file for file in snapshot.files.values() if file.path not in self._unfit}
        return make_jobs(
            [describe(target, file) for file in files.values()],
            keyed=bool(target.key),
            marks=target.marks,
            target_bytes=target.file_bytes,
            spread=spread_of(target, files),
        )

    def _do(self, job: Job, tidied: Tidied, slow: _Slowly) -> None:
        snapshot, settings = tidied.snapshot, self._context.settings
        files = {file.path: file for file in snapshot.files.values()}
        if not files.keys() >= {*job.overlays, *(path for group in job.groups for path in group)}:
            return  # A job before this one has ended an overlay; planning again sees what is left.
        target = self._target(snapshot)
        try:
            written = carry_out(target, job, files, piece_bytes=settings.piece_bytes, going_on=slow)
        except Unfit as unfit:
            self._unfit.add(unfit.file.path)
            self._left_alone(unfit.file.path, unfit.reason)
            return
        check_same_rows(written.removes, written.adds, self._context.log.where)
        vectors = any(file.vector for file in written.adds)
        actions = [
            *table_actions(self._context, snapshot, target.schema, target.now_ms, vectors=vectors),
            *written.actions(target.now_ms),
        ]
        metrics = {"numAddedFiles": len(written.adds), "numRemovedFiles": len(written.removes)}
        try:
            tidied.snapshot = self._commit(snapshot, actions, str(job.kind), metrics)
        except CommitConflict:
            discard(target, written.new)
            raise
        tidied.jobs[str(job.kind)] += 1
        tidied.written_bytes += written.bytes
        self._checkpoint(tidied.snapshot, due=False)

    def _purge_feature(self, tidied: Tidied) -> None:
        """When the last vector is gone, the table no longer asks its readers to know vectors."""
        snapshot = tidied.snapshot
        actions = downgrade(snapshot, snapshot.schema(self._context.log.where))
        if actions:
            tidied.snapshot = self._commit(snapshot, actions, "downgrade", {})
            tidied.jobs["downgrade"] += 1
            # A reader begins at the newest checkpoint, so nothing before it needs to be understood.
            self._checkpoint(tidied.snapshot, due=True)

    def _commit(self, base: Snapshot, actions: list[Action], kind: str, metrics: dict[str, int]) -> Snapshot:
        info: Action = {
            "timestamp": self._context.now_ms,
            "operation": "SET TBLPROPERTIES" if kind == "downgrade" else "OPTIMIZE",
            "operationParameters": {},
            "operationMetrics": {name: str(count) for name, count in metrics.items()},
            "engineInfo": f"cdcloader/{__version__}",
            INFO: {UPKEEP: kind},
        }
        return self._context.log.commit(base, actions, info)

    def _checkpoint(self, snapshot: Snapshot, *, due: bool) -> None:
        context = self._context
        try:
            if due:
                checkpoint(context.lake, context.table.target, snapshot.version)
            else:
                checkpoint_if_due(context.lake, context.table.target, snapshot)
        except TransientError as error:
            # What was committed stands; a shorter log can wait for the next chance.
            self._failed(error)

    def _is_sweep_due(self, record: Record) -> bool:
        return record.swept_at is None or self._context.now() - record.swept_at >= _SWEEP_EVERY

    def _sweep(self, tidied: Tidied, record: Record, budget: _Budget) -> None:
        """Once a day, because it lists the table's whole folder; where time is up, the next turn goes on from there."""
        context = self._context
        tidied.swept = sweep(
            context.lake,
            context.table.target,
            context.log,
            context.now_ms,
            lambda: not budget.is_left(),
            start_after=record.swept_to or "",
        )


@dataclass(slots=True)
class _Budget:
    """Until when a turn may begin something new."""

    clock: Callable[[], float]
    end: float
    may_go_on: Callable[[], bool]
    interrupted: bool = False

    def is_left(self) -> bool:
        if self.clock() >= self.end:
            return False
        self.interrupted = self.interrupted or not self.may_go_on()
        return not self.interrupted


@dataclass(slots=True)
class _Slowly:
    """Calls something at most once a second, however often it is called."""

    clock: Callable[[], float]
    call: Callable[[], None]
    last: float | None = None

    def __call__(self) -> None:
        now = self.clock()
        if self.last is None or now - self.last >= _LOOK_SECONDS:
            self.last = now
            self.call()
