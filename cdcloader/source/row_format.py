"""The values that the readers of raw files share: a file, its format, a chunk of rows, a file's columns (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import polars as pl

from cdcloader.changes.net import FILE, OP, ROW, SEQ, TIME
from cdcloader.changes.schema import Schema
from cdcloader.errors import TableError

TIMESTAMP_NAMES = ("dms_timestamp", "dmstimestamp")
TIMESTAMP_TEXT = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
REJECT_SCHEMA = {"file": pl.String(), "row": pl.Int64(), "reason": pl.String(), "raw": pl.String()}


@dataclass(frozen=True, slots=True)
class CsvFormat:
    r"""How DMS was told to write CSV.

    `header` None means: look at the first record; `row_delimiter` None: each of \n, \r\n and \r ends a record.
    """

    header: bool | None = None
    delimiter: str = ","
    quote: str | None = '"'
    null_values: tuple[str, ...] = ("",)
    row_delimiter: str | None = None

    @property
    def plain(self) -> bool:
        """Whether the parsers understand it as it is: a delimiter of one byte, and the usual line ends."""
        return len(self.delimiter.encode()) == 1 and self.row_delimiter is None


@dataclass(frozen=True, slots=True)
class RowFormat:
    """What one table's config and target say about its rows; `known` are the columns with a fixed type.

    `listed` are the names under `columns` in the config, in their order.
    """

    primary_key: tuple[str, ...] | None
    known: Schema = ()
    csv: CsvFormat = CsvFormat()
    timestamps: str = "utc"
    timestamp_column: str | None = None
    sequence_by: tuple[str, ...] = ()
    keep_columns: tuple[str, ...] = ()
    op_column: str | None = None
    changes_without_op: str = "refuse"
    listed: tuple[str, ...] = ()

    @property
    def timestamp_type(self) -> str:
        """The Delta type of a timestamp that names no zone."""
        return "timestamp_ntz" if self.timestamps == "naive" else "timestamp"


@dataclass(frozen=True, slots=True)
class FileInput:
    """One raw file; `ordinal` is its place in the batch, `name` its full key, `size` its bytes as stored."""

    ordinal: int
    name: str
    kind: str
    format: str
    gzip: bool
    size: int
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Typed change rows and the rows that could not become one; `rows_in` counts both.

    `misfits` names the wider type for each inferred column whose values outgrew their type; the rows of
    such a chunk are not complete, and the load begins again with the wider types.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame
    rows_in: int
    misfits: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Columns:
    """A file's columns: `names` in the file's order, the two DMS columns, and those that the table gets."""

    names: tuple[str, ...]
    op: str | None
    time: str | None
    source: tuple[str, ...]


def resolve(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """A file's column names, spelled as the known ones where they differ in case alone and unambiguously."""
    exact = set(known)
    folded: dict[str, list[str]] = {}
    for name in known:
        folded.setdefault(name.lower(), []).append(name)
    taken = exact.intersection(names)
    resolved = []
    for name in names:
        candidates = folded.get(name.lower(), [])
        unambiguous = name not in exact and len(candidates) == 1 and candidates[0] not in taken
        resolved.append(candidates[0] if unambiguous else name)
    return tuple(resolved)


def place_of(names: Sequence[str], configured: str) -> int | None:
    """Where the column that the config names stands, in any case; None when the file has none."""
    folded = [name.lower() for name in names]
    return folded.index(configured.lower()) if configured.lower() in folded else None


def is_op(name: str) -> bool:
    """Whether a column has the name that DMS gives to its Op column."""
    return name.strip().lower() == "op"


def usual_time_places(names: Sequence[str]) -> list[int]:
    """Where columns stand that have a usual name of DMS's timestamp column."""
    return [place for place, name in enumerate(names) if name.lower() in TIMESTAMP_NAMES]


def columns_of(names: Sequence[str], op: int | None, time: int | None, file: FileInput, fmt: RowFormat) -> Columns:
    """The role of each column of a file; TableError where the file cannot be read as this table's.

    `op` and `time` are the places of DMS's own Op and of the timestamp column; `op_column` goes before that Op.
    """
    _refuse_unusable(names, file)
    named = None if fmt.op_column is None else place_of(names, fmt.op_column)
    dms = {place for place in (op, named, time) if place is not None}
    op = op if named is None else named
    if op is None and file.kind == "cdc" and fmt.changes_without_op == "refuse":
        raise TableError(
            f"a file of changes without an Op column; its columns are {', '.join(names)}",
            where=file.name,
            hint="DMS leaves it out with cdcInsertsOnly or cdcInsertsAndUpdates unless includeOpForFullLoad is true: "
            "set changes_without_op: insert if all of its rows are rows to insert, or op_column to the name it has",
        )
    kept = set(fmt.keep_columns)
    helpers = {name for name in names if is_rule_added(name, names)}
    source = tuple(
        name for place, name in enumerate(names) if name in kept or (place not in dms and name not in helpers)
    )
    columns = Columns(tuple(names), None if op is None else names[op], None if time is None else names[time], source)
    _require(fmt.primary_key or (), columns.source, "key column", file, columns)
    _require(fmt.sequence_by, columns.names, "sequence_by column", file, columns)
    return columns


def is_rule_added(name: str, names: Sequence[str]) -> bool:
    """Columns that DMS transformation rules add: before images (BI_) and replication headers (AR_H_)."""
    upper = name.upper()
    return upper.startswith("AR_H_") or (
        upper.startswith("BI_") and any(upper.removeprefix("BI_") == other.upper() for other in names)
    )


def _require(needed: Sequence[str], present: Sequence[str], what: str, file: FileInput, columns: Columns) -> None:
    missing = [name for name in needed if name not in present]
    if missing:
        raise TableError(
            f"{what} {', '.join(map(repr, missing))} is missing; the file's columns are {', '.join(columns.names)}",
            where=file.name,
            hint="correct the name (its case too) in the config, or have DMS write the column",
        )


def _refuse_unusable(names: Sequence[str], file: FileInput) -> None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise TableError(
                f"two columns are named {name!r} (a Delta table does not tell case apart)",
                where=file.name,
                hint="rename one of them by a DMS transformation rule",
            )
        seen.add(name.lower())
        if name in (OP, FILE, ROW, TIME) or name.startswith(SEQ):
            raise TableError(
                f"the column name {name!r} is one that cdcloader uses itself",
                where=file.name,
                hint="rename the column by a DMS transformation rule",
            )
