"""What an error's hint says is true: whoever does it gets a table that goes on and is right."""

import shutil
from dataclasses import replace

import polars as pl
import pytest
from deltalake import DeltaTable

from cdcloader.errors import TableError
from cdcloader.loader.steps import Outcome
from cdcloader.state.memory import MemoryStore
from cdcloader.state.record import NEVER

RELOAD = "set LastFullLoadDate to 1900-01-01 00:00:00"
WHOLE = [(1, "first"), (2, "two"), (3, "three")]


def row(id_, name="x"):
    return {"id": id_, "name": name}


def stopped(world, says):
    """The error that stops the table, which must say this."""
    with pytest.raises(TableError, match=says) as caught:
        world.run()
    return caught.value


def begun(world):
    """A full load and a change are in the table."""
    world.load([row(1, "one"), row(2, "two")])
    world.later()
    world.cdc([("U" if world.key else "I", row(1, "first"))])
    world.later()
    assert world.run().outcome is Outcome.IDLE
    return world


def one_more(world):
    world.cdc([("I", row(3, "three"))])
    world.later()


def forget_record(world):
    world.store = MemoryStore()


def reload(world):
    record = world.record()
    world.store.update(record, replace(record, last_full_load_date=NEVER))


def test_a_target_that_is_gone_is_loaded_anew(world):
    """Without its state record, the table begins with its full load."""
    one_more(begun(world))
    shutil.rmtree(world.path)
    assert "delete the table's state record" in stopped(world, "the target is gone").hint
    forget_record(world)
    world.run()
    assert world.rows() == WHOLE


@pytest.mark.parametrize("anew", [False, True])
def test_a_target_that_was_restored_goes_on_or_is_loaded_anew(world, anew):
    """Without the record the loader goes on from the version that is there; without both it begins again."""
    begun(world)
    backup = world.root / "backup"
    shutil.copytree(world.path, backup)
    one_more(world)
    world.run()
    shutil.rmtree(world.path)
    shutil.copytree(backup, world.path)
    world.cdc([("I", row(4, "four"))])
    world.later()
    hint = stopped(world, "the target is at version 1, the state record at 2").hint
    assert "delete the state record" in hint
    assert "target's folder and the record" in hint
    forget_record(world)
    if anew:
        shutil.rmtree(world.path)
    commits = len(world.batches)
    world.run()
    assert world.rows() == [*WHOLE, (4, "four")]
    assert (world.batches[commits].applied.strategy == "full_load") == anew


@pytest.mark.parametrize("loads", [True, False])
@pytest.mark.parametrize("change", [{"partition_by": ("name",)}, {"primary_key": ("id", "name")}])
def test_a_table_of_another_layout_is_reloaded(make_world, change, loads):
    """A new key or new partitions come with a reload, or, where there are no LOAD files, by beginning again."""
    world = make_world()
    if loads:
        begun(world)
    else:
        world.cdc([("I", row(1, "first")), ("I", row(2, "two"))])
        world.later()
        world.run()
    one_more(world)
    world.table = world.table.model_copy(update=change)
    hint = stopped(world, "partition_by|primary_key").hint
    assert RELOAD in hint
    assert "delete the target's folder and its state record" in hint
    if loads:
        reload(world)
    else:
        shutil.rmtree(world.path)
        forget_record(world)
    world.run()
    by_two = "primary_key" in change and loads
    assert world.rows() == ([(1, "first"), (1, "one"), *WHOLE[1:]] if by_two else WHOLE)
    assert DeltaTable(world.path).metadata().partition_columns == list(change.get("partition_by", ()))


def test_a_replaced_file_of_a_table_without_key_asks_for_a_reload(make_world):
    """The reload holds the file's new rows, once."""
    world = make_world(key=None)
    world.load([row(1)])
    at = world.later()
    world.cdc([("I", row(2, "old"))])
    world.later()
    world.run()
    world.cdc([("I", row(2, "new"))], at=at, visible=world.now)
    assert RELOAD in stopped(world, "was replaced").hint
    reload(world)
    world.run()
    assert world.rows() == [(1, "x"), (2, "new")]


def test_a_table_that_is_not_ours_may_be_deleted(world):
    """Then the target is made from the source."""
    pl.DataFrame({"id": [1]}).write_delta(world.path)
    world.load([row(1)])
    world.later(400)
    assert "delete the table" in stopped(world, "not written by cdcloader").hint
    shutil.rmtree(world.path)
    world.run()
    assert world.rows() == [(1, "x")]


@pytest.mark.parametrize("name", ["LastFullLoadDate", "LastIncrementalFile", "Ledger", "Phase", "RecordedPosition"])
def test_a_damaged_record_may_be_deleted(world, name):
    """What it said is read back from the target, and nothing is applied twice."""
    begun(world)
    before = world.record()
    world.store.put_item(before.path, {name: ["no", "such", "value"]})
    assert "delete the record" in stopped(world, name).hint
    forget_record(world)
    world.run()
    after = world.record()
    same = ("last_full_load_date", "last_incremental_file", "ledger", "phase", "recorded_position", "generation")
    assert [getattr(after, field) for field in same] == [getattr(before, field) for field in same]
    assert len(world.batches) == 2


def test_a_date_in_another_spelling_is_refused_with_the_right_one(world):
    """The message can be copied: with it, the reload begins."""
    begun(world)
    path = world.record().path
    world.store.put_item(path, {"LastFullLoadDate": "1900-01-01"})
    assert "should be written '1900-01-01 00:00:00'" in stopped(world, "LastFullLoadDate").what
    world.store.put_item(path, {"LastFullLoadDate": "1900-01-01 00:00:00"})
    world.run()
    assert world.record().generation == 2


def test_a_watermark_that_names_no_file_may_be_set_to_all(world):
    """0.parquet: every CDC file is applied again."""
    begun(world)
    path = world.record().path
    world.store.put_item(path, {"LastIncrementalFile": "yesterday"})
    assert "0.parquet: all" in stopped(world, "LastIncrementalFile").hint
    world.store.put_item(path, {"LastIncrementalFile": "0.parquet"})
    world.run()
    assert world.rows() == WHOLE[:2]
    assert len(world.batches) == 3
