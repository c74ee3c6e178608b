"""Many batches, and batches larger than memory: a steady stream, a backlog, and what both take of memory."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import tables
from tests.bench.bench import Bench, Wrong, median, phases_text, prove, run_once, table_of, thousands
from tests.bench.data import TABLE, copy_tree, write_config
from tests.bench.measure import Sample, measure
from tests.bench.results import Result, Scale

_ENDS = 50
_SCANS = 5
# 256 is the least budget that the config takes without a warning.
_TIGHT_BUDGETS_MB = (512, 256)
_BACKLOG_REACH = {"parquet": 300_000, "csv": 120_000}


def steady(bench: Bench) -> list[Result]:
    """500 batches of 2,000 changes through one loader, with upkeep between them; then the table that they leave."""
    scale = bench.scale
    table = tables.base(bench.cache, scale.table_rows, scale.table_files)
    staged = tables.series(bench.cache, scale.table_rows, scale.steady_batches, scale.steady_changes)
    files = sorted(staged.glob("*.parquet"))
    wanted = tables.expected(staged, table, files)
    run = bench.copy(table)
    source = tables.source_of(run / "raw")
    config = write_config(run, raw=run / "raw", cache=True)
    sample = measure("steady", watch=True, config=config, staged=str(staged), source=str(source))
    prove("cdcloader after the stream", wanted, table=table_of(run))
    series: list[dict[str, Any]] = sample.more["series"]
    return [_pace(sample, series), *_left_behind(run, len(files), series[-1]["files"])]


def _pace(sample: Sample, series: list[dict[str, Any]]) -> Result:
    ends = min(_ENDS, len(series) // 2)
    first, last = (statistics.median(batch["seconds"] for batch in part) for part in (series[:ends], series[-ends:]))
    upkeep = [batch["upkeep_seconds"] for batch in series]
    slowest = max(batch["seconds"] for batch in series)
    return Result(
        "steady_pace",
        last / first,
        target=1.5,
        ours=last,
        reference=first,
        reference_name=f"the first {ends} batches",
        note=(
            f"median of the last {ends}; slowest {slowest:.2f} s; beside it upkeep {sum(upkeep):.0f} s in all "
            f"(batches {sum(batch['seconds'] for batch in series):.0f} s), "
            f"{max(upkeep):.1f} s at most after one batch; peak {sample.peak_mb:.0f} MB"
        ),
        facts={"series": series},
    )


def _left_behind(run: Path, batches: int, files: int) -> list[Result]:
    """How the table reads after the stream, against the same rows freshly compacted by delta-rs."""
    fresh = run / "compacted"
    copy_tree(table_of(run), fresh)
    compacted = measure("compact", table=str(fresh)).more["files"]
    both = [str(table_of(run)), str(fresh)]
    lines = []
    for reader, label in (("polars", "Polars"), ("duckdb", "DuckDB")):
        ours, theirs = measure("scan", reader=reader, tables=both, runs=_SCANS).more["seconds"]
        against = {"ours": ours, "reference": theirs, "reference_name": "freshly compacted copy"}
        note = f"count and sums of all columns by {label} after {batches} batches"
        lines.append(Result(f"steady_scan_{reader}", ours / theirs, target=1.3, **against, note=note))
    counts = {"ours": files, "reference": compacted, "parts_unit": "files", "reference_name": "freshly compacted copy"}
    return [*lines, Result("steady_files", files / compacted, target=2, **counts)]


def backlog(bench: Bench) -> list[Result]:
    """10M changes in 1,000 files that have piled up, through `run --once`, from start to the last commit."""
    scale = bench.scale
    table = tables.base(bench.cache, scale.table_rows, scale.table_files)
    folder = tables.backlog(bench.cache, scale.table_rows, scale.backlog_rows, scale.backlog_files)
    wanted = tables.expected(folder, table, (folder / "parquet" / TABLE).iterdir())
    samples: dict[str, list[Sample]] = {kind: [] for kind in _BACKLOG_REACH}
    commits = {}
    for _ in range(scale.runs):
        for kind, taken in samples.items():
            run = bench.copy(table)
            config = write_config(run, raw=folder / kind)
            taken.append(measure("loader", config=config, table=str(table_of(run))))
            prove(f"cdcloader after a backlog of {kind}", wanted, table=table_of(run))
            commits[kind] = _commits_of_batches(table_of(run))
    return [_backlog_line(kind, scale.backlog_rows, taken, commits[kind]) for kind, taken in samples.items()]


def _backlog_line(kind: str, rows: int, samples: list[Sample], commits: int) -> Result:
    seconds = median(samples, "commit_seconds")
    middle = sorted(samples, key=lambda sample: sample.commit_seconds or 0.0)[len(samples) // 2]
    return Result(
        f"backlog_{kind}",
        rows / seconds,
        "rows/s",
        target=_BACKLOG_REACH[kind],
        at_least=True,
        ours=seconds,
        note=(
            f"{commits} commits; {phases_text(middle)}; cpu {median(samples, 'cpu_seconds'):.0f} s; "
            f"peak {median(samples, 'peak_mb'):.0f} MB; whole process {median(samples, 'process_seconds'):.0f} s"
        ),
        samples={"ours": [asdict(sample) for sample in samples]},
    )


def memory(bench: Bench) -> list[Result]:
    """The highest memory of a batch on 10M and on 100M rows, of one file of 20M changes, and of backlogs in little."""
    scale = bench.scale
    sizes = {scale.table_rows: scale.table_files, scale.large_rows: scale.large_files}
    whole = {rows: _one_batch(bench, rows, files, upkeep=True) for rows, files in sizes.items()}
    bounds = [_within(f"memory_{thousands(rows)}", sample, scale.huge_budget_mb) for rows, sample in whole.items()]
    # Upkeep merges files, which takes more memory than a batch and would hide it: it has no time here.
    alone: dict[int, list[Sample]] = {rows: [] for rows in sizes}
    for _ in range(scale.runs):
        for rows, files in sizes.items():
            alone[rows].append(_one_batch(bench, rows, files, upkeep=False))
    growth = _growth(alone[scale.table_rows], alone[scale.large_rows], scale)
    return [*bounds, growth, _huge(bench), *(_tight(bench, budget_mb) for budget_mb in _TIGHT_BUDGETS_MB)]


def _one_batch(bench: Bench, rows: int, files: int, *, upkeep: bool) -> Sample:
    table = tables.base(bench.cache, rows, files)
    folder = tables.scattered(bench.cache, rows, bench.scale.large_changes)
    budget = bench.scale.huge_budget_mb
    return run_once(bench, table, folder, watch=True, cache=True, memory_budget_mb=budget, upkeep=upkeep)[0]


def _growth(small: list[Sample], large: list[Sample], scale: Scale) -> Result:
    # Keys on disk are mapped, not held, so that what is left is what the work itself takes.
    ours, reference = median(large, "anonymous_mb"), median(small, "anonymous_mb")
    return Result(
        "memory_growth",
        ours / reference,
        target=1.1,
        ours=ours,
        reference=reference,
        parts_unit="MB",
        reference_name=f"ours at {thousands(scale.table_rows)} rows",
        note=f"{thousands(scale.large_rows)} rows; the batch alone, without upkeep and without mapped files, which the "
        f"key cache's are; all of it {median(large, 'peak_mb'):.0f} / {median(small, 'peak_mb'):.0f} MB",
        samples={name: [asdict(sample) for sample in each] for name, each in (("large", large), ("small", small))},
    )


def _within(name: str, sample: Sample, budget_mb: int, note: str = "") -> Result:
    limit = budget_mb * 1.25
    parts = {"reference": sample.imported_mb, "parts_unit": "MB", "reference_name": "imports alone"}
    detail = f"budget {budget_mb} MB; without mapped files {sample.anonymous_mb or 0:.0f} MB"
    note = "; ".join(filter(None, (detail, note, phases_text(sample))))
    return Result(name, sample.peak_mb, "MB", target=limit, ours=sample.peak_mb, **parts, note=note)


def _huge(bench: Bench) -> Result:
    """One file of 20M changes, many times what the budget holds, must become one commit."""
    scale = bench.scale
    table = tables.base(bench.cache, scale.table_rows, scale.table_files)
    folder = tables.huge(bench.cache, scale.table_rows, scale.huge_rows)
    wanted = tables.expected(folder, table, (folder / "raw" / TABLE).iterdir())
    run = bench.copy(table)
    config = write_config(run, raw=folder / "raw", memory_budget_mb=scale.huge_budget_mb, cache=True)
    sample = measure("loader", watch=True, config=config, table=str(table_of(run)))
    prove("cdcloader after one huge file", wanted, table=table_of(run))
    if (commits := _commits_of_batches(table_of(run))) != 1:
        raise Wrong(f"one file became {commits} commits")
    rate = scale.huge_rows / (sample.commit_seconds or sample.seconds)
    return _within(f"memory_file_{thousands(scale.huge_rows)}", sample, scale.huge_budget_mb, f"{rate:,.0f} rows/s")


def _tight(bench: Bench, budget_mb: int) -> Result:
    """A backlog of Parquet files, many times what so small a budget holds."""
    scale = bench.scale
    table = tables.base(bench.cache, scale.table_rows, scale.table_files)
    folder = tables.backlog(bench.cache, scale.table_rows, scale.backlog_rows, scale.backlog_files)
    wanted = tables.expected(folder, table, (folder / "parquet" / TABLE).iterdir())
    run = bench.copy(table)
    config = write_config(run, raw=folder / "parquet", memory_budget_mb=budget_mb)
    sample = measure("loader", watch=True, config=config, table=str(table_of(run)))
    prove(f"cdcloader after a backlog in {budget_mb} MB", wanted, table=table_of(run))
    rate = scale.backlog_rows / (sample.commit_seconds or sample.seconds)
    return _within(f"memory_backlog_{budget_mb}", sample, budget_mb, f"{rate:,.0f} rows/s")


def _commits_of_batches(table: Path) -> int:
    """The commits with a `txn`, less the one that made the table."""
    logs = [path.read_text().splitlines() for path in (table / "_delta_log").glob("*.json")]
    return sum(any("txn" in json.loads(line) for line in lines) for lines in logs) - 1
