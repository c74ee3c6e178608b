"""Each kind of fault at each effect, between the installed command and real servers: nothing is lost or doubled.

A cell of the matrix is a table of its own, so that one run of the command goes through all cells. Each is hit twice:
while its full load is published, and while a batch is.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest

from cdcloader.lake.upkeep import CHECKPOINT_COMMITS
from tests.services import proxy as kinds
from tests.services.history import Source, run_to_the_end
from tests.services.proxy import Rule

pytestmark = [pytest.mark.services, pytest.mark.timeout(700)]

# More in a row than the clients try themselves, so that the loader meets the fault.
IN_A_ROW = 6
WRITES = (kinds.LATENCY, kinds.RESET, kinds.LOST, kinds.ERROR, kinds.SLOW_DOWN, kinds.FAILED, kinds.TWICE)
READS = (*WRITES, kinds.TRUNCATED, kinds.SLOW_BODY)
# What matters most where nothing tells a doubled row from another one.
DOUBTFUL = (kinds.RESET, kinds.LOST, kinds.FAILED, kinds.TWICE)


def put(pattern):
    return lambda table: {"method": "PUT", "path": f"/curated/sales/{table}/{pattern}"}


def record(operation, content=b""):
    """A request on a table's record; `content` is what a write of that kind alone holds."""

    def rule(table):
        place = f"/raw/sales/{table}/".encode()
        return {"operation": f"^{operation}$", "where": lambda sent: place in sent.raw and content in sent.raw}

    return rule


WRITTEN = {
    "data file put": put(r"[^_][^/]*\.parquet$"),
    "commit put": put(r"_delta_log/\d{20}\.json$"),
    "lease taken": record("UpdateItem", b'":new_LeaseOwner"'),
    "watermark recorded": record("UpdateItem", b'":new_RecordedVersion"'),
}
CREATED = {"record created": record("PutItem")}
READ = {
    "raw files listed": lambda table: {"method": "GET", "query": f"list-type=2.*/raw/sales/{table}(/|&|$)"},
    "raw file read": lambda table: {"method": "GET", "path": f"/raw/sales/{table}/"},
    "log listed": lambda table: {"method": "GET", "query": f"list-type=2.*/curated/sales/{table}/_delta_log"},
    "record read": record("GetItem"),
}
EFFECTS = WRITTEN | CREATED | READ


@dataclass(frozen=True)
class Cell:
    """A table and what happens to it."""

    table: str
    effect: str
    kind: str
    keyed: bool

    def rule(self):
        count = 1 if self.kind in (kinds.LATENCY, kinds.SLOW_BODY) else IN_A_ROW
        return Rule(self.kind, **EFFECTS[self.effect](self.table), count=count, seconds=0.3)


def cells_of(group):
    """The cells of one half of the matrix."""
    if group == "reads":
        cells = [(effect, kind, True) for effect in READ for kind in READS]
    else:
        cells = [(effect, kind, True) for effect in WRITTEN | CREATED for kind in WRITES]
        cells += [(effect, kind, False) for effect in WRITTEN | CREATED for kind in DOUBTFUL]
    return [Cell(f"{group}{number:03}", *cell) for number, cell in enumerate(cells)]


@pytest.mark.parametrize("group", ["writes", "reads"])
def test_each_fault_at_each_effect(site, proxy, group):
    """Whatever breaks at whichever effect, after each stage the tables equal what was written, and the next works."""
    sources = {cell: Source(site, cell.table, keyed=cell.keyed) for cell in cells_of(group)}
    site.configure(
        [{"source": f"sales/{cell.table}", "primary_key": ["id"] if cell.keyed else None} for cell in sources],
        max_parallel_tables=8,
        retry={"max_seconds": 1},
    )
    before, missed = proxy.injected.copy(), []
    for stage in ("full load", "batch", "undisturbed"):
        for source in sources.values():
            source.load() if stage == "full load" else source.change(1 if stage == "batch" else 2)
        # A record is created once.
        disturbed = [cell for cell in sources if stage == "full load" or cell.effect not in CREATED]
        rules = {cell: cell.rule() for cell in disturbed if stage != "undisturbed"}
        proxy.rules(*rules.values())
        run_to_the_end(site)
        proxy.rules()
        missed += [(stage, cell) for cell, rule in rules.items() if not rule.hits]
        readers = ("Polars",) if rules else ("Polars", "DuckDB")
        wrong = [f"{cell}: {text}" for cell, source in sources.items() for text in source.differences(*readers)]
        assert not wrong, "\n".join(wrong)
    assert not missed
    assert set(proxy.injected - before) == set(READS if group == "reads" else WRITES)


def test_each_fault_at_a_checkpoint(site, proxy):
    """A checkpoint that breaks is written again or left out: the tables are right before and after, and go on."""
    tables = {f"checkpoint{number}": kind for number, kind in enumerate(WRITES)}
    sources = [Source(site, table) for table in tables]
    site.configure([{"source": f"sales/{table}", "primary_key": ["id"]} for table in tables], max_parallel_tables=8)
    for source in sources:
        source.load()
    run_to_the_end(site)
    for table in tables:
        commits_of_others(site, table, range(1, CHECKPOINT_COMMITS))
    rules = [
        Rule(kind, **put(r"_delta_log/(\d{20}\.checkpoint|_last_checkpoint)")(table), count=3, seconds=0.3)
        for table, kind in tables.items()
    ]
    proxy.rules(*rules)
    for number in (1, 2):
        for source in sources:
            source.change(number)
        run_to_the_end(site)
        proxy.rules()
        assert not [text for source in sources for text in source.differences("Polars", "DuckDB", "delta-rs")]
    assert all(rule.hits for rule in rules)
    for table in tables:
        assert {CHECKPOINT_COMMITS, CHECKPOINT_COMMITS + 1} <= set(site.versions(f"sales/{table}"))


def commits_of_others(site, table, versions):
    """Commits that change nothing, so that the next one is due for a checkpoint."""
    entry = json.dumps({"commitInfo": {"timestamp": int(time.time() * 1000), "operation": "OPTIMIZE"}}).encode()
    for version in versions:
        key = f"data/curated/sales/{table}/_delta_log/{version:020}.json"
        site.aws.client("s3").put_object(Bucket=site.name, Key=key, Body=entry)
