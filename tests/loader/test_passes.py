"""Batches that are larger than memory are what they would be in memory."""

from __future__ import annotations

import itertools
import random
import resource
import tempfile
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cdcloader.changes.net import OP, SEQ, net_changes
from cdcloader.changes.schema import polars_type
from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.errors import Stopped, TableError, TransientError
from cdcloader.loader.context import Stopwatch
from cdcloader.loader.passes import insert_passes, net_passes

KEYS = {
    "long": st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    "string": st.sampled_from(["", "a", "A", "é", "z" * 40, "0f8fad5b-d9cb-469f-a165-70867728950e"]),
    "boolean": st.booleans(),
    "date": st.dates(date(2024, 1, 1), date(2024, 1, 9)),
    "decimal(10,2)": st.decimals(Decimal(-1), Decimal(1), places=1),
    "double": st.sampled_from([0.0, 1.5, float("inf"), float("nan"), -2.5]),
}


def passes(frames, key, batch_bytes, pass_bytes, keep_going=lambda: None):
    return net_passes(iter(frames), key, batch_bytes, pass_bytes, Stopwatch(), keep_going)


@st.composite
def batches(draw):
    """(frames in reading order, key)"""
    kinds = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3))
    columns = {f"k{place}": polars_type(kind) for place, kind in enumerate(kinds)}
    values = [KEYS[kind] for kind in kinds]
    if draw(st.booleans()):
        columns[f"{SEQ}0"] = pl.Int64()
        values.append(st.none() | st.integers(0, 3))
    rows = draw(st.lists(st.tuples(*values, st.sampled_from("IUD"), st.text(max_size=20)), min_size=1, max_size=120))
    schema = {**columns, OP: pl.String(), "v": pl.String()}
    whole = pl.DataFrame([(*row, place) for place, row in enumerate(rows)], {**schema, "n": pl.Int64()}, orient="row")
    step = draw(st.integers(1, 20))
    return [whole.slice(at, step) for at in range(0, whole.height, step)], [f"k{n}" for n in range(len(kinds))]


@settings(deadline=None)
@given(batches(), st.integers(1, 3_000), st.integers(1, 3_000))
def test_passes_together_are_the_net_changes_of_the_whole(batch, batch_bytes, pass_bytes):
    """Whatever fits in memory: the passes, one after the other, are the net changes in key order."""
    frames, key = batch
    found = pl.concat(list(passes(frames, key, batch_bytes, pass_bytes))).select(frames[0].columns)
    assert_frame_equal(found, net_changes(pl.concat(frames), key))


def numbered(keys, at=0):
    keys = pl.Series("id", keys, dtype=pl.Int64)
    return pl.DataFrame({"id": keys, OP: pl.repeat("U", len(keys), eager=True)}).with_columns(n=pl.lit(at))


def test_a_pass_is_as_large_as_it_may_be_and_not_larger():
    """Passes are bounded in bytes, in memory and from the disk."""
    frames = [numbered(range(at, 20_000, 20), at) for at in range(20)]
    size = 20_000 * 30
    for batch_bytes in (100 * size, size // 10):
        sizes = [frame.estimated_size() for frame in passes(frames, ["id"], batch_bytes, size // 8)]
        assert 4 <= len(sizes) <= 24
        assert max(sizes) <= size // 4


def test_wide_rows_among_narrow_ones_make_smaller_passes():
    """A pass is cut by what its rows take, not by the average row."""
    narrow, wide = ([text] * 1_000 for text in ("x", "y" * 10_000))
    frame = pl.DataFrame({"id": range(2_000), OP: ["I"] * 2_000, "v": [*narrow, *wide]})
    sizes = [found.estimated_size() for found in passes([frame], ["id"], 1 << 30, 1 << 20)]
    assert max(sizes) <= 2 << 20


@contextmanager
def temporary_folder(folder):
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before


def open_files(folder):
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [target for target in opened if target.startswith(str(folder))]


def test_hot_keys_need_no_disk(tmp_path):
    """A few keys that change all the time are netted in memory, however many changes there are."""
    frames = [numbered(range(100), at) for at in range(200)]
    with temporary_folder(tmp_path / "not there"):
        found = pl.concat(list(passes(frames, ["id"], 3 * frames[0].estimated_size(), 1_000)))
    assert found["n"].to_list() == [199] * 100


def test_nothing_is_left_on_disk(tmp_path):
    """The disk space is given back when all is read, when reading fails, and when nobody reads on."""

    def failing():
        yield from frames
        raise TableError("a broken file")

    frames = [numbered(range(at, 4_000, 4), at) for at in range(4)]
    with temporary_folder(tmp_path):
        whole = passes(frames, ["id"], 1_000, 10_000)
        next(whole)
        assert open_files(tmp_path)
        assert sum(frame.height for frame in whole) > 0
        with pytest.raises(TableError):
            list(passes(failing(), ["id"], 1_000, 10_000))
        left = passes(frames, ["id"], 1_000, 10_000)
        next(left)
        left.close()
    assert open_files(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_may_pass(tmp_path):
    """No room for what does not fit in memory is trouble that is tried again, with the place and what to do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    frames = [numbered(range(at, 100_000, 4), at) for at in range(4)]
    with temporary_folder(tmp_path):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
        try:
            with pytest.raises(TransientError) as caught:
                list(passes(frames, ["id"], 1_000, 10_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in caught.value.where
    assert "TMPDIR" in caught.value.hint
    assert open_files(tmp_path) == []


def test_insert_only_rows_keep_their_order():
    """Without a key nothing is netted: rows come as they were read, in bounded frames."""
    frames = [numbered([5, 5, 1, at], at) for at in range(100)]
    found = list(insert_passes(iter(frames), 1_000))
    assert_frame_equal(pl.concat(found), pl.concat(frames))
    assert 1 < len(found) < 20


LIMITS = {"batch_bytes": 2_000, "pass_bytes": 1_000, "chunk_bytes": 2_000, "fetch_bytes": 3_000, "piece_bytes": 10_000}
COUNTS = ("rows_in", "inserted", "updated", "deleted", "noop", "superseded", "quarantined")
DMS = [
    DmsSettings(format="parquet", timestamp_column="dms_timestamp"),
    DmsSettings(format="parquet"),
    DmsSettings(format="csv", header=True),
    DmsSettings(format="csv", gzip=True, header=True),
]


def history(world, seed):
    """A load, then one batch of CDC files with hot keys, changes that overtake each other, and broken rows."""
    rng = random.Random(seed)
    keys = [(number, text) for number in range(60) for text in ("a", "b c")]

    def row(place, version):
        return {
            "id": place[0],
            "code": place[1],
            "version": version,
            "part": rng.choice("pq"),
            "v": "x" * rng.randrange(9),
        }

    world.load([row(place, 0) for place in keys[::2]])
    world.later(600)
    world.run()
    assert len(world.batches) == 1
    for number in range(12):
        changes = []
        for _ in range(40):
            place = keys[0] if rng.random() < 0.2 else rng.choice(keys)
            changed = row(place, rng.randrange(100))
            if rng.random() < 0.1:
                changed["code"] = None
            changes.append((rng.choice("IUUD"), changed))
        world.cdc(changes, world.later(number + 1))


@pytest.mark.parametrize(("number", "dms"), list(itertools.product(range(3), DMS)))
def test_a_batch_larger_than_memory_makes_the_same_table(make_world, number, dms):
    """Composite keys, partitions, sequence_by, hot keys and broken rows: the same rows and the same account."""
    columns = (("id", "long"), ("code", "string"), ("version", "long"), ("part", "string"), ("v", "string"))
    options = [{}, {"partition_by": ("part",)}, {"sequence_by": ("version",), "partition_by": ("part",)}][number]
    made = []
    for limits in ({}, LIMITS):
        world = make_world(columns=columns, key=("id", "code"), dms=dms, **options)
        history(world, number)
        for name, value in limits.items():
            setattr(world, name, value)
        world.run()
        assert len(world.batches) == 2
        account = world.batches[-1].account
        assert account.quarantined
        assert account.superseded
        made.append((world.rows(), {name: getattr(account, name) for name in COUNTS}, rejected(world)))
    assert made[0] == made[1]


def rejected(world):
    """(file, row, reason) of all quarantined rows."""
    found = pl.read_parquet(f"{world.lake.path_of('_quarantine/s/t')}/*.parquet")
    return (
        found.with_columns(pl.col("file").str.split("/").list.last())
        .select("file", "row", "reason")
        .sort("file", "row")
        .rows()
    )


def test_an_insert_only_batch_larger_than_memory(make_world):
    """Every row is appended once, in one commit."""
    world = make_world(key=None)
    for name, value in LIMITS.items():
        setattr(world, name, value)
    world.load([{"id": 0, "name": "first"}])
    world.later(600)
    world.run()
    assert len(world.batches) == 1
    for number in range(10):
        world.cdc([("I", {"id": number, "name": f"n{row}"}) for row in range(100)], world.later(number + 1))
    world.run()
    assert len(world.batches) == 2
    assert world.batches[-1].account.inserted == 1_000
    assert world.frame().height == 1_001


def data_files(world):
    return {str(path) for path in Path(world.path).glob("*.parquet")}


def test_a_large_batch_is_given_up_when_the_process_ends(make_world):
    """Nothing of it is published or left behind; the next start applies it whole."""
    world = make_world()
    for name, value in LIMITS.items():
        setattr(world, name, value)
    world.load([{"id": number, "name": "old"} for number in range(50)])
    world.later(600)
    world.run()
    assert len(world.batches) == 1
    for number in range(10):
        world.cdc([("U", {"id": row, "name": f"new {number}"}) for row in range(number, 400)], world.later(number + 1))
    before, files = world.rows(), data_files(world)
    asked = itertools.count()
    world.stopping = lambda: next(asked) > 5
    with pytest.raises(Stopped):
        world.run()
    assert world.rows() == before
    assert data_files(world) == files
    world.stopping = lambda: False
    world.later(120)
    world.run()
    assert world.rows()[0] == (0, "new 0")
    assert world.frame().height == 400
