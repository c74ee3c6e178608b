"""Every row is accounted for, twice: by the account, and by the table's own arithmetic. Else nothing is committed."""

from dataclasses import replace

import pytest

from cdcloader.errors import TableError
from cdcloader.lake.apply import Application
from cdcloader.lake.load import FullLoad
from cdcloader.loader import incremental, publish, upkeep
from cdcloader.loader.steps import Outcome
from cdcloader.loader.verify import verify


def row(number, name="x"):
    return {"id": number, "name": name}


CHANGES = [
    ("U", row(1, "u")), ("D", row(2)), ("I", row(600)), ("I", row(601)), ("D", row(999)), ("U", row(601, "v")),
]  # fmt: skip


def loaded(world, changes=CHANGES):
    world.load([row(n) for n in range(500)])
    world.later()
    world.run()
    world.cdc(changes)
    world.later()
    return world


BROKEN = {
    "a new file is lost": lambda applied: replace(applied, adds=applied.adds[:-1]),
    "an old file stays": lambda applied: replace(applied, removes=[]),
    "an update counts as an insert": lambda a: replace(a, inserted=a.inserted + 1, updated=a.updated - 1),
    "a delete counts as a noop": lambda a: replace(a, deleted=a.deleted - 1, noop=a.noop + 1),
    "a row is counted twice": lambda a: replace(a, inserted=a.inserted + 1),
    "a row ended unseen": lambda a: replace(a, doubled=a.doubled + 1),
}


@pytest.mark.parametrize("mode", ["copy_on_write", "merge_on_read"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_batch_that_does_not_add_up_is_not_committed(world, monkeypatch, broken, mode):
    """Whatever a bug loses, doubles or counts wrongly, the table stops, unchanged, and is right once that is mended."""
    world.table = world.table.model_copy(update={"write_mode": mode})
    loaded(world)
    finish = Application.finish
    with monkeypatch.context() as patch:
        patch.setattr(Application, "finish", lambda self: BROKEN[broken](finish(self)))
        with pytest.raises(TableError, match="nothing was committed"):
            world.run()
    assert world.loader().context.log.snapshot().version == 0
    assert world.record().recorded_version == 0
    assert world.run().outcome is Outcome.IDLE
    assert verify(world.loader().context, world.record(), budget_bytes=1 << 29).equal


def test_a_batch_without_its_vectors_is_not_committed(world, monkeypatch):
    """A dead row whose mark is lost would be alive again."""
    world.table = world.table.model_copy(update={"write_mode": "merge_on_read"})
    loaded(world, [("D", row(2))])
    finish, vectors = Application.finish, []

    def losing(self):
        applied = finish(self)
        vectors.extend(file.vector for file in applied.adds)
        return replace(applied, adds=[replace(file, vector=None) for file in applied.adds])

    monkeypatch.setattr(Application, "finish", losing)
    with pytest.raises(TableError, match="grow by 0 rows, and by the account by -1"):
        world.run()
    assert all(vectors)
    assert len(vectors) == 1


def test_a_change_that_netting_loses_is_not_taken_for_superseded(world, monkeypatch):
    """The keys of a batch are counted apart from netting, so that a key that it drops does not count as overtaken."""
    loaded(world)
    net_passes = incremental.net_passes
    monkeypatch.setattr(incremental, "net_passes", lambda *args: (f.head(f.height - 1) for f in net_passes(*args)))
    with pytest.raises(TableError, match="6 rows were read but 5 accounted for"):
        world.run()
    assert world.loader().context.log.snapshot().version == 0


@pytest.mark.parametrize("lost", ["file", "count"])
def test_a_full_load_that_does_not_add_up_is_not_committed(world, monkeypatch, lost):
    """The rows of the files are those that the load counted."""
    world.load([row(n) for n in range(50)])
    world.later(400)
    with monkeypatch.context() as patch:
        if lost == "file":
            patch.setattr(FullLoad, "files", property(lambda _self: []))
        else:
            write = FullLoad._put

            def wrong(self, frames):
                write(self, frames)
                self.rows, self.superseded = self.rows - 1, self.superseded + 1

            patch.setattr(FullLoad, "_put", wrong)
        with pytest.raises(TableError, match="nothing was committed"):
            world.run()
    assert world.loader().context.log.snapshot() is None
    assert world.run().outcome is Outcome.IDLE
    assert len(world.rows()) == 50


def test_without_a_key_no_row_is_superseded(make_world, monkeypatch):
    """In an insert-only table a row that goes missing cannot hide among those that were overtaken."""
    world = make_world(key=None)
    world.cdc([("I", row(1)), ("I", row(2))])
    world.later()
    passes = incremental.insert_passes
    monkeypatch.setattr(incremental, "insert_passes", lambda *args: (frame.head(1) for frame in passes(*args)))
    with pytest.raises(TableError, match="would be lost"):
        world.run()


def test_upkeep_loses_no_row(world, monkeypatch):
    """Files that upkeep writes again hold the rows of those that they replace, or they are not published."""
    world.table = world.table.model_copy(update={"write_mode": "merge_on_read"})
    loaded(world, [("D", row(2))])
    world.run()
    world.table = world.table.model_copy(update={"write_mode": "copy_on_write"})
    carry_out, jobs = upkeep.carry_out, []

    def losing(*args, **options):
        jobs.append(carry_out(*args, **options))
        return replace(jobs[-1], adds=[])

    loader = world.loader()
    assert loader.step().outcome is Outcome.IDLE
    version = loader.context.log.snapshot().version
    with monkeypatch.context() as patch:
        patch.setattr(upkeep, "carry_out", losing)
        loader.tidy()
    assert jobs
    assert loader.context.log.snapshot().version == version
    loader = world.loader()
    loader.step()
    loader.tidy()
    assert loader.context.log.snapshot().version > version
    assert verify(loader.context, world.record(), budget_bytes=1 << 29).equal


def test_files_without_statistics_are_not_counted():
    """Other writers may leave out numRecords: then the table's arithmetic is not known, and not guessed."""
    from cdcloader.lake.snapshot import DataFile

    known = DataFile("a", {}, 1, 0, '{"numRecords": 3}')
    assert publish.live_rows([known, known]) == 6
    assert publish.live_rows([known, DataFile("b", {}, 1, 0)]) is None
