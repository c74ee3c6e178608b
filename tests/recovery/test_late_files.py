"""Files that come late, again, changed, together or in the middle of a batch; and files that go."""

import itertools
import os
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from cdcloader.errors import TableError
from cdcloader.loader.orders import skip
from cdcloader.loader.steps import Outcome
from cdcloader.source.names import position_of_name, time_of_position
from tests.recovery.faults import Faults
from tests.recovery.scene import Scene, read, row


def loaded(root, rows=4, **options):
    """A scene whose full load is in the table."""
    scene = Scene(root, **options)
    scene.load([row(n) for n in range(rows)])
    scene.world.later(400)
    scene.turns(Faults())
    return scene


def settled(scene):
    scene.turns(Faults())
    scene.check()


def rows_of(scene):
    return read(scene.world, scene.world.loader().context.log.snapshot())


@pytest.mark.parametrize("key", [("id",), None])
def test_changes_that_a_restarted_task_sends_again(tmp_path, key):
    """The same rows in new files: with a key the end is the same, without one each file's inserts are there."""
    scene = loaded(tmp_path, key=key)
    first = [
        [("I", row(10)), ("U", row(10, 1)), ("I", row(11)), ("U", row(1, 1))],
        [("D", row(10)), ("I", row(12)), ("U", row(1, 2))],
    ]
    for changes in first:
        scene.cdc(changes)
    settled(scene)
    before = rows_of(scene)
    for changes in first:
        scene.cdc(changes)
    settled(scene)
    sent_again = [tuple(values.values()) for changes in first for op, values in changes if op == "I"]
    assert rows_of(scene) == before if key else Counter(rows_of(scene)) == Counter(before) + Counter(sent_again)


@pytest.mark.parametrize("key", [("id",), None])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("max_files", [1, 500])
def test_two_files_of_one_millisecond(tmp_path, key, late, max_files):
    """Both are applied, in the order of their names and in one commit, or the second as a late file."""
    scene = loaded(tmp_path, key=key)
    scene.world.limits = replace(scene.world.limits, max_files=max_files)
    name = scene.cdc([("I", row(10)), ("I", row(11))])
    if late:
        settled(scene)
    scene.beside(name, [("I", row(12)), ("U", row(10, 1))])
    scene.cdc([("I", row(13))])
    settled(scene)
    batches = [tuple(file.name for file in done.files) for done in scene.world.batches]
    both = (name, name.replace(".", "0."))
    assert late or any(files[:2] == both for files in batches)


def test_load_files_that_come_over_hours_while_changes_exist(tmp_path):
    """Each LOAD file that joins loads the whole set again; no row of any file is missing at the end, none is old."""
    scene = Scene(tmp_path)
    for number in range(1, 5):
        scene.load([row(n) for n in range(number * 10, number * 10 + 10)], number)
        scene.world.later(1_200)
        scene.cdc([("U", row(number * 10, 1)), ("D", row(number * 10 + 1)), ("I", row(100 + number))])
        scene.world.later(1_200)
        settled(scene)
    assert scene.record().generation >= 4


def test_changes_before_the_load_files_that_belong_to_them(tmp_path):
    """Changes are there before the first LOAD file comes: the load goes first, and all changes follow it."""
    scene = Scene(tmp_path)
    scene.cdc([("I", row(1, 1)), ("U", row(2, 1))])
    scene.turns(Faults())
    scene.world.later(600)
    scene.load([row(n) for n in range(3)])
    scene.world.later(600)
    assert scene.world.run().outcome is Outcome.IDLE
    # This load is no reload for a table that had none before: no change is left out.
    settled(scene)


class AtEffect(Faults):
    """Lets something happen just before the n-th effect."""

    def __init__(self, number, what):
        super().__init__()
        self.before, self.what = number, what

    def effect(self, point, do, **answers):
        if not self.fired and self.met.total() + 1 == self.before:
            self.fired = True
            self.what()
        return super().effect(point, do, **answers)


@pytest.mark.parametrize("key", [("id",), None])
def test_a_reload_in_the_middle_of_a_batch(tmp_path, key):
    """Whenever the new LOAD files come, before, between or after commit and record: the new load wins."""
    for number in itertools.count(1):
        root = tmp_path / str(number)
        root.mkdir()
        scene = loaded(root, key=key)
        scene.world.later(3_600)
        scene.cdc([("I", row(10)), ("U", row(1, 1))])
        scene.world.later(600)

        def reload(scene=scene):
            scene.reloaded()
            scene.load([row(n, 6) for n in range(3)])
            scene.world.later(10)
            scene.cdc([("I", row(20))])

        faults = AtEffect(number, reload)
        scene.turns(faults)
        if not faults.fired:
            return
        settled(scene)
        assert len(rows_of(scene)) == 4


@pytest.mark.parametrize("key", [("id",), None])
def test_a_late_file_in_the_middle_of_a_batch(tmp_path, key):
    """A file below the batch's position appears before any of its effects: it is applied in its place, once."""
    for number in itertools.count(1):
        root = tmp_path / str(number)
        root.mkdir()
        scene = loaded(root, key=key)
        at = scene.world.now
        scene.world.later(60)
        scene.cdc([("I", row(10)), ("U", row(1, 1))])

        def late(scene=scene, at=at):
            scene.cdc([("I", row(11)), ("U", row(1, 7))], at=at)

        faults = AtEffect(number, late)
        scene.turns(faults)
        if not faults.fired:
            return
        settled(scene)


def test_a_file_that_is_replaced_in_the_middle_of_its_batch(tmp_path):
    """Whenever it is replaced, its new content is in the table at the end."""
    for number in itertools.count(1):
        root = tmp_path / str(number)
        root.mkdir()
        scene = loaded(root)
        name = scene.cdc([("I", row(10)), ("U", row(1, 1))])

        def replaced(scene=scene, name=name):
            rows = [("U", row(1, 2)), ("I", row(10, 2)), ("I", row(12))]
            scene.cdc(rows, at=time_of_position(position_of_name(name)))

        faults = AtEffect(number, replaced)
        scene.turns(faults)
        if not faults.fired:
            return
        settled(scene)


@pytest.mark.parametrize("fetch_bytes", [1, 1 << 20])
def test_a_file_that_is_replaced_between_listing_and_reading(tmp_path, fetch_bytes):
    """What is read is what was listed, or is listed again: a table without a key has the new rows, and goes on."""
    scene = loaded(tmp_path, key=None)
    scene.world.fetch_bytes = fetch_bytes
    name = scene.cdc([("I", row(10))])
    at = time_of_position(position_of_name(name))
    faults = AtEffect(1, lambda: scene.cdc([("I", row(11)), ("I", row(12))], at=at))
    scene.turns(faults)
    assert faults.met["failure recorded"] == 1
    settled(scene)


@pytest.mark.parametrize("key", [("id",), None])
def test_raw_files_that_a_lifecycle_rule_deletes(tmp_path, key):
    """Applied files may go, all of them too: the table stays, and goes on with what comes after."""
    scene = loaded(tmp_path, key=key)
    scene.cdc([("I", row(10))])
    settled(scene)
    version = scene.record().recorded_version
    for file in scene.world.raw.iterdir():
        file.unlink()
    scene.world.later(7_200)
    settled(scene)
    assert scene.record().recorded_version == version
    scene.cdc([("I", row(11))])
    settled(scene)


@pytest.mark.parametrize("remedy", ["put back", "skip", "reload"])
def test_a_late_file_before_one_that_is_gone(tmp_path, remedy):
    """What was applied after it cannot be applied again: the table stops, and each remedy of the hint helps."""
    scene = loaded(tmp_path)
    at = scene.world.now
    scene.world.later()
    name = scene.cdc([("U", row(1, 2)), ("I", row(10))])
    settled(scene)
    content = (scene.world.raw / name).read_bytes()
    (scene.world.raw / name).unlink()
    late = scene.cdc([("U", row(1, 1)), ("I", row(11))], at=at)
    with pytest.raises(TableError, match=f"came late, and 1 of the files .* gone: {name}"):
        scene.world.run()
    if remedy == "put back":
        scene.world.put(name, content)
    elif remedy == "skip":
        del scene.truth.files[late]
        scene.orders = [lambda context, store: skip(context, store, late)]
    else:
        scene.truth.files.pop(name)
        scene.world.store.put_item(scene.path, {"LastFullLoadDate": "1900-01-01 00:00:00"})
    settled(scene)


@pytest.mark.parametrize("key", [("id",), None])
def test_a_file_that_comes_later_than_the_look_back_is_not_seen(tmp_path, key):
    """It is left out for good; a table with a key has it when an operator sets the watermark back before it."""
    scene = loaded(tmp_path, key=key)
    at = scene.world.now
    scene.cdc([("I", row(10))])
    scene.world.later(2 * 3_600)
    scene.cdc([("I", row(11))])
    settled(scene)
    name = scene.cdc([("I", row(12))], at=at + timedelta(seconds=60))
    changes = scene.truth.files.pop(name)
    settled(scene)
    if key:
        scene.truth.files[name] = changes
        before = max(file for file in scene.truth.files if file < name)
        scene.world.store.put_item(scene.path, {"LastIncrementalFile": before})
        settled(scene)


def test_a_file_that_is_replaced_later_than_the_look_back_is_not_seen(tmp_path):
    """What was applied stays applied."""
    scene = loaded(tmp_path)
    at = scene.world.now
    name = scene.cdc([("I", row(10))])
    scene.world.later(2 * 3_600)
    scene.cdc([("I", row(11))])
    settled(scene)
    changes = scene.truth.files[name]
    assert scene.cdc([("I", row(12))], at=at) == name
    scene.truth.files[name] = changes
    settled(scene)


def test_rows_that_only_the_former_content_of_a_file_had_stay(tmp_path):
    """A replaced file is applied in its place; what it said before, and does not say any more, is not taken back."""
    scene = loaded(tmp_path)
    name = scene.cdc([("I", row(10)), ("U", row(1, 1))])
    settled(scene)
    scene.cdc([("U", row(1, 2))], at=time_of_position(position_of_name(name)))
    scene.turns(Faults())
    scene.truth.files[name].insert(0, ("I", row(10)))
    scene.check()


def test_a_file_that_a_copy_touched_is_replaced_only_in_name(tmp_path):
    """The same content under a new ETag is applied again, and changes nothing."""
    scene = loaded(tmp_path)
    name = scene.cdc([("I", row(10)), ("U", row(1, 1))])
    settled(scene)
    os.utime(scene.world.raw / name, (1_800_000_000, 1_800_000_000))
    settled(scene)
    assert scene.record().generation == 2


def test_a_reload_with_a_file_of_changes_that_is_bad(tmp_path):
    """A bad file of the time before the reload stops nothing any more."""
    scene = loaded(tmp_path)
    scene.world.later(3_600)
    scene.world.put("20260301-130000000.parquet", b"PAR1 and nothing more")
    with pytest.raises(TableError, match="not a readable Parquet file"):
        scene.world.run()
    scene.world.later(3_600)
    scene.reloaded()
    scene.load([row(n, 6) for n in range(3)])
    scene.world.later(400)
    settled(scene)


@pytest.mark.parametrize("key", [("id",), None])
def test_a_file_that_was_put_again_hours_later_voids_no_reload(tmp_path, key):
    """One file whose LastModified is not the time in its name makes no copied prefix: older changes stay void."""
    scene = loaded(tmp_path, key=key)
    for n in range(10, 15):
        scene.cdc([("I", row(n)), ("I", row(n + 100))])
    settled(scene)
    scene.world.later(3 * 3_600)
    at = time_of_position(position_of_name(min(scene.truth.files)))
    scene.cdc([("I", row(20))], at=at - timedelta(seconds=60))
    scene.world.later(3_600)
    scene.reloaded()
    scene.load([row(n, 6) for n in range(10, 15)])
    scene.world.later(400)
    settled(scene)
    assert len(rows_of(scene)) == 5
