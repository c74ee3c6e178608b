"""`pause`, `resume` and `resume --skip`: what an operator says to a table, whether a daemon runs or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdcloader.state.sqlite import SQLiteStore

LOAD = b"id,name\n1,one\n2,two\n"
BAD, GOOD, LATER = "20260901-080000000.csv.gz", "20260901-080100000.csv", "20260901-080200000.csv"


def change(id_):
    return f"Op,id,name\nI,{id_},x\n".encode()


def ids(site, table="lines"):
    return sorted(site.readers(f"sales/{table}")["Polars"]()["id"].to_list())


def make(make_site, kind="local"):
    site = make_site(kind)
    site.configure([{"source": f"sales/{name}", "primary_key": ["id"]} for name in ("orders", "lines")])
    for name in ("orders", "lines"):
        site.put(f"sales/{name}/LOAD00000001.csv", LOAD)
    return site


def order(site, *words):
    return site.cli(*words, "--config", site.config, "--json")


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_running_daemon_obeys(kind, make_site, started, until):
    """It moves past a skipped file, stops at `pause`, goes on at `resume`: each within a poll, not after a backoff."""
    site = make(make_site, kind)
    site.put(f"sales/lines/{BAD}", b"no gzip")
    site.put(f"sales/lines/{GOOD}", change(3))
    daemon = started(site.daemon())
    until(lambda: daemon.get("/readyz")[0] == 200, "ready")
    until(lambda: daemon.status()["sales/lines"]["phase"] == "blocked", "the bad file blocks its table")
    until(lambda: daemon.status()["sales/orders"]["delta_version"] == 0, "the other table is loaded")
    assert BAD in daemon.status()["sales/lines"]["error"]

    done = order(site, "resume", "sales/lines", "--skip", BAD)
    assert (done.code, done.json["skipped_files"], done.json["active"]) == (0, [BAD], True)
    until(lambda: daemon.status()["sales/lines"]["delta_version"] == 1, "the file behind it is applied", 20)
    # The backlog is counted at each look, the next of which comes after the commit.
    until(lambda: daemon.status()["sales/lines"]["backlog_files"] == 0, "nothing waits", 20)
    lines = daemon.status()["sales/lines"]
    assert (lines["error"], lines["skipped_files"]) == (None, 1)
    assert ids(site) == [1, 2, 3]

    done = order(site, "pause", "sales/lines")
    assert (done.code, done.json["active"], done.json["phase"]) == (0, False, "paused")
    until(lambda: daemon.status()["sales/lines"]["phase"] == "paused", "the daemon has heard it", 20)
    site.put(f"sales/lines/{LATER}", change(4))
    until(lambda: daemon.status()["sales/lines"]["backlog_files"] == 1, "it still looks", 20)
    assert ids(site) == [1, 2, 3]
    assert order(site, "resume", "sales/lines").code == 0
    until(lambda: daemon.status()["sales/lines"]["delta_version"] == 2, "it goes on", 20)
    assert ids(site) == [1, 2, 3, 4]
    assert daemon.end() == 0


def test_pauses_and_truncates_as_configured(make_site, started, until):
    """`retry` bounds how long a blocked table rests; `on_source_truncate: truncate` empties it with its folder."""
    site = make_site("local")
    table = {"source": "sales/lines", "primary_key": ["id"], "on_source_truncate": "truncate"}
    site.configure([table], retry={"max_seconds": 0.5, "blocked_max_seconds": 0.5})
    site.put("sales/lines/LOAD00000001.csv", LOAD)
    site.put(f"sales/lines/{BAD}", b"no gzip")
    daemon = started(site.daemon())
    failures = ("cdcloader_consecutive_failures", "sales/lines")
    until(lambda: daemon.metrics().get(failures, 0) >= 3, "it was tried again and again")
    for file in Path(site.raw, "sales/lines").iterdir():
        file.unlink()
    until(lambda: daemon.logged("source truncated"), "the table is emptied")
    until(lambda: daemon.status()["sales/lines"]["phase"] == "streaming", "the trouble is over")
    assert ids(site) == []
    assert daemon.end() == 0


def test_orders_without_a_daemon(make_site):
    """The next single run obeys them; a table that nobody has looked at yet can be paused too."""
    site = make(make_site)
    done = site.cli("pause", "sales/lines", "--config", site.config)
    assert (done.code, done.stdout) == (0, "sales/lines: paused\n")
    run = site.run_once()
    assert (run.code, run.tables["sales/lines"]["outcome"]) == (0, "paused")
    assert site.versions("sales/lines") == []
    done = site.cli("resume", "sales/lines", "--config", site.config)
    assert (done.code, done.stdout) == (0, "sales/lines: resumed\n")
    assert site.run_once().code == 0
    assert ids(site) == [1, 2]


def test_wrong_orders(make_site):
    """An unknown table, a file that is not there and one that is applied: exit code 2, nothing written, what exists."""
    site = make(make_site)
    assert site.run_once().code == 0
    store = SQLiteStore(site.state["path"])
    before = store.all()
    site.put(f"sales/lines/{GOOD}", change(3))
    for words, texts in (
        (("pause", "sales/nope"), ("no table has the source 'sales/nope'", "sales/orders, sales/lines")),
        (("resume", "sales/lines", "--skip", LATER), (f"there is no file '{LATER}'", GOOD)),
        (("resume", "sales/lines", "--skip", "LOAD00000001.csv"), ("is applied already", GOOD)),
    ):
        done = order(site, *words)
        assert done.code == 2, words
        assert all(text in done.stderr for text in texts), done.stderr
    assert store.all() == before
    store.close()
