"""Plays a cell: DMS writes a history, cdcloader loads it by its config file, and readers compare it with the oracle."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

from cdcloader.changes.schema import Field, Schema
from cdcloader.cli.run import single_pass
from cdcloader.config import load_config
from cdcloader.demo.dms_writer import (
    RawFile,
    article_cdc_file,
    cdc_files,
    delta_type,
    load_files,
    transactions_file,
    write_file,
)
from cdcloader.demo.proof import compare
from cdcloader.loader.table import Outcome
from cdcloader.wiring import assemble
from tests.matrix.cells import Cell
from tests.matrix.history import KEY, History, Row
from tests.readers import by_duckdb

ROUNDS = 2
TICKS, CHANGES, ROWS = 3, 20, 20


class Play:
    """One cell in a folder of its own."""

    def __init__(self, cell: Cell, folder: Path, seed: str = "") -> None:
        self.cell, self.folder = cell, folder
        self.raw, self.lake = folder / "raw", folder / "lake"
        self.now = cell.start
        chance = Random(f"{cell.name} {seed}")
        self.tables = {
            source: History(cell.dms, Random(chance.random()), cell.texts, cell.moves_keys) for source in cell.sources
        }
        self.config = folder / "cdcloader.yaml"
        self.accounts: dict[str, list[Any]] = {source: [] for source in cell.sources}
        self._files_of_day: dict[tuple[str, str], int] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.raw.mkdir()
        self._configure()

    def run(self) -> None:
        """The full load and the first changes, then further changes, each loaded by a process of its own."""
        for key, content in self.cell.beside.items():
            self._put(RawFile(key.format(extension=self.cell.dms.extension), content), self.now)
        self._full_load()
        for _ in range(ROUNDS):
            for _ in range(TICKS):
                self._tick()
            self._load()
            self.check()
            if self.cell.evolves:
                for history in self.tables.values():
                    history.evolve()

    def check(self) -> None:
        """Two readers see what the oracle holds, nothing is in quarantine, and every row is accounted for."""
        assert not list(self.lake.glob("_quarantine/**/*.parquet"))
        for source, history in self.tables.items():
            columns = [(name, self._type(kind)) for name, kind in history.columns_of_table]
            rows = self._rows(history)
            path = str(self.lake / source)
            frame = pl.read_delta(path)
            faults = {"Polars": compare(rows, frame, KEY, columns)}
            schema = _schema(columns)
            faults["DuckDB"] = compare(rows, by_duckdb(path, schema), KEY, columns)
            assert all(fault.equal for fault in faults.values()), f"{self.cell} {source}: {faults}"
            read = sum(account.rows_in for account in self.accounts[source])
            assert read == sum(sum(account.rows.values()) for account in self.accounts[source])
            assert read == history.written + history.changed_keys

    def _full_load(self) -> None:
        cell = self.cell
        for source, history in self.tables.items():
            if not cell.load_files:
                continue
            rows = history.load(ROWS)
            pieces = [rows[place :: cell.load_files] for place in range(cell.load_files)]
            files = load_files(
                cell.dms,
                self._folder(source),
                history.columns,
                pieces,
                at=self.now,
                parallel=cell.parallel,
                layout=cell.layout,
            )
            for file in files:
                self._put(file, self.now)

    def _tick(self) -> None:
        """The next changes of every table; some begin and end on other days."""
        self.now += self.cell.step
        at, cell = self.now, self.cell
        changes = {source: history.changes(CHANGES, at) for source, history in self.tables.items()}
        if cell.dms.cdc_path is not None:
            mixed = [
                (source, self.tables[source].columns, change) for source, some in changes.items() for change in some
            ]
            mixed = [(source, columns, change) for source, columns, change in mixed if cell.dms.writes(change.op)]
            # Stable: a table's changes keep their order among those of the others.
            self._put(transactions_file(cell.dms, sorted(mixed, key=lambda each: each[2].commit_time), at=at), at)
            return
        for source, some in changes.items():
            columns = self.tables[source].columns
            if cell.layout == "articles":
                day = self._files_of_day[source, f"{at:%Y%m%d}"] = (
                    self._files_of_day.get((source, f"{at:%Y%m%d}"), 0) + 1
                )
                self._put(article_cdc_file(cell.dms, self._folder(source), columns, some, at=at, number=day), at)
                continue
            for file in cdc_files(cell.dms, self._folder(source), columns, some, at=at):
                self._put(file, at)

    def _put(self, file: RawFile, at: datetime) -> None:
        folder, _, name = file.key.rpartition("/")
        path = write_file(self.raw / folder, name, file.content)
        seconds = (at + timedelta(seconds=1)).timestamp()
        os.utime(path, (seconds, seconds))

    def _configure(self) -> None:
        """The config file; JSON is YAML."""
        tables = [{"source": source, "primary_key": KEY, **self.cell.config} for source in self._named_sources]
        config = {
            "raw": str(self.raw),
            "lake": str(self.lake),
            # Each process reads from the Delta log where it stands.
            "state": {"kind": "memory"},
            "http": None,
            "full_load": {"quiet_seconds": 0},
            "tables": tables,
        }
        self.config.write_text(json.dumps(config), encoding="utf-8")

    def _load(self) -> None:
        config = load_config(self.config, {})
        assembly = assemble(config, on_batch=lambda table, done: self.accounts[table].append(done.account))
        try:
            for ended in single_pass(assembly, threading.Event()):
                assert ended.error is None, f"{self.cell}: {ended.error}"
                assert ended.step is not None
                assert ended.step.outcome is Outcome.IDLE, f"{self.cell}: {ended.step}"
        finally:
            assembly.close()

    @property
    def _named_sources(self) -> tuple[str, ...]:
        return self.cell.sources if self.cell.pattern is None else (self.cell.pattern,)

    def _folder(self, source: str) -> str:
        return source if self.cell.version is None else f"{source}/{self.cell.version}"

    @property
    def _naive(self) -> bool:
        return self.cell.config.get("timestamps") == "naive"

    def _type(self, kind: str) -> str:
        return "timestamp_ntz" if kind == "timestamp" and self._naive else delta_type(kind)

    def _rows(self, history: History) -> dict[tuple[Any, ...], Row]:
        if not self._naive:
            return history.rows
        return {key: {**row, "at": row["at"] and row["at"].replace(tzinfo=None)} for key, row in history.rows.items()}


def _schema(columns: list[tuple[str, str]]) -> Schema:
    return tuple(Field(name, kind) for name, kind in columns)
