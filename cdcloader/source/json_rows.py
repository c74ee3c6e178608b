"""Newline-delimited JSON files to change rows: an object a line, its columns by name (pure).

A key that a line lacks is NULL. Values are parsed like those of CSV, but for what JSON says itself: a number keeps its
digits, a string is not taken for a number when types are inferred, and nested values are kept as JSON text. A line
that is no object is a reject with its number; empty lines are nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import polars as pl

from cdcloader.changes.schema import Schema
from cdcloader.errors import TableError
from cdcloader.source.change_rows import no_rejects, rejected
from cdcloader.source.csv_layout import refuse_wide_encoding
from cdcloader.source.csv_records import BYTE_ORDER_MARK, LONGEST_RECORD
from cdcloader.source.inference import Evidence, evidence
from cdcloader.source.json_values import BadLineError, Names, Number, row_of, text_of
from cdcloader.source.raw_text import raw_text
from cdcloader.source.row_format import (
    TIMESTAMP_NAMES,
    TIMESTAMP_TEXT,
    Chunk,
    Columns,
    FileInput,
    RowFormat,
    columns_of,
    is_op,
    place_of,
    usual_time_places,
)
from cdcloader.source.text_rows import TextReader, types_in_use

# Parsed lines take several times the room of their text.
_BLOCK_PART = 8
_BLOCK_BYTES = 2**18
_STRING_KINDS = frozenset({"timestamp", "date"})
_Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class JsonLayout:
    """A file's columns, and what the values of those look like whose types are not known."""

    columns: Columns
    seen: Mapping[str, Evidence]


@dataclass(slots=True)
class _Block:
    """Some lines of a file: the rows with their numbers and texts, and the lines that are none."""

    rows: list[_Row] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    bad: list[tuple[int, str, bytes]] = field(default_factory=list)


def json_layout(file: FileInput, fmt: RowFormat, names: Sequence[str]) -> JsonLayout | None:
    """The layout of the file, all of which is read, as any line may bring another column; None without a line.

    `names` are the table's columns as far as they are known.
    """
    found = _names(names, fmt)
    known = {column.name for column in fmt.known}
    order: dict[str, None] = {}
    seen: dict[str, Evidence] = {}
    no_times: set[str] = set()
    bad = 0
    for block in _blocks(file, found, _BLOCK_BYTES):
        bad += len(block.bad)
        for row in block.rows:
            order |= dict.fromkeys(row)
        for name in order:
            values = [row[name] for row in block.rows if name in row]
            if name.lower() in TIMESTAMP_NAMES and not all(map(_is_time, values)):
                no_times.add(name)
            if name not in known:
                seen[name] = seen.get(name, Evidence()) | _evidence(values)
    if not order:
        _refuse_without_rows(file, bad)
        return None
    columns = _columns(tuple(order), set(names) - set(fmt.keep_columns), no_times, file, fmt)
    return JsonLayout(columns, seen)


def read_json(
    file: FileInput, fmt: RowFormat, schema: Schema, *, inferred: frozenset[str], chunk_bytes: int
) -> Iterator[Chunk]:
    """The file's rows, in pieces of a part of `chunk_bytes` of its text."""
    table = tuple(column.name for column in schema)
    names = _names((*table, *(column.name for column in fmt.known), *fmt.sequence_by), fmt)
    op = names.of(fmt.op_column or "Op")
    for block in _blocks(file, names, max(chunk_bytes // _BLOCK_PART, 1)):
        extra = [name for name in dict.fromkeys(name for row in block.rows for name in row) if name not in table]
        columns = _columns(
            tuple(dict.fromkeys([*table, op, *fmt.sequence_by, *extra])),
            {*table} - {*fmt.keep_columns},
            set(),
            file,
            fmt,
        )
        types = types_in_use(file, fmt, schema, columns)
        reader = TextReader(file, fmt, schema, columns, types, inferred & types.keys())
        yield _chunk(reader, block)


def _chunk(reader: TextReader, block: _Block) -> Chunk:
    columns, fmt, file = reader.columns, reader.fmt, reader.file
    texts = {name: [text_of(row.get(name)) for row in block.rows] for name in columns.names}
    native = next((name for name in columns.names if is_op(name) and name != columns.op), None)
    if columns.op is not None and native is not None:
        texts[columns.op] = [own or dms for own, dms in zip(texts[columns.op], texts[native], strict=True)]
    if columns.op is not None and (file.kind == "load" or fmt.changes_without_op == "insert"):
        texts[columns.op] = ["I" if op is None else op for op in texts[columns.op]]
    frame = pl.DataFrame(texts, schema=dict.fromkeys(columns.names, pl.String()))
    lines = pl.Series([line.decode() for line in block.lines], dtype=pl.String)
    chunk = reader.typed(frame, pl.Series(block.numbers, dtype=pl.Int64), lines.filter)
    rejects = no_rejects()
    if block.bad:
        numbers, reasons, raw = zip(*block.bad, strict=True)
        shown = [line.decode(errors="backslashreplace") for line in raw]
        rejects = rejected(
            file, pl.Series(numbers, dtype=pl.Int64), pl.Series(reasons, dtype=pl.String), pl.Series(shown)
        )
    rejects = pl.concat([chunk.rejects, rejects]).sort("row")
    return Chunk(chunk.rows, rejects, len(block.rows) + len(block.bad), chunk.misfits)


def _names(known: Sequence[str], fmt: RowFormat) -> Names:
    """The names by the keys of the lines; an old name of `rename` means the new one."""
    names = Names()
    for name in known:
        names.of(name)
    new = {old.lower(): names.of(name) for old, name in fmt.rename.items()}
    if fmt.before_image is not None:
        images = [(old.join(fmt.before_image), name.join(fmt.before_image)) for old, name in fmt.rename.items()]
        new |= {old.lower(): names.of(name) for old, name in images}
    names.spelled.clear()
    names.folded |= new
    return names


def _columns(
    names: tuple[str, ...], of_the_source: set[str], no_times: set[str], file: FileInput, fmt: RowFormat
) -> Columns:
    """The roles of the columns; `no_times` are those whose values are none, whatever their names say."""
    if "" in names:
        raise TableError("a key without a name", where=file.name, hint="name the column, or leave it out")
    op = next((place for place, name in enumerate(names) if is_op(name)), None)
    if fmt.timestamp_column is not None:
        time = place_of(names, fmt.timestamp_column)
    else:
        candidates = (place for place in usual_time_places(names) if names[place] not in of_the_source | no_times)
        time = next(candidates, None)
    return columns_of(names, op, time, file, fmt)


def _is_time(value: object) -> bool:
    return value is None or (type(value) is str and (not value or re.match(TIMESTAMP_TEXT, value) is not None))


def _evidence(values: Sequence[object]) -> Evidence:
    """What some values look like: a string may be a moment, and is never a number."""
    strings = [value for value in values if type(value) is str]
    others = [text_of(value) for value in values if value is None or isinstance(value, Number | bool)]
    seen = evidence(pl.Series(strings, dtype=pl.String))
    if not seen.kinds <= _STRING_KINDS or len(strings) + len(others) < len(values):
        seen = Evidence(kinds=frozenset({"text"}))
    return seen | evidence(pl.Series(others, dtype=pl.String))


def _refuse_without_rows(file: FileInput, bad: int) -> None:
    if bad:
        raise TableError(
            f"not one of {bad} lines is a JSON object",
            where=file.name,
            hint="cdcloader reads newline-delimited JSON in UTF-8: one object a line, no list around them",
        )


def _blocks(file: FileInput, names: Names, block_bytes: int) -> Iterator[_Block]:
    with raw_text(file) as stream:
        number = 0
        for text in _whole_lines(stream, file, block_bytes):
            block = _Block()
            for whole in text.split(b"\n"):
                line = whole.strip()
                if not line:
                    continue
                number += 1
                try:
                    row = row_of(line, names)
                except BadLineError as error:
                    block.bad.append((number, str(error), line))
                    continue
                block.rows.append(row)
                block.numbers.append(number)
                block.lines.append(line)
            if block.rows or block.bad:
                yield block


def _whole_lines(stream: BinaryIO, file: FileInput, block_bytes: int) -> Iterator[bytes]:
    """The text in pieces of about `block_bytes` that end at a line's end, without a byte order mark."""
    rest = stream.read(max(block_bytes, len(BYTE_ORDER_MARK)))
    refuse_wide_encoding(rest[:_BLOCK_BYTES], file.name)
    rest = rest.removeprefix(BYTE_ORDER_MARK)
    while more := stream.read(max(block_bytes, len(rest))):
        rest += more
        end = rest.rfind(b"\n") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > LONGEST_RECORD:
            raise TableError(
                f"a line of more than {LONGEST_RECORD >> 20} MiB", where=file.name,
                hint="cdcloader reads newline-delimited JSON: one object a line, no list around them",
            )  # fmt: skip
    if rest:
        yield rest
