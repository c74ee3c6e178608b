"""`cdcloader init`: a prefix becomes a config that `run --once` works with, and nothing is overwritten unasked."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_init_writes_a_config_that_runs(kind, make_site, dms):
    """On what `cdcloader demo` writes: every table loads with the guessed keys."""
    site = make_site(kind)
    source = dms(site)
    source.full_load()
    source.change(20)
    state = f"dynamodb:{site.state['table']}" if kind == "s3" else "./state.db"
    done = site.cli("init", site.raw, "--lake", site.lake, "--state", state)
    assert (done.code, done.stdout) == (0, ""), done.stderr
    assert "3 tables found" in done.stderr
    assert "cdcloader.yaml is written" in done.stderr
    text = site.config.read_text()
    assert text.count("primary_key: [") == 3
    site.config.write_text(f"{text}\nfull_load: {{quiet_seconds: 0}}\n")
    done = site.run_once()
    assert done.code == 0, done.stderr
    source.check(["product"])
    counts = {table.rpartition("/")[2]: row["rows_quarantined"] for table, row in done.tables.items()}
    assert counts == {"product": 0, "store": 0, "productorder": 0}


def test_init_overwrites_only_by_force(make_site, parquet):
    """An existing file stays; stdout needs none."""
    site = make_site("local")
    site.put("a/b/LOAD00000001.parquet", parquet({"id": [1]}))
    site.config.write_text("mine")
    refused = site.cli("init", site.raw)
    assert (refused.code, "--force overwrites it" in refused.stderr) == (2, True)
    assert site.config.read_text() == "mine"
    shown = site.cli("init", site.raw, "--output", "-")
    assert (shown.code, shown.stdout.count("source: a/b")) == (0, 1)
    assert site.cli("init", site.raw, "--force").code == 0
    assert site.config.read_text() == shown.stdout


def test_init_says_what_is_wrong(make_site, parquet):
    """Nothing there, one folder too deep or too high, a lake inside raw: exit code 2 and no file."""
    site = make_site("local")
    nothing = site.cli("init", site.raw)
    assert (nothing.code, "RAW is the folder above the schemas" in nothing.stderr) == (2, True)
    site.put("a/b/LOAD00000001.parquet", parquet({"id": [1]}))
    deep = site.cli("init", f"{site.raw}/a")
    assert (deep.code, "RAW is the folder above the schemas" in deep.stderr) == (2, True)
    site.put("above/crm/sales/orders/20260901-100500000.csv", b"Op,id\nI,1\n")
    high = site.cli("init", f"{site.raw}/above")
    assert (high.code, "crm/sales: its files lie in folders, such as orders/20260901" in high.stderr) == (2, True)
    inside = site.cli("init", site.raw, "--lake", f"{site.raw}/lake")
    assert (inside.code, "lies inside raw" in inside.stderr) == (2, True)
    assert site.cli("init", "ftp://x").code == 2
    assert not site.config.exists()
