"""Reads Delta tables by the readers that users have: DuckDB, ClickHouse, Polars and delta-rs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import chdb
import duckdb
import polars as pl
from deltalake import DeltaTable, QueryBuilder
from duckdb_extensions import import_extension

from cdcloader.changes.schema import Schema, polars_schema


@cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    import_extension("delta")
    connection = duckdb.connect()
    connection.execute("LOAD delta")
    return connection


@contextmanager
def _at_root() -> Iterator[None]:
    """ClickHouse reads local files below the folder in which it starts, which is once per process."""
    before = Path.cwd()
    os.chdir("/")
    try:
        yield
    finally:
        os.chdir(before)


@cache
def _start_clickhouse() -> None:
    with _at_root():
        chdb.query("SELECT 1")


def by_duckdb(path: str, schema: Schema) -> pl.DataFrame:
    frame = _duckdb().execute(f"SELECT * FROM delta_scan('{path}')").pl()
    return frame.select(pl.col(name).cast(dtype) for name, dtype in polars_schema(schema).items())


def by_clickhouse(path: str, schema: Schema) -> pl.DataFrame:
    """The table but for dates that are no keys, which ClickHouse knows only from 1900 to 2299."""
    _start_clickhouse()
    types = {f.name: polars_schema(schema)[f.name] for f in schema if not f.name.startswith("v") or f.type != "date"}
    wanted = ", ".join(f"`{name}`" for name in types)
    query = f"SELECT {wanted} FROM deltaLakeLocal('{path}') SETTINGS output_format_parquet_string_as_string = 0"
    with _at_root():
        frame = pl.read_parquet(chdb.query(query, "Parquet").bytes())
    return frame.select(pl.col(name).cast(dtype) for name, dtype in types.items())


def by_polars(path: str, schema: Schema) -> pl.DataFrame:
    return pl.read_delta(path).select(list(polars_schema(schema)))


def by_delta_rs(path: str, schema: Schema) -> pl.DataFrame:
    batches = list(QueryBuilder().register("t", DeltaTable(path)).execute("select * from t"))
    if not batches:
        return pl.DataFrame(schema=polars_schema(schema))
    return pl.concat([pl.DataFrame(batch) for batch in batches]).select(list(polars_schema(schema)))


READERS = {"DuckDB": by_duckdb, "ClickHouse": by_clickhouse, "Polars": by_polars, "delta-rs": by_delta_rs}


def read_by_all(path: str, schema: Schema) -> dict[str, pl.DataFrame]:
    """A table that has rows, as each reader sees it."""
    return {name: read(path, schema) for name, read in READERS.items()}
