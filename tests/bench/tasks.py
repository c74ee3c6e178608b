"""The tasks that are measured, each in a process of its own: a task imports and opens what it needs, then returns
the work, which returns what it found."""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[], dict[str, Any]]


def run_loader(config: str, table: str | None = None) -> Work:
    """`cdcloader run --once` of a config; what it imports late is imported before the clock starts.

    `table` is the target's folder, for the time of its last commit.
    """
    import typer

    from cdcloader.cli.app import read_config

    # As the command does it: what a config says of memory is heard before Polars is imported.
    read_config(Path(config))

    import cdcloader.turns
    import cdcloader.wiring  # noqa: F401
    from cdcloader.cli import app

    def work() -> dict[str, Any]:
        printed = io.StringIO()
        start = time.time()
        with contextlib.redirect_stdout(printed):
            try:
                code = app(["run", "--once", "--json", "--config", config], standalone_mode=False)
            except typer.Exit as stop:
                code = stop.exit_code
        if code:
            raise RuntimeError(f"exit code {code}: {printed.getvalue()}")
        committed = {"commit_seconds": committed_at(table) - start} if table else {}
        return {"pass_seconds": json.loads(printed.getvalue())["seconds"], **committed}

    return work


def committed_at(table: str) -> float:
    """When the last commit with data was made, as its file's time says; only those of a batch name a `txn`."""
    for file in sorted(Path(table, "_delta_log").glob("*.json"), reverse=True):
        if '"txn"' in file.read_text():
            return file.stat().st_mtime
    raise RuntimeError(f"{table} has no commit of a batch")


def warm(config: str, table: str, source: str, first: str, then: str) -> Work:
    """A loader that runs already: it has applied the file `first`; the time is that of `then`, from file to commit."""
    loader = _assembled(config).loaders[0]

    def apply(file: str) -> Any:
        os.link(file, Path(source, Path(file).name))
        while (step := loader.step()).committed is None:
            if step.outcome != "done":
                raise RuntimeError(f"{file} was not applied: {step}")
        return step.committed

    apply(first)

    def work() -> dict[str, Any]:
        start = time.time()
        done = apply(then)
        phases = {name: round(seconds, 3) for name, seconds in done.seconds.items()}
        return {"commit_seconds": committed_at(table) - start, "phases": phases}

    return work


def steady(config: str, staged: str, source: str) -> Work:
    """One loader for a long series of files, each put there when the one before is done, upkeep and all."""
    from cdcloader.turns import take_turn

    committed: list[float] = []
    assembly = _assembled(config, on_batch=lambda _table, _done: committed.append(time.perf_counter()))
    loader, stopping = assembly.loaders[0], threading.Event()

    def turn(file: Path) -> dict[str, Any]:
        committed.clear()
        os.link(file, Path(source, file.name))
        start = time.perf_counter()
        while (ended := take_turn(loader, stopping)).more:
            pass
        end = time.perf_counter()
        if ended.error or len(committed) != 1:
            raise RuntimeError(f"{file} made {len(committed)} commits: {ended.error}")
        snapshot = loader.context.log.snapshot()
        files = snapshot.files.values()
        return {
            "seconds": committed[0] - start,
            "upkeep_seconds": end - committed[0],
            "files": len(files),
            "bytes": sum(file.size for file in files),
            "vectors": sum(file.vector is not None for file in files),
            "version": snapshot.version,
        }

    def work() -> dict[str, Any]:
        return {"more": {"series": [turn(file) for file in sorted(Path(staged).iterdir())]}}

    return work


def _assembled(config: str, **options: Any) -> Any:
    from cdcloader import logs
    from cdcloader.config import load_config
    from cdcloader.wiring import assemble

    logs.configure(level="INFO")
    return assemble(load_config(config, {}), **options)


def sink(source: str, target: str) -> Work:
    """Bare Polars: scan one raw file and sink it as zstd Parquet."""
    import polars as pl

    def work() -> dict[str, Any]:
        scan = pl.scan_csv(source) if source.endswith(".csv") else pl.scan_parquet(source)
        scan.sink_parquet(target, compression="zstd")
        return {}

    return work


def merge(table: str, changes: str, key: str) -> Work:
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


def totals(table: str | None = None, files: str | None = None) -> Work:
    """What DuckDB says of a Delta table, or of plain Parquet files."""
    from tests.bench import truth

    def work() -> dict[str, Any]:
        return {"more": truth.of_table(Path(table)) if table else truth.of_files(str(files))}

    return work


def compact(table: str) -> Work:
    """delta-rs: what a freshly compacted table looks like."""
    from deltalake import DeltaTable

    def work() -> dict[str, Any]:
        DeltaTable(table).optimize.compact(target_size=128 << 20)
        return {"more": {"files": len(DeltaTable(table).file_uris())}}

    return work


def scan(reader: str, tables: list[str], runs: int) -> Work:
    """Count and sum every column of each table with Polars or DuckDB, in turn; the medians, after one run of each."""
    read = {"polars": _polars_scan, "duckdb": _duckdb_scan}[reader]()

    def timed(table: str) -> tuple[float, Any]:
        start = time.perf_counter()
        answer = read(table)
        return time.perf_counter() - start, answer

    def work() -> dict[str, Any]:
        answers = [read(table) for table in tables]
        if any(answer != answers[0] for answer in answers):
            raise RuntimeError(f"{reader} reads different rows from {tables}: {answers}")
        rounds = [[timed(table)[0] for table in tables] for _ in range(runs)]
        return {"more": {"seconds": [statistics.median(each) for each in zip(*rounds, strict=True)]}}

    return work


def _polars_scan() -> Callable[[str], Any]:
    import polars as pl
    import polars.selectors as cs

    def read(table: str) -> Any:
        sums = (pl.len(), cs.numeric().sum(), cs.string().str.len_bytes().sum(), cs.temporal().max())
        return pl.scan_delta(table).select(sums).collect().row(0)

    return read


def _duckdb_scan() -> Callable[[str], Any]:
    import duckdb

    from tests.bench import truth

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    truth.load_delta(connection)

    def read(table: str) -> Any:
        described = connection.execute(f"DESCRIBE SELECT * FROM delta_scan('{table}')").fetchall()
        sums = ", ".join(_sum_of(name, kind) for name, kind, *_ in described)
        return connection.execute(f"SELECT count(*), {sums} FROM delta_scan('{table}')").fetchall()

    return read


def _sum_of(name: str, kind: str) -> str:
    if kind == "VARCHAR":
        return f"sum(strlen({name}))"
    return f"epoch_us(max({name}))" if kind.startswith("TIMESTAMP") else f"sum({name})"


TASKS: dict[str, Callable[..., Work]] = {
    "compact": compact,
    "loader": run_loader,
    "merge": merge,
    "scan": scan,
    "sink": sink,
    "steady": steady,
    "totals": totals,
    "warm": warm,
}
