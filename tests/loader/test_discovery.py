"""Discovery: folders become tables by the config's patterns, and what is in a newcomer's way stops it alone."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import polars as pl
import pytest
import yaml
from structlog.testing import capture_logs

from cdcloader.config import load_config
from cdcloader.errors import ConfigError, TableError, TransientError
from cdcloader.objects import Objects
from cdcloader.state.record import new_record
from cdcloader.turns import run_once
from cdcloader.wiring import assemble


class Place:
    """A raw folder, a lake, a state file and a config of patterns."""

    def __init__(self, root: Path):
        self.root = root
        self.raw = root / "raw"
        self.raw.mkdir()

    def put(self, *sources, **columns):
        for source in sources:
            folder = self.raw / source
            folder.mkdir(parents=True)
            pl.DataFrame(columns or {"id": [1, 2]}).write_parquet(folder / "LOAD00000001.parquet")

    def config(self, *tables, **settings):
        base = {
            "raw": str(self.raw),
            "lake": str(self.root / "lake"),
            "state": {"kind": "sqlite", "path": str(self.root / "state.db")},
            "http": None,
            "full_load": {"quiet_seconds": 0},
        }
        entries = [{"primary_key": ["id"], **table} for table in tables]
        file = self.root / "config.yaml"
        file.write_text(yaml.safe_dump({**base, "tables": entries, **settings}, sort_keys=False))
        return load_config(file, {})

    def assemble(self, *tables, named=(), **settings):
        return assemble(self.config(*tables, **settings), tables=tuple(named))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def sources(assembly):
    return [loader.source for loader in assembly.loaders]


def run(assembly):
    return run_once(assembly.loaders, workers=4, stopping=threading.Event(), lease_seconds=60)


def test_every_folder_that_a_pattern_names_is_a_table(place):
    """Exact entries go first, then patterns in their order; control folders and what is excluded are none."""
    place.put("sales/orders", "sales/lines", "sales/tmp_1", "hr/staff", "hr/log", "sales/awsdms_status", "ops/x")
    (place.raw / "s3_validation_failures" / "y").mkdir(parents=True)
    assembly = place.assemble(
        {"source": "*/l*", "primary_key": None, "exclude": ["hr/log"]},
        {"source": "sales/*", "exclude": ["tmp_*"], "target": "shop/{table}"},
        {"source": "hr/*", "primary_keys": {"staff": ["id"], "*": ["x"]}},
        {"source": "sales/orders", "target": "o"},
    )
    found = {one.source: (one.context.table.target, one.context.table.primary_key) for one in assembly.loaders}
    assert found == {
        "hr/log": ("hr/log", ("x",)),
        "hr/staff": ("hr/staff", ("id",)),
        "sales/lines": ("sales/lines", None),
        "sales/orders": ("o", ("id",)),
    }
    assert assembly.troubles() == []


def test_the_folder_of_an_exact_entry_below_it_is_no_table(place):
    """`a/b/c` has an entry of its own: `a/b` only holds it."""
    place.put("a/b/c", "a/d")
    assert sources(place.assemble({"source": "a/b/c"}, {"source": "a/*"})) == ["a/b/c", "a/d"]


def test_a_thousand_tables_by_one_entry(place):
    """They are found by one listing of their schema, and a new one needs no restart."""
    place.put(*(f"sales/t{number:04}" for number in range(1_000)))
    assembly = place.assemble({"source": "sales/*"})
    assert len(assembly.loaders) == 1_000
    listed = []
    folders = assembly.raw.folders
    assembly.raw.folders = lambda prefix="": listed.append(prefix) or folders(prefix)
    assert assembly.discover() == ()
    place.put("sales/later")
    assert [loader.source for loader in assembly.discover()] == ["sales/later"]
    assert listed == ["sales", "sales"]
    ended = run_once(assembly.loaders[-3:], workers=2, stopping=threading.Event(), lease_seconds=60)
    assert [str(one.step.outcome) for one in ended] == ["idle"] * 3
    assert pl.read_delta(str(place.root / "lake/sales/later")).height == 2


def test_a_table_without_the_key_says_where_its_key_may_stand(place):
    """The others of its pattern go on."""
    place.put("s/a")
    place.put("s/b", other=[1])
    ended = {one.loader.source: one.error for one in run(place.assemble({"source": "s/*"}))}
    assert ended["s/a"] is None
    assert "key column 'id' is missing" in str(ended["s/b"])
    assert "primary_keys" in ended["s/b"].hint


def test_a_folder_whose_name_is_not_for_tables_is_told(place):
    """In the log once, in the status always, in the metrics as blocked; the others are loaded."""
    place.put("s/a", "s/a%20b")
    with capture_logs() as lines:
        assembly = place.assemble({"source": "s/*"})
        assembly.discover()
    assert sources(assembly) == ["s/a"]
    assert [row["source"] for row in assembly.troubles()] == ["s/a%20b"]
    [row] = assembly.troubles()
    assert (row["phase"], "percent escape" in row["error"]) == ("blocked", True)
    assert b'cdcloader_table_phase{phase="blocked",table="s/a%20b"} 1.0' in assembly.metrics.render()
    assert [line["table"] for line in lines if line["event"] == "no table by a pattern"] == ["s/a%20b"]
    (place.raw / "s/a%20b/LOAD00000001.parquet").unlink()
    (place.raw / "s/a%20b").rmdir()
    assembly.discover()
    assert assembly.troubles() == []
    assert b"a%20b" not in assembly.metrics.render()


def test_of_two_folders_with_one_target_the_newcomer_waits(place):
    """The one that was loaded keeps it, also after a restart in which the other one is found first."""
    entry = {"source": "*/*", "target": "{table}"}
    place.put("sales/orders")
    assembly = place.assemble(entry)
    run(assembly)
    place.put("hr/orders", id=[7])
    assert assembly.discover() == ()
    [row] = assembly.troubles()
    assert (row["source"], "the target of sales/orders already" in row["error"]) == ("hr/orders", True)
    again = place.assemble(entry)
    assert sources(again) == ["sales/orders"]
    assert [row["source"] for row in again.troubles()] == ["hr/orders"]
    run(again)
    assert pl.read_delta(str(place.root / "lake/orders"))["id"].to_list() == [1, 2]


def test_two_newcomers_with_one_target_both_wait(place):
    """Nothing says whose it is, and another replica would have to come to the same."""
    place.put("sales/orders", "hr/orders", "hr/staff")
    assembly = place.assemble({"source": "*/*", "target": "{table}"})
    assert sources(assembly) == ["hr/staff"]
    assert [row["source"] for row in assembly.troubles()] == ["hr/orders", "sales/orders"]


def test_a_target_inside_another_is_refused(place):
    """Neither a target below a table's folder nor one around it can be a table's."""
    place.put("s/a", "s/b", "s/c")
    around = place.assemble({"source": "s/a", "target": "x"}, {"source": "s/*", "target": "x/{table}"})
    assert (sources(around), len(around.troubles())) == (["s/a"], 2)
    within = place.assemble({"source": "s/a", "target": "b/y"}, {"source": "s/*", "target": "{table}"})
    assert sources(within) == ["s/a", "s/c"]
    assert "inside another table's target, or around it" in within.troubles()[0]["error"]


def test_a_vanished_folder_keeps_its_table(place):
    """In the process that knows it, and in the next: its record stands, and `on_source_truncate` is for that."""
    place.put("s/a", "s/b")
    assembly = place.assemble({"source": "s/*"})
    run(assembly)
    (place.raw / "s/a/LOAD00000001.parquet").unlink()
    (place.raw / "s/a").rmdir()
    assembly.discover()
    assert sources(assembly) == ["s/a", "s/b"]
    again = place.assemble({"source": "s/*", "on_source_truncate": "truncate"}, full_load={"quiet_seconds": 0})
    assert sources(again) == ["s/a", "s/b"]
    run(again)
    assert pl.read_delta(str(place.root / "lake/s/a")).height == 0


def test_records_of_other_places_are_no_tables(place):
    """A state table may serve several prefixes."""
    place.put("s/a")
    assembly = place.assemble({"source": "s/*"})
    assembly.store.create(new_record("elsewhere/raw/s/z/", "", "", "", None, (), ""))
    assert sources(place.assemble({"source": "s/*"})) == ["s/a"]


def test_a_listing_that_fails_stops_no_known_table(place, monkeypatch):
    """The trouble is told, passing trouble as such, and the next look finds what is new."""
    place.put("s/a", "t/b")
    assembly = place.assemble({"source": "*/*"}, {"source": "x/y"})
    place.put("s/c", "t/d")
    folders = Objects.folders

    def failing(self, prefix=""):
        if prefix == "s":
            raise TransientError("throttled", where="s3://x")
        return folders(self, prefix)

    monkeypatch.setattr(Objects, "folders", failing)
    assert [loader.source for loader in assembly.discover()] == ["t/d"]
    assert [(row["source"], row["phase"]) for row in assembly.troubles()] == [("s/*", "retrying")]
    monkeypatch.setattr(Objects, "folders", folders)
    assert [loader.source for loader in assembly.discover()] == ["s/c"]
    assert assembly.troubles() == []


def test_a_pattern_that_names_nothing_is_told(place):
    """It is more likely a mistake than a schema without tables."""
    place.put("s/a")
    assembly = place.assemble({"source": "s/*"}, {"source": "sale/*"}, {"source": "s/a*"})
    assert [row["source"] for row in assembly.troubles()] == ["sale/*"]
    assert "names no folder" in assembly.troubles()[0]["error"]


def test_one_table_of_a_pattern_can_be_named(place, monkeypatch):
    """Commands take it by its source; nothing else is looked for then, and an unknown name is answered as ever."""
    place.put("s/a", "s/b", "s/%20")
    assembly = place.assemble({"source": "s/*"}, named=["/s/b/"])
    assert (sources(assembly), assembly.grows, assembly.discover(), assembly.troubles()) == (["s/b"], False, (), [])
    for name in ("s/x", "t/a", "s/*"):
        with pytest.raises(ConfigError, match=r"no table has the source.*the sources are s/\*"):
            place.assemble({"source": "s/*"}, named=[name])
    with pytest.raises(TableError, match="cannot be a table"):
        place.assemble({"source": "s/*"}, named=["s/%20"])

    def failing(_self, _prefix=""):
        raise TransientError("throttled", where="s3://x")

    monkeypatch.setattr(Objects, "folders", failing)
    with pytest.raises(TransientError, match="throttled"):
        place.assemble({"source": "s/*"}, named=["s/a"])


def test_a_table_that_is_found_later_takes_its_rows_from_shared_files(place):
    """With PreserveTransactions: its changes lie in files that the others have been through already."""
    entry = {"source": "*/*", "cdc_path": "s/cdc"}
    place.put("s/a")
    (place.raw / "s/cdc").mkdir()
    (place.raw / "s/cdc/CDC_TXN-20300101000000000.csv").write_text("I,a,s,3\nI,b,s,7\nD,a,s,1\n")
    assembly = place.assemble(entry)
    assert sources(assembly) == ["s/a"]
    run(assembly)
    place.put("s/b")
    assert [loader.source for loader in assembly.discover()] == ["s/b"]
    run(assembly)
    rows = {name: sorted(pl.read_delta(str(place.root / "lake/s" / name))["id"]) for name in "ab"}
    assert rows == {"a": [2, 3], "b": [1, 2, 7]}


def test_replicas_are_of_one_group_whatever_they_have_found(place):
    """The group follows from the config; who found a table first does not own it for that."""
    place.put("s/a")
    first = place.assemble({"source": "s/*"})
    place.put("s/b")
    second = place.assemble({"source": "s/*"})
    other = place.assemble({"source": "s/*"}, named=["s/a"])
    assert first.replica._group == second.replica._group != other.replica._group
    assert len(second.replica._tables) == 2


def test_a_damaged_record_hides_no_folder(place):
    """What is listed is found all the same; only folders that are gone cannot be told then."""
    place.put("s/a")
    with sqlite3.connect(place.root / "state.db") as connection:
        place.assemble({"source": "s/*"}).close()
        connection.execute("INSERT INTO tables (path, Generation) VALUES (?, 'x')", (f"{place.raw}/s/b/",))
    with capture_logs() as lines:
        assembly = place.assemble({"source": "s/*"})
        assembly.discover()
    assert sources(assembly) == ["s/a"]
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "tables whose folders are gone cannot be told until the next start"
    ]
