"""The demo around the loader, which is here a plain replay of the files, one change at a time."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import yaml
from deltalake import write_deltalake
from rich.console import Console

from cdcloader.changes.schema import polars_type
from cdcloader.demo import run_demo
from cdcloader.demo.sampledb import TABLES
from cdcloader.errors import ConfigError


@dataclass
class Report:
    table: str
    rows: dict[str, int]
    version: int
    seconds: float


def rows_of(file: Path, columns) -> list[dict]:
    if file.suffix == ".parquet":
        return pl.read_parquet(file).with_columns(pl.col("updated_at").dt.replace_time_zone("UTC")).to_dicts()
    parsers = {
        "timestamp": lambda text: text.str.to_datetime(time_unit="us", time_zone="UTC"),
        "date": lambda text: text.str.to_date(),
    }
    typed = [
        parsers[kind](pl.col(name)) if kind in parsers else pl.col(name).cast(polars_type(kind))
        for name, kind in columns
    ]
    return pl.read_csv(file.read_bytes(), infer_schema=False).with_columns(typed).to_dicts()


def replay(config: Path, on_batch) -> int:
    """Read every raw file from the start, one change after the other, and overwrite the tables."""
    settings = yaml.safe_load(config.read_text())
    for table in TABLES:
        source = f"sampledb/{table.name}"
        files = sorted(
            (Path(settings["raw"]) / source).iterdir(), key=lambda file: (not file.name.startswith("LOAD"), file.name)
        )
        rows, counts = {}, {"insert": 0, "update": 0, "delete": 0}
        for file in files:
            for row in rows_of(file, table.columns):
                key = tuple(row[name] for name in table.primary_key)
                if row.get("Op") == "D":
                    counts["delete"] += rows.pop(key, None) is not None
                else:
                    counts["update" if key in rows else "insert"] += 1
                    rows[key] = {name: row[name] for name, _ in table.columns}
        data = pl.DataFrame(
            list(rows.values()), schema={name: polars_type(kind) for name, kind in table.columns}, orient="row"
        )
        write_deltalake(Path(settings["lake"]) / source, data, mode="overwrite")
        on_batch(Report(source, counts, 0, 0.0))
    return 0


def run(folder: Path, loader, *, rounds=2, terminal=False) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal)
    code = run_demo(folder, console=console, run_loader=loader, scale=0.01, rounds=rounds)
    return code, console.file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_files_replayed_one_change_at_a_time_give_the_model(tmp_path, terminal):
    """What the demo writes is enough to rebuild its model, and then it says so and returns 0."""
    code, output = run(tmp_path / "demo", replay, terminal=terminal)
    assert code == 0, output
    assert "Every table equals the model, row for row." in output


def test_the_last_lines_run_as_they_are_printed(tmp_path):
    """Each command shows rows of the table, whatever is in the folder's name, with the Python that runs the demo."""
    code, output = run(tmp_path / "it's-a-demo", replay, rounds=0)
    assert code == 0
    commands = [line for line in output.splitlines() if line.startswith(f"  {sys.executable} -c ")]
    assert [name in command for name, command in zip(("polars", "duckdb"), commands, strict=True)] == [True, True]
    for command in commands:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert (done.returncode, "order_date" in done.stdout) == (0, True), done.stderr


def test_without_duckdb_its_query_is_shown(tmp_path, monkeypatch):
    """No command is printed that would need what is not installed."""
    monkeypatch.setattr("cdcloader.demo.find_spec", lambda _name: None)
    output = run(tmp_path / "demo", replay, rounds=0)[1]
    query = f"  SELECT * FROM delta_scan('{tmp_path}/demo/lake/sampledb/productorder') LIMIT 5;"
    assert ["With DuckDB installed:", query] == output.splitlines()[-2:]
    assert "import duckdb" not in output


def test_a_loader_that_leaves_tables_out_is_found_out(tmp_path):
    """A table that differs from the model is named, and the demo returns 1."""

    def full_load_only(config, on_batch):
        return 0 if (config.parent / "lake").exists() else replay(config, on_batch)

    code, output = run(tmp_path / "demo", full_load_only)
    assert code == 1
    assert "sampledb/productorder (Polars):" in output
    code, output = run(tmp_path / "none", lambda config, on_batch: 0, rounds=0)
    assert code == 1
    assert "there is no Delta table" in output


def test_a_loader_that_fails_ends_the_demo(tmp_path):
    """A loader's exit code other than 0 is reported, even when the tables are right."""
    code, output = run(tmp_path / "demo", lambda config, on_batch: replay(config, on_batch) or 1)
    assert code == 1
    assert "exit code 1" in output
    assert not list((tmp_path / "demo/raw/sampledb/product").glob("2*"))


def test_only_a_folder_that_the_demo_made_is_replaced(tmp_path):
    """A second run replaces the first; anything else in the way is left alone."""
    run(tmp_path / "demo", replay, rounds=1)
    stale = tmp_path / "demo/raw/sampledb/product/LOAD000000FF.parquet"
    stale.write_bytes(b"")
    assert run(tmp_path / "demo", replay, rounds=0)[0] == 0
    assert not stale.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not made by the demo"):
        run(tmp_path / "mine", replay)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
