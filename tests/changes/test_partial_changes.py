"""What partial rows and changed keys amount to, in memory and put aside, against a dict."""

from __future__ import annotations

from unittest.mock import patch

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.changes.changed_keys import BEFORE, with_old_keys_deleted
from cdcloader.changes.net import FILE, OP, ROW, SEQ, TIME, UNSET, net_changes
from cdcloader.lake import spill
from cdcloader.loader.context import Stopwatch
from cdcloader.loader.passes import net_passes

NAMES = ("a", "b")
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from("IUUUD"),
        st.none() | st.integers(0, 3),
        *(st.none() | st.integers(0, 9) for _ in NAMES),
        *(st.booleans() for _ in NAMES),
    ),
    min_size=1,
    max_size=60,
)


def frame_of(changes, *, sequenced):
    """Unset cells are NULL, and there are some in a U only."""
    rows = []
    for key, op, sequence, *cells in changes:
        unset = [op == "U" and flag for flag in cells[2:]]
        values = [None if hidden else value for value, hidden in zip(cells[:2], unset, strict=True)]
        rows.append((key, op, sequence, *values, *unset))
    schema = {"id": pl.Int64, OP: pl.String, f"{SEQ}0": pl.Int64, "a": pl.Int64, "b": pl.Int64}
    frame = pl.DataFrame(rows, {**schema, **{UNSET + name: pl.Boolean for name in NAMES}}, orient="row")
    return frame if sequenced else frame.drop(f"{SEQ}0")


def folded(frame):
    """key -> (last op is D, {column: value, or None in a list where it is unset}), by one row after the other."""
    rows = frame.with_row_index("place").to_dicts()
    rows.sort(key=lambda row: (-1 if row.get(f"{SEQ}0") is None else row[f"{SEQ}0"], row["place"]))
    state: dict[int, dict[str, object]] = {}
    for row in rows:
        before = state.get(row["id"], {OP: "", "a": "unset", "b": "unset"})
        if before[OP] == "D":
            before = {"a": None, "b": None}
        state[row["id"]] = {OP: row[OP], **{n: before[n] if row[UNSET + n] else row[n] for n in NAMES}}
    return {key: "D" if row[OP] == "D" else (row["a"], row["b"]) for key, row in state.items()}


def told(net):
    return {
        row["id"]: "D" if row[OP] == "D" else tuple("unset" if row[UNSET + n] else row[n] for n in NAMES)
        for row in net.to_dicts()
    }


@given(CHANGES, st.booleans())
def test_a_net_change_takes_each_value_from_the_change_that_set_it_last(changes, sequenced):
    """Any changes of some keys: values, what stays unset, and what a D clears, are those of a fold row by row."""
    frame = frame_of(changes, sequenced=sequenced)
    net = net_changes(frame, ["id"])
    assert told(net) == folded(frame)
    assert net["id"].is_sorted()


@settings(deadline=None)
@given(
    CHANGES, st.booleans(), st.integers(1, 12), st.integers(1, 2_000), st.integers(1, 500), st.sampled_from([2, 512])
)
def test_partial_rows_are_the_same_by_way_of_the_disk(changes, sequenced, step, batch_bytes, pass_bytes, fan_in):
    """Parts that are netted, put aside and merged make the net changes of the whole, whatever a sequence says."""
    frame = frame_of(changes, sequenced=sequenced)
    frames = [frame.slice(at, step) for at in range(0, frame.height, step)]
    with patch.object(spill, "_FAN_IN", fan_in):
        found = list(net_passes(iter(frames), ["id"], batch_bytes, pass_bytes, Stopwatch(), lambda: None))
    assert told(pl.concat(found).select(frame.columns)) == folded(frame)


def test_the_old_key_is_deleted_before_its_new_row():
    """A row that changed its key becomes a D and itself, at one place; all other rows stay as they are."""
    rows = pl.DataFrame(
        {
            "id": [1, 2, 5],
            "code": ["a", "b", "c"],
            "v": [10, 20, 30],
            OP: ["U", "U", "D"],
            FILE: [0, 0, 1],
            ROW: [1, 2, 1],
            TIME: [7, 8, 9],
            UNSET + "v": [False, False, False],
            BEFORE + "id": [None, 3, None],
            BEFORE + "code": [None, "b", None],
        }
    )
    assert with_old_keys_deleted(rows).rows() == [
        (1, "a", 10, "U", 0, 1, 7, False),
        (3, "b", None, "D", 0, 2, 8, False),
        (2, "b", 20, "U", 0, 2, 8, False),
        (5, "c", 30, "D", 1, 1, 9, False),
    ]
