"""PreserveTransactions on S3: Parquet LOADs, and changes of all tables in shared CSV files."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cdcloader.demo.dms_writer import Change, DmsSettings, load_name, render_load, transactions_file

SETTINGS = DmsSettings(format="parquet", cdc_path="changes")
COLUMNS = {
    "shop/orders": (("id", "long"), ("total", "decimal(12,2)"), ("placed", "timestamp"), ("note", "string")),
    "shop/items": (("id", "long"), ("price", "double"), ("sold", "boolean")),
    "crm/people": (("id", "long"), ("born", "date"), ("name", "string")),
}
FILES, CHANGES = 6, 120


def value(kind, draw):
    if draw.random() < 0.1:
        return None
    number = draw.randrange(1000)
    return {
        "decimal(12,2)": Decimal(number) / 4,
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
        "string": draw.choice(["", 'a "quoted" one', "two\nlines", "é, and a comma", "plain"]),
        "double": number / 8,
        "boolean": number % 2 == 0,
        "date": (datetime(1899, 12, 1, tzinfo=UTC) + timedelta(days=number)).date(),
    }[kind]


def row(source, number, draw):
    return {name: number if name == "id" else value(kind, draw) for name, kind in COLUMNS[source]}


@pytest.fixture(scope="module")
def site(make_site):
    return make_site("s3")


def test_shared_files_feed_all_tables_and_are_fetched_once(site):
    """`run --once` loads every table from its own LOAD and the shared files; DuckDB sees the model in each."""
    draw = random.Random(20201117)
    model = {source: {} for source in COLUMNS}
    for source, columns in COLUMNS.items():
        rows = [row(source, number, draw) for number in range(1, 20)]
        model[source] = {each["id"]: each for each in rows}
        site.put(f"{source}/{load_name(1, SETTINGS)}", render_load(SETTINGS, columns, rows))
    at = datetime.now(UTC)
    for _ in range(FILES):
        changes = []
        for _ in range(CHANGES):
            source, op = draw.choice(list(COLUMNS)), draw.choice("IUUD")
            changed = row(source, draw.randrange(1, 40), draw)
            changes.append((source, COLUMNS[source], Change(op, changed, at)))
            model[source].pop(changed["id"], None)
            if op != "D":
                model[source][changed["id"]] = changed
        at += timedelta(milliseconds=1500)
        file = transactions_file(SETTINGS, changes, at=at)
        site.put(file.key, file.content)
    site.configure(
        [{"source": source} for source in COLUMNS], defaults={"primary_key": ["id"], "cdc_path": SETTINGS.cdc_path}
    )
    done = site.run_once()
    assert done.code == 0, done.stderr
    for source, rows in model.items():
        found = site.readers(source)["DuckDB"]().sort("id").to_dicts()
        assert found == [each for _, each in sorted(rows.items())], source
        assert done.tables[source]["last_incremental_file"].endswith(f"/{source}/{file.key.rpartition('/')[2]}")
    read = [sum(account["in"] for account in done.accounts(source)[1:]) for source in COLUMNS]
    assert sum(read) == FILES * CHANGES
    gets = Counter(r.path for r in site.aws.requests if r.method == "GET" and "CDC_TXN" in r.path)
    assert len(gets) == FILES
    assert set(gets.values()) == {1}


def test_the_table_is_what_its_shared_files_say(site):
    """`verify` recomputes each table from its LOAD and its rows of the shared files, and writes nothing."""
    sent = len(site.aws.requests)
    done = site.cli("verify", *COLUMNS, "--json", "--config", site.config)
    assert done.code == 0, done.stdout + done.stderr
    assert {table["result"] for table in done.json["tables"]} == {"equal"}
    puts = [r for r in site.aws.requests[sent:] if r.method == "PUT" and not site.of_the_probe(r)]
    assert puts == []


def test_broken_rows_end_the_run_with_one(site):
    """Rows of no table are in the folder's quarantine, and the exit code asks for attention; a further run is 0."""
    file = transactions_file(
        SETTINGS,
        [("crm/people", COLUMNS["crm/people"], Change("I", {"id": 999, "born": None, "name": "x"}, datetime.now(UTC)))],
        at=datetime.now(UTC) + timedelta(seconds=60),
    )
    site.put(file.key, file.content + b"I,people\n")
    done = site.run_once()
    assert done.code == 1, done.stderr
    told = [event for event in done.events if "belong to no table" in event["event"]]
    assert [event["count"] for event in told] == [1]
    listed = site.aws.client("s3").list_objects_v2(
        Bucket=site.name, Prefix="data/curated/_quarantine/changes/_no_table/"
    )
    assert len(listed["Contents"]) == 1
    assert 999 in site.readers("crm/people")["DuckDB"]()["id"]
    assert site.run_once().code == 0
