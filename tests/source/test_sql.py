"""SQL expressions of a row: what they may be, and what becomes of values that they fail for."""

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.changes.schema import Field, polars_schema
from cdcloader.errors import TableError
from cdcloader.source.sql import parse

COLUMNS = (
    Field("a", "long"),
    Field("s", "string"),
    Field("t", "timestamp"),
    Field("d", "date"),
    Field("m", "decimal(12,2)"),
    Field("b", "boolean"),
)


@pytest.mark.parametrize(
    "sql",
    [
        "SUM(a)", "a - AVG(a)", "MAX(a)", "COUNT(*)", "COUNT(DISTINCT a)", "FIRST(a)", "STDDEV(a)", "CORR(a, a)",
        "QUANTILE_CONT(a, 0.5)", "ARRAY_AGG(a)", "STRING_AGG(s, ',')", "ROW_NUMBER() OVER (ORDER BY a)",
        "SUM(a) OVER (PARTITION BY s)", "LAG(a) OVER (ORDER BY a)", "(SELECT 1)", "a IN (SELECT 1)",
        "EXISTS (SELECT 1)", "UNNEST(a)", "COLUMNS('.*')", "NOW()", "a > 1 AND t < CURRENT_TIMESTAMP",
        "current_date", "DATE(s)", "COALESCE(a, MIN(a))", "CASE WHEN a > MAX(a) THEN 1 ELSE 0 END",
        "RANDOM()", "", "a +", "a, s", "*", "a; s", "SELECT a", "nosuch(a)",
    ],
)  # fmt: skip
def test_more_than_a_row_is_refused(sql):
    """An expression that is none, or whose value depends on other rows or on the clock, is refused with its place."""
    with pytest.raises(TableError) as caught:
        parse(sql, "tables[0].filter")
    assert caught.value.where == "tables[0].filter"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("a + 1", "long"), ("a / 2", "double"), ("'eu'", "string"), ("NULL", "string"), ("s || a", "string"),
        ("CAST(t AS DATE)", "date"), ("t::time", "string"), ("STRFTIME(t, '%Y')", "string"), ("LENGTH(s)", "long"),
        ("EXTRACT(hour FROM t)", "byte"), ("t > TIMESTAMP '2026-01-01 00:00:00'", "boolean"),
        ("b AND a > 1", "boolean"),
        ("d - INTERVAL '1 day'", "date"), ("STRPTIME(s, '%Y')", "timestamp"), ("m * 2", "decimal(38,2)"),
        ("a IN (1, 2)", "boolean"), ("ROUND(m, 1)", "decimal(13,2)"), ("CASE WHEN a > 1 THEN s END", "string"),
        ("s = 'NOW()' OR \"s\" = 'it''s current_date'", "boolean"), ("TRY_CAST(s AS BIGINT)", "long"),
    ],
)  # fmt: skip
def test_types(sql, kind):
    """An expression of a row has a type that a Delta table holds; moments are of UTC."""
    assert parse(sql, "w").type(COLUMNS, timestamps="utc") == kind


@pytest.mark.parametrize("sql", ["ARRAY[1]", "t - t", "nosuch + 1", "A + 1", "s > 1", "LENGTH(a)"])
def test_what_the_columns_do_not_bear_is_refused(sql):
    """An expression that names no column of the files, or cannot be evaluated over their types, is refused."""
    with pytest.raises(TableError) as caught:
        parse(sql, "w").type(COLUMNS, timestamps="utc")
    assert caught.value.where == "w"


@given(st.lists(st.sampled_from(["1", "-7", "x", "", None, "9" * 30])), st.integers(0, 2**32))
def test_rows_that_fail_are_told_one_by_one(texts, wanted_bits):
    """Of an expression that fails for some values just these rows fail, and rows that nobody asks for never do."""
    rows = pl.DataFrame({"s": texts}, schema={"s": pl.String})
    wanted = pl.Series([bool(wanted_bits >> place & 1) for place in range(len(texts))], dtype=pl.Boolean)
    values, failed = parse("CAST(s AS BIGINT) * 2", "w").values(rows, wanted)
    good = {"1": 2, "-7": -14, None: None}
    assert len(values) == len(texts)
    for place, text in enumerate(texts):
        if wanted[place]:
            assert (place in failed) == (text not in good)
            assert text not in good or values[place] == good[text]
        else:
            assert place not in failed


def test_a_constant_has_a_value_for_each_row():
    """An expression without columns has its value in every row, also of no rows."""
    for height in (0, 3):
        rows = pl.DataFrame({"a": pl.Series([1] * height, dtype=pl.Int64)})
        values, failed = parse("'eu'", "w").values(rows, rows["a"].is_not_null())
        assert values.to_list() == ["eu"] * height
        assert not failed


def test_moments_are_without_a_zone():
    """An expression sees moments as UTC says them, whatever the machine's zone."""
    moment = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    rows = pl.DataFrame({"t": [moment]}, schema={"t": polars_schema(COLUMNS)["t"]})
    values, _ = parse("CAST(t AS DATE)", "w").values(rows, pl.Series([True]))
    assert values.to_list() == [date(2026, 3, 1)]


def test_what_fails_for_every_value_stops_the_table():
    """An operation that Polars does not have is no fault of a row, however few rows there are."""
    rows = pl.DataFrame({"s": ["2026-01-01"]})
    with pytest.raises(TableError, match="not supported"):
        parse("CAST(s AS DATE)", "w").values(rows, pl.Series([True]))
