"""Replicas: who is alive by observed change, whose the tables are, and what a daemon does when that changes."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from cdcloader.daemon import Daemon
from cdcloader.errors import TransientError
from cdcloader.metrics import Metrics
from cdcloader.replicas import Replica
from cdcloader.state.memory import MemoryStore
from cdcloader.state.replicas import REPLICAS_PATH, owner_of
from cdcloader.watchdog import Watchdog
from tests.loader.conftest import World

TABLES = [f"bucket/raw/s/t{number}/" for number in range(40)]
SECONDS = 60.0


class Place:
    """A state store and one time for all, though each replica counts it from a beginning of its own."""

    def __init__(self):
        self.store, self.at = MemoryStore(), 0.0

    def replica(self, name, *, tables=TABLES, gone=(), ahead=0.0):
        clock = lambda: self.at + ahead  # noqa: E731
        return Replica(self.store, name, tables, SECONDS, is_gone=lambda owner: owner in gone, clock=clock)

    def beat(self, *replicas, seconds=0.0):
        """Time goes by, in which these beat as often as daemons do."""
        end = self.at + seconds
        while True:
            for replica in replicas:
                replica.beat()
            if self.at >= end:
                return
            self.at = min(end, self.at + SECONDS / 4)

    @property
    def names(self):
        return set(self.store.replicas().beats)


@pytest.fixture
def place():
    return Place()


def owned(replica):
    return {table for table in TABLES if replica.owns(table)}


def test_replicas_share_every_table_once(place):
    """Those that see each other have all tables together, and none twice."""
    replicas = [place.replica(name, ahead=1e6 * n) for n, name in enumerate("abc")]
    assert all(owned(replica) == set(TABLES) for replica in replicas), "alone until it has looked"
    place.beat(*replicas, seconds=30)
    shares = [owned(replica) for replica in replicas]
    assert set.union(*shares) == set(TABLES)
    assert sum(map(len, shares)) == len(TABLES)
    assert all(shares)


def test_a_silent_replica_is_dead_after_a_lease_time(place):
    """Its tables are the others' then, at once; who beats on stays alive, however often it is looked at."""
    a, b = place.replica("a"), place.replica("b")
    place.beat(a, b, seconds=600)
    assert a.alive == b.alive == {"a", "b"}
    assert not a.is_silent("b")
    place.beat(a, seconds=59)
    assert a.alive == {"a", "b"}
    place.beat(a, seconds=15)
    assert (a.alive, a.is_silent("b"), owned(a)) == ({"a"}, True, set(TABLES))
    assert not a.is_silent("a")


def test_a_dead_replica_is_forgotten_after_ten(place):
    """The item does not grow with every daemon that ever was."""
    a, b = place.replica("a"), place.replica("b")
    place.beat(a, b)
    place.beat(a, seconds=580)
    assert place.names == {"a", "b"}
    place.beat(a, seconds=30)
    assert place.names == {"a"}


def test_who_is_certainly_gone_is_not_waited_for(place):
    """A killed daemon of this machine gives its tables to the next at its first look."""
    place.beat(place.replica("dead"))
    heir = place.replica("heir", gone={"dead"})
    place.beat(heir)
    assert (heir.alive, place.names) == ({"heir"}, {"heir"})


def test_a_sleeper_that_wakes_declares_nobody_dead(place):
    """What it has not looked at it does not judge: the others have beaten all the time."""
    a, b = place.replica("a"), place.replica("b")
    place.beat(a, b, seconds=60)
    place.beat(b, seconds=3_000)
    assert (b.alive, place.names) == ({"b"}, {"b"})
    place.beat(a)
    assert a.alive == {"a", "b"}
    place.beat(b)
    assert b.alive == {"a", "b"}


def test_an_outage_of_the_store_declares_nobody_dead(place):
    """Nobody could beat for long: whoever sees the store first again waits for the others to be able to."""
    a, b = place.replica("a"), place.replica("b")
    place.beat(a, b, seconds=60)
    place.at += 3_000
    place.beat(a)
    assert a.alive == {"a", "b"}
    assert not a.is_silent("b")
    place.beat(b)
    place.beat(a, seconds=59)
    assert a.alive == b.alive == {"a", "b"}
    place.beat(a, seconds=30)
    assert a.alive == {"a"}


def test_a_stop_behind_the_look_declares_nobody_dead(place):
    """Whoever was stopped between look and decision judges by the time of the look."""
    a, b = place.replica("a"), place.replica("b")
    place.beat(a, b)
    look = place.store.replicas

    def stopped_after_looking():
        item = look()
        place.at += 1_000
        return item

    place.store.replicas = stopped_after_looking
    a.beat()
    assert a.alive == {"a", "b"}


def test_other_tables_are_another_group(place):
    """Daemons with different tables on one state store take none of each other's, but see who is silent."""
    a, other = place.replica("a"), place.replica("other", tables=["bucket/raw/x/y/"])
    place.beat(a, other, seconds=30)
    assert (a.alive, other.alive) == ({"a"}, {"other"})
    assert other.owns("bucket/raw/x/y/")
    place.beat(a, seconds=90)
    assert a.is_silent("other")


def test_a_lost_race_is_beaten_again(place):
    """Whoever is overtaken between look and write looks again."""
    a, b = place.replica("a"), place.replica("b")
    place.beat(a, b)
    put, quicker = place.store.put_replicas, [b, b]

    def overtaken(replicas):
        if quicker:
            quicker.pop().beat()
        put(replicas)

    place.store.put_replicas = overtaken
    before = place.store.replicas().beats
    a.beat()
    after = place.store.replicas().beats
    assert after["a"].count > before["a"].count
    assert after["b"].count > before["b"].count


moves = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["beat", "sleep", "wake"])), max_size=30)


@settings(max_examples=50)
@given(moves)
def test_replicas_agree_when_it_gets_quiet(steps):
    """Whatever slept and woke before: after two lease times the live ones have every table, each once."""
    place = Place()
    replicas = {name: place.replica(name) for name in "abcd"}
    asleep = set()
    for name, what in steps:
        if what == "beat" and name not in asleep:
            place.beat(replicas[name])
        asleep ^= {name} if (what == "sleep") != (name in asleep) else set()
        place.at += 11
    awake = [replica for name, replica in replicas.items() if name not in asleep]
    place.beat(*awake, seconds=2 * SECONDS)
    place.beat(*awake)
    for table in TABLES if awake else ():
        assert sum(replica.owns(table) for replica in awake) == 1
    assert {frozenset(replica.alive) for replica in awake} <= {frozenset(replica.name for replica in awake)}


# Threads and daemons: real time, and a short lease.


class Running:
    """A daemon of one world, as `run` makes it, with a short lease."""

    def __init__(self, world, name, *, seconds=0.6, store=None, poll=3600.0, gone=()):
        self.world, self.loader = world, world.loader(name, store=store)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.looks = 0
        step = self.loader.step

        def counted():
            self.looks += 1
            return step()

        self.loader.step = counted
        self.replica = Replica(
            store or world.store, name, [self.loader.context.path], seconds, is_gone=lambda owner: owner in gone
        )
        self.daemon = Daemon(
            [self.loader],
            self.metrics,
            workers=1,
            poll_interval_seconds=poll,
            stopping=threading.Event(),
            watchdog=Watchdog(900.0, 3600.0),
            replica=self.replica,
        )

    def sample(self, name):
        return self.registry.get_sample_value(f"cdcloader_{name}")

    def owns(self):
        return self.replica.owns(self.loader.context.path)


@pytest.fixture
def run(tmp_path):
    running = []

    def start(world, name, **options):
        each = Running(world, name, **options)
        running.append(each)
        each.daemon.start()
        return each

    yield start
    for each in running:
        if each.daemon._scheduler.running:
            each.daemon.drain(5)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def until(condition, what):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def loses_to(world, name):
    """Another name that the world's table belongs to as soon as both are there."""
    path = world.loader().context.path
    return next(other for other in (f"other-{n}" for n in range(100)) if owner_of(path, {name, other}) == other)


def test_a_daemon_asks_nothing_about_tables_of_others(world, run):
    """Neither the source nor the record of another's table is looked at; what is told of it goes away."""
    world.load([{"id": 1, "name": "x"}])
    first = run(world, "first", poll=0.05)
    until(lambda: first.looks > 2, "alone, it polls")
    assert (first.sample("replicas"), first.sample("tables_owned")) == (1, 1)
    second = run(world, loses_to(world, "first"), poll=0.05)
    until(lambda: not first.owns(), "the other has come")
    until(lambda: first.registry.get_sample_value("cdcloader_backlog_files", {"table": "s/t"}) is None, "forgotten")
    looked = first.looks
    time.sleep(0.3)
    assert first.looks == looked
    assert second.looks > 2
    assert (first.sample("replicas"), first.sample("tables_owned")) == (2, 0)
    assert (second.sample("replicas"), second.sample("tables_owned")) == (2, 1)


def test_tables_of_who_ends_in_order_are_looked_at_at_once(world, run):
    """Whoever is stopped tells the others, who do not wait for their poll, which is an hour away here."""
    first = run(world, "first", seconds=2)
    second = run(world, loses_to(world, "first"), seconds=2)
    until(lambda: not first.owns(), "the other has come")
    looked = first.looks
    second.daemon.drain(5)
    until(lambda: first.looks > looked, "its turn comes at once")
    assert first.owns()
    assert second.replica.name not in world.store.replicas().beats


def test_tables_of_who_dies_are_taken_over_within_two_lease_times(world, run):
    """A daemon that stops beating, in the middle of its work and with the lease in hand, is replaced in time."""
    first = run(world, "first", seconds=1)
    name = loses_to(world, "first")
    dead = Running(world, name)
    dead.replica.beat()
    until(lambda: not first.owns(), "the other is there")
    world.load([{"id": 1, "name": "x"}])
    world.later(400)
    assert dead.loader._lease.take() is not None
    dead.loader._lease._ended.set()
    dead.replica.beat()
    first.loader._lease._is_gone = first.replica.is_silent
    until(lambda: world.record().lease_epoch > 1, "its lease is taken")
    until(lambda: world.record().lease_owner is None, "the work is done")
    assert world.rows() == [(1, "x")]


def test_an_owner_that_another_replaces_ends_its_batch_and_lets_go(world, run):
    """A replica that comes makes the owner end after the batch in hand, though it has more to do."""
    world.limits = type(world.limits)(max_files=1, max_bytes=1 << 30, quiet_seconds=0, overlap_seconds=300)
    world.load([{"id": 1, "name": "x"}])
    world.later()
    for number in range(2, 8):
        world.cdc([("I", {"id": number, "name": "x"})])
        world.later()
    first = Running(world, "first")
    step, joined = first.loader.step, []

    def joins_after_two():
        taken = step()
        if world.record().recorded_version == 2 and not joined:
            joined.append(Running(world, loses_to(world, "first")).replica)
            joined[0].beat()
            until(lambda: not first.owns(), "the other is seen")
        return taken

    first.loader.step = joins_after_two
    first.daemon.start()
    try:
        until(lambda: joined and not first.daemon._running, "the turn ends")
    finally:
        first.daemon.drain(5)
    record = world.record()
    assert (record.recorded_version, record.lease_owner) == (2, None)


def test_a_daemon_that_cannot_beat_goes_on(world, run, caplog):
    """It says so once, keeps the tables that it had, and says when it is over; a damaged item is no different."""
    store = world.store
    look, away = store.replicas, threading.Event()

    def sometimes():
        if away.is_set():
            raise TransientError("the store is away", where="the state store")
        return look()

    store.replicas = sometimes
    caplog.set_level(logging.INFO)
    away.set()
    daemon = run(world, "alone", seconds=0.2, poll=0.05)
    until(lambda: daemon.looks > 3, "it works all the same")
    time.sleep(0.3)
    assert daemon.owns()
    away.clear()
    until(lambda: "alone" in look().beats, "it beats again")
    store.put_item(REPLICAS_PATH, {"Beats": "{"})
    looked = daemon.looks
    until(lambda: daemon.looks > looked + 3, "a damaged item stops no table")
    assert daemon.owns()
    del store._items[REPLICAS_PATH]
    until(lambda: store._items.get(REPLICAS_PATH), "an operator has deleted it, and it is written anew")


def test_a_beat_that_nobody_foresaw_trouble_of_goes_on(world, run):
    """Not even a bug ends the thread that beats: the others would take a daemon that works for dead."""
    look, broken = world.store.replicas, threading.Event()

    def sometimes():
        if broken.is_set():
            raise FileNotFoundError("/var/run/secrets/token")
        return look()

    world.store.replicas = sometimes
    broken.set()
    daemon = run(world, "alone", seconds=0.2, poll=0.05)
    until(lambda: daemon.replica._troubled, "it says so")
    broken.clear()
    until(lambda: "alone" in look().beats, "it beats again")


@pytest.mark.parametrize("back", [3600, -3600])
def test_a_clock_that_is_set_anew_stops_no_table(world, run, back):
    """The schedule goes by the wall clock: set back by an hour, it would rest for an hour."""
    daemon = run(world, "alone")
    until(lambda: daemon.looks and not daemon.daemon._running, "the first turn")
    looked = daemon.looks
    daemon.daemon.keep_time()
    time.sleep(0.3)
    assert daemon.looks == looked, "nothing has happened, and the poll is an hour away"
    daemon.daemon._wall_ahead += back
    daemon.daemon.keep_time()
    until(lambda: daemon.looks > looked, "it is polled at once")


def test_a_held_table_is_looked_at_before_the_next_poll(world, run):
    """A lease that a `run --once` left behind is taken after its time, though the poll is an hour away."""
    world.load([{"id": 1, "name": "x"}])
    world.later(400)
    left = world.loader("left")
    left.step()
    world.cdc([("I", {"id": 2, "name": "x"})])
    world.later()
    world.lease_seconds, world.clock = 0.5, time.monotonic
    daemon = run(world, "daemon", seconds=0.5)
    until(lambda: daemon.looks > 2 and world.record().lease_owner is None, "it is taken")
    assert world.rows() == [(1, "x"), (2, "x")]
