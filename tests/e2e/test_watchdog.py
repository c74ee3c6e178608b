"""A daemon whose S3 does not answer: /livez tells, and SIGTERM ends it in time all the same."""

from __future__ import annotations

import signal
import time

import pytest

PRODUCT, STORE = "sampledb/product", "sampledb/store"


def is_read_of(*names):
    return lambda request: request.method == "GET" and any(name in request.path for name in names)


def test_a_hanging_request_turns_livez_red(aws, make_site, dms, started, until):
    """A read that is not answered: /livez is 503 and names the table; when it is answered, all is well again."""
    site = make_site("s3")
    source = dms(site)
    tables = [table for table in source.config if table["source"] in (PRODUCT, STORE)]
    site.configure(tables, watchdog_seconds=2)
    source.full_load()
    daemon = started(site.daemon())
    until(lambda: all(t["phase"] == "streaming" for t in daemon.status().values()), "both tables are loaded")
    with aws.holding(is_read_of(f"/raw/{STORE}/2")) as reached:
        names = source.change(20, ["product", "store"])
        assert reached.wait(40)

        def named():
            code, words = daemon.get("/livez")
            return code == 503 and f"{STORE} has made no progress for" in words and PRODUCT not in words

        until(named, "the watchdog names the table that hangs, and no other")
    until(lambda: daemon.get("/livez")[0] == 200, "work comes on again")
    until(
        lambda: daemon.status()[STORE]["last_incremental_file"].endswith(names["store"][-1]), "the changes are applied"
    )
    assert daemon.end() == 0


def test_a_full_load_is_given_up_at_sigterm(aws, make_site, dms, started, until):
    """SIGTERM in the middle of a full load: it ends with 0 and nothing was published; the next run loads it."""
    site = make_site("s3")
    source = dms(site)
    site.configure([table for table in source.config if table["source"] == STORE])
    source.full_load()
    with aws.holding(
        lambda request: request.method == "PUT" and "/curated/sampledb/store/part-" in request.path
    ) as reached:
        daemon = started(site.daemon())
        assert reached.wait(40)
        daemon.running.send_signal(signal.SIGTERM)
        until(lambda: daemon.logged("draining"), "the signal is heard")
    begun = time.monotonic()
    assert daemon.running.wait(30) == 0
    assert time.monotonic() - begun < 20
    if site.versions(STORE):
        # The last part may have been the last of the work: what is finished may be published.
        assert daemon.logged("full load applied")
    done = site.run_once()
    assert done.code == 0, done.stderr
    source.check(["store"])


@pytest.mark.slow
def test_sigterm_while_a_request_hangs(aws, make_site, dms, started, until):
    """A request that is never answered does not keep the process: it ends within 30 s, names the table, exits 0."""
    site = make_site("s3")
    source = dms(site)
    site.configure([table for table in source.config if table["source"] == STORE])
    source.full_load()
    daemon = started(site.daemon())
    until(lambda: daemon.logged("full load applied"), "the table is loaded")
    with aws.holding(lambda request: request.method == "GET") as reached:
        source.change(20)
        assert reached.wait(40)
        daemon.running.send_signal(signal.SIGTERM)
        assert daemon.running.wait(31) == 0
    assert daemon.logged("stopped")["tables"] in ([STORE], [])
    done = site.run_once()
    assert done.code == 0, done.stderr
    source.check(["store"])


@pytest.mark.slow
@pytest.mark.parametrize("held", ["ListObjects", "GetItem"])
def test_a_second_signal_ends_whatever_hangs(aws, make_site, dms, started, until, held):
    """Listing and the state store hang: the second signal ends the process at once."""
    site = make_site("s3")
    source = dms(site)
    site.configure([table for table in source.config if table["source"] == STORE])
    source.full_load()
    with aws.holding(lambda request: request.lists if held == "ListObjects" else request.operation == held) as reached:
        daemon = started(site.daemon())
        assert reached.wait(40)
        daemon.running.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert daemon.end(seconds=5) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_single_run_ends_in_time_too(aws, make_site, dms, started):
    """`run --once` whose requests hang ends within 30 s of SIGTERM, with 143."""
    site = make_site("s3")
    source = dms(site)
    site.configure([table for table in source.config if table["source"] == STORE])
    source.full_load()
    with aws.holding(lambda request: request.method == "GET" and "LOAD" in request.path) as reached:
        loader = started(site.cli.start("run", "--once", "--config", site.config))
        assert reached.wait(40)
        assert loader.end(seconds=31) == 128 + signal.SIGTERM
    done = site.run_once()
    assert done.code == 0, done.stderr
    source.check(["store"])
