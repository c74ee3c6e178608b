"""Column rules over frames of change rows, and the names that `rename` gives to a file's columns."""

import hashlib
from io import BytesIO

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.changes.schema import Field, polars_schema
from cdcloader.errors import TableError
from cdcloader.source.row_format import FileInput, RowFormat, new_names, renamed
from cdcloader.source.rules import Rules
from cdcloader.source.sql import parse

COLUMNS = (Field("id", "long"), Field("name", "string"), Field("n", "string"))
FILES = ("raw/0.csv", "raw/1.csv")
ROW = st.fixed_dictionaries(
    {
        "id": st.integers(0, 9),
        "name": st.sampled_from(["a", "b", "secret", None]),
        "n": st.sampled_from(["1", "20", "x", None]),
        "__op": st.sampled_from("IUD"),
        "__file": st.sampled_from([0, 1]),
    }
)


def frame(rows):
    schema = {**polars_schema(COLUMNS), "__op": pl.String(), "__file": pl.UInt32()}
    numbered = pl.DataFrame(rows, schema=schema)
    return numbered.with_columns(
        pl.int_range(1, pl.len() + 1).alias("__row"),
        pl.lit(None, dtype=pl.String).alias("__seq_0"),
        pl.col("n").is_null().alias("__unset_n"),
        pl.lit(value=False).alias("__unset_name"),
        (pl.col("id") + 1).alias("__before_id"),
    )


def rules(**options):
    sql = {"filter": options.pop("filter", None), "derive": options.pop("derive", {})}
    expression = parse(sql["filter"], "f") if sql["filter"] else None
    derived = {name: parse(each, name) for name, each in sql["derive"].items()}
    return Rules("rules", key=("id",), filter=expression, derive=derived, **options)


@given(st.lists(ROW, max_size=12), st.booleans(), st.booleans())
def test_any_rows(rows, leave_out, masked):
    """Whatever the rows: each is there once, as a row, a reject, or left out; in order, with its own helper columns."""
    mask = {"name": "sha256", "id": "sha256"} if masked else {}
    found = (
        rules(cast={"n": "long"}, filter="name <> 'b'", derive={"more": "n + 1"}, mask=mask, drop=("n",))
        .over(COLUMNS, "files")
        .apply(frame(rows), FILES, leave_out=leave_out)
    )

    def is_bad(row):
        return row["__op"] != "D" and row["n"] == "x"

    def is_out(row):
        return row["__op"] != "D" and not is_bad(row) and row["name"] in ("b", None)

    def text(value):
        return hashlib.sha256(str(value).encode()).hexdigest() if masked and value is not None else value

    numbered = list(enumerate(rows, 1))
    kept = [(n, row) for n, row in numbered if not is_bad(row) and not (leave_out and is_out(row))]
    assert found.left_out == (sum(is_out(row) for row in rows) if leave_out else 0)
    assert found.rows["__row"].to_list() == [n for n, _ in kept]
    assert found.rows["__op"].to_list() == ["D" if is_out(row) else row["__op"] for _, row in kept]
    assert found.rows["id"].to_list() == [text(row["id"]) for _, row in kept]
    assert found.rows["__before_id"].to_list() == [text(row["id"] + 1) for _, row in kept]
    for (_, row), result in zip(kept, found.rows.iter_rows(named=True), strict=True):
        if row["__op"] != "D" and not is_out(row):
            assert result["name"] == text(row["name"])
            assert result["more"] == (None if row["n"] is None else int(row["n"]) + 1)
    assert "n" not in found.rows.columns
    assert "__unset_n" not in found.rows.columns
    assert "__unset_name" in found.rows.columns
    assert found.rejects["row"].to_list() == [n for n, row in numbered if is_bad(row)]
    assert found.rejects["file"].to_list() == [FILES[row["__file"]] for row in rows if is_bad(row)]
    if masked:
        assert "secret" not in str(found.rows.rows()) + str(found.rejects.rows())


def test_columns_of_the_table():
    """The table's columns are the source's in their order with the types that the rules make, then the derived ones."""
    made = rules(
        cast={"N": "integer"}, mask={"Name": "null", "id": "sha256", "twice": "sha256"}, derive={"twice": "n * 2"}
    ).over(COLUMNS, "files")
    assert [(column.name, column.type) for column in made.table] == [
        ("id", "string"), ("name", "string"), ("n", "integer"), ("twice", "string"),
    ]  # fmt: skip
    assert made.rules.unused((COLUMNS[0],)) == ("cast.N", "mask.Name")


@pytest.mark.parametrize("options", [{"drop": ("id",)}, {"mask": {"ID": "null"}}, {"cast": {"id": "float"}}])
def test_the_key_is_not_taken_away(options):
    """A rule that would break the key is refused over the columns too, whoever named the key."""
    with pytest.raises(TableError, match="key column"):
        rules(**options).over(COLUMNS, "files")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("column 'n': 'my 'own' value' is not a long", "column 'n': (withheld) is not a long"),
        ("NULL in key column 'id'", "NULL in key column 'id'"),
        ("Op 'my name' is none of I, U, D", "Op (withheld) is none of I, U, D"),
        ("expected 3 fields, got 4", "expected 3 fields, got 4"),
    ],
)
def test_a_readers_reasons_without_values(reason, told):
    """Where columns are masked, no reason of a reject tells a value, and its text is withheld."""
    rejects = pl.DataFrame({"file": ["f"], "row": [1], "reason": [reason], "raw": ["my, own"]})
    masked = rules(mask={"name": "null"}).over(COLUMNS, "files")
    assert masked.withheld(rejects).rows() == [("f", 1, told, "(withheld)")]
    assert rules().over(COLUMNS, "files").withheld(rejects).equals(rejects)


FILE = FileInput(0, "raw/0.csv", "cdc", "csv", gzip=False, size=1, open=BytesIO)


@pytest.mark.parametrize(
    ("rename", "names", "found"),
    [
        ({"old": "new"}, ("Op", "OLD", "x"), ("Op", "new", "x")),
        ({"old": "new"}, ("new", "x"), ("new", "x")),
        ({"a": "b", "b": "a"}, ("a", "b"), ("b", "a")),
        ({"a": "b", "b": "c"}, ("a", "b"), ("b", "c")),
        ({"old": "new"}, ("old", "BI_old", "BI_x"), ("new", "BI_new", "BI_x")),
        ({"id": "key"}, ("id", "bi_ID"), ("key", "BI_key")),
        ({}, ("a", "b"), ("a", "b")),
    ],
)
def test_rename(rename, names, found):
    """Old names become new ones all at once, in any case, those of before-images with them."""
    assert renamed(names, FILE, RowFormat(("id",), rename=rename)) == found


def test_rename_of_two_into_one():
    """An old and its new name in one file are an error with the file and both names."""
    with pytest.raises(TableError, match="'old' and 'new'") as caught:
        renamed(("old", "NEW"), FILE, RowFormat(("id",), rename={"old": "new"}))
    assert caught.value.where == "raw/0.csv"
    # The first row of a file may be data, whose values are no names.
    assert new_names(("old", "new"), RowFormat(("id",), rename={"old": "new"})) == ("new", "new")
