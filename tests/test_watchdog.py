"""A turn that hangs is named; one that comes on, however long it takes, is not."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from prometheus_client import CollectorRegistry

from cdcloader.daemon import Daemon
from cdcloader.metrics import Metrics
from cdcloader.replicas import Replica
from cdcloader.state.memory import MemoryStore
from cdcloader.watchdog import Watchdog


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_silence_is_trouble_and_beats_are_not():
    """A turn may take hours as long as it beats; after so many silent seconds it is named, until it ends."""
    clock = Clock()
    dog = Watchdog(900, 60, clock)
    dog.begin("sales/orders")
    dog.begin("hr/people")
    for _ in range(20):
        clock.now += 800
        dog.beat("sales/orders")
        dog.beat("hr/people")
        assert dog.trouble() == ""
    clock.now += 500
    dog.beat("hr/people")
    clock.now += 500
    assert dog.trouble() == "sales/orders has made no progress for 1000 s"
    clock.now += 500
    assert dog.trouble() == "hr/people has made no progress for 1000 s; sales/orders has made no progress for 1500 s"
    dog.end("sales/orders")
    dog.beat("hr/people")
    assert dog.trouble() == ""
    dog.beat("sales/orders")  # A thread that wakes after its turn has ended begins no new one.
    clock.now += 800
    assert dog.trouble() == ""


def test_a_schedule_that_starts_nothing_is_trouble():
    """Where no turn is under way, the next must begin within the longest pause and the watchdog's time."""
    clock = Clock()
    dog = Watchdog(100, 900, clock)
    clock.now += 999
    assert dog.trouble() == ""
    clock.now += 2
    assert dog.trouble() == "no table has had a turn for 1001 s"
    dog.begin("sales/orders")
    dog.end("sales/orders")
    assert dog.trouble() == ""


class HangingLoader:
    """Hangs at its first step, as a request without an answer would."""

    source = "sales/orders"
    held_seconds = 0.0
    context = SimpleNamespace(path="raw/sales/orders/")

    def __init__(self):
        self.reached, self.go_on = threading.Event(), threading.Event()

    def step(self):
        self.reached.set()
        self.go_on.wait(60)
        raise RuntimeError("the test is over")

    def failed(self, _error, _phase):
        return 1

    def release(self):
        pass


def test_a_daemon_with_a_hanging_worker_is_not_alive():
    """The schedule ticks on while a worker hangs for ever; /livez names the table all the same."""
    clock, loader = Clock(), HangingLoader()
    daemon = Daemon(
        [loader],
        Metrics(CollectorRegistry()),
        workers=2,
        poll_interval_seconds=60,
        stopping=threading.Event(),
        watchdog=Watchdog(900, 60, clock),
        replica=Replica(MemoryStore(), "me", ["raw/sales/orders/"], 60, is_gone=lambda _name: False),
    )
    daemon.start()
    try:
        assert loader.reached.wait(20)
        assert daemon.live()[0]
        clock.now += 901
        good, words = daemon.live()
        assert not good
        assert "sales/orders has made no progress for 901 s" in words
    finally:
        loader.go_on.set()
        assert daemon.drain(20) == []
