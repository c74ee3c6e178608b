"""A file of whole transactions, which holds the changes of all tables, to the text of each table's rows (pure).

DMS writes such files with PreserveTransactions: `Op,table,schema,value,...`, without a header, the rows of all tables
in the order of the source. A table's text is its rows as `Op,value,...`, as in a file of its own, with the number that
each of them has in the shared file. Quoting is as strict as in any CSV file (`csv_records`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from cdcloader.source.csv_layout import refuse_wide_encoding
from cdcloader.source.csv_records import (
    BYTE_ORDER_MARK,
    NOT_UTF8,
    Piece,
    Places,
    is_well_quoted,
    pieces,
    record_places,
    split_values,
)
from cdcloader.source.row_format import REJECT_SCHEMA, CsvFormat

TOO_SHORT = "fewer than the three fields that name the operation, the table and its schema"
_NEWLINE, _RETURN = 0x0A, 0x0D
# Where a record has no such field.
_NONE = -1
_HEAD_BYTES = 1 << 16
_RECORDS_AT_ONCE = 1 << 17


@dataclass(frozen=True, slots=True)
class Part:
    """A table's rows in a piece: where their text stands (bytes), and where their numbers do (rows)."""

    text: slice
    rows: slice


@dataclass(frozen=True, slots=True)
class TablesPiece:
    """The rows of a piece of a file, table by table: `parts` tells where, by "schema/table".

    `broken` are the rows of no table: each one's number in the file, from 1, the reason, and its text.
    """

    text: memoryview
    numbers: npt.NDArray[np.uint32]
    parts: Mapping[str, Part]
    broken: pl.DataFrame


def split(stream: BinaryIO, csv: CsvFormat, piece_bytes: int, *, where: str) -> Iterator[TablesPiece]:
    """The rows of a file's text by table, in pieces of about `piece_bytes`; TableError when it is no such file."""
    first = 1
    for piece in pieces(_unmarked(stream, where), max(piece_bytes, 1), csv, blank_rows=False):
        records = _records(piece, csv)
        total = int(records.filled.sum()) + len(piece.skipped)
        skipped = [each.place for each in piece.skipped]
        every = np.arange(first, first + total, dtype=np.int64)
        first += total
        broken = _rows(
            every[skipped],
            [each.reason for each in piece.skipped],
            [each.raw.decode(errors="backslashreplace") for each in piece.skipped],
        )
        numbers = np.delete(every, skipped)
        for some in _few(records):
            count = int(some.filled.sum())
            after = numbers[count] if count < len(numbers) else first
            yield _by_table(some, numbers[:count], csv, broken.filter(pl.col("row") < after))
            numbers, broken = numbers[count:], broken.filter(pl.col("row") >= after)


def names_by_source(names: Collection[str], sources: Collection[str]) -> dict[str, str]:
    """The name under which a file of `names` holds the rows of a source, for each of the `sources` that it has rows of.

    It is spelled as the source is, else with other capitals, if just one of the names and one of the sources is.
    """
    found = {source: source for source in sources if source in names}
    folded_names, folded_sources = _by_folded(names), _by_folded(sources)
    for folded, alike in folded_names.items():
        others = folded_sources.get(folded, [])
        if len(alike) == 1 and len(others) == 1:
            found.setdefault(others[0], alike[0])
    return found


def _by_folded(names: Collection[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.casefold(), []).append(name)
    return found


@dataclass(frozen=True, slots=True)
class _Records:
    """The records of a text. Each array has one place for each record, blank ones too.

    A record begins at `starts`, its Op ends at `ops`, and its third field at `names`; both are _NONE where there are
    fewer fields. `ends` is behind its line end; `filled` says whether it is not blank.
    """

    text: memoryview
    starts: Places
    ops: Places
    names: Places
    ends: Places
    filled: npt.NDArray[np.bool_]


def _unmarked(stream: BinaryIO, where: str) -> BinaryIO:
    """The stream behind its byte order mark."""
    head = stream.read(_HEAD_BYTES)
    refuse_wide_encoding(head, where)
    stream.seek(len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0)
    return stream


def _records(piece: Piece, csv: CsvFormat) -> _Records:
    text = piece.text
    row_end = (csv.row_delimiter or "\n").encode()
    if len(text) and bytes(text[-len(row_end) :]) != row_end and (csv.row_delimiter or text[-1] != _RETURN):
        # Behind the rows of its table there may be others.
        text = memoryview(bytes(text) + row_end)
    data = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(data == ord(csv.quote)) if csv.quote and piece.quoted else np.empty(0, np.int64)
    if not csv.plain or (len(quotes) and not (len(quotes) % 2 == 0 and is_well_quoted(text, quotes, csv))):
        return _with_fields(text, *record_places(text, csv))
    ends = _outside(_line_ends(data), quotes)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
    both = (data[ends - 1] == _NEWLINE) & (data[np.maximum(ends - 2, 0)] == _RETURN) & (ends - 2 >= starts)
    delimiters = _outside(np.flatnonzero(data == ord(csv.delimiter)), quotes)
    return _with_fields(text, starts, ends - 1 - both, ends, delimiters)


def _few(records: _Records) -> Iterator[_Records]:
    """The same records in parts: each takes many times its bytes where they are very short."""
    count = len(records.starts)
    for start in range(0, max(count, 1), _RECORDS_AT_ONCE):
        some = slice(start, start + _RECORDS_AT_ONCE)
        starts, ops, names = records.starts[some], records.ops[some], records.names[some]
        yield _Records(records.text, starts, ops, names, records.ends[some], records.filled[some])


def _line_ends(data: npt.NDArray[np.uint8]) -> Places:
    """The places behind line ends: LF, CR LF, or a CR alone."""
    ends = np.flatnonzero(data == _NEWLINE)
    returns = np.flatnonzero(data == _RETURN)
    if len(returns):
        alone = returns[(returns == len(data) - 1) | (data[np.minimum(returns + 1, len(data) - 1)] != _NEWLINE)]
        ends = np.sort(np.concatenate([ends, alone]))
    return ends + 1


def _outside(places: Places, quotes: Places) -> Places:
    """The places that do not stand inside quotes."""
    return places[np.searchsorted(quotes, places) % 2 == 0] if len(quotes) else places


def _with_fields(text: memoryview, starts: Places, stops: Places, ends: Places, delimiters: Places) -> _Records:
    """Records with the places of their first delimiters; the content of each stands before its place in `stops`."""
    beyond = np.concatenate([delimiters, np.full(3, len(text), np.int64)])
    first = np.searchsorted(delimiters, starts)
    op, second, third = (beyond[first + place] for place in range(3))
    named = second < stops
    return _Records(
        text=text,
        starts=starts,
        ops=np.where(named, op, _NONE),
        names=np.where(named, np.minimum(third, stops), _NONE),
        ends=ends,
        filled=stops > starts,
    )


def _by_table(records: _Records, numbers: npt.NDArray[np.int64], csv: CsvFormat, skipped: pl.DataFrame) -> TablesPiece:
    """The records sorted by their table, in their order; `numbers` are those of the records that are not blank."""
    places = np.flatnonzero(records.filled)
    named = records.ops[places] != _NONE
    short = _broken(records, places[~named], numbers[~named], TOO_SHORT)
    places, numbers = places[named], numbers[named]
    thirds = _thirds(records)
    spelled = thirds.take(pa.array(3 * places + 1)).dictionary_encode()
    tables = [_table_name(raw, csv) for raw in spelled.dictionary.to_pylist()]
    known = {name: at for at, name in enumerate(dict.fromkeys(name for name in tables if name is not None))}
    ids = np.array([len(known) if name is None else known[name] for name in tables], np.uint32)
    table_of = ids[spelled.indices.to_numpy()] if len(places) else np.empty(0, np.uint32)
    nameless = np.flatnonzero(table_of == len(known))
    order = np.argsort(table_of, kind="stable")[: len(places) - len(nameless)]
    rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(table_of, minlength=len(known)))])
    text, bounds = _gathered(thirds, places[order])
    parts = {
        name: Part(slice(int(bounds[rows[at]]), int(bounds[rows[at + 1]])), slice(int(rows[at]), int(rows[at + 1])))
        for name, at in known.items()
    }
    broken = pl.concat([skipped, short, _broken(records, places[nameless], numbers[nameless], NOT_UTF8)]).sort("row")
    return TablesPiece(text, numbers[order].astype(np.uint32), parts, broken)


def _thirds(records: _Records) -> pa.LargeBinaryArray:
    """Each record as three values: its Op, the delimiter before its table's name and the name, and the rest."""
    count = len(records.starts)
    offsets = np.zeros(3 * count + 1, np.int64)
    nameless = records.ops == _NONE
    offsets[0:-1:3] = records.starts
    offsets[1::3] = np.where(nameless, records.starts, records.ops)
    offsets[2::3] = np.where(nameless, records.starts, records.names)
    if count:
        offsets[-1] = records.ends[-1]
    return pa.Array.from_buffers(
        pa.large_binary(), 3 * count, [None, pa.py_buffer(offsets), pa.py_buffer(records.text)]
    )


def _gathered(thirds: pa.LargeBinaryArray, places: Places) -> tuple[memoryview, Places]:
    """The text of the records at `places`, without the names, and where each of them begins (and the last ends)."""
    wanted = np.empty(2 * len(places), np.int64)
    wanted[0::2], wanted[1::2] = 3 * places, 3 * places + 2
    taken = thirds.take(pa.array(wanted))
    _, offsets, text = taken.buffers()
    if not len(places) or offsets is None or text is None:
        return memoryview(b""), np.zeros(1, np.int64)
    bounds = np.frombuffer(offsets, np.int64)[: 2 * len(places) + 1 : 2]
    return memoryview(text)[: int(bounds[-1])], bounds


def _table_name(raw: bytes, csv: CsvFormat) -> str | None:
    """The "schema/table" of a text `,table,schema`; None when that is not UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return None
    table, schema = split_values(raw[len(csv.delimiter.encode()) :], csv)[:2]
    return f"{schema}/{table}"


def _broken(records: _Records, places: Places, numbers: npt.NDArray[np.int64], reason: str) -> pl.DataFrame:
    offsets = pa.py_buffer(np.concatenate([records.starts, records.ends[-1:]]))
    every = pa.Array.from_buffers(
        pa.large_binary(), len(records.starts), [None, offsets, pa.py_buffer(records.text)]
    ).take(pa.array(places))
    try:
        texts = pl.Series(every.cast(pa.large_string()))
    except pa.ArrowInvalid:
        texts = pl.Series([raw.decode(errors="backslashreplace") for raw in every.to_pylist()], dtype=pl.String)
    return _rows(numbers, [reason] * len(places), texts)


def _rows(numbers: npt.NDArray[np.int64], reasons: Sequence[str], texts: Sequence[str] | pl.Series) -> pl.DataFrame:
    broken = {"row": numbers, "reason": reasons, "raw": texts}
    schema = {name: kind for name, kind in REJECT_SCHEMA.items() if name in broken}
    return pl.DataFrame(broken, schema=schema).with_columns(pl.col("raw").str.strip_chars_end("\r\n"))
