"""The metrics that operators' dashboards and alerts are built on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from cdcloader.metrics import OPS, PHASES, Metrics

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry, clock: Clock) -> Metrics:
    return Metrics(registry, clock)


def apply_batch(metrics: Metrics, table: str = "sales/orders") -> None:
    metrics.batch_applied(
        table,
        strategy="rewrite",
        rows={"insert": 3, "update": 2, "noop": 1},
        seconds_by_phase={"read": 0.2, "commit": 0.3},
        files_by_kind={"cdc": 2},
        latencies=[4, 70],
        rewritten_bytes=1000,
    )


def test_lag_is_the_age_at_the_scrape(metrics, registry, clock):
    """The lag of a table rises between scrapes even when nothing reports it anew."""
    metrics.backlog("sales/orders", files=2, bytes=300, oldest=NOON - timedelta(seconds=30))
    assert registry.get_sample_value("cdcloader_table_lag_seconds", {"table": "sales/orders"}) == 30
    clock.time += timedelta(seconds=45)
    assert registry.get_sample_value("cdcloader_table_lag_seconds", {"table": "sales/orders"}) == 75
    assert registry.get_sample_value("cdcloader_backlog_files", {"table": "sales/orders"}) == 2
    assert registry.get_sample_value("cdcloader_backlog_bytes", {"table": "sales/orders"}) == 300


def test_lag_is_zero_without_a_backlog(metrics, registry, clock):
    """An idle table has no lag, however long it has been idle."""
    metrics.backlog("sales/orders", files=1, bytes=1, oldest=NOON)
    metrics.backlog("sales/orders", files=0, bytes=0, oldest=None)
    clock.time += timedelta(days=3)
    assert registry.get_sample_value("cdcloader_table_lag_seconds", {"table": "sales/orders"}) == 0


def test_lag_is_never_negative(metrics, registry):
    """A file whose store's clock is ahead of ours has lag 0."""
    metrics.backlog("sales/orders", files=1, bytes=1, oldest=NOON + timedelta(seconds=5))
    assert registry.get_sample_value("cdcloader_table_lag_seconds", {"table": "sales/orders"}) == 0


def test_lag_is_unknown_before_the_first_listing(metrics):
    """A table that was never listed reports no lag, rather than a lag of 0."""
    metrics.phase("sales/orders", "new")
    assert b"cdcloader_table_lag_seconds{" not in metrics.render()


def test_a_table_is_in_one_phase(metrics, registry):
    """Exactly one phase of a table is 1, the others are 0."""
    metrics.phase("sales/orders", "full_load")
    metrics.phase("sales/orders", "streaming")
    phases = {
        phase: registry.get_sample_value("cdcloader_table_phase", {"table": "sales/orders", "phase": phase})
        for phase in PHASES
    }
    assert phases == {**dict.fromkeys(PHASES, 0), "streaming": 1}


def test_an_unknown_phase_is_refused(metrics):
    """A phase that no dashboard knows cannot be reported."""
    with pytest.raises(ValueError, match="streaming"):
        metrics.phase("sales/orders", "dreaming")


def test_row_counters_begin_at_zero(metrics, registry):
    """Every op is exported from the start, so that rate() sees its first increase."""
    metrics.phase("sales/orders", "new")
    for op in OPS:
        assert registry.get_sample_value("cdcloader_rows_total", {"table": "sales/orders", "op": op}) == 0


def test_batches_add_up(metrics, registry):
    """Two batches count their rows, files, bytes, latencies and durations twice."""
    apply_batch(metrics)
    apply_batch(metrics)
    table = {"table": "sales/orders"}
    assert registry.get_sample_value("cdcloader_rows_total", {**table, "op": "insert"}) == 6
    assert registry.get_sample_value("cdcloader_files_total", {**table, "kind": "cdc", "result": "applied"}) == 4
    assert registry.get_sample_value("cdcloader_rewritten_bytes_total", table) == 2000
    assert registry.get_sample_value("cdcloader_apply_latency_seconds_count", table) == 4
    assert registry.get_sample_value("cdcloader_apply_latency_seconds_sum", table) == 148
    assert registry.get_sample_value("cdcloader_batch_duration_seconds_count", {**table, "phase": "commit"}) == 2
    assert (
        registry.get_sample_value("cdcloader_batches_total", {**table, "result": "applied", "strategy": "rewrite"}) == 2
    )


def test_a_failed_batch_is_counted_apart(metrics, registry):
    """A batch that failed before a strategy was chosen counts with strategy none, and its files as failed."""
    metrics.batch_failed("sales/orders", files_by_kind={"cdc": 3})
    table = {"table": "sales/orders"}
    assert registry.get_sample_value("cdcloader_batches_total", {**table, "result": "failed", "strategy": "none"}) == 1
    assert registry.get_sample_value("cdcloader_files_total", {**table, "kind": "cdc", "result": "failed"}) == 3


def test_times_are_unix_timestamps(metrics, registry):
    """Times are exported in seconds since 1970, so that PromQL can subtract them from time()."""
    metrics.freshness("sales/orders", NOON)
    metrics.last_commit("sales/orders", NOON)
    metrics.tick(NOON)
    table = {"table": "sales/orders"}
    assert registry.get_sample_value("cdcloader_table_freshness_timestamp_seconds", table) == NOON.timestamp()
    assert registry.get_sample_value("cdcloader_table_last_commit_timestamp_seconds", table) == NOON.timestamp()
    assert registry.get_sample_value("cdcloader_loop_last_tick_timestamp_seconds") == NOON.timestamp()


def test_a_forgotten_table_leaves_nothing(metrics):
    """No series of a table is exported once it is no longer configured, and other tables keep theirs."""
    for table in ("sales/orders", "sales/products"):
        metrics.phase(table, "streaming")
        metrics.backlog(table, files=1, bytes=1, oldest=NOON)
        apply_batch(metrics, table)
        metrics.lease(table, held=True)
    metrics.forget("sales/orders")
    text = metrics.render().decode()
    assert "sales/orders" not in text
    assert 'cdcloader_lease_held{table="sales/products"} 1.0' in text


def test_build_info_names_the_engines(metrics):
    """build_info says which versions of cdcloader, deltalake and polars run."""
    line = next(line for line in metrics.render().decode().splitlines() if line.startswith("cdcloader_build_info{"))
    assert all(f'{name}="' in line for name in ("version", "deltalake", "polars"))


def test_process_metrics_are_exported(metrics):
    """Memory and file descriptors of the process stand beside our own metrics."""
    assert b"process_resident_memory_bytes" in metrics.render()


def test_the_default_registry_is_accepted():
    """The registry that has process metrics already is not given them twice."""
    made = Metrics(REGISTRY)
    try:
        assert made.render().count(b"# TYPE process_resident_memory_bytes ") == 1
    finally:
        for collector in [
            c for c, names in REGISTRY._collector_to_names.items() if any("cdcloader" in n for n in names)
        ]:
            REGISTRY.unregister(collector)
