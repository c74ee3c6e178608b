"""CSV files to change rows: a fast typed parse of clean pieces, a careful one of pieces with a fault in them (pure)."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import BinaryIO, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from cdcloader.changes.schema import Schema, polars_type
from cdcloader.changes.type_names import decimal_parts
from cdcloader.errors import TableError
from cdcloader.source.change_rows import change_rows, checked_chunk, is_clean, no_rejects, rejected
from cdcloader.source.csv_layout import WIDTH_HINT, Layout, layout
from cdcloader.source.csv_records import BYTE_ORDER_MARK, Piece, first_record, holds_odd_zeros, pieces, sift
from cdcloader.source.inference import INTEGER, widen
from cdcloader.source.row_format import Chunk, Columns, CsvFormat, FileInput, RowFormat
from cdcloader.source.text_values import FALSE_WORDS, TRUE_WORDS, digits_fit, parse_text

_HEAD_BYTES = 2**16
_BLOCK_BYTES = 2**22
_THREADS_FROM_BYTES = 2**20
_SHOWN_CHARS = 60
_MAX_PENDING_ROWS = 100_000
_ARROW = {
    "string": pa.string(), "long": pa.int64(), "integer": pa.int32(), "short": pa.int16(), "byte": pa.int8(),
    "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(), "binary": pa.string(),
    "date": pa.date32(), "timestamp": pa.timestamp("us"), "timestamp_ntz": pa.timestamp("us"),
}  # fmt: skip
_INTEGERS = ("long", "integer", "short", "byte")
# The fast parser forgives what would change these values unseen: 007 is 7, t is true.
_MAX_DIGITS = 38


@contextmanager
def csv_text(file: FileInput) -> Iterator[BinaryIO]:
    """The file's text as a stream of bytes; TableError when a gzip is damaged."""
    try:
        with file.open() as stored:
            yield cast("BinaryIO", gzip.GzipFile(fileobj=stored)) if file.gzip else stored
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TableError(
            "truncated or not gzip",
            where=file.name,
            hint="wait for DMS to write it again, or leave it out if its rows are of no use: cdcloader resume TABLE "
            "--skip FILE",
        ) from error


def file_layout(stream: BinaryIO, file: FileInput, fmt: RowFormat, names: Sequence[str]) -> Layout | None:
    """The file's layout from its first bytes; None for a file without a record."""
    head, wanted = b"", _HEAD_BYTES
    while block := stream.read(wanted):
        head = head + block if head else block
        if len(head) >= wanted and first_record(head, fmt.csv):
            return layout(head, file, fmt, names, whole=False)
        wanted = max(_HEAD_BYTES, len(head))
    return layout(head, file, fmt, names, whole=True)


def read_csv(
    file: FileInput, fmt: RowFormat, schema: Schema, *, inferred: frozenset[str], chunk_bytes: int
) -> Iterator[Chunk]:
    """The file's rows, in pieces of about `chunk_bytes` of its text."""
    with csv_text(file) as stored:
        stream = stored if file.gzip or file.size > chunk_bytes else io.BytesIO(stored.read())
        names = tuple(dict.fromkeys([*(f.name for f in schema), *(f.name for f in fmt.known)]))
        found = file_layout(stream, file, fmt, names)
        if found is None:
            return
        stream.seek(found.start)
        reader = _reader(file, fmt, schema, found.columns, inferred)
        length = None if file.gzip else file.size - found.start
        cut = pieces(stream, chunk_bytes, fmt.csv, blank_rows=reader.single, length=length)
        yield from _same_width(reader, cut)


def render_csv(values: Sequence[str | None], csv: CsvFormat) -> str:
    """One record as text, without its line end."""
    null, quote = (csv.null_values or ("",))[0], csv.quote
    rendered = []
    for value in values:
        text = null if value is None else value
        special = value is not None and (value in csv.null_values or any(c in value for c in f"{csv.delimiter}\r\n"))
        if quote and value is not None and (special or quote in value):
            text = quote + value.replace(quote, quote * 2) + quote
        rendered.append(text)
    return csv.delimiter.join(rendered)


def _same_width(reader: _Reader, cut: Iterator[Piece]) -> Iterator[Chunk]:
    """The pieces' chunks; TableError when not one row of the file has the width of its columns."""
    first, well_formed = 1, False
    pending: list[Chunk] = []
    for piece in cut:
        if not piece.text and not piece.skipped:
            continue
        chunk, misshapen = reader.read(piece, first)
        first += chunk.rows_in
        pending.append(chunk)
        well_formed = well_formed or chunk.rows_in > misshapen + len(piece.skipped)
        # Its text must not wait in memory for the next piece.
        del piece
        if well_formed:
            yield from (chunk for chunk in pending if chunk.rows_in)
            pending = []
        elif first > _MAX_PENDING_ROWS:
            break
    widths = [
        int(w) for chunk in pending for w in chunk.rejects.get_column("reason").str.extract(_WIDTH, 1).drop_nulls()
    ]
    if widths:
        raise TableError(
            f"the file's columns are {len(reader.columns.names)}, and every row has another number of fields "
            f"({', '.join(map(str, sorted(set(widths))[:3]))})",
            where=reader.file.name,
            hint=f"the source's columns may have changed: {WIDTH_HINT}",
        )
    yield from (chunk for chunk in pending if chunk.rows_in)


_WIDTH = r"^expected \d+ fields, got (\d+)$"


def _reader(file: FileInput, fmt: RowFormat, schema: Schema, columns: Columns, inferred: frozenset[str]) -> _Reader:
    fixed = {field.name: field.type for field in schema}
    unknown = [name for name in columns.source if name not in fixed]
    if unknown:
        raise TableError(
            f"column {unknown[0]!r} is not among the columns that were described", where=file.name, hint="describe it"
        )
    types = {name: fixed[name] for name in columns.source}
    if columns.op is not None:
        types[columns.op] = "string"
    types |= {name: "string" for name in fmt.sequence_by if name not in types}
    if columns.time is not None:
        types.setdefault(columns.time, "timestamp")
    return _Reader(file, fmt, schema, columns, types, inferred & types.keys())


@dataclass(frozen=True, slots=True)
class _Reader:
    """One CSV file being read; `types` names the columns in use."""

    file: FileInput
    fmt: RowFormat
    schema: Schema
    columns: Columns
    types: dict[str, str]
    inferred: frozenset[str]

    @property
    def single(self) -> bool:
        """Whether the file has one column, so that an empty line is a row."""
        return len(self.columns.names) == 1

    def read(self, piece: Piece, first: int) -> tuple[Chunk, int]:
        """The piece's chunk, and how many of its rows have a wrong number of fields."""
        fast = None
        if not piece.skipped:
            tries = (self._fast(piece, decimals_as_text=way) for way in (True, False))
            fast = next((frame for frame in tries if frame is not None), None)
        if fast is None:
            return self._slow(piece, first)
        numbers = pl.int_range(first, first + fast.height, eager=True)
        rows = change_rows(fast, self.columns, self.file, self.fmt, self.schema, numbers)
        return Chunk(rows, no_rejects(), rows.height, {}), 0

    def _fast(self, piece: Piece, *, decimals_as_text: bool) -> pl.DataFrame | None:
        """The typed columns, or None when any value or row needs a closer look.

        Polars makes decimals of text in a third of the time that pyarrow takes, but rounds what has more digits.
        """
        as_text = self._read_as_text(piece)
        decimals = {name for name, kind in self.types.items() if decimal_parts(kind) and name not in as_text}
        if not decimals and decimals_as_text:
            return None
        as_text |= decimals if decimals_as_text else set()
        arrow = {name: pa.string() if name in as_text else _arrow_type(kind) for name, kind in self.types.items()}
        try:
            table = self._parse(piece.text, list(self.types), arrow, quoted=piece.quoted)
        except pa.ArrowInvalid:
            return None
        frame = cast("pl.DataFrame", pl.from_arrow(table, rechunk=False))
        typed = []
        for name, kind in self.types.items():
            column = frame.get_column(name)
            if kind == "timestamp":
                typed.append(column.dt.replace_time_zone("UTC"))
            elif name in as_text and name in decimals:
                exact = _exact_decimals(column, kind, table.column(name))
                if exact is None:
                    return None
                typed.append(exact)
            elif name in as_text:
                parsed = parse_text(column, kind)
                if parsed.null_count() > column.null_count() or (name in self.inferred and _lax(column, kind).any()):
                    return None
                typed.append(parsed)
            elif _overflows(column, kind):
                return None
            else:
                typed.append(column.cast(polars_type(kind)))
        frame = pl.DataFrame(typed)
        return frame if is_clean(frame, self.columns, self.file, self.fmt) else None

    def _read_as_text(self, piece: Piece) -> set[str]:
        """The columns that the fast parser cannot be trusted with; they are read as text and parsed strictly."""
        names = {name for name, kind in self.types.items() if kind == "binary" or _is_too_wide(kind)}
        names |= {name for name in self.inferred if self.types[name] == "boolean"}
        integers = {name for name, kind in self.types.items() if kind in _INTEGERS}
        strict = bool(integers & self.inferred)
        csv = self.fmt.csv
        odd = bool(integers) and holds_odd_zeros(piece.text, csv, quoted=piece.quoted, hex_only=not strict)
        return names | integers if odd else names

    def _parse(
        self,
        text: memoryview,
        names: list[str],
        types: dict[str, pa.DataType],
        invalid: list[pc.InvalidRow] | None = None,
        *,
        quoted: bool = True,
    ) -> pa.Table:
        """Parse the columns `names`; rows of a wrong width are appended to `invalid`, or ArrowInvalid.

        Text in which there is no quote (not `quoted`) is parsed a quarter faster when the parser knows.
        """

        def skip(row: pc.InvalidRow) -> str:
            if invalid is None:
                return "error"
            invalid.append(row)
            return "skip"

        if text[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK:
            # The parser takes the first mark away, and here it is the first value's.
            text = memoryview(BYTE_ORDER_MARK + bytes(text))
        careful = invalid is not None
        csv = self.fmt.csv
        quote = csv.quote if quoted else None
        return pc.read_csv(
            pa.BufferReader(text),
            pc.ReadOptions(
                column_names=list(self.columns.names),
                block_size=len(text) + 1 if careful else min(_BLOCK_BYTES, len(text) + 1),
                use_threads=not careful and len(text) >= _THREADS_FROM_BYTES,
            ),
            pc.ParseOptions(
                delimiter=csv.delimiter,
                quote_char=quote or False,
                newlines_in_values=quote is not None,
                ignore_empty_lines=not self.single,
                invalid_row_handler=skip if careful else None,
            ),
            pc.ConvertOptions(
                include_columns=names,
                column_types=types,
                null_values=list(csv.null_values),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=_spellings(TRUE_WORDS),
                false_values=_spellings(FALSE_WORDS),
            ),
        )

    def _slow(self, piece: Piece, first: int) -> tuple[Chunk, int]:
        sifted = _sifted(piece.text, self.fmt.csv, blank_rows=self.single)
        invalid: list[pc.InvalidRow] = []
        texts = self._texts(sifted.text, invalid)
        total = texts.height + len(invalid) + len(sifted.skipped) + len(piece.skipped)
        numbers, cut = _without(np.arange(first, first + total), [s.place for s in piece.skipped])
        numbers, not_utf8 = _without(numbers, [s.place for s in sifted.skipped])
        numbers, misshapen = _without(numbers, [row.number - 1 for row in invalid])
        chunk, misfits = self._typed(texts, pl.Series(numbers, dtype=pl.Int64))
        skipped = (*piece.skipped, *sifted.skipped)
        rejects = rejected(
            self.file,
            pl.Series(np.concatenate([cut, not_utf8, misshapen]), dtype=pl.Int64),
            pl.Series(
                [s.reason for s in skipped]
                + [f"expected {row.expected_columns} fields, got {row.actual_columns}" for row in invalid],
                dtype=pl.String,
            ),
            pl.Series(
                [s.raw.decode(errors="backslashreplace").rstrip("\r\n") for s in skipped] + [r.text for r in invalid],
                dtype=pl.String,
            ),
        )
        return Chunk(chunk.rows, pl.concat([chunk.rejects, rejects]).sort("row"), total, misfits), len(invalid)

    def _texts(self, text: memoryview, invalid: list[pc.InvalidRow]) -> pl.DataFrame:
        """All of the file's columns as text."""
        names = list(self.columns.names)
        if not text:
            return pl.DataFrame(schema=dict.fromkeys(names, pl.String()))
        return cast("pl.DataFrame", pl.from_arrow(self._parse(text, names, dict.fromkeys(names, pa.string()), invalid)))

    def _typed(self, texts: pl.DataFrame, numbers: pl.Series) -> tuple[Chunk, dict[str, str]]:
        typed: list[pl.Series] = []
        reasons = pl.repeat(None, texts.height, dtype=pl.String, eager=True)
        misfits: dict[str, str] = {}
        for name, kind in self.types.items():
            text = texts.get_column(name)
            values = parse_text(text, kind)
            typed.append(values.alias(name))
            failed = text.is_not_null() & values.is_null()
            if name in self.inferred:
                failed |= _lax(text, kind)
                if failed.any():
                    misfits[name] = widen(kind, text.filter(failed), self.fmt.timestamp_type)
            elif failed.any() and name != self.columns.time:
                message = pl.format(
                    f"column '{_escaped(name)}': '{{}}' is not a {kind}", pl.lit(text).str.slice(0, _SHOWN_CHARS)
                )
                reasons = pl.select(pl.coalesce(pl.lit(reasons), pl.when(pl.lit(failed)).then(message))).to_series()
        chunk = checked_chunk(
            pl.DataFrame(typed), self.columns, self.file, self.fmt, self.schema, numbers,
            reasons=reasons, raw=lambda bad: self._raw(texts.filter(bad)),
        )  # fmt: skip
        return chunk, misfits

    def _raw(self, texts: pl.DataFrame) -> pl.Series:
        return pl.Series([render_csv(row, self.fmt.csv) for row in texts.iter_rows()], dtype=pl.String)


def _escaped(name: str) -> str:
    """A column's name for a format string."""
    return name.replace("{", "(").replace("}", ")")


def _arrow_type(kind: str) -> pa.DataType:
    parts = decimal_parts(kind)
    if parts is None:
        return _ARROW[kind]
    precision, scale = parts
    # pyarrow shifts a number to the scale without noticing that 128 bits overflow; fewer digits cannot.
    return pa.decimal128(min(precision, _MAX_DIGITS - scale), scale)


def _is_too_wide(kind: str) -> bool:
    """Whether a decimal's scale leaves no room for that (half of the digits and more are behind the point)."""
    precision, scale = decimal_parts(kind) or (0, 0)
    return min(precision, _MAX_DIGITS - scale) < scale


def _exact_decimals(text: pl.Series, kind: str, parsed: pa.ChunkedArray) -> pl.Series | None:
    """The decimals of a column of text, None when one of them may have been rounded or is none.

    `parsed` is the same column as the parser made it: all of its characters lie side by side.
    """
    _, scale = decimal_parts(kind) or (0, 0)
    values = text.cast(polars_type(kind), strict=False)
    if values.null_count() > text.null_count() or _overflows(values, kind):
        return None
    return values.alias(text.name) if all(digits_fit(chunk, scale) for chunk in parsed.chunks) else None


def _overflows(column: pl.Series, kind: str) -> bool:
    """Whether a decimal has more digits before its point than its type: the fast parser lets them through."""
    parts = decimal_parts(kind)
    if parts is None or column.null_count() == len(column):
        return False
    bound = Decimal(10) ** (parts[0] - parts[1])
    low, high = cast("Decimal", column.min()), cast("Decimal", column.max())
    return not -bound < low <= high < bound


def _spellings(words: Sequence[str]) -> list[str]:
    return sorted({spelling for word in words for spelling in (word, word.upper(), word.capitalize())})


def _lax(text: pl.Series, kind: str) -> pl.Series:
    """Values of an inferred column that parse as its type, and would not be written like that."""
    if kind == "long":
        return ~text.str.contains(INTEGER).fill_null(value=True)
    if kind == "boolean":
        return ~text.is_in(["true", "false"]).fill_null(value=True)
    return pl.repeat(value=False, n=len(text), eager=True)


def _sifted(view: memoryview, csv: CsvFormat, *, blank_rows: bool) -> Piece:
    text = bytes(view)
    try:
        text.decode()
    except UnicodeDecodeError:
        return sift(text, csv, blank_rows=blank_rows)
    return Piece(view)


def _without(numbers: np.ndarray, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The row numbers without those at `places`, and those."""
    return np.delete(numbers, places), numbers[places] if len(places) else numbers[:0]
