"""The proof: every table, read by two independent readers, holds the oracle's rows; quarantine and accounts agree."""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from duckdb_extensions import import_extension

from cdcloader.changes.schema import polars_type
from tests.soak.places import Place
from tests.soak.source import Source
from tests.soak.tables import Table

_SHOWN = 3
_KINDS = ("insert", "update", "delete", "noop", "superseded", "quarantined")
_TOTALS = {"RowsInserted": "insert", "RowsUpdated": "update", "RowsDeleted": "delete", "RowsQuarantined": "quarantined"}


def by_duckdb(folder: Path) -> pl.DataFrame:
    _install_delta_extension()
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        connection.execute("LOAD delta; SET TimeZone = 'UTC'")
        return connection.execute(f"SELECT * FROM delta_scan('{folder}')").pl()


def by_polars(folder: Path) -> pl.DataFrame:
    return pl.read_delta(str(folder))


READERS: dict[str, Callable[[Path], pl.DataFrame]] = {"DuckDB": by_duckdb, "Polars": by_polars}


def differences(place: Place, source: Source) -> list[str]:
    """Where the target differs from what its source's history says; [] is what is wanted."""
    infos = place.infos(source.table.source)
    if not infos:
        return [f"{source.table.source}: there is no table"] if source.rows else []
    folder = place.local(source.table.source)
    found = [
        *(line for name, read in READERS.items() for line in _of_rows(name, read(folder), source)),
        *_of_quarantine(place, source),
        *_of_accounts([info for _, info in infos], place.records()[source.table.source], sum(source.rows.values())),
    ]
    return [f"{source.table.source}: {line}" for line in found]


def _of_rows(reader: str, frame: pl.DataFrame, source: Source) -> Iterable[str]:
    wanted, found = source.rows, _counted(frame, source.table)
    for word, rows in (("are missing", wanted - found), ("should not be there", found - wanted)):
        if rows:
            shown = [str(row)[:200] for row in list(rows)[:_SHOWN]]
            yield f"{reader}: {sum(rows.values())} rows of {sum(wanted.values())} {word}, such as {shown}"


def _counted(frame: pl.DataFrame, table: Table) -> Counter[tuple[Any, ...]]:
    """The rows of a table as the oracle has them."""
    typed = frame.select(pl.col(name).cast(polars_type(kind)) for name, kind in table.columns)
    return Counter(typed.rows())


def _of_quarantine(place: Place, source: Source) -> Iterable[str]:
    """Each bad row stands there once, and nothing else does."""
    folder = f"_quarantine/{source.table.source}/"
    frames = [pl.read_parquet(io.BytesIO(place.read(folder + name))) for name in sorted(place.names(folder))]
    rows = [row for frame in frames for row in frame.select("file", "row").rows()]
    found = Counter((file.rpartition("/")[2], number) for file, number in rows)
    for word, wrong in (
        ("are missing in quarantine", source.must - set(found)),
        ("should not be in quarantine", set(found) - source.must - source.may),
        ("stand in quarantine more than once", {row for row, count in found.items() if count > 1} & source.must),
    ):
        if wrong:
            yield f"{len(wrong)} rows {word}, such as {sorted(wrong)[:_SHOWN]}"


def _of_accounts(infos: list[dict[str, Any]], record: dict[str, Any], rows: int) -> Iterable[str]:
    """Rows in = what became of them, in each commit; all commits together make the table and the record."""
    commits = [info for info in infos if "rows" in info.get("cdcloader", {})]
    totals: Counter[str] = Counter()
    live = 0
    for info in commits:
        account = info["cdcloader"]["rows"]
        if account["in"] != sum(account[kind] for kind in _KINDS):
            yield f"an account that does not add up: {account}"
        totals.update(account)
        live = account["insert"] - account["delete"] + (0 if info["operation"] == "WRITE" else live)
    if live != rows:
        yield f"the accounts amount to {live} rows, and {rows} are wanted"
    for attribute, kind in _TOTALS.items():
        if (record[attribute] or 0) != totals[kind]:
            yield f"the record's {attribute} is {record[attribute]}, and the log's accounts amount to {totals[kind]}"


@functools.cache
def _install_delta_extension() -> None:
    import_extension("delta")
