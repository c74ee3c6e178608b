"""The servers die under a running daemon and come back: what they had acknowledged is enough to go on."""

from __future__ import annotations

import time

import pytest

from tests.services.history import Source
from tests.services.proxy import LATENCY, Rule

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
WORDS = {True: "orders", False: "events"}


@pytest.fixture
def sources(site):
    """A table with a key and one without, loaded."""
    site.configure(
        [{"source": f"sales/{WORDS[keyed]}", "primary_key": ["id"] if keyed else None} for keyed in WORDS],
        retry={"max_seconds": 2, "blocked_max_seconds": 5},
    )
    sources = [Source(site, table, keyed=keyed) for keyed, table in WORDS.items()]
    for source in sources:
        source.load()
    return sources


@pytest.mark.parametrize("name", ["ceph", "dynalite"])
def test_a_server_that_dies_and_comes_back(site, sources, proxy, servers, started, until, name):
    """Killed at once while batches are in flight, three times: the daemon lives and goes on to the right rows."""
    server = getattr(servers, name)
    daemon = started(site.daemon())
    until(lambda: settled(daemon), "the full loads are published", 60)
    # Slow answers, so that the server dies in the middle of something.
    proxy.rules(Rule(LATENCY, path="/(raw|curated)/", seconds=0.1), Rule(LATENCY, operation=".", seconds=0.1))
    for number in range(1, 4):
        for source in sources:
            source.change(number)
        time.sleep(0.3 * number)
        server.kill()
        time.sleep(1)
        server.restart()
    proxy.rules()
    for source in sources:
        source.change(4)
    until(lambda: settled(daemon) and not [*wrong(sources)], "the tables are right", 90)
    assert daemon.end() == 0
    assert not [*wrong(sources, "DuckDB")]


def settled(daemon):
    return all(table["phase"] == "streaming" and not table["backlog_files"] for table in daemon.status().values())


def wrong(sources, reader="Polars"):
    for source in sources:
        yield from source.differences(reader)
