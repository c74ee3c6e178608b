"""One table under test: what was written to it, what it must hold for that, and a loader that may meet faults."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

import polars as pl
import pytest

from cdcloader.demo.dms_writer import Change, render_cdc
from cdcloader.errors import ConfigError, TableError, TransientError
from cdcloader.lake import deletion_vectors
from cdcloader.lake import upkeep as lake_upkeep
from cdcloader.lake.log import DeltaLog
from cdcloader.loader.account import UPKEEP, from_info, logged_progress
from cdcloader.loader.table import Outcome, TableLoader
from cdcloader.source.names import position_of_name, position_of_time, time_of_position
from cdcloader.state.record import Phase
from cdcloader.turns import take_turn
from tests.loader.conftest import START, World
from tests.readers import by_duckdb, by_polars
from tests.recovery.faults import FaultyLake, FaultyStore, checkpoints_through

COLUMNS = (("id", "long"), ("part", "string"), ("name", "string"))
TURNS_MAX = 30


def row(id_, version=0):
    """A row that does not compress to nothing, so that bytes tell rows."""
    return {"id": id_, "part": "ab"[(id_ or 0) % 2], "name": random.Random(f"{id_} {version}").randbytes(60).hex()}


@dataclass
class Truth:
    """What was written: the LOAD rows and the CDC files that count, which are those above the position `floor`.

    `accounts` are those of the log's commits, by version, gathered before a sweep may take them.
    """

    load: list[dict] = field(default_factory=list)
    files: dict[str, list[tuple[str, dict]]] = field(default_factory=dict)
    floor: int = 0
    replaced: set[str] = field(default_factory=set)
    accounts: dict[int, object] = field(default_factory=dict)
    blocked: bool = False

    def rows(self, key):
        """The rows of the table: a plain fold of all files in the order of their names."""
        ordered = [(op, row) for name in sorted(self.files) for op, row in self.files[name]]
        if not key:
            rows = [*self.load, *(row for op, row in ordered if op == "I")]
        else:
            model = {row["id"]: row for row in self.load}
            for op, row in ordered:
                if op == "D":
                    model.pop(row["id"], None)
                elif op in "IU" and row["id"] is not None:
                    model[row["id"]] = row
            rows = list(model.values())
        return sorted((tuple(row[name] for name, _ in COLUMNS) for row in rows), key=str)

    def quarantined(self, key):
        """(file, row number) of each row that belongs in quarantine."""
        for name, changes in self.files.items():
            for number, (op, values) in enumerate(changes, start=1):
                if op not in "IUD" or (values["id"] is None if key else op != "I"):
                    yield name, number


class Scene:
    """A world, and the truth about it.

    `orders` are what an operator orders in the act, each a function of (context, store); `renews` tells that the lease
    is renewed in the middle of the act's writing, as the thread does that renews it.
    """

    def __init__(self, root, **options):
        self.world = World(root, columns=COLUMNS, **{"key": ("id",), **options})
        self.world.file_bytes = 40_000
        self.path = self.world.loader().context.path
        self.truth = Truth()
        self.checkpoint_commits = 50
        self.orders = []
        self.renews = False

    def load(self, rows, number=1):
        self.world.load(rows, number)
        self.truth.load += rows

    def cdc(self, changes, at=None):
        """A file of changes, named by the time `at` or now, visible now."""
        return self._written(self.world.cdc(changes, at=at, visible=self.world.now), changes)

    def beside(self, name, changes):
        """A file of the same position as another, behind it: one digit of its time more says the same."""
        at = time_of_position(position_of_name(name))
        content = render_cdc(self.world.dms, COLUMNS, [Change(op, values, at) for op, values in changes])
        return self._written(self.world.put(name.replace(".", "0."), content), changes)

    def _written(self, name, changes):
        if name in self.truth.files:
            self.truth.replaced.add(name)
        if position_of_name(name) > self.truth.floor:
            self.truth.files[name] = changes
        self.world.later()
        return name

    def reloaded(self):
        """What a full load that begins now makes void; changes from just before it count still."""
        truth, overlap = self.truth, timedelta(seconds=self.world.limits.overlap_seconds)
        truth.floor = position_of_time(self.world.now - overlap)
        truth.load = []
        truth.files = {name: file for name, file in truth.files.items() if position_of_name(name) > truth.floor}

    def age(self, days):
        """Everything in the lake was written when the story began, which is long ago now."""
        for file in (self.world.root / "lake").rglob("*"):
            os.utime(file, (START.timestamp(), START.timestamp()))
        self.world.now += timedelta(days=days)

    def turns(self, faults):
        with checkpoints_through(faults), pytest.MonkeyPatch.context() as patch:
            patch.setattr(lake_upkeep, "CHECKPOINT_COMMITS", self.checkpoint_commits)
            loader = self.loader(faults)
            for order in self.orders:
                obey(order, loader)
            for _ in range(TURNS_MAX):
                ended = take_turn(loader, threading.Event())
                if self.is_settled(ended):
                    return
                # Pauses after trouble are of the world's time.
                self.world.later(901)
            raise AssertionError(f"the loader finds no end: {ended}")

    def is_settled(self, ended):
        """Whether nothing is left to do, or the table is blocked, as the record says too."""
        record, blocked = self.record(), self.truth.blocked
        if isinstance(ended.error, TableError) or blocked:
            assert blocked or ended.error is None, ended.error
            return blocked and record.phase is Phase.BLOCKED
        idle = ended.step is not None and ended.step.outcome in (Outcome.IDLE, Outcome.PAUSED)
        return idle and (not record.active or record.tidied_version == record.recorded_version)

    def loader(self, faults) -> TableLoader:
        world = self.world
        lake = FaultyLake(world.lake, faults)
        loader = world.loader(lake=lake, store=FaultyStore(world.store, faults))
        if self.renews:
            lake.meanwhile = lambda: world.later(1) and loader._lease.renew()
        return loader

    def record(self):
        return self.world.store.get(self.path)

    def check(self):
        """The table is what was written, nothing is missing that the log names, and the record agrees with the log."""
        world, truth = self.world, self.truth
        log = DeltaLog(world.lake, "s/t")
        snapshot, record = log.snapshot(), self.record()
        assert read(world, snapshot) == truth.rows(world.key)
        for file in snapshot.files.values():
            assert (world.root / "lake/s/t" / file.path).stat().st_size == file.size
            if file.vector and file.vector.storage_type != "i":
                assert (world.root / "lake/s/t" / deletion_vectors.file_name(file.vector)).exists()
        self.check_accounts(log, snapshot, record)
        found = quarantined(world)
        for file, number in truth.quarantined(world.key):
            assert found[file, number] == 1 or (found[file, number] and file in truth.replaced)

    def check_accounts(self, log, snapshot, record):
        known = self.truth.accounts
        known |= {v: from_info(info) for v, info in log.infos(0, snapshot.version) if UPKEEP not in info}
        totals = Counter()
        for account in known.values():
            assert account.rows_in == sum(account.rows.values())
            totals += Counter(account.rows)
        recorded = (record.rows_inserted, record.rows_updated, record.rows_deleted, record.rows_quarantined)
        assert recorded == tuple(totals[kind] for kind in ("insert", "update", "delete", "quarantined"))
        if self.truth.blocked:
            assert record.phase is Phase.BLOCKED
            return
        assert record.phase is Phase.STREAMING
        assert (record.last_error, record.consecutive_failures) == (None, 0)
        assert record.recorded_version == snapshot.version
        logged = logged_progress(snapshot.transactions)
        assert (record.generation, record.recorded_position) >= logged
        assert record.recorded_position == position_of_name(record.last_incremental_file)


def obey(order, loader):
    """What an operator orders is tried until it is done; what is done already is refused as such."""
    for _ in range(2):
        try:
            return order(loader.context, loader._store)
        except TransientError:
            continue
        except ConfigError as error:
            assert "already" in error.what  # noqa: PT017
            return None
    raise AssertionError("an order fails again and again")


def read(world, snapshot):
    """The rows, which two independent readers must agree upon."""
    schema = snapshot.schema("")
    seen = [sorted(by(world.path, schema).rows(), key=str) for by in (by_duckdb, by_polars)]
    assert seen[0] == seen[1]
    return seen[0]


def quarantined(world):
    """How often each (file, row) is in quarantine."""
    folder = world.root / "lake/_quarantine/s/t"
    if not folder.exists():
        return Counter()
    found = pl.read_parquet(sorted(folder.glob("*.parquet")))
    return Counter((file.rpartition("/")[2], number) for file, number in found.select("file", "row").rows())
