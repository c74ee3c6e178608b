"""Data files written again with other types: any size in little memory, and nothing left behind by a failure."""

import random
from dataclasses import replace

import polars as pl
import pytest
from pyroaring import BitMap64

from cdcloader.changes.evolution import TEXT_OF
from cdcloader.changes.schema import Field
from cdcloader.lake import datafiles
from cdcloader.lake.retype import retype
from cdcloader.lake.target import Target
from cdcloader.objects import Objects

OLD = (Field("id", "long"), Field("v", "integer"), Field("pad", "string"))
NEW = (OLD[0], Field("v", "long"), OLD[2])


@pytest.fixture
def target(tmp_path):
    lake = Objects.open(str(tmp_path), create=True)
    return Target(objects=lake, path="t", schema=OLD, key=("id",), partition_by=(), file_bytes=1 << 20, now_ms=0)


def rows(first, count):
    chosen = random.Random(first)
    ids = range(first, first + count)
    return pl.DataFrame(
        {"id": ids, "v": [n % 1000 for n in ids], "pad": [chosen.randbytes(40).hex() for _ in ids]}
    ).cast({"v": pl.Int32})


def written(target, *frames):
    return [datafiles.write(target.objects, target.path, frame, {}, now_ms=0) for frame in frames]


def held(target, files):
    return pl.concat([target.read(file) for file in files])


def stored(tmp_path):
    return {path.name for path in (tmp_path / "t").glob("*.parquet")}


def test_rows_keep_their_order_and_dead_ones_are_left_out(target):
    """Each file has a new one with its living rows, and statistics of the new type; a file without any has none."""
    files = written(target, rows(0, 100), rows(100, 3))
    marked = target.mark([(files[0], BitMap64(range(10))), (files[1], BitMap64(range(3)))])
    done = retype(target, NEW, marked, piece_bytes=1 << 20, going_on=lambda: None)
    assert done.removes == tuple(marked)
    assert len(done.adds) == 1
    assert held(replace(target, schema=NEW), done.adds).equals(rows(0, 100).slice(10).cast({"v": pl.Int64}))
    statistics = done.adds[0].statistics()
    assert (statistics["numRecords"], statistics["minValues"]["v"], statistics["maxValues"]["id"]) == (90, 10, 99)


def test_text_takes_the_way_through_the_type_before(target):
    """A column that widened and turned into text at once holds the text of the wider type."""
    text = (OLD[0], Field("v", "string", metadata={TEXT_OF: "decimal(12,2)"}), OLD[2])
    done = retype(target, text, written(target, rows(5, 2)), piece_bytes=1 << 20, going_on=lambda: None)
    assert held(replace(target, schema=text), done.adds)["v"].to_list() == ["5.00", "6.00"]


def test_a_file_larger_than_memory_is_streamed(target):
    """A file much larger than a piece goes through in frames, and comes out as several files in the same order."""
    chosen, count, calls = random.Random(1), 120_000, []
    frame = pl.DataFrame(
        {"id": range(count), "v": range(count), "pad": [chosen.randbytes(64).hex() for _ in range(count)]}
    )
    files = written(target, frame.cast({"v": pl.Int32}))
    small = replace(target, file_bytes=1 << 20)
    done = retype(small, NEW, files, piece_bytes=1 << 20, going_on=lambda: calls.append(1))
    assert len(done.adds) > 2
    assert max(file.size for file in done.adds) < files[0].size / 2
    assert len(calls) > 10
    assert held(replace(target, schema=NEW), done.adds).equals(frame.cast({"v": pl.Int64}))


def test_nothing_is_left_behind_when_it_is_given_up(target, tmp_path):
    """An error, or a process that ends, leaves the files as they were."""
    files, calls = written(target, rows(0, 10), rows(10, 10)), []
    before = stored(tmp_path)

    def going_on():
        calls.append(len(stored(tmp_path)))
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retype(target, NEW, files, piece_bytes=1 << 20, going_on=going_on)
    assert calls == [2, 3]
    assert stored(tmp_path) == before
