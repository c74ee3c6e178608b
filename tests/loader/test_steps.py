"""One table through its life: loads, batches, reloads, late files, operators' edits, crashes between two steps."""

import shutil
import threading
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest
import structlog

from cdcloader.errors import CommitConflict, StateConflict, TableError, TransientError
from cdcloader.lake.log import DeltaLog
from cdcloader.loader.steps import Outcome
from cdcloader.objects import Objects
from cdcloader.state.memory import MemoryStore
from cdcloader.state.record import NEVER, Phase
from cdcloader.turns import take_turn


def row(id_, name="x"):
    return {"id": id_, "name": name}


def loaded(world, ids=(1, 2, 3)):
    """A world whose first full load is in the table."""
    world.load([row(n, "loaded") for n in ids])
    world.later()
    world.cdc([("U", row(ids[0], "first"))])
    world.later()
    assert world.run().outcome is Outcome.IDLE
    return world


def test_load_then_changes_in_order(world):
    """A full load, then I, U, D and I again of one key in one file: the table is what the history says."""
    loaded(world)
    world.cdc(
        [("I", row(9, "a")), ("U", row(9, "b")), ("D", row(9, "b")), ("I", row(9, "c")), ("D", row(2)), ("D", row(77))]
    )
    world.later()
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(1, "first"), (3, "loaded"), (9, "c")]
    assert world.batches[-1].account.rows == {
        "insert": 1, "update": 0, "delete": 1, "noop": 1, "superseded": 3, "quarantined": 0,
    }  # fmt: skip


def test_an_idle_pass_changes_nothing(world):
    """A second run finds nothing, commits nothing and writes no state."""
    loaded(world)
    record = world.record()
    version = world.batches[-1].snapshot.version
    assert world.run().outcome is Outcome.IDLE
    assert world.record() == record
    assert DeltaLog(world.lake, "s/t").snapshot().version == version


def test_an_incomplete_load_waits_for_its_end(world):
    """Without a later CDC file the LOAD set is complete only after the quiet time; then it is loaded whole."""
    world.load([row(1)])
    world.later(299)
    step = world.run()
    assert step.outcome is Outcome.WAITING
    assert step.until == world.now + timedelta(seconds=1)
    world.load([row(2)], number=2)
    world.later(299)
    assert world.run().outcome is Outcome.WAITING
    world.later(2)
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(1, "x"), (2, "x")]


def test_a_reload_replaces_the_table_in_one_commit_and_skips_older_changes(world):
    """DMS loads again: the new set replaces the table; CDC files from before it, less the overlap, are skipped."""
    loaded(world)
    world.later(3600)
    world.cdc([("I", row(50, "lost with the reload"))], at=world.now - timedelta(seconds=1000))
    world.cdc([("I", row(51, "in the overlap"))], at=world.now - timedelta(seconds=200))
    world.load([row(7, "reloaded")])
    world.later()
    world.cdc([("I", row(52, "after"))])
    world.later()
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(7, "reloaded"), (51, "in the overlap"), (52, "after")]
    assert world.record().generation == 2


def test_leftovers_of_an_older_load_are_left_out(world):
    """A reload with fewer LOAD files: the old higher-numbered file is not part of the new set."""
    world.load([row(1)], number=1)
    world.load([row(2)], number=2)
    world.later(400)
    world.run()
    world.later(3600)
    world.load([row(10, "new")], number=1)
    world.later(400)
    world.run()
    assert world.rows() == [(10, "new")]


def test_a_load_file_that_joins_reloads_the_whole_set(world):
    """A LOAD file that arrives after its set was loaded brings the whole set in again."""
    world.load([row(1)], number=1)
    world.later(400)
    world.run()
    world.load([row(2)], number=2)
    world.later(400)
    world.run()
    assert world.rows() == [(1, "x"), (2, "x")]


def test_in_a_copied_prefix_a_reload_skips_nothing(world):
    """Where LastModified is the time of a copy, no CDC file can be told to be older than the reload."""
    loaded(world)
    world.later(7200)
    for name in list(world.raw.iterdir()):
        seconds = world.now.timestamp()
        import os

        os.utime(name, (seconds, seconds))
    world.later(400)
    world.run()
    assert world.rows() == [(1, "first"), (2, "loaded"), (3, "loaded")]


def test_a_late_file_is_replayed_in_its_place(world):
    """A file that becomes visible below the watermark: the final state is that of all files in order."""
    loaded(world)
    late = world.now
    world.later()
    world.cdc([("U", row(2, "newer")), ("D", row(3))])
    world.later()
    world.run()
    world.cdc([("U", row(2, "older")), ("U", row(3, "zombie")), ("I", row(4, "late"))], at=late, visible=world.now)
    world.run()
    assert world.rows() == [(1, "first"), (2, "newer"), (4, "late")]


def test_a_late_file_of_a_table_without_key_is_appended_once(make_world):
    """Insert-only: the late file's rows come once, and nothing is applied twice."""
    world = make_world(key=None)
    world.load([row(1)])
    world.later()
    world.cdc([("I", row(2))])
    late = world.later()
    world.later()
    world.cdc([("I", row(3))])
    world.later()
    world.run()
    world.cdc([("I", row(4))], at=late, visible=world.now)
    world.run()
    world.run()
    assert world.rows() == [(1, "x"), (2, "x"), (3, "x"), (4, "x")]


def test_a_replaced_file_is_applied_again_or_blocks(make_world):
    """Another ETag under an applied name: replay with a key, stop without one."""
    for key in (("id",), None):
        world = make_world(key=key)
        world.load([row(1)])
        world.later()
        at = world.now
        world.cdc([("I", row(2, "old"))])
        world.later()
        world.run()
        world.cdc([("I", row(2, "new content"))], at=at, visible=world.now)
        if key:
            world.run()
            assert world.rows() == [(1, "x"), (2, "new content")]
        else:
            with pytest.raises(TableError, match="replaced"):
                world.run()


def test_insert_only_tables_quarantine_updates_and_deletes(make_world):
    """Without a key I is appended; U and D go to quarantine with their text, and every row is accounted for."""
    world = make_world(key=None)
    world.load([row(1)])
    world.later()
    world.cdc([("I", row(1, "again")), ("U", row(1, "u")), ("D", row(1, "d"))])
    world.later()
    world.run()
    assert world.rows() == [(1, "again"), (1, "x")]
    files = list((world.root / "lake" / "_quarantine" / "s" / "t").iterdir())
    quarantined = pl.read_parquet(files).sort("row")
    assert quarantined.columns == ["file", "row", "reason", "raw"]
    assert quarantined["row"].to_list() == [2, 3]
    assert world.record().rows_quarantined == 2


def test_an_operator_sets_the_watermark_back(world):
    """LastIncrementalFile set to an earlier file: the files after it are applied again (the AWS article's promise)."""
    loaded(world)
    names = [world.cdc([("U", row(1, f"v{n}"))], at=world.later()) for n in range(3)]
    world.later()
    world.run()
    before = len(world.batches)
    record = world.record()
    world.store.update(record, replace(record, last_incremental_file=record.path + names[0]))
    world.run()
    assert [file.name for done in world.batches[before:] for file in done.files] == names[1:]
    assert world.rows()[0] == (1, "v2")
    assert world.record().generation == record.generation + 1


def test_an_operator_sets_the_full_load_date_back(world):
    """LastFullLoadDate set to 1900: the full load is done again, and the changes after it."""
    loaded(world)
    record = world.record()
    world.store.update(record, replace(record, last_full_load_date=NEVER))
    world.run()
    assert world.rows() == [(1, "first"), (2, "loaded"), (3, "loaded")]
    assert world.record().generation == record.generation + 1
    assert world.run().outcome is Outcome.IDLE


@pytest.mark.parametrize("order", [{"LastFullLoadDate": "1900-01-01 00:00:00"}, {"LastIncrementalFile": "0.parquet"}])
@pytest.mark.parametrize("moment", ["before the lease", "before the record"])
def test_an_order_that_comes_while_a_batch_is_in_hand_is_obeyed(world, order, moment):
    """Between the look and the lease, or between commit and record: a reload or a rewind is not written over."""
    loaded(world)
    generation = world.record().generation
    world.cdc([("I", {"id": 9, "name": "new"})])
    world.later()
    update = world.store.update

    def ordered_first(old, new):
        if moment == "before the record" and new.recorded_position != old.recorded_position:
            world.store.update = update
            world.store.put_item(old.path, order)
        return update(old, new)

    world.store.update = ordered_first
    loader = world.loader()
    take = loader._lease.take

    def ordered_then_taken():
        if moment == "before the lease":
            loader._lease.take = take
            world.store.put_item(loader.context.path, order)
        return take()

    loader._lease.take = ordered_then_taken
    for _ in range(8):
        take_turn(loader, threading.Event())
    record = world.record()
    assert record.generation == generation + 1
    assert record.last_full_load_date == record.recorded_full_load_date
    assert (9, "new") in world.rows()


def test_an_operator_pauses(world):
    """ActiveFlag false: nothing is applied, the backlog is still seen."""
    loaded(world)
    record = world.record()
    world.store.update(record, replace(record, active=False))
    world.cdc([("I", row(8))])
    loader = world.loader()
    assert loader.step().outcome is Outcome.PAUSED
    assert loader.status(look=True)["backlog_files"] == 1
    world.store.update(world.record(), replace(world.record(), active=True))
    world.run()
    assert (8, "x") in world.rows()


def test_a_watermark_that_names_no_file_is_refused(world):
    """An unreadable edit stops the table and says what is expected."""
    loaded(world)
    record = world.record()
    world.store.update(record, replace(record, last_incremental_file="yesterday"))
    with pytest.raises(TableError, match="LastIncrementalFile is 'yesterday'"):
        world.run()


class FailingStore:
    """A store whose writes fail from the n-th on: not done, or done but reported failed."""

    def __init__(self, store, fail_at, *, done):
        self._store, self._left, self._done = store, fail_at, done

    def __getattr__(self, name):
        return getattr(self._store, name)

    def update(self, old, new):
        self._left -= 1
        if self._left == 0:
            if self._done:
                self._store.update(old, new)
            raise TransientError("the answer was lost", where=old.path)
        return self._store.update(old, new)


@pytest.mark.parametrize("key", [("id",), None])
@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("fail_at", [1, 2, 3, 4, 5, 6])
def test_a_stop_between_commit_and_record_is_repaired_by_reading(make_world, key, done, fail_at):
    """Whichever write of the record fails, and however: run again, and every row is there once."""
    world = make_world(key=key)
    world.load([row(1)])
    world.later()
    for n in (2, 3):
        world.cdc([("I", row(n))])
        world.later()
    world.limits = replace(world.limits, max_files=1)
    try:
        world.run(world.loader(store=FailingStore(world.store, fail_at, done=done)))
    except TransientError:
        world.later(61)
    world.run(world.loader(owner="next"))
    assert world.rows() == [(1, "x"), (2, "x"), (3, "x")]


def test_a_lost_state_is_read_from_the_log(world):
    """An empty state store and an existing target of ours: the record is made whole, nothing is applied twice."""
    loaded(world)
    before = world.record()
    world.store = MemoryStore()
    commits = len(world.batches)
    world.run()
    after = world.record()
    assert len(world.batches) == commits
    assert (after.last_incremental_file, after.generation) == (before.last_incremental_file, before.generation)
    assert (after.last_full_load_date, after.full_load_newest) == (before.last_full_load_date, before.full_load_newest)
    assert dict(after.ledger) == dict(before.ledger)


def test_a_target_that_is_not_ours_is_refused(world):
    """A Delta table that cdcloader did not write is not overwritten."""
    pl.DataFrame({"id": [1]}).write_delta(world.path)
    world.load([row(1)])
    world.later(400)
    with pytest.raises(TableError, match="not written by cdcloader"):
        world.run()
    assert pl.read_delta(world.path).rows() == [(1,)]


def test_a_target_that_is_gone_or_older_than_its_record_is_refused(world):
    """A table that vanished or was restored behind our back stops with a hint, and is not half filled."""
    loaded(world)
    world.cdc([("I", row(8))])
    world.later()
    shutil.rmtree(world.path)
    with pytest.raises(TableError, match="the target is gone"):
        world.run()
    pl.DataFrame({"id": [1]}).write_delta(world.path)
    with pytest.raises(TableError, match="version 0"):
        world.run()


def test_a_foreign_commit_between_plan_and_commit_makes_us_plan_again(world):
    """An append by another writer wins the version: our batch is planned on it, and both are in the table."""
    loaded(world)
    world.cdc([("U", row(1, "mine"))])
    world.later()

    class Intruder(Objects):
        met = False

        def create(self, key, data):
            if not Intruder.met:
                Intruder.met = True
                pl.DataFrame({"id": [99], "name": ["theirs"]}).write_delta(world.path, mode="append")
            super().create(key, data)

    loader = world.loader(lake=Intruder(world.lake.location, world.lake._store))
    with pytest.raises(CommitConflict):
        world.run(loader)
    world.run(loader)
    assert world.rows() == [(1, "mine"), (2, "loaded"), (3, "loaded"), (99, "theirs")]


def test_a_lease_keeps_a_second_loader_away_until_it_ends(world):
    """While the lease is held nobody else works; after its end, or its release, another loader does."""
    loaded(world)
    first, second = world.loader("first"), world.loader("second")
    world.cdc([("I", row(8))])
    assert first.step().outcome is Outcome.DONE
    world.later(10)
    world.cdc([("I", row(9))])
    assert second.step().outcome is Outcome.LEASED
    world.later(59)
    assert second.step().outcome is Outcome.LEASED
    world.later(1)
    assert second.step().outcome is Outcome.DONE
    assert world.record().lease_owner == "second"
    assert (9, "x") in world.rows()
    first.release()
    assert world.record().lease_owner == "second"


def test_a_zombie_cannot_move_the_record(world):
    """A loader that was overtaken meets a conflict, and the table stays right."""
    loaded(world)
    world.cdc([("I", row(8))])

    class Overtaken:
        def __init__(self, store):
            self._store, self.met = store, False

        def __getattr__(self, name):
            return getattr(self._store, name)

        def update(self, old, new):
            if new.recorded_position > old.recorded_position and not self.met:
                self.met = True
                world.later(61)
                world.run(world.loader("other"))
            return self._store.update(old, new)

    with pytest.raises(StateConflict):
        world.run(world.loader("zombie", store=Overtaken(world.store)))
    world.run(world.loader("zombie"))
    assert world.rows() == [(1, "first"), (2, "loaded"), (3, "loaded"), (8, "x")]


def test_a_new_column_is_added_by_the_batch_that_brings_it(world):
    """Old rows hold NULL; a file without the column leaves NULL in its rows."""
    loaded(world)
    world.columns = (*world.columns, ("extra", "integer"))
    world.cdc([("I", {"id": 8, "name": "n", "extra": 5})])
    world.later()
    world.columns = world.columns[:2]
    world.cdc([("I", row(9))])
    world.later()
    world.run()
    assert world.frame().sort("id").rows()[-3:] == [(3, "loaded", None), (8, "n", 5), (9, "x", None)]


def test_a_type_that_does_not_fit_blocks_and_says_so(world):
    """A column that turns from string to double is not cast silently: the message names file, column and types."""
    loaded(world)
    world.columns = (("id", "long"), ("name", "double"))
    name = world.cdc([("I", row(8, 1.5))])
    with pytest.raises(TableError, match=r"name.*double.*string") as caught:
        world.run()
    assert name in caught.value.where


def test_a_change_of_key_or_partitions_in_the_config_is_refused(world):
    """The target was built with another key: stop, and say how to go on."""
    loaded(world)
    world.cdc([("I", row(8))])
    world.table = world.table.model_copy(update={"primary_key": ("name",)})
    with pytest.raises(TableError, match="primary_key"):
        world.run()


def bad_name(world):
    return world.put(f"{world.now:%Y%m%d-%H%M%S}000.parquet", b"no Parquet at all")


def test_a_bad_file_does_not_keep_those_before_it_waiting(world):
    """The files of the positions before it are applied; then it stops the table itself, and what follows waits."""
    loaded(world)
    for n in (7, 8):
        world.cdc([("I", row(n))])
        world.later()
    name = bad_name(world)
    world.later()
    world.cdc([("I", row(9))])
    loader = world.loader()
    with pytest.raises(TableError, match="truncated or damaged") as caught:
        world.run(loader)
    assert caught.value.where.endswith(name)
    assert [id_ for id_, _ in world.rows()] == [1, 2, 3, 7, 8]
    assert loader.status(look=True)["backlog_files"] == 2
    with pytest.raises(TableError, match="truncated or damaged"):
        world.run()
    (world.raw / name).unlink()
    world.run()
    assert [id_ for id_, _ in world.rows()] == [1, 2, 3, 7, 8, 9]


def test_two_bad_files_are_met_in_their_order(world):
    """Each stops the table in its turn, with everything before it applied."""
    loaded(world)
    for n in (7, 8):
        world.cdc([("I", row(n))])
        world.later()
        name = bad_name(world)
        world.later()
        if n == 7:
            first = name
    with pytest.raises(TableError, match="truncated or damaged") as caught:
        world.run()
    assert caught.value.where.endswith(first)
    assert world.rows()[-1][0] == 7


def test_a_bad_file_does_not_split_its_position(world):
    """A good file of the same position waits with it, for their rows belong together."""
    loaded(world)
    world.cdc([("I", row(7))])
    world.later()
    world.cdc([("I", row(8))])
    world.put(f"{world.now:%Y%m%d-%H%M%S}0000.parquet", b"no Parquet at all")
    with pytest.raises(TableError, match="truncated or damaged"):
        world.run()
    assert [id_ for id_, _ in world.rows()] == [1, 2, 3, 7]


def test_a_late_bad_file_of_a_table_without_key_is_not_gone_around(make_world):
    """Late files are appended together or not at all, so that none of them comes twice."""
    world = make_world(key=None)
    world.load([row(1)])
    world.later()
    first, second = world.now, world.later()
    world.later()
    world.cdc([("I", row(2))])
    world.later()
    world.run()
    world.cdc([("I", row(3))], at=first, visible=world.now)
    world.put(f"{second:%Y%m%d-%H%M%S}000.parquet", b"no Parquet at all")
    with pytest.raises(TableError, match="truncated or damaged"):
        world.run()
    assert world.rows() == [(1, "x"), (2, "x")]


@pytest.mark.parametrize(
    "names",
    [
        ["old/east/LOAD00000001.csv", "old/east/LOAD00000002.csv"],
        ["2026/13/20260301-120000000.parquet"],
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_files_that_may_mean_several_things_stop_the_table(world, names, beside):
    """Beside files that are read, or alone: nothing is loaded without them, and the first one is named."""
    if beside:
        world.load([row(1)])
        world.later(400)
    for name in names:
        (world.raw / name).parent.mkdir(parents=True, exist_ok=True)
        (world.raw / name).write_bytes(b"{}")
    loader = world.loader()
    with pytest.raises(TableError, match="in a folder that is no date") as caught:
        world.run(loader)
    assert caught.value.where.endswith(f"/s/t/{names[0]}")
    assert ("the first of 2 files" in caught.value.what) == (len(names) == 2)
    assert world.batches == []
    assert "in a folder that is no date" in loader.status(look=True)["error"]
    shutil.rmtree(world.raw)
    world.load([row(1)])
    world.later(400)
    world.run()
    assert world.rows() == [(1, "x")]


def test_strange_files_alone_are_told(world):
    """A folder that holds something else is not the same as a folder that is not there."""
    for name in ("a.txt", "b.txt", "c.txt"):
        world.put(name, b"")
    with pytest.raises(TableError, match=r"no files that cdcloader reads; 3 others are there, such as s/t/a.txt"):
        world.run()


def test_cdc_without_any_load_starts_an_empty_table(world):
    """A CDC-only task, or a table that was empty: the changes make the table."""
    world.cdc([("I", row(1)), ("I", row(2)), ("D", row(1))])
    world.later()
    world.run()
    assert world.rows() == [(2, "x")]


def test_empty_files_move_the_watermark(world):
    """0 bytes is no error, before the table exists and after."""
    world.put("20260301-120000000.parquet", b"")
    world.later()
    assert world.run().outcome is Outcome.IDLE
    world.cdc([("I", row(1))])
    world.put("20260301-120500000.parquet", b"")
    world.later(600)
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(1, "x")]
    assert world.record().last_incremental_file.endswith("20260301-120500000.parquet")


def test_a_missing_prefix_stops_the_table_with_a_hint(world):
    """No file at all under the source is an error that names the place, until the first file comes."""
    with pytest.raises(TableError, match="no files of this source"):
        world.run()
    world.cdc([("I", row(1))])
    assert world.run().outcome is Outcome.IDLE


def test_trouble_is_recorded_and_forgotten_when_it_is_over(world):
    """failed() writes phase, error, file and hint; the next batch clears them."""
    loaded(world)
    loader = world.loader()
    loader.failed(TableError("broken", where="file.csv", hint="mend it"), Phase.BLOCKED)
    record = world.record()
    assert (record.phase, record.last_error, record.last_error_file) == (Phase.BLOCKED, "broken", "file.csv")
    assert world.loader().status(look=True)["error"] == "file.csv: broken (mend it)"
    world.run()
    assert (world.record().phase, world.record().last_error) == (Phase.STREAMING, None)


def test_a_damaged_record_is_seen(world):
    """Phase, failures, status and log tell of it, although it can be neither read nor written; mended, all is well."""
    loaded(world)
    path = world.record().path
    world.store.put_item(path, {"LastFullLoadDate": "yesterday"})
    loader = world.loader()
    sample = world.registry.get_sample_value
    with structlog.testing.capture_logs() as lines:
        for failures in (1, 2):
            ended = take_turn(loader, threading.Event())
            assert ended.failures == failures
            assert sample("cdcloader_consecutive_failures", {"table": "s/t"}) == failures
            assert take_turn(loader, threading.Event()).step.outcome is Outcome.HELD
            world.later(900)
    assert sample("cdcloader_table_phase", {"table": "s/t", "phase": "blocked"}) == 1
    assert [line["event"] for line in lines] == ["table is blocked"] * 2
    assert "LastFullLoadDate is damaged" in lines[0]["error"]
    for status in (loader.status(look=False), world.loader().status(look=True)):
        assert (status["phase"], "LastFullLoadDate is damaged" in status["error"]) == ("blocked", True)
    world.store.put_item(path, {"LastFullLoadDate": "2026-03-01 12:00:00"})
    assert take_turn(loader, threading.Event()).error is None
    assert sample("cdcloader_consecutive_failures", {"table": "s/t"}) == 0
    assert loader.status(look=False)["error"] is None


def test_a_failure_that_cannot_be_recorded_is_told_all_the_same(world):
    """The store refuses the write: metrics and log have the table's trouble, and a second line has the store's."""
    loaded(world)
    world.put("20260301-130000000.parquet", b"no Parquet at all")
    world.later(7200)
    loader = world.loader(store=FailingStore(world.store, 2, done=False))
    with structlog.testing.capture_logs() as lines:
        assert take_turn(loader, threading.Event()).failures == 1
    assert [line["event"] for line in lines] == ["table is blocked", "the failure could not be recorded"]
    assert world.record().last_error is None
    assert loader.status(look=False)["phase"] == "blocked"


def test_a_reload_that_an_operator_asked_for_is_logged_as_such(world):
    """The log line of the full load says who wanted it, and names skipped files only where there are some."""
    loaded(world)
    record = world.record()
    world.store.update(record, replace(record, last_full_load_date=NEVER))
    with structlog.testing.capture_logs() as lines:
        world.run()
    [begins] = [line for line in lines if line["event"] == "full load begins"]
    assert begins["reason"].startswith("an operator set LastFullLoadDate to 1900-01-01 00:00:00")
    assert "skipped_files" not in begins


def test_a_walkthrough_record_starts_with_a_full_load(world):
    """A record of the AWS walkthrough belongs to a table that is not ours: ours is loaded from the beginning."""
    path = world.loader().context.path
    world.store.put_item(
        path,
        {
            "bucket": "b", "prefix": "s/", "folder": "t/", "PrimaryKey": "id", "PartitionKey": "null",
            "LastFullLoadDate": "2026-02-01 00:00:00", "LastIncrementalFile": path + "20260228-000000000.parquet",
            "ActiveFlag": "true",
        },
    )  # fmt: skip
    loaded(world)
    assert world.rows() == [(1, "first"), (2, "loaded"), (3, "loaded")]


def test_a_control_table_of_dms_is_no_table(world):
    """A source that names a folder of DMS's own is refused by name, whatever files stand there."""
    world.table = world.table.model_copy(update={"source": "s/awsdms_status"})
    with pytest.raises(TableError, match="and no table"):
        world.run()
