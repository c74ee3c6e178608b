"""The replicas' item: its stored form, read back or refused, and which replica a table belongs to."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.errors import TableError
from cdcloader.state.replicas import (
    REPLICAS_PATH,
    Beat,
    Replicas,
    group_of,
    owner_of,
    replicas_from_attributes,
    replicas_to_attributes,
)

texts = st.text(max_size=12)
beats = st.builds(Beat, st.integers(0, 2**63 - 1), texts)
items = st.builds(Replicas, st.integers(1, 2**63 - 1), st.dictionaries(texts, beats, max_size=4))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)
replica_names = st.lists(texts, min_size=1, max_size=6, unique=True)
table_names = st.lists(texts, max_size=12, unique=True)


@given(items)
def test_every_item_survives_being_stored(replicas: Replicas) -> None:
    """Whatever a beat holds, it is read back as it was."""
    assert replicas_from_attributes(replicas_to_attributes(replicas)) == replicas


@given(items, st.sampled_from(["Revision", "Beats"]), json_values)
def test_a_damaged_item_is_refused_by_name(replicas: Replicas, name: str, value: Any) -> None:
    """One attribute replaced by anything: what is read could have been written, or it is told which one is damaged."""
    damaged = {**replicas_to_attributes(replicas), name: value}
    if (told := refusal(damaged)) is None:
        read = replicas_from_attributes(damaged)
        assert replicas_from_attributes(replicas_to_attributes(read)) == read
    else:
        assert (told.where, name in told.what, "delete it" in told.hint) == (REPLICAS_PATH, True, True)


def refusal(attributes: dict[str, Any]) -> TableError | None:
    try:
        replicas_from_attributes(attributes)
    except TableError as error:
        return error
    return None


@pytest.mark.parametrize(
    "stored",
    ["", "null", "[]", "{", '{"a":1}', '{"a":{"beat":"1","group":"g"}}', '{"a":{"beat":true,"group":"g"}}',
     '{"a":{"beat":-1,"group":"g"}}', '{"a":{"beat":1}}', "[" * 100_000, None, 7],
)  # fmt: skip
def test_beats_that_are_no_beats_are_refused(stored: object) -> None:
    """Half of a beat is not guessed at."""
    with pytest.raises(TableError, match="Beats is damaged"):
        replicas_from_attributes({"Revision": 1, "Beats": stored})


@given(table_names, replica_names, texts)
def test_a_replica_that_comes_or_goes_moves_only_its_own_tables(
    tables: list[str], replicas: list[str], other: str
) -> None:
    """Who joins takes tables to itself, who leaves gives up its own; no other table changes hands."""
    grown = {*replicas, other}
    for table in tables:
        before, after = owner_of(table, replicas), owner_of(table, grown)
        assert after in (before, other)
        assert owner_of(table, list(reversed(replicas))) == before


def test_tables_are_spread_evenly() -> None:
    """Of many tables each of five replicas has about a fifth."""
    replicas = [f"host-{number}:{number}:0a1b2c3d" for number in range(5)]
    shares = Counter(owner_of(f"bucket/raw/sales/table_{number}/", replicas) for number in range(5_000))
    assert set(shares) == set(replicas)
    assert all(800 < share < 1_200 for share in shares.values()), shares


def test_nobody_owns_a_table_where_there_is_no_replica() -> None:
    """There is no owner to be found among none."""
    assert owner_of("bucket/raw/sales/orders/", ()) is None


def test_replicas_of_the_same_tables_are_a_group() -> None:
    """The order of the tables does not matter, each of them does."""
    assert group_of(["a/", "b/"]) == group_of(["b/", "a/"])
    assert len({group_of(tables) for tables in ([], ["a/"], ["b/"], ["a/", "b/"], ["a/b/"])}) == 5
