"""CSV files to change rows: a fast typed parse of clean pieces, a careful one of pieces with a fault in them (pure)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import BinaryIO, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from cdcloader.changes.schema import Schema, polars_type
from cdcloader.changes.type_names import decimal_parts
from cdcloader.errors import TableError
from cdcloader.source.change_rows import change_rows, no_rejects, rejected, short_op
from cdcloader.source.csv_dialect import NoStandInError, plain_piece, restored
from cdcloader.source.csv_layout import ENCODING_HINT, WIDTH_HINT, Layout, layout
from cdcloader.source.csv_records import (
    BYTE_ORDER_MARK,
    NOT_UTF8,
    Piece,
    first_record,
    holds_odd_zeros,
    pieces,
    sift,
)
from cdcloader.source.raw_text import raw_text
from cdcloader.source.row_format import Chunk, CsvFormat, FileInput, RowFormat
from cdcloader.source.text_rows import TextReader, is_lax, types_in_use
from cdcloader.source.text_values import FALSE_WORDS, TRUE_WORDS, digits_fit, parse_text
from cdcloader.source.unlogged import holds_unlogged, without_unlogged

_HEAD_BYTES = 2**16
_BLOCK_BYTES = 2**22
_THREADS_FROM_BYTES = 2**20
_MAX_PENDING_ROWS = 100_000
_ARROW = {
    "string": pa.string(), "long": pa.int64(), "integer": pa.int32(), "short": pa.int16(), "byte": pa.int8(),
    "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(), "binary": pa.string(),
    "date": pa.date32(), "timestamp": pa.timestamp("us"), "timestamp_ntz": pa.timestamp("us"),
}  # fmt: skip
_INTEGERS = ("long", "integer", "short", "byte")
# The fast parser forgives what would change these values unseen: 007 is 7, t is true.
_MAX_DIGITS = 38


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
    with raw_text(file) as stored:
        stream = stored if file.gzip or file.size > chunk_bytes else io.BytesIO(stored.read())
        names = tuple(dict.fromkeys([*(f.name for f in schema), *(f.name for f in fmt.known)]))
        found = file_layout(stream, file, fmt, names)
        if found is None:
            return
        stream.seek(found.start)
        types = types_in_use(file, fmt, schema, found.columns)
        reader = _Reader(file, fmt, schema, found.columns, types, inferred & types.keys())
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
        try:
            chunk, misshapen = reader.read(*plain_piece(piece, reader.fmt.csv), first)
        except NoStandInError as error:
            raise TableError(
                "every control character occurs in the text, so that it is none", where=reader.file.name,
                hint="look at the file: DMS did not write it as CSV",
            ) from error  # fmt: skip
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
    _refuse_whole_file(reader, pending)
    yield from (chunk for chunk in pending if chunk.rows_in)


def _refuse_whole_file(reader: _Reader, chunks: Sequence[Chunk]) -> None:
    """TableError when the rejects show that the file as a whole is another than its table's."""
    reasons = [reason for chunk in chunks for reason in chunk.rejects.get_column("reason").to_list()]
    widths = sorted({int(found[1]) for reason in reasons if (found := _WIDTH.match(reason))})
    if widths:
        raise TableError(
            f"the file's columns are {len(reader.columns.names)}, and every row has another number of fields "
            f"({', '.join(map(str, widths[:3]))})",
            where=reader.file.name,
            hint=f"the source's columns may have changed: {WIDTH_HINT}",
        )
    if reasons and set(reasons) == {NOT_UTF8}:
        raise TableError("not one row of the file is UTF-8", where=reader.file.name, hint=ENCODING_HINT)


_WIDTH = re.compile(r"expected \d+ fields, got (\d+)$")


@dataclass(frozen=True, slots=True)
class _Reader(TextReader):
    """One CSV file being read; `csv` is how a piece is written, which need not be how its file is."""

    @property
    def single(self) -> bool:
        """Whether the file has one column, so that an empty line is a row."""
        return len(self.columns.names) == 1

    def read(self, piece: Piece, csv: CsvFormat, first: int) -> tuple[Chunk, int]:
        """The piece's chunk, and how many of its rows have a wrong number of fields, or are not UTF-8."""
        fast = None
        if not piece.skipped and not holds_unlogged(piece.text, csv):
            tries = (self._fast(piece, csv, decimals_as_text=way) for way in (True, False))
            fast = next((frame for frame in tries if frame is not None), None)
        if fast is None:
            return self._slow(piece, csv, first)
        numbers = pl.int_range(first, first + fast.height, eager=True)
        rows = change_rows(fast, self.columns, self.file, self.fmt, self.schema, numbers)
        return Chunk(rows, no_rejects(), rows.height, {}), 0

    def _fast(self, piece: Piece, csv: CsvFormat, *, decimals_as_text: bool) -> pl.DataFrame | None:
        """The typed columns, or None when any value or row needs a closer look.

        Polars makes decimals of text in a third of the time that pyarrow takes, but rounds what has more digits.
        """
        as_text = self._read_as_text(piece, csv)
        decimals = {name for name, kind in self.types.items() if decimal_parts(kind) and name not in as_text}
        if not decimals and decimals_as_text:
            return None
        as_text |= decimals if decimals_as_text else set()
        arrow = {name: pa.string() if name in as_text else _arrow_type(kind) for name, kind in self.types.items()}
        try:
            table = self._parse(piece.text, csv, list(self.types), arrow, quoted=piece.quoted)
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
                if parsed.null_count() > column.null_count() or (name in self.inferred and is_lax(column, kind).any()):
                    return None
                typed.append(parsed)
            elif _overflows(column, kind) or (kind in ("float", "double") and column.is_infinite().any()):
                return None
            else:
                typed.append(column.cast(polars_type(kind)))
        frame = pl.DataFrame(typed)
        frame = short_op(frame, self.columns, self.file, self.fmt)
        return frame if self.is_clean(frame) else None

    def _read_as_text(self, piece: Piece, csv: CsvFormat) -> set[str]:
        """The columns that the fast parser cannot be trusted with; they are read as text and parsed strictly."""
        names = {name for name, kind in self.types.items() if kind == "binary" or _is_too_wide(kind)}
        names |= {name for name in self.inferred if self.types[name] == "boolean"}
        integers = {name for name, kind in self.types.items() if kind in _INTEGERS}
        strict = bool(integers & self.inferred)
        odd = bool(integers) and holds_odd_zeros(piece.text, csv, quoted=piece.quoted, hex_only=not strict)
        return names | integers if odd else names

    def _parse(
        self,
        text: memoryview,
        csv: CsvFormat,
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

    def _slow(self, piece: Piece, csv: CsvFormat, first: int) -> tuple[Chunk, int]:
        sifted = _sifted(piece.text, csv, blank_rows=self.single)
        invalid: list[pc.InvalidRow] = []
        texts = self._texts(sifted.text, csv, invalid)
        total = texts.height + len(invalid) + len(sifted.skipped) + len(piece.skipped)
        numbers, cut = _without(np.arange(first, first + total), [s.place for s in piece.skipped])
        numbers, not_utf8 = _without(numbers, [s.place for s in sifted.skipped])
        numbers, misshapen = _without(numbers, [row.number - 1 for row in invalid])
        values, unset = texts, list[pl.Series]()
        if holds_unlogged(sifted.text, csv):
            logged = self._texts(sifted.text, replace(csv, null_values=csv.nothings), [])
            values, unset = without_unlogged(texts, logged, self.columns.op)
        numbered = pl.Series(numbers, dtype=pl.Int64)
        chunk = self.typed(values, numbered, lambda bad: self._raw(texts.filter(bad)), unset)
        broken = [
            *((s.reason, s.raw.decode(errors="backslashreplace")) for s in piece.skipped),
            *((s.reason, restored(s.raw.decode(errors="backslashreplace"), csv, self.fmt.csv)) for s in sifted.skipped),
            *(
                (
                    f"expected {row.expected_columns} fields, got {row.actual_columns}",
                    restored(row.text, csv, self.fmt.csv),
                )
                for row in invalid
            ),
        ]
        rejects = rejected(
            self.file,
            pl.Series(np.concatenate([cut, not_utf8, misshapen]), dtype=pl.Int64),
            pl.Series([reason for reason, _ in broken], dtype=pl.String),
            pl.Series([raw.rstrip("\r\n") for _, raw in broken], dtype=pl.String),
        )
        rejects = pl.concat([chunk.rejects, rejects]).sort("row")
        return Chunk(chunk.rows, rejects, total, chunk.misfits), len(invalid) + len(sifted.skipped)

    def _texts(self, text: memoryview, csv: CsvFormat, invalid: list[pc.InvalidRow]) -> pl.DataFrame:
        """All of the file's columns as text."""
        names = list(self.columns.names)
        if not text:
            return pl.DataFrame(schema=dict.fromkeys(names, pl.String()))
        parsed = self._parse(text, csv, names, dict.fromkeys(names, pa.string()), invalid)
        return cast("pl.DataFrame", pl.from_arrow(parsed))

    def _raw(self, texts: pl.DataFrame) -> pl.Series:
        return pl.Series([render_csv(row, self.fmt.csv) for row in texts.iter_rows()], dtype=pl.String)


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
