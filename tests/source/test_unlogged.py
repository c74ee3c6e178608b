"""What the readers tell of cells that the source did not log, and of keys that changed."""

from __future__ import annotations

import io

import polars as pl
import pytest

from cdcloader.changes.changed_keys import BEFORE, with_old_keys_deleted
from cdcloader.changes.net import OP, UNSET
from cdcloader.changes.schema import Field
from cdcloader.source.rows import Chunk, CsvFormat, FileInput, RowFormat, describe, read, read_together

TOKEN = "<none>"
KNOWN = (Field("id", "long"), Field("day", "date"), Field("price", "decimal(9,2)"), Field("name", "string"))


def fmt(key=("id",), known=KNOWN, **more):
    csv = CsvFormat(header=True, no_supplemental_value=more.pop("token", None))
    return RowFormat(primary_key=key, known=known, csv=csv, **more)


def csv_file(text, kind="cdc"):
    data = text.encode()
    return FileInput(0, "s/t/f.csv", kind, "csv", False, len(data), lambda: io.BytesIO(data))


def parquet_file(frame, kind="cdc"):
    out = io.BytesIO()
    frame.write_parquet(out)
    data = out.getvalue()
    return FileInput(0, "s/t/f.parquet", kind, "parquet", False, len(data), lambda: io.BytesIO(data))


def load(file, f, **more) -> Chunk:
    chunks = list(read(file, f, describe([file], f), chunk_bytes=1 << 20, **more))
    return Chunk(pl.concat([c.rows for c in chunks]), pl.concat([c.rejects for c in chunks]), 0, {})


def unset(rows):
    """For each row the columns that are unset."""
    helpers = [name for name in rows.columns if name.startswith(UNSET)]
    return [
        {name.removeprefix(UNSET) for name, flag in zip(helpers, row, strict=True) if flag}
        for row in rows.select(helpers).iter_rows()
    ]


PARTIAL = (
    f"Op,id,day,price,name\nU,1,{TOKEN},1.50,a\nI,2,{TOKEN},{TOKEN},{TOKEN}\nU,3,2024-01-31,{TOKEN},\nD,4,,,{TOKEN}\n"
)


@pytest.mark.parametrize("bad_row", ["", "U,5,not a day,1,x\n"])
def test_a_cell_with_the_text_is_unset_in_a_u_and_null_elsewhere(bad_row):
    """Every type, by the fast parser and by the careful one; NULL in a U is NULL."""
    chunk = load(csv_file(PARTIAL + bad_row), fmt(token=TOKEN))
    assert unset(chunk.rows) == [{"day"}, set(), {"price"}, set()]
    assert [[value is None for value in row] for row in chunk.rows.select("day", "price", "name").rows()] == [
        [True, False, False], [True, True, True], [False, True, True], [True, True, True],
    ]  # fmt: skip
    assert chunk.rejects["row"].to_list() == ([5] if bad_row else [])


@pytest.mark.parametrize("bad_row", ["", "U,5,not a day,1,x\n"])
def test_a_quoted_cell_is_a_value(bad_row):
    """As with the texts that stand for NULL."""
    rows = load(csv_file(f'Op,id,day,price,name\nU,1,,1,"{TOKEN}"\nU,2,,1,{TOKEN}\n{bad_row}'), fmt(token=TOKEN)).rows
    assert (rows["name"].to_list(), unset(rows)) == ([TOKEN, None], [set(), {"name"}])


def test_a_key_that_was_not_logged_is_a_reject_with_its_text():
    """The row goes to quarantine as DMS wrote it."""
    rejects = load(csv_file(f"Op,id,day,price,name\nU,{TOKEN},{TOKEN},,x\n"), fmt(token=TOKEN)).rejects
    assert rejects.select("reason", "raw").row(0) == ("NULL in key column 'id'", f"U,{TOKEN},{TOKEN},,x")


def test_the_text_is_no_value_when_types_are_inferred():
    """A column of numbers stays one, and a full load has NULL there."""
    file = csv_file(f"id,n\n1,5\n2,{TOKEN}\n", "load")
    f = fmt(known=(), token=TOKEN)
    assert describe([file], f) == (Field("id", "long"), Field("n", "long"))
    rows = load(file, f, inferred=frozenset({"id", "n"})).rows
    assert (rows["n"].to_list(), unset(rows)) == ([5, None], [set(), set()])


def test_no_cell_is_unset_without_a_key():
    """An insert-only table has nothing to keep."""
    rows = load(csv_file(f"Op,id,day,price,name\nI,1,{TOKEN},,x\n"), fmt(key=None, token=TOKEN)).rows
    assert (unset(rows), rows["day"].to_list()) == ([], [None])


@pytest.mark.parametrize(("columns", "expected"), [((), {"v", "w"}), (("w",), {"w"})])
def test_null_in_a_u_is_unset_where_that_is_kept(columns, expected):
    """`partial_updates: keep`: in all columns but the key, or in those that are named; not in I and D."""
    table = pl.DataFrame(
        {"Op": ["U", "I", "D"], "id": [1, 2, 3], "v": [None, None, None], "w": [None, None, None]},
        schema={"Op": pl.String, "id": pl.Int64, "v": pl.Int64, "w": pl.String},
    )
    rows = load(parquet_file(table), fmt(known=(), partial_updates="keep", partial_columns=columns)).rows
    assert unset(rows) == [expected, set(), set()]


def test_a_column_that_the_file_lacks_is_null_and_not_unset():
    """The source dropped it, or does not have it yet."""
    table = pl.DataFrame({"Op": ["U"], "id": [1]})
    schema = (Field("id", "long"), Field("gone", "long"))
    f = fmt(known=schema, partial_updates="keep")
    [chunk] = read(parquet_file(table), f, schema, chunk_bytes=1 << 20)
    assert (unset(chunk.rows), chunk.rows["gone"].to_list()) == ([set()], [None])


def test_nothing_is_added_without_the_settings():
    """Rows of other tables carry no helper columns of either kind."""
    rows = load(csv_file("Op,id,BI_id,name\nU,1,1,x\nU,2,,y\nD,3,9,z\nI,4,9,z\n"), fmt(known=())).rows
    assert not [name for name in rows.columns if name.startswith((UNSET, BEFORE))]


def changes_of(rows):
    return with_old_keys_deleted(rows).select("id", "code", OP).rows()


KEYED = "Op,id,code,v,{0}id{1},{0}code{1}\nU,1,a,x,2,a\nU,3,b,y,3,c\nU,5,d,z,,\nU,6,e,z,7,f\n"
MOVES = [(2, "a", "D"), (1, "a", "U"), (3, "c", "D"), (3, "b", "U"), (5, "d", "U"), (7, "f", "D"), (6, "e", "U")]


@pytest.mark.parametrize(("prefix", "suffix"), [("BI_", ""), ("bi_", ""), ("", "_old"), ("was_", "_x")])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_each_part_of_a_key_may_change(prefix, suffix, form):
    """Prefix and suffix as DMS was told, in any case; a NULL before-image says that its column did not change."""
    text = KEYED.format(prefix, suffix)
    file = csv_file(text) if form == "csv" else parquet_file(pl.read_csv(text.encode()))
    image = (prefix.upper() if prefix == "bi_" else prefix, suffix)
    rows = load(file, fmt(key=("id", "code"), known=(), before_image=image)).rows
    assert changes_of(rows) == MOVES
    assert [name for name in rows.columns if not name.startswith("__")] == ["id", "code", "v"]


def test_a_part_without_a_before_image_did_not_change():
    """DMS may write one for some key columns alone."""
    rows = load(csv_file("Op,id,code,BI_id\nU,1,a,2\n"), fmt(key=("id", "code"), known=())).rows
    assert changes_of(rows) == [(2, "a", "D"), (1, "a", "U")]


def test_before_images_may_be_switched_off():
    """`before_image: null`: a column BI_id is one of the source's."""
    rows = load(csv_file("Op,id,BI_id\nU,1,2\n"), fmt(known=(), before_image=None)).rows
    assert rows.select("id", "BI_id", OP).rows() == [(1, 2, "U")]
    assert with_old_keys_deleted(rows) is rows


def test_a_before_image_that_does_not_parse_is_a_reject():
    """It has the type of its column."""
    chunk = load(csv_file("Op,id,name,BI_id\nU,1,a,x\nU,1,b,2\n"), fmt(known=(Field("id", "long"),)))
    assert chunk.rejects["reason"].to_list() == ["column 'BI_id': 'x' is not a long"]
    assert with_old_keys_deleted(chunk.rows).select("id", OP).rows() == [(2, "D"), (1, "U")]


def test_a_kept_before_image_is_used_all_the_same():
    """In CSV it is kept as text."""
    rows = load(csv_file("Op,id,BI_id\nU,1,2\n"), fmt(known=(Field("id", "long"),), keep_columns=("BI_id",))).rows
    assert with_old_keys_deleted(rows).select("id", "BI_id", OP).rows() == [(2, None, "D"), (1, "2", "U")]


def test_a_changed_key_with_unset_columns_is_a_reject():
    """What it would keep is another key's row. Who reads the key alone, or files together, finds the same rejects."""
    table = pl.DataFrame({"Op": ["U", "U", "U"], "id": [1, 2, 3], "v": [None, 5, None], "BI_id": [9, 8, None]})
    f = fmt(known=(), partial_updates="keep")
    file = parquet_file(table)
    schema = describe([file], f)
    for chunks in (
        read(file, f, schema, chunk_bytes=1 << 20),
        read(file, f, schema, chunk_bytes=1 << 20, only={"id"}),
        read_together([file, file], f, schema, chunk_bytes=1 << 20),
    ):
        for chunk in chunks:
            assert (chunk.rows["id"].to_list(), chunk.rejects["row"].to_list()) == ([2, 3], [1])
            assert chunk.rejects["reason"][0].startswith("the key changes, and columns are not logged")
