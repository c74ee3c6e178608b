"""One measured piece of work in a process of its own: seconds with and without the imports, and peak memory.

The parent calls `measure(task, **arguments)`; the child is `python -m tests.bench.measure task arguments` and
prints what it measured as its last line.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MIB = 1 << 20
# These log lines tell the seconds by phase of a unit of work.
_WORK_LINES = ("full load applied", "batch applied")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `seconds` is the work alone, `process_seconds` everything from start to exit of the process.

    `cpu_seconds` is the processor time of the work in all threads, which a busy machine stretches least.
    `imported_mb` is the resident memory after the imports, `peak_mb` the highest of the process; `phases` are
    the loader's own seconds by phase, `pass_seconds` those of its pass.
    """

    seconds: float
    cpu_seconds: float
    process_seconds: float
    imported_mb: float
    peak_mb: float
    pass_seconds: float | None = None
    phases: dict[str, float] = field(default_factory=dict)


def measure(task: str, **arguments: Any) -> Sample:
    """Run a task in a fresh process. RuntimeError with its last words when it fails."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tests.bench.measure", task, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{task} {arguments} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    return Sample(process_seconds=seconds, phases=_phases(done.stderr), **measured)


def _phases(logged: str) -> dict[str, float]:
    """The seconds by phase of all work lines of a loader's log, summed."""
    phases: dict[str, float] = {}
    for text in logged.splitlines():
        line = _json_or_none(text)
        if line and line.get("event") in _WORK_LINES:
            for name, value in line.items():
                if name.startswith("seconds_"):
                    phase = name.removeprefix("seconds_")
                    phases[phase] = round(phases.get(phase, 0.0) + value, 3)
    return phases


def _json_or_none(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def run_loader(config: str) -> Callable[[], dict[str, Any]]:
    """`cdcloader run --once` of a config; what it imports late is imported before the clock starts."""
    import typer

    import cdcloader.daemon
    import cdcloader.wiring  # noqa: F401
    from cdcloader.cli import app

    def work() -> dict[str, Any]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                code = app(["run", "--once", "--json", "--config", config], standalone_mode=False)
            except typer.Exit as stop:
                code = stop.exit_code
        if code:
            raise RuntimeError(f"exit code {code}: {printed.getvalue()}")
        return {"pass_seconds": json.loads(printed.getvalue())["seconds"]}

    return work


def sink(source: str, target: str) -> Callable[[], dict[str, Any]]:
    """Bare Polars: scan one raw file and sink it as zstd Parquet."""
    import polars as pl

    def work() -> dict[str, Any]:
        scan = pl.scan_csv(source) if source.endswith(".csv") else pl.scan_parquet(source)
        scan.sink_parquet(target, compression="zstd")
        return {}

    return work


def merge(table: str, changes: str, key: str) -> Callable[[], dict[str, Any]]:
    """delta-rs: merge a file of net changes (with an Op column) into a table, rows in memory, not streamed."""
    import polars as pl
    from deltalake import DeltaTable

    def work() -> dict[str, Any]:
        rows = pl.read_parquet(changes)
        columns = {name: f"s.{name}" for name in rows.columns if name != "Op"}
        (
            DeltaTable(table)
            .merge(rows.to_arrow(), f"t.{key} = s.{key}", source_alias="s", target_alias="t", streamed_exec=False)
            .when_matched_delete("s.Op = 'D'")
            .when_matched_update(columns)
            .when_not_matched_insert(columns, "s.Op != 'D'")
            .execute()
        )
        return {}

    return work


TASKS: dict[str, Callable[..., Callable[[], dict[str, Any]]]] = {"loader": run_loader, "sink": sink, "merge": merge}


def _memory_mb(name: str) -> float:
    """VmRSS or VmHWM of this process; getrusage would tell the parent's peak, which an exec inherits."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) * 1024 / _MIB, 1)
    raise RuntimeError(f"/proc/self/status has no {name}")


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    work = TASKS[sys.argv[1]](**json.loads(sys.argv[2]))
    imported_mb = _memory_mb("VmRSS")
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    found = work()
    times = {"seconds": time.perf_counter() - start, "cpu_seconds": _cpu_seconds() - cpu_start}
    print(json.dumps({**found, **times, "imported_mb": imported_mb, "peak_mb": _memory_mb("VmHWM")}))


if __name__ == "__main__":
    main()
