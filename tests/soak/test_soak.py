"""The soak can be believed: its oracle is right, it notices what is wrong, it strikes when it says, and it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from cdcloader.changes.schema import polars_type
from tests.soak import figures, sniper
from tests.soak.logs import Told
from tests.soak.proof import by_polars
from tests.soak.source import WHAT_HAPPENS, Source
from tests.soak.tables import TABLES
from tests.soak.world import KINDS, Kind, Outcome, World

BY_NAME = {table.name: table for table in TABLES}
STILL = Kind("still", cloud=False, loaders=0, files_per_second=20)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["lines", "parts", "events"])
def test_the_oracle_is_what_the_files_say(name, monkeypatch):
    """The files as they stand in the end, folded in the order of their names, give the oracle's rows."""
    monkeypatch.setattr(Source, "_form", lambda _self: "parquet")
    source, files = Source(BY_NAME[name], "7"), {}
    happenings = [doing for doing in WHAT_HAPPENS if doing not in (Source.load, Source.twins, Source.huge)]
    for number in range(60):
        arrivals = happenings[number % len(happenings)](source)
        # Of one name the last content stands.
        files |= {arrival.name: arrival.content for arrival in sorted(arrivals, key=lambda each: each.seconds)}
    assert fold(source, files) == source.rows


def fold(source, files):
    """Each row of each file after the other, without those that belong in quarantine."""
    keyed, counted, table = {}, Counter(), source.table
    types = [(column, polars_type(kind)) for column, kind in table.columns]
    for name in sorted(files):
        frame = pl.read_parquet(BytesIO(files[name])).cast(dict(types))
        for number, (op, *row) in enumerate(frame.rows(), start=1):
            if (name, number) in source.must:
                continue
            values = tuple(dict(zip(table.names, row, strict=True))[column] for column in table.key)
            counted[tuple(row)] += op == "I" and not table.key
            if op == "D":
                keyed.pop(values, None)
            else:
                keyed[values] = tuple(row)
    return Counter(keyed.values()) if table.key else +counted


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world that nobody disturbed, with what came of it."""
    tables = [BY_NAME[name] for name in ("parts", "events")]
    world = World(tmp_path_factory.mktemp("soak") / "still", STILL, 11, tables)
    yield world, world.live(1, threading.Event())
    world.close()


def test_a_world_comes_to_rest_without_differences(world):
    """What DMS writes, bad inputs included, is what two readers see in the end."""
    _, outcome = world
    assert (outcome.differences, outcome.surprises) == ([], [])
    assert outcome.tally["commits"] > 0
    assert outcome.tally["rows applied"] > 0


def test_a_row_too_few_and_a_row_too_many_are_found(world):
    """Both readers tell of both; the accounts no longer amount to what the table should hold."""
    world, _ = world
    folder = str(world.folder_of("soak/parts"))
    row = by_polars(Path(folder))[:1]
    DeltaTable(folder).delete(f"id = {row['id'].item()}")
    write_deltalake(folder, row.with_columns(id=pl.lit(-1, pl.Int64)), mode="append")
    found = world.differences()
    for reader in ("DuckDB", "Polars"):
        assert sum(f"soak/parts: {reader}: 1 rows" in line and "are missing" in line for line in found) == 1
        assert sum(f"soak/parts: {reader}: 1 rows" in line and "should not be there" in line for line in found) == 1
    assert all(line.startswith("soak/parts: ") for line in found)


def test_a_row_that_quarantine_lacks_is_found(world):
    """And one that has no business there."""
    world, _ = world
    source = world.sources["soak/events"]
    source.must.add(("20260101-000000000.csv", 1))
    assert any("soak/events: 1 rows are missing in quarantine" in line for line in world.differences())
    source.must.discard(("20260101-000000000.csv", 1))
    left, source.must, source.may = source.must | source.may, set(), set()
    found = any("should not be in quarantine" in line for line in world.differences())
    assert found == bool(left)


def test_the_sniper_strikes_when_a_file_appears(tmp_path):
    """The process dies by the signal at the change of a file; without one nothing happens to it."""
    victim = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        assert sniper.main(victim.pid, 9, 0.05, str(tmp_path / "wire"), "0") == 1
        assert victim.poll() is None
        timer = threading.Timer(0.1, (tmp_path / "wire").write_text, ["."])
        timer.start()
        assert sniper.main(victim.pid, 9, 30, str(tmp_path / "wire"), "0") == 0
        assert victim.wait(30) == -9
        timer.join()
    finally:
        victim.kill()
        victim.wait()


def test_logs_tell_takeovers_and_what_should_not_be(tmp_path):
    """A commit by another loader while one is away is a takeover; a block without a bad file is a surprise."""
    lines = {
        "a": [applied(100.0, "soak/parts"), applied(101.0, "soak/events")],
        "b": [
            applied(104.5, "soak/parts"),
            {"event": "table is blocked", "table": "soak/parts", "error": "bad", "where": "raw/soak/parts/x.csv"},
            {"event": "table is blocked", "table": "soak/parts", "error": "odd", "where": "raw/soak/parts/y.csv"},
        ],
    }
    for name, told in lines.items():
        (tmp_path / f"{name}.log").write_text("".join(json.dumps(line) + "\n" for line in told))
    with (tmp_path / "b.log").open("a") as log:
        log.write("Traceback (most recent call last):\n{cut off")
    told = Told({"soak/parts": {"x.csv"}, "soak/events": set()})
    told.read(tmp_path)
    assert told.takeovers([(102.0, 106.0, tmp_path / "a.log")]) == (2.5, 1)
    assert told.takeovers([(102.0, 103.0, tmp_path / "a.log")]) == (None, 0)
    assert told.tally["times that a table was blocked"] == 2
    assert [line.partition(": ")[2][:9] for line in told.surprises] == ['{"event":', "Traceback"]


def applied(second, table):
    moment = datetime.fromtimestamp(second, UTC).isoformat()
    return {"event": "batch applied", "table": table, "timestamp": moment}


def outcome(**found):
    return Outcome(KINDS[0], "folder and SQLite", Counter({"idle": 2}), tally=Counter({"late files": 3}), **found)


def test_the_page_gets_a_runs_figures_between_its_marks():
    """Each world has a column, and all of them one; the rest of the page stays."""
    run = figures.result([outcome(), outcome(longest_takeover_seconds=2.04)], seed=5, begun=time.time(), quick=False)
    page = figures.with_section(f"before\n{figures.BEGIN}\nstale\n{figures.END}\nafter\n", json.loads(json.dumps(run)))
    assert page.startswith(f"before\n{figures.BEGIN}\n")
    assert page.endswith(f"{figures.END}\nafter\n")
    assert "| kills survived | 2 | 2 | 4 |" in page
    assert "| late files | 3 | 3 | 6 |" in page
    assert "| longest takeover |  | 2.0 s | 2.0 s |" in page
    assert "| differences found |  |  | 0 |" in page
    assert "stale" not in page


@pytest.mark.parametrize("found", [{"differences": ["one"]}, {"surprises": ["one"]}, {"quick": True}])
def test_figures_of_a_run_that_proves_nothing_are_not_published(found, tmp_path, monkeypatch):
    """A quick run, or one that found something: exit code 2, and the page is left alone."""
    monkeypatch.setattr(figures, "PAGE", tmp_path / "no such page")
    quick = found.pop("quick", False)
    run = figures.result([outcome(**found)], seed=5, begun=time.time(), quick=quick)
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert figures.write_docs(tmp_path / "run.json") == 2


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_quick_soak_finds_no_difference(tmp_path):
    """All worlds for a few seconds: kills, stops, faults and bad inputs; exit code 0, and the figures are kept."""
    words = ["-m", "tests.soak", "--quick", "--seed", "3", "--json", str(tmp_path / "run.json")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    assert len(run["worlds"]) == len(KINDS)
    assert sum(sum(world["kills"].values()) for world in run["worlds"]) > 0
