"""The guess at a key: what names, places and a sample of rows say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.source.key_guess import guess_key

MANY = range(30)


@pytest.mark.parametrize(
    ("table", "columns", "rows", "key"),
    [
        ("t", ["name", "id"], [("a", "1"), ("b", "2")], ["id"]),
        ("employees", ["MANAGER_ID", "EMPLOYEE_ID"], [("7", "1"), ("8", "2")], ["EMPLOYEE_ID"]),
        ("companies", ["x_id", "companyid"], [("7", "1"), ("8", "2")], ["companyid"]),
        ("t", ["name", "customer_id"], [("a", "1"), ("a", "2")], ["customer_id"]),
        ("t", ["code", "other_id"], [("a", "1"), ("b", "2")], ["code"]),
        (
            "line",
            ["order_id", "line_no", "sku"],
            [("1", "1", "x"), ("1", "2", "x"), ("2", "1", "x")],
            ["order_id", "line_no"],
        ),
        ("t", ["id", "x"], [("1", "a"), (None, "b")], []),
        ("t", ["id"], [("1",), ("1",)], []),
        ("t", ["at", "amount"], [("2026-01-01 10:00:00", "1.5"), ("2026-01-01 11:00:00", "2.5")], []),
        ("t", ["group", "label"], [("a", f"n{n}") for n in MANY], ["label"]),
        ("t", ["group", "label"], [("a", "x"), ("a", "y")], ["group", "label"]),
        ("t", ["id", "x"], [], ["id"]),
    ],
)
def test_a_key_is_guessed(table, columns, rows, key):
    """Names go first, then places; what is NULL or doubled in the sample is no key."""
    assert list(guess_key(table, columns, rows).columns) == key


def test_partial_rows_have_their_key():
    """A delete may carry its key alone: what is empty in it is none, however unique."""
    rows = [(str(n), f"x{n}") for n in MANY]
    assert guess_key("t", ["id", "t_id"], rows).columns == ("id",)
    assert guess_key("t", ["id", "t_id"], rows, [(None, "x1")]).columns == ("t_id",)


@given(st.lists(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=3, max_size=3), max_size=8))
def test_a_guess_holds_for_its_sample(rows):
    """Whatever is guessed has no NULL and no double in the rows that were seen."""
    columns = ["a_id", "b_no", "c"]
    key = guess_key("t", columns, rows).columns
    values = [tuple(row[columns.index(name)] for name in key) for row in rows]
    assert not key or (len(set(values)) == len(rows) and all(None not in value for value in values))
