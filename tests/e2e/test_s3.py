"""Full load, changes and operators' edits on S3 and DynamoDB, through the command alone."""

from __future__ import annotations

import re

import pytest

from tests.services.proxy import UNCONDITIONAL, FaultProxy, Rule

SOURCES = {"sampledb/product", "sampledb/store", "sampledb/productorder"}
STATUS_FIELDS = {
    "source", "target", "phase", "generation", "last_full_load_date", "last_incremental_file", "backlog_files",
    "backlog_bytes", "lag_seconds", "delta_version", "rows_inserted", "rows_updated", "rows_deleted",
    "rows_quarantined", "error",
}  # fmt: skip
DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


class Bench:
    """A loaded site, its DMS, and the run that loaded it; every test leaves all files applied."""

    def __init__(self, site, dms):
        self.site = site
        self.dms = dms
        site.configure(dms.config)
        dms.full_load()
        self.first_names = dms.change()
        self.last_names = dms.change()
        self.done = site.run_once()
        self.dynamodb = site.aws.client("dynamodb")

    def path(self, table):
        return f"{self.site.name}/data/raw/sampledb/{table}/"

    def item(self, table):
        """The state record as DynamoDB has it."""
        key = {"path": {"S": self.path(table)}}
        return self.dynamodb.get_item(TableName=self.site.state["table"], Key=key)["Item"]

    def edit(self, table, **attributes):
        """What an operator does in the DynamoDB console."""
        self.dynamodb.update_item(
            TableName=self.site.state["table"],
            Key={"path": {"S": self.path(table)}},
            UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in attributes),
            ExpressionAttributeValues={f":{name}": {"S": value} for name, value in attributes.items()},
        )


@pytest.fixture(scope="module")
def bench(make_site, dms):
    site = make_site("s3")
    return Bench(site, dms(site, partition_by=["line"]))


def test_a_run_loads_every_table_and_says_so(bench):
    """`run --once --json` exits 0, tells of each table all that DESIGN names, and every reader sees the model."""
    assert bench.done.code == 0, bench.done.stderr
    assert set(bench.done.tables) == SOURCES
    for source, table in bench.done.tables.items():
        assert table.keys() >= STATUS_FIELDS
        assert table["target"] == source
        assert (table["phase"], table["outcome"], table["error"]) == ("streaming", "idle", None)
        assert (table["backlog_files"], table["backlog_bytes"], table["lag_seconds"]) == (0, 0, 0)
        assert table["rows_inserted"] > 0
        assert table["rows_quarantined"] == 0
        assert table["delta_version"] == bench.site.versions(source)[-1]
    assert (bench.done.json["exit_code"], bench.done.json["seconds"] > 0) == (0, True)
    bench.dms.check_all()


def test_the_log_accounts_for_every_row(bench):
    """Each commit's line gives the rows by kind, and they sum up to the rows that were read."""
    for source in SOURCES:
        accounts = bench.done.accounts(source)
        assert len(accounts) == 2, accounts
        for account in accounts:
            assert account["in"] == sum(count for kind, count in account.items() if kind != "in") > 0


def test_the_state_record_reads_like_the_walkthroughs(bench):
    """A user of the AWS walkthrough finds its attributes, under its names and in its formats."""
    last = bench.last_names["productorder"][-1]
    item = bench.item("productorder")
    assert {
        "path": {"S": bench.path("productorder")},
        "bucket": {"S": bench.site.name},
        "prefix": {"S": "data/raw/sampledb/"},
        "folder": {"S": "productorder/"},
        "PrimaryKey": {"S": "order_id,line"},
        "PartitionKey": {"S": "line"},
        "LastIncrementalFile": {"S": f"{bench.path('productorder')}{last}"},
        "ActiveFlag": {"S": "true"},
        "out_path": {"S": f"s3://{bench.site.name}/data/curated/sampledb/productorder"},
    }.items() <= item.items()
    assert DATE.fullmatch(item["LastFullLoadDate"]["S"])
    assert bench.item("product")["PartitionKey"] == {"S": "null"}
    assert "LeaseOwner" not in item


def test_a_run_with_nothing_to_do_lists_each_table_once(bench):
    """A table that is up to date costs one LIST request per poll, and nothing is read or written on S3."""
    versions = {source: bench.site.versions(source) for source in SOURCES}
    bench.site.aws.requests.clear()
    done = bench.site.run_once()
    asked = [
        request
        for request in bench.site.aws.requests
        if request.path.startswith(f"/{bench.site.name}") and not bench.site.of_the_probe(request)
    ]
    assert done.code == 0, done.stderr
    assert sum(request.lists for request in asked) == len(SOURCES), asked
    assert len(asked) == len(SOURCES), asked
    assert versions == {source: bench.site.versions(source) for source in SOURCES}


def test_an_earlier_watermark_applies_the_files_after_it_again(bench):
    """LastIncrementalFile set back by hand: the files after it are applied again, with the same result."""
    table = "productorder"
    first, *again = bench.first_names[table] + bench.last_names[table]
    generation = int(bench.item(table)["Generation"]["N"])
    bench.edit(table, LastIncrementalFile=f"{bench.path(table)}{first}")
    done = bench.site.run_once()
    assert done.code == 0, done.stderr
    batches = [event for event in done.events if event["event"] == "batch applied"]
    assert {event["table"] for event in batches} == {f"sampledb/{table}"}
    assert batches[0]["first_file"] == again[0]
    assert sum(event["files"] for event in batches) >= len(again)
    assert int(bench.item(table)["Generation"]["N"]) == generation + 1
    assert bench.item(table)["LastIncrementalFile"]["S"].endswith(again[-1])
    bench.dms.check()


def test_an_old_full_load_date_loads_the_table_again(bench):
    """LastFullLoadDate set to 1900-01-01 00:00:00 by hand: full load and changes again, with the same result."""
    generation = int(bench.item("product")["Generation"]["N"])
    bench.edit("product", LastFullLoadDate="1900-01-01 00:00:00")
    done = bench.site.run_once()
    assert done.code == 0, done.stderr
    assert [event["table"] for event in done.events if event["event"] == "full load applied"] == ["sampledb/product"]
    assert bench.item("product")["LastFullLoadDate"]["S"] > "2020"
    assert int(bench.item("product")["Generation"]["N"]) == generation + 1
    bench.dms.check()


def test_an_inactive_table_waits(bench):
    """ActiveFlag false pauses one table, whose backlog shows, while the others go on; true takes it up again."""
    bench.edit("store", ActiveFlag="false")
    names = bench.dms.change()
    done = bench.site.run_once()
    assert done.code == 0, done.stderr
    store = done.tables["sampledb/store"]
    assert (store["phase"], store["outcome"], store["backlog_files"]) == ("paused", "paused", len(names["store"]))
    assert store["lag_seconds"] > 0
    bench.dms.check(["product", "productorder"])
    bench.edit("store", ActiveFlag="true")
    done = bench.site.run_once()
    assert done.code == 0, done.stderr
    assert done.tables["sampledb/store"]["phase"] == "streaming"
    bench.dms.check()


def test_a_bucket_that_is_not_there_is_named(make_site):
    """Without its bucket a run fails, and says which bucket and what to do, in words and not in a traceback."""
    site = make_site("s3")
    site.raw = "s3://no-such-bucket-here/raw"
    site.configure([{"source": "sales/orders", "primary_key": ["id"]}])
    done = site.run_once()
    table = done.tables["sales/orders"]
    assert (done.code, table["outcome"]) == (1, "blocked")
    assert "s3://no-such-bucket-here/raw/sales/orders: the bucket does not exist (create it" in table["error"]
    assert "Traceback" not in done.stderr


@pytest.mark.moto
def test_a_server_that_ignores_conditions_is_refused(make_site):
    """Where an object is created twice, a run ends with 2 and names server and remedy; looking is still allowed."""
    site = make_site("s3")
    site.configure([{"source": "sales/orders", "primary_key": ["id"]}])
    site.put("sales/orders/LOAD00000001.csv", b"id,name\n1,one\n")
    with FaultProxy("127.0.0.1", int(site.aws.url.rpartition(":")[2])) as proxy:
        proxy.rules(Rule(UNCONDITIONAL))
        for words in (["run", "--once"], ["run"]):
            done = site.cli(*words, "--config", site.config, AWS_ENDPOINT_URL=proxy.url)
            assert (done.code, done.stdout) == (2, "")
            for part in (proxy.url, "If-None-Match", "AWS S3"):
                assert part in done.stderr, done.stderr
        assert site.cli("status", "--config", site.config, AWS_ENDPOINT_URL=proxy.url).code == 0
    assert site.versions("sales/orders") == []
    assert site.run_once().code == 0
