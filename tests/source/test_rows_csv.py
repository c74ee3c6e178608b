"""CSV files to change rows."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cdcloader.changes.net import FILE, OP, ROW, TIME
from cdcloader.changes.schema import Field, Schema, polars_schema
from cdcloader.errors import TableError
from cdcloader.source.csv_records import holds_odd_zeros
from cdcloader.source.rows import Chunk, CsvFormat, FileInput, RowFormat, describe, read

UTC = dt.UTC
ID_NAME: Schema = (Field("id", "long"), Field("name", "string"))


def source(text: str | bytes, kind: str = "cdc", *, zipped: bool = False, name: str = "s/t/f.csv") -> FileInput:
    data = text.encode() if isinstance(text, str) else text
    stored = gzip.compress(data) if zipped else data
    return FileInput(7, name, kind, "csv", zipped, len(stored), lambda: io.BytesIO(stored))


def fmt(known: Schema = ID_NAME, key: tuple[str, ...] | None = ("id",), **more: object) -> RowFormat:
    return RowFormat(primary_key=key, known=known, **more)  # type: ignore[arg-type]


def load(
    text: str | bytes | FileInput, f: RowFormat, kind: str = "cdc", *, chunk_bytes: int = 1 << 20, **more: object
) -> Chunk:
    file = text if isinstance(text, FileInput) else source(text, kind)
    schema = describe([file], f)
    chunks = list(read(file, f, schema, chunk_bytes=chunk_bytes, **more))  # type: ignore[arg-type]
    assert all(chunk.rows_in == chunk.rows.height + chunk.rejects.height for chunk in chunks)
    misfits = {name: kind for chunk in chunks for name, kind in chunk.misfits.items()}
    assert chunks
    return Chunk(
        pl.concat([c.rows for c in chunks]),
        pl.concat([c.rejects for c in chunks]),
        sum(c.rows_in for c in chunks),
        misfits,
    )


def test_changes_with_a_header() -> None:
    """A CDC file with a header gives typed rows with operation, file, row number and no time."""
    rows = load('Op,id,name\nI,1,a\nU,2,\nD,3,""\n', fmt()).rows
    assert rows.select("id", "name", OP, FILE, ROW, TIME).rows() == [
        (1, "a", "I", 7, 1, None),
        (2, None, "U", 7, 2, None),
        (3, "", "D", 7, 3, None),
    ]
    assert rows.schema[FILE] == pl.UInt32
    assert rows.schema[TIME] == pl.Datetime("us", "UTC")


@pytest.mark.parametrize("kind", ["load", "cdc"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("time", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_shapes(kind: str, newline: str, *, header: bool, time: bool, zipped: bool) -> None:
    """Header or none, timestamp column or none, gzip or not, LF or CRLF: the same rows."""
    stamp = "2024-05-06 07:08:09.123456"
    lines = [["I", *([stamp] if time else []), "1", "a"], ["I", *([stamp] if time else []), "2", "b"]]
    if header:
        lines.insert(0, ["Op", *(["DMS_TIMESTAMP"] if time else []), "id", "name"])
    text = "\ufeff" + "".join(",".join(line) + newline for line in lines)
    rows = load(source(text, kind, zipped=zipped), fmt()).rows
    expected = dt.datetime(2024, 5, 6, 7, 8, 9, 123456, UTC) if time else None
    assert rows.select("id", "name", OP, ROW, TIME).rows() == [(1, "a", "I", 1, expected), (2, "b", "I", 2, expected)]
    assert rows.columns[:2] == ["id", "name"]


def test_load_without_op() -> None:
    """A LOAD file without Op, with or without the timestamp in front, holds inserts."""
    assert load("1,a\n2,b\n", fmt(), "load").rows[OP].to_list() == ["I", "I"]
    timed = load("2024-01-01 00:00:00,1,a\n", fmt(), "load").rows
    assert timed.select("id", TIME).rows() == [(1, dt.datetime(2024, 1, 1, tzinfo=UTC))]


def test_changes_without_op_are_refused() -> None:
    """A CDC file without an Op column stops the table, with a hint."""
    for text in ("1,a\n", "id,name\n1,a\n"):
        with pytest.raises(TableError, match="Op"):
            load(text, fmt())


def test_headerless_needs_columns() -> None:
    """Without a header and without known columns nothing is guessed."""
    with pytest.raises(TableError, match="columns:"):
        load("I,1,a\n", fmt(known=()))


def test_header_is_found_without_known_columns() -> None:
    """A header that names the key is found, and the types are inferred."""
    f = fmt(known=())
    text = "Op,id,name,amount,at,day,flag\nI,1,a,1.50,2024-01-01 00:00:00,2024-01-01,true\n"
    assert [(x.name, x.type) for x in describe([source(text)], f)] == [
        ("id", "long"), ("name", "string"), ("amount", "decimal(38,2)"), ("at", "timestamp"),
        ("day", "date"), ("flag", "boolean"),
    ]  # fmt: skip
    assert load(text, f).rows.row(0)[:3] == (1, "a", Decimal("1.50"))
    assert load(text.replace("Op,", "").replace("I,", ""), fmt(known=(), key=None), "load").rows_in == 1


def test_names_differ_in_case() -> None:
    """A header that differs from the table in case alone is the table's."""
    assert load("OP,ID,Name\nI,1,a\n", fmt()).rows.columns[:2] == ["id", "name"]


def test_bad_rows_are_rejected_by_number() -> None:
    """Every bad row becomes a reject with its number, reason and text; the good ones stay."""
    text = 'Op,id,name\nI,1,a\nI,2,b,c\nI,3\nX,4,d\nI,,e\nI,abc,"x,y"\n,7,g\n\nU, 8 ,h\nI,+9,i\nI,10,"a""b\nc"\n'
    chunk = load(text, fmt())
    assert chunk.rows_in == 10
    assert chunk.rows.select("id", "name", ROW).rows() == [(1, "a", 1), (8, "h", 8), (9, "i", 9), (10, 'a"b\nc', 10)]
    assert chunk.rejects.drop("file").rows() == [
        (2, "expected 3 fields, got 4", "I,2,b,c"),
        (3, "expected 3 fields, got 2", "I,3"),
        (4, "Op 'X' is none of I, U, D", "X,4,d"),
        (5, "NULL in key column 'id'", "I,,e"),
        (6, "column 'id': 'abc' is not a long", 'I,abc,"x,y"'),
        (7, "Op '' is none of I, U, D", ",7,g"),
    ]
    assert set(chunk.rejects["file"]) == {"s/t/f.csv"}


def test_op_is_trimmed_and_capital() -> None:
    """An Op in small letters or with spaces counts."""
    assert load("Op,id,name\n i ,1,a\nd,1,a\n", fmt()).rows[OP].to_list() == ["I", "D"]


def test_without_a_key_only_inserts() -> None:
    """U and D of a table without a key are rejects."""
    chunk = load("Op,id,name\nI,1,a\nU,1,b\nD,1,b\n", fmt(key=None))
    assert chunk.rows[OP].to_list() == ["I"]
    assert chunk.rejects["reason"].to_list() == [f"{op} needs a primary key; the table has none" for op in "UD"]


def test_stray_quote_swallows_nothing() -> None:
    """A quote that is never closed, or closed in the middle, costs its own row only."""
    chunk = load('Op,id,name\nI,1,"abc\nI,2,b\nI,3,"x"y\nI,4,"d\ne"\nI,5,a"b\n', fmt())
    assert chunk.rows.select("id", "name", ROW).rows() == [(2, "b", 2), (4, "d\ne", 4), (5, 'a"b', 5)]
    assert chunk.rejects["raw"].to_list() == ['I,1,"abc', 'I,3,"x"y']
    tail = load('Op,id,name\nI,1,a\nI,2,"b\nI,3,c\n', fmt(), chunk_bytes=16)
    assert tail.rows["id"].to_list() == [1, 3]


def test_other_encodings() -> None:
    """A row that is not UTF-8 is a reject; UTF-16 stops the table."""
    chunk = load("Op,id,name\nI,1,a\nI,2,é\nI,3,c\n".encode("latin-1"), fmt())
    assert chunk.rows.select("id", ROW).rows() == [(1, 1), (3, 3)]
    assert chunk.rejects.drop("file").rows() == [(2, "the text is not UTF-8", "I,2,\\xe9")]
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        with pytest.raises(TableError, match=r"s/t/f\.csv: the file is UTF-16"):
            load("Op,id,name\n".encode(encoding), fmt())


def test_a_file_in_another_encoding_is_refused() -> None:
    """Where not one row is UTF-8 the file as a whole is not, and none of it is quarantined row by row."""
    for text in ("Op,id,name\nI,1,é\nI,2,ü\n", "I,1,é\nI,2,ü\n"):
        with pytest.raises(TableError, match=r"s/t/f\.csv: not one row of the file is UTF-8"):
            load(text.encode("latin-1"), fmt())


def test_a_type_is_not_inferred_from_infinite_moments() -> None:
    """A column of dates and infinity is text, because infinity would be another value as a date."""
    text = "Op,id,day\nI,1,2024-01-01\nI,2,infinity\n"
    assert [field.type for field in describe([source(text)], fmt(known=()))] == ["long", "string"]


def test_every_row_too_wide_stops_the_table() -> None:
    """When no row has the header's width, the columns have changed, and the file is not quarantined."""
    for text in ("Op,id,name\nI,1,a,x\nI,2,b,x\n", "I,1,a,x\nI,2,b,x\n"):
        with pytest.raises(TableError, match=r"s/t/f.csv.*columns"):
            load(text, fmt())


def test_gzip_truncated() -> None:
    """A truncated gzip stops the table."""
    stored = gzip.compress(b"Op,id,name\n" + b"I,1,a\n" * 100)
    for bad in (stored[:-4], stored[:20], b"Op,id,name\nI,1,a\n"):
        file = FileInput(0, "f.csv.gz", "cdc", "csv", True, len(bad), lambda bad=bad: io.BytesIO(bad))  # type: ignore[misc]
        with pytest.raises(TableError, match="truncated or not gzip"):
            list(read(file, fmt(), ID_NAME, chunk_bytes=1 << 20))


@pytest.mark.parametrize("text", ["", "Op,id,name\n", "Op,id,name", "\n"])
def test_nothing_in_the_file(text: str) -> None:
    """0 bytes or a header alone is no row and no error."""
    schema = describe([source(text)], fmt())
    assert list(read(source(text), fmt(), schema, chunk_bytes=100)) == []


def test_columns_that_the_file_lacks_are_null() -> None:
    """A described column that one file lacks is NULL in its rows."""
    old, new = source("Op,id,name\nI,1,a\n"), source("Op,id,name,extra\nI,1,a,5\n")
    schema = describe([old, new], fmt())
    assert [field.name for field in schema] == ["id", "name", "extra"]
    (chunk,) = read(old, fmt(), schema, chunk_bytes=100)
    assert chunk.rows.row(0)[:3] == (1, "a", None)
    assert chunk.rows.schema["extra"] == pl.Int64


@pytest.mark.parametrize(
    ("header", "message"), [("Op,name\nI,a\n", "key column 'id' is missing"), ("Op,id,ID\nI,1,2\n", "two columns")]
)
def test_unusable_columns(header: str, message: str) -> None:
    """A missing key column and a doubled name stop the table."""
    with pytest.raises(TableError, match=message):
        load(header, fmt())


def test_helpers_are_used_and_dropped() -> None:
    """Before images, replication headers and timestamps are dropped unless they are kept; sequences are copied."""
    text = (
        "Op,dmsTimestamp,id,name,BI_id,BI_other,AR_H_CHANGE_SEQ\n"
        'I,2024-01-01 00:00:00.5,1,a,1,x,00009\nU,2024-01-01 00:00:01,1,b,1,x,""\n'
    )
    rows = load(text, fmt(known=(), sequence_by=("AR_H_CHANGE_SEQ", "id"))).rows
    assert rows.columns[:3] == ["id", "name", "BI_other"]
    assert rows["__seq_0"].to_list() == ["00009", None]
    assert rows["__seq_1"].to_list() == [1, 1]
    assert rows[TIME].to_list()[0] == dt.datetime(2024, 1, 1, 0, 0, 0, 500000, UTC)
    kept = load(text, fmt(known=(), keep_columns=("Op", "dmsTimestamp", "AR_H_CHANGE_SEQ"))).rows
    assert kept.row(0)[:6] == ("I", "2024-01-01 00:00:00.5", 1, "a", "x", "00009")
    assert kept[TIME].null_count() == 0
    with pytest.raises(TableError, match="sequence_by column 'nope'"):
        load(text, fmt(known=(), sequence_by=("nope",)))


def test_every_type() -> None:
    """Each type reads its texts, on the fast path and beside a broken row."""
    known = tuple(
        Field(f"c_{kind}", kind)
        for kind in (
            "byte",
            "short",
            "integer",
            "float",
            "double",
            "boolean",
            "binary",
            "date",
            "timestamp",
            "timestamp_ntz",
        )
    )
    known = (Field("id", "long"), *known, Field("d", "decimal(12,2)"))
    row = "I,1,-5,300,70000,1.5,+2.5e+01,T,0aFF,2024-02-29,2024-02-29 10:11:12.123456,2024-02-29 10:11:12,-00012.50"
    at = dt.datetime.fromisoformat("2024-02-29 10:11:12")
    expected = (
        1,
        -5,
        300,
        70000,
        1.5,
        25.0,
        True,
        b"\n\xff",
        dt.date(2024, 2, 29),
        at.replace(microsecond=123456, tzinfo=UTC),
        at,
    )
    for text in (row + "\n", row + "\nI,2\n"):
        rows = load(text, fmt(known=known)).rows
        assert rows.row(0)[:12] == (*expected, Decimal("-12.50"))
        assert {k: rows.schema[k] for k in polars_schema(known)} == polars_schema(known)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("timestamp", "2024-01-01T10:00:00.123456789Z", dt.datetime(2024, 1, 1, 10, 0, 0, 123456, UTC)),
        ("timestamp", "2024-01-01 10:00:00+02:30", dt.datetime(2024, 1, 1, 7, 30, tzinfo=UTC)),
        ("timestamp", "2024-01-01 10:00", dt.datetime(2024, 1, 1, 10, tzinfo=UTC)),
        ("timestamp", "2024-01-01 23:59:60", None),
        ("timestamp_ntz", "2024-01-01 10:00:00Z", None),
        ("timestamp", "2024-02-30 10:00:00", None),
        ("date", "2024-01-01 00:00:00", dt.date(2024, 1, 1)),
        ("date", "2024-01-01 10:00:00", None),
        ("decimal(5,2)", "1e2", Decimal("100.00")),
        ("decimal(5,2)", "1.005", None),
        ("decimal(5,2)", "1.50000", Decimal("1.50")),
        ("decimal(5,2)", "1000", None),
        ("decimal(5,2)", "1e9", None),
        ("decimal(5,2)", ".", None),
        ("decimal(38,10)", "1" * 28, Decimal("1" * 28)),
        ("decimal(38,10)", "1" * 30, None),
        ("decimal(38,0)", "9" * 38, Decimal("9" * 38)),
        ("decimal(38,30)", "1." + "1" * 30, Decimal("1." + "1" * 30)),
        ("decimal(38,30)", "1" * 9, None),
        ("timestamp", "infinity", dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("timestamp_ntz", "-Infinity", dt.datetime(1, 1, 1)),  # noqa: DTZ001 (without a zone)
        ("date", "infinity", dt.date(9999, 12, 31)),
        ("date", "-infinity", dt.date(1, 1, 1)),
        ("date", "0001-01-01", dt.date(1, 1, 1)),
        ("timestamp", "1899-12-31 23:59:59.5", dt.datetime(1899, 12, 31, 23, 59, 59, 500000, UTC)),
        ("timestamp", "4713-01-01 00:00:00 BC", None),
        ("double", "1e400", None),
        ("double", "-Infinity", -math.inf),
        ("float", "1e39", None),
        ("float", "INF", math.inf),
        ("boolean", "T", True),
        ("boolean", "0", False),
        ("byte", "128", None),
        ("integer", "0x1F", None),
        ("boolean", "FALSE", False),
        ("boolean", "yes", None),
        ("binary", "0x0a", b"\n"),
        ("binary", "abc", None),
        ("long", '""', None),
    ],
)
def test_values(kind: str, text: str, value: object) -> None:
    """A value that parses is exact; one that does not makes its row a reject."""
    chunk = load(f"I,1,{text}\nI,2,\n", fmt(known=(Field("id", "long"), Field("v", kind))))
    if value is None:
        assert chunk.rows["id"].to_list() == [2]
        shown = text.strip('"')
        assert chunk.rejects["reason"].to_list() == [f"column 'v': '{shown}' is not a {kind}"]
    else:
        assert chunk.rows["v"].to_list() == [value, None]


def test_null_words() -> None:
    """Configured null words are NULL where they are not quoted."""
    f = fmt(csv=CsvFormat(null_values=("NULL",), delimiter="|"))
    assert load('I|1|NULL\nI|2|"NULL"\nI|3|\n', f).rows["name"].to_list() == [None, "NULL", ""]


def test_quoting_off() -> None:
    """With quoting off a quote is a character."""
    assert load('I,1,"a\nI,2,b"\n', fmt(csv=CsvFormat(quote=None))).rows["name"].to_list() == ['"a', 'b"']


def test_one_column() -> None:
    """In a table with one column an empty line is a NULL."""
    f = fmt(known=(Field("v", "long"),), key=None)
    assert load("1\n\n3\n", f, "load").rows["v"].to_list() == [1, None, 3]
    assert load("\n\n", f, "load").rows["v"].to_list() == [None, None]


@pytest.mark.parametrize(
    ("values", "late", "wider"),
    [
        ("1 2", "007", "string"),
        ("1 2", "+7", "string"),
        ("1 2", "9223372036854775808", "decimal(38,0)"),
        ("1 2", "1.5", "decimal(38,10)"),
        ("1.50 2.25", "1.125", "decimal(38,10)"),
        ("true false", "1", "string"),
        ("2024-01-01", "x", "string"),
    ],
)
def test_misfits_widen(values: str, late: str, wider: str) -> None:
    """A value that outgrows an inferred type is reported with the wider type and not rejected."""
    f = fmt(known=(Field("id", "long"),))
    head = "Op,id,v\n" + "".join(f"I,1,{v}\n" for v in values.split())
    schema = describe([source(head)], f)
    (chunk,) = read(source(f"{head}I,9,{late}\n"), f, schema, inferred=frozenset({"v"}), chunk_bytes=1000)
    assert chunk.misfits == {"v": wider}
    assert chunk.rejects.is_empty()


def test_large_file_is_sampled_in_its_middle() -> None:
    """Types come from several places of a large file, plain or gzip, and from the last file."""
    body = "".join(f"I,{i},{i}\n" for i in range(200_000)) + "".join(f"I,{i},{i}.5\n" for i in range(200_000))
    text = f"Op,id,v\n{body}"
    f = fmt(known=(Field("id", "long"),))
    assert describe([source(text)], f)[1].type == "decimal(38,10)"
    assert describe([source("Op,id,v\nI,1,1\n"), source("Op,id,v\nI,1,x\n", zipped=True)], f)[1].type == "string"


TYPES: dict[str, st.SearchStrategy[object]] = {
    "long": st.integers(-(2**63), 2**63 - 1),
    "short": st.integers(-(2**15), 2**15 - 1),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "boolean": st.booleans(),
    "decimal(12,2)": st.decimals(-9_999_999_999, 9_999_999_999, places=2),
    "date": st.dates(),
    "timestamp": st.datetimes().map(lambda t: t.replace(tzinfo=UTC)),
    "string": st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=8),
    "binary": st.binary(max_size=4),
}


WRITTEN: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "",
    bool: lambda value: str(value).lower(),
    bytes: lambda value: f'"{value.hex()}"',
    dt.datetime: lambda value: value.replace(tzinfo=None).isoformat(" "),
    float: "{:+.16e}".format,
    str: lambda value: '"' + value.replace('"', '""') + '"',
}


def written(value: object) -> str:
    return WRITTEN.get(type(value), str)(value)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Schema, list[tuple[object, ...]]]:
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4))
    schema = (Field("id", "long"), *(Field(f"c{place}", kind) for place, kind in enumerate(kinds)))
    row = st.tuples(st.integers(0, 9), *(st.none() | TYPES[kind] for kind in kinds))
    return schema, draw(st.lists(row, max_size=12))


@settings(max_examples=150, deadline=None)
@given(tables(), st.integers(1, 300), st.booleans(), st.booleans())
def test_roundtrip(
    table: tuple[Schema, list[tuple[object, ...]]], chunk_bytes: int, header: bool, zipped: bool
) -> None:
    """Any typed frame written as CSV reads back equal, in chunks of any size."""
    schema, rows = table
    lines = ["Op," + ",".join(field.name for field in schema)] if header else []
    lines += ["I," + ",".join(written(value) for value in row) for row in rows]
    file = source("".join(line + "\n" for line in lines), zipped=zipped)
    chunks = list(read(file, fmt(known=schema), describe([file], fmt(known=schema)) or schema, chunk_bytes=chunk_bytes))
    assert not any(chunk.rejects.height for chunk in chunks)
    expected = pl.DataFrame(rows, schema=polars_schema(schema), orient="row")
    got = pl.concat([chunk.rows for chunk in chunks]) if chunks else None
    if got is None:
        assert not rows
        return
    assert_frame_equal(got.select(expected.columns), expected, check_exact=True)
    assert got[ROW].to_list() == list(range(1, len(rows) + 1))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=30),
    st.dictionaries(st.integers(0, 29), st.sampled_from([",", "x", '"', '""', 'q"', ",,,", "\xff"]), max_size=5),
    st.integers(1, 200),
)
def test_corrupted_lines(ids: list[int], damage: dict[int, str], chunk_bytes: int) -> None:
    """Whatever is written into some lines, each line is a row or a reject, and the good ones survive."""
    lines = [f"I,{number},v{place}" for place, number in enumerate(ids)]
    damage = {place: text for place, text in damage.items() if 0 < place < len(lines)}
    for place, text in damage.items():
        half = len(lines[place]) // 2
        lines[place] = lines[place][:half] + text + lines[place][half:]
    text = "Op,id,name\n" + "".join(line + "\n" for line in lines)
    chunk = load(text.encode("latin-1"), fmt(), chunk_bytes=chunk_bytes)
    assert chunk.rows_in == len(lines)
    numbers = sorted([*chunk.rows[ROW].to_list(), *chunk.rejects["row"].to_list()])
    assert numbers == list(range(1, len(lines) + 1))
    good = [place + 1 for place in range(len(lines)) if place not in damage]
    assert set(good) <= set(chunk.rows[ROW].to_list())


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=5),
        min_size=1,
        max_size=6,
    )
)
def test_csv_module_agrees(names: list[str]) -> None:
    """What Python's csv module writes is read as it was."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerows([["I", place, name] for place, name in enumerate(names)])
    assert load(out.getvalue(), fmt()).rows["name"].to_list() == names


def test_floats_that_are_no_numbers() -> None:
    """NaN and infinity are doubles."""
    values = load("I,1,nan\nI,2,inf\n", fmt(known=(Field("id", "long"), Field("v", "double")))).rows["v"].to_list()
    assert math.isnan(values[0])
    assert math.isinf(values[1])


@pytest.mark.parametrize("value", ["007", "-0", "0x1F", "00", "-07", " 01", '"01"'])
@pytest.mark.parametrize("first", [True, False])
def test_an_odd_zero_is_noticed_wherever_a_value_begins(value, first):
    """The fast parser would make 7 of 007: such a value is seen at the text's start, after a delimiter, quoted."""
    text = f"{value},1\n" if first else f"5,{value}\n"
    assert holds_odd_zeros(memoryview(text.encode()), CsvFormat(), hex_only=False)
    assert holds_odd_zeros(memoryview(text.encode()), CsvFormat(), hex_only=True) == ("x" in value)


def test_dates_and_fractions_are_no_odd_zeros():
    """What begins with a zero, or holds one after a dash, and is no integer at all does not slow the parser down."""
    text = b"0,0.5,-0.5,2020-01-02 00:00:00,100,20,-10,a007\n0,0,0\n"
    assert not holds_odd_zeros(memoryview(text), CsvFormat(), hex_only=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1.50", "1.50"), ("1.5", "1.50"), ("7", "7.00"), ("1.500", "1.50"), ("15e-1", "1.50"), ("-0.05", "-0.05")],
)
def test_a_decimal_is_exact_however_it_is_written(value, expected):
    """Fewer digits, zeros behind the scale and exponents are values; none of them is rounded."""
    known: Schema = (Field("id", "long"), Field("v", "decimal(12,2)"))
    rows = load(f"id,v\n1,{value}\n", fmt(known), "load").rows
    assert [str(v) for v in rows["v"]] == [expected]


@pytest.mark.parametrize("value", ["1.005", "15e-3", "1.0000000000000000001", "99999999999.00"])
def test_a_decimal_that_would_be_rounded_is_a_reject(value):
    """More digits than the type has, before or behind the point, put the row aside instead of changing it."""
    known: Schema = (Field("id", "long"), Field("v", "decimal(12,2)"))
    chunk = load(f"id,v\n1,{value}\n2,3\n", fmt(known), "load")
    assert (chunk.rows["id"].to_list(), chunk.rejects["row"].to_list()) == ([2], [1])


def test_a_record_of_one_quoted_empty_value_is_a_row() -> None:
    """Of a table with more columns it is a row of a wrong width; it does not vanish with the empty lines."""
    with pytest.raises(TableError, match="the rows have 1 fields"):
        load('""\n', fmt(csv=CsvFormat(header=False)))


def test_a_file_that_has_the_op_column_alone_is_refused() -> None:
    """It is no crash: the widths differ."""
    with pytest.raises(TableError, match="the rows have 1 fields"):
        load("I\nD\n", RowFormat(("id",), ID_NAME, csv=CsvFormat(header=False)))


def test_a_byte_order_mark_inside_a_file_belongs_to_its_value() -> None:
    """Only a file's first three bytes are a mark; at the start of a later piece they are a character."""
    rows = load("name\na\n\ufeffb\n", fmt((Field("name", "string"),), key=None), "load", chunk_bytes=2).rows
    assert rows["name"].to_list() == ["a", "\ufeffb"]


def test_rows_keep_their_numbers_where_a_bad_record_stood_between_line_ends() -> None:
    """A record that is cut out between a lone carriage return and an empty line joins nothing."""
    found = load(b"id\na\r\xff\n\nb\n", fmt((Field("id", "string"),), key=None), "load")
    assert (found.rows["id"].to_list(), found.rows[ROW].to_list()) == (["a", None, "b"], [1, 3, 4])
    assert found.rejects["row"].to_list() == [2]
