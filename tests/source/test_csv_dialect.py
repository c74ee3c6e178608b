"""CSV with delimiters that no parser takes."""

from __future__ import annotations

import gzip
import io
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.changes.net import ROW
from cdcloader.changes.schema import Field, Schema
from cdcloader.errors import TableError
from cdcloader.source.csv_dialect import plain_piece
from cdcloader.source.csv_records import pieces
from cdcloader.source.rows import CsvFormat, FileInput, RowFormat, describe, read

KNOWN: Schema = (Field("id", "long"), Field("a", "string"), Field("b", "string"))
MARKS = [("||", None), ("~|~", "\n"), ("§", "\r\n"), (",", "\r"), ("|", "<end>"), ("\x1f", "\x1e"), ("||", "\x02\n")]


def fmt(csv, known=KNOWN, **more):
    return RowFormat(primary_key=("id",), known=known, csv=csv, **more)


def load(text, csv, *, chunk_bytes=1 << 20, zipped=False, **more):
    data = text if isinstance(text, bytes) else text.encode()
    stored = gzip.compress(data) if zipped else data
    file = FileInput(0, "s/t/f.csv", "cdc", "csv", zipped, len(stored), lambda: io.BytesIO(stored))
    f = fmt(csv, **more)
    chunks = list(read(file, f, describe([file], f), chunk_bytes=chunk_bytes))
    assert all(chunk.rows_in == chunk.rows.height + chunk.rejects.height for chunk in chunks)
    return pl.concat([c.rows for c in chunks]), pl.concat([c.rejects for c in chunks])


def written(value, csv):
    """A value as DMS writes it: in quotes where it could be misread, as where it ends with half a delimiter."""
    special = f"{csv.delimiter}{csv.row_delimiter or ''}\r\n{csv.quote}"
    if value is None:
        return csv.null_values[0]
    if csv.quote and (value in csv.null_values or any(character in value for character in special)):
        return csv.quote + value.replace(csv.quote, csv.quote * 2) + csv.quote
    return value


def text_of(rows, csv):
    end = csv.row_delimiter or "\n"
    lines = [["I", str(place), *(written(value, csv) for value in row)] for place, row in enumerate(rows)]
    return "".join(csv.delimiter.join(line) + end for line in lines)


VALUES = st.none() | st.text(st.sampled_from([*'ab|~"<>\r\n,\x1f\x02\x01 é§']), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8), st.sampled_from(MARKS), st.integers(1, 80))
def test_values_of_any_text_survive_any_delimiters(rows, marks, chunk_bytes):
    """What stands in quotes may hold delimiters, line ends and quotes, in chunks of any size."""
    delimiter, end = marks
    csv = CsvFormat(header=False, delimiter=delimiter, row_delimiter=end)
    text = text_of(rows, csv)
    for zipped in (False, True):
        got, rejects = load(text, csv, chunk_bytes=chunk_bytes, zipped=zipped)
        assert rejects.is_empty()
        assert got.select("a", "b").rows() == rows
        assert got[ROW].to_list() == list(range(1, len(rows) + 1))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8),
    st.sampled_from([("||", "<end>"), ("\x1f", "\x1e"), ("~~", "\x03")]),
    st.integers(1, 80),
)
def test_without_quotes_line_ends_are_part_of_values(rows, marks, chunk_bytes):
    """rfc4180=false with a row delimiter of its own: quotes and line ends are characters."""
    delimiter, end = marks
    clean = [tuple(_without(value, delimiter + end) or None for value in row) for row in rows]
    csv = CsvFormat(header=False, delimiter=delimiter, row_delimiter=end, quote=None)
    got, rejects = load(text_of(clean, csv), csv, chunk_bytes=chunk_bytes)
    assert rejects.is_empty()
    assert got.select("a", "b").rows() == clean


def _without(value, marks):
    return "".join(character for character in value or "" if character not in marks)


def test_null_tokens_count_without_quotes_only():
    """NULL stands for NULL, "NULL" and "" are texts, and an empty field is what the list says."""
    csv = CsvFormat(delimiter="||", null_values=("NULL",))
    got, _ = load('I||1||NULL||"NULL"\nI||2||||""\n', csv)
    assert got.select("a", "b").rows() == [(None, "NULL"), ("", "")]
    got, _ = load('I||1||NULL||\nI||2||x||""\n', replace(csv, null_values=("", "NULL")))
    assert got.select("a", "b").rows() == [(None, None), ("x", "")]


def test_bad_rows_are_told_as_they_were_written():
    """Each bad row is a reject with its own text; the good ones stay, with their numbers."""
    csv = CsvFormat(delimiter="||", row_delimiter="<end>")
    text = b'I||1||a||b<end>I||2||a<end>I||x||a||b<end>I||4||"a||b<end>I||5||\xff||b<end><end>I||6||"a\n"||b<end>'
    got, rejects = load(text, csv)
    assert got.select("id", "a", ROW).rows() == [(1, "a", 1), (6, "a\n", 6)]
    assert rejects.select("row", "raw").rows() == [
        (2, "I||2||a"),
        (3, "I||x||a||b"),
        (4, 'I||4||"a||b<end>'),
        (5, "I||5||\\xff||b"),
    ]


def test_a_header_is_found_between_any_delimiters():
    """The header's names are the columns, whatever stands between them."""
    csv = CsvFormat(delimiter="~|~", row_delimiter="\r\n")
    got, _ = load("Op~|~id~|~a~|~n\r\nI~|~1~|~x~|~1.50\r\n", csv, known=())
    assert got.select("id", "a", "n").rows()[0][:2] == (1, "x")
    assert str(got["n"][0]) == "1.50"


def test_carriage_returns_alone_end_records():
    """A file of CR line ends is read in pieces too, and a stray quote costs its own row."""
    text = "".join(f"I,{number},a,b\r" for number in range(500))
    got, rejects = load(text, CsvFormat(), chunk_bytes=100)
    assert (got.height, rejects.height) == (500, 0)
    got, rejects = load('I,1,a,b\rI,2,"a,b\rI,3,"x\ry",b\r', CsvFormat(), chunk_bytes=10)
    assert (got["id"].to_list(), rejects["row"].to_list()) == ([1, 3], [2])
    cut = list(pieces(io.BytesIO(text.encode()), 100, CsvFormat(), blank_rows=False))
    assert max(len(piece.text) for piece in cut) <= 200


def test_a_text_with_every_control_character_stops_the_table():
    """Where no character can stand in for a delimiter the file is refused, and not read wrongly."""
    text = "I||1||" + "".join(map(chr, range(32))) + "||b<end>"
    with pytest.raises(TableError, match=r"control character.*"):
        load(text, CsvFormat(delimiter="||", row_delimiter="<end>"))


def test_plain_csv_is_not_rewritten():
    """The usual dialect goes to the parser as it is."""
    (piece,) = pieces(io.BytesIO(b"I,1\n"), 100, CsvFormat(), blank_rows=False)
    assert plain_piece(piece, CsvFormat()) == (piece, CsvFormat())
