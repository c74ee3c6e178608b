"""What a table must hold, and what it holds, told by DuckDB: neither ours nor a peer's code has a say in it.

A sum over the hashes of whole rows beside the plain sums makes it all but impossible that two tables with equal sums
differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb

from tests.bench.data import KEY

# The types are fixed, because writers store the same values in different ones.
_COLUMNS = {
    KEY: f"{KEY}::BIGINT",
    "customer_id": "customer_id::BIGINT",
    "amount": "amount::DECIMAL(12,2)",
    "status": "status::VARCHAR",
    "note": "note::VARCHAR",
    "created_at": "epoch_us(created_at)",
    "store": "store::VARCHAR",
    "quantity": "quantity::INTEGER",
    "updated_at": "epoch_us(updated_at)",
}
_ROWS = ", ".join(f"{value} AS {name}" for name, value in _COLUMNS.items())
_SUMS = f"""
    count(*)::VARCHAR AS rows, sum({KEY})::VARCHAR AS keys, sum(amount)::VARCHAR AS amounts,
    sum(hash({", ".join(_COLUMNS)})::HUGEINT)::VARCHAR AS hashes"""

Totals = dict[str, str]


def of_table(table: Path) -> Totals:
    """The totals of a Delta table, vectors honoured."""
    return _totals(f"SELECT {_ROWS} FROM delta_scan('{table}')", delta=True)


def of_files(files: str) -> Totals:
    """The totals of the Parquet files that a pattern names."""
    return _totals(f"SELECT {_ROWS} FROM read_parquet('{files}')")


def expected(base: str, changes: Sequence[Path], *, spill: Path) -> Totals:
    """The totals of the rows of `base` (a pattern of Parquet files) after the changes, the last one of a key winning.

    Files of changes are in order; `spill` is a folder for what does not fit into memory.
    """
    listed = ", ".join(f"'{path}'" for path in sorted(changes))
    query = f"""
        WITH read AS MATERIALIZED (
            SELECT Op, {_ROWS}, (file_index << 32) + file_row_number AS place
            FROM read_parquet([{listed}], file_row_number = true)),
        last AS (SELECT {KEY}, max(place) AS place FROM read GROUP BY {KEY}),
        net AS (SELECT read.* EXCLUDE (place) FROM read SEMI JOIN last USING (place)),
        kept AS (SELECT {_ROWS} FROM read_parquet('{base}') ANTI JOIN last USING ({KEY}))
        SELECT * FROM kept UNION ALL BY NAME SELECT * EXCLUDE (Op) FROM net WHERE Op <> 'D'"""
    return _totals(query, spill=spill)


def stored(file: Path, make: Any) -> Totals:
    """The totals that a file keeps; made when it is missing, or was written by another DuckDB, whose hashes differ."""
    if file.exists():
        kept: Totals = json.loads(file.read_text())
        if kept.pop("duckdb") == duckdb.__version__:
            return kept
    found: Totals = make()
    file.write_text(json.dumps({**found, "duckdb": duckdb.__version__}))
    return found


def _totals(query: str, *, delta: bool = False, spill: Path | None = None) -> Totals:
    with closing(duckdb.connect()) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        if spill is not None:
            connection.execute(f"SET temp_directory = '{spill}'")
        if delta:
            load_delta(connection)
        cursor = connection.execute(f"SELECT {_SUMS} FROM ({query})")
        names = [column[0] for column in cursor.description or ()]
        return dict(zip(names, cursor.fetchall()[0], strict=True))


def load_delta(connection: duckdb.DuckDBPyConnection) -> None:
    """Make `delta_scan` known; the extension comes with the test tools, not over the network."""
    from duckdb_extensions import import_extension

    import_extension("delta")
    connection.execute("LOAD delta")
