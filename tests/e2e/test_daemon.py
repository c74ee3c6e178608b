"""The daemon: it loads, follows, tells how it stands, isolates trouble, drains at SIGTERM and survives SIGKILL."""

from __future__ import annotations

import signal
import time

import pytest

PRODUCT, STORE = "sampledb/product", "sampledb/store"
READERS = ("DuckDB", "Polars", "delta-rs")
# No CSV that this table could hold: the header lacks the key.
BAD_FILE = b"Op,city\nU,Bern\n"


def caught_up(process, names):
    """Whether the last of these files, per table, are in the target, and nothing waits."""
    tables = process.status()
    return all(
        tables[f"sampledb/{table}"]["backlog_files"] == 0
        and tables[f"sampledb/{table}"]["last_incremental_file"].endswith(files[-1])
        for table, files in names.items()
    )


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_daemon_loads_follows_isolates_and_drains(kind, make_site, dms, started, until):
    """Ready, loaded, in step with new files, one table blocked while the others go on, mended, and out with 0."""
    site = make_site(kind)
    source = dms(site)
    tables = ["product", "store", "productorder"] if kind == "local" else ["product", "store"]
    others = [table for table in tables if table != "store"]
    site.configure([one for one in source.config if one["source"].rpartition("/")[2] in tables])
    source.full_load()
    names = source.change(20, tables)
    daemon = started(site.daemon())
    until(lambda: daemon.get("/livez")[0] == 200, "alive")
    until(lambda: daemon.get("/readyz")[0] == 200, "ready")
    until(lambda: all(t["backlog_files"] is not None for t in daemon.status().values()), "all tables were looked at")
    until(lambda: caught_up(daemon, names), "the first files are applied")
    source.check(tables, READERS)

    names = source.change(20, tables)
    until(lambda: caught_up(daemon, names), "new files are applied")
    source.check(tables)
    metrics = daemon.metrics()
    for table in (f"sampledb/{table}" for table in tables):
        assert metrics["cdcloader_table_lag_seconds", table] == 0
        assert metrics["cdcloader_backlog_files", table] == 0
        assert metrics["cdcloader_table_phase", f"streaming,{table}"] == 1
        assert metrics["cdcloader_table_version", table] == site.versions(table)[-1]
        assert metrics["cdcloader_rows_total", f"insert,{table}"] > 0
        assert metrics["cdcloader_table_freshness_timestamp_seconds", table] > 1.7e9

    changes = source.pending(20)
    bad_name = source.next_name("store")
    site.put(f"{STORE}/{bad_name}", BAD_FILE)
    until(lambda: daemon.status()[STORE]["phase"] == "blocked", "the bad file blocks its table")
    names = {}
    for table in others:
        names[table] = [source.next_name(table)]
        site.put(f"sampledb/{table}/{names[table][0]}", source.render(table, changes[table]))
    until(lambda: caught_up(daemon, names), "the other tables go on")
    source.check(others)
    metrics = daemon.metrics()
    assert metrics["cdcloader_table_lag_seconds", STORE] > 0
    assert metrics["cdcloader_table_phase", f"blocked,{STORE}"] == 1
    assert metrics["cdcloader_consecutive_failures", STORE] >= 1
    assert metrics["cdcloader_table_lag_seconds", PRODUCT] == 0
    assert bad_name in daemon.status()[STORE]["error"]
    assert daemon.get("/livez")[0] == 200

    site.put(f"{STORE}/{bad_name}", source.render("store", changes["store"]))
    until(lambda: caught_up(daemon, {"store": [bad_name]}), "the mended file lets the table go on")
    until(lambda: daemon.status()[STORE]["error"] is None, "the trouble is over")
    source.check(tables)
    assert daemon.end() == 0
    assert daemon.logged("stopped")["tables"] == []


def test_a_daemon_finishes_the_batch_in_hand(aws, make_site, dms, started, until):
    """SIGTERM in the middle of a batch: the batch is committed and recorded, and the exit code is 0."""
    site = make_site("s3")
    source = dms(site)
    site.configure([table for table in source.config if table["source"] == STORE])
    source.full_load()
    daemon = started(site.daemon())
    until(lambda: daemon.logged("full load applied"), "the table is loaded")
    with aws.holding(lambda request: request.method == "GET" and f"/raw/{STORE}/2" in request.path) as reached:
        names = source.change(20)
        assert reached.wait(40)
        daemon.running.send_signal(signal.SIGTERM)
        until(lambda: daemon.logged("draining"), "the signal is heard")
        assert daemon.running.poll() is None
    assert daemon.running.wait(30) == 0
    assert daemon.logged("batch applied")["last_file"] in names["store"]
    assert daemon.logged("stopped")["tables"] == []


def test_a_signal_that_comes_while_the_process_is_stopped_is_heard(make_site, dms, started, until):
    """SIGTERM to a daemon that is stopped, by SIGSTOP or with its container: it ends in order when it goes on."""
    site = make_site("local")
    site.configure([table for table in dms(site).config if table["source"] == STORE])
    daemon = started(site.daemon())
    until(lambda: daemon.logged("daemon started"), "the daemon has started")
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
        daemon.running.send_signal(number)
        time.sleep(0.1)
    assert daemon.running.wait(30) == 0
    assert daemon.logged("stopped")["signal"] == "SIGTERM"


def test_a_second_signal_ends_at_once(aws, make_site, dms, started, until):
    """Who cannot wait for the batch in hand sends SIGTERM again; the next run does that batch anew."""
    site = make_site("s3")
    source = dms(site)
    site.configure([table for table in source.config if table["source"] == STORE])
    source.full_load()
    source.change(20)
    with aws.holding(lambda request: request.method == "GET" and f"/raw/{STORE}/2" in request.path) as reached:
        daemon = started(site.daemon())
        assert reached.wait(40)
        daemon.running.send_signal(signal.SIGTERM)
        until(lambda: daemon.logged("draining"), "the first signal is heard")
        assert daemon.end(seconds=15) == 128 + signal.SIGTERM
    done = site.run_once()
    assert done.code == 0, done.stderr
    source.check(["store"])


def test_a_killed_loader_is_repaired_by_the_next(make_site, dms, started, until):
    """SIGKILL at some moment, twice: the next run goes on from the log, and the tables equal the model."""
    site = make_site("local")
    source = dms(site)
    site.configure(source.config, batch={"max_files": 1})
    source.full_load()
    for _ in range(2):
        # Work of its own for each round: the round before may have done everything before its kill.
        for _ in range(3):
            source.change(15)
        commits = len(site.versions(PRODUCT))
        loader = started(site.cli.start("run", "--once", "--config", site.config))
        until(lambda so_far=commits: len(site.versions(PRODUCT)) > so_far, "a commit")
        loader.end(signal.SIGKILL)
    done = site.run_once()
    assert done.code == 0, done.stderr
    source.check(readers=READERS)


def test_a_loader_killed_around_a_commit_is_repaired(aws, make_site, dms, started):
    """SIGKILL before a data file, at a commit whose request lands later, and between commit and record: no harm."""
    site = make_site("s3")
    source = dms(site)
    site.configure([table for table in source.config if table["source"] == PRODUCT], batch={"max_files": 1})
    source.full_load()
    for _ in range(2):
        source.change(15)

    commits = []

    def is_data_file(request):
        return request.method == "PUT" and request.path.endswith(".parquet")

    def is_commit(request):
        return request.method == "PUT" and "/_delta_log/" in request.path

    def is_record_after_commit(request):
        commits.extend([request] if is_commit(request) else [])
        return bool(commits) and request.operation == "UpdateItem"

    for moment in (is_data_file, is_commit, is_record_after_commit):
        with aws.holding(moment) as reached:
            loader = started(site.cli.start("run", "--once", "--config", site.config))
            assert reached.wait(40), moment.__name__
            assert loader.end(signal.SIGKILL) == -signal.SIGKILL
    assert commits
    done = site.run_once()
    assert done.code == 0, done.stderr
    assert done.tables[PRODUCT]["lag_seconds"] == 0
    source.check(["product"], READERS)
    versions = site.versions(PRODUCT)
    assert versions == list(range(len(versions)))
    assert versions[-1] == 4, "one version for the load and one for each file"
