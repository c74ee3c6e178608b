"""The net changes of rows."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cdcloader.changes.net import FILE, OP, ROW, SEQ, net_changes, net_places


def rows(changes: list[tuple[object, ...]], columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame(changes, schema=columns, orient="row")


def test_the_last_change_of_a_key_stays() -> None:
    """One row per key, the one that was read last, in key order."""
    read = rows([(2, "I", "a"), (1, "I", "b"), (2, "U", "c"), (1, "D", "d"), (3, "I", "e")], ["id", OP, "v"])
    expected = rows([(1, "D", "d"), (2, "U", "c"), (3, "I", "e")], ["id", OP, "v"])
    assert_frame_equal(net_changes(read, ["id"]), expected)


def test_sequence_by_comes_before_the_order_of_reading() -> None:
    """A change that was written later but happened earlier loses; a NULL sequence loses to everything."""
    read = rows(
        [(1, "U", 5, "a"), (1, "U", 3, "b"), (2, "U", None, "c"), (2, "U", 1, "d"), (2, "U", None, "e")],
        ["id", OP, f"{SEQ}0", "v"],
    )
    assert net_changes(read, ["id"])["v"].to_list() == ["a", "d"]


def test_equal_sequences_are_ordered_by_reading() -> None:
    """Where `sequence_by` does not decide, the row that was read last stays."""
    read = rows([(1, "U", 5, "a"), (1, "U", 5, "b"), (1, "U", 4, "c")], ["id", OP, f"{SEQ}0", "v"])
    assert net_changes(read, ["id"])["v"].to_list() == ["b"]


def test_several_sequence_columns_count_in_their_order() -> None:
    """The first of `sequence_by` is the most significant, the eleventh not the second."""
    sequence = [f"{SEQ}{place}" for place in range(11)]
    low, high = [1, *[9] * 10], [2, *[0] * 10]
    read = rows([(1, "U", *high, "a"), (1, "U", *low, "b")], ["id", OP, *sequence, "v"])
    assert net_changes(read, ["id"])["v"].to_list() == ["a"]


CHANGES = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "A", "é"]), st.none() | st.integers(0, 3)))


@given(CHANGES, st.booleans())
def test_net_changes_are_what_a_dict_says(changes: list[tuple[int, str, int | None]], sequenced: bool) -> None:
    """Composite keys, with and without a sequence: the places equal a fold over the rows."""
    read = pl.DataFrame(
        changes, schema={"k": pl.Int64, "t": pl.String, f"{SEQ}0": pl.Int64}, orient="row"
    ).with_columns(pl.lit(0, pl.UInt32).alias(FILE), pl.int_range(pl.len()).alias(ROW))
    last: dict[tuple[int, str], tuple[int, int]] = {}
    for place, (number, text, sequence) in enumerate(changes):
        order = (-1 if sequence is None else sequence) if sequenced else 0
        last[number, text] = max(last.get((number, text), (-2, -1)), (order, place))
    found = net_places(read if sequenced else read.drop(f"{SEQ}0"), ["k", "t"])
    assert found.to_list() == [place for _, (_, place) in sorted(last.items())]
