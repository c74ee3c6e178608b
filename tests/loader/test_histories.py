"""Random histories over random schemas and keys: the loader's table equals a plain dict, for every reader."""

import itertools
from datetime import date
from decimal import Decimal

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder
from duckdb_extensions import import_extension
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.changes.net import FILE, OP, ROW, net_changes
from cdcloader.changes.schema import polars_type
from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.loader.steps import Outcome

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
KEYS = {
    "long": st.integers(-8, 8),
    "string": st.sampled_from(
        ["a", "A", "b b", "ü", '"q"', "x,y", "line\nbreak", "0f8fad5b-d9cb-469f-a165-70867728950e"]
    ),
    "date": st.dates(date(2024, 1, 1), date(2024, 1, 9)),
    "decimal(10,2)": st.decimals(Decimal(-1), Decimal(1), places=1),
}
VALUES = {
    "long": st.integers(-(2**63), 2**63 - 1),
    "short": st.integers(-(2**15), 2**15 - 1),
    "string": TEXT,
    "boolean": st.booleans(),
    "date": st.dates(date(1600, 1, 1)),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "decimal(18,4)": st.decimals(Decimal(-99999999), Decimal(99999999), places=4),
}
DMS = st.sampled_from(
    [
        DmsSettings(format="parquet", include_op_for_full_load=True),
        DmsSettings(format="parquet", timestamp_column="dms_timestamp"),
        DmsSettings(format="csv", header=True),
        DmsSettings(format="csv", gzip=True, include_op_for_full_load=True),
        DmsSettings(format="csv", header=True, gzip=True, timestamp_column="DMS_TIMESTAMP"),
    ]
)


@st.composite
def histories(draw):
    """(columns, key, partition_by, DMS settings, LOAD rows, CDC files as lists of (op, row))."""
    kinds = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3))
    columns = [(f"k{n}", kind) for n, kind in enumerate(kinds)]
    columns += [
        (f"v{n}", kind)
        for n, kind in enumerate(draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4)))
    ]
    values = {name: KEYS[kind] if name[0] == "k" else st.none() | VALUES[kind] for name, kind in columns}
    partition = draw(st.booleans())
    if partition:
        columns.append(("part", "string"))
        values["part"] = st.sampled_from(["p", "q r", "é/=", None])
    row = st.fixed_dictionaries(values)
    key = tuple(name for name, _ in columns if name[0] == "k")
    load = draw(st.lists(row, max_size=12, unique_by=lambda r: tuple(r[k] for k in key)))
    files = draw(st.lists(st.lists(st.tuples(st.sampled_from("IUD"), row), max_size=12), min_size=1, max_size=8))
    return tuple(columns), key, ("part",) if partition else (), draw(DMS), load, files


def fold(key, load, files):
    """The plain oracle: one change after the other."""
    model = {tuple(row[k] for k in key): row for row in load}
    for changes in files:
        for op, row in changes:
            if op == "D":
                model.pop(tuple(row[k] for k in key), None)
            else:
                model[tuple(row[k] for k in key)] = row
    return [model[k] for k in sorted(model)]


@pytest.fixture(scope="module")
def duck():
    import_extension("delta")
    connection = duckdb.connect()
    connection.execute("LOAD delta")
    return connection


def readers(duck, path):
    """The table as each of them sees it; None where there is nothing to see."""
    if not DeltaTable.is_deltatable(path):
        yield None
        return
    yield duck.execute(f"SELECT * FROM delta_scan('{path}')").pl()
    yield pl.read_delta(path)
    batches = list(QueryBuilder().register("t", DeltaTable(path)).execute("select * from t"))
    yield pl.concat([pl.DataFrame(batch) for batch in batches]) if batches else None


def replay(world, load, files, steps):
    """Write the history, letting the loader run after the files whose numbers are in `steps`."""
    if load:
        world.load(load)
        world.later()
    for number, changes in enumerate(files):
        world.cdc(changes)
        world.later()
        if number in steps:
            world.run()
    assert world.run().outcome is Outcome.IDLE
    return world


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_table_equals_a_dict_to_every_reader(world_class, tmp_path_factory, duck, data):
    """Random schema, key, format and history, applied in random steps: three readers see what a dict holds."""
    columns, key, partition_by, dms, load, files = data.draw(histories())
    steps = data.draw(st.sets(st.integers(0, 8)))
    world = world_class(tmp_path_factory.mktemp("w"), columns=columns, key=key, dms=dms, partition_by=partition_by)
    replay(world, load, files, steps)
    wanted = fold(key, load, files)
    for frame in readers(duck, world.path):
        if frame is None:
            assert not wanted
            continue
        typed = frame.select(pl.col(name).cast(polars_type(kind)) for name, kind in columns)
        assert sorted(typed.to_dicts(), key=lambda row: tuple(row[k] for k in key)) == wanted
    for done in world.batches:
        assert done.account.rows_in == sum(done.account.rows.values())


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_splitting_a_history_into_batches_anywhere_gives_the_same_table(world_class, tmp_path_factory, data):
    """All at once, file by file, or in random batches: the same rows."""
    columns, key, partition_by, dms, load, files = data.draw(histories())
    tables = []
    for steps in (set(), set(range(9)), data.draw(st.sets(st.integers(0, 8)))):
        world = world_class(tmp_path_factory.mktemp("w"), columns=columns, key=key, dms=dms, partition_by=partition_by)
        replay(world, load, files, steps)
        if not DeltaTable.is_deltatable(world.path):
            tables.append([])
            continue
        frame = world.frame()
        tables.append(sorted(map(str, frame.select(name for name, _ in columns).rows())))
    assert tables[0] == tables[1] == tables[2]


@settings(max_examples=100, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from("IUD"), st.integers(0, 4), st.sampled_from("ab"), st.integers()), max_size=40
    ),
    cuts=st.sets(st.integers(0, 40)),
)
def test_the_net_change_equals_folding_the_changes_one_by_one(changes, cuts):
    """One row per key, and it is the last change of its key, wherever files begin."""
    rows, file = [], 0
    for number, (op, k1, k2, value) in enumerate(changes):
        file += number in cuts
        rows.append({"k1": k1, "k2": k2, "v": value, OP: op, FILE: file, ROW: number})
    schema = {"k1": pl.Int64, "k2": pl.String, "v": pl.Int128, OP: pl.String, FILE: pl.UInt32, ROW: pl.Int64}
    net = net_changes(pl.DataFrame(rows, schema=schema), ["k1", "k2"])
    last = {(row["k1"], row["k2"]): (row[OP], row["v"]) for row in rows}
    assert {(row["k1"], row["k2"]): (row[OP], row["v"]) for row in net.to_dicts()} == last
    assert net.select("k1", "k2").rows() == sorted(last)


def test_sequence_by_overrules_the_order_of_the_files(make_world):
    """With `sequence_by` the highest sequence wins, an empty one is the oldest, and ties go by file and row."""
    columns = (("id", "long"), ("v", "string"), ("AR_H_CHANGE_SEQ", "string"))
    world = make_world(columns=columns, sequence_by=("AR_H_CHANGE_SEQ",), dms=DmsSettings(format="csv", header=True))
    world.cdc([("I", {"id": 1, "v": "late number", "AR_H_CHANGE_SEQ": "2026030112000000" + "9" * 19})])
    world.later()
    world.cdc([("U", {"id": 1, "v": "early number", "AR_H_CHANGE_SEQ": "2026030111000000" + "0" * 19})])
    world.cdc([("U", {"id": 1, "v": "none", "AR_H_CHANGE_SEQ": None})], at=world.later())
    world.later()
    world.run()
    assert world.frame().select("id", "v").rows() == [(1, "late number")]


@pytest.mark.parametrize("key", [("id",), ("name", "id"), None])
@pytest.mark.parametrize("shuffled", [True, False])
def test_a_load_larger_than_memory_is_sorted_and_whole(make_world, key, shuffled):
    """Tiny pieces force spilling and merging: every row is there once, and the files do not overlap."""
    import random

    world = make_world(key=key, dms=DmsSettings(format="csv", header=True))
    rows = [{"id": n, "name": f"n{n % 7}"} for n in range(5000)]
    if shuffled:
        random.Random(1).shuffle(rows)
    for number in range(4):
        world.load(rows[number * 1250 : (number + 1) * 1250], number=number + 1)
    world.piece_bytes, world.chunk_bytes, world.file_bytes = 4_000, 2_000, 20_000
    world.later(400)
    world.run()
    assert sorted(world.frame().rows()) == sorted((row["id"], row["name"]) for row in rows)
    done = world.batches[-1]
    if key:
        bounds = sorted(
            (tuple(f.statistics()["minValues"][k] for k in key), tuple(f.statistics()["maxValues"][k] for k in key))
            for f in done.snapshot.files.values()
        )
        assert all(high[0] <= low[0] for (_, high), (low, _) in itertools.pairwise(bounds))
    on_disk = {p.name for p in (world.root / "lake/s/t").rglob("*.parquet")}
    assert on_disk == {f.path.rpartition("/")[2] for f in done.snapshot.files.values()}


def test_a_large_load_with_a_key_that_holds_the_partition_is_sorted_and_whole(make_world):
    """Merging pieces where the partition is a part of the key: each partition has its rows, once, in key order."""
    import random

    world = make_world(key=("id", "name"), partition_by=("name",), dms=DmsSettings(format="csv", header=True))
    rows = [{"id": n, "name": f"n{n % 7}"} for n in range(5000)] + [{"id": n, "name": "n8"} for n in range(0, 5000, 7)]
    random.Random(1).shuffle(rows)
    for number, start in enumerate(range(0, len(rows), 1500), start=1):
        world.load(rows[start : start + 1500], number=number)
    world.load(rows[:50], number=9)
    world.piece_bytes, world.chunk_bytes, world.file_bytes = 4_000, 2_000, 1_000
    world.later(400)
    world.run()
    assert world.rows() == sorted((row["id"], row["name"]) for row in rows)
    done = world.batches[-1]
    assert done.account.superseded == 50
    bounds = {}
    for file in done.snapshot.files.values():
        stats = file.statistics()
        bounds.setdefault(file.partition_values["name"], []).append(
            (stats["minValues"]["id"], stats["maxValues"]["id"])
        )
    assert len(bounds) == 8
    assert any(len(ranges) > 1 for ranges in bounds.values())
    for ranges in map(sorted, bounds.values()):
        assert all(high < low for (_, high), (low, _) in itertools.pairwise(ranges))


def test_the_later_of_two_loaded_rows_with_one_key_wins(make_world):
    """A LOAD set that holds a key twice leaves one row of it, also when the two are merged from different pieces."""
    world = make_world(dms=DmsSettings(format="csv", header=True))
    rows = [{"id": n % 1000, "name": f"{n // 1000}"} for n in range(3000)]
    world.load(rows)
    world.piece_bytes, world.chunk_bytes, world.file_bytes = 4_000, 2_000, 20_000
    world.later(400)
    world.run()
    assert world.rows() == [(n, "2") for n in range(1000)]
    assert world.batches[-1].account.superseded == 2000
