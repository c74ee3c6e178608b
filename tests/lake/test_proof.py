"""Random lives of tables: batches, upkeep, other writers and checkpoints, read by four readers each time."""

import random
from dataclasses import dataclass, field

import polars as pl
import pytest
from deltalake import DeltaTable

from cdcloader.changes.schema import Field, polars_schema, to_json
from cdcloader.lake import datafiles
from cdcloader.lake.apply import Application
from cdcloader.lake.compaction import make_jobs
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.rewriting import carry_out
from cdcloader.lake.snapshot import Snapshot
from cdcloader.lake.target import Target
from cdcloader.lake.upkeep import checkpoint, describe, spread_of
from cdcloader.objects import Objects
from tests.readers import read_by_all

FEATURES = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
PROTOCOL = {"minReaderVersion": 3, "minWriterVersion": 7, **FEATURES}
SHAPES = {
    "one key": (("k", "long"),),
    "composite": (("a", "string"), ("k", "long")),
    "partitioned": (("p", "string"), ("k", "long")),
}


@dataclass
class Life:
    """One table, the dict that it must equal, and what may happen to it."""

    lake: Objects
    shape: str
    rng: random.Random
    model: dict = field(default_factory=dict)
    snapshot: Snapshot | None = None
    rows: int = 400

    def __post_init__(self):
        self.key = ("k",) if self.shape == "partitioned" else tuple(name for name, _ in SHAPES[self.shape])
        self.schema = (*(Field(*column) for column in SHAPES[self.shape]), Field("x", "string"), Field("n", "integer"))
        self.log = DeltaLog(self.lake, "t")

    @property
    def path(self):
        return self.lake.path_of("t")

    def target(self, mode):
        parts = ("p",) if self.shape == "partitioned" else ()
        return Target(self.lake, "t", self.schema, self.key, parts, 40_000, 0, mode)

    def row(self, number):
        text = self.rng.randbytes(20).hex()
        made = {"k": number, "a": "abc"[number % 3], "p": self.rng.choice("xyz"), "x": text, "n": self.rng.randrange(9)}
        return {column.name: made[column.name] for column in self.schema}

    def commit(self, actions):
        if self.snapshot is None:
            text = to_json(self.schema)
            metadata = {
                "id": "proof",
                "format": {"provider": "parquet", "options": {}},
                "schemaString": text,
                "partitionColumns": list(self.target("auto").partition_by),
                "configuration": {"delta.enableDeletionVectors": "true"},
                "createdTime": 0,
            }
            actions = [{"protocol": PROTOCOL}, {"metaData": metadata}, *actions]
        self.snapshot = self.log.commit(self.snapshot, actions, {"timestamp": 0, "operation": "MERGE"})

    def batch(self):
        """Some I, U and D, scattered or close together, of known, new and formerly deleted keys, in up to 3 passes."""
        size = self.rng.choice([1, 5, 60, 300])
        start = self.rng.randrange(self.rows)
        pool = range(self.rows) if self.rng.random() < 0.5 else range(start, start + size + 20)
        net = []
        for number in self.rng.sample(pool, min(size, len(pool))):
            row, op = self.row(number), self.rng.choice("IUUD")
            net.append({**row, "__op": op})
            if op == "D":
                self.model.pop(number, None)
            else:
                self.model[number] = row
        frame = pl.DataFrame(net, schema={**polars_schema(self.schema), "__op": pl.String}).sort(self.key)
        mode = self.rng.choice(["auto", "merge_on_read", "copy_on_write"])
        application = Application(self.target(mode), self.snapshot, piece_bytes=20_000)
        passes = self.rng.randint(1, 3)
        for start in range(0, frame.height, -(-frame.height // passes)):
            application.add(frame.slice(start, -(-frame.height // passes)))
        applied = application.finish()
        self.commit([*(f.remove(0) for f in applied.removes), *(f.add() for f in applied.adds)])

    def upkeep(self):
        """Up to three jobs, planned anew after each."""
        target = self.target(self.rng.choice(["auto", "copy_on_write"]))
        for _ in range(3):
            files = {file.path: file for file in self.snapshot.files.values()}
            jobs = make_jobs(
                [describe(target, file) for file in files.values()],
                keyed=True,
                marks=target.marks,
                target_bytes=target.file_bytes,
                spread=spread_of(target, files),
            )
            if not jobs:
                return
            written = carry_out(target, jobs[0], files, piece_bytes=1 << 20, going_on=lambda: None)
            self.commit(written.actions(0))

    def foreign(self):
        """Compaction, z-order or a deletion by delta-rs."""
        table, what = DeltaTable(self.path), self.rng.randrange(3)
        if what == 0:
            table.optimize.compact()
        elif what == 1:
            table.optimize.z_order(["n"])
        else:
            table.delete("n = 3")
            self.model = {number: row for number, row in self.model.items() if row["n"] != 3}
        self.snapshot = self.log.snapshot()

    def checkpoint(self):
        checkpoint(self.lake, "t", self.snapshot.version)

    def restart(self):
        """Another process knows nothing but the log."""
        self.log = DeltaLog(self.lake, "t")
        self.snapshot = self.log.snapshot()

    def check(self, step):
        wanted = sorted(tuple(row.values()) for row in self.model.values())
        names = [column.name for column in self.schema]
        if not self.model:
            assert not self.snapshot.files
            return
        for reader, frame in read_by_all(self.path, self.schema).items():
            assert sorted(frame.select(names).rows()) == wanted, f"{reader} after {step}"


def live(tmp_path, monkeypatch, shape, seed, steps):
    # Small row groups, so that files have several.
    monkeypatch.setattr(datafiles, "_ROW_GROUP_ROWS", (30, 30))
    life = Life(Objects.open(str(tmp_path)), shape, random.Random(f"{shape} {seed}"))
    life.batch()
    for number in range(steps):
        step = life.rng.choice(["batch"] * 5 + ["upkeep", "upkeep", "foreign", "checkpoint", "restart"])
        getattr(life, step)() if life.model else life.batch()
        life.check(f"{number}: {step}")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(2))
def test_after_every_step_of_a_life_every_reader_sees_the_dict(tmp_path, monkeypatch, shape, seed):
    """Batches, upkeep, other writers, checkpoints and restarts, in any order."""
    live(tmp_path, monkeypatch, shape, seed, 15)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(2, 10))
def test_long_lives_end_as_they_should(tmp_path, monkeypatch, shape, seed):
    """The same over 60 steps and many seeds."""
    live(tmp_path, monkeypatch, shape, seed, 60)
