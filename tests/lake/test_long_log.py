"""A table of thousands of versions, with checkpoints, vectors and clean-up: every reader reads the same."""

import json
import os
import random
import uuid
from datetime import UTC, datetime
from pathlib import Path

import chdb
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder
from duckdb_extensions import import_extension
from pyroaring import BitMap64

from cdcloader.changes.schema import Field, to_json
from cdcloader.lake import datafiles
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.sweep import sweep
from cdcloader.lake.upkeep import CHECKPOINT_COMMITS, checkpoint_if_due
from cdcloader.lake.vectors import Vectors
from cdcloader.objects import Objects

HOUR_MS = 3_600_000
SCHEMA = (Field("id", "long"), Field("v", "long"))
DVS = {
    "minReaderVersion": 3, "minWriterVersion": 7,
    "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"],
}  # fmt: skip


class History:
    """One commit an hour, a checkpoint every 50, a sweep a day; `models` holds what each version's rows are.

    The clock begins now and goes forward, because delta-rs looks at the real one when it writes a checkpoint.
    """

    def __init__(self, root, seed=1):
        self.lake, self.root, self.rng = Objects.open(str(root)), root, random.Random(seed)
        self.log, self.vectors = DeltaLog(self.lake, "t"), Vectors()
        self.now_ms = int(datetime.now(UTC).timestamp() * 1000)
        self.ids = {}  # path -> the ids that stand in a file, dead ones too
        self.models, self.model, self.next_id = [], {}, 0
        metadata = {
            "id": str(uuid.uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": to_json(SCHEMA),
            "partitionColumns": [],
            "configuration": {"delta.enableDeletionVectors": "true"},
            "createdTime": self.now_ms,
        }
        self.commit([{"protocol": DVS}, {"metaData": metadata}])

    @property
    def path(self):
        return str(self.root / "t")

    def commit(self, actions):
        version = len(self.models)
        txn = {"txn": {"appId": "cdcloader:1", "version": 20_260_000_000_000_000 + version, "lastUpdated": self.now_ms}}
        snapshot = self.log.commit(
            self.log.snapshot(), [*actions, txn], {"timestamp": self.now_ms, "operation": "MERGE"}
        )
        assert snapshot.version == version
        self.age(f"_delta_log/{version:020d}.json")
        if checkpoint_if_due(self.lake, "t", snapshot):
            self.age(f"_delta_log/{version:020d}.checkpoint.parquet")
        self.models.append(dict(self.model))
        if version % 24 == 0:
            sweep(self.lake, "t", self.log, self.now_ms, lambda: False)
        self.now_ms += HOUR_MS

    def age(self, key):
        os.utime(self.root / "t" / key, (self.now_ms / 1000,) * 2)

    def written(self, ids):
        """A data file of these rows."""
        rows = pl.DataFrame({"id": sorted(ids), "v": self.now_ms // HOUR_MS}, schema={"id": pl.Int64, "v": pl.Int64})
        file = datafiles.write(self.lake, "t", rows, {}, now_ms=self.now_ms)
        self.age(file.path)
        self.ids[file.path] = rows["id"].to_list()
        self.model |= dict(rows.rows())
        return file

    def appended(self):
        ids = range(self.next_id, self.next_id + 3)
        self.next_id += 3
        return [self.written(ids).add()]

    def marked(self, file):
        """One more row of a file dies, or the file goes with its last."""
        dead = self.vectors.dead(self.lake, "t", file).copy()
        ids = self.ids[file.path]
        dead.add(next(row for row in range(len(ids)) if row not in dead))
        for row in dead:
            self.model.pop(ids[row], None)
        if len(dead) == len(ids):
            return [file.remove(self.now_ms)]
        (marked,) = self.vectors.mark(self.lake, "t", [(file, BitMap64(dead))])
        return [file.remove(self.now_ms), marked.add()]

    def merged(self, files):
        """Some files become one."""
        dead = {file.path: self.vectors.dead(self.lake, "t", file) for file in files}
        ids = [n for file in files for row, n in enumerate(self.ids[file.path]) if row not in dead[file.path]]
        return [*(file.remove(self.now_ms) for file in files), self.written(ids).add()]

    def grow(self, versions):
        while len(self.models) < versions + 1:
            files = [*self.log.snapshot().files.values()]
            if len(files) > 25:
                self.commit(self.merged(files[:20]))
            elif files and self.rng.random() < 0.4:
                self.commit(self.marked(self.rng.choice(files)))
            else:
                self.commit(self.appended())


def by_us(history, version):
    fresh = DeltaLog(history.lake, "t")
    snapshot = fresh.snapshot(version)
    vectors = Vectors()
    frames = [
        datafiles.read(history.lake, "t", file, SCHEMA, dead=vectors.dead(history.lake, "t", file))
        for file in snapshot.files.values()
    ]
    return dict(pl.concat(frames).select("id", "v").rows()) if frames else {}


def by_delta_rs(history, version):
    table = DeltaTable(history.path, version=version)
    batches = list(QueryBuilder().register("t", table).execute("select id, v from t"))
    return dict(row for batch in batches for row in pl.DataFrame(batch).rows())


def by_polars(history, version):
    return dict(pl.read_delta(history.path, version=version).select("id", "v").rows())


def check(history, duck):
    """The newest version and some of the last week, by every reader; our reader, every version that the log has."""
    newest = len(history.models) - 1
    assert history.log.snapshot() == DeltaLog(history.lake, "t").snapshot()
    for version in {newest, newest - 1, max(0, newest - 49), max(0, newest - 101), max(1, newest - 167)}:
        wanted = history.models[version]
        assert by_us(history, version) == wanted
        assert by_delta_rs(history, version) == wanted
        assert by_polars(history, version) == wanted
    wanted = history.models[newest]
    assert dict(duck.execute(f"SELECT id, v FROM delta_scan('{history.path}')").fetchall()) == wanted
    rows = chdb.query(f"SELECT id, v FROM deltaLakeLocal('{history.path}')", "JSONCompact")
    assert {int(n): int(v) for n, v in json.loads(str(rows))["data"]} == wanted
    assert DeltaTable(history.path).transaction_version("cdcloader:1") == 20_260_000_000_000_000 + newest


def check_log(history):
    """Thirty days of versions can be read, and nothing older than the checkpoint before them is left."""
    newest, fresh = len(history.models) - 1, DeltaLog(history.lake, "t")
    oldest = max(0, newest - 30 * 24)
    for version in range(oldest, newest + 1, 13):
        files = fresh.snapshot(version).files.values()
        live = [n for f in files for n in history.ids[f.path]]
        dead = sum(f.vector.cardinality for f in files if f.vector)
        assert len(live) - dead == len(history.models[version])
    names = [entry.name for entry in (history.root / "t/_delta_log").iterdir()]
    first = min(int(name[:20]) for name in names if name[:20].isdigit())
    # One checkpoint further back at most, and what came due since the last sweep.
    assert max(0, oldest - CHECKPOINT_COMMITS - 24) <= first <= oldest
    assert len([*(history.root / "t").iterdir()]) < 100 + 8 * 24


@pytest.fixture(scope="module", autouse=True)
def _clickhouse_sees_every_folder():
    """ClickHouse reads local files below the folder in which it starts."""
    before = Path.cwd()
    os.chdir("/")
    chdb.query("SELECT 1")
    yield
    os.chdir(before)


@pytest.fixture(scope="module")
def duck():
    import_extension("delta")
    connection = duckdb.connect()
    connection.execute("LOAD delta")
    return connection


def test_after_hundreds_of_commits_every_reader_reads_the_same(tmp_path, duck):
    """100 and then 1,000 commits with vectors, merges, checkpoints, sweeps and clean-up of the log."""
    history = History(tmp_path)
    for versions in (100, 1_000):
        history.grow(versions)
        check(history, duck)
        check_log(history)


@pytest.mark.slow
def test_after_thousands_of_commits_every_reader_reads_the_same(tmp_path, duck):
    """3,000 commits, as many as a table of one commit a minute has in two days."""
    history = History(tmp_path, seed=2)
    history.grow(3_000)
    check(history, duck)
    check_log(history)
