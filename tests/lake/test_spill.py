"""Runs that are put aside on disk and merged, against a sort of everything in memory."""

import errno
import math
import os
from datetime import date
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.errors import TransientError
from cdcloader.lake import spill as module
from cdcloader.lake.spill import Spill

VALUES = {
    pl.Int64(): st.integers(-20, 20),
    pl.String(): st.sampled_from(["", "a", "ab", "ü", "z" * 40]),
    pl.Date(): st.dates(date(2020, 1, 1), date(2020, 1, 20)),
    pl.Decimal(12, 2): st.decimals(Decimal(-2), Decimal(2), places=1),
    pl.Float64(): st.floats(-3, 3, width=16),
    pl.Boolean(): st.booleans(),
    pl.Binary(): st.binary(max_size=2),
}


@st.composite
def sets_of_runs(draw):
    """(types of the order's columns, whether the first is a nullable partition, runs of rows with their number)."""
    types = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3))
    partition = len(types) > 1 and draw(st.booleans())
    columns = [VALUES[dtype] for dtype in types]
    if partition:
        columns[0] = st.one_of(st.none(), columns[0])
    runs = draw(st.lists(st.lists(st.tuples(*columns), max_size=30), min_size=1, max_size=9))
    return types, partition, runs


def framed(types, rows, numbers):
    columns = {f"k{place}": pl.Series([row[place] for row in rows], dtype=dtype) for place, dtype in enumerate(types)}
    return pl.DataFrame(columns | {"n": pl.Series(numbers, dtype=pl.Int64)})


@settings(max_examples=150, deadline=None)
@given(sets_of_runs(), st.sampled_from([1, 400, 1 << 20]), st.sampled_from([2, 3, 512]))
def test_the_merge_is_the_sort_of_all_runs_with_the_last_row_of_each_key(made, piece_bytes, fan_in):
    """Whatever the types, the piece and the levels of merging: everything in order, later runs win, nothing is lost."""
    types, _, runs = made
    order = [f"k{place}" for place in range(len(types))]
    spill, all_rows = Spill(order, order, piece_bytes), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FAN_IN", fan_in)
        patch.setattr(module, "_UNIT_ROWS_MIN", 2)
        for rank, rows in enumerate(runs):
            run = framed(types, rows, [rank] * len(rows)).unique(order, keep="last").sort(order)
            all_rows.append(run)
            spill.add(run.iter_slices(7), rank)
        assert spill.rows == sum(run.height for run in all_rows)
        merged = list(spill.merged())
    expected = pl.concat(all_rows).unique(order, keep="last", maintain_order=True).sort(order)
    found = pl.concat(merged) if merged else expected.clear()
    assert found.equals(expected)


@pytest.mark.parametrize("order", [["p"], []])
def test_without_a_key_every_row_stays_in_the_order_of_its_run(order, monkeypatch):
    """Rows of one partition keep the order in which they were read, equal ones too."""
    monkeypatch.setattr(module, "_UNIT_ROWS_MIN", 3)
    spill = Spill(order, [], 1)
    runs = [pl.DataFrame({"p": [(n * 7 + r) % 3 for n in range(50)], "n": range(50)}) for r in range(4)]
    runs = [run.sort(order, maintain_order=True) if order else run for run in runs]
    for rank, run in enumerate(runs):
        spill.add([run], rank)
    expected = pl.concat(runs)
    expected = expected.sort(order, maintain_order=True) if order else expected
    assert pl.concat(list(spill.merged())).equals(expected)


def test_a_merge_hands_on_frames_of_about_a_piece():
    """Runs that all overlap are not gathered in memory: no frame is much larger than a piece."""
    rows, runs, piece_bytes = 4_000, 20, 64 << 10
    spill = Spill(["k"], ["k"], piece_bytes)
    for rank in range(runs):
        spill.add([pl.DataFrame({"k": range(rank, rows * runs, runs), "n": rank})], rank)
    sizes = [frame.estimated_size() for frame in spill.merged()]
    assert len(sizes) > 10
    assert max(sizes) < 2 * piece_bytes


def test_not_a_number_comes_last():
    """A key that is NaN has one place in the order, behind all numbers."""
    spill = Spill(["k"], ["k"], 1)
    for rank, keys in enumerate([[1.0, math.nan], [0.5, math.inf, math.nan]]):
        spill.add([pl.DataFrame({"k": keys, "n": rank})], rank)
    found = pl.concat(list(spill.merged())).rows()
    assert [row[1] for row in found] == [1, 0, 1, 1]
    assert math.isnan(found[-1][0])


def test_nothing_is_left_of_it_on_the_disk(tmp_path, monkeypatch):
    """The file has no name even while it is used, so that a killed process leaves nothing behind."""
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    spill = Spill(["k"], ["k"], 1)
    spill.add([pl.DataFrame({"k": [1, 2], "n": [0, 0]})], 0)
    assert list(tmp_path.iterdir()) == []
    assert pl.concat(list(spill.merged())).height == 2


def test_a_full_disk_is_told_and_tried_again(tmp_path, monkeypatch):
    """An operator reads where the rows were to go and what to do; the table is retried."""
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(TransientError, match="TMPDIR"):
        Spill(["k"], ["k"], 1)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    spill = Spill(["k"], ["k"], 1)
    spill.add([pl.DataFrame({"k": [1, 2], "n": [0, 0]})], 0)

    def unreadable(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module.os, "pread", unreadable)
    with pytest.raises(TransientError, match=str(tmp_path)):
        list(spill.merged())
