"""Parquet files to change rows."""

from __future__ import annotations

import datetime as dt
import io
import json
from dataclasses import replace
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cdcloader.changes.net import FILE, OP, ROW, TIME
from cdcloader.changes.schema import Field, Schema, polars_schema
from cdcloader.demo.legacy_types import without_logical_types
from cdcloader.errors import TableError
from cdcloader.source.rows import Chunk, FileInput, RowFormat, describe, read, read_together

UTC = dt.UTC
BIG = 1 << 20


def source(table: pa.Table | bytes, kind: str = "cdc", name: str = "s/t/f.parquet", **options: object) -> FileInput:
    if isinstance(table, bytes):
        data = table
    else:
        out = io.BytesIO()
        pq.write_table(table, out, **options)
        data = out.getvalue()
    return FileInput(3, name, kind, "parquet", False, len(data), lambda: io.BytesIO(data))


def fmt(known: Schema = (), key: tuple[str, ...] | None = ("id",), **more: object) -> RowFormat:
    return RowFormat(primary_key=key, known=known, **more)  # type: ignore[arg-type]


def load(file: FileInput, f: RowFormat, *, chunk_bytes: int = BIG, schema: Schema | None = None) -> Chunk:
    chunks = list(read(file, f, schema or describe([file], f), chunk_bytes=chunk_bytes))
    assert all(chunk.rows_in == chunk.rows.height + chunk.rejects.height for chunk in chunks)
    return Chunk(
        pl.concat([c.rows for c in chunks]), pl.concat([c.rejects for c in chunks]), sum(c.rows_in for c in chunks), {}
    )


def changes(**columns: object) -> pa.Table:
    return pa.table({"Op": ["I", "U", "D"], "id": [1, 2, 3], **columns})


def required_time(table: pa.Table) -> pa.Table:
    stamps = pa.array(["2024-01-01 00:00:00.500000"] * len(table))
    return table.add_column(0, pa.field("transact_time", pa.string(), nullable=False), stamps)


def test_changes() -> None:
    """Op and DMS's REQUIRED timestamp column are used and dropped, wherever Op stands."""
    rows = load(source(required_time(changes(v=["a", None, ""]))), fmt()).rows
    assert rows.columns[:2] == ["id", "v"]
    assert rows.select("id", "v", OP, ROW).rows() == [(1, "a", "I", 1), (2, None, "U", 2), (3, "", "D", 3)]
    assert set(rows[TIME]) == {dt.datetime(2024, 1, 1, 0, 0, 0, 500000, UTC)}


def test_load_without_op() -> None:
    """Every row of a LOAD file is an insert; a source column named op stays."""
    table = pa.table({"id": [1, 2], "v": [1.5, None], "op": ["x", "y"]})
    rows = load(source(table, "load"), fmt()).rows
    assert rows.columns[:3] == ["id", "v", "op"]
    assert rows[OP].to_list() == ["I", "I"]


def test_changes_without_op_are_refused() -> None:
    """A CDC file without Op stops the table."""
    with pytest.raises(TableError, match="without an Op column"):
        load(source(pa.table({"id": [1]})), fmt())


def test_types() -> None:
    """Unsigned integers widen, TIME is text, dictionaries are text, times are UTC microseconds."""
    at = dt.datetime.fromisoformat("2024-01-01 10:11:12.123456")
    table = pa.table(
        {
            "Op": ["I"],
            "id": pa.array([2**64 - 1], pa.uint64()),
            "u8": pa.array([255], pa.uint8()),
            "u16": pa.array([65535], pa.uint16()),
            "u32": pa.array([2**32 - 1], pa.uint32()),
            "clock": pa.array([dt.time(1, 2, 3)], pa.time32("ms")),
            "fine": pa.array([dt.time(1, 2, 3, 4)], pa.time64("us")),
            "word": pa.array(["a"]).dictionary_encode(),
            "ms": pa.array([at.replace(microsecond=123000)], pa.timestamp("ms")),
            "us": pa.array([at], pa.timestamp("us")),
            "ns": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
            "zone": pa.array([at], pa.timestamp("us", "Europe/Berlin")),
            "nothing": pa.nulls(1),
            "money": pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
        }
    )
    for chunk_bytes in (BIG, 1):
        chunk = load(source(table), fmt(), chunk_bytes=chunk_bytes)
        kinds = {field.name: field.type for field in describe([source(table)], fmt())}
        assert kinds == {
            "id": "decimal(20,0)", "u8": "short", "u16": "integer", "u32": "long", "clock": "string", "fine": "string",
            "word": "string", "ms": "timestamp", "us": "timestamp", "ns": "timestamp", "zone": "timestamp",
            "nothing": "string", "money": "decimal(10,2)",
        }  # fmt: skip
        assert chunk.rows.drop(OP, TIME, ROW, "__file").row(0) == (
            Decimal(2**64 - 1), 255, 65535, 2**32 - 1, "01:02:03", "01:02:03.000004", "a",
            at.replace(microsecond=123000, tzinfo=UTC), at.replace(tzinfo=UTC),
            dt.datetime(2023, 11, 14, 22, 13, 20, 123456, UTC), at.replace(tzinfo=UTC), None, Decimal("1.50"),
        )  # fmt: skip


@pytest.mark.parametrize("timestamps", ["utc", "naive"])
@pytest.mark.parametrize("chunk_bytes", [BIG, 1])
def test_legacy_timestamps(timestamps: str, chunk_bytes: int) -> None:
    """DMS's old timestamp annotation reads the same by both readers: UTC, or naive if the table says so."""
    at = dt.datetime.fromisoformat("2024-01-01 10:00:00")
    written = source(changes(t=pa.array([at] * 3, pa.timestamp("ms", "UTC"))), store_schema=False)
    file = source(without_logical_types(written.open().read()))
    f = fmt(timestamps=timestamps)
    kind = {"utc": "timestamp", "naive": "timestamp_ntz"}[timestamps]
    assert describe([file], f)[1].type == kind
    zone = UTC if timestamps == "utc" else None
    assert load(file, f, chunk_bytes=chunk_bytes).rows["t"].to_list() == [at.replace(tzinfo=zone)] * 3


def test_bad_rows() -> None:
    """A NULL key and a strange Op are rejects with the row as JSON; Op is trimmed."""
    table = pa.table({"Op": ["I", "X", " u", None], "id": [None, 2, 3, 4], "b": [b"\x01", None, None, None]})
    chunk = load(source(table), fmt())
    assert chunk.rows.select("id", OP, ROW).rows() == [(3, "U", 3)]
    assert chunk.rejects.select("row", "reason").rows() == [
        (1, "NULL in key column 'id'"),
        (2, "Op 'X' is none of I, U, D"),
        (4, "Op '' is none of I, U, D"),
    ]
    assert json.loads(chunk.rejects["raw"][0]) == {"Op": "I", "id": None, "b": "01"}
    assert load(source(changes()), fmt(key=None)).rejects.height == 2


def test_text_is_parsed() -> None:
    """A text column is parsed where the table has another type; what does not parse is a reject."""
    f = fmt(known=(Field("id", "long"), Field("v", "decimal(10,2)")))
    chunk = load(source(changes(v=["1.50", "x", None])), f)
    assert chunk.rows["v"].to_list() == [Decimal("1.50"), None]
    assert chunk.rejects.select("row", "reason").rows() == [(2, "column 'v': 'x' is not a decimal(10,2)")]


def test_types_widen_or_stop_the_table() -> None:
    """Files of different types get the wider one; types that do not fit stop the table, naming both files."""
    narrow = source(changes(v=pa.array([1, 2, 3], pa.int32())), name="a.parquet")
    wide = source(changes(v=pa.array([1, 2, 3], pa.int64())), name="b.parquet")
    text = source(changes(v=["a", "b", "c"]), name="c.parquet")
    for files in ([narrow, wide], [wide, narrow]):
        schema = describe(files, fmt())
        assert schema[1].type == "long"
        assert load(narrow, fmt(), schema=schema).rows["v"].to_list() == [1, 2, 3]
    with pytest.raises(TableError, match=r"a\.parquet.*c\.parquet|c\.parquet.*a\.parquet"):
        describe([narrow, text], fmt())
    with pytest.raises(TableError, match="'v' has type long, the table has short"):
        load(wide, fmt(known=(Field("id", "long"), Field("v", "short"))))


def test_damaged() -> None:
    """A truncated or damaged file stops the table with its name."""
    file = source(changes(v=["a" * 500] * 3), compression="none")
    data = file.open().read()
    for bad in (data[:-20], data[:100], b"PAR1", data[:100] + b"\xff" * 300 + data[400:]):
        for chunk_bytes in (BIG, 1):
            with pytest.raises(TableError, match=r"s/t/f.parquet: not a readable Parquet file"):
                load(source(bad), fmt(), chunk_bytes=chunk_bytes, schema=(Field("id", "long"), Field("v", "string")))


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("chunk_bytes", [BIG, 1])
def test_damaged_text(chunk_bytes: int, dictionary: bool) -> None:
    """Text that is not UTF-8, in a file that is whole otherwise, stops the table with its name, and makes no panic."""
    file = source(changes(v=["aaaa", "bbbb", "cccc"]), compression="none", use_dictionary=dictionary)
    bad = file.open().read().replace(b"bbbb", b"b\xff\xfeb")
    schema = (Field("id", "long"), Field("v", "string"))
    with pytest.raises(TableError, match=r"s/t/f.parquet: not a readable Parquet file"):
        load(source(bad), fmt(), chunk_bytes=chunk_bytes, schema=schema)
    with pytest.raises(TableError, match=r"s/t/f.parquet: not a readable Parquet file"):
        list(read_together([source(bad)], fmt(), schema, chunk_bytes=chunk_bytes))


def test_no_rows() -> None:
    """A file without rows has columns and no chunk."""
    file = source(changes(v=["a"] * 3).slice(0, 0))
    assert [field.name for field in describe([file], fmt())] == ["id", "v"]
    assert list(read(file, fmt(), describe([file], fmt()), chunk_bytes=BIG)) == []


def test_columns_that_cannot_be() -> None:
    """Doubled names, lists and a missing key column stop the table."""
    doubled = pa.Table.from_arrays([pa.array(["I"]), pa.array([1]), pa.array([2])], names=["Op", "id", "id"])
    nested = pa.table({"Op": ["I"], "id": [1], "v": [[1]]})
    missing = pa.table({"Op": ["I"], "ID": [1]})
    for table, message in (
        (doubled, "two columns"),
        (nested, "cannot hold"),
        (missing, "the file's columns are Op, ID"),
    ):
        with pytest.raises(TableError, match=message):
            load(source(table), fmt())


def test_helpers() -> None:
    """Sequences are copied; kept helpers stay, with their own types."""
    table = changes(BI_id=[1, 1, 1], AR_H_CHANGE_SEQ=["", "1", None])
    f = fmt(sequence_by=("AR_H_CHANGE_SEQ",), keep_columns=("BI_id",))
    rows = load(source(table), f).rows
    assert rows.columns[:2] == ["id", "BI_id"]
    assert rows["__seq_0"].to_list() == [None, "1", None]


SPECS: dict[str, tuple[pa.DataType, st.SearchStrategy[object]]] = {
    "long": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "short": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "double": (pa.float64(), st.floats(allow_nan=False)),
    "boolean": (pa.bool_(), st.booleans()),
    "decimal(12,2)": (pa.decimal128(12, 2), st.decimals(-9_999_999_999, 9_999_999_999, places=2)),
    "date": (pa.date32(), st.dates()),
    "timestamp": (pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(UTC))),
    "string": (pa.string(), st.text(st.characters(exclude_categories=("Cs",)), max_size=8)),
    "binary": (pa.binary(), st.binary(max_size=4)),
}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 2000), st.integers(1, 5))
def test_roundtrip(data: st.DataObject, chunk_bytes: int, group_rows: int) -> None:
    """Any typed frame written as Parquet reads back equal, in chunks of any size."""
    kinds = data.draw(st.lists(st.sampled_from(sorted(SPECS)), min_size=1, max_size=4))
    rows = data.draw(st.lists(st.tuples(*(st.none() | SPECS[kind][1] for kind in kinds)), min_size=1, max_size=12))
    schema = (Field("id", "long"), *(Field(f"c{place}", kind) for place, kind in enumerate(kinds)))
    values = [list(column) for column in zip(*rows, strict=True)]
    table = pa.table(
        {"Op": ["I"] * len(rows), "id": list(range(len(rows)))}
        | {
            f"c{n}": pa.array(column, SPECS[kind][0])
            for n, (kind, column) in enumerate(zip(kinds, values, strict=True))
        }
    )
    file = source(table, row_group_size=group_rows)
    assert describe([file], fmt()) == schema
    chunk = load(file, fmt(), chunk_bytes=chunk_bytes)
    expected = pl.DataFrame(
        [(place, *row) for place, row in enumerate(rows)], schema=polars_schema(schema), orient="row"
    )
    assert_frame_equal(chunk.rows.select(expected.columns), expected, check_exact=True)
    assert chunk.rows[ROW].to_list() == list(range(1, len(rows) + 1))


def several(tables: list[pa.Table], **options: object) -> list[FileInput]:
    return [replace(source(table, name=f"s/t/{n}.parquet", **options), ordinal=n) for n, table in enumerate(tables)]


def together(files: list[FileInput], f: RowFormat, *, chunk_bytes: int = BIG) -> list[Chunk]:
    return list(read_together(files, f, describe(files, f), chunk_bytes=chunk_bytes))


def alone(files: list[FileInput], f: RowFormat) -> pl.DataFrame:
    return pl.concat([c.rows for file in files for c in read(file, f, describe(files, f), chunk_bytes=BIG)])


def test_small_files_of_one_schema_are_one_chunk() -> None:
    """Each row keeps the place of its file and its number there; an empty file among them is none."""
    files = several(
        [changes(v=[1, 2, 3]), changes(v=[4, 5, 6]), changes(v=[7, 8, 9]).slice(0, 0), changes(v=[0, 1, 2])]
    )
    found = together(files, fmt())
    assert len(found) == 1
    assert found[0].rows.select(FILE, ROW).rows() == [(n, row) for n in (0, 1, 3) for row in (1, 2, 3)]
    assert_frame_equal(found[0].rows, alone(files, fmt()))


def test_small_files_are_read_together_up_to_the_size_of_a_chunk() -> None:
    """The bound of memory holds for files that are read together."""
    files = several([changes(v=[n, n, n]) for n in range(20)])
    assert len(together(files, fmt())) == 1
    found = together(files, fmt(), chunk_bytes=600)
    assert 5 < len(found) <= 20
    assert_frame_equal(pl.concat([c.rows for c in found]), alone(files, fmt()))


@pytest.mark.parametrize(
    "odd",
    [
        changes(v=pa.array([1, 2, 3], pa.int32())),
        changes(v=[1, 2, 3], w=["a", "b", "c"]),
        changes(),
        pa.table({"v": [1, 2, 3], "op": ["I", "U", "D"], "ID": [1, 2, 3]}),
    ],
)
def test_files_of_another_schema_stand_apart(odd: pa.Table) -> None:
    """Files whose columns differ in type, number, order or spelling are read as their own."""
    files = several([changes(v=[1, 2, 3]), odd, changes(v=[7, 8, 9])])
    found = together(files, fmt((Field("id", "long"), Field("v", "long"))))
    assert len(found) == 3
    assert_frame_equal(pl.concat([c.rows for c in found]), alone(files, fmt((Field("id", "long"), Field("v", "long")))))


def test_a_broken_row_among_small_files_is_named_with_its_own_place() -> None:
    """A reject has the file and row number that it has when its file is read alone."""
    broken = pa.table({"Op": ["I", "X", "U"], "id": [1, 2, None], "v": ["1", "2", "3"]})
    good = pa.table({"Op": ["I", "U", "U"], "id": [1, 2, 3], "v": ["1", "2", "3"]})
    files = several([good, broken, good])
    found = together(files, fmt((Field("v", "long"),)))
    rejects = pl.concat([c.rejects for c in found])
    assert rejects.select("file", "row").rows() == [("s/t/1.parquet", 2), ("s/t/1.parquet", 3)]
    assert rejects["reason"].to_list() == ["Op 'X' is none of I, U, D", "NULL in key column 'id'"]
    assert all(c.rejects["file"].n_unique() <= 1 for c in found)
    assert sum(c.rows_in for c in found) == 9
    assert_frame_equal(pl.concat([c.rows for c in found]), alone(files, fmt((Field("v", "long"),))))


def test_the_times_of_several_files_are_those_of_each() -> None:
    """DMS's timestamp column is used and dropped in files that are read together too."""
    files = several([required_time(changes()), required_time(changes())])
    found = together(files, fmt())
    assert [c.rows.height for c in found] == [6]
    assert_frame_equal(found[0].rows, alone(files, fmt()))
    assert found[0].rows[TIME].null_count() == 0


def test_a_damaged_file_among_small_ones_is_named() -> None:
    """The file that cannot be read is the one that is told."""
    files = several([changes(v=[1, 2, 3]), changes(v=[4, 5, 6])])
    with files[0].open() as stored:
        data = stored.read()
    cut = data[:20] + bytes(len(data) - 220) + data[-200:] if len(data) > 400 else data[: len(data) // 2]
    damaged = replace(source(cut, name="s/t/9.parquet"), ordinal=2)
    with pytest.raises(TableError) as caught:
        list(read_together([*files, damaged], fmt(), describe(files, fmt()), chunk_bytes=BIG))
    assert caught.value.where == "s/t/9.parquet"


def test_few_columns_are_read_with_the_same_rows_and_rejects() -> None:
    """`only`: the columns that are asked for, and all that decides about a row; the same however the file is read."""
    table = required_time(changes(n=["1", "two", None], v=["a", "b", "c"], w=[b"x", b"y", None]))
    schema = (Field("id", "long"), Field("n", "long"), Field("v", "string"), Field("w", "binary"))
    f = fmt(schema)
    for kind, rows in (
        ("cdc", table),
        ("load", table.slice(0, 1)),
        ("load", table.drop_columns(["Op", "transact_time"])),
    ):
        file = source(rows, kind, row_group_size=1)
        for wanted in (("id",), ("id", "v"), ("w",)):
            for chunk_bytes in (1, BIG):
                whole = list(read(file, f, schema, chunk_bytes=chunk_bytes))
                few = list(read(file, f, schema, chunk_bytes=chunk_bytes, only=frozenset(wanted)))
                assert [c.rows_in for c in few] == [c.rows_in for c in whole]
                for one, other in zip(few, whole, strict=True):
                    assert "v" in wanted or "v" not in one.rows.columns
                    same = [*wanted, OP, FILE, ROW, TIME]
                    assert_frame_equal(one.rows.select(same), other.rows.select(same))
                    assert_frame_equal(one.rejects.drop("raw"), other.rejects.drop("raw"))
            together = read_together([file, file], f, schema, chunk_bytes=BIG, only=frozenset(wanted))
            assert sum(chunk.rows_in for chunk in together) == 2 * len(rows)


def test_a_file_without_any_of_the_columns_keeps_its_rows() -> None:
    """Where none of the columns that are asked for is in a file, its rows are counted all the same."""
    schema = (Field("id", "long"), Field("v", "string"))
    chunks = list(
        read(source(pa.table({"id": [1, 2]}), "load"), fmt(schema, key=None), schema, chunk_bytes=BIG, only={"v"})
    )
    assert [(chunk.rows_in, chunk.rows["v"].to_list()) for chunk in chunks] == [(2, [None, None])]


def test_a_page_that_says_a_negative_number_of_values_is_refused() -> None:
    """Polars would abort the process over it; the file is refused instead."""
    file = source(changes())
    content = file.open().read()
    start = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(1).data_page_offset
    place = content.index(b"\x15\x06", start + 5)  # three values
    damaged = content[:place] + b"\x15\x07" + content[place + 2 :]
    with pytest.raises(TableError, match="not a readable Parquet file"):
        load(source(damaged), fmt())


def test_a_rejected_row_may_hold_a_date_that_python_has_not() -> None:
    """Its text shows the number that is stored."""
    days = pa.array([2_000_000_000], pa.int32()).cast(pa.date32())
    found = load(source(pa.table({"Op": ["X"], "id": [1], "day": days})), fmt())
    assert json.loads(found.rejects["raw"][0]) == {"Op": "X", "id": 1, "day": 2_000_000_000}
