"""Every metric that cdcloader exports, behind verbs that the loops call.

All names begin with `cdcloader_`; the label `table` is the source (`schema/table`). Times are aware
datetimes, sizes bytes, durations seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as installed_version

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from cdcloader import __version__

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PHASES = ("new", "full_load", "streaming", "paused", "blocked", "retrying")
KEY_SOURCES = ("memory", "disk", "read")
UNTAKEN = ("no_table", "not_loaded")
SCHEMA_CHANGES = ("added", "widened", "to_string", "retyped", "dropped")
OPS = ("insert", "update", "delete", "noop", "superseded", "quarantined")

# Files arrive every minute or so: seconds tell a healthy table, hours a stopped one.
_LATENCY_BUCKETS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600, 86400)
# Few buckets, because every phase of every table has its own set.
_DURATION_BUCKETS = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300)
_NOTHING: Mapping[str, int] = {}


def _now() -> datetime:
    return datetime.now(UTC)


class Metrics:
    """The metrics of one process, kept in `registry`; `now` is read at each scrape."""

    def __init__(self, registry: CollectorRegistry, now: Callable[[], datetime] = _now) -> None:
        self._registry = registry
        self._now = now
        if registry is not REGISTRY:  # The default registry has the process's own metrics already.
            ProcessCollector(registry=registry)
        self._make_table_gauges()
        self._make_batch_metrics()
        self._make_process_metrics()

    def backlog(self, table: str, *, files: int, bytes: int, oldest: datetime | None) -> None:  # noqa: A002
        """What is in raw and not yet in the target; `oldest` is when the oldest such file became visible."""
        self._backlog_files.labels(table).set(files)
        self._backlog_bytes.labels(table).set(bytes)
        # The age is taken at the scrape, so that it goes on rising while a loop hangs.
        self._lag.labels(table).set_function(partial(self._age_seconds, oldest))

    def phase(self, table: str, phase: str) -> None:
        """The table is in `phase` now, and in no other; ValueError when there is no such phase."""
        if phase not in PHASES:
            raise ValueError(f"unknown phase {phase!r}; the phases are {', '.join(PHASES)}")
        for each in PHASES:
            self._phase.labels(table, each).set(each == phase)
        self._start_counters(table)

    def batch_applied(
        self,
        table: str,
        *,
        strategy: str,
        rows: Mapping[str, int],
        seconds_by_phase: Mapping[str, float],
        files_by_kind: Mapping[str, int],
        latencies: Iterable[float] = (),
        rewritten_bytes: int = 0,
    ) -> None:
        """One batch is in the target: rows by op, files by kind, and each file's seconds from visible to applied."""
        self._batches.labels(table, "applied", strategy).inc()
        for op, count in rows.items():
            self._rows.labels(table, op).inc(count)
        for phase, seconds in seconds_by_phase.items():
            self._batch_duration.labels(table, phase).observe(seconds)
        self._count_files(table, files_by_kind, "applied")
        for seconds in latencies:
            self._latency.labels(table).observe(seconds)
        self._rewritten.labels(table).inc(rewritten_bytes)

    def batch_failed(self, table: str, *, strategy: str = "none", files_by_kind: Mapping[str, int] = _NOTHING) -> None:
        """One batch did not reach the target; `strategy` is "none" when it failed before one was chosen."""
        self._batches.labels(table, "failed", strategy).inc()
        self._count_files(table, files_by_kind, "failed")

    def schema_changes(self, table: str, changes: Mapping[str, int]) -> None:
        """Columns of the target have changed: how many, by what happened to them."""
        for kind, count in changes.items():
            self._schema_changes.labels(table, kind).inc(count)

    def commit_conflict(self, table: str) -> None:
        """Another writer took the version that we planned for."""
        self._conflicts.labels(table).inc()

    def upkeep(self, table: str, *, jobs: Mapping[str, int], seconds: float, written_bytes: int) -> None:
        """A turn of upkeep has ended: its commits by kind, its duration, the bytes of the files it wrote."""
        for kind, count in jobs.items():
            self._upkeep_jobs.labels(table, kind).inc(count)
        self._upkeep_seconds.labels(table).inc(seconds)
        self._upkeep_bytes.labels(table).inc(written_bytes)

    def failures(self, table: str, count: int) -> None:
        """Failures of the table in a row; 0 after a success."""
        self._failures.labels(table).set(count)

    def table_state(
        self,
        table: str,
        *,
        files: int,
        small_files: int,
        bytes: int,  # noqa: A002
        deleted_rows_ratio: float,
        version: int,
    ) -> None:
        """The target as of Delta `version`; `deleted_rows_ratio` is the part of stored rows that vectors hide."""
        self._table_files.labels(table).set(files)
        self._small_files.labels(table).set(small_files)
        self._table_bytes.labels(table).set(bytes)
        self._deleted_rows.labels(table).set(deleted_rows_ratio)
        self._version.labels(table).set(version)

    def freshness(self, table: str, time: datetime) -> None:
        """The newest source commit (or file) time that readers of the target see."""
        self._freshness.labels(table).set(time.timestamp())

    def last_commit(self, table: str, time: datetime) -> None:
        """When the table's last Delta commit was made."""
        self._last_commit.labels(table).set(time.timestamp())

    def lease(self, table: str, *, held: bool) -> None:
        """Whether this process holds the table's lease."""
        self._lease.labels(table).set(held)

    def shared(self, *, replicas: int, tables_owned: int) -> None:
        """How many replicas are alive, this one among them, and how many tables are this one's."""
        self._replicas.set(replicas)
        self._tables_owned.set(tables_owned)

    def tick(self, time: datetime) -> None:
        """The loop has begun a pass."""
        self._tick.set(time.timestamp())

    def watch_memory(self, *, granted_bytes: Callable[[], int], waiting_tables: Callable[[], int]) -> None:
        """Ask these at each scrape: the part of the memory budget that is granted, the tables that wait for some."""
        self._granted.set_function(granted_bytes)
        self._waiting.set_function(waiting_tables)

    def key_cache_lookup(self, result: str) -> None:
        """Keys were looked for in a data file; `result` is one of `KEY_SOURCES`, where its key columns came from."""
        self._key_lookups.labels(result).inc()

    def untaken_rows(self, result: str, count: int) -> None:
        """Rows of a file of all tables' changes that no table took; `result` is one of `UNTAKEN`."""
        self._untaken.labels(result).inc(count)

    def forget(self, table: str) -> None:
        """Export nothing more about a table that is no longer configured."""
        for metric in self._by_table:
            metric.remove_by_labels({"table": table})

    def render(self) -> bytes:
        """The Prometheus text exposition, of type `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _make_table_gauges(self) -> None:
        gauge = self._gauge
        self._by_table: list[Gauge | Counter | Histogram] = []
        self._lag = gauge("table_lag_seconds", "Age of the oldest CDC file not yet applied; 0 when there is none.")
        self._freshness = gauge(
            "table_freshness_timestamp_seconds", "Newest source commit (or file) time visible in the target."
        )
        self._last_commit = gauge("table_last_commit_timestamp_seconds", "Time of the last Delta commit.")
        self._backlog_files = gauge("backlog_files", "Files in raw that are not yet applied.")
        self._backlog_bytes = gauge("backlog_bytes", "Bytes in raw that are not yet applied.")
        self._failures = gauge("consecutive_failures", "Failures of the table since its last success.")
        self._phase = gauge("table_phase", "1 for the phase that the table is in, 0 for the others.", "phase")
        self._table_files = gauge("table_files", "Data files of the target.")
        self._small_files = gauge("table_small_files", "Data files of the target that are worth compacting.")
        self._table_bytes = gauge("table_bytes", "Bytes of the target's data files.")
        self._deleted_rows = gauge(
            "table_deleted_rows_ratio", "Part of the stored rows that deletion vectors hide, 0 to 1."
        )
        self._version = gauge("table_version", "Delta version of the target.")
        self._lease = gauge("lease_held", "1 while this process holds the table's lease.")

    def _make_batch_metrics(self) -> None:
        self._latency = self._histogram(
            "apply_latency_seconds",
            "From a file's becoming visible to its rows' being in the target.",
            _LATENCY_BUCKETS,
        )
        self._batch_duration = self._histogram(
            "batch_duration_seconds", "Duration of each phase of a batch.", _DURATION_BUCKETS, "phase"
        )
        self._rows = self._counter("rows_total", "Rows read, by what became of them.", "op")
        self._files = self._counter("files_total", "Files taken, by kind and result.", "kind", "result")
        self._batches = self._counter("batches_total", "Batches, by result and strategy.", "result", "strategy")
        self._conflicts = self._counter("commit_conflicts_total", "Commits lost to another writer.")
        self._schema_changes = self._counter(
            "schema_changes_total", "Changes of the target's columns, by what happened to them.", "kind"
        )
        self._rewritten = self._counter("rewritten_bytes_total", "Bytes of data files that were written anew.")
        self._upkeep_jobs = self._counter("upkeep_jobs_total", "Commits of upkeep, by what they were for.", "kind")
        self._upkeep_bytes = self._counter("upkeep_written_bytes_total", "Bytes of the files that upkeep wrote.")
        self._upkeep_seconds = self._counter("upkeep_seconds_total", "Seconds spent on upkeep.")

    def _make_process_metrics(self) -> None:
        self._tick = Gauge(
            "cdcloader_loop_last_tick_timestamp_seconds", "When the loop last began a pass.", registry=self._registry
        )
        self._granted = Gauge(
            "cdcloader_memory_granted_bytes", "Part of the memory budget that is granted.", registry=self._registry
        )
        self._waiting = Gauge(
            "cdcloader_memory_waiting_tables", "Tables with work that wait for memory.", registry=self._registry
        )
        self._replicas = Gauge(
            "cdcloader_replicas", "Live daemons that share the tables, this one among them.", registry=self._registry
        )
        self._tables_owned = Gauge(
            "cdcloader_tables_owned", "Tables that this process looks after.", registry=self._registry
        )
        self._key_lookups = Counter(
            "cdcloader_key_cache_lookups_total",
            "Data files that keys were looked for in, by where their key columns came from.",
            ("result",),
            registry=self._registry,
        )
        for result in KEY_SOURCES:
            self._key_lookups.labels(result)
        self._untaken = Counter(
            "cdcloader_transaction_rows_untaken_total",
            "Rows of transaction files that no table took, by why.",
            ("result",),
            registry=self._registry,
        )
        for result in UNTAKEN:
            self._untaken.labels(result)
        Info("cdcloader_build", "Versions of what runs.", registry=self._registry).info(
            {"version": __version__, "deltalake": installed_version("deltalake"), "polars": installed_version("polars")}
        )

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        gauge = Gauge(f"cdcloader_{name}", meaning, ("table", *labels), registry=self._registry)
        self._by_table.append(gauge)
        return gauge

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        counter = Counter(f"cdcloader_{name}", meaning, ("table", *labels), registry=self._registry)
        self._by_table.append(counter)
        return counter

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        histogram = Histogram(
            f"cdcloader_{name}", meaning, ("table", *labels), registry=self._registry, buckets=buckets
        )
        self._by_table.append(histogram)
        return histogram

    def _start_counters(self, table: str) -> None:
        # A counter that is first seen at 1 hides its first increase from rate(), so each begins at 0.
        for op in OPS:
            self._rows.labels(table, op)
        for kind in SCHEMA_CHANGES:
            self._schema_changes.labels(table, kind)
        self._conflicts.labels(table)
        self._rewritten.labels(table)

    def _count_files(self, table: str, files_by_kind: Mapping[str, int], result: str) -> None:
        for kind, count in files_by_kind.items():
            self._files.labels(table, kind, result).inc(count)

    def _age_seconds(self, since: datetime | None) -> float:
        # A file's LastModified comes from another clock, which may be ahead of ours.
        return max(0.0, (self._now() - since).total_seconds()) if since else 0.0
