"""A TRUNCATE of the source leaves an empty folder and no word; `on_source_truncate` says what that means."""

import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from cdcloader.errors import TransientError
from cdcloader.lake.log import DeltaLog
from cdcloader.loader.steps import Outcome
from cdcloader.state.memory import MemoryStore
from cdcloader.turns import take_turn

START = datetime(2026, 3, 1, 12, tzinfo=UTC)  # The world's.
SAID = "every raw file is gone: a TRUNCATE of the source, or a lifecycle rule"


def row(id_, name="x"):
    return {"id": id_, "name": name}


def make(make_world, policy, **options):
    """A loaded table with a change."""
    world = make_world(on_source_truncate=policy, **options)
    world.load([row(1), row(2)])
    world.later()
    world.cdc([("I", row(3))])
    world.later()
    assert world.run().outcome is Outcome.IDLE
    return world


def empty(world):
    shutil.rmtree(world.raw)
    world.raw.mkdir()
    world.later()


def test_by_default_the_rows_stay_and_it_is_said_once(make_world):
    """ignore: a warning, a note in the status, no commit; and new files are applied as ever."""
    world = make(make_world, "ignore")
    before = world.record()
    empty(world)
    loader = world.loader()
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            assert world.run(loader).outcome is Outcome.IDLE
    assert [line["event"] for line in lines] == [SAID]
    assert "keeps its rows" in loader.status(look=False)["note"]
    assert loader.status(look=False)["error"] is None
    assert world.record() == before
    world.cdc([("I", row(4))])
    world.later()
    world.run(loader)
    assert [id_ for id_, _ in world.rows()] == [1, 2, 3, 4]
    assert loader.status(look=False)["note"] is None


@pytest.mark.parametrize("key", [("id",), None])
def test_truncate_empties_the_table_once(make_world, key):
    """truncate: one commit without rows after the quiet time, its deletes counted; later looks change nothing."""
    world = make(make_world, "truncate", key=key)
    before = world.record()
    empty(world)
    loader = world.loader()
    waiting = world.run(loader)
    assert (waiting.outcome, world.frame().height) == (Outcome.WAITING, 3)
    world.later(300)
    assert world.run(loader).outcome is Outcome.IDLE
    assert world.frame().height == 0
    assert world.batches[-1].account.deleted == 3
    after = world.record()
    assert (after.rows_deleted, after.generation) == (before.rows_deleted + 3, before.generation + 1)
    assert after.last_incremental_file == before.last_incremental_file
    version = after.recorded_version
    for _ in range(3):
        world.later(400)
        assert world.run(loader).outcome is Outcome.IDLE
        assert world.run().outcome is Outcome.IDLE
    assert DeltaLog(world.lake, "s/t").snapshot().version == version
    assert loader.status(look=False)["note"] is None


@pytest.mark.parametrize("key", [("id",), None])
def test_changes_after_the_truncate_are_applied_to_an_empty_table(make_world, key):
    """The first file after it proves that it is over: nothing is waited for, and only later rows are there."""
    world = make(make_world, "truncate", key=key)
    empty(world)
    world.cdc([("I", row(7))])
    world.later()
    world.cdc([("I", row(8))])
    world.later()
    assert world.run().outcome is Outcome.IDLE
    assert [id_ for id_, _ in world.rows()] == [7, 8]
    world.later(4000)
    world.cdc([("I", row(9))])
    world.later()
    assert world.run().outcome is Outcome.IDLE
    assert [id_ for id_, _ in world.rows()] == [7, 8, 9]


def test_a_second_truncate_empties_it_again(make_world):
    """What came after the first one makes the table again, so that it can be emptied again."""
    world = make(make_world, "truncate")
    for n in (7, 8):
        empty(world)
        world.cdc([("I", row(n))])
        world.later()
        world.run()
        assert [id_ for id_, _ in world.rows()] == [n]


@pytest.mark.parametrize("policy", ["ignore", "truncate"])
def test_a_restarted_task_is_a_reload(make_world, policy):
    """DMS empties the folder and loads anew: the new LOAD files replace the table; the reload's rule goes first."""
    world = make(make_world, policy)
    empty(world)
    world.load([row(5)])
    assert world.run().outcome is Outcome.WAITING
    assert world.frame().height == 3
    world.later(400)
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(5, "x")]
    assert world.batches[-1].applied.strategy == "full_load"


def test_a_reload_after_the_truncate_loads_everything(make_world):
    """The LOAD files come long after the table was emptied."""
    world = make(make_world, "truncate")
    empty(world)
    world.run()
    world.later(400)
    loader = world.loader()
    world.run(loader)
    world.later(400)
    world.run(loader)
    assert world.frame().height == 0
    world.load([row(5)])
    world.later(400)
    assert world.run(loader).outcome is Outcome.IDLE
    assert world.rows() == [(5, "x")]


@pytest.mark.parametrize("left", ["load", "cdc"])
def test_a_folder_that_is_not_empty_is_no_truncate(make_world, left):
    """Where one file is left that the table is made of, a lifecycle rule has been at work: nothing happens."""
    world = make(make_world, "truncate")
    for file in list(world.raw.iterdir()):
        if file.name.startswith("LOAD") != (left == "load"):
            file.unlink()
    world.later(1000)
    loader = world.loader()
    for _ in range(2):
        assert world.run(loader).outcome is Outcome.IDLE
        world.later(1000)
    assert world.frame().height == 3
    assert loader.status(look=False)["note"] is None


def test_a_folder_that_was_empty_for_a_moment_is_no_truncate(make_world):
    """The quiet time begins anew when a file is seen again."""
    world = make(make_world, "truncate")
    loader, folder = world.loader(), world.raw.with_name("aside")
    for _ in range(3):
        world.raw.rename(folder)
        assert world.run(loader).outcome is Outcome.WAITING
        world.later(200)
        folder.rename(world.raw)
        assert world.run(loader).outcome is Outcome.IDLE
        world.later(200)
    assert world.frame().height == 3


@pytest.mark.parametrize("done", [True, False])
def test_a_truncate_whose_answer_is_lost_is_found_in_the_log(make_world, done):
    """The commit stands and its record was not written: the next step reads the log, and nothing is done twice."""
    world = make(make_world, "truncate")
    total = world.record().rows_deleted
    empty(world)
    world.cdc([("I", row(7))])
    world.later()
    store = world.store

    class Failing:
        failed = False

        def __getattr__(self, name):
            return getattr(store, name)

        def update(self, old, new):
            if new.generation > old.generation and not Failing.failed:
                Failing.failed = True
                if done:
                    store.update(old, new)
                raise TransientError("the answer was lost")
            return store.update(old, new)

    loader = world.loader(store=Failing())
    assert take_turn(loader, threading.Event()).retriable
    assert world.frame().height == 0
    world.later(10)
    assert take_turn(loader, threading.Event()).step.outcome is Outcome.IDLE
    assert world.rows() == [(7, "x")]
    assert world.record().rows_deleted == total + 3


def test_a_record_that_is_lost_afterwards_does_not_empty_again(make_world):
    """The account of the commit says that no file is known any more."""
    world = make(make_world, "truncate")
    empty(world)
    world.cdc([("I", row(7))])
    world.later()
    world.run()
    world.store = MemoryStore()
    world.later(1000)
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(7, "x")]


def test_a_blocked_table_is_healed_by_a_truncate(make_world):
    """The file in its way went with the others: while the quiet time runs, the table is in no trouble any more."""
    world = make(make_world, "truncate")
    world.put(f"{world.now:%Y%m%d-%H%M%S}000.parquet", b"no Parquet at all")
    world.later()
    loader = world.loader()
    assert take_turn(loader, threading.Event()).error
    empty(world)
    assert take_turn(loader, threading.Event()).step.outcome is Outcome.WAITING
    assert (world.record().last_error, str(world.record().phase)) == (None, "streaming")
    world.later(300)
    assert take_turn(loader, threading.Event()).step.outcome is Outcome.IDLE
    assert world.frame().height == 0


def test_a_paused_table_is_not_emptied(make_world):
    """ActiveFlag goes first."""
    world = make(make_world, "truncate")
    record = world.record()
    world.store.update(record, replace(record, active=False))
    empty(world)
    world.later(1000)
    loader = world.loader()
    for _ in range(2):
        assert world.run(loader).outcome is Outcome.PAUSED
        world.later(1000)
    assert world.frame().height == 3


def test_a_source_of_changes_alone_is_emptied_too(make_world):
    """Without a full load the ledger alone says what the table is made of."""
    world = make_world(on_source_truncate="truncate")
    world.cdc([("I", row(1))])
    world.later()
    world.run()
    empty(world)
    world.cdc([("I", row(2))])
    world.later()
    world.run()
    assert world.rows() == [(2, "x")]


def test_a_rewound_table_is_not_emptied(make_world):
    """A rewind forgets what the table is made of: with the LOAD files gone, its changes are all newer, and no proof."""
    world = make(make_world, "truncate")
    world.raw.joinpath("LOAD00000001.parquet").unlink()
    record = world.record()
    world.store.update(record, replace(record, last_incremental_file="0.parquet"))
    assert world.run().outcome is Outcome.IDLE
    assert world.frame().height == 3


def test_a_late_file_before_all_others_empties_nothing(make_world):
    """A replay from the first file on, where the LOAD files are gone already."""
    world = make(make_world, "truncate")
    world.raw.joinpath("LOAD00000001.parquet").unlink()
    world.cdc([("I", row(4))], at=START + timedelta(seconds=30), visible=world.now)
    world.later()
    assert world.run().outcome is Outcome.IDLE
    assert world.frame().height == 4


def test_files_older_than_the_look_back_are_no_emptied_source(make_world):
    """Somebody took the only file of the look-back away; the listing that shows it does not show the older ones."""
    world = make_world(on_source_truncate="truncate")
    world.cdc([("I", row(1))])
    world.later(7200)
    name = world.cdc([("I", row(2))])
    world.later()
    world.run()
    (world.raw / name).unlink()
    world.cdc([("I", row(3))])
    world.later()
    loader = world.loader()
    world.run(loader)
    assert [id_ for id_, _ in world.rows()] == [1, 2, 3]
    assert loader.status(look=False)["note"] is None


def test_another_raw_folder_is_no_emptied_source(make_world):
    """DMS writes on to another prefix, and `raw` follows: what the table was made of lies elsewhere."""
    world = make(make_world, "truncate")
    world.root.joinpath("raw").rename(world.root / "before")
    elsewhere = world.root / "elsewhere"
    world.raw = elsewhere / "raw" / "s" / "t"
    world.raw.mkdir(parents=True)
    world.cdc([("I", row(4))])
    world.later()
    world.root = elsewhere
    assert world.run().outcome is Outcome.IDLE
    assert world.frame().height == 4


def test_files_that_were_moved_below_are_no_emptied_source(make_world):
    """Somebody archived what was applied, in a folder of the source's own."""
    world = make(make_world, "truncate")
    world.raw.joinpath("LOAD00000001.parquet").unlink()
    world.raw.joinpath("done").mkdir()
    for file in world.raw.glob("2*.parquet"):
        file.rename(world.raw / "done" / file.name)
    world.cdc([("I", row(4))])
    world.later()
    assert world.run().outcome is Outcome.IDLE
    assert world.frame().height == 4


def test_a_raw_folder_without_anything_is_not_mounted(make_world):
    """A volume that is not there shows an empty folder in its place: that says nothing about any source."""
    world = make(make_world, "truncate")
    shutil.rmtree(world.root / "raw")
    (world.root / "raw").mkdir()
    loader = world.loader()
    for _ in range(2):
        world.later(1000)
        assert world.run(loader).outcome is Outcome.IDLE
    assert world.frame().height == 3
    assert "is it mounted?" in loader.status(look=False)["note"]
