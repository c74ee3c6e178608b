"""Samples of CSV files for the inference of types: heads, and pieces from the middle and the end (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, TypeVar, cast

import polars as pl
import pyarrow as pa
import pyarrow.csv as pc

from cdcloader.source.csv_dialect import NoStandInError, plain_piece
from cdcloader.source.csv_layout import Layout
from cdcloader.source.csv_records import Piece, first_end, last_end
from cdcloader.source.inference import Evidence, evidence
from cdcloader.source.raw_text import raw_text
from cdcloader.source.row_format import CsvFormat, FileInput

_T = TypeVar("_T")
_PIECE_BYTES = 2**16
_PIECES = 8
_GZIP_STRIDE_BYTES = 2**23
_GZIP_PIECES = 4


def sample(files: Sequence[tuple[FileInput, Layout]], names: Sequence[str], csv: CsvFormat) -> Mapping[str, Evidence]:
    """What the values of the columns `names` look like in some places of some files."""
    texts: list[pl.DataFrame] = []
    chosen = _spread(files, _PIECES)
    for file, layout in chosen:
        wanted = [name for name in layout.columns.names if name in names]
        if wanted:
            with raw_text(file) as stream:
                cut = _texts(stream, file, layout, _PIECES // len(chosen), csv)
                texts += [_parse(text, layout, wanted, csv) for text in cut]
    sampled = pl.concat(texts, how="diagonal") if texts else pl.DataFrame()
    return {name: evidence(sampled.get_column(name)) if name in sampled.columns else Evidence() for name in names}


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """At most `count` of the items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[place * (len(items) - 1) // (count - 1)] for place in range(count)]


def _texts(stream: BinaryIO, file: FileInput, layout: Layout, count: int, csv: CsvFormat) -> Iterator[bytes]:
    """Pieces of the file that begin and end at a record's end, quotes aside; the first one without the header."""
    if file.gzip:
        head = stream.read(_PIECE_BYTES)
    else:
        head = stream.read(file.size if file.size <= count * _PIECE_BYTES else _PIECE_BYTES)
    rest = len(head) >= _PIECE_BYTES and len(head) != file.size
    text = head[layout.start :]
    yield text[: last_end(text, csv)] if rest else text
    if rest:
        for block in _gzip_pieces(stream) if file.gzip else _plain_pieces(stream, file.size, count):
            start = first_end(block, 0, csv, final=True) or 0
            yield block[start : max(start, last_end(block, csv))]


def _plain_pieces(stream: BinaryIO, size: int, count: int) -> Iterator[bytes]:
    for place in range(1, count):
        stream.seek(place * (size - _PIECE_BYTES) // (count - 1))
        yield stream.read(_PIECE_BYTES)


def _gzip_pieces(stream: BinaryIO) -> Iterator[bytes]:
    """A gzip has to be read from its start, so only its first part is looked at."""
    for place in range(1, _GZIP_PIECES + 1):
        stream.seek(place * _GZIP_STRIDE_BYTES)
        if block := stream.read(_PIECE_BYTES):
            yield block


def _parse(text: bytes, layout: Layout, names: Sequence[str], csv: CsvFormat) -> pl.DataFrame:
    """The rows of a piece as text. A piece cut inside quotes has rows of a wrong width; it is left out then."""
    bad: list[int] = []

    def skip(row: pc.InvalidRow) -> str:
        bad.append(row.number)
        return "skip"

    empty = pl.DataFrame(schema=dict.fromkeys(names, pl.String()))
    if not text.strip():
        return empty
    try:
        quoted = csv.quote is not None and csv.quote.encode() in text
        piece, csv = plain_piece(Piece(memoryview(text), quoted=quoted), csv)
        table = pc.read_csv(
            pa.BufferReader(piece.text),
            pc.ReadOptions(column_names=list(layout.columns.names), block_size=len(piece.text) + 1, use_threads=False),
            pc.ParseOptions(
                delimiter=csv.delimiter,
                quote_char=csv.quote or False,
                newlines_in_values=csv.quote is not None,
                invalid_row_handler=skip,
            ),
            pc.ConvertOptions(
                include_columns=list(names),
                column_types=dict.fromkeys(names, pa.string()),
                null_values=list(csv.nothings),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, NoStandInError):
        return empty
    return empty if bad and quoted else cast("pl.DataFrame", pl.from_arrow(table))
