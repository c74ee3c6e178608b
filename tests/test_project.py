"""What the project promises about itself: its locks, its metrics, its targets, its log keys, its version."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import cdcloader
from cdcloader import logs
from cdcloader.metrics import PHASES, Metrics
from cdcloader.state.record import Phase

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")
PACKAGE = sorted((ROOT / "cdcloader").rglob("*.py"))
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)

# Dashboards and alerts name these; the list only ever grows.
METRICS = {
    "apply_latency_seconds": {"table"},
    "backlog_bytes": {"table"},
    "backlog_files": {"table"},
    "batch_duration_seconds": {"table", "phase"},
    "batches_total": {"table", "result", "strategy"},
    "build_info": {"version", "deltalake", "polars"},
    "commit_conflicts_total": {"table"},
    "consecutive_failures": {"table"},
    "files_total": {"table", "kind", "result"},
    "key_cache_lookups_total": {"result"},
    "lease_held": {"table"},
    "loop_last_tick_timestamp_seconds": set(),
    "memory_granted_bytes": set(),
    "memory_waiting_tables": set(),
    "replicas": set(),
    "rewritten_bytes_total": {"table"},
    "rows_total": {"table", "op"},
    "table_bytes": {"table"},
    "table_deleted_rows_ratio": {"table"},
    "table_files": {"table"},
    "table_freshness_timestamp_seconds": {"table"},
    "table_lag_seconds": {"table"},
    "table_last_commit_timestamp_seconds": {"table"},
    "schema_changes_total": {"table", "kind"},
    "transaction_rows_untaken_total": {"result"},
    "table_phase": {"table", "phase"},
    "table_small_files": {"table"},
    "table_version": {"table"},
    "tables_owned": set(),
}
TARGETS = ("demo", "test", "test-services", "check", "fmt", "bench", "venv", "clean")


def exercised() -> Metrics:
    metrics = Metrics(CollectorRegistry())
    table = "sales/orders"
    metrics.phase(table, "streaming")
    metrics.backlog(table, files=1, bytes=1, oldest=NOON)
    metrics.batch_applied(
        table,
        strategy="append",
        rows={"insert": 1},
        seconds_by_phase={"read": 0.1},
        files_by_kind={"cdc": 1},
        latencies=[1],
        rewritten_bytes=1,
    )
    metrics.batch_failed(table)
    metrics.commit_conflict(table)
    metrics.failures(table, 1)
    metrics.table_state(table, files=1, small_files=0, bytes=1, deleted_rows_ratio=0, version=0)
    metrics.freshness(table, NOON)
    metrics.last_commit(table, NOON)
    metrics.lease(table, held=True)
    metrics.tick(NOON)
    return metrics


def exported() -> dict[str, set[str]]:
    """Metric name (as PromQL knows it, histograms without suffix) -> its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exercised().render().decode()):
        for sample in family.samples:
            name = re.sub("_(bucket|count|sum)$", "", sample.name) if family.type == "histogram" else sample.name
            if name.startswith("cdcloader_") and not name.endswith("_created"):
                found.setdefault(name.removeprefix("cdcloader_"), set()).update(set(sample.labels) - {"le"})
    return found


def test_every_promised_metric_is_exported():
    """Each metric that operators were promised is there, under its name and with its labels, and no other."""
    assert exported() == METRICS


def test_every_phase_of_the_record_can_be_reported():
    """Whatever phase a state record holds, the metrics know it, and they know no other."""
    assert set(PHASES) == {str(phase) for phase in Phase}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_versions_and_names_no_index(lock):
    """A lock is exact versions only: no index, no folder, no option; the machine decides where packages come from."""
    lines = [line.split("#")[0].strip() for line in (ROOT / lock).read_text().splitlines()]
    pins = [line for line in lines if line]
    assert len(pins) > 30
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9._-]+==[^\s;/]+( ; [^/]+)?", line)] == []
    assert "://" not in (ROOT / lock).read_text()


def test_the_locks_agree():
    """What runs in production is what was tested: the test tools change no version of the run-time lock."""
    runtime, dev = (pins_of(lock) for lock in LOCKS)
    assert {name: dev.get(name) for name in runtime} == runtime


def test_the_lock_satisfies_the_project():
    """Every dependency that the project declares is pinned, to a version that it allows."""
    pins = pins_of("requirements.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("call", [["make"], ["make", "help"]])
def test_make_help_lists_the_targets(call):
    """`make` alone changes nothing and shows what can be made."""
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^  make ([\w-]+) +\S", done.stdout, re.MULTILINE)
    assert set(TARGETS) <= set(listed)


def test_the_version_is_said_once():
    """The package's version is the project's, and it is a version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cdcloader.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", cdcloader.__version__)


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_bound_log_key_is_listed(path):
    """Each key that a log line of ours binds is in the list of logs.py, so none comes out as refused."""
    bound = {key for call in log_calls(ast.parse(path.read_text())) for key in keywords_of(call)}
    unlisted = {key for key in bound if key not in logs.BOUND_KEYS and not key.startswith(logs.BOUND_PREFIXES)}
    assert unlisted == set()


def pins_of(lock: str) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / lock).read_text().splitlines())
    return dict(line.split(" ; ")[0].split("==") for line in lines if line)


def log_calls(tree: ast.Module) -> list[ast.Call]:
    methods = {"bind", "debug", "info", "warning", "error", "exception", "critical"}
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in methods
        and re.search(r"(^|\.|_)log(ger)?(\(\))?$", ast.unparse(node.func.value))
    ]


def keywords_of(call: ast.Call) -> set[str]:
    return {keyword.arg for keyword in call.keywords if keyword.arg} - {"exc_info", "stack_info", "event"}
