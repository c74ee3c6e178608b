"""The demo: writes what DMS would for a sample database, loads it with the real loader, and proves the result."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cdcloader.demo.dms_writer import DmsSettings, cdc_name, load_name, render_cdc, render_load, write_file
from cdcloader.demo.progress import BatchReport, Progress
from cdcloader.demo.proof import Difference, compare
from cdcloader.demo.sampledb import SCHEMA, TABLES, SampleDatabase, SampleTable
from cdcloader.errors import ConfigError

T = TypeVar("T")
RunLoader = Callable[[Path, Callable[[BatchReport], None]], int]

DEFAULT_FOLDER = Path("cdcloader-demo")
ROUNDS, TRANSACTIONS_PER_ROUND = 6, 500
# One format per table, as DMS tasks have: the Parquet defaults of the AWS walkthrough, and the two CSV forms.
SETTINGS = {
    "product": DmsSettings(
        format="parquet",
        include_op_for_full_load=True,
        timestamp_column="dms_commit_time",
        parquet_timestamp_in_millisecond=True,
    ),
    "store": DmsSettings(header=True),
    "productorder": DmsSettings(header=True, gzip=True),
}
_LOAD_FILES = {"product": 1, "store": 1, "productorder": 4}
_CDC_FILES_PER_ROUND = 2
_MARKER = ".made-by-cdcloader-demo"


def run_demo(folder: Path, *, console: Console, run_loader: RunLoader, scale: float = 1.0, rounds: int = ROUNDS) -> int:
    """Run the whole demo in `folder`; 0 when every table equals the model that it was generated from, else 1.

    `run_loader(config file, on_batch)` loads until nothing is left, calls `on_batch` after each commit and returns
    an exit code. ConfigError when the folder holds something that no demo made.
    """
    folder = _fresh(folder.absolute())
    config = folder / "cdcloader.yaml"
    config.write_text(_config_text(folder), encoding="utf-8")
    database = SampleDatabase(scale=scale, start=datetime.now(UTC))
    writer = _RawWriter(folder / "raw", database)
    with Progress(console, [_source(table) for table in TABLES]) as progress:
        writer.write_full_load(progress)
        code = run_loader(config, progress.applied)
        for _ in range(rounds):
            if code:
                break
            progress.caught_up()
            writer.write_round(progress)
            code = run_loader(config, progress.applied)
        if not code:
            progress.caught_up()
    equal = _prove(folder, database, console, progress)
    _say_where(folder, console)
    if code:
        console.print(f"The loader ended with exit code {code}.", style="red")
    return 0 if equal and not code else 1


class _RawWriter:
    """DMS's part: puts the files of the sample database under `<raw>/<schema>/<table>/`."""

    def __init__(self, raw: Path, database: SampleDatabase) -> None:
        self._raw = raw
        self._database = database
        self._last_time = datetime.min.replace(tzinfo=UTC)

    def write_full_load(self, progress: Progress) -> None:
        """The LOAD files of every table."""
        for table in TABLES:
            settings = SETTINGS[table.name]
            rows = self._database.full_load(table.name)
            files = [
                (load_name(number, settings), render_load(settings, table.columns, piece))
                for number, piece in enumerate(_pieces(rows, _LOAD_FILES[table.name]), start=1)
            ]
            self._write(table, files)
            progress.wrote(_source(table), "full_load", files=len(files), rows=len(rows), size_bytes=_size_bytes(files))

    def write_round(self, progress: Progress) -> None:
        """The CDC files of some further transactions, for every table that they changed."""
        changes = self._database.next_transactions(TRANSACTIONS_PER_ROUND)
        for table in TABLES:
            settings = SETTINGS[table.name]
            rows = changes[table.name]
            files = [
                (cdc_name(self._next_time(), settings), render_cdc(settings, table.columns, piece))
                for piece in _pieces(rows, _CDC_FILES_PER_ROUND)
            ]
            self._write(table, files)
            progress.wrote(_source(table), "streaming", files=len(files), rows=len(rows), size_bytes=_size_bytes(files))

    def _write(self, table: SampleTable, files: Sequence[tuple[str, bytes]]) -> None:
        for name, content in files:
            write_file(self._raw / _source(table), name, content)

    def _next_time(self) -> datetime:
        """The clock, but never a millisecond twice: a file's name is its place in the order."""
        self._last_time = max(datetime.now(UTC), self._last_time + timedelta(milliseconds=1))
        return self._last_time


def _source(table: SampleTable) -> str:
    """The table's source, which is its target's name too."""
    return f"{SCHEMA}/{table.name}"


def _size_bytes(files: Sequence[tuple[str, bytes]]) -> int:
    return sum(len(content) for _, content in files)


def _pieces(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """At most `count` consecutive pieces of about the same length, none of them empty."""
    size = max(1, -(-len(items) // count))
    return [items[start : start + size] for start in range(0, len(items), size)]


def _fresh(folder: Path) -> Path:
    """An empty demo folder; what an earlier demo made is replaced."""
    if folder.is_dir() and (folder / _MARKER).exists():
        shutil.rmtree(folder)
    elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            "this was not made by the demo, which would replace it",
            where=str(folder),
            hint="name another folder, or move this one away",
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).write_text("`cdcloader demo` replaces this folder when it runs again.\n", encoding="utf-8")
    return folder


def _config_text(folder: Path) -> str:
    """The demo's config file; JSON strings are YAML strings."""
    lines = [
        f"raw: {json.dumps(str(folder / 'raw'))}",
        f"lake: {json.dumps(str(folder / 'lake'))}",
        f"state: {{kind: sqlite, path: {json.dumps(str(folder / 'state.db'))}}}",
        "http: null",
        "poll_interval_seconds: 5",
        "# The demo's LOAD files stand there whole before the loader looks; real ones need time to become complete.",
        "full_load: {quiet_seconds: 0}",
        "tables:",
    ]
    for table in TABLES:
        settings = SETTINGS[table.name]
        lines += [f"  - source: {_source(table)}", f"    primary_key: [{', '.join(table.primary_key)}]"]
        if table.partition_by:
            lines.append(f"    partition_by: [{', '.join(table.partition_by)}]")
        if settings.timestamp_column:
            lines.append(f"    timestamp_column: {settings.timestamp_column}")
        if settings.format == "csv":
            lines.append("    columns:")
            lines += [f"      {name}: {kind}" for name, kind in table.columns]
    return "\n".join(lines) + "\n"


def _prove(folder: Path, database: SampleDatabase, console: Console, progress: Progress) -> bool:
    """Compare each table, as two readers see it, with the model; print the account."""
    summary = Table(title="The tables, read back and compared with the model", box=SIMPLE)
    summary.add_column("table", no_wrap=True)
    for heading in ("rows", "inserted", "updated", "deleted", "version", *_READERS):
        summary.add_column(heading, justify="right", no_wrap=True)
    faults: list[str] = []
    for table in TABLES:
        target = _source(table)
        path = folder / "lake" / target
        results = {reader: _compare(table, database, read, path) for reader, read in _READERS.items()}
        faults += [f"{target} ({reader}): {result}" for reader, result in results.items() if not result.equal]
        account = progress[target]
        summary.add_row(
            target,
            f"{results['delta-rs'].actual_rows:,}",
            *(f"{account.rows[kind]:,}" for kind in ("insert", "update", "delete")),
            "-" if account.version is None else str(account.version),
            *("equal" if result.equal else "DIFFERS" for result in results.values()),
        )
    console.print(summary)
    for fault in faults:
        console.print(fault, style="red", markup=False, soft_wrap=True)
    if not faults:
        console.print("Every table equals the model, row for row.", style="green")
    return not faults


def _compare(
    table: SampleTable, database: SampleDatabase, read: Callable[[Path], pl.DataFrame], path: Path
) -> Difference:
    expected = database.current(table.name)
    if not DeltaTable.is_deltatable(str(path)):
        return Difference(len(expected), 0, missing=len(expected), examples=("there is no Delta table",))
    return compare(expected, read(path), table.primary_key, table.columns)


def _read_with_delta_rs(path: Path) -> pl.DataFrame:
    batches = QueryBuilder().register("target", DeltaTable(path)).execute("SELECT * FROM target")
    data = pl.from_arrow(pa.table(batches))
    if not isinstance(data, pl.DataFrame):
        raise TypeError(f"delta-rs returned {type(data)}")
    return data


def _read_with_polars(path: Path) -> pl.DataFrame:
    return pl.read_delta(str(path))


_READERS = {"delta-rs": _read_with_delta_rs, "Polars": _read_with_polars}


def _say_where(folder: Path, console: Console) -> None:
    """Print where everything is and how to look at it."""
    example = folder / "lake" / SCHEMA / "productorder"
    lines = [
        "",
        f"raw files   {folder / 'raw'}",
        f"Delta lake  {folder / 'lake'}",
        f"state       {folder / 'state.db'}",
        f"config      {folder / 'cdcloader.yaml'}",
        "",
        "Look at a table with Polars:",
        _python(f"import polars as pl; print(pl.read_delta({str(example)!r}).head())"),
        *_look_with_duckdb(example),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _look_with_duckdb(table: Path) -> list[str]:
    """A program for DuckDB where this Python has it, which cdcloader does not need; else what to ask it."""
    if find_spec("duckdb") is None:
        path = str(table).replace("'", "''")
        return ["With DuckDB installed:", f"  SELECT * FROM delta_scan('{path}') LIMIT 5;"]
    # DuckDB fetches its delta extension over the network, unless that was installed as a package.
    packaged = find_spec("duckdb_extensions") and find_spec("duckdb_extension_delta")
    extension = "from duckdb_extensions import import_extension as add; add('delta'); " if packaged else ""
    look = f"import duckdb; print(duckdb.execute('SELECT * FROM delta_scan(?) LIMIT 5', [{str(table)!r}]).pl())"
    return ["With DuckDB:", _python(extension + look)]


def _python(program: str) -> str:
    """The program as a command for this Python, which has what the program imports."""
    return f"  {shlex.quote(sys.executable)} -c {_shell_word(program)}"


def _shell_word(text: str) -> str:
    """One shell word, in double quotes where nothing in it means something there, as a person would write it."""
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'
