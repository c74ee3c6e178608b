"""The command's face: what it prints, and its exit codes."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

import cdcloader

LOAD = b"id,name\n1,one\n2,two\n"


@pytest.fixture(scope="module")
def site(make_site):
    """Two tables, one of which is blocked; both were run once."""
    site = make_site("local")
    site.configure([{"source": f"sales/{name}", "primary_key": ["id"]} for name in ("orders", "lines")])
    for name in ("orders", "lines"):
        site.put(f"sales/{name}/LOAD00000001.csv", LOAD)
    site.put("sales/lines/20260901-080000000.csv.gz", b"no gzip")
    assert site.run_once().code == 1
    return site


def test_version(site):
    """`version` prints the version alone."""
    done = site.cli("version")
    assert (done.code, done.stdout) == (0, f"{cdcloader.__version__}\n")


def test_validate(site):
    """`validate` says that a good config is valid and where it leads; a bad one is 2 with every fault."""
    done = site.cli("validate", "--config", site.config)
    assert done.code == 0
    assert f"valid (2 tables, {site.raw} -> {site.lake})" in done.stdout
    bad = site.folder / "bad.yaml"
    bad.write_text("raw: /data/raw\nlake: /data/raw\nstate: {kind: oracle}\ntables: []\n")
    done = site.cli("validate", "--config", bad)
    assert (done.code, done.stdout) == (2, "")
    for place in ("lake: ", "state: ", "tables: "):
        assert len(re.findall(rf"^ *{place}", done.stderr, re.MULTILINE)) == 1, done.stderr


def test_a_config_may_be_named_by_the_environment(site):
    """CDCLOADER_CONFIG names the config; without any, the error names the file that was looked for."""
    assert site.cli("validate", CDCLOADER_CONFIG=str(site.config)).code == 0
    done = site.cli("validate", "--config", "elsewhere.yaml")
    assert done.code == 2
    assert "elsewhere.yaml" in done.stderr


def test_status_as_json(site):
    """`status --json` tells of every table, the one in trouble first, with the exit code 1."""
    done = site.cli("status", "--json", "--config", site.config)
    assert done.code == 1
    assert [table["source"] for table in done.json["tables"]] == ["sales/lines", "sales/orders"]
    lines, orders = done.json["tables"]
    assert (lines["phase"], orders["phase"]) == ("blocked", "streaming")
    assert "20260901-080000000.csv.gz: truncated or not gzip" in lines["error"]
    assert (lines["backlog_files"], orders["backlog_files"]) == (1, 0)
    assert lines["lag_seconds"] > orders["lag_seconds"] == 0
    assert (orders["error"], orders["rows_inserted"], orders["delta_version"]) == (None, 2, 0)


def test_status_as_text(site):
    """`status` prints a line per table and the errors in full; `--table` narrows it down."""
    done = site.cli("status", "--config", site.config)
    assert done.code == 1
    assert re.search(r"^sales/lines +blocked +\d+ s +1 files", done.stdout, re.MULTILINE)
    assert re.search(r"^sales/orders +streaming +0 s +0 files +0 +2 +0 +0 +0$", done.stdout, re.MULTILINE)
    assert "csv.gz: truncated or not gzip" in done.stdout
    done = site.cli("status", "--config", site.config, "--table", "sales/orders")
    assert done.code == 0
    assert "lines" not in done.stdout


HELP = {
    (): ["run", "status", "validate", "version", "demo"],
    ("run",): ["--once", "--table", "--json", "--config"],
    ("status",): ["--json", "--table", "--config"],
    ("validate",): ["--config"],
    ("verify",): ["--quick", "--show-keys", "--table-version", "--json", "--config"],
    ("demo",): ["--folder"],
    ("version",): [],
}
WRONG = {
    ("run", "--onec"): "--onec",
    ("walk",): "walk",
    ("run", "--json", "--config", "{config}"): "--json goes with --once",
    ("run", "--once", "--table", "sales/none", "--config", "{config}"): "sales/orders",
    ("run", "--log-level", "LOUD", "--config", "{config}"): "LOUD",
}


def call_all(site, calls):
    """How each call ended; two at a time, because most of it is waiting for imports."""
    with ThreadPoolExecutor(2) as pool:
        ends = pool.map(lambda words: site.cli(*(w.format(config=site.config) for w in words), COLUMNS="120"), calls)
        return list(zip(calls, ends, strict=True))


def test_help(site):
    """`--help` of every command exits with 0 and names its options."""
    for (*command, _), done in call_all(site, [(*command, "--help") for command in HELP]):
        assert done.code == 0, command
        for word in HELP[tuple(command)]:
            assert word in done.stdout, command


def test_a_wrong_call(site):
    """A wrong call exits with 2 and says what is wrong on stderr, without a traceback."""
    for words, done in call_all(site, list(WRONG)):
        assert (done.code, done.stdout) == (2, ""), words
        assert WRONG[words] in done.stderr, words
        assert "Traceback" not in done.stderr, words
