"""Tables by pattern, with the installed command: found at the start, found while the daemon runs, and told."""

from __future__ import annotations

PATTERN = {"source": "*/*", "primary_key": ["id"], "exclude": ["log"]}


def rows(site, table):
    return sorted(site.readers(table)["Polars"]()["id"].to_list())


def test_a_daemon_takes_up_tables_that_appear(make_site, parquet, started, until):
    """A folder that comes while `run` runs is loaded and followed, in a new schema too; what cannot be is told."""
    site = make_site("s3")
    site.configure([PATTERN])
    site.put("sales/orders/LOAD00000001.parquet", parquet({"id": [1]}))
    daemon = started(site.daemon())
    until(lambda: daemon.logged("full load applied"), "the first table is loaded")
    assert set(daemon.status()) == {"sales/orders"}
    for table in ("sales/lines", "hr/staff", "sales/log", "sales/awsdms_status", "sales/a%2fb"):
        site.put(f"{table}/LOAD00000001.parquet", parquet({"id": [1, 2]}))
    wanted = {"sales/orders", "sales/lines", "hr/staff", "sales/a%2fb"}
    until(lambda: set(daemon.status()) == wanted, "they are found")
    until(lambda: len([e for e in daemon.events if e["event"] == "full load applied"]) == 3, "they are loaded")
    site.put("hr/staff/20300101-000000000.parquet", parquet({"Op": ["I", "D"], "id": [3, 1]}))
    until(lambda: daemon.logged("batch applied"), "the new table is followed")
    assert (rows(site, "hr/staff"), rows(site, "sales/lines")) == ([2, 3], [1, 2])
    assert "percent escape" in daemon.status()["sales/a%2fb"]["error"]
    metrics = daemon.metrics()
    assert metrics["cdcloader_table_phase", "blocked,sales/a%2fb"] == 1
    assert metrics["cdcloader_tables_owned", ""] == 3
    assert daemon.get("/readyz")[0] == daemon.get("/livez")[0] == 200
    assert daemon.end() == 0


def test_every_command_looks_for_tables_first(make_site, parquet):
    """`run --once`, `status`, `pause` and `verify` know what a pattern names; trouble makes the exit code 1."""
    site = make_site("local")
    site.configure([PATTERN])
    done = site.run_once()
    assert (done.code, done.tables["*/*"]["outcome"]) == (1, "blocked"), done.stderr
    site.put("a/b/LOAD00000001.parquet", parquet({"id": [1]}))
    site.put("a/c/LOAD00000001.parquet", parquet({"id": [1]}))
    assert set(site.run_once("--table", "a/b").tables) == {"a/b"}
    done = site.run_once()
    assert (done.code, set(done.tables)) == (0, {"a/b", "a/c"}), done.stderr
    assert site.cli("pause", "a/c", "--config", site.config).code == 0
    status = site.cli("status", "--json", "--config", site.config)
    assert {name: row["phase"] for name, row in status.tables.items()} == {"a/b": "streaming", "a/c": "paused"}
    assert site.cli("verify", "a/b", "a/c", "--config", site.config).code == 0
    assert "1 pattern" in site.cli("validate", "--config", site.config).stdout
    unknown = site.cli("pause", "a/d", "--config", site.config)
    assert (unknown.code, "no table has the source 'a/d'" in unknown.stderr) == (2, True)
