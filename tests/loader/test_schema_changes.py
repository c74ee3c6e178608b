"""Columns that come, go, widen or turn into text while data flows, under each policy, read back by other readers."""

import itertools
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cdcloader.changes.conversion import as_text
from cdcloader.changes.evolution import Kind
from cdcloader.changes.schema import polars_type, wider
from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.errors import CdcloaderError, CommitConflict, TableError
from cdcloader.lake.log import DeltaLog
from cdcloader.loader import retyping
from cdcloader.loader.schema_changes import schema_changes
from cdcloader.loader.steps import Outcome
from cdcloader.loader.verify import as_json, verify
from tests.readers import by_duckdb, by_polars, read_by_all
from tests.recovery.faults import Faults, FaultyLake, FaultyStore, Killed, Way

HEADER = DmsSettings(format="csv", header=True)
ID = ("id", "long")


def log_of(world):
    return DeltaLog(world.lake, "s/t")


def schema_of(world):
    return log_of(world).snapshot().schema("")


def types_of(world):
    return {column.name: column.type for column in schema_of(world)}


def changes_of(world):
    log = log_of(world)
    return [logged.change for logged in schema_changes(log, 0, log.snapshot().version)]


def load(world, columns, rows):
    world.columns = columns
    world.load(rows)
    world.later(400)
    assert world.run().outcome is Outcome.IDLE


def cdc(world, columns, *changes, run=True):
    world.columns = columns
    name = world.cdc(changes)
    world.later()
    if run:
        assert world.run().outcome is Outcome.IDLE
    return name


def assert_holds(world, rows):
    """Every reader sees these rows, as does a recomputation from the raw files."""
    schema = schema_of(world)
    names = [column.name for column in schema]
    wanted = pl.DataFrame(
        [pl.Series(c.name, [row.get(c.name) for row in rows], dtype=polars_type(c.type)) for c in schema]
    )
    for reader, frame in read_by_all(world.path, schema).items():
        assert frame.sort("id").equals(wanted.select(frame.columns).sort("id")), (reader, frame.sort("id"))
    assert names == list(world.frame().columns)
    found = verify(world.loader().context, world.record(), budget_bytes=512 << 20)
    assert found.equal, as_json(found, show_keys=True)


def stopped(world, says):
    """The error that stops the table."""
    with pytest.raises(TableError, match=says) as caught:
        world.run()
    return caught.value


@pytest.mark.parametrize("dms", [DmsSettings(format="parquet"), HEADER], ids=["parquet", "csv"])
@pytest.mark.parametrize("partition_by", [(), ("part",)], ids=["whole", "partitioned"])
def test_columns_come_go_move_and_change_their_names(make_world, dms, partition_by):
    """New ones come in the batch's own commit, old rows NULL there; dropped ones stay and are NULL from then on."""
    columns = (ID, ("part", "string"), ("a", "string"), ("b", "long"))
    world = make_world(columns=columns, dms=dms, partition_by=partition_by)
    load(world, columns, [{"id": 1, "part": "x", "a": "one", "b": 1}, {"id": 2, "part": "y", "a": "two", "b": 2}])
    version = log_of(world).snapshot().version
    new = (("new", "string"), ("b", "long"), ID, ("renamed", "string"), ("part", "string"))
    cdc(
        world, new,
        ("U", {"id": 1, "part": "x", "new": "n", "b": 10, "renamed": "uno"}),
        ("I", {"id": 3, "part": "x", "b": 3}),
    )  # fmt: skip
    assert log_of(world).snapshot().version == version + 1
    assert list(types_of(world)) == ["id", "part", "a", "b", "new", "renamed"]
    assert [(c.column, c.kind, c.old, c.new) for c in changes_of(world)] == [
        ("new", Kind.ADDED, None, "string"), ("renamed", Kind.ADDED, None, "string"),
    ]  # fmt: skip
    assert_holds(
        world,
        [
            {"id": 1, "part": "x", "b": 10, "new": "n", "renamed": "uno"},
            {"id": 2, "part": "y", "a": "two", "b": 2},
            {"id": 3, "part": "x", "b": 3},
        ],
    )


def test_another_width_without_a_header_blocks_with_both_widths(make_world):
    """A CSV file says nothing of its columns but their number: what comes before it is applied, it is in the way."""
    world = make_world(columns=(ID, ("a", "string")), dms=DmsSettings(format="csv"))
    load(world, world.columns, [{"id": 1, "a": "x"}])
    cdc(world, (ID, ("a", "string")), ("I", {"id": 2, "a": "y"}), run=False)
    name = cdc(world, (ID, ("a", "string"), ("b", "string")), ("I", {"id": 3, "a": "z", "b": "w"}), run=False)
    error = stopped(world, "the rows have 4 fields.*, and the table's columns are 2")
    assert error.where.endswith(name)
    assert world.rows() == [(1, "x"), (2, "y")]


WIDENINGS = [
    ("integer", "long", [1, -(2**31), None], 2**40),
    ("byte", "short", [-128, 127, 0], 200),
    ("byte", "integer", [-128, 127, 0], 70_000),
    ("float", "double", [0.5, -1.25, None], 0.1),
    ("integer", "double", [1, -7, None], 0.25),
    ("decimal(6,2)", "decimal(12,2)", [Decimal("1.25"), Decimal("-9999.99"), None], Decimal("1234567890.12")),
    ("decimal(6,2)", "decimal(8,4)", [Decimal("1.25"), Decimal("-9999.99"), None], Decimal("1.2345")),
    ("long", "decimal(20,3)", [1, -(2**63), None], Decimal("0.125")),
    ("date", "timestamp", [date(2026, 3, 1), date(1970, 1, 1), None], datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
]


@pytest.mark.parametrize(
    ("partition_by", "old", "new", "values", "value"),
    [(((), ("part",))[number % 2], *widening) for number, widening in enumerate(WIDENINGS)],
    ids=[f"{w[0]}-{w[1]}" for w in WIDENINGS],
)
def test_a_type_widens_in_a_commit_of_its_own(make_world, old, new, values, value, partition_by):
    """Every file has the new type then, no row has changed, vectors are gone; the batch follows as its own commit."""
    world = make_world(partition_by=partition_by, write_mode="merge_on_read")
    before, after = ((ID, ("part", "string"), ("v", kind)) for kind in (old, new))
    rows = [{"id": n, "part": "ab"[n % 2], "v": v} for n, v in enumerate([*values, *values])]
    load(world, before, rows)
    cdc(world, before, ("D", rows[5]))
    snapshot = log_of(world).snapshot()
    assert any(file.vector for file in snapshot.files.values())
    name = cdc(world, after, ("I", {"id": 9, "part": "a", "v": value}))
    retyped = log_of(world).snapshot(snapshot.version + 1)
    assert world.record().recorded_version == snapshot.version + 2
    assert not any(file.vector for file in retyped.files.values())
    assert retyped.transactions == snapshot.transactions
    assert {file.path for file in retyped.files.values()}.isdisjoint(file.path for file in snapshot.files.values())
    wide = wider(old, new)
    (change,) = changes_of(world)
    assert (change.column, change.kind, change.old, change.new) == ("v", Kind.WIDENED, old, wide)
    assert change.file.endswith(name)
    assert types_of(world)["v"] == wide
    held = [
        {**row, "v": pl.Series([row["v"]], dtype=polars_type(old)).cast(polars_type(wide)).item()} for row in rows[:5]
    ]
    assert_holds(world, [*held, {"id": 9, "part": "a", "v": value}])
    cdc(world, before, ("U", {**rows[0], "v": values[1]}))
    assert log_of(world).snapshot().version == snapshot.version + 3


def test_a_table_without_rows_and_a_partition_widen_by_metadata_alone(make_world):
    """No file is written again where none has the column: in an empty table, or where it stands in the log as text."""
    world = make_world()
    load(world, (ID, ("v", "integer")), [{"id": 1, "v": 1}])
    cdc(world, (ID, ("v", "integer")), ("D", {"id": 1}))
    cdc(world, (ID, ("v", "long")), ("I", {"id": 2, "v": 2**40}))
    assert_holds(world, [{"id": 2, "v": 2**40}])
    world = make_world(partition_by=("part",))
    load(world, (ID, ("part", "integer")), [{"id": 1, "part": 1}, {"id": 2, "part": None}])
    files = log_of(world).snapshot().files.keys()
    cdc(world, (ID, ("part", "long")), ("I", {"id": 3, "part": 2**40}))
    assert files < log_of(world).snapshot().files.keys()
    assert_holds(world, [{"id": 1, "part": 1}, {"id": 2}, {"id": 3, "part": 2**40}])


TEXTS = [
    ("long", [1, -5, None], ["1", "-5", None]),
    ("decimal(6,2)", [Decimal(24), Decimal("-0.50"), None], ["24.00", "-0.50", None]),
    ("double", [1.0, 0.1, None], ["1", "0.1", None]),
    ("boolean", [True, False, None], ["true", "false", None]),
    ("date", [date(2026, 3, 1), date(1899, 1, 1), None], ["2026-03-01", "1899-01-01", None]),
    (
        "timestamp",
        [datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC), None],
        ["2026-03-01 12:00:00", "2026-03-01 12:00:00.250000", None],
    ),
    ("binary", [b"\x00\xff", b"", None], ["00ff", "", None]),
]


@pytest.mark.parametrize(
    ("partition_by", "kind", "values", "texts"),
    [(((), ("part",))[number % 2], *text) for number, text in enumerate(TEXTS)],
    ids=[text[0] for text in TEXTS],
)
def test_a_type_that_cannot_widen_turns_into_text(make_world, kind, values, texts, partition_by):
    """Rows that were there, and rows of the old type that come later, have the same text."""
    world = make_world(partition_by=partition_by, write_mode="merge_on_read", on_type_change="string")
    before, after = ((ID, ("part", "string"), ("v", each)) for each in (kind, "string"))
    load(world, before, [{"id": n, "part": "ab"[n % 2], "v": v} for n, v in enumerate([*values, values[0]])])
    cdc(world, before, ("D", {"id": 3}))
    cdc(world, after, ("I", {"id": 5, "part": "a", "v": "text, at last"}))
    cdc(world, before, *(("I", {"id": 10 + n, "part": "b", "v": v}) for n, v in enumerate(values)))
    old = [{"id": n, "part": "ab"[n % 2], "v": text} for n, text in enumerate(texts)]
    late = [{"id": 10 + n, "part": "b", "v": text} for n, text in enumerate(texts)]
    assert_holds(world, [*old, {"id": 5, "part": "a", "v": "text, at last"}, *late])
    assert [(c.kind, c.old, c.new) for c in changes_of(world)] == [(Kind.TO_STRING, kind, "string")]


def test_text_is_that_of_the_widest_type_before(make_world):
    """A value reads as in the column that turned into text, whichever file it comes from, and when."""
    world = make_world(on_type_change="string")
    for id_, (kind, value) in enumerate([("long", 1), ("decimal(10,2)", Decimal("2.50")), ("string", "three")]):
        cdc(world, (ID, ("v", kind)), ("I", {"id": id_, "v": value}))
    cdc(world, (ID, ("v", "integer")), ("I", {"id": 3, "v": 4}))
    cdc(world, (ID, ("v", "boolean")), ("I", {"id": 4, "v": True}))
    rows = list(enumerate(["1.00", "2.50", "three", "4.00", "true"]))
    assert_holds(world, [{"id": id_, "v": text} for id_, text in rows])
    at_once = make_world(on_type_change="string")
    for id_, (kind, value) in enumerate(
        [("long", 1), ("decimal(10,2)", Decimal("2.50")), ("string", "three"), ("integer", 4), ("boolean", True)]
    ):
        cdc(at_once, (ID, ("v", kind)), ("I", {"id": id_, "v": value}), run=False)
    at_once.run()
    assert at_once.rows() == rows


@pytest.mark.parametrize(
    ("policy", "says", "hint"),
    [
        ({}, "has type string, the table has long; no type holds", "set on_type_change: string"),
        ({"on_type_change": "block"}, "has type string, the table has long; on_type_change is block", "string"),
        ({"schema": "freeze"}, "has type string, the table has long; schema is freeze", "set schema: evolve"),
    ],
    ids=str,
)
def test_only_the_file_at_fault_is_in_the_way(make_world, policy, says, hint):
    """The files before it are applied; the message names it, the column, both types and a way out, which works."""
    world = make_world(**policy)
    load(world, (ID, ("v", "long")), [{"id": 1, "v": 1}])
    cdc(world, (ID, ("v", "long")), ("I", {"id": 2, "v": 2}), run=False)
    name = cdc(world, (ID, ("v", "string")), ("I", {"id": 3, "v": "three"}), run=False)
    cdc(world, (ID, ("v", "long")), ("I", {"id": 4, "v": 4}), run=False)
    error = stopped(world, says)
    assert error.where.endswith(name)
    assert "'v'" in error.what
    assert hint in error.hint
    assert world.rows() == [(1, 1), (2, 2)]
    world.table = world.table.model_copy(update={"on_type_change": "string", "schema": "evolve"})
    world.run()
    assert world.rows() == [(1, "1"), (2, "2"), (3, "three"), (4, "4")]


def test_blocked_widening_names_a_way_out(make_world):
    """With `on_type_change: block` and with `schema: freeze` a wider type stops the table; `columns` lets it in."""
    for policy in ({"on_type_change": "block"}, {"schema": "freeze"}):
        world = make_world(**policy)
        load(world, (ID, ("v", "integer")), [{"id": 1, "v": 1}])
        cdc(world, (ID, ("v", "short")), ("I", {"id": 2, "v": 2}))
        cdc(world, (ID, ("v", "long")), ("I", {"id": 3, "v": 2**40}), run=False)
        stopped(world, "'v' has type long, the table has integer")
        world.table = world.table.model_copy(update={"columns": {"v": "long"}})
        world.run()
        assert_holds(world, [{"id": 1, "v": 1}, {"id": 2, "v": 2}, {"id": 3, "v": 2**40}])


@pytest.mark.parametrize("kind", ["key", "partition"])
def test_a_key_or_a_partition_never_changes_its_type(make_world, kind):
    """The table stops with a message; a reload takes the new type, and tells it."""
    options = {"key": ("id", "k")} if kind == "key" else {"partition_by": ("k",)}
    world = make_world(on_type_change="string", **options)
    load(world, (ID, ("k", "date")), [{"id": 1, "k": date(2026, 3, 1)}])
    after = (ID, ("k", "timestamp"))
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    cdc(world, after, ("I", {"id": 2, "k": at}), run=False)
    error = stopped(world, f"it is a {kind} column, whose type never changes")
    assert "reload the table" in error.hint
    world.later(3600)
    world.columns = after
    world.load([{"id": 1, "k": datetime(2026, 3, 1, tzinfo=UTC)}, {"id": 2, "k": at}])
    world.later(3600)
    world.run()
    assert types_of(world)["k"] == "timestamp"
    assert [(c.column, c.kind, c.old, c.new) for c in changes_of(world)] == [("k", Kind.RETYPED, "date", "timestamp")]


@pytest.mark.parametrize("dms", [DmsSettings(format="parquet"), HEADER], ids=["parquet", "csv"])
def test_a_frozen_table_refuses_new_columns(make_world, dms):
    """The message names the file and the columns; one that the config names is let in; dropped ones are no change."""
    columns = (ID, ("a", "string"))
    world = make_world(columns=columns, dms=dms, schema="freeze")
    load(world, columns, [{"id": 1, "a": "x"}])
    cdc(world, (ID,), ("I", {"id": 2}))
    wider_file = (*columns, ("b", "string"), ("c", "string"))
    name = cdc(world, wider_file, ("I", {"id": 3, "a": "z", "b": "w"}), run=False)
    error = stopped(world, "the columns 'b', 'c', which the table does not have, and schema is freeze")
    assert error.where.endswith(name)
    assert "name them under `columns`" in error.hint
    world.table = world.table.model_copy(update={"columns": {**world.table.columns, "b": "string", "c": "string"}})
    world.run()
    assert_holds(world, [{"id": 1, "a": "x"}, {"id": 2}, {"id": 3, "a": "z", "b": "w"}])


def test_a_frozen_table_refuses_a_full_load_of_other_columns(make_world):
    """A reload may bring narrower types, and takes the table's; else it stops before anything is written."""
    world = make_world(schema="freeze")
    load(world, (ID, ("a", "long"), ("b", "string")), [{"id": 1, "a": 1, "b": "x"}])
    for columns, says in (
        ((ID, ("a", "long")), "lacks the column 'b'"),
        ((ID, ("a", "long"), ("b", "string"), ("c", "long")), "the column 'c'"),
        ((ID, ("a", "string"), ("b", "string")), "'a' has type string, the table has long"),
    ):
        world.later(3600)
        world.columns = columns
        world.load([{"id": 2, "a": None}])
        world.later(3600)
        stopped(world, says)
    assert world.rows() == [(1, 1, "x")]
    world.columns = (("b", "string"), ("a", "integer"), ID)
    world.load([{"id": 2, "a": 2, "b": "y"}])
    world.later(3600)
    world.run()
    assert types_of(world) == {"id": "long", "a": "long", "b": "string"}
    assert_holds(world, [{"id": 2, "a": 2, "b": "y"}])


def quarantined(world):
    found = pl.read_parquet(sorted((world.root / "lake/_quarantine/s/t").glob("*.parquet")))
    return sorted(found.select("row", "reason").rows())


@pytest.mark.parametrize("dms", [DmsSettings(format="parquet"), HEADER], ids=["parquet", "csv"])
def test_quarantine_takes_rows_with_values_in_unknown_columns(make_world, dms):
    """Rows that are NULL there are applied without it; the table keeps its columns; every row is accounted for."""
    columns = (ID, ("a", "string"))
    world = make_world(columns=columns, dms=dms, schema="quarantine")
    load(world, columns, [{"id": 1, "a": "x"}])
    cdc(
        world, (("b", "string"), *columns, ("c", "long")),
        ("I", {"id": 2, "a": "y"}), ("I", {"id": 3, "b": "w"}), ("U", {"id": 1, "a": "z", "c": 5}), ("D", {"id": 1}),
    )  # fmt: skip
    assert_holds(world, [{"id": 2, "a": "y"}])
    assert quarantined(world) == [
        (2, "column 'b': the table does not have it (schema: quarantine)"),
        (3, "column 'c': the table does not have it (schema: quarantine)"),
    ]
    assert world.record().rows_quarantined == 2
    assert changes_of(world) == []


@pytest.mark.parametrize("dms", [DmsSettings(format="parquet"), HEADER], ids=["parquet", "csv"])
def test_quarantine_lets_deletes_pass(make_world, dms):
    """A source's new column is in its D rows too: they need nothing but the key, and no deleted row stays for them."""
    columns = (ID, ("a", "integer"))
    world = make_world(columns=columns, dms=dms, schema="quarantine")
    load(world, columns, [{"id": 1, "a": 1}, {"id": 2, "a": 2}, {"id": 3, "a": 3}])
    wider = (ID, ("a", "long" if dms.format == "parquet" else "integer"), ("b", "string"))
    big = 2**40 if dms.format == "parquet" else 1
    cdc(world, wider, ("D", {"id": 1, "a": big, "b": "new"}), ("U", {"id": 2, "a": 2, "b": "new"}))
    assert_holds(world, [{"id": 2, "a": 2}, {"id": 3, "a": 3}])
    assert (world.record().rows_quarantined, world.record().rows_deleted) == (1, 1)


def test_json_has_the_types_of_its_table(make_world):
    """A new key is a new column, also beside Parquet files; with `schema: quarantine` a value there makes a reject."""
    for policy in ("evolve", "quarantine"):
        world = make_world(schema=policy)
        load(world, (ID, ("a", "integer")), [{"id": 1, "a": 1}])
        cdc(world, (ID, ("a", "short")), ("I", {"id": 2, "a": 2}), run=False)
        world.put(
            "20260301-130000000.json", b'{"Op": "I", "id": 3, "a": 3, "b": "new"}\n{"Op": "I", "id": 4, "b": null}\n'
        )
        world.later(3600)
        world.run()
        new = {"id": 3, "a": 3, "b": "new"} if policy == "evolve" else None
        assert_holds(world, [{"id": 1, "a": 1}, {"id": 2, "a": 2}, *([new] if new else []), {"id": 4}])
        assert world.record().rows_quarantined == (policy == "quarantine")
        assert list(types_of(world)) == ["id", "a", *(["b"] if new else [])]


def test_quarantine_takes_rows_whose_values_do_not_fit(make_world):
    """Value by value, and exactly; a file alone and small files that are read together have the same rejects."""
    world = make_world(schema="quarantine")
    load(world, (ID, ("v", "integer")), [{"id": 1, "v": 1}])
    for first, kind, values in (
        (2, "long", [2, 2**40, None]),
        (5, "double", [5.0, 5.5, float("nan")]),
        (8, "string", ["8", "eight", None]),
        (11, "boolean", [None, True, None]),
    ):
        changes = [("I", {"id": first + n, "v": value}) for n, value in enumerate(values)]
        cdc(world, (ID, ("v", kind)), *changes, run=False)
    world.run()
    held = [(1, 1), (2, 2), (4, None), (5, 5), (8, 8), (10, None), (11, None), (13, None)]
    assert_holds(world, [{"id": id_, "v": v} for id_, v in held])
    assert [reason for _, reason in quarantined(world)].count("column 'v': '5.5' is not a integer") == 1
    assert world.record().rows_quarantined == 5


def test_csv_values_that_do_not_fit_are_quarantined_under_every_policy(make_world):
    """A CSV column has no declared type: its type is pinned, and only the config changes it."""
    for policy in ("widen", "string", "block"):
        world = make_world(columns=(ID, ("v", "integer")), dms=HEADER, on_type_change=policy)
        load(world, (ID, ("v", "integer")), [{"id": 1, "v": 1}])
        cdc(world, (ID, ("v", "string")), ("I", {"id": 2, "v": "two"}), ("I", {"id": 3, "v": "3"}))
        assert world.rows() == [(1, 1), (3, 3)]
        world.table = world.table.model_copy(update={"columns": {"id": "long", "v": "long"}})
        cdc(world, (ID, ("v", "long")), ("I", {"id": 4, "v": 2**40}))
        assert_holds(world, [{"id": 1, "v": 1}, {"id": 3, "v": 3}, {"id": 4, "v": 2**40}])


def test_every_change_is_told(make_world):
    """A log line, a count by kind, and an entry in the commit that made it."""
    world = make_world(on_type_change="string")
    load(world, (ID, ("a", "integer"), ("b", "long")), [{"id": 1, "a": 1, "b": 1}])
    world.columns = (ID, ("a", "long"), ("b", "string"), ("c", "date"))
    name = world.cdc([("I", {"id": 2, "a": 2, "b": "two"})])
    world.later()
    loader = world.loader()
    with capture_logs() as logs:
        world.run(loader)
    told = [
        (line["column"], line["kind"], line["from_type"], line["to_type"], line["file"].endswith(name))
        for line in logs
        if line["event"] == "schema changed"
    ]
    expected = [
        ("a", "widened", "integer", "long", True),
        ("b", "to_string", "long", "string", True),
        ("c", "added", None, "date", True),
    ]
    assert told == expected
    found = [(c.column, str(c.kind), c.old, c.new, c.file.endswith(name)) for c in changes_of(world)]
    assert found == expected
    for _, kind, *_ in expected:
        labels = {"table": "s/t", "kind": kind}
        assert world.registry.get_sample_value("cdcloader_schema_changes_total", labels) == 1


def test_another_writer_between_is_taken_into_account(make_world, monkeypatch):
    """What is appended while the table is written again with its new types is there at the end; nothing is left."""
    world = make_world()
    load(world, (ID, ("v", "integer")), [{"id": 1, "v": 1}])
    retype, met = retyping.retype, []

    def meanwhile(*args, **options):
        if not met:
            met.append(
                write_deltalake(world.path, pl.DataFrame({"id": [7], "v": [7]}).cast({"v": pl.Int32}), mode="append")
            )
        return retype(*args, **options)

    monkeypatch.setattr(retyping, "retype", meanwhile)
    cdc(world, (ID, ("v", "long")), ("I", {"id": 2, "v": 2**40}), run=False)
    with pytest.raises(CommitConflict):
        world.run()
    world.later(100)
    world.run()
    assert world.rows() == [(1, 1), (2, 2**40), (7, 7)]
    assert by_duckdb(world.path, schema_of(world)).sort("id").rows() == world.rows()
    held = {file.path for file in log_of(world).snapshot().files.values()}
    assert len(list((world.root / "lake/s/t").glob("*.parquet"))) == len(held) + 4


@pytest.mark.parametrize("way", [way for way in Way if way is not Way.HALF])
@pytest.mark.parametrize("point", ["data file put", "commit created", "watermark recorded"])
def test_a_death_anywhere_between_the_two_commits_is_harmless(make_world, way, point):
    """Each effect of the retyping and of its batch goes wrong in each way; the next loader ends where it should."""
    for number in itertools.count(1):
        world = make_world(write_mode="merge_on_read")
        load(world, (ID, ("v", "integer"), ("w", "long")), [{"id": n, "v": n, "w": n} for n in range(4)])
        cdc(world, world.columns, ("D", {"id": 3}))
        after = (ID, ("v", "long"), ("w", "long"), ("new", "string"))
        cdc(world, after, ("I", {"id": 9, "v": 2**40, "new": "n"}), ("U", {"id": 0, "v": 5}), run=False)
        faults = Faults(point, number, way)
        with suppress(Killed, CdcloaderError):
            lake, store = FaultyLake(world.lake, faults), FaultyStore(world.store, faults)
            world.run(world.loader(lake=lake, store=store))
        if not faults.fired:
            assert number > 1
            break
        world.later(1000)
        assert world.run().outcome is Outcome.IDLE
        rows = [(0, 5, None, None), (1, 1, 1, None), (2, 2, 2, None), (9, 2**40, None, "n")]
        assert world.rows() == sorted(by_duckdb(world.path, schema_of(world)).rows()) == rows
        assert [c.kind for c in changes_of(world)] == [Kind.WIDENED, Kind.ADDED]
        record = world.record()
        assert (record.rows_inserted, record.rows_updated, record.rows_deleted) == (5, 1, 1)


def test_a_full_load_of_files_of_several_types(make_world):
    """The wider type, or with `on_type_change: string` text; else the load stops with both files' names."""
    for policy, rows in (("string", [(1, "1"), (2, "2"), (3, "three")]), ("widen", None)):
        world = make_world(on_type_change=policy)
        for id_, (kind, value) in enumerate([("integer", 1), ("long", 2), ("string", "three")], start=1):
            world.columns = (ID, ("v", kind))
            world.load([{"id": id_, "v": value}], number=id_)
        world.later(400)
        if rows:
            world.run()
            assert_holds(world, [{"id": id_, "v": text} for id_, text in rows])
        else:
            error = stopped(world, r"type long in .*LOAD00000002.parquet and string in .*LOAD00000003.parquet")
            assert "set the column's type under `columns`" in error.hint


def test_a_table_without_a_key_widens_too(make_world):
    """Its rows are in no order, and keep that which they have; a late file brings the narrower type, once."""
    world = make_world(key=None)
    load(world, (ID, ("v", "integer")), [{"id": 2, "v": 1}, {"id": 1, "v": 1}])
    late = world.now
    world.later()
    cdc(world, (ID, ("v", "long")), ("I", {"id": 3, "v": 2**40}))
    world.columns = (ID, ("v", "integer"))
    world.cdc([("I", {"id": 4, "v": 4})], at=late, visible=world.now)
    world.later()
    world.run()
    assert_holds(world, [{"id": 1, "v": 1}, {"id": 2, "v": 1}, {"id": 3, "v": 2**40}, {"id": 4, "v": 4}])


def test_a_damaged_file_behind_a_wider_one_is_alone_in_the_way(make_world):
    """The table has its new type then, and the files before the damaged one are in it."""
    world = make_world()
    load(world, (ID, ("v", "integer")), [{"id": 1, "v": 1}])
    cdc(world, (ID, ("v", "long")), ("I", {"id": 2, "v": 2**40}), run=False)
    world.columns = (ID, ("v", "long"))
    name = world.cdc([("I", {"id": n, "v": n}) for n in range(3, 3000)])
    content = bytearray((world.raw / name).read_bytes())
    content[4:40] = b"\xff" * 36
    world.put(name, bytes(content))
    world.later()
    with pytest.raises((TableError, CommitConflict)):
        world.run()
    world.later(100)
    error = stopped(world, "not a readable Parquet file")
    assert error.where.endswith(name)
    assert world.rows() == [(1, 1), (2, 2**40)]


# What a column may be declared as in turn, and the values that it then has.
VALUES = {
    "short": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "decimal(9,2)": st.decimals(-9_999_999, 9_999_999, places=2),
    "double": st.floats(-1e9, 1e9, allow_subnormal=False).map(lambda v: v + 0.0),
    "string": st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=5),
    "boolean": st.booleans(),
    "date": st.dates(date(1900, 1, 1), date(2200, 1, 1)),
    "timestamp": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
}  # fmt: skip
NAMES = ("a", "b", "c")


@st.composite
def batches(draw):
    """Files, each with columns of its own choice and types, and changes of a few keys."""
    names = draw(st.permutations(NAMES).flatmap(lambda p: st.integers(0, 3).map(lambda n: p[:n])))
    columns = [(name, draw(st.sampled_from(sorted(VALUES)))) for name in names]
    row = st.fixed_dictionaries({"id": st.integers(0, 5), **{n: st.none() | VALUES[k] for n, k in columns}})
    return tuple(columns), draw(st.lists(st.tuples(st.sampled_from("IUD"), row), min_size=1, max_size=5))


class Oracle:
    """A dict of rows, and the plain rule for types: the wider one, else text."""

    def __init__(self):
        self.types, self.before, self.rows = {}, {}, {}

    def take(self, columns, changes):
        for name, kind in columns:
            old = self.types.get(name, kind)
            both = wider(old, kind) if old != "string" else None
            if both is None and old not in ("string", kind):
                self.before[name] = old
            self.types[name] = kind if old == kind else both or "string"
        for op, row in changes:
            self.rows.pop(row["id"], None)
            if op != "D":
                self.rows[row["id"]] = {name: (kind, row[name]) for name, kind in columns}

    def value(self, name, kind, value):
        """The value as the table holds it now."""
        want = self.types[name]
        column = pl.Series([value], dtype=polars_type(kind))
        if want != "string" or kind == "string":
            return column.cast(polars_type(want)).item()
        through = self.before.get(name)
        if through is not None and wider(kind, through) == through:
            column = column.cast(polars_type(through))
        return as_text(column).item()

    def held(self):
        return sorted(
            (id_, *(self.value(n, *row[n]) if n in row else None for n in self.types)) for id_, row in self.rows.items()
        )


FILES = st.lists(batches(), min_size=1, max_size=7)
STEPS = st.sets(st.integers(0, 6))
MODES = st.sampled_from(["auto", "merge_on_read"])


def equals_a_dict(world, files, steps):
    oracle = Oracle()
    for number, (columns, changes) in enumerate(files):
        world.columns = (ID, *columns)
        world.cdc(changes)
        world.later()
        oracle.take(columns, changes)
        if number in steps:
            world.run()
    world.run()
    schema = schema_of(world)
    assert {column.name: column.type for column in schema} == {"id": "long", **oracle.types}
    order = ["id", *oracle.types]
    for reader in (by_duckdb, by_polars):
        assert sorted(reader(world.path, schema).select(order).rows()) == oracle.held()
    assert world.record().rows_quarantined == 0


@settings(max_examples=10, deadline=None)
@given(files=FILES, steps=STEPS, mode=MODES)
def test_a_random_history_of_columns_equals_a_dict(world_class, tmp_path_factory, files, steps, mode):
    """With `on_type_change: string` every history of types goes through, in batches of any size, to two readers."""
    equals_a_dict(world_class(tmp_path_factory.mktemp("w"), on_type_change="string", write_mode=mode), files, steps)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=300, deadline=None)
@given(files=FILES, steps=STEPS, mode=MODES)
def test_many_random_histories_of_columns(world_class, tmp_path_factory, files, steps, mode):
    """More of the same."""
    equals_a_dict(world_class(tmp_path_factory.mktemp("w"), on_type_change="string", write_mode=mode), files, steps)
