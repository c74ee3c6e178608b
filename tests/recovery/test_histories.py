"""Random histories: files late, replaced, repeated, side by side, reloads, deaths; then the table is right."""

import itertools
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdcloader.source.names import position_of_name, time_of_position
from tests.recovery.faults import Faults, Killed, Storm, Way
from tests.recovery.scene import Scene, row

LATE_SECONDS_MAX = 1_500
OPTIONS = st.fixed_dictionaries(
    {
        "write_mode": st.sampled_from(["auto", "merge_on_read", "copy_on_write"]),
        "partition_by": st.sampled_from([(), ("part",)]),
    }
)
IDS = st.integers(0, 9)


def changes(ops):
    one = st.builds(lambda op, id_, version: (op, row(id_, version)), st.sampled_from(ops), IDS, st.integers(0, 3))
    return st.lists(one, min_size=1, max_size=4)


def histories(*, keyed):
    """Pairs of what a writer does, and what the loader does then: nothing, its turns, or turns that go wrong."""
    some = changes("IUUDX" if keyed else "IIIUX")
    written = [
        st.tuples(st.just("new"), some),
        st.tuples(st.just("new"), some),
        st.tuples(st.just("late"), some, st.integers(1, LATE_SECONDS_MAX)),
        st.tuples(st.just("repeated"), st.integers(0, 9)),
        st.tuples(st.just("beside"), some, st.integers(0, 9)),
        st.tuples(st.just("reload"), st.lists(IDS, unique=True, max_size=8)),
        st.tuples(st.just("state_lost")),
    ]
    if keyed:
        written.append(st.tuples(st.just("replaced"), some, st.integers(0, 9)))
    loader = [
        st.tuples(st.just("nothing")),
        st.tuples(st.just("turns")),
        st.tuples(st.just("fault"), st.integers(1, 12), st.sampled_from(Way)),
        st.tuples(st.just("storm"), st.integers(0, 999)),
    ]
    return st.lists(st.tuples(st.one_of(written), st.one_of(loader)), min_size=4, max_size=12)


class Play:
    """Carries out events on a table that was loaded once."""

    def __init__(self, scene):
        self.scene, self.number = scene, 0
        scene.load([row(n, 9) for n in range(6)])
        scene.world.later(400)
        scene.turns(Faults())

    def recent(self, index):
        """A file that the loader still looks back to, if there is one."""
        since = self.scene.world.now - timedelta(seconds=LATE_SECONDS_MAX)
        names = [name for name in self.scene.truth.files if time_of_position(position_of_name(name)) > since]
        alone = [name for name in names if not self.is_beside(name) and name.replace(".", "0.") not in names]
        return sorted(alone)[index % len(alone)] if alone else None

    def is_beside(self, name):
        return name.replace("0.", ".") in self.scene.truth.files

    def new(self, rows):
        self.scene.cdc(rows)

    def late(self, rows, seconds):
        # A millisecond of its own, so that it is no file that is there already.
        self.number += 1
        back = timedelta(seconds=seconds, milliseconds=self.number)
        self.scene.cdc(rows, at=self.scene.world.now - back)

    def repeated(self, index):
        if name := self.recent(index):
            self.scene.cdc(self.scene.truth.files[name])

    def beside(self, rows, index):
        if name := self.recent(index):
            self.scene.beside(name, rows)

    def replaced(self, rows, index):
        """Written again with more rows: what only the former content said would stay in the table."""
        if name := self.recent(index):
            self.scene.cdc([*self.scene.truth.files[name], *rows], at=time_of_position(position_of_name(name)))

    def reload(self, ids):
        self.scene.reloaded()
        self.scene.load([row(n, 8) for n in ids])
        self.scene.world.later()

    def state_lost(self):
        self.scene.world.store._items.clear()

    def nothing(self):
        pass

    def turns(self):
        self.scene.turns(Faults())

    def fault(self, number, way):
        # After a death the next event finds the table as it was left.
        with suppress(Killed):
            self.scene.turns(Faults("", number, way))

    def storm(self, seed):
        for death in range(3):
            with suppress(Killed):
                self.scene.turns(Storm(10 * seed + death))


def plays_well(root, history, options):
    play = Play(Scene(root, **options))
    for what, *arguments in itertools.chain.from_iterable(history):
        getattr(play, what)(*arguments)
    play.scene.world.later(400)
    play.scene.turns(Faults())
    play.scene.check()


# The state is lost after a replay, and a file comes that is older than where the replay began.
LOST_AFTER_REPLAY = [
    (("new", [("I", row(0))]), ("turns",)),
    (("late", [("I", row(0))], 60), ("turns",)),
    (("state_lost",), ("nothing",)),
    (("new", [("I", row(0))]), ("nothing",)),
    (("late", [("I", row(4)), ("X", row(0))], 180), ("nothing",)),
]


@settings(max_examples=12)
@example(history=LOST_AFTER_REPLAY, options={"write_mode": "auto", "partition_by": ()})
@given(history=histories(keyed=True), options=OPTIONS)
def test_a_table_with_a_key_converges_whatever_comes_when_and_who_dies(tmp_path_factory, history, options):
    """At the end it equals all files in their order, over the last full load, to two readers."""
    plays_well(tmp_path_factory.mktemp("w"), history, options)


@settings(max_examples=10)
@given(history=histories(keyed=False), options=OPTIONS)
def test_a_table_without_a_key_has_each_insert_once_per_file(tmp_path_factory, history, options):
    """Late files, repeated files, reloads and deaths: each file's inserts are there exactly once."""
    plays_well(tmp_path_factory.mktemp("w"), history, {**options, "key": None})


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=150)
@given(history=histories(keyed=True), options=OPTIONS)
def test_many_histories_with_a_key(tmp_path_factory, history, options):
    """More of the same."""
    plays_well(tmp_path_factory.mktemp("w"), history, options)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=150)
@given(history=histories(keyed=False), options=OPTIONS)
def test_many_histories_without_a_key(tmp_path_factory, history, options):
    """More of the same."""
    plays_well(tmp_path_factory.mktemp("w"), history, {**options, "key": None})
