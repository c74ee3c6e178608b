"""docs/performance.md: its figures and plots are written from what a run has kept, never by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.environments import Environments, Unavailable
from tests.bench.measure import ROOT
from tests.bench.results import Result, figure, from_json, reached_text, target_text

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures: python -m tests.bench --write-docs FILE -->", "<!-- end of figures -->"
_PLOTS = {
    "scattered.png": "Seconds for scattered changes, by peer and number of changes",
    "table-size.png": "Seconds for the same changes, by rows of the table",
    "steady.png": "Seconds of each batch, live files and bytes over a steady stream",
}
_HEADINGS = {
    "scattered": "Scattered changes, against the peers",
    "hundred_million": "The size of the table",
    "bytes_written": "Bytes written",
    "steady": "A steady stream",
    "backlog": "A backlog",
    "memory": "Memory of a batch",
    "recent_changes": "Recent changes",
    "full_load_csv": "Full load of one CSV file",
    "full_load_parquet": "Full load of one Parquet file",
    "full_load_memory": "Memory of a full load",
    "idle_pass": "Nothing to do",
}


def draw(kept: Path, folder: Path, environments: Environments) -> list[str]:
    """Draw the plots of a run into a folder; their names, none where matplotlib cannot be had (which is said)."""
    try:
        python = environments.python("plot")
    except Unavailable as reason:
        print(f"no plots: {reason}", file=sys.stderr)
        return []
    script = Path(__file__).parent / "draw.py"
    done = subprocess.run([python, script, kept, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the plots failed:\n{done.stderr[-4000:]}")
    print(f"plots in {folder}")
    return done.stdout.split()


def write(kept: Path, environments: Environments) -> int:
    """Write figures and plots into the page; returns the exit code."""
    run = json.loads(kept.read_text())
    if run["quick"]:
        print(f"{kept} is of a quick run, which measures nothing", file=sys.stderr)
        return 2
    plots = draw(kept, PAGE.parent / "images", environments)
    PAGE.write_text(with_figures(PAGE.read_text(), run, plots))
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def with_figures(page: str, run: dict[str, Any], plots: list[str]) -> str:
    """The page with a run's figures between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{figures(run, plots)}\n\n{END}{after}"


def figures(run: dict[str, Any], plots: list[str]) -> str:
    """A run in Markdown: where and when, what is slower than a peer, plots, and a table for each case."""
    cases = {name: run["cases"][name] for name in _HEADINGS if name in run["cases"]}
    lines = {name: [from_json(line) for line in case["results"]] for name, case in cases.items()}
    shown = [f"![{_PLOTS[name]}](images/{name})" for name in _PLOTS if name in plots]
    tables = [f"### {_HEADINGS[name]}\n\n{_table(results)}" for name, results in lines.items()]
    slower = _slower([result for results in lines.values() for result in results])
    return "\n\n".join([_place(list(cases.values())), f"### What is slower than a peer\n\n{slower}", *shown, *tables])


def _place(cases: list[dict[str, Any]]) -> str:
    newest = max(cases, key=lambda case: case["begun"])
    machine, runs = newest["machine"], sorted({case["runs"] for case in cases})
    days = sorted({case["begun"][:10] for case in cases})
    minutes = sum(case["seconds"] for case in cases) / 60
    return (
        f"Measured {' to '.join(dict.fromkeys((days[0], days[-1])))} on {machine['cores']} cores "
        f"({machine['processor'] or 'unknown'}), {machine['memory_gb']:.0f} GB of memory, local disk, "
        f"Python {machine['python']}; {machine['versions']}. "
        f"Medians of {' or '.join(map(str, runs))} runs; {minutes:.0f} minutes in all, data included."
    )


def _slower(results: list[Result]) -> str:
    """Every line in which a peer, or the bare tool that stands for one, took less time than we did."""
    found = []
    for line in (result for result in results if result.is_peer):
        if (line.ours or 0) > (line.reference or 0):
            found.append(_slower_line(line, "", line.ours, line.reference))
        if line.processes and line.processes[0] > line.processes[1]:
            found.append(_slower_line(line, ", as whole processes, upkeep included", *line.processes))
    return "\n".join(found) or "Nothing that is measured here."


def _slower_line(line: Result, how: str, ours: float | None, reference: float | None) -> str:
    return f"- {_name(line)}{how}: {figure(ours, 's')} against {figure(reference, 's')} of {line.reference_name}."


def _table(results: list[Result]) -> str:
    headings = ("what", "measured", "reach", "reached", "ours", "reference", "against")
    head = f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}"
    return "\n".join([head, *map(_row, results)]) + "\n\n" + _notes(results)


def _row(result: Result) -> str:
    parts = [figure(result.ours, result.parts_unit), figure(result.reference, result.parts_unit)]
    measured = f"skipped: {result.skipped}" if result.skipped else f"**{figure(result.measured, result.unit)}**"
    if result.unit in ("s", "MB"):
        parts[0] = ""
    cells = (_name(result), measured, target_text(result), reached_text(result), *parts, result.reference_name)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _notes(results: list[Result]) -> str:
    return "\n".join(f"- `{result.name}`: {_spaced(result.note)}." for result in results if result.note)


def _name(result: Result) -> str:
    return f"`{result.name}`"


def _spaced(note: str) -> str:
    """A note without what Markdown would read as a mark."""
    return re.sub(r"([*_<>])", r"\\\1", note)
