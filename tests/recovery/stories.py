"""Histories of one table in acts, and a stage that plays them.

An act writes files and lets time pass; then the loader takes its turns until nothing is left. The stage can go back to
the beginning of any act, so that the same act can go wrong in many ways.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from cdcloader.loader.orders import pause, resume, skip
from cdcloader.source.names import position_of_name, time_of_position
from tests.loader.conftest import START
from tests.recovery.faults import Faults, Killed
from tests.recovery.scene import Scene, row

Act = Callable[[Scene], None]


@dataclass(frozen=True)
class Story:
    """A name, a way to set the scene, and acts."""

    name: str
    begin: Callable[..., Scene]
    acts: Sequence[Act]


class Stage:
    """Plays a story; `go_to(n)` brings everything back to where act n began when it was first played."""

    def __init__(self, story, root):
        self.story, self.root = story, root
        self.saved = []
        self.met = []
        (root / "world").mkdir()
        self.scene = story.begin(root / "world")
        for _ in story.acts:
            self._save()
            faults = self.play(len(self.saved) - 1)
            self.met.append(faults.met)
            self.scene.check()

    def _save(self):
        folder = self.root / f"act{len(self.saved)}"
        # Links keep the files' inodes, which are part of their local ETags; files are replaced and never changed.
        shutil.copytree(self.root / "world", folder, copy_function=os.link)
        world = self.scene.world
        things = (world.now, world.store._items, self.scene.truth, vars(world) | {}, self.scene.checkpoint_commits)
        self.saved.append((folder, *(copy.deepcopy(thing) for thing in things[:3]), things[3], things[4]))

    def go_to(self, act):
        folder, now, items, truth, attributes, every = self.saved[act]
        shutil.rmtree(self.root / "world")
        shutil.copytree(folder, self.root / "world", copy_function=os.link)
        vars(self.scene.world).update(attributes)
        self.scene.world.now, self.scene.truth = now, copy.deepcopy(truth)
        self.scene.world.store._items = copy.deepcopy(items)
        self.scene.checkpoint_commits = every

    def play(self, act, faults=None):
        """One act, and turns until nothing is left; a process that dies is followed by another."""
        faults = faults or Faults()
        self.scene.orders, self.scene.renews = [], False
        self.story.acts[act](self.scene)
        try:
            self.scene.turns(faults)
        except Killed:
            self.scene.turns(Faults())
        return faults


# --- keyed -----------------------------------------------------------------------------------------------------------


def first_load(scene):
    for number in (1, 2):
        scene.load([row(n) for n in range(number, 900, 2)], number)
    scene.world.later(10)
    scene.cdc([("U", row(1, 1)), ("D", row(2)), ("I", row(2_001))])


def batches_with_bad_rows(scene):
    scene.world.limits = replace(scene.world.limits, max_files=2)
    scene.cdc([("U", row(3, 1)), ("X", row(4, 1)), ("I", row(None)), ("D", row(5))])
    scene.cdc([("U", row(3, 2)), ("I", row(2_002)), ("D", row(9_999))])
    scene.cdc([("D", row(3)), ("I", row(3, 3))])


def late_file(scene):
    at = scene.world.now - timedelta(seconds=90)
    scene.cdc([("U", row(3, 7)), ("U", row(7, 7)), ("I", row(2_003, 7)), ("X", row(1))], at=at)


def replaced_file(scene):
    name = max(scene.truth.files)
    at = time_of_position(position_of_name(name))
    assert name == scene.cdc([("D", row(3)), ("I", row(3, 4)), ("I", row(2_004))], at=at)


def many_dead_rows(scene):
    scene.cdc([("U", row(n, 5)) for n in range(10, 900, 20)])
    scene.cdc([("D", row(n)) for n in range(100, 250)])


def reload(scene):
    scene.world.later(3_600)
    scene.reloaded()
    scene.load([row(n, 6) for n in range(0, 900, 3)])
    scene.world.later(10)
    scene.cdc([("U", row(6, 7)), ("I", row(3_000))])


def keyed(root):
    return Scene(root, write_mode="merge_on_read")


# --- insert-only, partitioned ----------------------------------------------------------------------------------------


def insert_only(root):
    return Scene(root, key=None, partition_by=("part",))


def first_rows(scene):
    scene.load([row(n) for n in range(300)])
    scene.world.later(10)
    scene.cdc([("I", row(n, 1)) for n in range(4)])


def inserts_with_others(scene):
    scene.world.limits = replace(scene.world.limits, max_files=2)
    scene.cdc([("I", row(1, 2)), ("U", row(1, 3)), ("I", row(1, 2))])
    scene.cdc([("D", row(1)), ("I", row(1_000))])
    scene.cdc([("I", row(1_001))])


def late_insert(scene):
    scene.cdc([("I", row(1_002)), ("I", row(1_003)), ("U", row(5))], at=scene.world.now - timedelta(seconds=90))
    scene.cdc([("I", row(1_004))])


def insert_only_reload(scene):
    scene.world.later(3_600)
    scene.reloaded()
    scene.load([row(n, 6) for n in range(50)])
    scene.world.later(400)


# --- partitioned, without vectors from the third act on --------------------------------------------------------------


def partitioned(root):
    return Scene(root, partition_by=("part",), write_mode="merge_on_read")


def scattered_changes(scene):
    for version in (1, 2):
        scene.cdc([("U", row(n, version)) for n in range(0, 900, 30)] + [("I", row(3_000 + version))])


def without_vectors(scene):
    scene.world.table = scene.world.table.model_copy(update={"write_mode": "copy_on_write"})
    scene.cdc([("U", row(11, 3)), ("D", row(13))])


# --- larger than memory ----------------------------------------------------------------------------------------------


def small_memory(root):
    scene = Scene(root, write_mode="merge_on_read")
    world = scene.world
    world.piece_bytes, world.chunk_bytes, world.file_bytes = 60_000, 30_000, 80_000
    world.batch_bytes, world.pass_bytes = 20_000, 10_000
    return scene


def shuffled_load(scene):
    rows = [row(n) for n in range(2_000)]
    random.Random(1).shuffle(rows)
    scene.load(rows[:1_000], 1)
    scene.load(rows[1_000:], 2)
    scene.world.later(400)


def batch_in_passes(scene):
    scene.renews = True
    scene.cdc([("U", row(n, 1)) for n in range(0, 2_000, 5)])
    scene.cdc([("D", row(n)) for n in range(0, 2_000, 9)] + [("I", row(n)) for n in range(3_000, 3_200)])


def batch_after(scene):
    scene.cdc([("U", row(7, 2))])


# --- a long log that is swept ----------------------------------------------------------------------------------------


def many_checkpoints(root):
    scene = Scene(root, write_mode="merge_on_read")
    scene.checkpoint_commits = 3
    return scene


def small_batches(scene):
    scene.world.limits = replace(scene.world.limits, max_files=1)
    for n in range(5):
        scene.cdc([("U", row(100 * n + 1, 1)), ("I", row(4_000 + n))])


def long_ago(scene):
    small_batches(scene)
    scene.age(40)


# --- what an operator does, and what stops a table -------------------------------------------------------------------


def walkthrough_record(root):
    scene = Scene(root)
    path = scene.path
    item = {"LastFullLoadDate": "2026-02-28 00:00:00", "LastIncrementalFile": path + "20260228-000000000.parquet"}
    scene.world.store.put_item(path, {"bucket": "b", "PrimaryKey": "id", "ActiveFlag": "true", **item})
    return scene


def set_back(scene):
    path, first = scene.path, min(scene.truth.files)
    scene.cdc([("U", row(8, 1))])
    scene.world.store.put_item(path, {"LastIncrementalFile": path + first})


def state_lost(scene):
    scene.world.store._items.clear()


def bad_file(scene):
    scene.world.put("20260301-200000000.parquet", b"PAR1 and nothing more")
    scene.truth.blocked = True


def bad_file_gone(scene):
    (scene.world.raw / "20260301-200000000.parquet").unlink()
    scene.truth.blocked = False


def bad_file_and_more(scene):
    bad_file(scene)
    scene.cdc([("U", row(9, 1))])


def bad_file_replaced(scene):
    at = START.replace(hour=20)
    assert scene.cdc([("U", row(10, 1)), ("I", row(5_000))], at=at) == "20260301-200000000.parquet"
    scene.truth.blocked = False


def file_skipped(scene):
    name = scene.world.put("20260301-210000000.parquet", b"PAR1 and nothing more")
    scene.orders = [lambda context, store: skip(context, store, name)]
    at = START.replace(hour=22)
    scene.cdc([("U", row(10, 2))], at=at)


def paused(scene):
    scene.orders = [pause]
    scene.world.now = START.replace(hour=23)


def resumed(scene):
    scene.orders = [resume]
    scene.cdc([("U", row(10, 3))])


# --- a source that is truncated --------------------------------------------------------------------------------------


def truncatable(root):
    return Scene(root, on_source_truncate="truncate", write_mode="merge_on_read")


def truncated(scene):
    for file in scene.world.raw.iterdir():
        file.unlink()
    scene.truth.load, scene.truth.files = [], {}


STORIES = {
    story.name: story
    for story in (
        Story("keyed", keyed, (first_load, batches_with_bad_rows, late_file, replaced_file, many_dead_rows, reload)),
        Story("insert-only", insert_only, (first_rows, inserts_with_others, late_insert, insert_only_reload)),
        Story("partitioned", partitioned, (first_load, scattered_changes, without_vectors)),
        Story("small memory", small_memory, (shuffled_load, batch_in_passes, batch_after)),
        Story("swept", many_checkpoints, (first_load, small_batches, long_ago, batch_after)),
        Story("operated", walkthrough_record, (first_load, set_back, state_lost, file_skipped, paused, resumed)),
        Story(
            "blocked", walkthrough_record, (first_load, bad_file, bad_file_gone, bad_file_and_more, bad_file_replaced)
        ),
        Story("truncated", truncatable, (first_load, scattered_changes, truncated, batch_after)),
    )
}
