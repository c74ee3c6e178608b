"""What partial rows keep, read from the table."""

from __future__ import annotations

import random
from datetime import date

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from cdcloader.changes.net import OP, UNSET
from cdcloader.changes.schema import Field
from cdcloader.lake import datafiles
from cdcloader.lake.apply import Application, apply_net
from cdcloader.lake.datafiles import POSITION
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.snapshot import DataFile
from cdcloader.lake.target import Target
from cdcloader.objects import Objects

SCHEMA = (Field("id", "long"), Field("p", "string"), Field("v", "string"), Field("d", "date"), Field("later", "double"))


def stored_file(lake, rows, group_rows):
    """A data file of a partition, in small row groups, without the column `later`."""
    frame = pl.DataFrame(
        {"id": range(rows), "v": [f"v{n}" if n % 3 else None for n in range(rows)], "d": [date(2024, 1, 1)] * rows}
    )
    path = lake.path_of("s/t/p=a%20b/one.parquet")
    lake.write("s/t/p=a%20b/one.parquet", b"")
    frame.write_parquet(path, row_group_size=group_rows)
    return DataFile("p=a%2520b/one.parquet", {"p": "a b"}, 1, 0, "")


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(0, 40), group_rows=st.integers(1, 20), names=st.sets(st.sampled_from("pvd")), data=st.data())
def test_some_rows_of_a_file_are_those_of_the_whole(rows, group_rows, names, data, tmp_path_factory):
    """Any positions and columns: those of the partition, and those that the file lacks, too."""
    lake = Objects.open(str(tmp_path_factory.mktemp("lake")))
    file = stored_file(lake, rows, group_rows)
    columns = [*sorted(names), "later"]
    positions = sorted(data.draw(st.sets(st.integers(0, max(0, rows - 1)), max_size=rows)))
    found = datafiles.read_rows(lake, "s/t", file, SCHEMA, columns=columns, positions=np.array(positions, np.int64))
    whole = datafiles.read(lake, "s/t", file, SCHEMA, columns=columns)
    assert_frame_equal(found, whole[positions], check_dtypes=True)
    assert found[POSITION].to_list() == positions


def net_of(rows):
    columns = {"id": pl.Int64, "v": pl.String, OP: pl.String, f"{UNSET}v": pl.Boolean}
    return pl.DataFrame(rows, columns, orient="row")


def text(number):
    """Some long text that does not shrink much."""
    return random.Random(number).randbytes(500).hex()


def table(lake, ids):
    """A target whose values are much larger than the rows of a batch that leave them unset."""
    schema = (Field("id", "long"), Field("v", "string"))
    target = Target(lake, "s/t", schema, ("id",), (), 1 << 20, 0)
    applied = apply_net(target, None, net_of([(n, text(n), "I", False) for n in ids]))
    return target, applied


def snapshot_of(lake, applied):
    actions = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {"metaData": {"id": "x", "format": {"provider": "parquet", "options": {}}, "schemaString": "{}",
                      "partitionColumns": [], "configuration": {}, "createdTime": 0}},
    ]  # fmt: skip
    return DeltaLog(lake, "s/t").commit(None, [*actions, *(file.add() for file in applied.adds)], {"timestamp": 0})


def test_rows_that_grow_when_they_are_whole_are_taken_in_parts(tmp_path):
    """The values that are kept may be larger than the batch: what is in memory at once is bounded all the same."""
    lake = Objects.open(str(tmp_path))
    target, applied = table(lake, range(1_000))
    application = Application(target, snapshot_of(lake, applied), piece_bytes=100_000)
    application.add(net_of([(n, None, "U", True) for n in range(0, 2_000, 2)]))
    assert application._passes > 2
    done = application.finish()
    assert (done.updated, done.inserted) == (500, 500)
    kept = pl.concat([target.read(file) for file in done.adds if file.path not in {f.path for f in applied.adds}])
    assert kept.sort("id").rows() == [(n, text(n) if n < 1_000 else None) for n in range(0, 2_000, 2)]


def test_nothing_is_read_of_the_table_for_rows_that_are_whole(tmp_path, monkeypatch):
    """Partial rows cost something where there are some, and where their keys are in the table."""
    lake = Objects.open(str(tmp_path))
    target, applied = table(lake, range(10))
    read = []
    monkeypatch.setattr(datafiles, "read_rows", lambda *_, positions, **__: read.append(list(positions)))
    application = Application(target, snapshot_of(lake, applied), piece_bytes=1 << 20)
    application.add(net_of([(1, "x", "U", False), (2, None, "D", True)]))
    assert read == []
