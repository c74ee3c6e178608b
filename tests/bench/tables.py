"""Large tables, written file by file with the loader's own writer and published by one commit, and changes for them.

A table of n rows has the even keys below 2n, so that new rows can fall anywhere between the old ones (odd keys) or
behind them (even keys from 2n on).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from cdcloader import logs
from cdcloader.changes.evolution import Evolution
from cdcloader.changes.schema import Field, delta_type
from cdcloader.config import load_config
from cdcloader.lake import datafiles
from cdcloader.loader.account import Account
from cdcloader.loader.publish import commit
from cdcloader.wiring import assemble
from tests.bench import truth
from tests.bench.data import KEY, TABLE, TIME_FORMAT, Cache, orders, write_config

PROBED_KEYS = 10_000
_FIRST_FILE = datetime(2025, 1, 1, tzinfo=UTC)
_BLOCK_ROWS = 500_000


def base(cache: Cache, rows: int, files: int) -> Path:
    """A folder with `lake/`: a table of so many rows in so many files, in key order."""
    return cache.made(f"table-{rows}-{files}", lambda folder: _make_table(folder, rows, files))


def data_files(folder: Path) -> str:
    """The pattern of the data files of a table that `base` has made."""
    return f"{folder}/lake/{TABLE}/*.parquet"


def scattered(cache: Cache, rows: int, changes: int) -> Path:
    """One file of changes whose keys lie anywhere in the table: 60% updates, 20% inserts, 20% deletes, in any order.

    The folder holds `raw/` with the file as DMS writes it, `changes.parquet` (the same rows with the table's types),
    and in `staged/` the file behind one that changes nothing but asks for keys from all over the table.
    """
    return cache.made(f"scattered-{rows}-{changes}", lambda folder: _make_scattered(folder, rows, changes))


def series(cache: Cache, rows: int, batches: int, changes: int) -> Path:
    """Files of changes, half of each scattered, half among the latest percent of the rows or behind them."""
    return cache.made(f"series-{rows}-{batches}-{changes}", lambda folder: _make_series(folder, rows, batches, changes))


def backlog(cache: Cache, rows: int, changes: int, files: int) -> Path:
    """`parquet/` and `csv/`, each a raw prefix with the same changes: 50% inserts, 45% updates, 5% deletes."""
    name = f"backlog-{rows}-{changes}-{files}"
    return cache.made(name, lambda folder: _make_backlog(folder, rows, changes, files))


def huge(cache: Cache, rows: int, changes: int) -> Path:
    """`raw/` with the changes of a backlog in a single Parquet file."""
    return cache.made(f"huge-{rows}-{changes}", lambda folder: _make_huge(folder, rows, changes))


def expected(folder: Path, table: Path, changes: Iterable[Path]) -> truth.Totals:
    """What a table must hold after the changes, which stand below `folder`; it is kept beside that."""
    kept, spill = folder.parent / f"{folder.name}-on-{table.name}.json", folder.parent / "spill"
    return truth.stored(kept, lambda: truth.expected(data_files(table), list(changes), spill=spill))


def source_of(raw: Path) -> Path:
    """Where DMS writes the files of the table; made when it is missing."""
    source = raw / TABLE
    source.mkdir(parents=True, exist_ok=True)
    return source


def adopt(config: str) -> None:
    """Make the state record of a table that `base` has made, as the loader does where a record was lost.

    The config's raw prefix holds a file of changes, which is looked at and not applied.
    """
    logs.configure(level="ERROR")
    assembly = assemble(load_config(config, {}))
    if assembly.loaders[0].step().committed is not None:
        raise RuntimeError("the loader applied the changes instead of making the record")
    assembly.loaders[0].release()
    assembly.close()


def _make_table(folder: Path, rows: int, files: int) -> None:
    context = assemble(load_config(write_config(folder, raw=_raw(folder)), {})).loaders[0].context
    # The rows of one file serve all, with keys of their own: nothing here looks across files.
    block = _typed(orders(np.arange(-(-rows // files)), wide=True, seed=0))
    added = []
    for number in range(files):
        start, end = (rows * at // files for at in (number, number + 1))
        keys = pl.Series(KEY, 2 * np.arange(start, end, dtype=np.int64))
        frame = block.head(end - start).with_columns(keys)
        added.append(datafiles.write(context.lake, TABLE, frame, {}, now_ms=context.now_ms))
    schema = tuple(Field(name, delta_type(dtype)) for name, dtype in block.schema.items())
    account = Account(
        generation=1,
        position=0,
        floor=0,
        file=context.naming.file_at(context.path, 0),
        files={},
        full_load_date=_FIRST_FILE - timedelta(days=1),
        full_load_newest=_FIRST_FILE - timedelta(days=1),
        full_load_files=1,
        rows_in=rows,
        inserted=rows,
    )
    commit(context, None, account, columns=Evolution(schema), adds=added, removes=[], operation="WRITE")


def _make_scattered(folder: Path, rows: int, changes: int) -> None:
    rng = np.random.default_rng(7)
    inserts, deletes = changes // 5, changes // 5
    old = 2 * rng.choice(rows, changes - inserts, replace=False)
    # The odd keys that are asked for first are not those that come later.
    odd = 2 * rng.choice(rows, inserts + min(PROBED_KEYS, rows // 10), replace=False) + 1
    kinds = ["U"] * (changes - inserts - deletes) + ["D"] * deletes + ["I"] * inserts
    frame = _frame(np.concatenate([old, odd[:inserts]]), kinds, seed=8).sample(fraction=1, shuffle=True, seed=9)
    probe = _frame(odd[inserts:], ["D"] * (len(odd) - inserts), seed=10)
    (folder / "staged").mkdir()
    probe.write_parquet(folder / "staged" / f"{_name(0)}.parquet")
    frame.write_parquet(folder / "staged" / f"{_name(1)}.parquet")
    frame.write_parquet(source_of(folder / "raw") / f"{_name(1)}.parquet")
    _typed(frame).write_parquet(folder / "changes.parquet")


def _make_series(folder: Path, rows: int, batches: int, changes: int) -> None:
    rng = np.random.default_rng(11)
    half = changes // 2
    updates, inserts, deletes = half * 6 // 10, half * 2 // 10, half * 2 // 10
    odd = 2 * rng.choice(rows, batches * inserts, replace=False) + 1
    recent = max(rows // 100, 2 * changes)
    top = rows
    for batch in range(batches):
        anywhere = 2 * rng.integers(0, rows, updates + deletes)
        between = odd[batch * inserts : (batch + 1) * inserts]
        latest = 2 * rng.integers(top - recent, top, updates + deletes)
        behind = 2 * np.arange(top, top + inserts)
        top += inserts
        kinds = (["U"] * updates + ["D"] * deletes + ["I"] * inserts) * 2
        frame = _frame(np.concatenate([anywhere, between, latest, behind]), kinds, seed=batch)
        frame.sample(fraction=1, shuffle=True, seed=batch).write_parquet(folder / f"{_name(batch)}.parquet")


def _mixed(rows: int, changes: int, block_rows: int) -> Iterator[pl.DataFrame]:
    """Changes in blocks: inserts in key order behind the table, updates and deletes of anything that was there."""
    rng = np.random.default_rng(12)
    top = rows
    for start in range(0, changes, block_rows):
        size = min(block_rows, changes - start)
        inserts, deletes = size // 2, size // 20
        old = 2 * rng.integers(0, top, size - inserts)
        new = 2 * np.arange(top, top + inserts)
        top += inserts
        kinds = ["U"] * (size - inserts - deletes) + ["D"] * deletes + ["I"] * inserts
        frame = _frame(np.concatenate([old, new]), kinds, seed=start)
        yield frame.sample(fraction=1, shuffle=True, seed=start)


def _make_backlog(folder: Path, rows: int, changes: int, files: int) -> None:
    targets = {kind: source_of(folder / kind) for kind in ("parquet", "csv")}
    for number, frame in enumerate(_mixed(rows, changes, changes // files)):
        frame.write_parquet(targets["parquet"] / f"{_name(number)}.parquet")
        frame.write_csv(targets["csv"] / f"{_name(number)}.csv", datetime_format=TIME_FORMAT)


def _make_huge(folder: Path, rows: int, changes: int) -> None:
    blocks: Iterable[pl.DataFrame] = _mixed(rows, changes, _BLOCK_ROWS)
    writer = None
    for frame in blocks:
        arrow = frame.to_arrow()
        writer = writer or pq.ParquetWriter(source_of(folder / "raw") / f"{_name(0)}.parquet", arrow.schema)
        writer.write_table(arrow)
    if writer is not None:
        writer.close()


def _frame(keys: np.ndarray, kinds: list[str], *, seed: int) -> pl.DataFrame:
    return orders(keys, wide=True, seed=seed).select(pl.Series("Op", kinds), pl.all())


def _typed(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows as the table holds them: what DMS writes without a zone is UTC."""
    return frame.with_columns(pl.col(pl.Datetime).dt.replace_time_zone("UTC"))


def _name(number: int) -> str:
    """The name of a CDC file, one a minute."""
    return f"{_FIRST_FILE + timedelta(minutes=number):%Y%m%d-%H%M%S}000"


def _raw(folder: Path) -> Path:
    return source_of(folder / "raw").parent.parent
