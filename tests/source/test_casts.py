"""Casts between Delta types: a value comes through unchanged, or has failed."""

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.changes.schema import fits, polars_type
from cdcloader.source.casts import cast_values, castable, keeps_apart

TYPES = (
    "byte", "short", "integer", "long", "float", "double", "decimal(5,2)", "decimal(38,10)", "boolean", "string",
    "date", "timestamp", "timestamp_ntz", "binary",
)  # fmt: skip
VALUES = {
    "byte": st.integers(-128, 127),
    "short": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32),
    "double": st.floats(),
    "decimal(5,2)": st.decimals("-999.99", "999.99", places=2),
    "decimal(38,10)": st.decimals(-(10**20), 10**20, places=10),
    "boolean": st.booleans(),
    "string": st.one_of(st.text(), st.integers().map(str), st.dates().map(str), st.sampled_from(["true", "1.5"])),
    "date": st.dates(),
    "timestamp": st.datetimes().map(lambda at: at.replace(tzinfo=UTC)),
    "timestamp_ntz": st.datetimes(),
    "binary": st.binary(),
}


def cast(values, have, want):
    made, failed = cast_values(pl.Series("c", values, dtype=polars_type(have)), have, want)
    return made, failed.to_list()


@given(st.data(), st.sampled_from(TYPES), st.sampled_from(TYPES))
def test_any_cast(data, have, want):
    """Whatever the types: NULL stays NULL, a value fails or has the type, and a type that holds it all never fails."""
    if not castable(have, want):
        return
    values = data.draw(st.lists(st.none() | VALUES[have], max_size=8))
    made, failed = cast(values, have, want)
    assert made.dtype == polars_type(want)
    assert len(made) == len(values)
    for value, result, bad in zip(values, made.to_list(), failed, strict=True):
        assert not (value is None and (bad or result is not None))
        assert value is None or bad or result is not None
    if fits(have, want):
        assert not any(failed)


@given(st.data(), st.sampled_from(TYPES), st.sampled_from(TYPES))
def test_keys_stay_apart(data, have, want):
    """What a key may be cast to keeps different keys different, and loses none."""
    if not keeps_apart(have, want):
        return
    values = data.draw(st.lists(VALUES[have], max_size=8, unique=True))
    made, failed = cast(values, have, want)
    assert not any(failed)
    if have not in ("float", "double"):
        assert made.n_unique() == len(values)


@pytest.mark.parametrize(
    ("have", "want", "value", "result"),
    [
        ("double", "long", 2.0, 2), ("double", "long", 2.5, None), ("double", "long", 1e300, None),
        ("double", "long", float("nan"), None), ("long", "integer", 2**40, None), ("long", "boolean", 1, True),
        ("long", "boolean", 2, None), ("boolean", "byte", True, 1), ("double", "float", 1e300, None),
        ("decimal(5,2)", "decimal(5,1)", Decimal("1.50"), Decimal("1.5")),
        ("decimal(5,2)", "decimal(5,1)", Decimal("1.55"), None), ("decimal(5,2)", "double", Decimal("1.55"), 1.55),
        ("timestamp", "date", datetime(2026, 3, 1, 23, tzinfo=UTC), date(2026, 3, 1)),
        ("timestamp", "timestamp_ntz", datetime(2026, 3, 1, 23, tzinfo=UTC), datetime(2026, 3, 1, 23)),  # noqa: DTZ001
        ("date", "timestamp", date(2026, 3, 1), datetime(2026, 3, 1, tzinfo=UTC)),
        ("timestamp", "string", datetime(2026, 3, 1, 23, tzinfo=UTC), "2026-03-01 23:00:00"),
        ("binary", "string", b"\xff\x00", "ff00"), ("string", "binary", "ff00", b"\xff\x00"),
        ("string", "date", "2026-03-01", date(2026, 3, 1)), ("string", "long", "007", 7), ("string", "long", "7", 7),
        ("string", "long", "7x", None),
        ("decimal(5,2)", "string", Decimal("1.50"), "1.50"), ("double", "string", 2.0, "2"),
    ],
)  # fmt: skip
def test_a_cast(have, want, value, result):
    """A value that would come out as another one has failed."""
    made, failed = cast([value], have, want)
    assert failed == [result is None]
    assert result is None or made.to_list() == [result]


@pytest.mark.parametrize(
    ("have", "want"), [("date", "long"), ("boolean", "date"), ("binary", "long"), ("long", "date")]
)
def test_what_is_no_cast(have, want):
    """Types that have nothing to do with each other are not cast."""
    assert not castable(have, want)


@pytest.mark.parametrize(
    ("have", "want"), [("string", "long"), ("double", "string"), ("timestamp", "date"), ("long", "integer")]
)
def test_what_might_make_two_keys_one(have, want):
    """A key is not cast to a type that may hold fewer values, or other spellings of one."""
    assert not keeps_apart(have, want)
