"""The first rows of a raw file as text, whatever its format, for a first look at a prefix (pure)."""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from cdcloader.source.row_format import TIMESTAMP_TEXT

HEAD_BYTES = 256 << 10
HEAD_ROWS = 2_000
DELIMITERS = (",", "|", "\t", ";", "\x1f")
_JUDGED_ROWS = 50
_IDENTIFIER = re.compile(r"[^\W\d][\w$# ]*")
_LETTERS = frozenset("IUD")
_OPS = _LETTERS | {"INSERT", "UPDATE", "DELETE"}
_NULL_TEXTS = ("NULL", r"\N")

Row = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """The first rows of a file; `columns` is () for CSV without a header.

    `op` and `time` are the places of the Op column and of DMS's timestamp column. `delimiter` and `nulls` (texts that
    seem to stand for NULL) are of CSV alone.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    op: int | None = None
    time: int | None = None
    delimiter: str = ","
    nulls: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of fields."""
        return len(self.columns) or (len(self.rows[0]) if self.rows else 0)

    @property
    def looks_timed(self) -> bool:
        """Whether the first of named columns, behind the Op, holds times alone, as DMS's timestamp column does."""
        return self.time is None and bool(self.columns) and _are_times(self.rows, int(self.op is not None))

    def body(self, row: Row) -> Row:
        """A row without what DMS put before it."""
        return tuple(value for place, value in enumerate(row) if place not in (self.op, self.time))

    @property
    def body_columns(self) -> tuple[str, ...]:
        """The columns without those that DMS put before them."""
        return tuple(name for place, name in enumerate(self.columns) if place not in (self.op, self.time))

    def letter(self, row: Row) -> str:
        """The Op of a row: I, U or D; "" without one."""
        return (row[self.op] or "").strip().upper()[:1] if self.op is not None else ""


def csv_head(content: bytes, *, gzip: bool, whole: bool, cdc: bool) -> Head | None:
    """The head of a CSV file that begins with `content` (`whole`: and ends with it); None where there is no row."""
    text = _text(content, gzip=gzip, whole=whole)
    delimiter = max(DELIMITERS, key=lambda each: _fitness(_records(text, each)))
    records = _records(text, delimiter)
    if not records:
        return None
    width = Counter(map(len, records)).most_common(1)[0][0]
    named = _is_header(records[0])
    columns = tuple(records[0]) if named else ()
    values = [tuple(record) for record in records[named:] if len(record) == (len(columns) or width)]
    nulls = tuple(text for text in _NULL_TEXTS if any(text in row for row in values))
    rows = tuple(tuple(None if value == "" or value in nulls else value for value in row) for row in values)
    op = 0 if (_is_op(columns[0]) if columns else _are_letters(rows, cdc=cdc)) else None
    time = _time_place(columns, rows, 0 if op is None else 1)
    return Head(columns, rows, op, time, delimiter, nulls)


def json_head(content: bytes, *, gzip: bool, whole: bool) -> Head | None:
    """The head of a file of JSON objects, one a line."""
    found = []
    for line in _text(content, gzip=gzip, whole=whole).splitlines()[:HEAD_ROWS]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append({str(name): None if each is None else str(each) for name, each in value.items()})
    columns = tuple(dict.fromkeys(name for row in found for name in row))
    if not columns:
        return None
    return _named(columns, tuple(tuple(row.get(name) for name in columns) for row in found))


def parquet_head(stream: BinaryIO) -> Head | None:
    """The head of a Parquet file; ArrowException where it is none."""
    parquet = pq.ParquetFile(stream)
    batch = next(parquet.iter_batches(batch_size=HEAD_ROWS), None)
    columns = tuple(parquet.schema_arrow.names)
    values = [] if batch is None else [_texts(batch.column(place)) for place in range(len(columns))]
    head = _named(columns, tuple(zip(*values, strict=True)))
    required = [place for place, field in enumerate(parquet.schema_arrow) if not field.nullable]
    if head.time is None and len(required) == 1 and _are_times(head.rows, required[0]):
        return Head(head.columns, head.rows, head.op, required[0])
    return head


def _named(columns: tuple[str, ...], rows: tuple[Row, ...]) -> Head:
    op = next((place for place, name in enumerate(columns[:2]) if _is_op(name)), None)
    time = next((place for place in range(len(columns)) if _is_dms_time(columns[place])), None)
    return Head(columns, rows, op, time)


def _texts(column: pa.Array) -> list[str | None]:
    return [None if value is None else str(value) for value in column.to_pylist()]


def _text(content: bytes, *, gzip: bool, whole: bool) -> str:
    """The lines that are there whole."""
    if gzip:
        unpacker = zlib.decompressobj(wbits=31)
        content = unpacker.decompress(content, HEAD_BYTES)
        whole = unpacker.eof
    if not whole:
        content = content[: content.rfind(b"\n") + 1]
    return content.decode("utf-8-sig", errors="replace")


def _records(text: str, delimiter: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    records = []
    try:
        for record in reader:
            if record:
                records.append(record)
            if len(records) > HEAD_ROWS:
                break
    except csv.Error:
        pass  # What was read so far is what there is to judge by.
    return records


def _fitness(records: Sequence[Sequence[str]]) -> tuple[float, int]:
    """How well a delimiter fits: the share of rows of one width, and then that width."""
    widths = Counter(len(record) for record in records[:_JUDGED_ROWS])
    if not widths:
        return (0.0, 0)
    width, count = widths.most_common(1)[0]
    return (count / widths.total() if width > 1 else 0.0, width)


def _is_header(fields: Sequence[str]) -> bool:
    """By the loader's own rule for tables of which nothing is known yet."""
    if len({field.lower() for field in fields}) < len(fields) and not _is_op(fields[0]):
        return False
    return all(_IDENTIFIER.fullmatch(field) and field not in _LETTERS for field in fields)


def _is_op(name: str) -> bool:
    return name.strip().lower() == "op"


def _is_dms_time(name: str) -> bool:
    return name.lower() in ("dms_timestamp", "dmstimestamp")


def _are_letters(rows: Sequence[Row], *, cdc: bool) -> bool:
    """Whether the first fields are Ops: of a file of changes I, U or D, of a full load nothing but I."""
    letters = {(row[0] or "").strip().upper() for row in rows}
    return bool(rows) and letters <= (_OPS if cdc else {"I", "INSERT"})


def _time_place(columns: Sequence[str], rows: Sequence[Row], place: int) -> int | None:
    """The place behind the Op, where the timestamp column stands if there is one: by its name, else by its values."""
    if columns:
        return next((at for at, name in enumerate(columns) if _is_dms_time(name)), None)
    return place if _are_times(rows, place) else None


def _are_times(rows: Sequence[Row], place: int) -> bool:
    values = [row[place] for row in rows if place < len(row)]
    return bool(values) and all(value is not None and re.match(TIMESTAMP_TEXT, value) for value in values)
