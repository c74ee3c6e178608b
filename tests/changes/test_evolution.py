"""Columns of files against columns of a table: what fits, what is wider, what each policy makes of a change."""

from decimal import Decimal
from itertools import product

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.changes.conversion import as_text, exactly
from cdcloader.changes.evolution import TEXT_OF, Change, Kind, Policy, Seen, check_frozen, evolve, replaced
from cdcloader.changes.schema import VOID, Field, fits, polars_type, wider
from cdcloader.changes.type_names import decimal_parts
from cdcloader.errors import TableError

DECIMALS = st.integers(1, 38).flatmap(lambda p: st.integers(0, p).map(lambda s: f"decimal({p},{s})"))
SIMPLE = (
    "string", "long", "integer", "short", "byte", "float", "double", "boolean", "binary", "date", "timestamp",
    "timestamp_ntz",
)  # fmt: skip
TYPES = st.sampled_from(SIMPLE) | DECIMALS
LIMITS = {"byte": 2**7, "short": 2**15, "integer": 2**31, "long": 2**63}


def seen(*columns, file="f"):
    return [Seen(file, name, kind) for name, kind in columns]


def types(evolution):
    return {column.name: column.type for column in evolution.schema}


def extremes(kind):
    """The values of a type that are hardest to hold."""
    if parts := decimal_parts(kind):
        return [Decimal((sign, digits, -parts[1])) for sign in (0, 1) for digits in ((9,) * parts[0], (1,))]
    if kind in LIMITS:
        return [-LIMITS[kind], LIMITS[kind] - 1]
    return [0.1, -1e30] if kind in ("float", "double") else []


@given(narrow=TYPES, wide=TYPES)
def test_a_type_that_fits_loses_nothing(narrow, wide):
    """Where a type fits another one, its hardest values come back from a cast there as they were."""
    values = extremes(narrow)
    if values and fits(narrow, wide):
        column = pl.Series(values, dtype=polars_type(narrow))
        assert column.cast(polars_type(wide)).cast(column.dtype).to_list() == column.to_list()


@given(one=TYPES, other=TYPES, third=TYPES)
def test_the_wider_type_holds_both(one, other, third):
    """It is the same whoever comes first, holds both, and fits whatever holds both of two decimals."""
    both = wider(one, other)
    assert both == wider(other, one) or {fits(one, other), fits(other, one)} == {True}
    if both is not None:
        assert fits(one, both)
        assert fits(other, both)
        assert wider(both, one) == both
    elif fits(one, third) and fits(other, third):
        pytest.fail(f"{third} holds {one} and {other}")


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("integer", "long", "long"),
        ("float", "double", "double"),
        ("date", "timestamp", "timestamp"),
        ("decimal(10,2)", "decimal(8,4)", "decimal(12,4)"),
        ("long", "decimal(10,2)", "decimal(21,2)"),
        ("integer", "double", "double"),
        ("long", "decimal(9,0)", "long"),
        ("long", "double", None),
        ("decimal(38,0)", "decimal(38,1)", None),
        ("string", "long", None),
        ("boolean", "integer", None),
        ("timestamp", "timestamp_ntz", None),
        (VOID, "boolean", "boolean"),
    ],
)
def test_wider_types(one, other, both):
    """The types that a table widens to, and those for which there is none."""
    assert wider(one, other) == both


def test_new_columns_come_behind_the_tables():
    """They are told as added; columns that the files lack, or have in another order, stay where they are."""
    table = (Field("a", "long"), Field("b", "string"))
    found = evolve(seen(("c", "date"), ("b", "string")), table, Policy())
    assert types(found) == {"a": "long", "b": "string", "c": "date"}
    assert found.changes == (Change("c", Kind.ADDED, None, "date", "f"),)
    assert not found.retyped
    assert evolve(seen(("c", "date")), (), Policy()).changes == ()


def test_a_column_that_is_new_in_a_batch_takes_the_wider_type_of_its_files():
    """Also in a table that is yet to be made, whatever the policy; what no type holds names both files."""
    both = [*seen(("v", "integer"), file="a"), *seen(("v", "long"), file="b")]
    for table, policy in product(((), (Field("id", "long"),)), (Policy(), Policy(on_type_change="block"))):
        assert types(evolve(both, table, policy))["v"] == "long"
    with pytest.raises(TableError, match="'v' has type long in b and string in c") as caught:
        evolve([*both, *seen(("v", "string"), file="c")], (), Policy())
    assert caught.value.where == "c"
    text = evolve([*both, *seen(("v", "string"), file="c")], (), Policy(on_type_change="string")).schema
    assert text == (Field("v", "string", metadata={TEXT_OF: "long"}),)


@pytest.mark.parametrize("policy", ["widen", "string", "block"])
def test_each_policy_for_types(policy):
    """Safe widening, or text, or nothing at all; what fits the table's type is no change in any of them."""
    table, rules = (Field("v", "integer"),), Policy(on_type_change=policy)
    assert evolve(seen(("v", "short")), table, rules).changes == ()
    if policy == "block":
        with pytest.raises(TableError, match="on_type_change is block"):
            evolve(seen(("v", "long")), table, rules)
    else:
        assert evolve(seen(("v", "long")), table, rules).changes == (Change("v", Kind.WIDENED, "integer", "long", "f"),)
    if policy != "string":
        with pytest.raises(TableError, match="'v' has type boolean, the table has integer") as caught:
            evolve(seen(("v", "boolean")), table, rules)
        assert (caught.value.where, "reload the table" in caught.value.hint) == ("f", True)
    else:
        found = evolve(seen(("v", "boolean")), table, rules)
        assert found.changes == (Change("v", Kind.TO_STRING, "integer", "string", "f"),)
        assert found.schema[0].metadata == {TEXT_OF: "integer"}


def test_a_column_may_widen_and_turn_into_text_in_one_batch():
    """It is one change, and the text is that of the wider type."""
    files = [*seen(("v", "long"), file="a"), *seen(("v", "string"), file="b"), *seen(("v", "decimal(3,1)"), file="c")]
    found = evolve(files, (Field("v", "integer"),), Policy(on_type_change="string"))
    assert found.changes == (Change("v", Kind.TO_STRING, "integer", "string", "a"),)
    assert found.schema[0].metadata == {TEXT_OF: "long"}


def test_a_column_that_turned_into_text_takes_what_it_held_before():
    """Also under another policy than the one that turned it; what comes from elsewhere is text, or in the way."""
    column = Field("v", "string", metadata={TEXT_OF: "long"})
    assert evolve(seen(("v", "integer")), (column,), Policy()).schema == (column,)
    assert evolve(seen(("v", "date")), (column,), Policy(on_type_change="string")).schema == (column,)
    with pytest.raises(TableError, match="has type date, the table has string"):
        evolve(seen(("v", "date")), (column,), Policy())


@pytest.mark.parametrize("role", ["key", "partition_by"])
@pytest.mark.parametrize("policy", ["widen", "string"])
def test_keys_and_partitions_keep_their_types(role, policy):
    """Widening or text would change them silently; only partitions whose text stays as it is may widen."""
    rules = Policy(on_type_change=policy, **{role: frozenset({"k"})})
    for old, new in (("date", "timestamp"), ("float", "double"), ("integer", "decimal(12,2)"), ("long", "string")):
        with pytest.raises(TableError, match="column, whose type never changes") as caught:
            evolve(seen(("k", new)), (Field("k", old),), rules)
        assert caught.value.hint == "reload the table to take the new type"
    widened = {"table": (Field("k", "integer"),), "policy": rules}
    if role == "key":
        with pytest.raises(TableError, match="it is a key column"):
            evolve(seen(("k", "long")), **widened)
    else:
        assert types(evolve(seen(("k", "long")), **widened)) == {"k": "long"}
    assert evolve(seen(("k", "short")), **widened).changes == ()


def test_frozen_tables_stop_at_any_change():
    """The message names the file and all its new columns; `columns` lets one in."""
    table = (Field("id", "long"), Field("v", "integer"))
    files = [*seen(("id", "long"), file="a"), *seen(("x", "long"), ("y", "date"), file="b")]
    with pytest.raises(TableError, match=r"the columns 'x', 'y'.*schema is freeze") as caught:
        evolve(files, table, Policy(schema="freeze"))
    assert caught.value.where == "b"
    with pytest.raises(TableError, match="'v' has type long, the table has integer; schema is freeze"):
        evolve(seen(("v", "long")), table, Policy(schema="freeze"))
    allowed = Policy(schema="freeze", pinned={"x": "long", "y": "date", "v": "long"})
    assert types(evolve([*files, *seen(("v", "long"))], table, allowed)) == {
        "id": "long", "v": "long", "x": "long", "y": "date",
    }  # fmt: skip


def test_a_time_without_a_zone_never_turns_into_text():
    """It is the config that has changed, and the message says so."""
    for old, new in (("timestamp", "timestamp_ntz"), ("timestamp_ntz", "timestamp")):
        with pytest.raises(TableError, match="without a zone") as caught:
            evolve(seen(("v", new)), (Field("v", old),), Policy(on_type_change="string"))
        assert "restore `timestamps`" in caught.value.hint


def test_quarantine_keeps_the_columns():
    """Neither new columns nor other types change the table; the first load makes it from what comes."""
    table, rules = (Field("id", "long"), Field("v", "integer")), Policy(schema="quarantine")
    assert evolve(seen(("id", "long"), ("v", "string"), ("x", "long")), table, rules).schema == table
    assert types(evolve(seen(("x", "long")), (), rules)) == {"x": "long"}
    assert types(evolve(seen(("x", "long")), table, Policy(schema="quarantine", pinned={"x": "long"})))["x"] == "long"


def test_a_type_in_the_config_is_an_order():
    """It widens a column under any policy, and stops a table that it would make lose values, or files that do."""
    table = (Field("v", "integer"),)
    for rules in (Policy(on_type_change="block", pinned={"v": "long"}), Policy(schema="freeze", pinned={"v": "long"})):
        assert types(evolve(seen(("v", "integer")), table, rules)) == {"v": "long"}
    assert evolve(seen(("v", "integer")), table, Policy(pinned={"v": "short"})).schema == table
    with pytest.raises(TableError, match="`columns` says that column 'v' is date, the table has integer"):
        evolve(seen(("v", "date")), table, Policy(pinned={"v": "date"}))
    with pytest.raises(TableError, match="'v' has type long, and by `columns` it is integer"):
        evolve(seen(("v", "long")), table, Policy(pinned={"v": "integer"}))
    assert types(evolve(seen(("v", "integer")), table, Policy(on_type_change="string", pinned={"v": "string"}))) == {
        "v": "string"
    }


def test_a_column_that_was_never_anything_but_null_is_text():
    """A file whose column can hold NULL alone says nothing of its type."""
    assert types(evolve(seen(("v", VOID)), (), Policy())) == {"v": "string"}
    assert types(evolve([*seen(("v", VOID)), *seen(("v", "date"), file="g")], (), Policy())) == {"v": "date"}
    assert evolve(seen(("v", VOID)), (Field("v", "date"),), Policy(schema="freeze")).changes == ()


def test_what_a_full_load_changes():
    """Columns that come, go, or have another type are told; a frozen table takes none of that."""
    old, new = (Field("a", "long"), Field("b", "date")), (Field("c", "date"), Field("a", "integer"))
    assert [(c.column, c.kind) for c in replaced(old, new, "f")] == [
        ("a", Kind.RETYPED), ("b", Kind.DROPPED), ("c", Kind.ADDED),
    ]  # fmt: skip
    assert replaced(old, old[::-1], "f") == ()
    assert check_frozen((Field("b", "date"), Field("a", "integer")), old, "f") == old
    for bad, says in ((new, "'c'"), (old[:1], "lacks the column 'b'"), ((old[0], Field("b", "long")), "'b' has type")):
        with pytest.raises(TableError, match=says):
            check_frozen(bad, old, "f")


def test_canonical_text():
    """The text of a value is one that its source would write, and the same for every value of a column."""
    texts = {
        ("decimal(6,2)", (Decimal("-0.50"), Decimal(24))): ["-0.50", "24.00"],
        ("double", (1.0, 0.1, -2.5, float("nan"), float("inf"))): ["1", "0.1", "-2.5", "NaN", "inf"],
        ("boolean", (True, False)): ["true", "false"],
        ("binary", (b"\x00\xff",)): ["00ff"],
        ("long", (-(2**63),)): ["-9223372036854775808"],
    }
    for (kind, values), expected in texts.items():
        assert as_text(pl.Series([*values, None], dtype=polars_type(kind))).to_list() == [*expected, None]
    moments = pl.Series(["2026-03-01 12:00:00", "2026-03-01 12:00:00.25"]).str.to_datetime(time_unit="us")
    expected = ["2026-03-01 12:00:00", "2026-03-01 12:00:00.250000"]
    assert as_text(moments).to_list() == as_text(moments.dt.replace_time_zone("UTC")).to_list() == expected
    assert as_text(moments.cast(pl.Date)).to_list() == ["2026-03-01"] * 2


@pytest.mark.parametrize(
    ("have", "want", "values", "kept"),
    [
        ("long", "integer", [1, 2**31, -(2**31)], [1, None, -(2**31)]),
        ("double", "integer", [1.0, 1.5, float("nan"), 1e30], [1, None, None, None]),
        ("decimal(6,2)", "decimal(4,1)", [Decimal("1.50"), Decimal("1.55"), Decimal("1234.5")], ["1.5", None, None]),
        ("decimal(6,2)", "long", [Decimal("2.00"), Decimal("2.01")], [2, None]),
        ("long", "double", [2**53, 2**53 + 1], [2.0**53, None]),
        ("double", "float", [0.5, 0.1, float("nan")], [0.5, None, "nan"]),
        ("boolean", "long", [True], [None]),
        ("long", "timestamp", [5], [None]),
        ("binary", "long", [b"5"], [None]),
    ],
)
def test_values_of_a_narrower_type_are_taken_exactly(have, want, values, kept):
    """A value is kept where the other type has the very same one; never cut, rounded or read as something else."""
    typed = exactly(pl.Series("v", [*values, None], dtype=polars_type(have)), have, want)
    assert typed.dtype == polars_type(want)
    assert [None if v is None else str(v) for v in typed] == [None if v is None else str(v) for v in [*kept, None]]


def test_moments_are_taken_exactly():
    """A timestamp is a date at midnight alone, and the same wall time with a zone or without."""
    at = pl.Series("v", ["2026-03-01 00:00:00", "2026-03-01 00:00:01"]).str.to_datetime(time_unit="us")
    utc = at.dt.replace_time_zone("UTC")
    assert exactly(utc, "timestamp", "date").is_null().to_list() == [False, True]
    assert exactly(utc, "timestamp", "timestamp_ntz").to_list() == at.to_list()
    assert exactly(at, "timestamp_ntz", "timestamp").to_list() == utc.to_list()
