"""`cdcloader verify` as its user has it: what it prints, its exit codes, on this machine and on S3."""

from __future__ import annotations

import re
import sys

import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner

from cdcloader.cli import app
from cdcloader.errors import ConfigError

SECRET = "secret-value"
LOAD = f"id,name\n1,one\n2,{SECRET}\n3,three\n".encode()
CHANGES = b"Op,id,name\nU,1,uno\nD,3,\nI,4,four\n"
NAME = "20260901-080000000.csv"


@pytest.fixture(scope="module")
def site(make_site):
    """Two tables with a LOAD and a CDC file each, loaded."""
    site = make_site("local")
    site.configure([{"source": f"sales/{name}", "primary_key": ["id"]} for name in ("orders", "lines")])
    for name in ("orders", "lines"):
        site.put(f"sales/{name}/LOAD00000001.csv", LOAD)
        site.put(f"sales/{name}/{NAME}", CHANGES)
    assert site.run_once().code == 0
    return site


def test_equal_different_and_not_certain(site):
    """0 for what is equal, 1 for a difference and for what cannot be told; the worst of several tables wins.

    Without a name every table is verified, and a difference comes with what to do.
    """
    config = ("--config", site.config)
    done = site.cli("verify", *config)
    assert done.code == 0, done.stderr
    line = r"sales/(orders|lines): equal: 3 rows; 2 raw files with 6 rows, version 1, read by delta-rs, \d+\.\d s"
    assert [bool(re.fullmatch(line, said)) for said in done.stdout.splitlines()] == [True, True]

    target = DeltaTable(f"{site.lake}/sales/orders")
    target.update(updates={"name": "'other'"}, predicate="id = 2")
    done = site.cli("verify", "sales/orders", "sales/lines", *config)
    assert done.code == 1
    assert "sales/orders: DIFFERENT: 1 row with other values; 3 rows expected, 3 found" in done.stdout
    assert "columns: name (1)" in done.stdout
    assert done.stdout.count("reload the table") == 1
    assert "sales/lines: equal" in done.stdout

    target.delete("id = 2")
    quick = site.cli("verify", "sales/orders", "--quick", "--json", *config)
    assert (quick.code, quick.tables["sales/orders"]["result"]) == (1, "different")
    assert "reload the table" in quick.tables["sales/orders"]["hint"]

    (site.folder / "raw" / "sales" / "lines" / NAME).unlink()
    done = site.cli("verify", "sales/lines", "sales/orders", "--show-keys", *config)
    assert done.code == 1
    assert (
        f"sales/lines: cannot be verified: of the CDC files that were applied (1), 1 is gone from raw, such as {NAME}"
        in (done.stdout)
    )
    assert "lifecycle" in done.stdout
    assert "sales/orders: DIFFERENT: 1 row missing" in done.stdout
    assert "key: 2" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_wrong_calls(site):
    """A table that is not configured, or one version of two tables or of all, is a wrong call."""
    for words in (
        ["sales/none"],
        ["--table-version", "0"],
        ["sales/orders", "sales/lines", "--table-version", "0"],
    ):
        done = CliRunner().invoke(app, ["verify", *words, "--config", str(site.config)])
        assert done.exit_code != 0, words
        assert isinstance(done.exception, (ConfigError, SystemExit)), words


@pytest.mark.slow
def test_on_s3(make_site, dms):
    """Every table of the sample database on S3 and DynamoDB is equal, whole and quick, and no object is written."""
    site = make_site("s3")
    database = dms(site, partition_by=["line"])
    site.configure(database.config)
    database.full_load()
    database.change()
    assert site.run_once().code == 0
    database.change()
    assert site.run_once().code == 0
    before = len(site.aws.requests)
    for option in ("--json", "--quick"):
        done = site.cli("verify", *(table["source"] for table in database.config), option, "--config", site.config)
        assert done.code == 0, done.stdout + done.stderr
    sent = site.aws.requests[before:]
    assert sent
    assert {request.method for request in sent if not request.operation} <= {"GET", "HEAD"}
    assert {request.operation for request in sent} <= {"", "GetItem", "DescribeTable"}


# The peak of the memory of one command, on its last line of stderr.
MEASURED = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)"
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_table_larger_than_the_budget(make_site, parquet):
    """Millions of rows are compared within `memory_budget_mb`, and one that is wrong among them is found."""
    site, rows, budget_mb = make_site("local"), 3_000_000, 448
    site.configure([{"source": "sales/orders", "primary_key": ["id"]}], memory_budget_mb=budget_mb)
    ids = range(rows)
    values = {"a": [n * 7919 % 1_000_003 for n in ids], "b": [f"{n * 104_729 % 999_983} of {n}" for n in ids]}
    site.put("sales/orders/LOAD00000001.parquet", parquet({"id": ids, **values}))
    some = range(0, rows, 3)
    changed = {"Op": ["U"] * len(some), "id": some, "a": some, "b": [f"changed {n}" for n in some]}
    site.put("sales/orders/20260901-080000000.parquet", parquet(changed))
    del values, changed
    assert site.run_once().code == 0
    DeltaTable(f"{site.lake}/sales/orders").update(updates={"a": "a + 1"}, predicate="id = 1234567")
    done = site.cli("verify", "sales/orders", "--json", "--config", site.config, under=(sys.executable, "-c", MEASURED))
    table = done.tables["sales/orders"]
    assert (done.code, table["changed"], table["rows"], table["columns"]) == (1, 1, rows, {"a": 1}), done.stderr
    assert int(done.stderr.splitlines()[-1]) < budget_mb * 1024
