"""Newline-delimited JSON files to change rows."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import math
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.changes.net import OP, ROW, TIME
from cdcloader.changes.schema import Field, Schema
from cdcloader.errors import TableError
from cdcloader.source.rows import Chunk, FileInput, RowFormat, describe, read, read_together

ID_NAME: Schema = (Field("id", "long"), Field("name", "string"))


def source(text, kind="cdc", *, zipped=False, name="s/t/f.json"):
    data = text.encode() if isinstance(text, str) else text
    stored = gzip.compress(data) if zipped else data
    return FileInput(7, name, kind, "json", zipped, len(stored), lambda: io.BytesIO(stored))


def fmt(known=ID_NAME, key=("id",), **more):
    return RowFormat(primary_key=key, known=known, **more)


def load(text, f, kind="cdc", *, chunk_bytes=1 << 20, zipped=False, **more):
    file = source(text, kind, zipped=zipped)
    chunks = list(read(file, f, describe([file], f), chunk_bytes=chunk_bytes, **more))
    assert all(chunk.rows_in == chunk.rows.height + chunk.rejects.height for chunk in chunks)
    return Chunk(
        pl.concat([c.rows for c in chunks]), pl.concat([c.rejects for c in chunks]), sum(c.rows_in for c in chunks), {}
    )


def types(text, f, kind="cdc"):
    return {field.name: field.type for field in describe([source(text, kind)], f)}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_changes(chunk_bytes, zipped):
    """A line is a change; its keys may stand in any order, and one that it lacks is NULL."""
    text = '\ufeff{"Op":"I","id":1,"name":"a"}\r\n\n{"name":"","id":2,"Op":"u"}\n{"id":3,"Op":"DELETE"}'
    rows = load(text, fmt(), chunk_bytes=chunk_bytes, zipped=zipped).rows
    assert rows.select("id", "name", OP, ROW, TIME).rows() == [
        (1, "a", "I", 1, None), (2, "", "U", 2, None), (3, None, "D", 3, None),
    ]  # fmt: skip


def test_numbers_keep_every_digit():
    """Identifiers beyond 64 bits, decimals beyond a double, and signs and zeros are as they were written."""
    text = '{"id":9007199254740993,"big":18446744073709551615,"d":12345678901234567890.10,"e":1.5e300,"t":true}\n'
    assert types(text, fmt(known=()), "load") == {
        "id": "long", "big": "decimal(38,0)", "d": "decimal(38,2)", "e": "double", "t": "boolean",
    }  # fmt: skip
    row = load(text, fmt(known=()), "load").rows.row(0)
    assert row[:5] == (9007199254740993, Decimal(2**64 - 1), Decimal("12345678901234567890.10"), 1.5e300, True)
    known = (*ID_NAME, Field("d", "decimal(12,2)"))
    chunk = load('{"id":1,"d":0.1e1}\n{"id":2,"d":1.005}\n{"id":3,"d":"2.50"}\n', fmt(known), "load")
    assert chunk.rows["d"].to_list() == [Decimal("1.00"), Decimal("2.50")]
    assert chunk.rejects["reason"].to_list() == ["column 'd': '1.005' is not a decimal(12,2)"]


def test_a_string_of_digits_is_inferred_as_a_string():
    """Who writes "007", "12" or "true" in quotes means text; moments have no other form than a string."""
    text = (
        '{"id":"12","flag":"true","day":"2024-01-01","at":"2024-01-01 10:00:00","mixed":1}\n{"id":"13","mixed":"1"}\n'
    )
    assert types(text, fmt(known=()), "load") == {
        "id": "string", "flag": "string", "day": "date", "at": "timestamp", "mixed": "string",
    }  # fmt: skip
    assert load(text, fmt(known=()), "load").rows["mixed"].to_list() == ["1", "1"]


def test_known_types_are_parsed_strictly():
    """A value that is none of its column's type puts its row aside, a string may hold any of them."""
    known = (*ID_NAME, Field("flag", "boolean"), Field("x", "double"), Field("b", "binary"), Field("day", "date"))
    text = (
        '{"id":"1","flag":true,"x":NaN,"b":"0aff","day":"2024-02-29"}\n'
        '{"id":2,"flag":0,"x":"-Infinity","b":null,"day":"infinity"}\n{"id":3.5}\n{"id":4,"flag":"x"}\n{"id":5,"day":7}\n'
    )
    chunk = load(text, fmt(known), "load")
    first, second = chunk.rows.select("id", "flag", "x", "b", "day").rows()
    assert math.isnan(first[2])
    assert (first[:2], first[3:]) == ((1, True), (b"\n\xff", dt.date(2024, 2, 29)))
    assert second == (2, False, -math.inf, None, dt.date(9999, 12, 31))
    assert chunk.rejects["reason"].to_list() == [
        "column 'id': '3.5' is not a long", "column 'flag': 'x' is not a boolean", "column 'day': '7' is not a date",
    ]  # fmt: skip


def test_nested_values_become_json_text():
    """Objects and lists are kept as JSON, with the digits of their numbers and the order of their keys."""
    text = '{"id":1,"name":{"b":[1.10, null,true,"é\\u0000"],"a":12345678901234567890}}\n'
    assert load(text, fmt(), "load").rows["name"].to_list() == [
        '{"b":[1.10,null,true,"é\\u0000"],"a":12345678901234567890}'
    ]
    assert types(text, fmt(known=()), "load")["name"] == "string"


def test_bad_lines_are_rejected_by_number():
    """What is no object, not UTF-8, half a character, or names a key twice is a reject; its neighbours stay."""
    lines = [
        b'{"Op":"I","id":1}', b'{"Op":"I","id":2', b"[1]", b'{"Op":"I","id":3,"ID":4}', b'{"Op":"I","id":5,"id":5}',
        b'{"Op":"I","id":6,"name":"\xff"}', b'{"Op":"I","id":7,"name":"\\ud800"}', b'{"Op":"I"}', b'{"id":8}',
        b'{"Op":"I","id":9,"name":"a\tb"}', b"[" * 100_000, b'{"Op":"U","id":10,"name":"\\ud83d\\ude00"}',
        b'{"Op":"I","id":11,"name":' + b'{"a":' * 450 + b"1" + b"}" * 450 + b"}",
    ]  # fmt: skip
    chunk = load(b"\n".join(lines), fmt())
    assert chunk.rows.select("id", "name", ROW).rows() == [(1, None, 1), (10, "😀", 12)]
    assert chunk.rejects.select("row", "reason").rows() == [
        (2, "no JSON object: Expecting ',' delimiter (character 17)"),
        (3, "JSON, but no object"),
        (4, "the key 'id' stands there twice"),
        (5, "the key 'id' stands there twice"),
        (6, "the text is not UTF-8"),
        (7, "half of a surrogate pair is no text"),
        (8, "NULL in key column 'id'"),
        (9, "Op '' is none of I, U, D"),
        (10, "no JSON object: Invalid control character at (character 27)"),
        (11, "no row: it is nested too deeply"),
        (13, "no row: it is nested too deeply"),
    ]
    assert chunk.rejects["raw"][4] == '{"Op":"I","id":6,"name":"\\xff"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"id":1},\n', "not one of 2 lines"),
        ('{"Op":"I","id":1}\n'.encode("utf-16"), "UTF-16"),
        ('{"Op":"I","id":1}\n'.encode("utf-16-le"), "UTF-16"),
        ('{"id":1}\n', "changes_without_op"),
        ('{"Op":"I","name":"a"}\n', "key column 'id' is missing"),
        ('{"Op":"I","id":1,"":2}\n', "without a name"),
    ],
)
def test_what_stops_the_table(text, message):
    """A file that is no NDJSON of this table is refused, with its name."""
    with pytest.raises(TableError, match=rf"s/t/f.json: .*{message}"):
        load(text, fmt())


def test_helpers_are_used_and_dropped():
    """The timestamp column, AR_H_ headers and BI_ images are no columns of the table, unless a name is no helper's."""
    text = (
        '{"Op":"I","dms_timestamp":"2024-01-01 00:00:00.5","id":1,"BI_id":1,"AR_H_CHANGE_SEQ":"","AR_H_X":1}\n'
        '{"Op":"I","dms_timestamp":null,"id":2,"AR_H_CHANGE_SEQ":"20260101000000010000000000000000012"}\n'
    )
    f = fmt(sequence_by=("AR_H_CHANGE_SEQ",))
    rows = load(text, f).rows
    assert rows.columns[:2] == ["id", OP]
    assert rows[TIME].to_list() == [dt.datetime(2024, 1, 1, 0, 0, 0, 500000, dt.UTC), None]
    assert rows["__seq_0"].to_list() == [None, "20260101000000010000000000000000012"]
    assert "dms_timestamp" in types('{"Op":"I","id":1,"dms_timestamp":"soon"}\n', fmt())


def test_load_files_only_insert_and_need_no_op():
    """A LOAD file's rows are inserts, whether or not they say so."""
    chunk = load('{"id":1}\n{"id":2,"op":"I"}\n{"id":3,"op":"U"}\n', fmt(), "load")
    assert chunk.rows.select("id", OP).rows() == [(1, "I"), (2, "I")]
    assert chunk.rejects["reason"].to_list() == ["Op 'U' in a full load, which only inserts"]


def test_small_files_in_order():
    """Neighbours are read one after the other, with row numbers of their own; a column may come with any of them."""
    files = [source('{"Op":"I","id":1}\n'), source(""), source('{"Op":"U","id":1,"Name":"x"}\n{"Op":"D","id":1}\n')]
    schema = describe(files, fmt(known=(ID_NAME[0],)))
    assert [field.name for field in schema] == ["id", "Name"]
    chunks = list(read_together(files, fmt(known=(ID_NAME[0],)), schema, chunk_bytes=1 << 20))
    assert [(c.rows[ROW].to_list(), c.rows["Name"].to_list()) for c in chunks] == [([1], [None]), ([1, 2], ["x", None])]


VALUES = st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.text(max_size=5) | st.lists(st.integers())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=12), st.integers(1, 300))
def test_whatever_json_dumps_writes_is_read(rows, chunk_bytes):
    """Each line is a row whatever its values are, and a text column gets back what was written."""
    text = "".join(json.dumps({"Op": "I", "id": place, **row}) + "\n" for place, row in enumerate(rows))
    if not rows:
        return
    known = (Field("id", "long"), *(Field(name, "string") for name in "abc"))
    got = load(text, fmt(known), chunk_bytes=chunk_bytes).rows
    assert got[ROW].to_list() == list(range(1, len(rows) + 1))
    for name in set("abc") & set(got.columns):
        assert got[name].to_list() == [_text(row.get(name)) for row in rows]
    inferred = load(text, fmt(known=()), chunk_bytes=chunk_bytes)
    assert (inferred.rows.height, inferred.rejects.height) == (len(rows), 0)


def _text(value):
    return value if value is None or isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(['{"Op":"I","id":1}', '{"id"', "\\", '"', "[", "\x00", "\xff", "{}", "1"]), max_size=9))
def test_each_line_is_a_row_or_a_reject(lines):
    """Whatever stands in the lines, none is lost: each has its number among the rows or the rejects."""
    text = "\n".join(['{"Op":"I","id":0}', *lines]).encode("latin-1")
    chunk = load(text, fmt(), chunk_bytes=20)
    numbers = sorted([*chunk.rows[ROW].to_list(), *chunk.rejects["row"].to_list()])
    assert numbers == list(range(1, len(lines) + 2))
