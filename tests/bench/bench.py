"""What every case is given, and what several of them do: fresh copies, our own runs, the proof of a result."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.data import TABLE, Cache, copy_tree, write_config
from tests.bench.environments import Environments
from tests.bench.measure import Sample, measure
from tests.bench.results import Scale
from tests.bench.tables import adopt
from tests.bench.truth import Totals


class Wrong(Exception):
    """Somebody's rows are not what they must be; the benchmark has failed, whatever its times are."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where data is kept, how much there is to do, and where the peers are."""

    cache: Cache
    scale: Scale
    environments: Environments

    def copy(self, table: Path) -> Path:
        """The folder of the runs, emptied, with a copy of a table's lake in it."""
        run = self.cache.empty_runs()
        copy_tree(table / "lake", run / "lake")
        return run


def table_of(run: Path) -> Path:
    """The folder of the target."""
    return run / "lake" / TABLE


def run_once(bench: Bench, table: Path, changes: Path, *, watch: bool = False, **config: Any) -> tuple[Sample, Path]:
    """Our own `run --once` in a new process, of changes that tables.py made, on a copy of the table; and where."""
    run = bench.copy(table)
    path = write_config(run, raw=changes / "raw", **config)
    adopt(path)
    return measure("loader", watch=watch, config=path, table=str(table_of(run))), run


def run_warm(bench: Bench, table: Path, changes: Path) -> tuple[Sample, Path]:
    """A loader that runs already and knows the table's keys, given the same changes; and where."""
    run = bench.copy(table)
    source = run / "raw" / TABLE
    source.mkdir(parents=True)
    first, then = sorted((changes / "staged").iterdir())
    places = {"table": str(table_of(run)), "source": str(source)}
    config = write_config(run, raw=run / "raw", cache=True)
    return measure("warm", config=config, first=str(first), then=str(then), **places), run


def prove(who: str, expected: Totals, *, table: Path | None = None, files: str | None = None) -> None:
    """Wrong when a Delta table, or the Parquet files of a pattern, do not hold the expected rows."""
    place = {"table": str(table)} if table else {"files": files}
    found = measure("totals", **place).more
    if found != expected:
        raise Wrong(f"{who} left other rows than expected: {found} instead of {expected}")


def median(samples: Sequence[Sample], name: str) -> float:
    """The median of one of their figures; those that lack it count as 0."""
    return statistics.median(getattr(sample, name) or 0.0 for sample in samples)


def phases_text(sample: Sample) -> str:
    """The loader's own seconds by phase."""
    return ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in sample.phases.items())


def thousands(rows: int) -> str:
    """A number of rows, short: 1k, 10M."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if rows >= size:
            return f"{rows / size:g}{unit}"
    return str(rows)
