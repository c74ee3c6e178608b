"""One measured piece of work in a process of its own: seconds with and without the imports, and peak memory.

The parent calls `measure(task, **arguments)`; the child is `python -m tests.bench.measure task arguments`, does the
task of that name in tasks.py and prints what it measured as its last line.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MIB = 1 << 20
_WATCH_SECONDS = 0.005
# These log lines tell the seconds by phase of a unit of work.
_WORK_LINES = ("full load applied", "batch applied")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `seconds` is the work alone, `process_seconds` everything from start to exit of the process.

    `commit_seconds` is the time from the start of the work to the last commit with data, as far as the task tells it.
    `cpu_seconds` is the processor time of the work in all threads, which a busy machine stretches least.
    `imported_mb` is the resident memory after the imports, `peak_mb` the highest of the process, `anonymous_mb` the
    highest without the files that it has mapped (only when it was watched); `phases` are the loader's own seconds by
    phase, `pass_seconds` those of its pass; `more` is what only this task tells.
    """

    seconds: float
    process_seconds: float
    cpu_seconds: float = 0.0
    imported_mb: float = 0.0
    peak_mb: float = 0.0
    anonymous_mb: float | None = None
    pass_seconds: float | None = None
    commit_seconds: float | None = None
    phases: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def measure(task: str, *, watch: bool = False, **arguments: Any) -> Sample:
    """Run a task in a fresh process. RuntimeError with its last words when it fails."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tests.bench.measure", task, json.dumps(arguments)]
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as logged:
        child = subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=logged, text=True)
        anonymous_mb = _watched(child) if watch else None
        child.wait()
        seconds = time.perf_counter() - start
        for file in (printed, logged):
            file.seek(0)
        out, log = printed.read(), logged.read()
    if child.returncode:
        raise RuntimeError(f"{task} {arguments} failed:\n{out[-2000:]}\n{log[-4000:]}")
    measured = json.loads(out.strip().splitlines()[-1])
    return Sample(**{"process_seconds": seconds, "anonymous_mb": anonymous_mb, "phases": _phases(log), **measured})


def _watched(child: subprocess.Popen[str]) -> float:
    """The highest anonymous memory of a process, looked at every few milliseconds until it ends."""
    highest = 0.0
    while child.poll() is None:
        try:
            highest = max(highest, _memory_mb("RssAnon", child.pid))
        except (OSError, LookupError):
            break  # It is ending: its memory is gone already.
        time.sleep(_WATCH_SECONDS)
    return highest


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


def _memory_mb(name: str, process: int | str = "self") -> float:
    """VmRSS, VmHWM or RssAnon of a process; getrusage would tell the parent's peak, which an exec inherits."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) * 1024 / _MIB, 1)
    raise LookupError(f"/proc/{process}/status has no {name}")


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    from tests.bench.tasks import TASKS

    work = TASKS[sys.argv[1]](**json.loads(sys.argv[2]))
    imported_mb = _memory_mb("VmRSS")
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    found = work()
    times = {"seconds": time.perf_counter() - start, "cpu_seconds": _cpu_seconds() - cpu_start}
    print(json.dumps({**times, **found, "imported_mb": imported_mb, "peak_mb": _memory_mb("VmHWM")}))


if __name__ == "__main__":
    main()
