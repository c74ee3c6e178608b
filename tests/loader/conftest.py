"""A small world for one table: raw files as DMS writes them, a lake, a state store and a clock."""

import os
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from prometheus_client import CollectorRegistry

from cdcloader.config.models import Csv, Table
from cdcloader.demo.dms_writer import Change, DmsSettings, cdc_name, load_name, render_cdc, render_load, write_file
from cdcloader.lake.log import DeltaLog
from cdcloader.loader.context import Context, Settings
from cdcloader.loader.report import Reporter
from cdcloader.loader.table import Outcome, TableLoader
from cdcloader.metrics import Metrics
from cdcloader.objects import Objects
from cdcloader.source.actions import Limits
from cdcloader.state.memory import MemoryStore

LEASE_SECONDS = 60
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
COLUMNS = (("id", "long"), ("name", "string"))


class World:
    """Writes files at the world's time, steps the loader, reads the table."""

    def __init__(self, root, columns=COLUMNS, key=("id",), dms=None, **table):
        self.root, self.columns, self.key = root, columns, key
        self.dms = dms or DmsSettings(format="parquet")
        if self.dms.format == "csv":
            table = {"columns": dict(columns), "csv": Csv(), **table}
        self.table = Table(source="s/t", target="s/t", primary_key=key, **table)
        self.now = START
        self.store = MemoryStore()
        self.limits = Limits(max_files=500, max_bytes=1 << 30, quiet_seconds=300, overlap_seconds=300)
        self.piece_bytes, self.chunk_bytes, self.file_bytes = 1 << 26, 1 << 24, 128 << 20
        self.fetch_bytes, self.batch_bytes, self.pass_bytes = 64 << 20, 512 << 20, 128 << 20
        self.lease_seconds = LEASE_SECONDS
        self.clock = lambda: self.now.timestamp()  # noqa: PLW0108 (the time of then, not of now)
        self.stopping = lambda: False
        self.batches = []
        (root / "raw").mkdir(exist_ok=True)
        self.raw = root / "raw" / "s" / "t"
        self.lake = Objects.open(str(root / "lake"), create=True)

    @property
    def path(self):
        return self.lake.path_of("s/t")

    def loader(self, owner="me", store=None, lake=None):
        lake = lake or self.lake
        sizes = (self.piece_bytes, self.chunk_bytes, self.file_bytes)
        bounds = (self.fetch_bytes, self.batch_bytes, self.pass_bytes)
        settings = Settings(owner, self.limits, self.lease_seconds, 3600, *sizes, *bounds)
        raw = Objects.open(str(self.root / "raw"))
        context = Context(self.table, raw, lake, DeltaLog(lake, "s/t"), settings, lambda: self.now, self.stopping)
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry, lambda: self.now)
        reporter = Reporter(
            "s/t",
            metrics,
            lambda: self.now,
            self.file_bytes,
            lambda _t, done: self.batches.append(done),
            naming=context.naming,
        )
        # Leases and pauses go by the world's clock, the budget of upkeep by the real one.
        loader = TableLoader(context, store or self.store, reporter, lambda _owner: False, clock=self.clock)
        loader._upkeep._clock = time.monotonic
        return loader

    def put(self, name, content, at=None):
        write_file(self.raw, name, content)
        seconds = (at or self.now).timestamp()
        os.utime(self.raw / name, (seconds, seconds))
        return name

    def load(self, rows, number=1, at=None):
        return self.put(load_name(number, self.dms), render_load(self.dms, self.columns, rows), at)

    def cdc(self, changes, at=None, visible=None):
        at = at or self.now
        changes = [Change(op, row, at) for op, row in changes]
        return self.put(cdc_name(at, self.dms), render_cdc(self.dms, self.columns, changes), visible or at)

    def later(self, seconds=60):
        self.now += timedelta(seconds=seconds)
        return self.now

    def run(self, loader=None, steps_max=50):
        loader = loader or self.loader()
        waited = False
        for _ in range(steps_max):
            step = loader.step()
            if step.outcome is Outcome.LEASED and not waited:
                waited = True  # The lease of a loader that a test left for dead is free after a while.
                self.later(self.lease_seconds)
                continue
            if step.outcome is not Outcome.DONE:
                loader.release()
                return step
        raise AssertionError("the loader finds no end")

    def record(self):
        return self.store.get(self.loader().context.path)

    def frame(self):
        return pl.read_delta(self.path)

    def rows(self):
        frame = self.frame()
        # Foreign writers may double a key: then the other columns decide.
        return frame.sort(list(dict.fromkeys([*self.key, *frame.columns]))).rows() if self.key else sorted(frame.rows())


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def make_world(tmp_path):
    made = []

    def make(**options):
        root = tmp_path / str(len(made))
        root.mkdir()
        made.append(World(root, **options))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def world_class():
    return World
