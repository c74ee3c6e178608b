"""The memory budget holds for all tables together, while one of them may use nearly all of it."""

from __future__ import annotations

import random
import sys

import pytest

# Runs a command and says what it took at most, in KiB.
MEASURED = (
    "import resource, subprocess, sys\n"
    "code = subprocess.run(sys.argv[1:]).returncode\n"
    "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n"
    "sys.exit(code)\n"
)
COLUMNS = {"id": "long", "name": "string", "note": "string", "amount": "decimal(12,2)"}
TABLES = ("large", "one", "two", "three")
BUDGET_MB = 512


def rows(op, ids, seed):
    draw = random.Random(seed)
    head, first = ("Op,", f"{op},") if op else ("", "")
    lines = [
        f"{first}{number},n{draw.random():.12f},{'x' * draw.randint(40, 80)},{draw.randint(0, 9999)}.25\n"
        for number in ids
    ]
    return f"{head}id,name,note,amount\n{''.join(lines)}".encode()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("busy", [1, 4])
def test_the_budget_holds_for_one_large_backlog_and_for_four(make_site, busy):
    """One table with a backlog larger than its share, or four of them at once: peaks stay within a quarter more."""
    site = make_site("local")
    tables = [{"source": f"s/{name}", "primary_key": ["id"], "columns": COLUMNS} for name in TABLES]
    site.configure(tables, memory_budget_mb=BUDGET_MB, max_parallel_tables=4)
    for name in TABLES:
        site.put(f"s/{name}/LOAD00000001.csv", rows("", range(1_000), name))
    assert site.run_once().code == 0
    for name in TABLES[:busy]:
        for number in range(12):
            ids = random.Random(number).sample(range(600_000), 100_000 // busy)
            site.put(f"s/{name}/20260301-12{number:02d}00000.csv", rows("U", ids, name))
    done = site.cli(
        "run", "--once", "--json", "--config", site.config, under=(sys.executable, "-c", MEASURED)
    )  # fmt: skip
    assert done.code == 0, done.stderr
    peak_mb = int(done.stderr.rpartition("peak ")[2].split()[0]) / 1024
    assert sum(done.tables[f"s/{name}"]["rows_updated"] + done.tables[f"s/{name}"]["rows_inserted"] for name in TABLES)
    assert all(done.tables[f"s/{name}"]["backlog_files"] == 0 for name in TABLES)
    assert peak_mb < BUDGET_MB * 1.25
