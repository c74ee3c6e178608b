"""Op in all its shapes, and files that have none: CSV and Parquet."""

from __future__ import annotations

import io

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdcloader.changes.net import OP
from cdcloader.changes.schema import Field, Schema
from cdcloader.errors import TableError
from cdcloader.source.rows import FileInput, RowFormat, describe, read, read_together

KNOWN: Schema = (Field("id", "long"), Field("name", "string"))


def fmt(known=KNOWN, key=("id",), **more):
    return RowFormat(primary_key=key, known=known, **more)


def csv(text, kind="cdc"):
    data = text.encode()
    return FileInput(0, "s/t/f.csv", kind, "csv", False, len(data), lambda: io.BytesIO(data))


def parquet(columns, kind="cdc"):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    data = out.getvalue()
    return FileInput(0, "s/t/f.parquet", kind, "parquet", False, len(data), lambda: io.BytesIO(data))


def load(file, f):
    schema = describe([file], f)
    chunks = list(read(file, f, schema, chunk_bytes=1 << 20))
    return pl.concat([c.rows for c in chunks]), pl.concat([c.rejects for c in chunks])


def ops(file, f):
    return load(file, f)[0].select("id", OP).rows()


@pytest.mark.parametrize(
    "text",
    [
        "AR_H_OPERATION,id,name\nINSERT,1,a\nupdate,2,b\n Delete ,3,c\n",
        "id,name,ar_h_operation\n1,a,I\n2,b,u\n3,c,DELETE\n",
        "Op,id,name,AR_H_OPERATION\nI,1,a,INSERT\nU,2,b,UPDATE\nD,3,c,DELETE\n",
    ],
)
def test_op_column_has_any_name_place_and_case(text):
    """`op_column` names the column of operations, letters or words, beside DMS's own Op too; none is kept."""
    f = fmt(op_column="AR_H_OPERATION")
    assert ops(csv(text), f) == [(1, "I"), (2, "U"), (3, "D")]
    assert load(csv(text), f)[0].columns[:3] == ["id", "name", OP]
    header, *rows = [line.split(",") for line in text.splitlines()]
    table = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    table["id"] = [1, 2, 3]
    assert ops(parquet(table), f) == [(1, "I"), (2, "U"), (3, "D")]


def test_words_are_operations_in_the_op_column_itself():
    """INSERT, UPDATE and DELETE count wherever I, U and D do."""
    assert ops(csv("Op,id,name\nInsert,1,a\nUPDATE,2,b\ndelete,3,c\n"), fmt()) == [(1, "I"), (2, "U"), (3, "D")]
    assert ops(csv("INSERT,1,a\nUPDATE,2,b\n"), fmt()) == [(1, "I"), (2, "U")]
    file = parquet({"OP": ["insert", "DELETE"], "id": [1, 2], "name": ["a", None]})
    assert ops(file, fmt()) == [(1, "I"), (2, "D")]
    together = list(read_together([file, file], fmt(), describe([file], fmt()), chunk_bytes=1 << 20))
    assert [op for chunk in together for op in chunk.rows[OP]] == ["I", "D"] * 2


def test_op_column_by_its_place_in_columns():
    """Without a header the place of `op_column` among `columns` is its place in the file."""
    f = fmt(op_column="op_type", listed=("id", "op_type", "name"))
    assert ops(csv("1,U,a\n2,D,b\n"), f) == [(1, "U"), (2, "D")]
    assert load(csv("1,U,a\n"), f)[0].columns[:3] == ["id", "name", OP]
    assert ops(csv("I,1,U,a\nD,2,D,b\n"), f) == [(1, "U"), (2, "D")]
    first = fmt(op_column="op_type", listed=("op_type", "id", "name"))
    assert ops(csv("U,1,a\n"), first) == ops(csv("U,1,a\n"), fmt(op_column="op_type")) == [(1, "U")]


def test_op_column_of_a_full_load_may_be_empty():
    """A column that a rule adds is empty in some full loads, which only insert; another operation is a fault."""
    f = fmt(op_column="operation")
    assert ops(csv("id,name,operation\n1,a,\n2,b,INSERT\n", "load"), f) == [(1, "I"), (2, "I")]
    assert ops(parquet({"id": [1], "name": ["a"], "operation": pa.array([None], pa.string())}, "load"), f) == [(1, "I")]
    _, rejects = load(csv("id,name,operation\n1,a,UPDATE\n", "load"), f)
    assert rejects["reason"].to_list() == ["Op 'U' in a full load, which only inserts"]
    assert ops(csv("1,a\n", "load"), f) == [(1, "I")]


def test_a_kept_op_column_is_a_column_of_the_table():
    """`keep_columns` keeps an operation column in the target, and gives it to files that lack it."""
    f = fmt(op_column="kind_of_change", keep_columns=("kind_of_change",))
    rows, _ = load(csv("kind_of_change,id,name\nUPDATE,1,a\n"), f)
    assert rows.select("kind_of_change", "id", OP).rows() == [("U", 1, "U")]
    schema = (*KNOWN, Field("kind_of_change", "string"))
    (chunk,) = read(csv("id,name\n1,a\n", "load"), f, schema, chunk_bytes=1 << 20)
    assert chunk.rows["kind_of_change"].to_list() == ["I"]


@pytest.mark.parametrize("text", ["1,a\n2,b\n", "id,name\n1,a\n2,b\n"])
def test_changes_without_op_are_rows_to_insert_if_the_config_says_so(text):
    """cdcInsertsOnly without includeOpForFullLoad: refused, with the key's name, until `changes_without_op: insert`."""
    table = parquet({"id": [1, 2], "name": ["a", "b"]})
    for file in (csv(text), table):
        with pytest.raises(TableError, match=r"without an Op column.*changes_without_op: insert"):
            load(file, fmt())
        assert ops(file, fmt(changes_without_op="insert")) == [(1, "I"), (2, "I")]


def test_changes_without_op_may_have_the_timestamp_column():
    """The commit time in front of the columns is none of them, without an Op before it too."""
    f = fmt(changes_without_op="insert")
    rows, _ = load(csv("2024-01-01 00:00:00,1,a\n"), f)
    assert rows.select("id", "name", OP).rows() == [(1, "a", "I")]
    assert ops(csv("U,1,a\n"), f) == [(1, "U")]


def test_a_sequence_of_35_digits_is_text():
    """AR_H_CHANGE_SEQ and AR_H_STREAM_POSITION order changes as text, with every digit, and empty is before all."""
    first, second = "20260101000000010000000000000000009", "20260101000000010000000000000000010"
    f = fmt(sequence_by=("AR_H_CHANGE_SEQ", "AR_H_STREAM_POSITION"))
    text = f'Op,id,name,AR_H_CHANGE_SEQ,AR_H_STREAM_POSITION\nU,1,a,{second},007\nU,2,b,{first},""\nI,3,c,,\n'
    rows, _ = load(csv(text), f)
    expected = [(second, "007"), (first, None), (None, None)]
    assert rows.select("__seq_0", "__seq_1").rows() == expected
    table = {"Op": ["U", "U", "I"], "id": [1, 2, 3], "name": ["a", "b", "c"]}
    table |= {"AR_H_CHANGE_SEQ": [second, first, ""], "AR_H_STREAM_POSITION": ["007", "", None]}
    rows, _ = load(parquet(table), f)
    assert rows.select("__seq_0", "__seq_1").rows() == expected


@pytest.mark.parametrize("text", ["I,1,a,x\nU,2,b,y\n", "I,1\nU,2\n"])
@pytest.mark.parametrize("more", [{}, {"changes_without_op": "insert"}])
def test_another_width_stops_the_table_by_name_and_numbers(text, more):
    """A CSV file without a header whose rows are wider or narrower than the columns is refused, and says both.

    A row that lost a column and begins with Op is as wide as the columns, and must not be read as shifted.
    """
    width = len(text.split("\n")[0].split(","))
    for known in (KNOWN, tuple(Field(field.name, "string") for field in KNOWN)):
        with pytest.raises(TableError, match=rf"s/t/f.csv: .*{width} fields, Op among .*columns are 2 \(id, name\)"):
            load(csv(text), fmt(known, **more))


def test_a_full_load_that_lost_a_column_is_not_read_as_shifted():
    """Op in front and a column less make the width of the columns: refused unless the first column can hold an I."""
    with pytest.raises(TableError, match="2 fields, Op among them"):
        load(csv("I,1\nI,2\n", "load"), fmt())
    text = (Field("flag", "string"), Field("id", "long"))
    assert ops(csv("I,1\nI,2\n", "load"), fmt(text)) == [(1, "I"), (2, "I")]
