"""Which columns a CSV file has: from its header, or from the table's columns and the width of its rows (pure)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cdcloader.errors import TableError
from cdcloader.source.change_rows import OPERATIONS
from cdcloader.source.csv_records import BYTE_ORDER_MARK, blank_start, first_record, head_records
from cdcloader.source.row_format import (
    TIMESTAMP_NAMES,
    TIMESTAMP_TEXT,
    Columns,
    FileInput,
    RowFormat,
    columns_of,
    is_op,
    is_rule_added,
    new_names,
    place_of,
    renamed,
    resolve,
    usual_time_places,
)

_IDENTIFIER = re.compile(r"[^\W\d][\w$# ]*")
_HEADER_ROWS = 16
_HEAD_ROWS = 200
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
ENCODING_HINT = "cdcloader reads UTF-8, which DMS writes: convert the file, and put it there again"
WIDTH_HINT = "set the table's `columns` to those that the file has, or correct csv.header or csv.delimiter"


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns, and how many bytes of text stand before the first row (byte order mark, header)."""

    columns: Columns
    start: int


def layout(head: bytes, file: FileInput, fmt: RowFormat, names: Sequence[str], *, whole: bool) -> Layout | None:
    """The layout of the file that starts with `head` (`whole`: and ends with it); None if it has no record.

    `names` are the table's columns as far as they are known: the file's may differ in case.
    """
    refuse_wide_encoding(head, file.name)
    mark = len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0
    text = head[mark:]
    records = head_records(text, fmt.csv, _HEADER_ROWS, whole=whole)
    written = [record for record in records if record not in ([], [""])]
    broken_start = next((record == [] for record in records if record != [""]), False)
    # A file of all tables' changes never has a header.
    header = False if file.numbers else fmt.csv.header
    if broken_start and (header or not written):
        raise TableError("the first record's quotes are broken", where=file.name, hint="correct csv.quote")
    if not written and blank_start(text, fmt.csv) == len(text):
        # Empty lines are NULLs in a table with one column, and nothing in any other.
        is_data = bool(records) and header is not True and len(_known_names(fmt)[2]) == 1
        return Layout(_unnamed(records, file, fmt), mark) if is_data else None
    # A quoted empty value is a row of one field, which no table with more columns may pass over.
    written = written or records
    if header is None:
        header = not broken_start and _is_header(new_names(written[0], fmt), fmt)
    if header:
        blank = blank_start(text, fmt.csv)
        end = blank + (first_record(text[blank:], fmt.csv) or len(text))
        return Layout(_named(written, file, fmt, names), mark + end)
    more = head_records(text, fmt.csv, _HEAD_ROWS, whole=whole)
    return Layout(_unnamed([record for record in more if record not in ([], [""])] or written, file, fmt), mark)


def refuse_wide_encoding(head: bytes, where: str) -> None:
    """TableError for a text of two or four bytes to a character, by its byte order mark or its zero bytes."""
    if head.startswith(_WIDE_MARKS) or head.count(0) > len(head) // 4:
        raise TableError("the file is UTF-16 (or UTF-32)", where=where, hint=ENCODING_HINT)


def _is_header(fields: Sequence[str], fmt: RowFormat) -> bool:
    """Whether the first record names the columns and is not a row."""
    if len({field.lower() for field in fields}) < len(fields) and not is_op(fields[0]):
        return False
    names = {field.lower() for field in fields}
    if fmt.op_column is not None and fmt.op_column.lower() in names:
        return True
    if fmt.primary_key and {name.lower() for name in fmt.primary_key} <= names:
        return True
    known = {field.name.lower() for field in fmt.known}
    if known:
        return 2 * len(known & names) > len(names) or is_op(fields[0])
    return all(_IDENTIFIER.fullmatch(field) and field not in OPERATIONS for field in fields)


def _named(records: Sequence[Sequence[str]], file: FileInput, fmt: RowFormat, table_names: Sequence[str]) -> Columns:
    header, rows = records[0], records[1:]
    if any(not name for name in header):
        raise TableError("a column without a name in the header", where=file.name, hint=WIDTH_HINT)
    names = resolve(renamed(header, file, fmt), table_names)
    op = 0 if is_op(header[0]) else None
    if fmt.timestamp_column is not None:
        time = place_of(names, fmt.timestamp_column)
    else:
        of_the_source = set(table_names) - set(fmt.keep_columns)
        candidates = [place for place in usual_time_places(names) if place != op and names[place] not in of_the_source]
        time = next((place for place in candidates if _are_times(rows, place, len(names), fmt)), None)
    return columns_of(names, op, time, file, fmt)


def _are_times(rows: Sequence[Sequence[str]], place: int, width: int, fmt: RowFormat) -> bool:
    return all(_is_time(row[place], fmt) for row in rows if len(row) == width)


def _is_time(value: str, fmt: RowFormat) -> bool:
    return value in fmt.csv.null_values or re.match(TIMESTAMP_TEXT, value) is not None


def _unnamed(records: Sequence[Sequence[str]], file: FileInput, fmt: RowFormat) -> Columns:
    op_name, time_name, body = _known_names(fmt)
    if not body:
        raise TableError(
            "a CSV file without a header, and the table's columns are not known",
            where=file.name,
            hint="name them under `columns:` in the file's order, or "
            + ("have DMS load the table" if file.numbers else "set csv.header: true if there is a header"),
        )
    width = Counter(len(record) for record in records).most_common(1)[0][0]
    rows = [record for record in records if len(record) == width]
    extra = width - len(body)
    # The rows that are taken from a file of all tables' changes begin with their Op, whatever it is.
    has_op = bool(file.numbers) or _is_op_place(rows, file, fmt)
    if extra == 0 and not file.numbers and not (has_op and _cannot_begin_with_op(body, file, fmt)):
        return columns_of(body, None, None, file, fmt)
    # A file may have the Op column alone.
    has_time = width > int(has_op) and all(_is_time(row[int(has_op)], fmt) for row in rows)
    if extra == 1 and has_op:
        return columns_of((op_name, *body), 0, None, file, fmt)
    if extra == 1 and has_time and (file.kind == "load" or fmt.changes_without_op == "insert"):
        return columns_of((time_name, *body), None, 0, file, fmt)
    if extra == 2 and has_op and has_time:
        return columns_of((op_name, time_name, *body), 0, 1, file, fmt)
    raise TableError(
        f"the rows have {width} fields{', Op among them' if has_op else ''}, and the table's columns are {len(body)} "
        f"({', '.join(body)})",
        where=file.name,
        hint=f"the source's columns may have changed: {WIDTH_HINT}",
    )


def _is_op_place(rows: Sequence[Sequence[str]], file: FileInput, fmt: RowFormat) -> bool:
    """Whether the first fields are operations: all of them where Op may be missing, as a column may hold an I too."""
    letters = [OPERATIONS.get(row[0].strip().upper()) for row in rows]
    if file.kind == "load":
        return all(letter == "I" for letter in letters)
    return all(letters) if fmt.changes_without_op == "insert" else any(letters)


def _cannot_begin_with_op(body: Sequence[str], file: FileInput, fmt: RowFormat) -> bool:
    """Whether rows that begin with operations have lost a column: they would be read as shifted by one.

    Changes have Op more often than their first column holds nothing but its letters; a LOAD file seldom has it.
    """
    if fmt.op_column is not None and place_of(body, fmt.op_column) is not None:
        return False
    text = any(field.type == "string" for field in fmt.known if field.name == body[0])
    return file.kind == "cdc" or not text


def _known_names(fmt: RowFormat) -> tuple[str, str, tuple[str, ...]]:
    """The names of the Op and the timestamp column, and the file's other columns in order."""
    listed_op = fmt.op_column is not None and place_of(fmt.listed, fmt.op_column) is not None
    named_op = [] if fmt.op_column is None or listed_op else [fmt.op_column]
    kept_op = [*named_op, *(name for name in fmt.keep_columns if is_op(name))]
    kept_time = [name for name in fmt.keep_columns if name.lower() in TIMESTAMP_NAMES]
    op_name = kept_op[0] if kept_op else "Op"
    time_name = fmt.timestamp_column or (kept_time[0] if kept_time else "DMS_TIMESTAMP")
    dms = {name.lower() for name in (*kept_op, *kept_time, *([fmt.timestamp_column] if fmt.timestamp_column else []))}
    # Where the config says which place a column of DMS's has, the file's order is the config's, and not the table's.
    listed = listed_op or any(is_rule_added(name, fmt.listed, fmt.before_image) for name in fmt.listed)
    known = fmt.listed if listed else tuple(field.name for field in fmt.known)
    body = tuple(name for name in known if name.lower() not in dms)
    return op_name, time_name, body
