"""What the benchmarks print and keep: how much there is to do, and one line per thing measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is to do; `make bench` runs the full scale, `--quick` a small one that only shows that it runs."""

    load_rows: int = 2_000_000
    budget_mb: int = 256
    ordered_budgets: int = 10
    shuffled_budgets: int = 10
    table_rows: int = 10_000_000
    table_files: int = 20
    recent_changes: int = 10_000
    tables: int = 200
    scattered: tuple[int, ...] = (1_000, 10_000, 100_000)
    large_rows: int = 100_000_000
    large_files: int = 64
    large_changes: int = 10_000
    steady_batches: int = 500
    steady_changes: int = 2_000
    backlog_rows: int = 10_000_000
    backlog_files: int = 1_000
    huge_rows: int = 20_000_000
    huge_budget_mb: int = 1024
    runs: int = 3


QUICK = Scale(
    load_rows=200_000,
    ordered_budgets=1,
    shuffled_budgets=1,
    table_rows=500_000,
    table_files=4,
    recent_changes=1_000,
    tables=20,
    scattered=(100, 1_000),
    large_rows=1_000_000,
    large_files=8,
    large_changes=1_000,
    steady_batches=10,
    steady_changes=500,
    backlog_rows=100_000,
    backlog_files=20,
    huge_rows=200_000,
    runs=1,
)


@dataclass(frozen=True, slots=True)
class Result:
    """One line: what was measured, in `unit`, against what it should reach; no `target` means that none was set.

    `ours` and `reference` are the two figures behind a ratio, in seconds unless `parts_unit` says otherwise.
    `is_peer` tells that the reference is somebody else's way to do the same, not another figure of ours; `processes`
    are then the seconds of the two whole processes, ours with its upkeep. `skipped` says why a line has no figure,
    `group` is the case that made it, `facts` is what the plots need.
    """

    name: str
    measured: float | None = None
    unit: str = "x"
    target: float | None = None
    at_least: bool = False
    ours: float | None = None
    reference: float | None = None
    parts_unit: str = "s"
    reference_name: str = ""
    note: str = ""
    skipped: str = ""
    is_peer: bool = False
    processes: tuple[float, float] | None = None
    group: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether it is what it should be; None when there is nothing to reach, or nothing was measured."""
        if self.measured is None or self.target is None:
            return None
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    def as_json(self) -> dict[str, Any]:
        """What is kept of it."""
        return {**asdict(self), "reached": self.reached}


def from_json(kept: dict[str, Any]) -> Result:
    """A result as it was kept."""
    fields = {name: value for name, value in kept.items() if name != "reached"}
    processes = fields.get("processes")
    return Result(**{**fields, "processes": tuple(processes) if processes else None})


def figure(value: float | None, unit: str) -> str:
    """A figure for people: `0.42 s`, `13.1 x`, `312,000 rows/s`; nothing for None."""
    if value is None:
        return ""
    if unit == "s":
        return f"{value * 1000:.0f} ms" if value < 0.0995 else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"
    if unit == "x":
        return f"{value:.2f} x" if value < 10 else f"{value:.1f} x" if value < 100 else f"{value:.0f} x"
    return f"{value:,.0f} {unit}"


def target_text(result: Result) -> str:
    """`at most 1.5 x`, `at least 300,000 rows/s`; nothing where no target is set."""
    if result.target is None:
        return ""
    plain = f"{result.target:g} x" if result.unit == "x" else f"{result.target:,.0f} {result.unit}"
    return f"{'at least' if result.at_least else 'at most'} {plain}"


def reached_text(result: Result) -> str:
    """`yes`, `no`, or nothing."""
    return {True: "yes", False: "no", None: ""}[result.reached]
