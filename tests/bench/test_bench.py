"""The benchmarks can be believed: they know what is right, notice what is not, and print what was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest

from tests.bench import page, tables, truth
from tests.bench.bench import Bench, Wrong, prove, run_once, table_of
from tests.bench.cases import CASES
from tests.bench.data import KEY, Cache
from tests.bench.environments import ALL, PEERS, Environments, Unavailable
from tests.bench.results import QUICK, Result, figure, from_json, target_text

TINY = replace(QUICK, table_rows=4_000, table_files=2, scattered=(100,))


@pytest.fixture
def bench(tmp_path):
    cache = Cache(tmp_path / "bench")
    cache.open()
    return Bench(cache, TINY, Environments(cache.folder / "envs", install=False))


def rows_of(*names):
    """Typed rows of orders by their keys; a name is the key and, behind a colon, a note of its own."""
    parts = [name.partition(":") for name in names]
    frame = tables._typed(tables.orders(pl.Series([int(key) for key, _, _ in parts]).to_numpy(), wide=True, seed=1))
    return frame.with_columns(note=pl.Series([note for _, _, note in parts]))


def test_the_truth_is_the_last_change_of_each_key(tmp_path):
    """What a table must hold is computed in the order of files and rows, deletes and new keys included."""
    old = rows_of("1:old", "2:old", "3:old", "4:old")
    early, late = rows_of("1:first", "1:second", "2", "9:new"), rows_of("9", "2:again", "3:third")
    # Updated twice, deleted and made again in a later file, updated, left alone; a new one comes and goes.
    left = pl.concat([early[1:2], late[1:3], old[3:4]])
    (tmp_path / "after").mkdir()
    old.write_parquet(tmp_path / "base.parquet")
    left.write_parquet(tmp_path / "after" / "rows.parquet")
    paths = [tmp_path / "changes-1.parquet", tmp_path / "changes-2.parquet"]
    for path, ops, frame in zip(paths, (["U", "U", "D", "I"], ["D", "I", "U"]), (early, late), strict=True):
        frame.select(pl.Series("Op", ops), pl.all()).write_parquet(path)
    wanted = truth.expected(str(tmp_path / "base.parquet"), paths, spill=tmp_path / "spill")
    assert wanted == truth.of_files(str(tmp_path / "after" / "*.parquet"))


def test_a_built_table_holds_its_rows_and_takes_changes(bench):
    """A table that the benchmarks build is read by DuckDB, and the loader adopts it and applies the one file."""
    table = tables.base(bench.cache, TINY.table_rows, TINY.table_files)
    folder = tables.scattered(bench.cache, TINY.table_rows, 100)
    assert truth.of_table(table_of(table)) == truth.of_files(tables.data_files(table))
    wanted = tables.expected(folder, table, [folder / "changes.parquet"])
    # 60 updates, 20 inserts and 20 deletes leave as many rows as there were.
    assert int(wanted["rows"]) == TINY.table_rows
    _, run = run_once(bench, table, folder)
    prove("cdcloader", wanted, table=table_of(run))


def test_wrong_rows_fail_the_benchmark(bench):
    """A table that lacks the changes is told from one that has them."""
    table = tables.base(bench.cache, TINY.table_rows, TINY.table_files)
    folder = tables.scattered(bench.cache, TINY.table_rows, 100)
    wanted = tables.expected(folder, table, [folder / "changes.parquet"])
    with pytest.raises(Wrong, match="somebody left other rows"):
        prove("somebody", wanted, table=table_of(table))


def test_bytes_written_is_measured_on_the_real_loader(bench):
    """One case runs from its data to its line: the loader applies the file, and what it wrote is counted."""
    (line,) = CASES["bytes_written"](bench)
    assert line.ours > line.reference > 0


def test_an_environment_that_is_not_there_is_said_and_not_installed(bench):
    """A quick run never calls pip: the peer is skipped, with the reason."""
    for peer in ALL:
        with pytest.raises(Unavailable, match=r"not installed|no java"):
            bench.environments.run(peer, bench.cache.runs, bench.cache.runs, KEY, bench.cache.runs)
    assert not (bench.cache.folder / "envs").exists()


@pytest.mark.parametrize("name", [peer.name for peer in ALL] + ["plot"])
def test_every_environment_is_pinned(name):
    """What a peer is measured with are exact versions, and no package index is named."""
    pins = (PEERS / f"{name}.txt").read_text().split()
    assert pins
    assert all(pin.count("==") == 1 and "/" not in pin for pin in pins)


@pytest.mark.parametrize(
    ("measured", "at_least", "reached"),
    [(2.0, False, True), (4.0, False, False), (4.0, True, True), (2.0, True, False)],
)
def test_a_reach_is_a_floor_or_a_ceiling(measured, at_least, reached):
    """A ratio to a peer must be at least its reach, everything else at most; the words say which."""
    result = Result("case", measured, target=3, at_least=at_least, processes=(1.5, 2.5))
    assert result.reached is reached
    assert target_text(result) == ("at least 3 x" if at_least else "at most 3 x")
    assert from_json(json.loads(json.dumps(result.as_json()))) == result


def test_a_skipped_line_is_neither_reached_nor_missed():
    """A peer that cannot be had leaves the question open."""
    assert Result("case", target=3, skipped="there is no java").reached is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0421, "s", "42 ms"), (1.5, "s", "1.50 s"), (13.14, "x", "13.1 x"), (312_345.6, "rows/s", "312,346 rows/s")],
)
def test_figures_are_readable(value, unit, text):
    """A figure has as many digits as mean something."""
    assert figure(value, unit) == text


def run_of(*results):
    machine = {"cores": 2, "processor": "", "memory_gb": 8, "python": "3.11", "versions": "cdcloader 1"}
    case = {"begun": "2025-01-01T00:00:00+00:00", "seconds": 60, "runs": 3, "machine": machine}
    return {"quick": False, "cases": {"scattered": {**case, "results": [result.as_json() for result in results]}}}


def test_the_page_says_what_is_slower_than_a_peer():
    """The figures of a run replace the old ones between the marks, and a peer that is faster is named."""
    quick = Result("fast", 0.5, ours=2.0, reference=1.0, reference_name="a peer", is_peer=True)
    slow = Result("slow", 20.0, ours=1.0, reference=20.0, reference_name="a peer", is_peer=True)
    before = f"top\n{page.BEGIN}\nold figures\n{page.END}\nbottom\n"
    once = page.with_figures(before, run_of(quick, slow), ["scattered.png"])
    assert once == page.with_figures(once, run_of(quick, slow), ["scattered.png"])
    assert once.startswith("top\n")
    assert once.endswith("\nbottom\n")
    assert "old figures" not in once
    assert "- `fast`: 2.00 s against 1.00 s of a peer." in once
    assert "- `slow`:" not in once
    assert "](images/scattered.png)" in once


def test_the_page_tells_of_a_process_that_took_longer_than_a_peers():
    """A commit that is faster is not the whole story: upkeep after it counts where whole processes are compared."""
    tidied = {"reference_name": "a peer", "is_peer": True, "processes": (9.0, 5.0)}
    run = run_of(Result("case", 10.0, ours=0.5, reference=5.0, **tidied))
    assert "- `case`, as whole processes, upkeep included: 9.00 s against 5.00 s of a peer." in page.figures(run, [])
    # A ratio to ourselves is nobody's defeat.
    growth = Result("growth", 2.0, ours=2.0, reference=1.0, reference_name="ours at 10M rows")
    assert "Nothing that is measured here." in page.figures(run_of(growth), [])


def test_the_page_has_its_marks_and_every_case_its_heading():
    """docs/performance.md can be written anew, and no case is left out of it."""
    text = page.PAGE.read_text()
    assert text.index(page.BEGIN) < text.index(page.END)
    assert set(page._HEADINGS) == set(CASES)
