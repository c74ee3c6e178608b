"""What the benchmarks load: orders as DMS would write them, made once into a cache folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.bench.measure import measure

# A change of what is made, or of the layout of the tables, asks for new data.
_VERSION = 2
_TAG = "CACHEDIR.TAG"
_BLOCK_ROWS = 500_000
_PRIME = 2_654_435_761
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
TABLE = "bench/orders"
KEY = "order_id"


class Cache:
    """A folder of data that is made once; `runs` is where a run may write, empty at the start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.runs = self.folder / "runs"

    def open(self) -> None:
        """Make the folder, invisible to git and to backups."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")
        (self.folder / _TAG).write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
        self.empty_runs()

    def empty_runs(self) -> Path:
        """The folder of the runs, emptied: what a run leaves must not fill the disk."""
        shutil.rmtree(self.runs, ignore_errors=True)
        self.runs.mkdir(parents=True)
        return self.runs

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of some data; `make` fills it in its final place if it is not there yet."""
        folder, stamp = self.folder / f"{name}-v{_VERSION}", self.folder / f"{name}-v{_VERSION}.made"
        if not stamp.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(folder)
            stamp.touch()
        return folder

    def forget(self, name: str) -> None:
        """Remove some data."""
        (self.folder / f"{name}-v{_VERSION}.made").unlink(missing_ok=True)
        shutil.rmtree(self.folder / f"{name}-v{_VERSION}", ignore_errors=True)

    def clean(self) -> bool:
        """Remove everything; only a folder that this class has made is touched."""
        if not (self.folder / _TAG).exists():
            return False
        shutil.rmtree(self.folder)
        return True


def orders(keys: np.ndarray, *, wide: bool, seed: int) -> pl.DataFrame:
    """Rows of orders with the given keys: six columns, or nine."""
    rng = np.random.default_rng(seed)
    rows = len(keys)

    def moments(first: int) -> pl.Series:
        return pl.Series(rng.integers(first, first + 50_000_000, rows) * 1_000_000).cast(pl.Datetime("us"))

    def words(*choices: str) -> pl.Series:
        return pl.Series(choices).gather(rng.integers(0, len(choices), rows))

    columns: dict[str, Any] = {
        KEY: pl.Series(keys, dtype=pl.Int64),
        "customer_id": rng.integers(1, 1_000_000, rows),
        "amount": pl.Series(rng.integers(100, 1_000_000, rows)).cast(pl.Decimal(14, 0)) / 100,
        "status": words("new", "paid", "packed", "shipped", "returned"),
        "note": pl.Series(rng.integers(10**15, 10**16, rows)).cast(pl.String),
        "created_at": moments(1_600_000_000),
    }
    if wide:
        columns |= {
            "store": words(*(f"store {number:03d}" for number in range(400))),
            "quantity": rng.integers(1, 100, rows, dtype=np.int32),
            "updated_at": moments(1_650_000_000),
        }
    return pl.DataFrame(columns).with_columns(pl.col("amount").cast(pl.Decimal(12, 2)))


def blocks(rows: int, *, wide: bool, shuffled: bool = False) -> Iterator[pl.DataFrame]:
    """Orders with the keys 0 to rows-1, in key order or scattered over the whole, in blocks."""
    for start in range(0, rows, _BLOCK_ROWS):
        numbers = np.arange(start, min(start + _BLOCK_ROWS, rows), dtype=np.int64)
        # A multiplication by a prime that does not divide `rows` permutes the numbers below it.
        yield orders(numbers * _PRIME % rows if shuffled else numbers, wide=wide, seed=start)


def make_single_files(folder: Path, rows: int) -> None:
    """`orders.csv` and `orders.parquet` with the same rows."""
    frame = pl.concat(blocks(rows, wide=False))
    frame.write_csv(folder / "orders.csv", datetime_format=TIME_FORMAT)
    frame.write_parquet(folder / "orders.parquet")


def make_load_set(folder: Path, total_bytes: int, files: int, *, shuffled: bool) -> None:
    """A LOAD set of CSV files of about `total_bytes`; the rows of one block serve all, with keys of their own."""
    block = orders(np.arange(_BLOCK_ROWS), wide=True, seed=0)
    width = len(block.write_csv(datetime_format=TIME_FORMAT).encode()) / _BLOCK_ROWS
    rows = int(total_bytes / width)
    source = _source(folder)
    for number in range(files):
        start, end = (rows * at // files for at in (number, number + 1))
        with (source / f"LOAD{number + 1:08X}.csv").open("wb") as file:
            for first in range(start, end, _BLOCK_ROWS):
                numbers = np.arange(first, min(first + _BLOCK_ROWS, end), dtype=np.int64)
                keys = numbers * _PRIME % rows if shuffled else numbers
                shifted = block.head(len(keys)).with_columns(pl.Series(KEY, keys))
                shifted.write_csv(file, include_header=first == start, datetime_format=TIME_FORMAT)


def make_recent_changes(folder: Path, rows: int, changes: int, files: int) -> None:
    """A table of `rows` orders loaded by our own full load, and one file with changes of its latest rows.

    The folder holds raw/, lake/, state.db and changes.parquet (the net changes as they are).
    """
    source = _source(folder / "raw")
    for number, frame in enumerate(blocks(rows, wide=True)):
        frame.write_parquet(source / f"LOAD{number + 1:08X}.parquet")
    measure("loader", config=write_config(folder, raw=folder / "raw", memory_budget_mb=_budget_mb(rows, files)))
    net = _changes(rows, changes)
    net.write_parquet(folder / "changes.parquet")
    name = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S%f")[:-3]
    shutil.copy(folder / "changes.parquet", source / f"{name}.parquet")


def _budget_mb(rows: int, files: int) -> int:
    """The budget with which a full load cuts its set into about so many files (a piece is an eighth of it)."""
    width = orders(np.arange(1_000), wide=True, seed=0).estimated_size() / 1_000
    return max(32, int(8 * rows * width / files) >> 20)


def _changes(rows: int, changes: int) -> pl.DataFrame:
    """60% updates and 20% deletes of keys among the latest percent of the table, 20% inserts; in random order."""
    updates, inserts = changes * 6 // 10, changes * 2 // 10
    rng = np.random.default_rng(7)
    recent = rows - max(rows // 100, 2 * changes) + rng.choice(max(rows // 100, 2 * changes), changes - inserts, False)
    keys = np.concatenate([recent, np.arange(rows, rows + inserts)])
    kinds = ["U"] * updates + ["D"] * (changes - updates - inserts) + ["I"] * inserts
    frame = orders(keys, wide=True, seed=8).select(pl.Series("Op", kinds), pl.all())
    return frame.sample(fraction=1, shuffle=True, seed=9)


def make_many_tables(folder: Path, tables: int) -> None:
    """Tables of one row each, loaded: raw/, lake/, state.db and the config."""
    names = [f"bench/t{number:04d}" for number in range(tables)]
    for name in names:
        source = folder / "raw" / name
        source.mkdir(parents=True)
        (source / "LOAD00000001.csv").write_text(f"{KEY},status\n1,new\n")
    measure("loader", config=write_config(folder, raw=folder / "raw", tables=names))


def _source(raw: Path) -> Path:
    source = raw / TABLE
    source.mkdir(parents=True)
    return source


def raw_of(run: Path, file: Path) -> Path:
    """A raw prefix of one LOAD file, by a hard link where it can be."""
    raw = run / "raw"
    copy_tree(file, _source(raw) / f"LOAD00000001{file.suffix}")
    return raw


def write_config(
    folder: Path,
    *,
    raw: Path,
    lake: Path | None = None,
    tables: list[str] | None = None,
    memory_budget_mb: int = 2048,
    cache: bool = False,
    upkeep: bool = True,
) -> str:
    """A config file in `folder` with lake (else the given one) and state there; a LOAD set counts as complete at once.

    With `cache` the key columns that do not fit into memory are kept on disk, in `folder` too. Without `upkeep` the
    table is never tidied.
    """
    config: dict[str, Any] = {
        "raw": str(raw),
        "lake": str(lake or folder / "lake"),
        "state": {"kind": "sqlite", "path": str(folder / "state.db")},
        "memory_budget_mb": memory_budget_mb,
        "full_load": {"quiet_seconds": 0},
        "tables": [{"source": name, "primary_key": [KEY]} for name in tables or [TABLE]],
    }
    if not upkeep:
        config["upkeep"] = {"seconds": 0}
    if cache:
        config["cache"] = {"path": str(folder / "cache")}
    path = folder / "cdcloader.yaml"
    path.write_text(json.dumps(config, indent=1))  # Every JSON text is YAML.
    return str(path)


def copy_tree(source: Path, target: Path) -> None:
    """A copy by hard links: neither we nor delta-rs ever write into a file that exists."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(str(source), str(target))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
