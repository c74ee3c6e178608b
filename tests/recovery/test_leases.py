"""Leases: taken over by observed change alone, renewed in the background, and no zombie can do harm."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.errors import StateConflict, TransientError
from cdcloader.lake.log import DeltaLog
from cdcloader.loader.account import UPKEEP
from cdcloader.loader.lease import Lease
from cdcloader.loader.steps import Outcome
from cdcloader.state.memory import MemoryStore
from cdcloader.state.record import Phase, Record
from cdcloader.turns import take_turn

PATH = "bucket/raw/s/t/"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = 60.0


class Actor:
    """A loader that wants the lease: its own monotonic clock, and a wall clock that may be wrong."""

    def __init__(self, store, name, *, wrong=timedelta(0), gone=(), seconds=SECONDS):
        self.at = 0.0
        self.lease = Lease(
            store,
            PATH,
            name,
            seconds,
            is_gone=lambda owner: owner in gone,
            now=lambda: NOON + wrong + timedelta(seconds=self.at),
            clock=lambda: self.at,
        )

    def takes(self, after=0.0):
        self.at += after
        return self.lease.take() is not None


@pytest.fixture
def store():
    store = MemoryStore()
    store.create(Record(PATH, last_incremental_file=PATH + "0.parquet"))
    return store


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "cdcloader-lease"]


@pytest.mark.parametrize("wrong", [timedelta(days=-1), timedelta(0), timedelta(days=1)])
def test_wrong_clocks_do_not_matter(store, wrong):
    """Whatever the holder's clock says, its lease is free when it stood still for the lease's time, not before."""
    holder, heir = Actor(store, "holder", wrong=wrong), Actor(store, "heir")
    assert holder.takes()
    assert not heir.takes()
    assert not heir.takes(after=59.9)
    assert heir.takes(after=0.1)


def test_a_lease_that_is_renewed_is_never_taken(store):
    """However long the other waits: every change of the expiry begins its wait anew."""
    holder, heir = Actor(store, "holder"), Actor(store, "heir")
    assert holder.takes()
    for _ in range(20):
        assert not heir.takes(after=50)
        holder.at += 50
        assert holder.lease.renew()
    assert not heir.takes(after=50)
    assert heir.takes(after=60)


def test_the_wait_begins_with_the_first_look(store):
    """A lease that expired long ago by its own text is foreign all the same until it was seen to stand still."""
    holder, heir = Actor(store, "holder"), Actor(store, "heir")
    assert holder.takes()
    assert not heir.takes(after=10_000)
    assert heir.takes(after=60)


def test_a_stop_behind_the_look_makes_no_lease_look_dead(store):
    """Whoever was stopped between clock and decision judges by the time of its look."""
    holder, heir = Actor(store, "holder"), Actor(store, "heir")
    assert holder.takes()
    assert not heir.takes()
    get = store.get

    def stopped_after_reading(path):
        record = get(path)
        heir.at += 100
        return record

    store.get = stopped_after_reading
    assert not heir.takes(after=1)


def test_a_dead_owner_is_not_waited_for(store):
    """Where the owner is known to be gone its lease is free at once."""
    assert Actor(store, "dead").takes()
    assert Actor(store, "heir", gone={"dead"}).takes()
    assert store.get(PATH).lease_epoch == 2


def test_the_overtaken_find_out(store):
    """The next renewal of an overtaken holder fails, `check` says so, and letting go leaves the heir's lease alone."""
    holder, heir = Actor(store, "holder"), Actor(store, "heir", gone={"holder"})
    assert holder.takes()
    holder.lease.check()
    holder.lease.confirm()
    assert heir.takes()
    for discovery in (holder.lease.confirm, lambda: holder.lease.renew() or holder.lease.check()):
        with pytest.raises(StateConflict, match="another loader took over"):
            discovery()
    holder.lease.release()
    assert store.get(PATH).lease_owner == "heir"
    assert not holder.takes()
    holder.lease.check()


def test_who_was_overtaken_does_not_report(store):
    """Trouble is recorded by the holder, and where there is none by whoever saw the record as it stands."""
    holder, heir = Actor(store, "holder"), Actor(store, "heir", gone={"holder"})
    seen = store.get(PATH)
    assert holder.lease.may_report(seen, seen)
    assert holder.takes()
    assert holder.lease.may_report(store.get(PATH), seen)
    assert not heir.lease.may_report(store.get(PATH), store.get(PATH))
    assert heir.takes()
    heir.lease.release()
    assert not holder.lease.may_report(store.get(PATH), seen)
    assert heir.lease.may_report(store.get(PATH), store.get(PATH))
    assert not heir.lease.may_report(store.get(PATH), seen)


def test_a_taking_whose_answer_was_lost_is_ours(store):
    """The record says that we hold it: the next look takes it, under a new epoch, without waiting."""
    actor, update = Actor(store, "me"), store.update

    def lost(old, new):
        update(old, new)
        store.update = update
        raise TransientError("the answer was lost")

    store.update = lost
    with pytest.raises(TransientError):
        actor.takes()
    assert not actor.lease.held
    assert actor.takes()
    assert store.get(PATH).lease_epoch == 2


def test_long_work_keeps_its_lease(store):
    """While the work does nothing but take long, a thread renews; it ends with the release."""
    holder = Lease(store, PATH, "holder", 0.3, is_gone=lambda _: False, now=lambda: datetime.now(UTC))
    heir = Lease(store, PATH, "heir", 0.9, is_gone=lambda _: False, now=lambda: NOON)
    assert holder.take()
    before = store.get(PATH)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert heir.take() is None
        time.sleep(0.05)
    after = store.get(PATH)
    assert (after.lease_epoch, after.lease_owner) == (before.lease_epoch, "holder")
    assert after.lease_expires_at > before.lease_expires_at
    holder.release()
    assert heir.take()
    heir.release()
    assert (store.get(PATH).lease_owner, store.get(PATH).lease_expires_at) == (None, None)


@pytest.mark.parametrize("trouble", [TransientError("the store is away"), FileNotFoundError("/var/run/secrets/token")])
def test_trouble_of_a_renewal_is_not_trouble_of_the_work(store, trouble):
    """A store that cannot be reached for a while, whyever, stops no work: the renewals go on when it is back."""
    get, failing = store.get, threading.Event()

    def sometimes(path):
        if failing.is_set() and threading.current_thread().name == "cdcloader-lease":
            raise trouble
        return get(path)

    store.get = sometimes
    lease = Lease(store, PATH, "me", 0.15, is_gone=lambda _: False, now=lambda: datetime.now(UTC))
    assert lease.take()
    failing.set()
    time.sleep(0.3)
    lease.check()
    failing.clear()
    before = store.get(PATH).lease_expires_at
    end = time.monotonic() + 20
    while store.get(PATH).lease_expires_at == before:
        assert time.monotonic() < end
        time.sleep(0.02)
    lease.release()


def test_a_lease_of_a_deleted_record_is_not_taken_for_ours(store):
    """An operator deletes the record, and its epochs begin anew: the same number is another loader's lease by then."""
    sleeper, other = Actor(store, "sleeper"), Actor(store, "other")
    assert sleeper.lease.take() is not None
    del store._items[PATH]
    store.create(Record(path=PATH))
    taken = other.lease.take()
    assert taken is not None
    assert taken.lease_epoch == 1
    with pytest.raises(StateConflict):
        sleeper.lease.confirm()
    assert not sleeper.lease.renew()
    assert sleeper.lease.take() is None
    assert not sleeper.lease.held


def test_between_two_turns_no_lease_is_held(make_world):
    """A table with more to do may wait long for its next turn, or get none: no lease and no thread waits with it."""
    world = make_world()
    world.load([{"id": 1, "name": "x"}])
    world.later(400)
    loader = world.loader()
    ended = take_turn(loader, threading.Event(), slice_seconds=0)
    assert (ended.more, ended.step.outcome) == (True, Outcome.DONE)
    assert world.record().recorded_version == 0
    assert (world.record().lease_owner, loader._lease.held) == (None, False)


def test_a_lease_that_nobody_has_in_hand_is_not_renewed(store):
    """The thread does not keep alive what its loader has dropped."""
    lease = Lease(store, PATH, "me", 0.1, is_gone=lambda _: False, now=lambda: datetime.now(UTC))
    assert lease.take()
    before = len(threads())
    assert before
    del lease
    gc.collect()
    end = time.monotonic() + 20
    while len(threads()) >= before:
        assert time.monotonic() < end
        time.sleep(0.02)


actions = st.tuples(st.integers(0, 1), st.sampled_from(["take", "take", "renew", "release", "move"]), st.booleans())


@settings(max_examples=30)
@given(st.lists(actions, min_size=30, max_size=40))
def test_epochs_only_rise_and_only_the_last_holder_writes(steps):
    """Two loaders in any order: each change of holder is a new epoch, and a write under an old one is refused."""
    store = MemoryStore()
    store.create(Record(PATH, last_incremental_file=PATH + "0.parquet"))
    actors = [Actor(store, f"loader {number}", seconds=60) for number in range(2)]
    held: dict[int, Record] = {}
    for who, what, long in steps:
        before, actor = store.get(PATH), actors[who]
        actor.at += 61 if long else 1
        if what == "take":
            record = actor.lease.take()
            held.pop(who, None) if record is None else held.__setitem__(who, record)
        elif what == "release":
            actor.lease.release()
        elif what == "renew":
            actor.lease.renew()
        elif who in held:
            moved = held[who].healed(NOON + timedelta(seconds=actor.at))
            if held[who].lease_epoch == before.lease_epoch:
                held[who] = store.update(held[who], moved)
            else:
                with pytest.raises(StateConflict):
                    store.update(held[who], moved)
        now = store.get(PATH)
        assert now.lease_epoch >= before.lease_epoch
        if now.lease_owner not in (None, before.lease_owner):
            assert now.lease_epoch == before.lease_epoch + 1
    for actor in actors:
        actor.lease.release()


# A zombie: a loader that sleeps, at any moment of its work, until another has taken over; then it goes on.


class Sleeper:
    """Hands every call on to a store or to the lake; before the n-th of all its calls it sleeps, once."""

    def __init__(self, inner, nap):
        self._inner, self._nap = inner, nap

    def __getattr__(self, name):
        value = getattr(self._inner, name)
        if not callable(value) or name in ("path_of", "qualified"):
            return value

        def called(*arguments, **named):
            self._nap.next(name)
            return value(*arguments, **named)

        return called


class Nap:
    """Counts calls, and at one of them lets the others work."""

    def __init__(self, at, meanwhile):
        self.calls, self._at, self._meanwhile, self._thread = 0, at, meanwhile, threading.get_ident()

    def next(self, _name):
        if threading.get_ident() != self._thread:
            return  # Reading ahead and renewing have threads of their own, which would sleep too.
        self.calls += 1
        if self.calls == self._at:
            self._meanwhile()


def row(id_, name="x"):
    return {"id": id_, "name": name}


def begin(world, kind):
    """What is there for the zombie to do; returns the rows that the table must have in the end."""
    world.load([row(1), row(2)])
    world.later(400)
    world.cdc([("I", row(3))])
    world.later()
    model = Counter({(1, "x"): 1, (2, "x"): 1, (3, "x"): 1})
    if kind == "load":
        return model
    world.run(world.loader("before"))
    if kind == "late":
        model += put(world, 4, at=world.now - timedelta(seconds=120))
    elif kind == "reload":
        world.load([row(1, "again")])
        world.later(400)
        return Counter({(1, "again"): 1, (3, "x"): 1})  # A change within the overlap of the reload counts again.
    else:
        model += put(world, 4)
        model += put(world, 5)
    return model


def put(world, number, at=None):
    world.cdc([("I", row(number))], at=at, visible=world.now)
    world.later()
    return Counter({(number, "x"): 1})


def naps(world, kind, at, *, stays):
    """Let a zombie do its work and sleep at a call, while another does the same work and more; the calls it made."""
    wanted = begin(world, kind)
    heir = world.loader("heir")

    def meanwhile():
        wanted.update(put(world, 6))
        world.run(heir)
        wanted.update(put(world, 7))
        if stays:
            heir.step()
        else:
            world.run(heir)

    nap = Nap(at, meanwhile)
    lake = Sleeper(world.lake, nap)
    zombie = world.loader("zombie", store=Sleeper(world.store, nap), lake=lake)
    ended = take_turn(zombie, threading.Event())
    assert ended.error is None, ended.error
    world.run(heir)
    check(world, wanted)
    return nap.calls


def check(world, wanted):
    """The rows are the history's; the record says so too; the log applied each file once in each generation."""
    assert Counter(world.frame().select("id", "name").rows()) == wanted
    record = world.record()
    log = DeltaLog(world.lake, "s/t")
    infos = [info for _, info in log.infos(0, log.snapshot().version) if UPKEEP not in info]
    applied = Counter((info["generation"], name) for info in infos for name in info["files"])
    assert set(applied.values()) <= {1}
    assert record.rows_inserted == sum(info["rows"]["insert"] for info in infos)
    assert (record.phase, record.last_error, record.consecutive_failures) == (Phase.STREAMING, None, 0)


KINDS = ["batch", "late", "load", "reload"]


@pytest.mark.slow
@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("key", [("id",), None])
@pytest.mark.parametrize("kind", KINDS)
def test_a_zombie_at_any_moment_does_no_harm(make_world, kind, key, stays):
    """A loader sleeps before any one of its calls, while another does all: rows, record and log are right."""
    at = 1
    while naps(make_world(key=key), kind, at, stays=stays) >= at:
        at += 1
    assert at > 15


@pytest.mark.parametrize("key", [("id",), None])
@pytest.mark.parametrize("kind", KINDS)
def test_a_zombie_at_some_moments_does_no_harm(make_world, kind, key):
    """As above, at some moments: with the log in hand, about to commit, and between commit and record."""
    calls = naps(make_world(key=key), kind, 10**6, stays=False)
    for at in range(3, calls + 1, max(1, calls // 6)):
        naps(make_world(key=key), kind, at, stays=at % 2 == 0)


def test_a_zombie_does_not_report_its_trouble(make_world):
    """What went wrong while it slept, or because it slept, is not written over the heir's healthy record."""
    world = make_world()
    begin(world, "batch")
    heir = world.loader("heir")

    def meanwhile():
        world.run(heir)
        raise TransientError("the network was away while we slept")

    zombie = world.loader("zombie", lake=Sleeper(world.lake, Nap(3, meanwhile)))
    ended = take_turn(zombie, threading.Event())
    assert isinstance(ended.error, TransientError)
    record = world.record()
    assert (record.phase, record.last_error, record.consecutive_failures) == (Phase.STREAMING, None, 0)


def test_a_zombie_does_not_replace_the_table_by_an_old_plan(make_world):
    """A reload was begun, its LOAD file withdrawn, and the heir has gone on with changes: they are not loaded over."""
    world = make_world()
    wanted = begin(world, "batch")
    world.run(world.loader("before"))
    name = world.load([row(99, "withdrawn")])
    world.later(400)
    heir = world.loader("heir")

    def meanwhile():
        (world.raw / name).unlink()
        wanted.update(put(world, 6))
        world.run(heir)

    class SleepsBeforeItsCommit(Sleeper):
        """Sleeps between the files of the load and the reading of the log."""

        def __getattr__(self, name):
            value = getattr(self._inner, name)
            if name != "snapshot":
                return value

            def read(*arguments):
                if self._nap.files_are_written():
                    self._nap.next(name)
                return value(*arguments)

            return read

    nap = Nap(1, meanwhile)
    written = len(list(Path(world.path).glob("*.parquet")))
    nap.files_are_written = lambda: len(list(Path(world.path).glob("*.parquet"))) > written
    zombie = world.loader("zombie")
    object.__setattr__(zombie.context, "log", SleepsBeforeItsCommit(zombie.context.log, nap))
    take_turn(zombie, threading.Event())
    assert nap.calls
    world.run(heir)
    check(world, wanted)


def test_a_zombie_of_upkeep_does_no_harm(make_world):
    """It sleeps at any moment while small files are merged; another applies changes, tidies, or both."""
    at, calls = 2, 10**6
    while at <= calls:
        world = make_world()
        begin(world, "batch")
        wanted = {(n, "x") for n in (1, 2, 3, 4, 5)}
        for number in range(10, 20):
            world.cdc([("I", row(number))])
            world.later()
            wanted.add((number, "x"))
            world.run()
        heir = world.loader("heir")

        def meanwhile(world=world, heir=heir):
            world.cdc([("U", row(3, "new")), ("D", row(4))])
            world.later()
            world.run(heir)
            heir.tidy()
            heir.release()

        nap = Nap(at, meanwhile)
        zombie = world.loader("zombie", store=Sleeper(world.store, nap), lake=Sleeper(world.lake, nap))
        ended = take_turn(zombie, threading.Event())
        assert ended.error is None
        calls = nap.calls
        world.run(heir)
        slept = calls >= at
        final = (wanted - {(3, "x"), (4, "x")}) | {(3, "new")} if slept else wanted
        assert set(world.rows()) == final
        assert len(world.rows()) == len(final)
        assert world.record().phase is Phase.STREAMING
        at += 9


def test_two_loaders_that_ignore_every_lease_do_no_harm(make_world):
    """Correctness rests on conditional commits and writes alone: with leases that hold nobody back, too."""
    for key in (("id",), None):
        world = make_world(key=key)
        wanted = begin(world, "batch")
        loaders = [world.loader(f"loader {number}") for number in range(2)]
        for loader in loaders:
            loader._lease._is_gone = lambda _owner: True
        for number in range(20, 26):
            wanted.update(put(world, number))
        gate = threading.Barrier(2)

        def race(loader, gate=gate):
            gate.wait()
            while take_turn(loader, threading.Event()).step.outcome is not Outcome.IDLE:
                pass

        racing = [threading.Thread(target=race, args=(loader,)) for loader in loaders]
        for thread in racing:
            thread.start()
        for thread in racing:
            thread.join(60)
            assert not thread.is_alive()
        check(world, wanted)
