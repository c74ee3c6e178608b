"""The cases of the loads: full loads of one file and of many, recent changes, and an idle pass."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from dataclasses import asdict

from tests.bench import data
from tests.bench.bench import Bench, median, phases_text, table_of
from tests.bench.measure import Sample, measure
from tests.bench.results import Result

_MIB = 1 << 20


def full_load(name: str, suffix: str, bench: Bench) -> list[Result]:
    """One LOAD file through `run --once`, against the same file through Polars alone."""
    rows = bench.scale.load_rows
    folder = bench.cache.made(f"single-{rows}", lambda path: data.make_single_files(path, rows))
    source = folder / f"orders{suffix}"

    def ours() -> Sample:
        run = bench.cache.empty_runs()
        return measure("loader", config=data.write_config(run, raw=data.raw_of(run, source)))

    def bare() -> Sample:
        return measure("sink", source=str(source), target=str(bench.cache.empty_runs() / "bare.parquet"))

    return [_against(name, ours, bare, bench.scale.runs, "Polars scan -> sink", 1.6)]


def recent_changes(bench: Bench) -> list[Result]:
    """One CDC file of recent keys into a table made by our full load, against delta-rs merge on an equal copy."""
    scale = bench.scale
    folder = bench.cache.made(
        f"recent-{scale.table_rows}",
        lambda path: data.make_recent_changes(path, scale.table_rows, scale.recent_changes, scale.table_files),
    )

    def ours() -> Sample:
        run = bench.copy(folder)
        shutil.copy(folder / "state.db", run / "state.db")
        return measure("loader", config=data.write_config(run, raw=folder / "raw"), table=str(table_of(run)))

    def merge() -> Sample:
        table = table_of(bench.copy(folder))
        return measure("merge", table=str(table), changes=str(folder / "changes.parquet"), key=data.KEY)

    return [_against("recent_changes", ours, merge, scale.runs, "DeltaTable.merge", 1.0)]


def full_load_memory(bench: Bench) -> list[Result]:
    """LOAD sets of many times the budget: in key order, and with keys that are scattered over all files."""
    cases = (("ordered", bench.scale.ordered_budgets), ("shuffled", bench.scale.shuffled_budgets))
    return [_full_load_memory(bench, order, budgets) for order, budgets in cases]


def _full_load_memory(bench: Bench, order: str, budgets: int) -> Result:
    cache, budget_mb = bench.cache, bench.scale.budget_mb
    name = f"memory-{order}-{budgets}x{budget_mb}"
    total = budgets * budget_mb * _MIB
    raw = cache.made(name, lambda path: data.make_load_set(path, total, max(2, budgets), shuffled=order == "shuffled"))
    sample = measure("loader", config=data.write_config(cache.empty_runs(), raw=raw, memory_budget_mb=budget_mb))
    # Two and a half gigabytes are made in less time than they are worth keeping.
    cache.forget(name)
    return Result(
        f"full_load_memory_{order}",
        sample.peak_mb,
        "MB",
        target=budget_mb * 1.25,
        ours=sample.peak_mb,
        reference=sample.imported_mb,
        parts_unit="MB",
        reference_name="imports alone",
        note=f"{total / 1e9:.1f} GB of CSV in {sample.seconds:.0f} s; {phases_text(sample)}",
        samples={"ours": [asdict(sample)]},
    )


def idle_pass(bench: Bench) -> list[Result]:
    """A pass over many tables of which none has anything new."""
    tables = bench.scale.tables
    folder = bench.cache.made(f"idle-{tables}", lambda path: data.make_many_tables(path, tables))
    samples = [measure("loader", config=str(folder / "cdcloader.yaml")) for _ in range(bench.scale.runs)]
    seconds = median(samples, "pass_seconds")
    return [
        Result(
            "idle_pass",
            seconds,
            "s",
            target=1,
            ours=seconds,
            reference=median(samples, "process_seconds"),
            reference_name="the whole command",
            note=f"{tables} tables; call after imports {median(samples, 'seconds'):.2f} s",
            samples={"ours": [asdict(sample) for sample in samples]},
        )
    ]


def _against(
    name: str, ours: Callable[[], Sample], other: Callable[[], Sample], runs: int, other_name: str, target: float
) -> Result:
    """Interleaved runs, so that what else the machine does falls on both; the ratio is that of the medians."""
    pairs = [(ours(), other()) for _ in range(runs)]
    mine, theirs = ([pair[at] for pair in pairs] for at in (0, 1))
    our_seconds, other_seconds = statistics.median(map(_own_seconds, mine)), median(theirs, "seconds")
    our_best, other_best = min(map(_own_seconds, mine)), min(sample.seconds for sample in theirs)
    cpu, whole, peak = (
        [median(samples, figure) for samples in (mine, theirs)]
        for figure in ("cpu_seconds", "process_seconds", "peak_mb")
    )
    return Result(
        name,
        our_seconds / other_seconds,
        target=target,
        ours=our_seconds,
        reference=other_seconds,
        reference_name=other_name,
        is_peer=True,
        processes=(whole[0], whole[1]),
        note=(
            f"{phases_text(sorted(mine, key=_own_seconds)[len(mine) // 2])}; "
            f"quickest {our_best:.2f} / {other_best:.2f} s; cpu {cpu[0]:.2f} / {cpu[1]:.2f} s; "
            f"process {whole[0]:.2f} / {whole[1]:.2f} s; peak {peak[0]:.0f} / {peak[1]:.0f} MB"
        ),
        samples={"ours": [asdict(s) for s in mine], "reference": [asdict(s) for s in theirs]},
    )


def _own_seconds(sample: Sample) -> float:
    """The time up to the commit where the task tells it, so that upkeep after it does not count; else all of it."""
    return sample.seconds if sample.commit_seconds is None else sample.commit_seconds
