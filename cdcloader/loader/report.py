"""What a table's steps tell the world: metrics, and one wide log line per unit of work; never row values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from cdcloader.changes.evolution import Change
from cdcloader.errors import CdcloaderError
from cdcloader.lake.snapshot import Snapshot
from cdcloader.loader.incremental import Committed
from cdcloader.loader.upkeep import Tidied
from cdcloader.metrics import Metrics
from cdcloader.source.actions import FullLoad, Plan
from cdcloader.source.layouts import PLAIN, Naming, zone_offset
from cdcloader.source.names import RawFile
from cdcloader.state.record import Phase, Record

_SMALL_SHARE = 8
_NAMED_FILES_MAX = 5
# When so many were told, no more are: somebody else's files come all the time.
_STRANGE_FILES_MAX = 10_000


@dataclass(slots=True)
class Reporter:
    """Reports one table. `on_batch` is called after each commit; `file_bytes` is the size that files aim at."""

    table: str
    metrics: Metrics
    now: Callable[[], datetime]
    file_bytes: int
    on_batch: Callable[[str, Committed], None] | None = None
    record: Record | None = None
    plan: Plan | None = None
    note: str | None = None
    naming: Naming = PLAIN
    _newest: datetime | None = None
    _strange: frozenset[str] = field(default_factory=frozenset)
    _zone_told: bool = False
    _skipped: frozenset[str] = field(default_factory=frozenset)

    def phase(self, phase: Phase) -> None:
        """The table is in this phase now."""
        self.metrics.phase(self.table, str(phase))

    def forget(self) -> None:
        """Another replica has the table, and tells of it; what we know of it grows old."""
        self.record, self.plan, self._newest = None, None, None
        self.metrics.forget(self.table)

    def lease(self, *, held: bool) -> None:
        """Whether we hold the table's lease."""
        self.metrics.lease(self.table, held=held)

    def backlog(self, plan: Plan) -> None:
        """What a look at the source has found."""
        self.plan = plan
        self.metrics.backlog(
            self.table, files=plan.backlog_files, bytes=plan.backlog_bytes, oldest=plan.oldest_unapplied
        )

    def idle(self, record: Record) -> None:
        """Nothing to do."""
        self.record = record
        if self._newest is None and record.recorded_position and self.naming.by_time:
            # After a start the record alone tells how fresh the target is.
            self._newest = self.naming.time_of_position(record.recorded_position)
            self.metrics.freshness(self.table, self._newest)
        self.phase(record.phase)
        self.metrics.failures(self.table, record.consecutive_failures)

    def passed(self, record: Record) -> None:
        """The watermark went past files without a row of the table, which is as fresh as they are."""
        self.record = record
        if record.recorded_position and self.naming.by_time:
            self._newest = self.naming.time_of_position(record.recorded_position)
            self.metrics.freshness(self.table, self._newest)

    def strange_files(self, keys: Sequence[str]) -> None:
        """Name, once, the objects beside the table's files that DMS does not write."""
        new = frozenset(keys) - self._strange
        if len(self._strange) >= _STRANGE_FILES_MAX:
            return
        self._strange |= new
        if new:
            structlog.get_logger().warning(
                "files that are not DMS files are left out",
                table=self.table,
                count=len(new),
                files=sorted(new)[:_NAMED_FILES_MAX],
            )

    def names_in_zone(self, files: Sequence[RawFile]) -> None:
        """Say, once, that names seem to be in another time zone than the config has it."""
        offset = None if self._zone_told else zone_offset(files, self.naming)
        if offset is not None:
            self._zone_told = True
            hours, minutes = divmod(abs(offset) // timedelta(minutes=1), 60)
            structlog.get_logger().warning(
                "file names seem to be in another time zone",
                table=self.table,
                reason=f"the newest files' names are {hours}:{minutes:02d} hours "
                f"{'after' if offset > timedelta() else 'before'} their LastModified",
                hint="set timezone to the endpoint's DatePartitionTimezone, best before the table is loaded",
            )

    def skipped_files(self, skipped: Mapping[str, str]) -> None:
        """Name, once, the files that an operator had us skip."""
        new, self._skipped = skipped.keys() - self._skipped, frozenset(skipped)
        if new:
            structlog.get_logger().warning(
                "files are skipped, as an operator ordered",
                table=self.table,
                count=len(new),
                skipped_files=sorted(new)[:_NAMED_FILES_MAX],
            )

    def source(self, *, emptied: bool, truncate: bool, blank: bool, later_version: str | None) -> None:
        """Whether every raw file that the table was made of is gone, and the version that is not complete yet.

        Said once, and noted in the status.
        """
        before = self.note
        rows = "the table will be emptied too" if truncate else "the table keeps its rows"
        rows += "; `raw` holds nothing at all: is it mounted?" if blank else ""
        self.note = (
            f"every raw file that the table was made of is gone; {rows} (on_source_truncate)" if emptied else None
        )
        if later_version is not None:
            self.note = (
                f"version {later_version} is not complete: its LOAD files are not there, or may not be all; until then "
                "the table follows the version that it is made of"
            )
            if self.note != before:
                structlog.get_logger().info("a later version is waited for", table=self.table, version=later_version)
        elif self.note and self.note != before:
            structlog.get_logger().warning(
                "every raw file is gone: a TRUNCATE of the source, or a lifecycle rule", table=self.table, reason=rows
            )

    def full_load(self, plan: FullLoad) -> None:
        """A full load begins."""
        skipped = [file.name for file in plan.leftovers][:_NAMED_FILES_MAX]
        structlog.get_logger().info(
            "full load begins",
            table=self.table,
            files=len(plan.files),
            bytes=sum(file.size for file in plan.files),
            reason=plan.reason,
            **({"skipped_files": skipped} if skipped else {}),
        )

    def rewound(self, record: Record, reason: str) -> None:
        """A new generation begins."""
        structlog.get_logger().warning(
            "rewound: files after the watermark are applied again",
            table=self.table,
            reason=reason,
            generation=record.generation,
            watermark=record.last_incremental_file,
        )

    def forwarded(self, record: Record) -> None:
        """The record was behind the log: an earlier run ended between commit and record."""
        structlog.get_logger().info(
            "state record brought forward from the Delta log",
            table=self.table,
            generation=record.generation,
            watermark=record.last_incremental_file,
            version=record.recorded_version,
        )

    def committed(self, record: Record, done: Committed) -> None:
        """A batch or a full load is in the target."""
        self.record = record
        now = self.now()
        account, kinds = done.account, Counter(str(file.kind) for file in done.files)
        self.metrics.batch_applied(
            self.table,
            strategy=done.applied.strategy,
            rows=account.rows,
            seconds_by_phase=done.seconds,
            files_by_kind=kinds,
            latencies=[max(0.0, (now - file.last_modified).total_seconds()) for file in done.files],
            rewritten_bytes=done.applied.rewritten_bytes,
        )
        self.phase(record.phase)
        self.metrics.failures(self.table, 0)
        self.metrics.last_commit(self.table, now)
        if done.newest_time is not None:
            self._newest = done.newest_time
            self.metrics.freshness(self.table, done.newest_time)
        self._target(done.snapshot)
        self.schema_changed(done.changes)
        if done.files:
            self._batch_line(record, done, kinds)
        else:
            self._truncated_line(done)
        if self.on_batch:
            self.on_batch(self.table, done)

    def schema_changed(self, changes: Sequence[Change]) -> None:
        """Columns of the target are others now: a line and a count for each."""
        self.metrics.schema_changes(self.table, Counter(str(change.kind) for change in changes))
        for change in changes:
            structlog.get_logger().warning(
                "schema changed",
                table=self.table,
                column=change.column,
                kind=str(change.kind),
                from_type=change.old,
                to_type=change.new,
                file=change.file,
            )

    def conflict(self, error: CdcloaderError) -> None:
        """Somebody else was faster; the work is planned again."""
        self.metrics.commit_conflict(self.table)
        structlog.get_logger().info("conflict: planning again", table=self.table, reason=str(error))

    def failed(self, record: Record, error: CdcloaderError) -> None:
        """The table is stopped or will be tried again."""
        self.record = record
        self.phase(record.phase)
        self.metrics.failures(self.table, record.consecutive_failures)
        self.metrics.batch_failed(self.table)
        log = structlog.get_logger()
        write = log.error if record.phase is Phase.BLOCKED else log.warning
        write(
            "table is blocked" if record.phase is Phase.BLOCKED else "table will be tried again",
            table=self.table,
            error=error.what,
            where=error.where,
            hint=error.hint,
            attempt=record.consecutive_failures,
        )

    def not_recorded(self, error: CdcloaderError, trouble: CdcloaderError) -> None:
        """A failure could not be written down in the state record; when that itself is the failure, it was told."""
        if str(trouble) != str(error):
            structlog.get_logger().warning("the failure could not be recorded", table=self.table, error=str(trouble))

    def upkeep_failed(self, error: CdcloaderError) -> None:
        """The table is right, but not as tidy as it should be."""
        structlog.get_logger().warning("upkeep failed", table=self.table, error=error.what, where=error.where)

    def left_alone(self, path: str, reason: str) -> None:
        """Upkeep cannot work on a file; said once in the life of a process."""
        structlog.get_logger().warning("upkeep leaves a file alone", table=self.table, file=path, reason=reason)

    def tidied(self, done: Tidied) -> None:
        """A turn of upkeep has ended; it is told where it changed something."""
        self.metrics.upkeep(self.table, jobs=done.jobs, seconds=done.seconds, written_bytes=done.written_bytes)
        if done.jobs:
            self._target(done.snapshot)
        swept = done.swept
        if done.jobs or (swept and (swept.files or swept.vectors or swept.log_files)):
            structlog.get_logger().info(
                "upkeep",
                table=self.table,
                reason=", ".join(f"{count} {kind}" for kind, count in sorted(done.jobs.items())) or "sweep",
                files_before=done.files_before,
                files=len(done.snapshot.files),
                bytes_written=done.written_bytes,
                files_swept=swept.files + swept.vectors + swept.log_files if swept else 0,
                bytes_swept=swept.bytes if swept else 0,
                seconds=round(done.seconds, 3),
                version=done.snapshot.version,
                state="done" if done.done else "interrupted" if done.interrupted else "time is up",
            )

    def _target(self, snapshot: Snapshot) -> None:
        files = list(snapshot.files.values())
        dead = sum(file.vector.cardinality for file in files if file.vector)
        rows = sum(int(file.statistics().get("numRecords", 0)) for file in files) if dead else 0
        self.metrics.table_state(
            self.table,
            files=len(files),
            small_files=sum(file.size < self.file_bytes // _SMALL_SHARE for file in files),
            bytes=sum(file.size for file in files),
            deleted_rows_ratio=dead / rows if rows else 0.0,
            version=snapshot.version,
        )

    def _truncated_line(self, done: Committed) -> None:
        structlog.get_logger().warning(
            "source truncated: every row was removed",
            table=self.table,
            rows_delete=done.account.deleted,
            version=done.snapshot.version,
            generation=done.account.generation,
        )

    def _batch_line(self, record: Record, done: Committed, kinds: Counter[str]) -> None:
        account = done.account
        structlog.get_logger().info(
            "batch applied" if kinds.get("cdc") else "full load applied",
            table=self.table,
            files=len(done.files),
            first_file=done.files[0].name,
            last_file=done.files[-1].name,
            bytes=sum(file.size for file in done.files),
            rows_in=account.rows_in,
            **{f"rows_{kind}": count for kind, count in account.rows.items()},
            **{f"seconds_{phase}": round(seconds, 3) for phase, seconds in done.seconds.items()},
            strategy=done.applied.strategy,
            **({"reason": done.applied.reason} if done.applied.reason else {}),
            rewritten_bytes=done.applied.rewritten_bytes,
            version=done.snapshot.version,
            generation=account.generation,
            watermark=record.last_incremental_file,
        )
