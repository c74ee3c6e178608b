"""A write whose answer was lost is decided by reading: nothing is done twice, nothing that a version names is gone."""

import random
import threading
from dataclasses import replace

import pytest

from cdcloader.errors import CommitConflict, TransientError
from cdcloader.lake.log import DeltaLog
from cdcloader.loader.steps import Outcome
from cdcloader.objects import Objects
from cdcloader.state.record import NEVER, Phase
from cdcloader.turns import take_turn


def row(id_, name="x"):
    return {"id": id_, "name": name}


class LostAnswers(Objects):
    """A lake whose commit of one version is done, or not, and is never answered; nor can it be read back then."""

    version, done, silent = None, True, False

    def create(self, key, data):
        if self.version is None or not key.endswith(f"{self.version:020d}.json"):
            return super().create(key, data)
        if self.done:
            super().create(key, data)
        self.version, self.silent = None, True
        raise TransientError("no answer", where=key)

    def read(self, key, **options):
        if self.silent and "_delta_log" in key:
            self.silent = False
            raise TransientError("no answer", where=key)
        return super().read(key, **options)


def lossy(world, version, *, done):
    lake = LostAnswers(world.lake.location, world.lake._store)
    lake.version, lake.done = version, done
    return world.loader(lake=lake)


def turn(loader):
    return take_turn(loader, threading.Event())


def live_files(world):
    return {file.path for file in DeltaLog(world.lake, "s/t").snapshot().files.values()}


def commits(world):
    return len(list((world.root / "lake/s/t/_delta_log").glob("*.json")))


def begin(world, kind):
    """Bring a table to where the next commit is of this kind; returns that version and what the rows are then."""
    world.load([row(1)])
    world.later(400)
    if kind == "full load":
        return 0, [1]
    world.run()
    if kind == "reload":
        world.later()
        world.load([row(5)])
        world.later(400)
        return 1, [5]
    if kind == "operator's reload":
        record = world.record()
        world.store.update(record, replace(record, last_full_load_date=NEVER))
        return 1, [1]
    late = world.later()
    world.later()
    if kind == "passes":
        world.batch_bytes = world.pass_bytes = 2_000
        world.cdc([("I", row(n)) for n in range(2, 600)])
        world.later()
        return 1, list(range(1, 600))
    world.cdc([("I", row(2))])
    world.later()
    if kind == "batch":
        return 1, [1, 2]
    world.run()
    world.cdc([("I", row(3))], at=late, visible=world.now)
    return 2, [1, 2, 3]


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("key", [("id",), None], ids=["keyed", "insert-only"])
@pytest.mark.parametrize("kind", ["full load", "reload", "operator's reload", "batch", "passes", "late file"])
def test_a_commit_without_an_answer(make_world, kind, key, done):
    """The turn fails as passing trouble; the next finds the commit, or makes it, once; every file named is there."""
    world = make_world(key=key)
    version, expected = begin(world, kind)
    loader = lossy(world, version, done=done)
    ended = turn(loader)
    assert (ended.retriable, world.record().phase) == (True, Phase.RETRYING)
    named = live_files(world) if done else set()
    world.later(10)
    ended = turn(loader)
    assert (ended.error, ended.step.outcome) == (None, Outcome.IDLE)
    assert [row[0] for row in world.rows()] == expected
    assert {path for path in live_files(world) if not (world.root / "lake/s/t" / path).exists()} == set()
    assert not done or named == live_files(world)
    record = world.record()
    assert (record.phase, record.recorded_version) == (Phase.STREAMING, commits(world) - 1)
    infos = [info["rows"]["insert"] for _, info in DeltaLog(world.lake, "s/t").infos(0, 99)]
    assert record.rows_inserted == sum(infos)
    assert commits(world) == version + 1


def test_a_commit_that_another_took_is_planned_again(world):
    """The answer was lost, and what stands there is another's: our files go, theirs stay."""
    begin(world, "batch")
    other = world.loader("other")

    class Taken(Objects):
        met = False

        def create(self, key, data):
            if not Taken.met and key.endswith("01.json"):
                Taken.met = True
                world.later(61)
                other._lease._is_free = lambda _record, _at: True
                world.run(other)
                raise TransientError("no answer")
            super().create(key, data)

    loader = world.loader(lake=Taken(world.lake.location, world.lake._store))
    with pytest.raises(CommitConflict):
        loader.step()
    assert world.run(loader).outcome is Outcome.IDLE
    assert world.rows() == [(1, "x"), (2, "x")]
    assert commits(world) == 2
    assert {file.name for file in (world.root / "lake/s/t").glob("*.parquet")} >= live_files(world)


def test_upkeep_whose_answer_is_lost_keeps_every_file_that_a_version_names(world):
    """A job of upkeep may have been committed: what it wrote is not discarded, and the table is as it was."""
    world.file_bytes = 40_000
    world.load([row(n, random.Random(n).randbytes(60).hex()) for n in range(400)])
    world.later(400)
    world.run()
    world.table = world.table.model_copy(update={"write_mode": "merge_on_read"})
    world.cdc([("D", row(n)) for n in range(0, 400, 3)])
    world.later()
    world.run()
    before, version = world.rows(), commits(world)
    loader = lossy(world, version, done=True)
    loader.step()
    assert not loader.tidy()
    assert commits(world) == version + 1
    assert world.rows() == before
    world.later(1000)
    loader.step()
    loader.tidy()
    assert world.rows() == before
    assert world.record().phase is Phase.STREAMING
