"""A soak's figures: JSON, a table for people, and the section of docs/guarantees.md that is written from the JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.soak.world import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"
BEGIN, END = "<!-- soak -->", "<!-- /soak -->"
_COUNTED = (
    "SIGSTOPs",
    "SIGSTOPs while it held a table",
    "SIGTERMs",
    "takeovers",
    "races lost and planned again",
    "records brought forward from the log",
    "late files",
    "replaced files",
    "files of one millisecond",
    "files of repeated changes",
    "reloads",
    "reloads with fewer LOAD files",
    "times that a table was blocked",
    "LOAD files",
    "CDC files",
    "changes",
    "commits",
    "commits of upkeep",
    "rows applied",
    "tables verified by `verify`",
    "tables that `verify` cannot verify",
)


def result(outcomes: Sequence[Outcome], *, seed: int, begun: float, quick: bool) -> dict[str, Any]:
    """All of it, as JSON holds it."""
    return {
        "seed": seed,
        "quick": quick,
        "begun": datetime.fromtimestamp(begun, UTC).isoformat(timespec="seconds"),
        "seconds": round(datetime.now(UTC).timestamp() - begun),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "worlds": [_world(outcome) for outcome in outcomes],
    }


def _world(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.kind.name,
        "place": outcome.place,
        "loaders": outcome.kind.loaders,
        "lease_seconds": outcome.kind.lease_seconds,
        "kills": dict(outcome.kills),
        "faults": dict(outcome.faults),
        "bad_inputs": dict(outcome.bad_inputs),
        "tally": dict(outcome.tally),
        "longest_takeover_seconds": outcome.longest_takeover_seconds,
        "differences": outcome.differences,
        "surprises": outcome.surprises,
    }


def rows(run: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(what, its figure in each world and in all) of a run."""
    worlds = run["worlds"]
    found = [_line("kills survived", [Counter(world["kills"]).total() for world in worlds])]
    found += _lines("kill", "kills", worlds)
    found.append(_line("faults between loader and servers", [Counter(world["faults"]).total() for world in worlds]))
    found += _lines("fault", "faults", worlds)
    found += [_line(name, [world["tally"].get(name, 0) for world in worlds]) for name in _COUNTED]
    found.append(_line("bad inputs", [Counter(world["bad_inputs"]).total() for world in worlds]))
    found += _lines("bad input", "bad_inputs", worlds)
    longest = [world["longest_takeover_seconds"] for world in worlds]
    known = [seconds for seconds in longest if seconds is not None]
    shown = ["" if seconds is None else f"{seconds:.1f} s" for seconds in (*longest, max(known, default=None))]
    found.append(("longest takeover", shown))
    found.append(_line("differences found", [len(world["differences"]) for world in worlds]))
    return found


def table(run: dict[str, Any]) -> Table:
    """A run for a terminal."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(["", *(world["name"] for world in run["worlds"]), "all"]):
        shown.add_column(heading, justify="right" if number else "left")
    for name, cells in rows(run):
        shown.add_row(name, *cells)
    return shown


def section(run: dict[str, Any]) -> str:
    """A run in Markdown."""
    worlds = run["worlds"]
    headings = ["", *(f"{world['place']}, {_loaders(world)}" for world in worlds), "all"]
    lines = [f"| {' | '.join(headings)} |", f"| --- |{' ---: |' * (len(headings) - 1)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows(run)]
    place = (
        f"`make soak` of {run['begun'][:10]}, seed {run['seed']}: {run['seconds'] / 60:.0f} minutes on {run['cores']} "
        f"cores, Python {run['python']}; {len(worlds)} worlds side by side, leases of "
        f"{max(world['lease_seconds'] for world in worlds):g} s."
    )
    return "\n".join([place, "", *lines])


def with_section(page: str, run: dict[str, Any]) -> str:
    """The page with a run's figures between its two marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{section(run)}\n\n{END}{after}"


def write_docs(file: Path) -> int:
    """Write the figures of a full run without differences into the page; returns the exit code."""
    run = json.loads(file.read_text())
    if run["quick"] or any(world["differences"] or world["surprises"] for world in run["worlds"]):
        print(f"{file} is of a quick run, or of one that found differences", file=sys.stderr)
        return 2
    PAGE.write_text(with_section(PAGE.read_text(), run))
    print(f"wrote {PAGE}")
    return 0


def _loaders(world: dict[str, Any]) -> str:
    return "one loader" if world["loaders"] == 1 else f"{world['loaders']} loaders"


def _lines(word: str, key: str, worlds: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    names = sorted({name for world in worlds for name in world[key]})
    return [_line(f"{word}: {name}", [world[key].get(name, 0) for world in worlds]) for name in names]


def _line(name: str, counts: list[int]) -> tuple[str, list[str]]:
    return name, [f"{count:,}" if count else "" for count in counts] + [f"{sum(counts):,}"]
