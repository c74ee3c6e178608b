"""Versioned reloads: a bump loads the new version beside the old one and swaps in one commit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdcloader.errors import CommitConflict, TableError, TransientError
from cdcloader.lake.log import DeltaLog
from cdcloader.loader import orders
from cdcloader.loader.steps import Outcome
from cdcloader.loader.verify import verify
from cdcloader.state.memory import MemoryStore


def row(number, name):
    return {"id": number, "name": name}


class Versions:
    """A world whose files stand in folders of versions."""

    def __init__(self, world, version):
        self.world, self.source = world, world.raw
        self.set(version)

    def set(self, version):
        """Write the config; the loader starts anew with it."""
        self.world.table = self.world.table.model_copy(update={"version": version})

    def load(self, version, rows, number=1):
        self._at(version, lambda: self.world.load([row(*each) for each in rows], number))

    def cdc(self, version, changes, **times):
        self._at(version, lambda: self.world.cdc([(op, row(*each)) for op, each in changes], **times))

    def _at(self, version, write):
        self.world.raw = self.source / version if version else self.source
        write()
        self.world.raw = self.source


@pytest.fixture
def versions(world):
    return Versions(world, "v1")


def begun(versions):
    """A table that is made of a load and a change of version v1."""
    world = versions.world
    versions.load("v1", [(1, "a"), (2, "b")])
    world.later(400)
    versions.cdc("v1", [("U", (1, "aa"))])
    world.run()
    assert world.rows() == [(1, "aa"), (2, "b")]
    return world


def test_a_version_is_a_folder_below_the_source(versions):
    """Files are read from it alone, and the record tells which it is."""
    versions.load(None, [(9, "root")])
    versions.load("v0", [(8, "old")])
    world = begun(versions)
    record = world.record()
    assert (record.source_version, record.path.endswith("/s/t/")) == ("v1", True)
    assert record.last_incremental_file.startswith(f"{record.path}v1/2026")


def test_a_bump_swaps_in_one_commit_when_the_new_version_is_complete(versions):
    """Until then the old version's changes are applied; after it the old version's files count no more."""
    world = begun(versions)
    versions.set("v2")
    loader = world.loader()
    assert world.run(loader).outcome is Outcome.IDLE, "there is no such version yet"
    assert "version v2 is not complete" in loader.status(look=False)["note"]
    versions.load("v2", [(1, "new"), (3, "c")])
    world.later()
    versions.cdc("v1", [("I", (4, "d"))])
    assert world.run().outcome is Outcome.WAITING
    assert world.rows() == [(1, "aa"), (2, "b"), (4, "d")]
    assert world.record().source_version == "v1"
    versions.load("v2", [(5, "e")], number=2)
    world.later()
    # Older by its name than what v1 has brought: positions start over.
    versions.cdc("v2", [("U", (3, "cc"))])
    versions.cdc("v1", [("D", (1, "aa"))])
    before = DeltaLog(world.lake, "s/t").snapshot().version
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(1, "new"), (3, "cc"), (5, "e")]
    assert DeltaLog(world.lake, "s/t").snapshot().version == before + 2, "one for the load, one for the change"
    record = world.record()
    assert record.source_version == "v2"
    assert all(name.startswith("2026") for name in record.ledger)
    assert len(record.ledger) == 1


def test_changes_alone_are_no_version(versions):
    """A version begins with its LOAD files: the old one goes on until they are there."""
    world = begun(versions)
    versions.set("v2")
    world.later()
    versions.cdc("v2", [("I", (7, "x"))])
    versions.cdc("v1", [("I", (3, "c"))])
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(1, "aa"), (2, "b"), (3, "c")]


def test_a_table_without_version_may_get_one(versions):
    """From none to one is a bump as any other."""
    world = versions.world
    versions.set(None)
    versions.load(None, [(1, "a")])
    world.later(400)
    world.run()
    versions.set("v1")
    versions.load("v1", [(2, "b")])
    world.later(400)
    world.run()
    assert (world.rows(), world.record().source_version) == ([(2, "b")], "v1")


@pytest.mark.parametrize("version", ["v0", "v01", None])
def test_versions_only_increase(versions, version):
    """An earlier one, or none, blocks the table with a message; restored, it goes on."""
    world = begun(versions)
    versions.load("v0", [(9, "z")])
    versions.set(version)
    with pytest.raises(TableError, match="versions may only increase") as caught:
        world.run()
    assert "set version to v1 or a later one" in caught.value.hint
    versions.set("v1")
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(1, "aa"), (2, "b")]


def test_a_lost_record_knows_the_version(versions):
    """The log tells it: an earlier one is still refused, and a later one is still a bump."""
    world = begun(versions)
    versions.set("v2")
    world.later(400)
    versions.load("v2", [(6, "f")])
    world.store = MemoryStore()
    versions.cdc("v1", [("I", (3, "c"))])
    world.run()
    assert (world.rows(), world.record().source_version) == ([(1, "aa"), (2, "b"), (3, "c")], "v1")
    world.store = MemoryStore()
    versions.set("v0")
    versions.load("v0", [(9, "z")])
    with pytest.raises(TableError, match="versions may only increase"):
        world.run()
    assert world.rows() == [(1, "aa"), (2, "b"), (3, "c")]


def test_a_deleted_old_version_empties_no_table(versions):
    """Who brings a new version may delete the old one first, with `on_source_truncate: truncate` too."""
    world = begun(versions)
    world.table = world.table.model_copy(update={"on_source_truncate": "truncate"})
    versions.set("v2")
    for file in (world.raw / "v1").iterdir():
        file.unlink()
    for _ in range(3):
        world.later(1_000)
        assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(1, "aa"), (2, "b")]


def test_a_reload_and_late_files_of_a_version(versions):
    """Within a version everything is as without one: a late file is applied in its place, a newer LOAD reloads."""
    world = begun(versions)
    first = world.now
    world.later(120)
    versions.cdc("v1", [("U", (2, "bb"))])
    world.run()
    versions.cdc("v1", [("U", (2, "b1"))], at=first.replace(second=59), visible=world.now)
    world.run()
    assert world.rows() == [(1, "aa"), (2, "bb")]
    world.later(4_000)
    versions.load("v1", [(7, "again")])
    world.later(400)
    world.run()
    assert (world.rows(), world.record().source_version) == ([(7, "again")], "v1")


def test_a_bad_file_of_the_new_version_can_be_skipped(versions):
    """It blocks the swap; whoever skips it gets the rest of that version."""
    world = begun(versions)
    versions.set("v2")
    versions.load("v2", [(5, "e")])
    versions._at("v2", lambda: world.put("LOAD00000002.parquet", b"no parquet"))
    world.later(400)
    with pytest.raises(TableError, match=r"v2/LOAD00000002"):
        world.run()
    world.later(120)
    orders.skip(world.loader().context, world.store, "LOAD00000002.parquet")
    world.run()
    assert (world.rows(), world.record().source_version) == ([(5, "e")], "v2")
    assert world.run().outcome is Outcome.IDLE


def test_verify_reads_the_version_that_the_table_is_made_of(versions):
    """Before a swap that is the old one, after it the new one."""
    world = begun(versions)
    versions.set("v2")
    versions.load("v2", [(5, "e")])
    context = world.loader().context
    found = verify(context, world.record(), budget_bytes=1 << 28)
    assert found.equal, found
    world.later(400)
    world.run()
    assert verify(context, world.record(), budget_bytes=1 << 28).equal


@pytest.mark.parametrize("moment", ["before the commit", "after the commit", "lost answer", "before the lease"])
def test_a_swap_survives_a_kill(versions, monkeypatch, moment):
    """Wherever the process ends, the next one finds the old version or the new, and goes on to the new."""
    world = begun(versions)
    versions.set("v2")
    versions.load("v2", [(5, "e")])
    world.later(400)
    versions.cdc("v2", [("I", (6, "f"))])
    commit, update = DeltaLog.commit, world.store.update

    def failing_commit(self, *arguments):
        if moment == "before the commit":
            raise TransientError("killed", where="here")
        done = commit(self, *arguments)
        if moment == "lost answer":
            raise TransientError("killed", where="here")
        world.store.update = failing_update
        return done

    def failing_update(_old, _new):
        raise TransientError("killed", where="here")

    with monkeypatch.context() as patched:
        if moment == "before the lease":
            patched.setattr(world.store, "update", failing_update)
        patched.setattr(DeltaLog, "commit", failing_commit)
        with pytest.raises((TransientError, CommitConflict)):
            world.run()
    world.store.update = update
    assert world.rows() in ([(1, "aa"), (2, "b")], [(5, "e")])
    world.later(120)
    world.run()
    assert world.rows() == [(5, "e"), (6, "f")]
    assert replace(world.record(), ledger={}).source_version == "v2"
