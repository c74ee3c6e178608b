"""Column rules from raw files to the table, beside a plain Python account of what they mean."""

import hashlib
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from structlog.testing import capture_logs

from cdcloader.config.models import Table
from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.errors import TableError
from cdcloader.lake.log import DeltaLog
from cdcloader.loader.steps import Outcome
from cdcloader.loader.verify import verify
from tests.readers import by_duckdb, by_polars

COLUMNS = (
    ("id", "long"),
    ("status", "string"),
    ("created_at", "timestamp"),
    ("email", "string"),
    ("amount", "decimal(12,2)"),
)
FORMATS = {
    "parquet": DmsSettings(format="parquet"),
    "csv with a header": DmsSettings(format="csv", header=True),
    "csv without a header": DmsSettings(format="csv"),
}
DAY = {"order_day": "CAST(created_at AS DATE)"}


def row(number, status="new", day=1, email="a@b.c", amount="1.50"):
    at = datetime(2026, 3, day, 12, tzinfo=UTC)
    return {"id": number, "status": status, "created_at": at, "email": email, "amount": Decimal(amount)}


def ruled(world, **rules):
    """The world with further keys in its table's config."""
    world.table = Table.model_validate({**world.table.model_dump(), **rules})
    return world


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def loaded(world, rows):
    world.load(rows)
    world.later(600)
    assert world.run().outcome is Outcome.IDLE
    return world


def applied(world, changes):
    world.cdc(changes)
    world.later()
    assert world.run().outcome is Outcome.IDLE
    return world


def dicts(world):
    """The rows by Polars, which DuckDB must see too."""
    snapshot = DeltaLog(world.lake, "s/t").snapshot()
    schema = snapshot.schema("s/t")
    rows = by_polars(world.path, schema)
    assert sorted(map(str, rows.rows())) == sorted(map(str, by_duckdb(world.path, schema).rows()))
    return sorted(rows.to_dicts(), key=lambda each: str(each.get("id")))


def verified(world):
    return verify(world.loader().context, world.record(), budget_bytes=1 << 30)


# Each rule: what the config says, and what becomes of a row (None: it does not belong to the table).
RULES = {
    "rename": ({"rename": {"Status": "state"}}, lambda r: {("state" if k == "status" else k): v for k, v in r.items()}),
    "cast": (
        {"cast": {"amount": "string", "created_at": "date", "id": "decimal(20,0)"}},
        lambda r: {**r, "amount": str(r["amount"]), "created_at": r["created_at"].date(), "id": Decimal(r["id"])},
    ),
    "drop": ({"drop": ["EMAIL"]}, lambda r: {k: v for k, v in r.items() if k != "email"}),
    "filter": ({"filter": "status <> 'test'"}, lambda r: r if r["status"] not in (None, "test") else None),
    "derive": ({"derive": DAY}, lambda r: {**r, "order_day": r["created_at"].date()}),
    "mask sha256": ({"mask": {"email": "sha256"}}, lambda r: {**r, "email": r["email"] and sha(r["email"])}),
    "mask null": ({"mask": {"email": None, "amount": "null"}}, lambda r: {**r, "email": None, "amount": None}),
}
# A file without a header has no names to be renamed.
ALONE = [(name, fmt) for name in RULES for fmt in FORMATS if (name, fmt) != ("rename", "csv without a header")]


@pytest.mark.parametrize(("name", "fmt"), ALONE)
def test_a_rule_alone(make_world, name, fmt):
    """Each rule does to every row what it says, in a full load and in changes, whatever the format."""
    rules, mean = RULES[name]
    world = make_world(columns=COLUMNS, dms=FORMATS[fmt])
    if "rename" in rules:
        rules = {
            **rules,
            "columns": {"state" if n == "status" else n: kind for n, kind in COLUMNS} if "csv" in fmt else {},
        }
    ruled(world, **rules)
    loaded(world, [row(1), row(2, "test", email=None), row(3)])
    applied(world, [("U", row(1, "paid", 2)), ("I", row(4, email="x@y.z")), ("D", row(3))])
    applied(world, [("U", row(2, "ok", 3)), ("U", row(4, "test")), ("I", row(5, "test"))])
    last = [row(1, "paid", 2), row(2, "ok", 3), row(4, "test"), row(5, "test")]
    assert dicts(world) == [made for each in last if (made := mean(each)) is not None]
    assert verified(world).equal


def mean_all(each):
    """What ALL makes of a row."""
    if each["status"] in (None, "test"):
        return None
    return {
        "id": sha(str(each["id"])),
        "state": each["status"],
        "email": sha(each["email"]) if each["email"] is not None else None,
        "amount": float(each["amount"]),
        "order_day": each["created_at"].date(),
        "domain": each["email"] and each["email"].split("@")[-1],
    }


ALL = {
    "rename": {"status": "state"},
    "cast": {"amount": "double"},
    "filter": "state <> 'test'",
    "derive": {**DAY, "domain": "SPLIT_PART(email, '@', 2)"},
    "mask": {"email": "sha256", "id": "sha256"},
    "drop": ["created_at"],
    "partition_by": ["order_day"],
}


@pytest.mark.parametrize("seed", range(6))
def test_all_rules_together(make_world, seed):
    """Any history of a table with every rule ends as the plain account of it says, by readers that users have."""
    rng = random.Random(seed)
    fmt = FORMATS["parquet" if seed % 2 else "csv with a header"]
    world = make_world(columns=COLUMNS, dms=fmt, write_mode=rng.choice(["auto", "copy_on_write", "merge_on_read"]))
    new = {"columns": {"state" if n == "status" else n: kind for n, kind in COLUMNS}} if not seed % 2 else {}
    ruled(world, **ALL, **new)
    world.chunk_bytes = rng.choice([200, 1 << 24])

    def some(number):
        status = rng.choice(["new", "paid", "test", None])
        return row(number, status, rng.randint(1, 4), rng.choice(["a@b.c", "ä@ö.de", None]), f"{rng.randint(0, 99)}.25")

    rows = {number: some(number) for number in range(rng.randint(1, 30))}
    loaded(world, list(rows.values()))
    for _ in range(4):
        changes = []
        for _ in range(rng.randint(1, 20)):
            number = rng.randint(0, 40)
            if number in rows and rng.random() < 0.3:
                changes.append(("D", rows.pop(number)))
            else:
                changes.append(("U" if number in rows else "I", some(number)))
                rows[number] = changes[-1][1]
        applied(world, changes)
    expected = [made for each in rows.values() if (made := mean_all(each)) is not None]
    assert sorted(dicts(world), key=lambda each: each["id"]) == sorted(expected, key=lambda each: each["id"])
    for done in world.batches:
        done.account.check("")
    assert verified(world).equal
    assert verify(world.loader().context, world.record(), budget_bytes=1 << 30, quick=True).equal


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_insert_only_table_leaves_rows_out(make_world, fmt):
    """Without a key, rows that the filter does not let through are left out and counted, and the others mapped."""
    world = ruled(make_world(columns=COLUMNS, key=None, dms=FORMATS[fmt]), filter="status <> 'test'", drop=["amount"])
    loaded(world, [row(1), row(1, "test"), row(2, None)])
    applied(world, [("I", row(3)), ("I", row(4, "test"))])
    assert [each["id"] for each in dicts(world)] == [1, 3]
    assert [(done.account.rows_in, done.account.noop) for done in world.batches] == [(3, 2), (2, 1)]
    assert verified(world).equal


def test_a_row_leaves_the_filter_and_comes_back(make_world):
    """An update that the filter does not let through deletes the row; a later one that it does brings it back."""
    world = loaded(ruled(make_world(columns=COLUMNS), filter="status <> 'test'"), [row(1), row(2)])
    applied(world, [("U", row(1, "test")), ("U", row(3, "test"))])
    account = world.batches[-1].account
    assert [each["id"] for each in dicts(world)] == [2]
    assert (account.deleted, account.noop, account.updated) == (1, 1, 0)
    applied(world, [("U", row(1, "paid"))])
    assert [each["id"] for each in dicts(world)] == [1, 2]


def test_a_value_that_no_cast_takes_is_quarantined(make_world):
    """A value that does not fit the cast's type, or fails an expression, costs its row, with the reason and place."""
    world = ruled(
        make_world(columns=COLUMNS),
        cast={"amount": "decimal(12,1)"},
        derive={"number": "CAST(status AS BIGINT)"},
        filter="email IS NOT NULL",
    )
    # A row that the filter leaves out, or a D, need not have a number.
    loaded(world, [row(1, "7"), row(2, "x"), row(3, "9", amount="1.25"), row(4, "y", email=None)])
    applied(world, [("D", row(1, "z")), ("I", row(5, "5")), ("U", row(6, "six"))])
    assert [(each["id"], each["number"], each["amount"]) for each in dicts(world)] == [(5, 5, Decimal("1.5"))]
    rejects = pl.read_parquet(f"{world.root}/lake/_quarantine/s/t/*.parquet").sort("file", "row")
    assert rejects["row"].to_list() == [3, 2, 3]
    assert "derive 'number'" in rejects["reason"][0]
    assert rejects["reason"][2] == "column 'amount': '1.25' is no decimal(12,1)"
    assert '"status": "six"' in rejects["raw"][0]
    assert [done.account.quarantined for done in world.batches] == [2, 1]
    assert verified(world).equal


def test_masked_values_are_nowhere_in_the_lake(make_world):
    """Of a table that masks columns no file of the lake holds a value of them, nor does the quarantine."""
    world = ruled(
        make_world(columns=COLUMNS, dms=FORMATS["csv with a header"]),
        mask={"email": "sha256", "amount": "null"},
        cast={"status": "long"},
    )
    loaded(world, [row(1, "7", email="secret@x"), row(2, "secret@x", email="secret@x")])
    world.put(
        "20260301-130000000.csv", b"Op,id,status,created_at,email,amount\nI,3,1,2026-03-01 12:00:00,secret@x,secret@x\n"
    )
    world.later()
    world.run()
    assert len(dicts(world)) == 1
    assert sum(done.account.quarantined for done in world.batches) == 2
    for path in (world.root / "lake").rglob("*"):
        if path.suffix == ".parquet":
            assert "secret" not in str(pl.read_parquet(path).rows()), path
        elif path.is_file():
            assert b"secret" not in path.read_bytes(), path


def test_the_source_renames_the_column_itself(make_world):
    """With `rename`, files from before and after a rename in the source feed one column; no rows are lost between."""
    world = loaded(ruled(make_world(columns=COLUMNS), rename={"status": "state"}), [row(1), row(2)])
    world.cdc([("U", row(1, "paid"))])
    world.later()
    world.columns = tuple(("state" if name == "status" else name, kind) for name, kind in COLUMNS)
    world.cdc([("U", {**row(2), "state": "sent"}), ("I", {**row(3), "state": "new"})])
    world.later()
    world.run()
    assert [(each["id"], each["state"]) for each in dicts(world)] == [(1, "paid"), (2, "sent"), (3, "new")]
    assert "status" not in world.frame().columns


def test_json_has_old_and_new_names(make_world):
    """Keys of JSON lines are renamed like columns; a line with the old and the new key is quarantined."""
    world = ruled(make_world(columns=COLUMNS), rename={"Status": "state"}, mask={"email": "null"})
    world.put("LOAD00000001.json", b'{"id":1,"status":"new","email":"a"}\n{"id":2,"STATE":"paid"}\n')
    world.later(600)
    world.run()
    world.put("20260301-130000000.json", b'{"Op":"U","id":1,"state":"x"}\n{"Op":"I","id":3,"status":"a","state":"b"}\n')
    world.later()
    world.run()
    assert [(each["id"], each["state"], each["email"]) for each in dicts(world)] == [(1, "x", None), (2, "paid", None)]
    assert sum(done.account.quarantined for done in world.batches) == 1


def test_a_file_with_the_old_and_the_new_name_stops_the_table(make_world):
    """A file that has both the old and the new name of a column blocks the table, with the file and both names."""
    world = loaded(ruled(make_world(columns=COLUMNS), rename={"status": "state"}), [row(1)])
    world.columns = (*COLUMNS, ("STATE", "string"))
    name = world.cdc([("U", {**row(1), "STATE": "x"})])
    world.later()
    with pytest.raises(TableError, match="'status' and 'state'") as caught:
        world.run()
    assert caught.value.where.endswith(name)


def test_rules_that_change_are_told(make_world):
    """New rules hold from then on: the log says so, `verify` does not judge, a reload brings all rows under them."""
    world = loaded(ruled(make_world(columns=COLUMNS), derive=DAY), [row(1), row(2)])
    ruled(world, derive={"month": "STRFTIME(created_at, '%Y-%m')"}, mask={"email": "sha256"}, drop=["nosuch"])
    with capture_logs() as lines:
        applied(world, [("U", row(1))])
    assert any("column rules changed" in line["event"] for line in lines)
    assert [(each["order_day"], each["month"]) for each in dicts(world)] == [
        (None, "2026-03"),
        (date(2026, 3, 1), None),
    ]
    found = verified(world)
    assert not found.verified
    assert "column rules changed" in found.reason
    world.load([row(1), row(2)])
    world.later(600)
    world.run()
    assert "order_day" not in world.frame().columns
    assert {each["month"] for each in dicts(world)} == {"2026-03"}
    assert verified(world).equal


def test_rules_that_are_taken_away(make_world):
    """Without its rules a table takes the source's columns again, and header-less files keep theirs."""
    world = loaded(
        ruled(make_world(columns=COLUMNS, dms=FORMATS["csv without a header"]), derive=DAY, drop=["email"]), [row(1)]
    )
    ruled(world, derive={}, drop=[], columns={})
    applied(world, [("I", row(2))])
    first, second = dicts(world)
    assert (first["order_day"], first["email"]) == (date(2026, 3, 1), None)
    assert (second["order_day"], second["email"]) == (None, "a@b.c")


def test_a_rename_that_comes_later(make_world):
    """A rename of a loaded table begins a new column and ends the old one, for files without a header too."""
    world = loaded(make_world(columns=COLUMNS, dms=FORMATS["csv with a header"]), [row(1)])
    ruled(world, rename={"status": "state"}, columns={})
    applied(world, [("I", row(2))])
    first, second = dicts(world)
    assert (first["status"], first["state"]) == ("new", None)
    assert (second["status"], second["state"]) == (None, "new")


def test_csv_types_stay_pinned_behind_rules(make_world):
    """What a cast makes of an inferred column does not change the type that further files are read as."""
    world = ruled(make_world(columns=COLUMNS, dms=FORMATS["csv with a header"]), columns={}, cast={"id": "string"})
    loaded(world, [row(1), row(2)])
    world.put("20260301-130000000.csv", b"Op,id,status,created_at,email,amount\nI,x,1,2026-03-01 12:00:00,a,1\n")
    applied(world, [("I", row(3))])
    world.later()
    world.run()
    assert [each["id"] for each in dicts(world)] == ["1", "2", "3"]
    assert sum(done.account.quarantined for done in world.batches) == 1


def test_an_inferred_type_that_grows_under_rules(make_world):
    """A full load whose guessed types turn out too narrow begins again, with rules over the wider ones."""
    world = ruled(
        make_world(columns=COLUMNS, dms=FORMATS["csv with a header"]),
        columns={},
        derive={"first": "LEFT(CAST(status AS VARCHAR), 1)"},
    )
    world.chunk_bytes = 1 << 16
    rows = [row(number, str(number)) for number in range(20_000)]
    loaded(world, [*rows[:10_000], row(20_000, "text"), *rows[10_000:]])
    assert world.frame().height == 20_001
    assert set(world.frame()["first"]) == set("123456789t0")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"derive": {"status": "id + 1"}}, "the source has a column 'status'"),
        ({"derive": {"x": "nosuch + 1"}}, "there is no column 'nosuch'"),
        ({"derive": {"x": "SUM(id)"}}, "more than the row"),
        ({"derive": {"x": "ARRAY[1]"}}, "cannot hold"),
        ({"derive": {"x": "id +"}}, "no SQL expression"),
        ({"derive": {"x": "status > 1"}}, "cannot compare"),
        ({"filter": "id + 1"}, "is a long, not true or false"),
        ({"filter": "created_at > NOW()"}, "asks the clock"),
        ({"cast": {"id": "double"}}, "key column"),
        ({"cast": {"created_at": "long"}}, "no timestamp is a long"),
        ({"partition_by": ["day"], "derive": {"dya": "CAST(created_at AS DATE)"}}, "partition_by names 'day'"),
    ],
)
def test_rules_that_cannot_be(make_world, rules, message):
    """A rule that does not fit the files blocks its table with its place in the config, and nothing is committed."""
    world = ruled(make_world(columns=COLUMNS), **rules)
    world.load([row(1)])
    world.later(600)
    with pytest.raises(TableError) as caught:
        world.run()
    assert message in caught.value.what
    assert world.batches == []


def test_a_misspelt_mask_publishes_nothing(make_world):
    """A mask of the table's own without a column stops it and names the nearest, in loads and in changes."""
    world = ruled(make_world(columns=COLUMNS), mask={"EMIAL": "null"})
    world.load([row(1)])
    world.later(600)
    with pytest.raises(TableError) as caught:
        world.run()
    assert "'EMIAL'" in caught.value.what
    assert "the columns are id, status, created_at, email, amount" in caught.value.what
    assert caught.value.where == "tables[s/t].mask.EMIAL"
    assert "did you mean 'email'?" in caught.value.hint
    assert world.batches == []
    loaded(ruled(world, mask={"EMAIL": "null"}), [row(1)])
    ruled(world, mask={"EMAIL": "null", "telephone": "sha256"})
    world.cdc([("I", row(2))])
    world.later()
    with pytest.raises(TableError, match="'telephone'"):
        world.run()
    assert [each["email"] for each in dicts(world)] == [None]


def test_rules_without_a_column_are_told(make_world):
    """Rules that are shared by many tables, and renames, draw a warning where the source has no such column."""
    rules = {"mask": {"phone": "null"}, "rename": {"NOPE": "b", "status": "state"}, "cast": {"n": "long"}}
    world = ruled(make_world(columns=COLUMNS), drop=["x"], **rules)
    world.table = world.table.sharing(["phone"])
    with capture_logs() as lines:
        loaded(world, [row(1)])
    told = [line["columns"] for line in lines if line["event"].startswith("column rules name columns")]
    assert told == [["rename.NOPE", "cast.n", "mask.phone", "drop.x"]]


def test_an_expression_that_fails_for_all_rows_stops_the_table(make_world):
    """What fails for a thousand rows is no matter of values: the table stops, and none of them is quarantined."""
    world = ruled(make_world(columns=COLUMNS), derive={"n": "CAST(status AS BIGINT)"})
    world.load([row(number) for number in range(3_000)])
    world.later(600)
    with pytest.raises(TableError, match="fails for more than") as caught:
        world.run()
    assert caught.value.where == "tables[s/t].derive.n"
    assert "new" not in str(caught.value)


def test_a_batch_that_is_repeated_changes_nothing(make_world, monkeypatch):
    """A kill before the commit, and a replay of a late file, end as if neither had been."""
    world = loaded(ruled(make_world(columns=COLUMNS), filter="status <> 'test'", derive=DAY), [row(1), row(2)])
    world.cdc([("U", row(1, "test")), ("I", row(3, day=4))])
    at = world.now
    world.later()
    commit = DeltaLog.commit
    monkeypatch.setattr(DeltaLog, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        world.run()
    monkeypatch.setattr(DeltaLog, "commit", commit)
    world.later(120)
    world.run()
    assert [(each["id"], each["order_day"]) for each in dicts(world)] == [(2, date(2026, 3, 1)), (3, date(2026, 3, 4))]
    world.cdc([("U", row(2, "test")), ("U", row(1, "paid"))], at=at - timedelta(seconds=30), visible=world.now)
    world.later()
    world.run()
    assert [each["id"] for each in dicts(world)] == [3]
    assert verified(world).equal


WIDER = tuple((name, "long" if name == "n" else kind) for name, kind in (*COLUMNS, ("n", "integer")))
NARROW = (*COLUMNS, ("n", "integer"))


def test_a_type_grows_under_rules(make_world):
    """A column of the source that takes a wider type widens the table, where no rule says otherwise."""
    world = ruled(make_world(columns=NARROW), derive={"twice": "n * 2"}, cast={"amount": "double"}, drop=["email"])
    loaded(world, [{**row(1), "n": 1}])
    world.columns = tuple((n, "decimal(20,4)" if n == "amount" else kind) for n, kind in WIDER)
    applied(world, [("I", {**row(2, amount="2.2500"), "n": 2**40})])
    assert [(each["n"], each["amount"]) for each in dicts(world)] == [(1, 1.5), (2**40, 2.25)]
    assert world.frame().schema["n"] == pl.Int64
    assert verified(world).equal


def test_a_column_that_comes_under_rules(make_world):
    """A new column of the source is added to a table with rules, and may be used by them from then on."""
    world = ruled(make_world(columns=COLUMNS), mask={"phone": "sha256"}, drop=["internal"])
    world.table = world.table.sharing(["phone"])
    loaded(world, [row(1)])
    world.columns = (*COLUMNS, ("phone", "string"), ("internal", "string"))
    applied(world, [("I", {**row(2), "phone": "1", "internal": "x"})])
    first, second = dicts(world)
    assert (first["phone"], second["phone"]) == (None, sha("1"))
    assert "internal" not in second
    assert verified(world).equal


def test_frozen_columns_take_those_of_rules(make_world):
    """`schema: freeze` stops the table for a new column of the source, and not for one that the config derives."""
    world = loaded(ruled(make_world(columns=COLUMNS), schema="freeze"), [row(1)])
    ruled(world, derive=DAY)
    applied(world, [("I", row(2))])
    assert [each["order_day"] for each in dicts(world)] == [None, date(2026, 3, 1)]
    world.columns = (*COLUMNS, ("phone", "string"))
    name = world.cdc([("I", {**row(3), "phone": "1"})])
    world.later()
    with pytest.raises(TableError, match="'phone'") as caught:
        world.run()
    assert caught.value.where.endswith(name)


def test_a_key_keeps_its_type_under_rules(make_world):
    """A key column whose type grows in the source stops the table, unless a cast gives it a type of its own."""
    narrow = tuple((name, "integer" if name == "id" else kind) for name, kind in COLUMNS)
    world = loaded(ruled(make_world(columns=narrow), derive=DAY), [row(1)])
    world.columns = COLUMNS
    world.cdc([("I", row(2))])
    world.later()
    with pytest.raises(TableError, match="key column"):
        world.run()
    world = loaded(ruled(make_world(columns=narrow), cast={"id": "long"}), [row(1)])
    world.columns = COLUMNS
    applied(world, [("I", row(2**40))])
    assert [each["id"] for each in dicts(world)] == [1, 2**40]


def test_a_changed_key_under_rules(make_world):
    """A changed key deletes the row of the old one, by the name, type and mask that rules give to the key."""
    world = ruled(
        make_world(columns=COLUMNS), rename={"id": "number"}, primary_key=["number"], filter="status <> 'test'",
        mask={"number": "sha256"}, derive=DAY, partition_by=["order_day"],
    )  # fmt: skip
    loaded(world, [row(1), row(2), row(3)])
    world.columns = (*COLUMNS, ("BI_id", "long"))
    applied(world, [("U", {**row(11, day=2), "BI_id": 1}), ("U", {**row(12, "test"), "BI_id": 2}), ("U", row(3, "x"))])
    found = sorted((each["number"], each["status"]) for each in dicts(world))
    assert found == sorted([(sha("11"), "new"), (sha("3"), "x")])
    assert verified(world).equal
    world.put("20260301-140000000.json", b'{"Op":"U","id":13,"BI_ID":3,"status":"y","created_at":"2026-03-01"}\n')
    world.later()
    world.run()
    assert sorted(each["number"] for each in dicts(world)) == sorted([sha("11"), sha("13")])
    assert verified(world).equal


def test_partial_rows_under_rules(make_world):
    """What an update does not log keeps its value under its new name and type; expressions need whole rows."""
    world = ruled(
        make_world(columns=COLUMNS), rename={"status": "state"}, cast={"amount": "string"}, mask={"email": "sha256"},
        drop=["created_at"], partial_updates="keep",
    )  # fmt: skip
    loaded(world, [row(1), row(2)])
    applied(world, [("U", {"id": 1, "status": "paid"}), ("U", {"id": 2, "email": "new"})])
    applied(world, [("U", {"id": 1, "amount": Decimal("2.50")})])
    assert [tuple(each.values()) for each in dicts(world)] == [
        (1, "paid", sha("a@b.c"), "2.50"),
        (2, "new", sha("new"), "1.50"),
    ]
    assert verified(world).equal
    with pytest.raises(ValueError, match="whole rows"):
        ruled(world, filter="state <> 'x'")
    with pytest.raises(ValueError, match="whole rows"):
        ruled(world, derive={"x": "state"})
