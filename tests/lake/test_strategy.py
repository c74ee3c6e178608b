"""The write plan: one fate for each file, and few files in the long run."""

import math
import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.lake.strategy import NO_FILE, Touched, make_plan

MODES = ["auto", "merge_on_read", "copy_on_write"]
FILE_BYTES = 128 << 20


@st.composite
def situations(draw):
    """(files, new rows, bytes of the new rows) of a table with one key column and no partitions."""
    files = []
    for index in range(draw(st.integers(0, 6))):
        rows = draw(st.integers(1, 1_000_000))
        looked_into = draw(st.booleans())
        hits = draw(st.one_of(st.integers(1, rows), st.just(rows))) if looked_into else 0
        size = draw(st.integers(100, FILE_BYTES))
        dead = draw(st.integers(0, 1_000_000))
        files.append(Touched(index, (), size, (index * 10,), hits, rows if looked_into else None, dead))
    hit = [file.index for file in files if file.hits]
    homes = draw(st.lists(st.sampled_from([NO_FILE, *hit]), max_size=8))
    rows = pl.DataFrame(
        {"k": range(len(homes)), "partition": 0, "home": homes},
        schema={"k": pl.Int64, "partition": pl.UInt32, "home": pl.Int64},
    )
    return files, rows, draw(st.floats(1, 1e9))


def plan_of(files, rows, size, mode):
    return make_plan(files, rows, {(): size}, key=["k"], mode=mode, file_bytes=FILE_BYTES)


@given(situation=situations(), mode=st.sampled_from(MODES))
def test_every_hit_file_has_one_fate_and_every_row_one_place(situation, mode):
    """A hit file is marked, rewritten, dropped or absorbed; a file that is not hit is left, or absorbed if small."""
    files, rows, size = situation
    plan = plan_of(files, rows, size, mode)
    fates = [plan.mark, plan.rewrite, plan.drop, plan.absorbed]
    for file in files:
        count = sum(file.index in fate for fate in fates)
        assert count == 1 if file.hits else (count == 0 or file.index in plan.absorbed)
    assert plan.home.len() == rows.height
    assert set(plan.home.to_list()) <= {NO_FILE, *plan.rewrite}
    gone = {file.index for file in files if file.hits and file.hits == file.rows}
    assert plan.drop <= gone <= plan.drop | plan.rewrite
    if mode == "copy_on_write":
        assert not plan.mark
    else:
        assert gone == plan.drop


@given(situation=situations())
def test_merge_on_read_writes_no_old_row_again_but_small_files(situation):
    """What is hit is marked, whatever its share; only small files join the new rows."""
    files, rows, size = situation
    plan = plan_of(files, rows, size, "merge_on_read")
    assert not plan.rewrite
    assert all(file.kept_bytes <= FILE_BYTES / 8 for file in files if file.index in plan.absorbed)


@pytest.mark.parametrize(
    ("size", "rows", "dead", "hits", "fate"),
    [
        (FILE_BYTES, 1_000_000, 0, 1, "mark"),
        (FILE_BYTES, 1_000_000, 0, 400_000, "mark"),
        (FILE_BYTES, 1_000_000, 0, 600_000, "rewrite"),
        (FILE_BYTES, 600_000, 400_000, 200_000, "rewrite"),
        (FILE_BYTES, 1_000_000, 0, 1_000_000, "drop"),
        (100_000, 1_000, 0, 1, "rewrite"),
    ],
)
def test_auto_weighs_bytes(size, rows, dead, hits, fate):
    """Few hits in a large file: a vector; a mostly dead or a small file: written again; nothing left: dropped."""
    plan = plan_of([Touched(0, (), size, (0,), hits, rows, dead)], pl.DataFrame(), 0.0, "auto")
    assert getattr(plan, fate) == {0}


def test_a_small_hit_file_joins_the_new_rows():
    """Instead of being written again on its own, or marked."""
    files = [Touched(0, (), 100_000, (0,), 5, 1_000), Touched(1, (), FILE_BYTES, (0,), 5, 1_000_000)]
    rows = pl.DataFrame(
        {"k": [1], "partition": [0], "home": [0]}, schema={"k": pl.Int64, "partition": pl.UInt32, "home": pl.Int64}
    )
    plan = plan_of(files, rows, 1_000.0, "auto")
    assert (plan.absorbed, plan.mark, plan.rewrite) == ({0}, {1}, frozenset())
    assert plan.home.to_list() == [NO_FILE]
    assert "1 marked (0.00% of their rows hit), 1 small absorbed" in plan.reason(files)


@pytest.mark.parametrize("scattered", [0.0, 0.01, 0.5])
def test_the_number_of_files_grows_with_the_logarithm_of_the_batches(scattered):
    """2,000 batches on a large table, whatever share of the older small files each one hits."""
    rng = random.Random(7)
    files = [(FILE_BYTES, 2_000_000, 0)] * 5
    for _ in range(2_000):
        touched = [
            Touched(
                i,
                (),
                size,
                (0,),
                max(1, int(rows * scattered * rng.random() * 0.01)) if scattered else 0,
                rows if scattered else None,
                dead,
            )
            for i, (size, rows, dead) in enumerate(files)
        ]
        new = pl.DataFrame(
            {"k": [1], "partition": [0], "home": [NO_FILE]},
            schema={"k": pl.Int64, "partition": pl.UInt32, "home": pl.Int64},
        )
        plan = plan_of(touched, new, 60_000.0, "auto")
        gone = plan.mark | plan.rewrite | plan.drop | plan.absorbed
        kept = [files[i] for i in range(len(files)) if i not in gone]
        marked = [(files[i][0], files[i][1] - touched[i].hits, files[i][2] + touched[i].hits) for i in plan.mark]
        rewritten = [(int(touched[i].kept_bytes), files[i][1] - touched[i].hits, 0) for i in plan.rewrite]
        joined = 60_000 + sum(touched[i].kept_bytes for i in plan.absorbed)
        files = [*kept, *marked, *rewritten, (int(joined), max(1, int(joined / 60)), 0)]
    assert len(files) <= 5 + 2 * math.log2(2_000)
