"""Full loads in pieces, against a dict of the rows that were read last."""

import itertools

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.changes.schema import Field
from cdcloader.lake.load import FullLoad
from cdcloader.lake.target import Target
from cdcloader.objects import Objects

SCHEMA = (Field("k", "long"), Field("p", "string"), Field("n", "long"))


def target_in(folder, *, key=("k",), partition_by=(), file_bytes=3_000):
    return Target(Objects.open(str(folder), create=True), "t", SCHEMA, key, partition_by, file_bytes, 0)


def frame_of(rows):
    return pl.DataFrame(rows, schema={"k": pl.Int64, "p": pl.String, "n": pl.Int64}, orient="row")


def rows_of(load, folder):
    """The rows of the load's files, and that they are all the data files there are."""
    paths = [folder / "t" / file.path for file in load.files]
    assert set((folder / "t").rglob("*.parquet")) == set(paths)
    frames = [
        pl.read_parquet(path, hive_partitioning=False).with_columns(
            *(pl.lit(value).alias(name) for name, value in file.partition_values.items())
        )
        for path, file in zip(paths, load.files, strict=True)
    ]
    return pl.concat([frame.select("k", "p", "n") for frame in frames]).rows() if frames else []


chunks = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 300), min_size=1, max_size=60)), min_size=1, max_size=12
)


@settings(max_examples=80, deadline=None)
@given(chunks, st.sampled_from([200, 1_000, 1 << 20]), st.sampled_from([(), ("p",)]))
def test_any_chunks_give_each_key_once_with_its_last_row(tmp_path_factory, made, piece_bytes, partition_by):
    """In order or scattered: what was read last stays, the account adds up, files of a partition do not overlap."""
    folder = tmp_path_factory.mktemp("load")
    load = FullLoad(target_in(folder, partition_by=partition_by), piece_bytes)
    expected, read = {}, itertools.count()
    for ordered, keys in made:
        rows = [(k, f"p{k % 3}", next(read)) for k in (sorted(keys) if ordered else keys)]
        expected |= {row[0]: row for row in rows}
        load.add(frame_of(rows))
    load.finish()
    assert sorted(rows_of(load, folder)) == sorted(expected.values())
    assert load.rows == len(expected)
    assert load.rows + load.superseded == next(read)
    ranges = {}
    for file in load.files:
        stats = file.statistics()
        ranges.setdefault(tuple(file.partition_values.values()), []).append(
            (stats["minValues"]["k"], stats["maxValues"]["k"])
        )
    for found in map(sorted, ranges.values()):
        assert all(high < low for (_, high), (low, _) in itertools.pairwise(found))


@pytest.mark.parametrize("partition_by", [(), ("p",)])
def test_a_table_without_a_key_keeps_every_row(tmp_path, partition_by):
    """Equal rows are rows: none is dropped, whatever is put aside and merged."""
    load = FullLoad(target_in(tmp_path, key=(), partition_by=partition_by), 500)
    rows = [(n % 10, f"p{n % 3}", 0) for n in range(1_000)]
    for start in range(0, 1_000, 50):
        load.add(frame_of(rows[start : start + 50]))
    load.finish()
    assert sorted(rows_of(load, tmp_path)) == sorted(rows)
    assert (load.rows, load.superseded) == (1_000, 0)
    assert len(load.files) < 40


def test_a_row_put_aside_wins_over_an_older_one_in_a_file_that_grew_later(tmp_path):
    """A file does not go on after rows were put aside: its last rows are newer than those, its first ones are not."""
    load = FullLoad(target_in(tmp_path, file_bytes=1 << 20), 2_000)
    load.add(frame_of([(k, "p", 1) for k in range(0, 400, 2)]))
    load.add(frame_of([(k, "p", 2) for k in (8, 4, 6)] * 50))
    load.add(frame_of([(k, "p", 3) for k in range(400, 800, 2)]))
    load.finish()
    assert {row[0]: row[2] for row in rows_of(load, tmp_path)}.items() >= {2: 1, 4: 2, 6: 2, 8: 2, 400: 3}.items()


def test_a_load_in_key_order_writes_each_row_once(tmp_path, monkeypatch):
    """What comes in order is put into its file at once: nothing is put aside."""
    from cdcloader.lake import load as module

    monkeypatch.setattr(module, "Spill", None)
    load = FullLoad(target_in(tmp_path, file_bytes=1 << 20), 20_000)
    for start in range(0, 10_000, 500):
        load.add(frame_of([(k, "p", k) for k in range(start, start + 500)]))
    load.finish()
    assert len(rows_of(load, tmp_path)) == 10_000


@pytest.mark.parametrize("finished", [True, False])
def test_a_discarded_load_leaves_no_file(tmp_path, finished):
    """When a load starts over, nothing of it stays in the lake."""
    load = FullLoad(target_in(tmp_path), 1_000)
    for start in (0, 50, 25):
        load.add(frame_of([(k, "p", 0) for k in reversed(range(start, start + 100))]))
    if finished:
        load.finish()
    load.discard()
    assert list((tmp_path / "t").rglob("*.parquet")) == []
