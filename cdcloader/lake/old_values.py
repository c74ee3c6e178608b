"""What a batch's partial rows leave unset: the values that the table's rows of their keys have, read from there.

Of a data file only the row groups with such rows are read, and of these only the columns that some row left unset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from cdcloader.changes.net import DELETE, OP, UNSET, unset_columns
from cdcloader.changes.schema import polars_schema
from cdcloader.lake import datafiles
from cdcloader.lake.datafiles import POSITION, Numbers
from cdcloader.lake.key_index import NET
from cdcloader.lake.locate import Located
from cdcloader.lake.snapshot import DataFile
from cdcloader.lake.target import STORED_SHARE, Target

_OLD = "__old_"
# So many files are read side by side, if they fit: on S3 most of the time is waiting.
_READERS = 8


def parts(net: pl.DataFrame, files: Sequence[DataFile], size: int) -> Iterator[pl.DataFrame]:
    """The net changes in frames that take about `size` bytes at most once their partial rows are whole."""
    partial = _partial(net)
    growth = net.filter(partial).height * _row_bytes(files) if partial is not None else 0
    count = min(net.height, int((net.estimated_size() + growth) // max(1, size)) + 1) if growth else 1
    step = -(-net.height // max(1, count))
    yield from net.iter_slices(step) if count > 1 else (net,)


def completed(target: Target, upserts: pl.DataFrame, located: Sequence[Located]) -> pl.DataFrame:
    """The upserts (with `NET`) as whole rows, without `UNSET` columns; what no row of the table tells is NULL."""
    helpers = unset_columns(upserts.columns)
    partial = _partial(upserts)
    if partial is None:
        return upserts.drop(helpers)
    rows = upserts.filter(partial)
    names = [helper.removeprefix(UNSET) for helper in helpers if rows[helper].any()]
    found = _old_values(target, rows[NET], names, located)
    whole = upserts.join(found, on=NET, how="left", maintain_order="left")
    filled = [pl.when(UNSET + name).then(_OLD + name).otherwise(name).alias(name) for name in names]
    return whole.with_columns(filled).select([name for name in upserts.columns if name not in helpers])


def _partial(net: pl.DataFrame) -> pl.Series | None:
    """Which rows are upserts with something unset; None when there is none."""
    helpers = unset_columns(net.columns)
    if not helpers:
        return None
    partial = net.select((pl.any_horizontal(helpers) & (pl.col(OP) != DELETE)).alias("partial")).to_series()
    return partial if partial.any() else None


def _row_bytes(files: Sequence[DataFile]) -> float:
    """What a row of the table takes in memory, about."""
    counted = [(file.size, int(file.statistics().get("numRecords") or 0)) for file in files]
    rows = sum(rows for _, rows in counted)
    return sum(size for size, rows in counted if rows) / STORED_SHARE / rows if rows else 0


def _old_values(target: Target, nets: pl.Series, names: Sequence[str], located: Sequence[Located]) -> pl.DataFrame:
    """`NET`, and for each of the columns its value in the table, for those of `nets` that hit a row."""
    wanted = nets.to_numpy()

    def old(found: Located) -> pl.DataFrame:
        hits = found.hits.only(np.isin(found.hits.nets, wanted))
        hits = hits.only(np.argsort(hits.positions, kind="stable"))
        return _read(target, found.file, hits.positions, names).with_columns(pl.Series(NET, hits.nets))

    types = polars_schema(target.schema)
    largest = max((found.file.size for found in located), default=0)
    readers = min(_READERS, max(1, target.keys.memory_bytes // max(1, largest)))
    schema = pl.Schema({**{_OLD + name: types[name] for name in names}, NET: pl.UInt32()})
    with ThreadPoolExecutor(readers, thread_name_prefix="cdcloader-old") as pool:
        frames = [frame.select(schema.names()).cast(schema) for frame in pool.map(old, located)]
    # A foreign writer may have left a key there twice.
    return pl.concat([pl.DataFrame(schema=schema), *frames]).unique(NET, keep="last", maintain_order=True)


def _read(target: Target, file: DataFile, positions: Numbers, names: Sequence[str]) -> pl.DataFrame:
    target.beat()
    rows = datafiles.read_rows(target.objects, target.path, file, target.schema, columns=names, positions=positions)
    return rows.drop(POSITION).rename({name: _OLD + name for name in names})
