"""Two daemons on one config, as real processes: killed, stopped and woken; the tables equal the model all the same."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.e2e.conftest import wait_until

LEASE_SECONDS = 2
# A process under test shares its machine with others; what hangs still fails.
PATIENCE_SECONDS = 60
TABLES = 3


@pytest.fixture
def together(make_site, dms, started):
    """A site, its source, and a function that starts one more daemon of its config."""

    def begin(kind, **settings):
        site = make_site(kind)
        source = dms(site)
        site.configure(source.config, lease_seconds=LEASE_SECONDS, **settings)
        source.full_load()

        def start():
            daemon = started(site.daemon())
            wait(lambda: daemon.logged("daemon started"), "a daemon runs")
            return daemon

        return site, source, start

    return begin


def wait(condition, what):
    return wait_until(condition, what, PATIENCE_SECONDS)


def owned(daemon):
    return daemon.metrics().get(("cdcloader_tables_owned", ""))


def shared(*daemons):
    """Whether the daemons see each other, and every table is one's."""
    metrics = [daemon.metrics() for daemon in daemons]
    seen = {each.get(("cdcloader_replicas", "")) for each in metrics}
    return seen == {len(daemons)} and sum(each["cdcloader_tables_owned", ""] for each in metrics) == TABLES


def changed(source, tables=("product", "store", "productorder")):
    """The names of new files, by table, where there are some."""
    return {table: files for table, files in source.change(10, tables).items() if files}


def in_table(daemon, names):
    """Whether a daemon says of each table that the last of these files is in it."""
    tables = daemon.status()
    return all((tables[f"sampledb/{name}"]["last_incremental_file"] or "").endswith(f[-1]) for name, f in names.items())


@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_standby_takes_over_from_the_killed_and_the_stopped(kind, together):
    """SIGKILL, SIGSTOP, SIGCONT and SIGTERM of one of two: the other has every table in time, and all is right."""
    site, source, start = together(kind)
    first, second = start(), start()
    wait(lambda: shared(first, second), "they share")
    changed(source)

    first.end(signal.SIGKILL)
    wait(lambda: owned(second) == TABLES, "the killed one's tables are taken over")
    names = changed(source)
    wait(lambda: in_table(second, names), "they are followed")

    third = start()
    wait(lambda: shared(second, third), "a new one shares")
    told = [{table: line["owner"] for table, line in daemon.status().items()} for daemon in (second, third)]
    assert told[0] == told[1]
    assert len(set(told[0].values())) <= 2
    assert {line["phase"] for daemon in (second, third) for line in daemon.status().values()} == {"streaming"}
    os.kill(third.running.pid, signal.SIGSTOP)
    wait(lambda: owned(second) == TABLES, "the stopped one's tables are taken over")
    names = changed(source)
    wait(lambda: in_table(second, names), "they are followed")
    os.kill(third.running.pid, signal.SIGCONT)
    wait(lambda: shared(second, third), "the woken one shares again")

    assert second.end() == 0
    wait(lambda: owned(third) == TABLES, "the ended one's tables are taken over")
    names = changed(source)
    wait(lambda: in_table(third, names), "they are followed")
    assert third.get("/readyz")[0] == third.get("/livez")[0] == 200
    assert third.end() == 0
    done = site.run_once()
    assert done.code == 0, done.stderr
    source.check()


def zombies(together, aws, moment, *, keyless):
    """A daemon is stopped in the middle of a batch; another takes over, does that batch and more; then it wakes."""
    site, source, start = together("s3", poll_interval_seconds=0.2)
    config = json.loads(site.config.read_text())
    config["tables"] = [table for table in config["tables"] if table["source"].endswith("/product")]
    if keyless:
        config["tables"][0] |= {"primary_key": None, "partition_by": []}
    site.config.write_text(json.dumps(config))
    zombie = start()
    wait(lambda: zombie.logged("full load applied"), "the table is loaded")
    with aws.holding(moment) as reached:
        changed(source, ["product"])
        assert reached.wait(PATIENCE_SECONDS)
        os.kill(zombie.running.pid, signal.SIGSTOP)
    heir = start()
    wait(lambda: owned(heir) == 1, "the stopped one is given up")
    names = changed(source, ["product"])
    wait(lambda: in_table(heir, names), "the heir has done its work")
    os.kill(zombie.running.pid, signal.SIGCONT)
    wait(lambda: zombie.metrics().get(("cdcloader_replicas", "")) == 2, "the zombie is awake")
    names = changed(source, ["product"])
    wait(lambda: any(in_table(daemon, names) for daemon in (zombie, heir)), "all goes on")
    assert zombie.end() == heir.end() == 0
    return site, source


MOMENTS = {
    "data file": lambda r: r.method == "PUT" and r.path.endswith(".parquet") and "/curated/" in r.path,
    "commit": lambda r: r.method == "PUT" and "/_delta_log/" in r.path and "checkpoint" not in r.path,
    "raw file": lambda r: r.method == "GET" and "/raw/sampledb/product/2" in r.path,
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["commit", "data file"])
def test_a_stopped_daemon_that_wakes_in_its_batch_does_no_harm(together, aws, moment):
    """It goes on with its commit, or before it, when another has long done that batch: the table equals the model."""
    site, source = zombies(together, aws, MOMENTS[moment], keyless=False)
    done = site.run_once()
    assert done.code == 0, done.stderr
    source.check(["product"])


@pytest.mark.slow
@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_stopped_daemon_that_wakes_doubles_no_row_of_a_table_without_a_key(
    together,
    aws,
    moment,
):
    """Append-only: the log has each file's inserts once, whoever applied it."""
    site, _source = zombies(together, aws, MOMENTS[moment], keyless=True)
    done = site.run_once()
    assert done.code == 0, done.stderr
    files = []
    client = aws.client("s3")
    for version in site.versions("sampledb/product"):
        key = f"data/curated/sampledb/product/_delta_log/{version:020d}.json"
        lines = client.get_object(Bucket=site.name, Key=key)["Body"].read().decode().splitlines()
        info = json.loads(lines[0])["commitInfo"].get("cdcloader", {})
        files += list(info.get("files", ()))
    assert len(files) == len(set(files)) > 0
    listed = client.list_objects_v2(Bucket=site.name, Prefix="data/raw/sampledb/product/2")["Contents"]
    assert set(files) == {item["Key"].rpartition("/")[2] for item in listed}
