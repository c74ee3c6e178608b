"""What every step of one table needs: its config, its places, its limits, and how its raw files are read."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import BinaryIO

from cdcloader.changes.evolution import Policy
from cdcloader.changes.schema import Field, Schema
from cdcloader.config import Table
from cdcloader.errors import Stopped, TableError
from cdcloader.lake.key_cache import KeyCache
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.quarantine import Quarantine
from cdcloader.lake.snapshot import Snapshot
from cdcloader.lake.target import Target
from cdcloader.lake.vectors import Vectors
from cdcloader.loader.admission import Admission
from cdcloader.loader.fetch import Ahead
from cdcloader.loader.sightings import Sightings
from cdcloader.loader.sizes import shares_wanted
from cdcloader.loader.transactions import Share, SharedFolder, Transactions
from cdcloader.loader.trouble import Pauses
from cdcloader.objects import Objects
from cdcloader.source.actions import Limits
from cdcloader.source.layouts import Naming, naming_of
from cdcloader.source.names import RawFile
from cdcloader.source.row_format import is_rule_added
from cdcloader.source.rows import CsvFormat, FileInput, RowFormat

_RELOAD_HINT = (
    "reload the table: set LastFullLoadDate to 1900-01-01 00:00:00 (where there are no LOAD files, delete the target's "
    "folder and its state record)"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The bounds of a table's work.

    In memory are, at most and about: `chunk_bytes` of a file's data at once, `fetch_bytes` of small files ahead of
    their use, `batch_bytes` of a batch's rows, `pass_bytes` of net changes at once, `piece_bytes` of a full load.
    """

    owner: str
    limits: Limits
    lease_seconds: float
    look_back_seconds: float
    piece_bytes: int
    chunk_bytes: int
    file_bytes: int = 128 << 20
    fetch_bytes: int = 64 << 20
    batch_bytes: int = 512 << 20
    pass_bytes: int = 128 << 20
    upkeep_seconds: float = 10.0
    pauses: Pauses = field(default_factory=Pauses)


@dataclass(slots=True)
class Stopwatch:
    """Seconds by phase of one step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block to the phase `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Context:
    """One table: `raw` and `lake` are the roots, `log` its Delta log, `now` the clock.

    `stopping` tells long work that the process is about to end. `keys` and `vectors` keep what this process knows of
    data files, for all its tables. `admission` grants memory to all of them; None: `settings` hold as they are.
    `beat` tells the watchdog that work comes on. `sightings` is what this process has seen of the source's folders,
    `naming` how its files are named. `transactions` splits the files that hold the changes of all tables.
    """

    table: Table
    raw: Objects
    lake: Objects
    log: DeltaLog
    settings: Settings
    now: Callable[[], datetime]
    stopping: Callable[[], bool] = lambda: False
    keys: KeyCache = field(default_factory=KeyCache)
    vectors: Vectors = field(default_factory=Vectors)
    admission: Admission | None = None
    beat: Callable[[], None] = lambda: None
    transactions: Transactions = field(default_factory=Transactions)
    sightings: Sightings = field(default_factory=Sightings)
    version: str | None = None
    naming: Naming = field(init=False)

    def __post_init__(self) -> None:
        table = self.table
        object.__setattr__(self, "naming", naming_of(table.timezone, table.layout, table.cdc_path))

    def in_version(self, version: str | None) -> Context:
        """The same table, made of the files of a version; None is the source's own folder."""
        return self if version == self.version else replace(self, version=version)

    @contextmanager
    def admitted(self, files: Sequence[RawFile] = ()) -> Iterator[Context | None]:
        """This context with the memory that was granted for a batch of `files`; None when there is none for now.

        Without files it is one share, which is for work that lasts, or whose files should be of one size always.
        """
        if self.admission is None:
            yield self
            return
        wanted = shares_wanted(files, self.settings.batch_bytes)
        with self.admission.grant(self.table.source, wanted, stopping=self.stopping) as shares:
            self.beat()
            sized = replace(self.settings, **asdict(self.admission.sizes(shares or 1)))
            yield replace(self, settings=sized) if shares else None

    @property
    def folder(self) -> str:
        """The folder of the raw files, with a slash at its end: the source's, or that of one `version` of it."""
        return f"{self.table.source}/{self.version}/" if self.version else f"{self.table.source}/"

    @property
    def path(self) -> str:
        """The key of the table's state record."""
        return self.raw.qualified(f"{self.table.source}/")

    @property
    def key(self) -> tuple[str, ...]:
        """The key columns; () for an insert-only table."""
        return self.table.primary_key or ()

    @property
    def now_ms(self) -> int:
        """The clock in Delta's unit."""
        return int(self.now().timestamp() * 1000)

    def target(self, schema: Schema) -> Target:
        """The target with the columns that it will have."""
        return Target(
            objects=self.lake,
            path=self.table.target,
            schema=schema,
            key=self.key,
            partition_by=self.table.partition_by,
            file_bytes=self.settings.file_bytes,
            now_ms=self.now_ms,
            mode=self.table.write_mode,
            keys=self.keys,
            vectors=self.vectors,
            beat=self.beat,
        )

    @property
    def policy(self) -> Policy:
        """What the config says of columns that change."""
        table = self.table
        return Policy(
            schema=table.schema,
            on_type_change=table.on_type_change,
            key=frozenset(self.key),
            partition_by=frozenset(table.partition_by),
            pinned=table.columns,
        )

    @property
    def source_policy(self) -> Policy:
        """The same of the columns that files have, before rules make others of them: none of these is a key yet."""
        return replace(self.policy, key=frozenset(), partition_by=frozenset())

    def row_format(self, known: Schema) -> RowFormat:
        """How the raw files are read, given the columns whose types are fixed."""
        csv = self.table.csv
        return RowFormat(
            primary_key=self.table.primary_key,
            known=known,
            csv=CsvFormat(
                header=None if csv.header == "auto" else csv.header,
                delimiter=csv.delimiter,
                quote=csv.quote,
                null_values=tuple(csv.null_values),
                no_supplemental_value=csv.no_supplemental_value,
                row_delimiter=None if csv.row_delimiter == "auto" else csv.row_delimiter,
            ),
            timestamps=self.table.timestamps,
            timestamp_column=self.table.timestamp_column,
            sequence_by=self.table.sequence_by,
            keep_columns=self.table.keep_columns,
            before_image=_images(self.table),
            partial_updates=self.table.partial_updates,
            partial_columns=self.table.partial_columns,
            op_column=self.table.op_column,
            changes_without_op=self.table.changes_without_op,
            listed=tuple(self.table.columns),
            by_value=self.table.schema == "quarantine",
            rename=self.table.rename,
        )

    def fetched(self, files: Sequence[RawFile]) -> Ahead:
        """The raw files of a batch, in order, the small ones fetched ahead of their use."""
        inputs = self.inputs(files)
        return Ahead(inputs, lambda place: self._read(files[place], inputs[place]), self.settings.fetch_bytes)

    def inputs(self, files: Sequence[RawFile]) -> list[FileInput]:
        """The raw files as their reader takes them, in the given order."""
        shared = [file for file in files if file.transactions]
        taken = iter(self.transactions.inputs(self._shared_folder(), self.table.source, shared) if shared else [])
        return [
            replace(next(taken), ordinal=ordinal)
            if file.transactions
            else FileInput(
                ordinal=ordinal,
                name=self.raw.path_of(file.key),
                kind=str(file.kind),
                format=file.format,
                gzip=file.gzip,
                size=file.size,
                open=functools.partial(self._open, file),
            )
            for ordinal, file in enumerate(files)
        ]

    def shares(self, files: Sequence[RawFile]) -> list[Share]:
        """What files that hold the changes of all tables hold of this one."""
        return self.transactions.shares(self._shared_folder(), self.table.source, files)

    def _shared_folder(self) -> SharedFolder:
        return SharedFolder(self.raw, self.lake, self.table.cdc_path or "", self.row_format(()).csv, self._keep_going)

    def _keep_going(self) -> None:
        self.beat()
        if self.stopping():
            raise Stopped("the process ends; this work begins again at the next start", where=self.table.source)

    def _read(self, file: RawFile, taken: FileInput) -> bytes:
        if file.transactions:
            with taken.open() as text:
                return text.read()
        # The version that was listed, whose ETag goes into the ledger, and no other.
        content = self.raw.read(file.key, etag=file.etag)
        self.beat()
        return content

    def _open(self, file: RawFile) -> BinaryIO:
        self.beat()
        return self.raw.open_reader(file.key, etag=file.etag)

    def quarantine(self, files: Sequence[RawFile]) -> Quarantine:
        """Where the rejected rows of these files go."""
        etags = {self.raw.path_of(file.key): file.etag for file in files}
        return Quarantine(self.lake, self.table.target, etags)


def overlay(schema: Schema, table: Table) -> Schema:
    """The table's columns with the types that the config gives, and the config's further columns behind them."""
    names = {column.name for column in schema}
    fixed = [Field(c.name, table.columns.get(c.name, c.type), c.nullable, c.metadata) for c in schema]
    # A column of DMS's may be listed for its place in files without a header; the table does not get it.
    listed = {name: kind for name, kind in table.columns.items() if name not in names and not _is_dropped(name, table)}
    return (*fixed, *(Field(name, kind) for name, kind in listed.items()))


def _is_dropped(name: str, table: Table) -> bool:
    if name in table.keep_columns:
        return False
    is_operation = name.lower() == (table.op_column or "").lower()
    return is_operation or is_rule_added(name, tuple(table.columns), _images(table))


def _images(table: Table) -> tuple[str, str] | None:
    """What stands before and behind a column's name in that of its before-image."""
    image = table.before_image
    return (image.prefix, image.suffix) if image is not None else None


def check_columns(table: Table, schema: Schema, where: str) -> None:
    """TableError when the config names columns that the table does not have."""
    names = {column.name for column in schema}
    if not names:
        hint = "wait for the first rows, which tell the columns, or name them under `columns`"
        raise TableError("the files hold no row and no column, so nothing tells the columns", where=where, hint=hint)
    for label, wanted in (
        ("primary_key", table.primary_key or ()),
        ("partition_by", table.partition_by),
        ("partial_columns", table.partial_columns),
    ):
        missing = [name for name in wanted if name not in names]
        if missing:
            raise TableError(
                f"{label} names {', '.join(map(repr, missing))}; the columns are {', '.join(sorted(names))}",
                where=where,
                hint=f"correct {label} in the config (names are case-sensitive); a table that a pattern found may have "
                "an entry of its own, or its key in the pattern's primary_keys",
            )
    if set(table.partition_by) == names:
        raise TableError("partition_by names every column", where=where, hint="a data file needs a column of its own")


def check_same_layout(context: Context, snapshot: Snapshot) -> None:
    """TableError when key or partitions of the config are not those that the target was built with."""
    table = context.table
    if tuple(snapshot.partition_columns) != tuple(table.partition_by):
        raise TableError(
            f"partition_by is {[*table.partition_by]}, the target is partitioned by {[*snapshot.partition_columns]}",
            where=context.log.where,
            hint=f"restore partition_by, or {_RELOAD_HINT}",
        )
    built = snapshot.configuration.get(KEY_PROPERTY)
    if built is not None and built != key_property(table):
        raise TableError(
            f"primary_key is {key_property(table)}, the target was built with {built}",
            where=context.log.where,
            hint=f"restore primary_key, or {_RELOAD_HINT}",
        )


KEY_PROPERTY = "cdcloader.primaryKey"
VERSION_PROPERTY = "cdcloader.sourceVersion"
"""The folder below the source's that the table is made of, where that is not the source's own."""


def key_property(table: Table) -> str:
    """The primary key as the target's properties remember it."""
    return ",".join(table.primary_key) if table.primary_key else "null"
