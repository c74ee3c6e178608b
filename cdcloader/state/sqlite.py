"""State records in a SQLite file: for one machine; an operator may read and edit them with `sqlite3`."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from cdcloader.errors import CdcloaderError, ConfigError, TransientError
from cdcloader.state.record import ATTRIBUTES, COUNT_ATTRIBUTES, Record, from_attributes, to_attributes
from cdcloader.state.replicas import REPLICAS_PATH, Replicas, replicas_from_attributes, replicas_to_attributes
from cdcloader.state.store import (
    changed_attributes,
    changed_meanwhile,
    exists_already,
    guard_attributes,
    replicas_changed,
)

TABLE = "tables"
REPLICAS_TABLE = "replicas"
BUSY_TIMEOUT_SECONDS = 10.0
_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_PROTOCOL", "SQLITE_INTERRUPT")


class SQLiteStore:
    """A `StateStore` in the table `tables` of one file: a row per table, a column per attribute.

    The replicas' item is the one row of the table `replicas`. The file and its folder are created when first used.
    One connection serves all threads in turn; other processes are kept apart by SQLite itself (write-ahead log, busy
    timeout, BEGIN IMMEDIATE).
    """

    def __init__(self, path: str | Path, *, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> None:
        self._path = Path(path)
        self._busy_timeout_seconds = busy_timeout_seconds
        self._lock = threading.RLock()
        self._opened: sqlite3.Connection | None = None

    def get(self, path: str) -> Record | None:
        """The record as it is now, None when there is none."""
        with self._connection() as connection:
            row = _select(connection, path)
        return None if row is None else from_attributes(row)

    def all(self) -> list[Record]:
        """Every record, ordered by path; TableError when one of them is damaged."""
        with self._connection() as connection:
            rows = [dict(row) for row in connection.execute(f'SELECT * FROM "{TABLE}" ORDER BY "path"')]
        return [from_attributes(row) for row in rows]

    def create(self, record: Record) -> None:
        """Store a record that does not exist yet; StateConflict when it does."""
        columns = ", ".join(f'"{name}"' for name in ATTRIBUTES)
        marks = ", ".join(f":{name}" for name in ATTRIBUTES)
        statement = f'INSERT INTO "{TABLE}" ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING'
        with self._transaction() as connection:
            if connection.execute(statement, to_attributes(record)).rowcount == 0:
                raise exists_already(record.path)

    def update(self, old: Record, new: Record) -> Record:
        """Write what differs between `old` and `new`, provided that the guards still are as in `old`."""
        changes, guards = changed_attributes(old, new), guard_attributes(old)
        conditions = ['"path" = :path']
        values: dict[str, object] = {"path": old.path}
        for name, (value, absent_counts) in guards.items():
            absent = f' OR "{name}" IS NULL' if absent_counts else ""
            conditions.append(f'("{name}" = :old_{name}{absent})')
            values[f"old_{name}"] = value
        assignments = ", ".join(f'"{name}" = :new_{name}' for name in changes) or '"path" = "path"'
        values.update({f"new_{name}": value for name, value in changes.items()})
        statement = f'UPDATE "{TABLE}" SET {assignments} WHERE {" AND ".join(conditions)}'
        with self._transaction() as connection:
            if connection.execute(statement, values).rowcount == 0:
                raise changed_meanwhile(old.path)
            row = _select(connection, old.path)
        return new if row is None else from_attributes(row)

    def replicas(self) -> Replicas:
        """The item in which the replicas beat."""
        with self._connection() as connection:
            row = connection.execute(f'SELECT * FROM "{REPLICAS_TABLE}" WHERE "path" = ?', (REPLICAS_PATH,)).fetchone()
        return Replicas() if row is None else replicas_from_attributes(dict(row))

    def put_replicas(self, replicas: Replicas) -> None:
        """Replace it, if the revision before stands there."""
        values = {"path": REPLICAS_PATH, **replicas_to_attributes(replicas), "old": replicas.revision - 1}
        if replicas.revision == 1:
            statement = f'INSERT INTO "{REPLICAS_TABLE}" VALUES (:path, :Revision, :Beats) ON CONFLICT DO NOTHING'
        else:
            change = '"Revision" = :Revision, "Beats" = :Beats'
            statement = f'UPDATE "{REPLICAS_TABLE}" SET {change} WHERE "path" = :path AND "Revision" = :old'
        with self._transaction() as connection:
            if connection.execute(statement, values).rowcount == 0:
                raise replicas_changed(replicas.revision)

    def probe(self) -> None:
        """Open the file (creating it) and take the write lock once; ConfigError when that cannot be."""
        with self._transaction() as connection:
            connection.execute(f'SELECT COUNT(*) FROM "{TABLE}"').fetchone()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._named_errors():
            if self._opened is None:
                self._opened = self._open()
            yield self._opened

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit leaves BEGIN to us; the lock makes the use by several threads safe.
        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN IMMEDIATE")
            _bring_up_to_date(connection)
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.close()
            raise
        # The mode stays with the file. The switch fails while another process opens the file, which then makes it.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
        return connection

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _named(error, str(self._path)) from error


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Create the tables, or add the columns that a file written by an older version lacks."""
    columns = '"path" TEXT PRIMARY KEY NOT NULL, "Revision" INTEGER, "Beats" TEXT'
    connection.execute(f'CREATE TABLE IF NOT EXISTS "{REPLICAS_TABLE}" ({columns})')
    connection.execute(f'CREATE TABLE IF NOT EXISTS "{TABLE}" ("path" TEXT PRIMARY KEY NOT NULL)')
    present = {row["name"].lower() for row in connection.execute(f'PRAGMA table_info("{TABLE}")')}
    for name in ATTRIBUTES:
        if name.lower() not in present:
            kind = "INTEGER" if name in COUNT_ATTRIBUTES else "TEXT"
            connection.execute(f'ALTER TABLE "{TABLE}" ADD COLUMN "{name}" {kind}')


def _select(connection: sqlite3.Connection, path: str) -> dict[str, object] | None:
    statement = f'SELECT * FROM "{TABLE}" WHERE "path" = ?'
    row = connection.execute(statement, (path,)).fetchone()
    return None if row is None else dict(row)


def _named(error: sqlite3.Error | OSError, where: str) -> CdcloaderError:
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith(_PASSING):
        return TransientError(f"the state file cannot be used for now: {error}", where=where)
    return ConfigError(
        f"the state file cannot be used: {error}",
        where=where,
        hint="state.path must be a SQLite file, or a new file in a folder, that this user may write",
    )
