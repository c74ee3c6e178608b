"""Upkeep on real tables: whatever is tidied, whoever interferes, the table is what its history says."""

import itertools
import os
import random
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import chdb
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder
from duckdb_extensions import import_extension

from cdcloader.changes.schema import Field, to_json
from cdcloader.errors import TransientError
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.snapshot import Snapshot
from cdcloader.lake.upkeep import describe, downgrade
from cdcloader.loader import upkeep
from cdcloader.loader.steps import Outcome
from cdcloader.turns import run_once, take_turn

COLUMNS = (("id", "long"), ("part", "string"), ("name", "string"))


def row(id_, version=0):
    """A row that does not compress to nothing, so that bytes tell rows."""
    return {"id": id_, "part": "ab"[id_ % 2], "name": random.Random(f"{id_} {version}").randbytes(60).hex()}


@pytest.fixture
def big_rows(make_world):
    """Makes worlds whose files aim at 40 kB, which some hundred rows fill."""

    def make(**table):
        world = make_world(columns=COLUMNS, **table)
        world.file_bytes = 40_000
        return world

    return make


def up_to_date(world, loader):
    for _ in range(50):
        if loader.step().outcome is Outcome.IDLE:
            return
        world.later(1)
    raise AssertionError("the loader finds no end")


def tidy(world, loader=None):
    """Load what is there and tidy until nothing is left to do; returns the kinds of the commits."""
    loader = loader or world.loader()
    up_to_date(world, loader)
    first = DeltaLog(world.lake, "s/t").snapshot().version + 1
    for _ in range(20):
        loader.tidy()
        record = world.record()
        if record.tidied_version == record.recorded_version:
            break
    else:
        raise AssertionError("upkeep finds no end")
    loader.release()
    return kinds(world, first)


def kinds(world, first=0):
    log = DeltaLog(world.lake, "s/t")
    last = log.snapshot().version
    return Counter(info["upkeep"] for _, info in log.infos(first, last) if "upkeep" in info)


def files_of(world):
    return list(DeltaLog(world.lake, "s/t").snapshot().files.values())


@pytest.fixture(scope="module")
def duck():
    import_extension("delta")
    connection = duckdb.connect()
    connection.execute("LOAD delta")
    return connection


def seen_by_all(world, duck):
    """The rows, which DuckDB, Polars and delta-rs must agree upon."""
    names = [name for name, _ in world.columns]
    frames = [
        duck.execute(f"SELECT * FROM delta_scan('{world.path}')").pl(),
        pl.read_delta(world.path),
        pl.concat(
            [
                pl.DataFrame(batch)
                for batch in QueryBuilder().register("t", DeltaTable(world.path)).execute("select * from t")
            ]
        ),
    ]
    first, *others = [sorted(frame.select(names).rows()) for frame in frames]
    assert all(other == first for other in others)
    return first


@pytest.fixture(scope="module")
def _clickhouse_sees_every_folder():
    """ClickHouse reads local files below the folder in which it starts."""
    before = Path.cwd()
    os.chdir("/")
    chdb.query("SELECT 1")
    yield
    os.chdir(before)


def by_clickhouse(world):
    query = f"SELECT id, part, name FROM deltaLakeLocal('{world.path}')"
    settings = " SETTINGS output_format_parquet_string_as_string = 1"
    return sorted(pl.read_parquet(chdb.query(query + settings, "Parquet").bytes()).rows())


def wanted(model):
    return sorted(tuple(row.values()) for row in model.values())


def load(world, model, ids):
    """A full load, and time enough for it to count as complete."""
    model.update({n: row(n) for n in ids})
    world.load([row(n) for n in ids])
    world.later(400)
    world.run()


def change(world, model, changes):
    """One CDC file of (op, id, version) and its effect."""
    world.cdc([(op, row(n, version)) for op, n, version in changes])
    world.later()
    for op, n, version in changes:
        if op == "D":
            model.pop(n, None)
        else:
            model[n] = row(n, version)


@pytest.mark.parametrize("mode", ["auto", "merge_on_read", "copy_on_write"])
@pytest.mark.parametrize(
    ("key", "partition_by"),
    [(("id",), ()), (("name", "id"), ()), (("part", "id"), ()), (("id",), ("part",)), (("part", "id"), ("part",))],
)
def test_a_tidied_table_is_what_its_history_says(big_rows, duck, mode, key, partition_by):
    """Scattered and recent changes with upkeep in between: after each turn every reader sees what a dict holds."""
    choose = random.Random(f"{mode} {key}")
    world, model = big_rows(key=key, partition_by=partition_by, write_mode=mode), {}
    load(world, model, range(0, 3_000, 2))
    loader, done = world.loader(), Counter()
    for number in range(8):
        last = max(model)
        if key == ("name", "id"):
            # The name is part of the key, so a change of it would be another row.
            changes = [(choose.choice("UD"), n, 0) for n in choose.sample(sorted(model), 60)]
        else:
            changes = [(choose.choice("UUID"), choose.randrange(last), number) for _ in range(120)]
        changes += [("I", last + 1 + n, 0) for n in range(choose.choice([0, 30, 200]))]
        change(world, model, changes)
        done += tidy(world, loader)
        assert seen_by_all(world, duck) == wanted(model)
        if choose.random() < 0.3:
            choose.choice([DeltaTable(world.path).optimize.compact, DeltaTable(world.path).create_checkpoint])()
    tidy(world, loader)
    live = sum(file.size for file in files_of(world))
    assert len(files_of(world)) <= 2 * (live / world.file_bytes + 2 * (1 + bool(partition_by)))
    if mode == "copy_on_write":
        assert not any(file.vector for file in files_of(world))
    else:
        assert done["merge"] + done["settle"] + done["fold"] > 0


def test_each_kind_of_job_happens(big_rows, duck):
    """Small neighbours are merged, dead rows folded away, heavy overlays settle, and a purge ends the vectors."""
    world, model = big_rows(write_mode="merge_on_read"), {}
    load(world, model, range(0, 6_000, 2))
    done = Counter()
    for start in range(0, 600, 60):
        change(world, model, [("I", 6_000 + start + n, 0) for n in range(60)])
        world.run()
    done += tidy(world)
    for number in range(4):
        change(world, model, [("U", n, 1) for n in range(2 * number, 6_000, 20)])
        done += tidy(world)
        assert seen_by_all(world, duck) == wanted(model)
    change(world, model, [("D", n, 0) for n in range(0, 500, 2)])
    done += tidy(world)
    change(world, model, [("U", n, 2) for n in range(0, 6_000, 500)])
    world.table = world.table.model_copy(update={"write_mode": "copy_on_write"})
    done += tidy(world)
    assert {kind for kind, count in done.items() if count} == {"merge", "settle", "fold", "purge", "downgrade"}
    assert seen_by_all(world, duck) == wanted(model)


@pytest.mark.usefixtures("_clickhouse_sees_every_folder")
def test_switching_the_write_mode_both_ways(big_rows, duck):
    """To copy_on_write: upkeep purges the vectors, and the protocol is the lowest again; back again: they return."""
    world, model = big_rows(write_mode="merge_on_read"), {}
    load(world, model, range(2_000))
    change(world, model, [("U", n, 1) for n in range(0, 2_000, 100)])
    tidy(world)
    assert any(file.vector for file in files_of(world))
    world.table = world.table.model_copy(update={"write_mode": "copy_on_write"})
    assert tidy(world)["downgrade"] == 1
    snapshot = DeltaLog(world.lake, "s/t").snapshot()
    assert snapshot.protocol == {"minReaderVersion": 1, "minWriterVersion": 2}
    assert not any(file.vector for file in snapshot.files.values())
    assert (world.root / f"lake/s/t/_delta_log/{snapshot.version:020d}.checkpoint.parquet").exists()
    assert DeltaTable(world.path).to_pyarrow_table().num_rows == len(model)
    assert by_clickhouse(world) == wanted(model)
    assert seen_by_all(world, duck) == wanted(model)
    assert not tidy(world)
    world.table = world.table.model_copy(update={"write_mode": "merge_on_read"})
    change(world, model, [("U", n, 2) for n in range(50, 2_000, 100)])
    world.run()
    assert any(file.vector for file in files_of(world))
    tidy(world)
    assert seen_by_all(world, duck) == wanted(model)


def test_files_have_key_ranges_of_their_own_after_a_merge(big_rows):
    """Files that follow one another are merged to files that do, each in key order and with statistics."""
    world, model = big_rows(), {}
    load(world, model, range(100))
    for start in range(100, 2_000, 100):
        change(world, model, [("I", start + n, 0) for n in range(100)])
        world.run()
    tidy(world)
    target = world.loader().context.target(DeltaLog(world.lake, "s/t").snapshot().schema(""))
    described = sorted((describe(target, file) for file in files_of(world)), key=lambda live: live.low)
    assert all(a.high < b.low for a, b in itertools.pairwise(described))
    for file in files_of(world):
        assert pl.read_parquet(f"{world.path}/{file.path}")["id"].is_sorted()


def test_a_second_turn_finds_nothing_and_asks_nothing(big_rows, monkeypatch):
    """A table that was tidied is known to be tidy by its state record, in this process and in the next."""
    world, model = big_rows(), {}
    load(world, model, range(500))
    change(world, model, [("U", 7, 1)])
    loader = world.loader()
    tidy(world, loader)
    record = world.record()
    monkeypatch.setattr(DeltaLog, "snapshot", lambda *_: pytest.fail("the log was read"))
    for each in (loader, world.loader()):
        up_to_date(world, each)
        assert each.tidy() is False
        each.release()
    assert world.record() == record


def test_once_a_day_the_table_is_looked_at_again(big_rows):
    """Small files that another writer left are merged within a day, though nothing new has come."""
    world, model = big_rows(), {}
    load(world, model, range(500))
    tidy(world)
    for start in range(1000, 2000, 100):
        pl.DataFrame([row(start + n) for n in range(100)]).write_delta(world.path, mode="append")
        model.update({start + n: row(start + n) for n in range(100)})
    loader = world.loader()
    up_to_date(world, loader)
    loader.tidy()
    assert not kinds(world)
    world.later(86_400)
    assert tidy(world, loader)["merge"]
    assert world.rows() == wanted(model)


def test_a_kill_between_writing_and_committing_leaves_the_table_as_it_was(big_rows, monkeypatch, duck):
    """Files without a commit are nobody's: the next process tidies as if nothing had been."""
    world, model = big_rows(write_mode="merge_on_read"), {}
    load(world, model, range(0, 3_000, 2))
    for number in range(4):
        change(world, model, [("U", n, number + 1) for n in range(2 * number, 3_000, 20)])
    loader = world.loader()
    up_to_date(world, loader)
    monkeypatch.setattr(upkeep.Upkeep, "_commit", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        loader.tidy()
    monkeypatch.undo()
    assert seen_by_all(world, duck) == wanted(model)
    heir = world.loader("heir")
    up_to_date(world, heir)
    heir.tidy()
    world.later(120)  # The lease of the dead process has stood still for as long as it lasts.
    assert tidy(world, heir)
    assert seen_by_all(world, duck) == wanted(model)


@pytest.mark.parametrize("foreign", ["append", "optimize", "delete"])
def test_a_foreign_commit_in_between_wins(big_rows, monkeypatch, duck, foreign):
    """Another writer commits while a job works: the job is dropped with its files, and a later turn plans anew."""
    world, model = big_rows(), {}
    load(world, model, range(100))
    for start in range(100, 1_500, 100):
        change(world, model, [("I", start + n, 0) for n in range(100)])
        world.run()
    work = upkeep.carry_out

    def interfere(*args, **kwargs):
        written = work(*args, **kwargs)
        monkeypatch.undo()
        if foreign == "append":
            pl.DataFrame([row(9_999)]).write_delta(world.path, mode="append")
            model[9_999] = row(9_999)
        elif foreign == "delete":
            DeltaTable(world.path).delete("id < 50")
            for n in range(50):
                del model[n]
        else:
            DeltaTable(world.path).optimize.compact()
        interfere.files = [world.root / "lake/s/t" / file.path for file in written.new]
        return written

    monkeypatch.setattr(upkeep, "carry_out", interfere)
    loader = world.loader()
    up_to_date(world, loader)
    assert loader.tidy() is False
    assert interfere.files
    assert not any(path.exists() for path in interfere.files)
    assert not kinds(world)
    assert seen_by_all(world, duck) == wanted(model)
    tidy(world, loader)
    assert seen_by_all(world, duck) == wanted(model)


def test_the_time_of_a_turn_is_bounded(big_rows, monkeypatch):
    """No job begins after the time is up; the next turn goes on, and the record says that it has to."""
    world, model = big_rows(partition_by=("part",)), {}
    load(world, model, range(200))
    for start in range(200, 4_000, 200):
        change(world, model, [("I", start + n, 0) for n in range(200)])
        world.run()
    clock = [0.0]
    work = upkeep.carry_out
    monkeypatch.setattr(upkeep, "carry_out", lambda *a, **k: (clock.__setitem__(0, clock[0] + 6), work(*a, **k))[1])
    loader = world.loader()
    loader._upkeep._clock = lambda: clock[0]
    up_to_date(world, loader)
    loader.tidy()
    assert sum(kinds(world).values()) == 2  # Of 6 s each: the second begins before the 10 s are over.
    record = world.record()
    assert record.tidied_version != record.recorded_version == DeltaLog(world.lake, "s/t").snapshot().version
    monkeypatch.undo()
    assert tidy(world, loader)
    assert world.rows() == wanted(model)


def test_new_data_goes_first(big_rows, monkeypatch):
    """A file that arrives while a job works ends the turn after that job, and the table is stepped again at once."""
    world, model = big_rows(partition_by=("part",)), {}
    load(world, model, range(200))
    for start in range(200, 4_000, 200):
        change(world, model, [("I", start + n, 0) for n in range(200)])
        world.run()
    work = upkeep.carry_out

    def arriving(*args, **kwargs):
        if not arriving.came:
            arriving.came = True
            change(world, model, [("U", 1, 5)])
        return work(*args, **kwargs)

    arriving.came = False
    monkeypatch.setattr(upkeep, "carry_out", arriving)
    loader = world.loader()
    up_to_date(world, loader)
    assert loader.tidy() is True
    assert sum(kinds(world).values()) == 1
    up_to_date(world, loader)
    assert world.rows() == wanted(model)


def test_a_file_out_of_order_is_sorted_and_one_without_order_is_left_alone(big_rows, duck):
    """What another writer appended in any order joins the key order; NULLs in the key have no place in it."""
    world, model = big_rows(), {}
    load(world, model, range(1_000))
    shuffled = random.Random(3).sample(range(1_000, 2_000), 1_000)
    for start in range(0, 1_000, 250):
        pl.DataFrame([row(n) for n in shuffled[start : start + 250]]).write_delta(world.path, mode="append")
    model.update({n: row(n) for n in shuffled})
    nulls = pl.DataFrame([{**row(1), "id": None}], schema={"id": pl.Int64, "part": pl.String, "name": pl.String})
    for _ in range(30):
        nulls.write_delta(world.path, mode="append")
    change(world, model, [("I", 5_000, 0)])
    tidy(world)
    rows = seen_by_all_with_nulls(world, duck)
    assert rows == (30, wanted(model))


def seen_by_all_with_nulls(world, duck):
    found = duck.execute(f"SELECT id, part, name FROM delta_scan('{world.path}')").fetchall()
    assert sorted(pl.read_delta(world.path).select("id", "part", "name").rows(), key=str) == sorted(found, key=str)
    return sum(each[0] is None for each in found), sorted(each for each in found if each[0] is not None)


def test_trouble_of_upkeep_does_not_stop_the_table(big_rows, monkeypatch):
    """A job that fails is told; the table goes on being loaded, and upkeep rests before it tries again."""
    world, model = big_rows(), {}
    load(world, model, range(100))
    for start in range(100, 1_000, 100):
        change(world, model, [("I", start + n, 0) for n in range(100)])
        world.run()
    tried = []

    def failing(*_args, **_kwargs):
        tried.append(1)
        raise TransientError("the disk is full", where="s/t")

    monkeypatch.setattr(upkeep, "carry_out", failing)
    loader = world.loader()
    for number in range(3):
        change(world, model, [("U", 5, number)])
        up_to_date(world, loader)
        assert loader.tidy() is False
    assert len(tried) == 1
    assert world.record().last_error is None
    assert world.rows() == wanted(model)
    monkeypatch.undo()
    world.later(1_000)
    assert tidy(world, loader)


def test_a_commit_of_upkeep_moves_no_watermark(big_rows):
    """A record that is behind is brought forward over commits of upkeep, and is none the wiser for them."""
    world, model = big_rows(), {}
    load(world, model, range(100))
    before = world.record()
    for start in range(100, 1_000, 100):
        change(world, model, [("I", start + n, 0) for n in range(100)])
        world.run()
    tidy(world)
    done = world.record()
    world.store.update(done, replace(before, lease_epoch=done.lease_epoch))
    change(world, model, [("U", 5, 7)])
    world.run()
    assert world.rows() == wanted(model)
    assert world.record().rows_inserted == done.rows_inserted


def test_a_table_without_a_key_is_merged_too(make_world, duck):
    """Insert-only tables: small files become few, with every row once."""
    world = make_world(columns=COLUMNS, key=None)
    world.file_bytes = 40_000
    model = {}
    load(world, model, range(100))
    for start in range(100, 2_000, 100):
        change(world, model, [("I", start + n, 0) for n in range(100)])
        world.run()
    before = len(files_of(world))
    tidy(world)
    assert len(files_of(world)) < before or before <= 4
    assert seen_by_all(world, duck) == wanted(model)


def grown(world):
    """A table of many small files, up to date and in need of upkeep; returns its rows."""
    model = {}
    load(world, model, range(100))
    for start in range(100, 1_500, 100):
        change(world, model, [("I", start + n, 0) for n in range(100)])
        world.run()
    return model


def test_a_run_leaves_a_tidy_table(big_rows):
    """`run --once` tidies a table when it has loaded everything, so that a backfill leaves few files."""
    world = big_rows()
    model = grown(world)
    loader = world.loader()
    (ended,) = run_once([loader], workers=1, stopping=threading.Event(), lease_seconds=60)
    assert (ended.error, ended.step.outcome) == (None, Outcome.IDLE)
    assert kinds(world)["merge"]
    assert world.record().lease_owner is None
    assert world.record().swept_at == world.now
    assert world.rows() == wanted(model)


def test_upkeep_leaves_workers_for_new_data(big_rows):
    """Where as many tables are being tidied as may be, a table's turn ends without upkeep, which comes later."""
    world = big_rows()
    grown(world)
    loader, room = world.loader(), threading.Semaphore(1)
    room.acquire()
    assert take_turn(loader, threading.Event(), tidying=room).error is None
    assert not kinds(world)
    room.release()
    take_turn(loader, threading.Event(), tidying=room)
    assert kinds(world)


def test_a_bug_in_upkeep_does_not_block_the_table(big_rows, monkeypatch):
    """What nobody foresaw is told and ends the turn; the table is no less up to date for it."""
    world = big_rows()
    grown(world)
    monkeypatch.setattr(upkeep, "carry_out", lambda *_a, **_k: 1 // 0)
    ended = take_turn(world.loader(), threading.Event())
    assert (ended.error, ended.step.outcome) == (None, Outcome.IDLE)
    assert world.record().last_error is None


def test_upkeep_is_off_when_it_has_no_time(big_rows):
    """`upkeep: {seconds: 0}`: nothing is looked at and nothing is written."""
    world = big_rows()
    grown(world)
    loader = world.loader()
    loader._upkeep._context = replace(loader.context, settings=replace(loader.context.settings, upkeep_seconds=0))
    take_turn(loader, threading.Event())
    assert not kinds(world)


@pytest.mark.parametrize(
    ("features", "column", "lowest"),
    [
        ((["deletionVectors"], ["deletionVectors", "appendOnly", "invariants"]), "long", (1, 2, None, None)),
        ((["deletionVectors", "variantType"], ["deletionVectors", "variantType"]), "timestamp", (1, 2, None, None)),
        (
            (["deletionVectors", "timestampNtz"], ["deletionVectors", "timestampNtz"]),
            "timestamp_ntz",
            (3, 7, ["timestampNtz"], ["appendOnly", "invariants", "timestampNtz"]),
        ),
        (
            (["deletionVectors"], ["deletionVectors", "domainMetadata"]),
            "long",
            (1, 7, None, ["appendOnly", "invariants", "domainMetadata"]),
        ),
    ],
)
def test_the_protocol_without_vectors_is_the_lowest(features, column, lowest):
    """What the table still needs stays: naive timestamps, and features that it may use without our knowing."""
    readers, writers = features
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": readers, "writerFeatures": writers}
    metadata = {
        "schemaString": to_json((Field("a", column),)),
        "configuration": {"delta.enableDeletionVectors": "true"},
    }
    snapshot = Snapshot(5, protocol, metadata)
    first, second = downgrade(snapshot, snapshot.schema(""))
    names = ("minReaderVersion", "minWriterVersion", "readerFeatures", "writerFeatures")
    assert tuple(first["protocol"].get(name) for name in names) == lowest
    assert second["metaData"]["configuration"] == {"delta.enableDeletionVectors": "false"}
    assert not downgrade(Snapshot(6, first["protocol"], second["metaData"]), snapshot.schema(""))
