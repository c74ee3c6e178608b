"""The values that the readers of raw files share: a file, its format, a chunk of rows, a file's columns (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl

from cdcloader.changes.changed_keys import BEFORE
from cdcloader.changes.net import FILE, OP, ROW, SEQ, TIME, UNSET
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
    no_supplemental_value: str | None = None
    """The text of a cell that the source did not log."""

    @property
    def nothings(self) -> tuple[str, ...]:
        """All texts that are no value."""
        token = self.no_supplemental_value
        return self.null_values if token is None else (*self.null_values, token)

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
    before_image: tuple[str, str] | None = ("BI_", "")
    """What DMS puts before and behind a column's name to name its before-image; None where it writes none."""
    partial_updates: str = "overwrite"
    partial_columns: tuple[str, ...] = ()

    def is_partial(self, name: str) -> bool:
        """Whether NULL in a U says that the source did not log the column, which then keeps its value."""
        if self.partial_updates != "keep" or self.primary_key is None or name in self.primary_key:
            return False
        return not self.partial_columns or name in self.partial_columns

    def unset_names(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of some columns that a row may leave unset."""
        if self.csv.no_supplemental_value is None or self.primary_key is None:
            return tuple(name for name in names if self.is_partial(name))
        return tuple(name for name in names if name not in self.primary_key)

    op_column: str | None = None
    changes_without_op: str = "refuse"
    listed: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    # Columns that the table lacks, and types that do not fit, make rejects of the rows that need them.
    by_value: bool = False

    @property
    def timestamp_type(self) -> str:
        """The Delta type of a timestamp that names no zone."""
        return "timestamp_ntz" if self.timestamps == "naive" else "timestamp"


@dataclass(frozen=True, slots=True)
class FileInput:
    """One raw file; `ordinal` is its place in the batch, `name` its full key, `size` its bytes as stored.

    Of a file that holds the changes of all tables it is one table's rows: `numbers` gives the number of each in it.
    """

    ordinal: int
    name: str
    kind: str
    format: str
    gzip: bool
    size: int
    open: Callable[[], BinaryIO]
    numbers: Callable[[], npt.NDArray[np.int64]] | None = None


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
    """A file's columns: `names` in the file's order, the two DMS columns, and those that the table gets.

    `before` pairs key columns with the columns that hold them as they were before a change, if DMS writes these.
    """

    names: tuple[str, ...]
    op: str | None
    time: str | None
    source: tuple[str, ...]
    before: tuple[tuple[str, str], ...] = ()


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


def new_names(names: Sequence[str], fmt: RowFormat) -> tuple[str, ...]:
    """Column names with the new ones of `rename`, their before-images' too; case does not matter."""
    if not fmt.rename:
        return tuple(names)
    folded = {old.lower(): new for old, new in fmt.rename.items()}
    found = []
    for name in names:
        stem = before_image_of(name, names, fmt.before_image)
        if stem is not None and fmt.before_image is not None and stem.lower() in folded:
            found.append(folded[stem.lower()].join(fmt.before_image))
        else:
            found.append(folded.get(name.lower(), name))
    return tuple(found)


def renamed(names: Sequence[str], file: FileInput, fmt: RowFormat) -> tuple[str, ...]:
    """A file's column names with the new ones of `rename`; TableError when it has an old and its new name.

    It may have either: the source may have renamed the column itself.
    """
    found = new_names(names, fmt)
    folded = [name.lower() for name in found]
    for old, new in zip(names, found, strict=True):
        if old != new and folded.count(new.lower()) > 1:
            raise TableError(
                f"the file has the columns {old!r} and {new!r}, which rename would make one",
                where=file.name,
                hint="give the old column a new name that no column of the file has",
            )
    return found


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
    helpers = {name for name in names if is_rule_added(name, names, fmt.before_image)}
    source = tuple(
        name for place, name in enumerate(names) if name in kept or (place not in dms and name not in helpers)
    )
    before = {name: before_image_of(name, names, fmt.before_image) for name in names if file.kind == "cdc"}
    images = tuple((key, name) for key in fmt.primary_key or () for name, of in before.items() if of == key)
    op_name, time_name = (None if place is None else names[place] for place in (op, time))
    columns = Columns(tuple(names), op_name, time_name, source, images)
    _require(fmt.primary_key or (), columns.source, "key column", file, columns)
    _require(fmt.sequence_by, columns.names, "sequence_by column", file, columns)
    return columns


def is_rule_added(name: str, names: Sequence[str], image: tuple[str, str] | None) -> bool:
    """Columns that DMS transformation rules add: before-images (BI_) and replication headers (AR_H_)."""
    return name.upper().startswith("AR_H_") or before_image_of(name, names, image) is not None


def before_image_of(name: str, names: Sequence[str], image: tuple[str, str] | None) -> str | None:
    """The column whose before-image a column is; None for any other column. Case does not matter."""
    if image is None:
        return None
    prefix, suffix = (part.upper() for part in image)
    upper = name.upper()
    if not (upper.startswith(prefix) and upper.endswith(suffix) and len(upper) > len(prefix) + len(suffix) > 0):
        return None
    stem = upper[len(prefix) : len(upper) - len(suffix)]
    return next((other for other in names if other.upper() == stem), None)


def _require(needed: Sequence[str], present: Sequence[str], what: str, file: FileInput, columns: Columns) -> None:
    missing = [name for name in needed if name not in present]
    if missing:
        raise TableError(
            f"{what} {', '.join(map(repr, missing))} is missing; the file's columns are {', '.join(columns.names)}",
            where=file.name,
            hint="correct the name (its case too) in the config (of a table that a pattern found: in primary_keys, or "
            "by an entry of its own), or have DMS write the column",
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
        if name in (OP, FILE, ROW, TIME) or name.startswith((SEQ, UNSET, BEFORE)):
            raise TableError(
                f"the column name {name!r} is one that cdcloader uses itself",
                where=file.name,
                hint="rename the column by a DMS transformation rule",
            )
