"""What this process knows of vectors, and what stands in the log beside them."""

import json

import polars as pl
import pytest
from pyroaring import BitMap64

from cdcloader.changes.schema import Field
from cdcloader.lake import datafiles
from cdcloader.lake.snapshot import DataFile
from cdcloader.lake.target import Target
from cdcloader.lake.vectors import Vectors, is_markable
from cdcloader.objects import Objects

SCHEMA = (Field("id", "long"), Field("price", "double"))


@pytest.fixture
def lake(tmp_path):
    return Objects.open(str(tmp_path))


@pytest.fixture
def reads(monkeypatch):
    """The vector files that were read, in order."""
    seen, original = [], Objects.read_range

    def counted(self, key, start, length):
        seen.append(key)
        return original(self, key, start, length)

    monkeypatch.setattr(Objects, "read_range", counted)
    return seen


def table(lake, vectors=None):
    return Target(lake, "t", SCHEMA, ("id",), (), 128 << 20, 0, "auto", vectors=vectors or Vectors())


def written(target, rows=10_000):
    frame = pl.DataFrame({"id": range(rows), "price": 0.1}, schema={"id": pl.Int64, "price": pl.Float64})
    return target.write(frame, 16.0)[0]


def test_one_commit_writes_one_vector_file_and_none_for_small_vectors(lake):
    """Large vectors share a file, small ones stand in the log."""
    target = table(lake)
    files = [written(target), written(target), written(target)]
    marked = target.mark([(files[0], BitMap64([1])), *((f, BitMap64(range(0, 9_000, 3))) for f in files[1:])])
    assert [file.vector.storage_type for file in marked] == ["i", "u", "u"]
    assert len([item for item in lake.list("t/") if item.key.endswith(".bin")]) == 1
    assert [target.read(file).height for file in marked] == [9_999, 7_000, 7_000]
    again = table(lake)
    assert [again.read(file).height for file in marked] == [9_999, 7_000, 7_000]


def test_a_vector_that_we_wrote_or_read_is_not_read_again(lake, reads):
    """Vectors never change, so what is known of them stays true."""
    target = table(lake)
    (marked,) = target.mark([(written(target), BitMap64(range(0, 9_000, 3)))])
    target.dead(marked)
    assert not reads
    other = table(lake)
    assert other.dead(marked) == other.dead(marked) == BitMap64(range(0, 9_000, 3))
    assert len(reads) == 1


def test_what_is_kept_stays_within_its_bound(lake, reads):
    """The vector that was used longest ago goes first, and is read again when it is needed."""
    target = table(lake, Vectors(max_bytes=9_000))
    marks = target.mark([(written(target), BitMap64(range(n, 9_000, 3))) for n in range(3)])
    assert [target.dead(file) for file in marks] == [BitMap64(range(n, 9_000, 3)) for n in range(3)]
    assert reads


def test_statistics_beside_a_vector_are_wide_and_keep_their_digits(lake):
    """`tightBounds` is false, numbers stay as they were written, and the rows are counted where nobody did."""
    target = table(lake)
    file = written(target)
    stats = '{"numRecords":10000,"minValues":{"price":0.10000000000000000001},"tightBounds":true}'
    (marked,) = target.mark([(DataFile(file.path, {}, file.size, 0, stats), BitMap64([1]))])
    assert marked.stats == '{"numRecords":10000,"minValues":{"price":0.10000000000000000001},"tightBounds":false}'
    (bare,) = target.mark([(DataFile(file.path, {}, file.size, 0, None), BitMap64([1]))])
    assert json.loads(bare.stats) == {"numRecords": 10_000, "tightBounds": False}
    (twice,) = target.mark([(marked, BitMap64([1, 2]))])
    assert (twice.stats, twice.vector.cardinality) == (marked.stats, 2)


@pytest.mark.parametrize(
    ("values", "markable"),
    [({}, True), ({"d": "2024-02-29"}, True), ({"p": "a b"}, False), ({"p": "ü"}, False), ({"p q": "a"}, False)],
)
def test_files_in_oddly_named_folders_get_no_vector(values, markable):
    """Polars would not find it there, and show dead rows."""
    assert is_markable(DataFile(datafiles.path_of(datafiles.new_key(values)), values, 1, 0)) is markable
