from __future__ import annotations

import polars as pl

from cdcloader.demo.dms_writer import frame
from cdcloader.demo.proof import compare

COLUMNS = (("id", "long"), ("text", "string"), ("ratio", "double"))
MODEL = {
    (1,): {"id": 1, "text": "a", "ratio": 1.5},
    (2,): {"id": 2, "text": None, "ratio": None},
    (3,): {"id": 3, "text": "", "ratio": float("nan")},
}


def table(*rows):
    return frame(COLUMNS, rows)


def test_equal_rows_in_any_order_are_equal():
    """The order of rows and columns is free, NULL equals NULL, NaN equals NaN."""
    actual = table(*reversed(MODEL.values())).select("ratio", "id", "text")
    difference = compare(MODEL, actual, ["id"], COLUMNS)
    assert difference.equal
    assert str(difference) == "equal, 3 rows"


def test_each_kind_of_difference_is_counted_and_shown():
    """Missing, extra, changed and duplicate rows are told apart, with examples of their keys and values."""
    actual = table(
        {"id": 1, "text": "b", "ratio": 1.5},
        {"id": 2, "text": None, "ratio": None},
        {"id": 2, "text": None, "ratio": None},
        {"id": 4, "text": "new", "ratio": 0.0},
    )
    difference = compare(MODEL, actual, ["id"], COLUMNS)
    assert not difference.equal
    assert (difference.missing, difference.extra, difference.changed, difference.duplicates) == (1, 1, 1, 1)
    assert difference.examples == ("missing (3,)", "extra (4,)", "changed (1,): text 'a' -> 'b'")


def test_null_and_empty_text_differ():
    """An empty string that became NULL is a change."""
    actual = table(MODEL[(1,)], MODEL[(2,)], {"id": 3, "text": None, "ratio": float("nan")})
    assert compare(MODEL, actual, ["id"], COLUMNS).changed == 1


def test_a_table_of_keys_alone_is_compared():
    """A table may have no column outside its key."""
    columns = (("id", "long"),)
    model = {(1,): {"id": 1}}
    assert compare(model, frame(columns, [{"id": 1}]), ["id"], columns).equal
    assert compare(model, frame(columns, []), ["id"], columns).missing == 1


def test_columns_must_be_the_same_with_the_same_types():
    """A column too many, too few or of another type is a fault."""
    actual = pl.DataFrame({"id": [1], "text": [1], "Op": ["I"]})
    faults = compare({}, actual, ["id"], COLUMNS).column_faults
    assert faults == (
        "column 'ratio' is missing",
        "column 'text' is Int64, expected String",
        "column 'Op' is not expected",
    )
