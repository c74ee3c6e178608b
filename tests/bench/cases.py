"""The cases: what is run, what it is held against, and what it should reach."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench import data
from tests.bench.data import Cache
from tests.bench.measure import Sample, measure

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is to do; `make bench` runs the full scale, `--quick` a small one that only shows that it runs."""

    load_rows: int = 2_000_000
    budget_mb: int = 256
    ordered_budgets: int = 10
    shuffled_budgets: int = 10
    table_rows: int = 10_000_000
    table_files: int = 20
    changes: int = 10_000
    tables: int = 200
    runs: int = 3


QUICK = Scale(
    load_rows=200_000,
    ordered_budgets=1,
    shuffled_budgets=1,
    table_rows=500_000,
    table_files=4,
    changes=1_000,
    tables=20,
    runs=1,
)


@dataclass(frozen=True, slots=True)
class Result:
    """One line: what was measured against what, in `unit`. `reached` is `measured` <= `target`."""

    name: str
    ours: float
    reference: float
    reference_name: str
    unit: str
    measured: float
    target: float
    target_name: str
    note: str
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return self.measured <= self.target


def full_load(name: str, suffix: str, cache: Cache, scale: Scale) -> list[Result]:
    """One LOAD file through `run --once`, against the same file through Polars alone."""
    folder = cache.made(f"single-{scale.load_rows}", lambda path: data.make_single_files(path, scale.load_rows))
    source = folder / f"orders{suffix}"

    def ours() -> Sample:
        run = cache.empty_runs()
        return measure("loader", config=data.write_config(run, raw=data.raw_of(run, source)))

    def bare() -> Sample:
        return measure("sink", source=str(source), target=str(cache.empty_runs() / "bare.parquet"))

    return [_against(name, ours, bare, scale.runs, "Polars scan -> sink", 1.6)]


def recent_changes(cache: Cache, scale: Scale) -> list[Result]:
    """One CDC file of recent keys into a table made by our full load, against delta-rs merge on an equal copy."""
    folder = cache.made(
        f"recent-{scale.table_rows}",
        lambda path: data.make_recent_changes(path, scale.table_rows, scale.changes, scale.table_files),
    )

    def prepared() -> Any:
        run = cache.empty_runs()
        data.copy_tree(folder / "lake", run / "lake")
        shutil.copy(folder / "state.db", run / "state.db")
        return run

    def ours() -> Sample:
        return measure("loader", config=data.write_config(prepared(), raw=folder / "raw"))

    def merge() -> Sample:
        table = prepared() / "lake" / data.TABLE
        return measure("merge", table=str(table), changes=str(folder / "changes.parquet"), key=data.KEY)

    return [_against("recent_changes", ours, merge, scale.runs, "DeltaTable.merge", 1.0)]


def memory(cache: Cache, scale: Scale) -> list[Result]:
    """LOAD sets of many times the budget: in key order, and with keys that are scattered over all files."""
    cases = (("ordered", scale.ordered_budgets), ("shuffled", scale.shuffled_budgets))
    return [_memory(cache, scale, order, budgets) for order, budgets in cases]


def _memory(cache: Cache, scale: Scale, order: str, budgets: int) -> Result:
    name = f"memory-{order}-{budgets}x{scale.budget_mb}"
    total = budgets * scale.budget_mb * _MIB
    raw = cache.made(name, lambda path: data.make_load_set(path, total, max(2, budgets), shuffled=order == "shuffled"))
    run = cache.empty_runs()
    sample = measure("loader", config=data.write_config(run, raw=raw, memory_budget_mb=scale.budget_mb))
    # Two and a half gigabytes are made in less time than they are worth keeping.
    cache.forget(name)
    return Result(
        name=f"memory_{order}",
        ours=sample.peak_mb,
        reference=sample.imported_mb,
        reference_name="imports alone",
        unit="MB",
        measured=sample.peak_mb,
        target=scale.budget_mb * 1.25,
        target_name=f"{scale.budget_mb * 1.25:.0f} MB",
        note=f"{total / 1e9:.1f} GB of CSV in {sample.seconds:.0f} s; {_phases_text(sample)}",
        samples={"ours": [asdict(sample)]},
    )


def idle_pass(cache: Cache, scale: Scale) -> list[Result]:
    """A pass over many tables of which none has anything new."""
    folder = cache.made(f"idle-{scale.tables}", lambda path: data.make_many_tables(path, scale.tables))
    samples = [measure("loader", config=str(folder / "cdcloader.yaml")) for _ in range(scale.runs)]
    seconds = statistics.median(sample.pass_seconds or 0.0 for sample in samples)
    call = statistics.median(sample.seconds for sample in samples)
    whole = statistics.median(sample.process_seconds for sample in samples)
    return [
        Result(
            name="idle_pass",
            ours=seconds,
            reference=whole,
            reference_name="the whole command",
            unit="s",
            measured=seconds,
            target=1.0,
            target_name="1 s",
            note=f"{scale.tables} tables; call after imports {call:.2f} s",
            samples={"ours": [asdict(sample) for sample in samples]},
        )
    ]


CASES: dict[str, Callable[[Cache, Scale], list[Result]]] = {
    "full_load_csv": lambda cache, scale: full_load("full_load_csv", ".csv", cache, scale),
    "full_load_parquet": lambda cache, scale: full_load("full_load_parquet", ".parquet", cache, scale),
    "recent_changes": recent_changes,
    "idle_pass": idle_pass,
    "memory": memory,
}


def _against(
    name: str, ours: Callable[[], Sample], other: Callable[[], Sample], runs: int, other_name: str, target: float
) -> Result:
    """Interleaved runs, so that what else the machine does falls on both; the ratio is that of the medians."""
    pairs = [(ours(), other()) for _ in range(runs)]
    mine, theirs = ([pair[at] for pair in pairs] for at in (0, 1))

    def medians(name: str) -> list[float]:
        return [statistics.median(getattr(sample, name) for sample in samples) for samples in (mine, theirs)]

    our_seconds, other_seconds = medians("seconds")
    (our_cpu, other_cpu), (our_whole, other_whole) = medians("cpu_seconds"), medians("process_seconds")
    peak, other_peak = medians("peak_mb")
    our_best, other_best = (min(sample.seconds for sample in samples) for samples in (mine, theirs))
    middle = sorted(mine, key=lambda sample: sample.seconds)[len(mine) // 2]
    return Result(
        name=name,
        ours=our_seconds,
        reference=other_seconds,
        reference_name=other_name,
        unit="s",
        measured=our_seconds / other_seconds,
        target=target,
        target_name=f"{target:g} x",
        note=(
            f"{_phases_text(middle)}; quickest {our_best:.2f} / {other_best:.2f} s; "
            f"cpu {our_cpu:.2f} / {other_cpu:.2f} s; process {our_whole:.2f} / {other_whole:.2f} s; "
            f"peak {peak:.0f} / {other_peak:.0f} MB"
        ),
        samples={"ours": [asdict(s) for s in mine], "reference": [asdict(s) for s in theirs]},
    )


def _phases_text(sample: Sample) -> str:
    return ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in sample.phases.items())
