"""A table in trouble waits, looks, and goes on as soon as what was in its way has changed."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.cli.run import exit_code_of
from cdcloader.errors import ConfigError, TableError, TransientError
from cdcloader.loader import orders
from cdcloader.loader.steps import Outcome, Step
from cdcloader.loader.trouble import Pauses, pause_seconds
from cdcloader.objects import Objects
from cdcloader.state.record import NEVER, Phase
from cdcloader.turns import run_once, take_turn

PAUSES = Pauses(retry_max_seconds=300, blocked_max_seconds=900)


def turn(loader):
    return take_turn(loader, threading.Event())


def row(id_, name="x"):
    return {"id": id_, "name": name}


@pytest.fixture
def blocked(world):
    """A loaded table, and a loader that a bad file stopped; good files lie before and behind it."""
    world.load([row(1)])
    world.later()
    world.cdc([("I", row(2))])
    world.later()
    world.bad = world.put(f"{world.now:%Y%m%d-%H%M%S}000.parquet", b"no Parquet at all")
    world.bad_at = world.now
    world.later()
    world.cdc([("I", row(4))])
    world.later()
    world.loader_ = world.loader()
    assert "truncated or damaged" in turn(world.loader_).error.what
    assert [id_ for id_, _ in world.rows()] == [1, 2]
    return world


def test_the_error_names_the_file_the_reason_and_what_to_do(blocked):
    """LastErrorFile is the file's whole path; its ETag and the time of the next try stand beside it."""
    record = blocked.record()
    assert (record.phase, record.last_error_file) == (Phase.BLOCKED, str(blocked.raw / blocked.bad))
    assert record.last_error_hint
    [file] = [file for file in Objects.open(str(blocked.root / "raw")).list("s/t") if file.key.endswith(blocked.bad)]
    assert record.blocked_etag == file.etag
    assert 30 <= (record.retry_at - blocked.now).total_seconds() <= 60


def test_a_blocked_table_is_looked_at_and_not_worked_on(blocked):
    """Between two tries a poll lists and reads no raw file, counts no failure, logs nothing; the backlog stays true."""
    sample = blocked.registry.get_sample_value
    before = blocked.record()
    blocked.cdc([("I", row(5))])

    def read(*_, **__):
        raise AssertionError("a raw file was read")

    blocked.loader_.context.raw.read = blocked.loader_.context.raw.open_reader = read
    with structlog.testing.capture_logs() as lines:
        ended = turn(blocked.loader_)
    assert (ended.step.outcome, ended.error, lines) == (Outcome.HELD, None, [])
    assert blocked.record() == before
    assert blocked.loader_.status(look=False)["backlog_files"] == 3
    assert sample("cdcloader_backlog_files", {"table": "s/t"}) == 3
    assert sample("cdcloader_table_phase", {"table": "s/t", "phase": "blocked"}) == 1
    assert sample("cdcloader_consecutive_failures", {"table": "s/t"}) == 1


@pytest.mark.parametrize("how", ["replaced", "removed", "resumed", "skipped", "watermark", "reload"])
def test_what_was_in_the_way_has_changed(blocked, how):
    """The next poll of the same process goes on at once: the file is another or gone, or an operator has acted."""
    context = blocked.loader_.context
    if how in ("replaced", "resumed"):
        blocked.cdc([("I", row(3))], at=blocked.bad_at, visible=blocked.now)
    if how == "removed":
        (blocked.raw / blocked.bad).unlink()
    if how == "resumed":
        blocked.loader_._attempts._hold = replace(blocked.loader_._attempts._hold, file=None)
        assert turn(blocked.loader_).step.outcome is Outcome.HELD
        orders.resume(context, blocked.store)
    if how == "skipped":
        orders.skip(context, blocked.store, blocked.bad)
    record = blocked.record()
    if how == "watermark":
        blocked.store.update(record, replace(record, last_incremental_file=record.path + blocked.bad))
    if how == "reload":
        (blocked.raw / blocked.bad).unlink()
        blocked.store.update(record, replace(record, last_full_load_date=NEVER))
    ended = turn(blocked.loader_)
    assert (ended.error, ended.step.outcome) == (None, Outcome.IDLE)
    assert [id_ for id_, _ in blocked.rows()] == ([1, 2, 3, 4] if how in ("replaced", "resumed") else [1, 2, 4])
    after = blocked.record()
    assert (after.phase, after.last_error, after.consecutive_failures) == (Phase.STREAMING, None, 0)
    assert (after.blocked_etag, after.retry_at) == (None, None)


def test_a_file_that_is_replaced_by_another_bad_one_blocks_anew(blocked):
    """The new file is tried at once, and its pauses begin at the shortest again."""
    for _ in range(3):
        blocked.later(1000)
        assert turn(blocked.loader_).error
    assert blocked.loader_.held_seconds > 240
    blocked.put(blocked.bad, b"bad in another way")
    assert turn(blocked.loader_).error
    assert blocked.loader_.held_seconds <= 60
    assert turn(blocked.loader_).step.outcome is Outcome.HELD


def test_a_step_that_changes_nothing_is_no_success(blocked):
    """Pauses go on growing where a race was lost before each failure: only a commit or an idle table ends trouble."""
    loader, work = blocked.loader_, blocked.loader_._work
    raced = [False]

    def race_first(record, plan):
        raced[0] = not raced[0]
        return Step(Outcome.DONE, "the state record changed; planning again") if raced[0] else work(record, plan)

    loader._work = race_first
    for failures in (2, 3, 4):
        blocked.later(1000)
        assert turn(loader).failures == failures
    assert loader.held_seconds >= 240


def test_the_slow_retry_finds_what_nobody_told(blocked):
    """A cause that leaves no trace, such as a permission, is found mended after the pause."""
    raw = blocked.loader_.context.raw
    read, blocked.mended = raw.read, False
    blocked.cdc([("I", row(3))], at=blocked.bad_at, visible=blocked.now)
    blocked.later(1000)

    def refuse(key, **options):
        if key.endswith(blocked.bad) and not blocked.mended:
            raise TransientError("not for now", where=raw.path_of(key))
        return read(key, **options)

    raw.read = refuse
    assert turn(blocked.loader_).retriable
    blocked.mended = True
    assert turn(blocked.loader_).step.outcome is Outcome.HELD
    blocked.later(300)
    assert turn(blocked.loader_).step.outcome is Outcome.IDLE
    assert [id_ for id_, _ in blocked.rows()] == [1, 2, 3, 4]


def test_a_new_process_tries_at_once(blocked):
    """A restart waits for nothing, whatever the pause of the process before it was."""
    loader = blocked.loader()
    assert turn(loader).error
    blocked.cdc([("I", row(3))], at=blocked.bad_at, visible=blocked.now)
    assert turn(blocked.loader()).step.outcome is Outcome.IDLE


def test_a_changed_config_unblocks(world):
    """A table that its config blocks goes on in the process that has the mended config."""
    world.load([row(1)])
    world.later(400)
    good = world.table
    world.table = good.model_copy(update={"primary_key": ("nope",)})
    assert "key column 'nope' is missing" in turn(world.loader()).error.what
    assert world.record().phase is Phase.BLOCKED
    world.table = good
    assert turn(world.loader()).step.outcome is Outcome.IDLE
    assert (world.rows(), world.record().phase) == ([(1, "x")], Phase.STREAMING)


def test_a_source_that_appears_is_loaded_at_the_next_poll(world):
    """What the look itself complained about is looked at again each time, without a failure each time."""
    loader = world.loader()
    assert "no files of this source" in turn(loader).error.what
    assert turn(loader).step.outcome is Outcome.HELD
    assert world.record().consecutive_failures == 1
    world.cdc([("I", row(1))])
    assert turn(loader).step.outcome is Outcome.IDLE
    assert world.rows() == [(1, "x")]


def test_an_order_during_an_attempt_is_not_lost(blocked):
    """The operator resumes while a try that is about to fail is under way: the next poll tries again."""
    blocked.later(1000)
    loader, apply = blocked.loader_, blocked.loader_._apply

    def resumed_meanwhile(*arguments, **options):
        orders.resume(loader.context, blocked.store)
        loader._apply = apply
        return apply(*arguments, **options)

    loader._apply = resumed_meanwhile
    assert turn(loader).error
    assert loader.held_seconds == 0
    blocked.cdc([("I", row(3))], at=blocked.bad_at, visible=blocked.now)
    assert turn(loader).step.outcome is Outcome.IDLE


def test_a_failing_listing_is_not_repeated_before_its_time(world):
    """While the source cannot be listed for passing reasons, nothing is listed until the pause is over."""
    world.load([row(1)])
    world.later(400)
    loader = world.loader()
    listed, asked = loader.context.raw.list, []

    def throttled(*arguments, **options):
        asked.append(arguments)
        raise TransientError("SlowDown")

    loader.context.raw.list = throttled
    ended = turn(loader)
    assert (ended.retriable, len(asked)) == (True, 1)
    assert ended.pause_seconds < 2
    assert world.record().phase is Phase.RETRYING
    loader._attempts._hold = replace(loader._attempts._hold, due=world.now.timestamp() + 1)
    assert (turn(loader).step.outcome, len(asked)) == (Outcome.HELD, 1)
    loader.context.raw.list = listed
    world.later(2)
    assert turn(loader).step.outcome is Outcome.IDLE
    assert world.record().consecutive_failures == 0


@pytest.fixture
def hasty(world):
    """Makes loaders that go by the real clock, with pauses of milliseconds."""

    def make(store=None):
        loader = world.loader(store=store)
        settings = replace(loader.context.settings, pauses=Pauses(0.01, 0.01))
        loader._attempts._context = replace(loader.context, settings=settings)
        loader._attempts._clock = time.monotonic
        return loader

    return make


def test_a_single_run_waits_for_a_lease_that_it_meets_late(world):
    """A dead loader's lease is waited for from the first look on, however long the tables before it took."""
    world.load([{"id": 1, "name": "x"}])
    world.later(400)
    assert world.loader("left").step().outcome is Outcome.DONE
    world.cdc([("I", {"id": 2, "name": "x"})])
    world.later()
    world.lease_seconds, world.clock = 0.1, time.monotonic
    idle = Step(Outcome.IDLE)
    slow = SimpleNamespace(
        source="slow", step=lambda: time.sleep(0.5) or idle, tidy=lambda: False, release=lambda: None, held_seconds=0.0
    )
    ended = run_once([slow, world.loader()], workers=1, stopping=threading.Event(), lease_seconds=0.1)
    assert [each.step.outcome for each in ended] == [Outcome.IDLE, Outcome.IDLE]


def once(*loaders):
    return run_once(loaders, workers=1, stopping=threading.Event(), lease_seconds=60)


class Refusing:
    """A store that refuses so many reads."""

    def __init__(self, store, error, times):
        self._store, self._error, self._left = store, error, times

    def __getattr__(self, name):
        return getattr(self._store, name)

    def get(self, path):
        self._left -= 1
        if self._left >= 0:
            raise self._error
        return self._store.get(path)


def test_a_single_run_retries_what_passes_and_only_that(world, hasty):
    """`run --once` outlasts passing trouble, gives up after some tries, and tries a blocked table once."""
    world.load([row(1)])
    world.later(400)
    [ended] = once(hasty(Refusing(world.store, TransientError("throttled"), 5)))
    assert (ended.error, ended.step.outcome, exit_code_of([ended])) == (None, Outcome.IDLE, 0)
    [ended] = once(hasty(Refusing(world.store, TransientError("throttled"), 10**6)))
    assert (ended.retriable, exit_code_of([ended])) == (True, 1)
    world.put("20260301-130000000.parquet", b"no Parquet at all")
    [ended] = once(hasty())
    assert (ended.retriable, exit_code_of([ended])) == (False, 1)
    assert world.record().consecutive_failures == 1


def test_what_fails_while_trouble_is_told_does_not_end_the_loader(world):
    """A store that raises what nobody foresaw, even when it is told of it: the turn ends, and the next one begins."""
    world.load([row(1)])
    world.later(400)
    store = Refusing(world.store, RuntimeError("nobody foresaw this"), 3)
    loader = world.loader(store=store)
    ended = turn(loader)
    assert ("bug" in ended.error.hint, ended.failures) == (True, 1)
    for _ in range(3):
        world.later(1000)
        ended = turn(loader)
    assert ended.step.outcome is Outcome.IDLE


def test_a_panic_of_native_code_blocks_its_table(world):
    """A library's panic is no `Exception` of Python; it stops one table all the same, not a thread or the process."""
    loader = world.loader()

    def panic():
        raise pl.exceptions.PanicException("PyObject pointer is null")

    loader.step = panic
    ended = turn(loader)
    assert ("bug" in ended.error.hint, ended.retriable, world.record()) == (True, False, None)
    loader = world.loader()
    world.load([row(1)])
    world.later(400)
    assert turn(loader).step.outcome is Outcome.IDLE
    loader.tidy = panic
    world.cdc([("I", row(2))])
    assert turn(loader).step.outcome is Outcome.IDLE


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_ends_the_process_is_not_held_up(world, error):
    """What says that the process shall end is not taken for trouble of a table."""
    loader = world.loader()

    def end():
        raise error

    loader.step = end
    with pytest.raises(error):
        turn(loader)
    assert world.record() is None


def test_a_state_that_refuses_us_is_exit_code_2(world, hasty):
    """What is wrong is the config or the permissions of the process, not one table."""
    [ended] = once(hasty(Refusing(world.store, ConfigError("access denied"), 10**6)))
    assert exit_code_of([ended]) == 2


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.sampled_from([Phase.RETRYING, Phase.BLOCKED]))
def test_pauses_grow_to_their_cap_and_never_above(attempts, draw, phase):
    """Passing trouble waits from nothing to the doubled time, a blocked table at least half of it; both are capped."""
    pause = pause_seconds(phase, attempts, PAUSES, draw)
    first, cap = (60, 900) if phase is Phase.BLOCKED else (2, 300)
    longest = min(first * 2.0 ** min(attempts - 1, 20), cap)
    assert (longest / 2 if phase is Phase.BLOCKED else 0) <= pause <= longest
    assert pause_seconds(phase, attempts + 1, PAUSES, draw) >= pause


def test_the_first_pause_after_passing_trouble_is_about_a_second():
    """So that a single lost request costs no poll."""
    assert pause_seconds(Phase.RETRYING, 1, PAUSES, 0.5) == 1.0


def test_the_record_keeps_no_secret_of_a_place(world):
    """What is in the way may be a server, by a URL with a password; more people read the record than the log."""
    world.load([row(1)])
    loader = world.loader()
    turn(loader)
    loader.failed(TableError("refused", where="s3://b/lake at http://user:hunter2@minio:9000"), Phase.BLOCKED)
    assert "hunter2" not in str(world.record())
    assert "minio:9000" in world.record().last_error_file
