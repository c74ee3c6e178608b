"""Other writers of a target: what they commit is taken into account, and what we would break is refused."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder, WriterProperties, write_deltalake
from duckdb_extensions import import_extension

from cdcloader.errors import CommitConflict, TableError
from cdcloader.objects import Objects

MODES = ("auto", "merge_on_read", "copy_on_write")


@pytest.fixture(scope="module")
def duck():
    import_extension("delta")
    connection = duckdb.connect()
    connection.execute("LOAD delta")
    return connection


class Meddled(Objects):
    """Another writer commits just before each commit of ours, as often as it has something to do."""

    def __init__(self, root):
        opened = Objects.open(str(root), create=True)
        super().__init__(opened.location, opened._store)
        self.waiting = []

    def create(self, key, data):
        if self.waiting and "/_delta_log/" in key:
            self.waiting.pop(0)()
        super().create(key, data)


def run(world, *meddling):
    """Step until nothing is left, while another writer meddles; returns the conflicts."""
    lake = Meddled(world.root / "lake")
    lake.waiting = [*meddling]
    loader, conflicts = world.loader(lake=lake), 0
    while True:
        try:
            world.run(loader)
        except CommitConflict as conflict:
            loader.conflict(conflict)
            conflicts += 1
        else:
            assert not lake.waiting
            return conflicts


def loaded(make_world, rows=((1, "a"), (2, "b"), (3, "c")), **options):
    """A world whose table is loaded."""
    world = make_world(**options)
    world.load([dict(zip((n for n, _ in world.columns), row, strict=True)) for row in rows])
    world.later(600)
    world.run()
    return world


def table_of(world):
    return DeltaTable(world.path)


def frame(*rows):
    return pl.DataFrame(rows, schema={"id": pl.Int64, "name": pl.String}, orient="row")


def rows_by_all(world, duck):
    """The rows as Polars, DuckDB and delta-rs read them, which must be the same."""
    rows = world.rows()
    batches = list(QueryBuilder().register("t", table_of(world)).execute("select * from t"))
    by_delta_rs = pl.concat([pl.DataFrame(batch) for batch in batches]).select(world.frame().columns)
    by_duckdb = duck.execute(f"SELECT * FROM delta_scan('{world.path}')").pl()
    others = [by_delta_rs, by_duckdb.select(world.frame().columns)]
    assert all(sorted(frame.rows(), key=repr) == sorted(rows, key=repr) for frame in others)
    return rows


# ---- between our plan and our commit ----------------------------------------------------------------------


def add_and_tidy(table, tidy):
    frame((7, "theirs")).write_delta(table.table_uri, mode="append")
    tidy(DeltaTable(table.table_uri).optimize)


FOREIGN = {
    "append": (lambda t: frame((7, "theirs")).write_delta(t.table_uri, mode="append"), {7: "theirs"}),
    "delete": (lambda t: t.delete("id = 3"), {3: None}),
    "delete of a row of ours": (lambda t: t.delete("id = 1"), {}),
    "update": (lambda t: t.update(updates={"name": "'theirs'"}, predicate="id = 3"), {3: "theirs"}),
    "update of a row of ours": (lambda t: t.update(updates={"name": "'theirs'"}, predicate="id = 1"), {}),
    "compact": (lambda t: add_and_tidy(t, lambda o: o.compact()), {7: "theirs"}),
    "z-order": (lambda t: add_and_tidy(t, lambda o: o.z_order(["name"])), {7: "theirs"}),
    "properties": (lambda t: t.alter.set_table_properties({"delta.logRetentionDuration": "interval 9 days"}), {}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", FOREIGN)
def test_a_commit_of_another_writer_before_ours_is_not_lost(make_world, duck, mode, what):
    """Whatever was committed between our plan and our commit: we plan again on it, and both writers' rows are there."""
    meddle, effect = FOREIGN[what]
    world = loaded(make_world, write_mode=mode)
    # Several files, one of them with rows of ours again, so that there is something to compact.
    frame((4, "d"), (5, "e")).write_delta(world.path, mode="append")
    world.later()
    world.cdc([("U", {"id": 2, "name": "B"})])
    world.run()
    world.later()
    world.cdc([("U", {"id": 1, "name": "ours"}), ("D", {"id": 5, "name": "e"}), ("I", {"id": 6, "name": "f"})])
    assert run(world, lambda: meddle(table_of(world))) == 1
    wanted = {1: "ours", 2: "B", 3: "c", 4: "d", 6: "f"} | effect
    assert dict(rows_by_all(world, duck)) == {key: name for key, name in wanted.items() if name is not None}
    assert world.batches[-1].account.position == world.record().recorded_position


def test_other_writers_may_be_faster_many_times(make_world, duck):
    """Each lost race is planned anew; after four of them the batch is in the table once."""
    world = loaded(make_world)
    world.later()
    world.cdc([("U", {"id": 1, "name": "ours"}), ("I", {"id": 9, "name": "new"})])
    others = [lambda n=n: frame((n, "theirs")).write_delta(world.path, mode="append") for n in (20, 21, 22)]
    assert run(world, *others, lambda: table_of(world).optimize.z_order(["id"])) == 4
    wanted = {1: "ours", 2: "b", 3: "c", 9: "new", 20: "theirs", 21: "theirs", 22: "theirs"}
    assert rows_by_all(world, duck) == [*wanted.items()]


@pytest.mark.parametrize("mode", MODES)
def test_a_column_that_another_writer_adds_meanwhile_stays(make_world, duck, mode):
    """ADD COLUMN between plan and commit: we plan again with it, its values stay, and our new rows hold NULL."""
    world = loaded(make_world, write_mode=mode)
    world.later()
    world.cdc([("U", {"id": 1, "name": "ours"}), ("I", {"id": 4, "name": "d"})])

    def add_column():
        wider = frame((9, "theirs")).with_columns(extra=pl.lit(5, pl.Int32))
        wider.write_delta(world.path, mode="append", delta_write_options={"schema_mode": "merge"})

    assert run(world, add_column) == 1
    wanted = [(1, "ours", None), (2, "b", None), (3, "c", None), (4, "d", None), (9, "theirs", 5)]
    assert rows_by_all(world, duck) == wanted
    world.later()
    world.cdc([("U", {"id": 9, "name": "again"}), ("D", {"id": 2, "name": "b"})])
    world.run()
    # DMS gives whole rows, and this one has no such column.
    assert rows_by_all(world, duck) == [wanted[0], wanted[2], wanted[3], (9, "again", None)]


def test_a_commit_during_a_full_load_does_not_survive_it(make_world, duck):
    """A reload replaces the table, whatever was written to it while the files were read; no row of it is left."""
    world = loaded(make_world)
    world.later(3600)
    world.load([{"id": 1, "name": "new"}, {"id": 2, "name": "new"}])
    world.later(600)
    run(world, lambda: frame((7, "theirs")).write_delta(world.path, mode="append"))
    assert rows_by_all(world, duck) == [(1, "new"), (2, "new")]


# ---- what stands in the table -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_other_writers_are_found_by_their_keys(make_world, duck, mode):
    """A key that stands in the table twice is deleted twice, or replaced by one row; rows without a key stay."""
    world = loaded(make_world, write_mode=mode)
    frame((1, "double"), (2, "double"), (8, "theirs"), (None, "no key"), (3, "double")).write_delta(
        world.path, mode="append"
    )
    world.later()
    changes = [("U", {"id": 1, "name": "ours"}), ("D", {"id": 2, "name": "b"}), ("U", {"id": 8, "name": "ours"})]
    world.cdc(changes)
    world.run()
    assert rows_by_all(world, duck)[1:] == [(1, "ours"), (3, "c"), (3, "double"), (8, "ours")]
    assert world.rows()[0] == (None, "no key")


@pytest.mark.parametrize("mode", MODES)
def test_files_whose_rows_are_in_no_order_are_read_right(make_world, duck, mode):
    """Another writer's files: shuffled rows, many row groups, no statistics, overlapping ranges."""
    world = loaded(make_world, write_mode=mode)
    numbers = pl.Series(range(100, 20_100))
    for seed in (1, 2):
        part = numbers.gather_every(2, offset=seed - 1).sample(fraction=1, shuffle=True, seed=seed)
        write_deltalake(
            world.path,
            pl.DataFrame({"id": part, "name": part.cast(pl.String)}),
            mode="append",
            writer_properties=WriterProperties(max_row_group_size=700),
        )
    model = {n: str(n) for n in numbers} | dict(world.rows()[:3])
    for step in range(4):
        world.later()
        keys = list(range(100 + step, 20_100, 371))
        changes = [("D", {"id": k, "name": "x"}) if k % 3 == 0 else ("U", {"id": k, "name": f"v{step}"}) for k in keys]
        world.cdc(changes)
        world.run()
        for op, row in changes:
            if op == "D":
                model.pop(row["id"], None)
            else:
                model[row["id"]] = row["name"]
        if step == 2:
            table_of(world).create_checkpoint()
    assert rows_by_all(world, duck) == sorted(model.items())


@pytest.mark.parametrize("mode", MODES)
def test_tables_that_others_tidy_stay_right(make_world, duck, mode):
    """Checkpoints, OPTIMIZE, deletes and merges of delta-rs between our batches, over vectors of ours."""
    world = loaded(make_world, rows=[(n, f"r{n}") for n in range(50)], write_mode=mode)
    model = {n: f"r{n}" for n in range(50)}
    for step in range(8):
        world.later()
        changes = [("U", {"id": n, "name": f"s{step}"}) for n in range(step, 50, 7)]
        changes += [("D", {"id": step * 3, "name": "x"}), ("I", {"id": 100 + step, "name": "new"})]
        world.cdc(changes)
        world.run()
        model |= dict.fromkeys(range(step, 50, 7), f"s{step}")
        model.pop(step * 3, None)
        model[100 + step] = "new"
        table = table_of(world)
        match step % 4:
            case 0:
                table.create_checkpoint()
            case 1:
                table.optimize.compact()
            case 2:
                table.delete("id = 101")
                model.pop(101, None)
            case 3:
                source = pa.table({"id": [2, 500 + step], "name": ["merged", "merged"]})
                merge = table.merge(source, "t.id = s.id", source_alias="s", target_alias="t", streamed_exec=False)
                merge.when_matched_update_all().when_not_matched_insert_all().execute()
                model |= {2: "merged", 500 + step: "merged"}
        assert rows_by_all(world, duck) == sorted(model.items()), step


KEYS = {
    "long": [-(2**63), -1, 0, 2**53 + 1, 2**63 - 1],
    "string": ["", "x" * 40, "x" * 31 + "\U0010ffff" * 3, "ü" * 33, "\U0010ffff" * 50],
    "decimal(20,4)": [Decimal("12345678901234.5678"), Decimal("-12345678901234.5674"), Decimal("0.0001")],
    "decimal(38,0)": [Decimal(10**37 + 1), Decimal(-(10**37) - 1), Decimal(2**63 - 1), Decimal(10**16 + 1)],
    "decimal(38,20)": [Decimal("1.00000000000000000001"), Decimal("-123456789012345678.00000000000000000001")],
    "date": [date(1, 1, 1), date(1969, 12, 31), date(9999, 12, 31)],
    "timestamp": [datetime(2024, 1, 1, 0, 0, 0, 123_999, tzinfo=UTC), datetime(1600, 1, 1, 0, 0, 0, 1, tzinfo=UTC)],
    "double": [0.1, -1e300, 5e-324],
    "boolean": [True, False],
}


@pytest.mark.parametrize("mode", ["auto", "copy_on_write"])
@pytest.mark.parametrize("kind", KEYS)
def test_statistics_of_other_writers_hide_no_key(make_world, mode, kind):
    """delta-rs cuts texts and moments and rounds decimals in its statistics: each key of its files is found."""
    world = make_world(columns=(("k", kind), ("v", "long")), key=("k",), write_mode=mode)
    first = KEYS[kind][0]
    world.load([{"k": first, "v": 0}])
    world.later(600)
    world.run()
    table_of(world).delete()
    dtype = world.frame().schema["k"]
    for value in KEYS[kind]:
        pl.DataFrame({"k": [value], "v": [1]}, schema={"k": dtype, "v": pl.Int64}).write_delta(
            world.path, mode="append"
        )
    world.later()
    world.cdc([("U", {"k": value, "v": 2}) for value in KEYS[kind]])
    world.run()
    assert sorted(world.rows()) == sorted((value, 2) for value in KEYS[kind])
    world.later()
    world.cdc([("D", {"k": value, "v": 2}) for value in KEYS[kind]])
    world.run()
    assert world.rows() == []


def test_a_log_that_others_checkpointed_and_cleaned_is_read(make_world, duck):
    """The commits are gone, the checkpoint of another writer stands for them."""
    world = loaded(make_world)
    for step in range(5):
        world.later()
        world.cdc([("U", {"id": 1, "name": f"s{step}"}), ("I", {"id": 10 + step, "name": "new"})])
        world.run()
    table_of(world).create_checkpoint()
    for commit in list((world.root / "lake/s/t/_delta_log").glob("*.json"))[:-1]:
        commit.unlink()
    world.later()
    world.cdc([("D", {"id": 2, "name": "b"}), ("U", {"id": 12, "name": "last"})])
    world.run()
    wanted = [(1, "s4"), (3, "c"), (10, "new"), (11, "new"), (12, "last"), (13, "new"), (14, "new")]
    assert world.rows() == rows_by_all(world, duck) == wanted


# ---- what we would break ----------------------------------------------------------------------------------


FEATURES = [
    "columnMapping", "typeWidening", "typeWidening-preview", "rowTracking", "v2Checkpoint", "clustering",
    "icebergCompatV1", "icebergCompatV2", "icebergCompatV3", "icebergWriterCompatV1", "inCommitTimestamp",
    "coordinatedCommits-preview", "managedCommit-preview", "catalogManaged", "catalogOwned-preview",
    "collations-preview", "checkpointProtection", "variantShredding-preview", "materializePartitionColumns",
    "redirectReaderWriter-preview", "redirectWriterOnly-preview", "geospatial", "somethingOfTomorrow",
]  # fmt: skip
WRITER_ONLY = {
    "rowTracking", "clustering", "icebergCompatV1", "icebergCompatV2", "icebergCompatV3", "icebergWriterCompatV1",
    "inCommitTimestamp", "collations-preview", "checkpointProtection", "materializePartitionColumns",
    "redirectWriterOnly-preview",
}  # fmt: skip


def feature(name):
    readers = [] if name in WRITER_ONLY else [name]
    version = 3 if readers else 1
    protocol = {"minReaderVersion": version, "minWriterVersion": 7, "writerFeatures": [name]}
    return lambda meta: [{"protocol": protocol | ({"readerFeatures": readers} if readers else {})}]


def properties(**values):
    named = {name.replace("__", "."): value for name, value in values.items()}
    return lambda meta: [{"metaData": {**meta, "configuration": {**meta["configuration"], **named}}}]


def column(**of_id):
    """The schema with something at the column `id`."""

    def change(meta):
        schema = json.loads(meta["schemaString"])
        schema["fields"][0] = {**schema["fields"][0], **of_id}
        return [{"metaData": {**meta, "schemaString": json.dumps(schema)}}]

    return change


REFUSED = {name: feature(name) for name in FEATURES} | {
    "protocol reader 4": lambda meta: [{"protocol": {"minReaderVersion": 4, "minWriterVersion": 7}}],
    "protocol reader 1 / writer 8": lambda meta: [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 8}}],
    "appendOnly": properties(delta__appendOnly="true"),
    "enableChangeDataFeed": properties(delta__enableChangeDataFeed="TRUE"),
    "column mapping": properties(delta__columnMapping__mode="name"),
    "enableRowTracking": properties(delta__enableRowTracking="true"),
    "enableInCommitTimestamps": properties(delta__enableInCommitTimestamps="true"),
    "delta.constraints.positive": properties(delta__constraints__positive="id > 0"),
    "delta.invariants": column(metadata={"delta.invariants": '{"expression": {"expression": "id > 0"}}'}),
    "delta.generationExpression": column(metadata={"delta.generationExpression": "length(name)"}),
    "delta.identity.start": column(metadata={"delta.identity.start": 1, "delta.identity.step": 1}),
    "variant": column(type="variant"),
    "nested type": column(type={"type": "array", "elementType": "long", "containsNull": True}),
    "shallow clone": lambda meta: [
        {
            "add": {
                "path": "s3://elsewhere/part-0.parquet", "partitionValues": {}, "size": 1, "modificationTime": 0,
                "dataChange": True,
            }
        }
    ],
}  # fmt: skip


def everything(world):
    return {
        str(path.relative_to(world.root)): path.read_bytes()
        for path in (world.root / "lake").rglob("*")
        if path.is_file()
    }


def foreign_commit(world, actions):
    """What another writer puts into the log."""
    version = world.loader().context.log.snapshot().version + 1
    lines = [{"commitInfo": {"operation": "UPGRADE PROTOCOL"}}, *actions]
    path = world.root / "lake/s/t/_delta_log" / f"{version:020d}.json"
    path.write_text("\n".join(map(json.dumps, lines)))


def upgrade(world, what):
    foreign_commit(world, REFUSED[what](dict(world.loader().context.log.snapshot().metadata)))


def is_refused(world, what):
    """A step raises an error that names `what`, and writes no object."""
    before = everything(world)
    with pytest.raises(TableError) as raised:
        world.run()
    assert what.lower() in str(raised.value).lower()
    assert raised.value.hint
    assert everything(world) == before


@pytest.mark.parametrize("what", REFUSED)
def test_a_table_feature_that_we_would_break_is_an_error_before_anything_is_written(make_world, what):
    """For a batch and for a reload: the error names the feature, and the lake is byte for byte as it was."""
    world = loaded(make_world)
    upgrade(world, what)
    world.later()
    # A row that cannot be applied as well: not even the quarantine is written to.
    world.cdc([("U", {"id": 1, "name": "ours"}), ("I", {"id": None, "name": "no key"})])
    is_refused(world, what)
    world.later(3600)
    world.load([{"id": 5, "name": "reloaded"}])
    world.later(600)
    is_refused(world, what)


@pytest.mark.parametrize("what", ["somethingOfTomorrow", "enableChangeDataFeed", "shallow clone"])
def test_a_feature_that_comes_between_plan_and_commit_is_refused(make_world, what):
    """Another writer upgrades the table while a batch, or a reload, is prepared: nothing is committed on top of it."""
    for reload in (False, True):
        world = loaded(make_world)
        world.later(3600)
        if reload:
            world.load([{"id": 5, "name": "reloaded"}])
            world.later(600)
        else:
            world.cdc([("U", {"id": 1, "name": "ours"})])
        with pytest.raises(TableError, match=what):
            run(world, lambda world=world: upgrade(world, what))
        assert world.loader().context.log.snapshot().version == 1


def test_features_that_are_only_listed_are_no_obstacle(make_world, duck):
    """A table may name features that it does not use, as Spark does when it raises a protocol."""
    world = loaded(make_world)
    listed = [
        "appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns", "identityColumns",
        "domainMetadata", "allowColumnDefaults", "deletionVectors",
    ]  # fmt: skip
    readers = ["deletionVectors"]
    protocol = {
        "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": readers, "writerFeatures": listed,
    }  # fmt: skip
    foreign_commit(world, [{"protocol": protocol}])
    world.later()
    world.cdc([("U", {"id": 1, "name": "ours"}), ("D", {"id": 2, "name": "b"})])
    world.run()
    assert world.rows() == [(1, "ours"), (3, "c")]
    assert duck.execute(f"SELECT count(*) FROM delta_scan('{world.path}')").fetchall() == [(2,)]
    kept = world.loader().context.log.snapshot().protocol
    assert set(listed) <= set(kept["writerFeatures"])


def test_an_old_protocol_of_another_writer_is_kept(make_world):
    """Writer versions 3 to 6 name no features; without vectors we neither raise nor lower them."""
    world = loaded(make_world, write_mode="copy_on_write")
    foreign_commit(world, [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 4}}])
    world.later()
    world.cdc([("U", {"id": 1, "name": "ours"})])
    world.run()
    assert world.rows()[0] == (1, "ours")
    assert world.loader().context.log.snapshot().protocol == {"minReaderVersion": 1, "minWriterVersion": 4}
