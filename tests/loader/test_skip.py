"""`resume --skip FILE`: one file is left out for good, the rest goes on, and nobody forgets it."""

import threading
from dataclasses import replace

import polars as pl
import pytest
import structlog

from cdcloader.errors import ConfigError, StateConflict, TableError
from cdcloader.lake.log import DeltaLog
from cdcloader.loader import orders
from cdcloader.loader.steps import Outcome
from cdcloader.objects import Objects
from cdcloader.state.memory import MemoryStore
from cdcloader.state.record import NEVER
from cdcloader.turns import take_turn


def row(id_, name="x"):
    return {"id": id_, "name": name}


def skip(world, file):
    return orders.skip(world.loader().context, world.store, file)


def ids(world):
    return [row[0] for row in world.rows()]


@pytest.fixture(params=[("id",), None], ids=["keyed", "insert-only"])
def blocked(request, make_world):
    """A loaded table that a bad CDC file stops, with a good one behind it."""
    world = make_world(key=request.param)
    world.load([row(1)])
    world.later()
    world.cdc([("I", row(2))])
    world.later()
    world.bad_at = world.now
    world.bad = world.put(f"{world.now:%Y%m%d-%H%M%S}000.parquet", b"no Parquet at all")
    world.later()
    world.cdc([("I", row(4))])
    world.later()
    assert take_turn(world.loader(), threading.Event()).error
    return world


def test_the_table_moves_past_the_skipped_file(blocked):
    """What comes after it is applied; record, Delta log, status and log say that it was left out."""
    skip(blocked, f"s3://bucket/raw/s/t/{blocked.bad}")
    with structlog.testing.capture_logs() as lines:
        assert blocked.run().outcome is Outcome.IDLE
    assert ids(blocked) == [1, 2, 4]
    record = blocked.record()
    assert list(record.skipped_files) == [blocked.bad]
    assert (str(record.phase), record.last_error) == ("streaming", None)
    [(_, info)] = [each for each in DeltaLog(blocked.lake, "s/t").infos(0, 99) if each[0] == record.recorded_version]
    assert info["skipped"] == dict(record.skipped_files)
    assert blocked.bad not in info["files"]
    status = blocked.loader().status(look=True)
    assert (status["skipped_files"], status["backlog_files"], status["error"]) == (1, 0, None)
    [said] = [line for line in lines if line["event"] == "files are skipped, as an operator ordered"]
    assert said["skipped_files"] == [blocked.bad]


def test_another_content_under_its_name_is_applied(blocked):
    """The skip is of a file, not of a name: when the file is written again it is late, and takes its place."""
    skip(blocked, blocked.bad)
    blocked.run()
    blocked.cdc([("I", row(3))], at=blocked.bad_at, visible=blocked.now)
    assert blocked.run().outcome is Outcome.IDLE
    assert ids(blocked) == [1, 2, 3, 4]


def test_a_record_that_is_lost_is_rebuilt_with_its_skips(blocked):
    """The Delta log knows of the skip, so that a lost state record does not stop the table at the same file again."""
    skip(blocked, blocked.bad)
    blocked.run()
    blocked.store = MemoryStore()
    assert blocked.run().outcome is Outcome.IDLE
    blocked.cdc([("I", row(5))])
    blocked.later()
    assert blocked.run().outcome is Outcome.IDLE
    assert (ids(blocked), list(blocked.record().skipped_files)) == ([1, 2, 4, 5], [blocked.bad])


@pytest.mark.parametrize("blocked", [("id",)], indirect=True)
def test_a_rewind_does_not_bring_the_skipped_file_back(blocked):
    """Files are applied again from an earlier one on, but not this one."""
    skip(blocked, blocked.bad)
    blocked.run()
    record = blocked.record()
    blocked.store.update(record, replace(record, last_incremental_file=f"{record.path}0.parquet"))
    assert blocked.run().outcome is Outcome.IDLE
    assert ids(blocked) == [1, 2, 4]


def test_a_late_bad_file_is_skipped_in_its_place(blocked):
    """A file that came late and cannot be read does not stop the table for good either."""
    skip(blocked, blocked.bad)
    blocked.run()
    at = blocked.bad_at.replace(second=30)
    late = blocked.put(f"{at:%Y%m%d-%H%M%S}000.parquet", b"no Parquet at all")
    with pytest.raises(TableError, match="truncated or damaged"):
        blocked.run()
    skip(blocked, late)
    assert blocked.run().outcome is Outcome.IDLE
    assert ids(blocked) == [1, 2, 4]


def test_a_bad_load_file_is_skipped(world):
    """The full load is done without it, now and when it is done again."""
    world.load([row(1)])
    bad = world.put("LOAD00000002.parquet", b"no Parquet at all")
    world.load([row(3)], number=3)
    world.later(400)
    with pytest.raises(TableError, match="truncated or damaged"):
        world.run()
    skip(world, bad)
    assert world.run().outcome is Outcome.IDLE
    assert ids(world) == [1, 3]
    record = world.record()
    world.store.update(record, replace(record, last_full_load_date=NEVER))
    assert world.run().outcome is Outcome.IDLE
    assert (ids(world), world.record().generation) == ([1, 3], 2)


def test_what_cannot_be_skipped_is_refused(blocked):
    """A file that is not there, is applied, or is skipped already: an error that names those that wait."""
    applied = next(iter(blocked.record().ledger))
    for name, reason in ((applied, "is applied already"), ("LOAD00000001.parquet", "is applied already")):
        with pytest.raises(ConfigError, match=reason) as caught:
            skip(blocked, name)
        assert blocked.bad in caught.value.hint
    with pytest.raises(ConfigError, match="there is no file"):
        skip(blocked, "20300101-000000000.parquet")
    skip(blocked, blocked.bad)
    with pytest.raises(ConfigError, match="is skipped already"):
        skip(blocked, blocked.bad)


def test_a_skip_that_comes_too_late_is_forgotten(blocked):
    """The file is mended and being applied while the skip is ordered: the commit counts, and no rows are lost."""
    blocked.cdc([("I", row(3))], at=blocked.bad_at, visible=blocked.now)

    class Late(Objects):
        ordered = False

        def create(self, key, data):
            if not Late.ordered:
                Late.ordered = True
                skip(blocked, blocked.bad)
            super().create(key, data)

    loader = blocked.loader(lake=Late(blocked.lake.location, blocked.lake._store))
    with pytest.raises(StateConflict):
        blocked.run(loader)
    assert list(blocked.record().skipped_files) == [blocked.bad]
    assert blocked.run(loader).outcome is Outcome.IDLE
    assert ids(blocked) == [1, 2, 3, 4]
    assert blocked.record().skipped_files == {}
    if blocked.key:
        record = blocked.record()
        blocked.store.update(record, replace(record, last_incremental_file=f"{record.path}0.parquet"))
        blocked.run()
        assert ids(blocked) == [1, 2, 3, 4]


def test_a_running_loader_plans_again_when_a_file_is_skipped(blocked):
    """A plan that was made before the order is not carried out."""
    loader, work = blocked.loader(), None
    work = loader._work

    def ordered_meanwhile(record, plan):
        loader._work = work
        skip(blocked, blocked.bad)
        return work(record, plan)

    loader._work = ordered_meanwhile
    assert loader.step().reason == "the state record changed; planning again"
    assert blocked.run(loader).outcome is Outcome.IDLE
    assert ids(blocked) == [1, 2, 4]


def test_orders_are_bounded_and_survive_a_busy_record(blocked, monkeypatch):
    """A loader that moves the record meanwhile delays an order; the number of skipped files has an end."""
    store, left = blocked.store, [3]

    class Busy:
        def __getattr__(self, name):
            return getattr(store, name)

        def update(self, old, new):
            left[0] -= 1
            if left[0] > 0:
                raise StateConflict("changed")
            return store.update(old, new)

    context = blocked.loader().context
    assert not orders.pause(context, Busy()).active
    assert orders.resume(context, store).active
    left[0] = 100
    monkeypatch.setattr(orders.time, "sleep", lambda _seconds: None)
    with pytest.raises(StateConflict):
        orders.pause(context, Busy())
    record = blocked.record()
    many = {f"2026030{1 + n % 9}-{n:06d}000.csv": "e" for n in range(orders.SKIPPED_FILES_MAX)}
    store.update(record, replace(record, skipped_files=many))
    with pytest.raises(ConfigError, match="files are skipped already"):
        skip(blocked, blocked.bad)


def test_the_rows_of_a_skipped_file_are_nowhere(blocked):
    """No quarantine file and no data file is written for it: the raw file itself is all there is."""
    skip(blocked, blocked.bad)
    blocked.run()
    assert not (blocked.root / "lake" / "_quarantine").exists()
    assert pl.read_delta(blocked.path).height == 3
