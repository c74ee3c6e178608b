"""Types of CSV columns from their values."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.source.inference import infer, widen
from cdcloader.source.text_values import parse_text


def inferred(*values: str | None, timestamps: str = "timestamp") -> str:
    return infer(pl.Series(list(values), dtype=pl.String), timestamps)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((None, None), "string"),
        ((), "string"),
        (("1", "-20", "0", None), "long"),
        (("9223372036854775807",), "long"),
        (("9223372036854775808", "1"), "decimal(38,0)"),
        (("1" * 39,), "string"),
        (("007",), "string"),
        (("+7",), "string"),
        (("-0",), "string"),
        (("1", "00"), "string"),
        (("24000.00", "-0.50"), "decimal(38,2)"),
        (("1", "1.5"), "decimal(38,10)"),
        (("1.25", "1.5"), "decimal(38,10)"),
        (("1.25", "1.12345678901"), "double"),
        (("1.25", "1234567890.12345678901"), "decimal(38,18)"),
        (("1" * 30, "1.5"), "string"),
        (("01.5",), "string"),
        (("+2.1804858784530072e+04",), "double"),
        (("+2.1804858784530072e+04", "1"), "double"),
        (("1e5", "1234567890123456789"), "string"),
        (("true", "false"), "boolean"),
        (("t",), "string"),
        (("2024-01-01", "2024-02-29"), "date"),
        (("2024-02-30",), "string"),
        (("2024-01-01 10:11:12", "2024-01-01 10:11:12.123456"), "timestamp"),
        (("2024-01-01 10:11:12.1234567",), "string"),
        (("2024-01-01 25:11:12",), "string"),
        (("2024-01-01", "2024-01-01 10:11:12"), "string"),
        (("",), "string"),
        (("1", "x"), "string"),
        (("1", "true"), "string"),
    ],
)
def test_infer(values: tuple[str | None, ...], kind: str) -> None:
    """A type is inferred only if every value keeps its meaning."""
    assert inferred(*values) == kind


def test_naive_timestamps() -> None:
    """A table with naive timestamps gets timestamp_ntz."""
    assert inferred("2024-01-01 10:11:12", timestamps="timestamp_ntz") == "timestamp_ntz"


@pytest.mark.parametrize(
    ("old", "value", "wider"),
    [
        ("long", "9223372036854775808", "decimal(38,0)"),
        ("long", "1.5", "decimal(38,10)"),
        ("long", "007", "string"),
        ("decimal(38,2)", "1.234", "decimal(38,10)"),
        ("decimal(38,10)", "1.12345678901", "decimal(38,18)"),
        ("decimal(38,2)", "1" * 37, "string"),
        ("decimal(38,0)", "1.5", "decimal(38,10)"),
        ("date", "x", "string"),
        ("boolean", "1", "string"),
        ("timestamp", "2024-01-01", "string"),
        ("double", "x", "string"),
    ],
)
def test_widen(old: str, value: str, wider: str) -> None:
    """The wider type holds what the old one held and the new values, string at worst."""
    assert widen(old, pl.Series([value]), "timestamp") == wider


VALUES = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**12), max_value=10**12).map(
        "{:f}".format
    ),
    st.text("0123456789.+-e: ", max_size=12),
    st.datetimes().map(lambda time: time.isoformat(" ")),
    st.dates().map(str),
)


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_every_value_parses_as_its_inferred_type(values: list[str]) -> None:
    """Each value of the sample parses as the inferred type, so a load of the sample has no misfit."""
    kind = inferred(*values)
    assert parse_text(pl.Series(values), kind).null_count() == 0


@given(st.lists(VALUES, min_size=1, max_size=4), st.lists(VALUES, min_size=1, max_size=4))
def test_widening_ends(first: list[str], later: list[str]) -> None:
    """Restarting with the wider type ends, and at the end everything parses."""
    kind = inferred(*first)
    values = pl.Series([*first, *later])
    for _ in range(40):
        failed = values.filter(parse_text(values, kind).is_null())
        if failed.is_empty():
            return
        kind = widen(kind, failed, "timestamp")
    pytest.fail(f"no end with {kind}")
