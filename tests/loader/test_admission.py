"""Memory is granted by shares of the budget: all of it may be used, nobody waits for ever, and order is kept."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest

from cdcloader.loader.admission import Admission
from cdcloader.loader.sizes import Sizes, key_cache_bytes, shares_wanted, sizes_of
from cdcloader.source.layouts import PLAIN
from cdcloader.turns import run_once

MIB = 1 << 20


def file(name, size):
    return PLAIN.parse("s/t/", name, size, "e", datetime(2026, 1, 1, tzinfo=UTC))


def admitted(loader, admission):
    """The loader, asking here for memory."""
    loader.context = replace(loader.context, admission=admission)
    return loader


def test_a_table_alone_has_the_whole_budget():
    """One table, one share: the sizes are those that the budget was measured with, in small budgets too."""
    assert sizes_of(2048, 1, 1) == Sizes(
        piece_bytes=1908 * MIB // 12,
        chunk_bytes=16 * MIB,
        fetch_bytes=1592 * MIB // 16,
        batch_bytes=1592 * MIB // 2,
        pass_bytes=1592 * MIB // 12,
    )
    assert sizes_of(256, 1, 1).piece_bytes == 116 * MIB // 12
    assert sizes_of(256, 1, 1).batch_bytes == 42 * MIB // 2


@pytest.mark.parametrize("budget_mb", [64, 256, 512, 2048, 65536])
@pytest.mark.parametrize("of", [1, 2, 4, 16])
def test_grants_add_up_to_the_budget(budget_mb, of):
    """However shares are spread, batches in hand take at most what one table alone would; pieces stay as they are."""
    whole = sizes_of(budget_mb, of, of)
    for shares in range(1, of + 1):
        mine, others = sizes_of(budget_mb, shares, of), sizes_of(budget_mb, 1, of)
        for bound in ("fetch_bytes", "batch_bytes", "pass_bytes"):
            total = getattr(mine, bound) + (of - shares) * getattr(others, bound)
            assert total <= getattr(whole, bound)
        assert (mine.piece_bytes, mine.chunk_bytes) == (others.piece_bytes, others.chunk_bytes)
        assert all(getattr(mine, field.name) > 0 for field in fields(mine))
    assert 0 < key_cache_bytes(budget_mb) <= budget_mb * MIB // 8


def test_the_wish_follows_the_files():
    """More bytes, and bytes that grow more when they are read, ask for more shares; nothing asks for one."""
    name = "20260301-120000000"
    assert shares_wanted([], MIB) == 1
    assert shares_wanted([file(f"{name}.csv", 100)], MIB) == 1
    text = shares_wanted([file(f"{name}.csv", MIB)], MIB)
    columns, packed = (shares_wanted([file(f"{name}{end}", MIB)], MIB) for end in (".parquet", ".csv.gz"))
    assert 1 < text < columns < packed
    assert shares_wanted([file(f"{name}.csv", MIB)] * 2, MIB) == 2 * text


def test_one_table_takes_what_the_others_leave():
    """A large backlog has all shares but one, which stays for the next table; a small one takes what it needs."""
    admission = Admission(2048, 4)
    with admission.grant("large", 100) as large, admission.grant("small", 1) as small:
        assert (large, small) == (3, 1)
        assert admission.granted_bytes() == 2048 * MIB
        with admission.grant("late", 1, seconds=0.05) as late:
            assert late == 0
        assert admission.waiting() == 1
    assert admission.granted_bytes() == 0
    with admission.grant("late", 100) as late:
        assert late == 3
    with Admission(2048, 1).grant("alone", 100) as alone:
        assert alone == 1


def test_nobody_takes_more_than_a_share_while_others_wait():
    """Who waits comes first: a large backlog that asks again beside waiting tables gets one share."""
    admission = Admission(2048, 4)
    with admission.grant("first", 3), admission.grant("second", 1), admission.grant("waiting", 1, seconds=0):
        pass
    with admission.grant("first", 3) as granted:
        assert granted == 1


def test_the_order_of_asking_is_kept_across_turns():
    """A table that gave its worker away is before those that came later; one that stays away holds up nobody."""
    now = [0.0]
    admission = Admission(2048, 1, clock=lambda: now[0])
    with admission.grant("holder", 1):
        for name in ("a", "b"):
            with admission.grant(name, 1, seconds=0) as granted:
                assert granted == 0
        assert admission.waiting() == 2
    got, released = [], threading.Event()

    def work(name):
        with admission.grant(name, 1, seconds=50) as granted:
            got.append((name, granted))
            released.wait(10)

    with admission.grant("c", 1, seconds=0) as c:
        assert c == 1  # Neither a nor b is here, and a share that nobody uses helps nobody.
        threads = [threading.Thread(target=work, args=[name]) for name in ("d", "b", "a")]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        assert admission.waiting() == 3
    released.set()
    for thread in threads:
        thread.join(10)
    assert got == [("a", 1), ("b", 1), ("d", 1)]
    with admission.grant("x", 1), admission.grant("gone", 1, seconds=0):
        assert admission.waiting() == 1
    now[0] += 61
    assert admission.waiting() == 0


def test_waiting_ends_when_the_process_stops():
    """A table that waits for memory does not hold up the end of the process."""
    admission, stopping = Admission(2048, 1), threading.Event()
    with admission.grant("holder", 1):
        begun = time.monotonic()
        threading.Timer(0.1, stopping.set).start()
        with admission.grant("waiting", 1, stopping=stopping.is_set, seconds=100) as granted:
            assert granted == 0
        assert time.monotonic() - begun < 20


def test_trouble_gives_the_memory_back():
    """What fails with memory in hand leaves nothing behind."""
    admission = Admission(2048, 2)
    for _ in range(5):
        with pytest.raises(ValueError, match="trouble"), admission.grant("t", 2):
            raise ValueError("trouble")
    assert admission.granted_bytes() == 0


def test_many_tables_never_take_more_than_there_is():
    """Twenty tables at eight workers, each again and again: all are served, and the budget is kept at any moment."""
    admission, served, most = Admission(1600, 4), dict.fromkeys(range(20), 0), []
    lock = threading.Lock()
    held = [0]

    def work(number):
        draw = random.Random(number)
        while served[number] < 10:
            with admission.grant(str(number), draw.randint(1, 9), seconds=0.02) as granted:
                with lock:
                    held[0] += granted
                    most.append(held[0])
                time.sleep(0.001 if granted else 0)
                served[number] += bool(granted)
                with lock:
                    held[0] -= granted

    threads = [threading.Thread(target=work, args=[number], daemon=True) for number in served]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(served.values()) == {10}
    assert max(most) == 4
    assert admission.granted_bytes() == admission.waiting() == 0


def test_a_loader_waits_for_memory_and_goes_on(world):
    """Without memory a step says that it waits, holds no lease and asks again; with memory the table is loaded."""
    admission = Admission(1024, 1, wait_seconds=0.05)
    loader = admitted(world.loader(), admission)
    world.load([{"id": 1, "name": "a"}])
    world.later(400)
    with admission.grant("somebody", 1):
        step = loader.step()
        assert (str(step.outcome), step.reason) == ("done", "waits for memory")
        assert world.record().lease_owner is None
    [ended] = run_once([loader], workers=2, stopping=threading.Event(), lease_seconds=60)
    assert str(ended.step.outcome) == "idle"
    assert world.rows() == [(1, "a")]
    assert admission.granted_bytes() == admission.waiting() == 0


def test_a_batch_works_with_what_it_was_granted(world):
    """The bounds of a batch are those of its shares, and a full load has one share, however large it is."""
    admission = Admission(1000, 4)
    seen = []
    loader = admitted(world.loader(), admission)
    context = loader.context
    name = "20260301-120000000"
    for files in ([file(f"{name}.csv", 1 << 40)], [file(f"{name}.csv", 10)], []):
        with context.admitted(files) as granted:
            seen.append((granted.settings.batch_bytes, granted.settings.piece_bytes))
    shares = [3, 1, 1]
    assert seen == [(sizes_of(1000, k, 4).batch_bytes, sizes_of(1000, 1, 4).piece_bytes) for k in shares]


def test_a_turn_that_waits_for_memory_ends_with_the_process(world):
    """SIGTERM while a table waits for memory: its turn ends, with nothing begun and no lease left behind."""
    admission, stopping = Admission(1024, 1), threading.Event()
    world.stopping = stopping.is_set
    loader = admitted(world.loader(), admission)
    world.load([{"id": 1, "name": "a"}])
    world.later(400)
    with admission.grant("somebody", 1):
        threading.Timer(0.2, stopping.set).start()
        begun = time.monotonic()
        [ended] = run_once([loader], workers=1, stopping=stopping, lease_seconds=60)
        assert time.monotonic() - begun < 20
    assert ended.error is None
    assert world.record().lease_owner is None
    assert not world.batches
