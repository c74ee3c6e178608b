"""Names and values from outside stay names and values: none leads out of its folder."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.config.models import Table
from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.errors import TableError
from cdcloader.lake.datafiles import new_key
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.sweep import sweep
from cdcloader.source.layouts import PLAIN

ODD = [
    "../../x", "..", ".", "a/b", "/etc/passwd", "%2e%2e/%2e%2e/x", "..\\..\\x", "a\\b", "s3://other/x", "~", "$HOME",
    "x=y", "a b", "ü", "．．／x", "%00", "a:b", "*?[x]", "'; DROP TABLE t; --", "-rf", " ", "a\tb", "{x}",
]  # fmt: skip
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def files_below(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def by_delta_rs(path):
    batches = list(QueryBuilder().register("t", DeltaTable(path)).execute("SELECT * FROM t"))
    return pl.concat([pl.DataFrame(batch) for batch in batches])


@pytest.mark.parametrize("mode", ["auto", "copy_on_write"])
def test_partition_values_stay_in_the_table(make_world, mode):
    """Values that look like paths become folders inside the table, through load, update, move and delete."""
    world = make_world(columns=(("id", "long"), ("part", "string")), partition_by=("part",), write_mode=mode)
    world.load([{"id": number, "part": value} for number, value in enumerate(ODD)])
    world.later(400)
    world.run()
    before = files_below(world.root.parent)
    moved = [*ODD[1:], ODD[0]]
    world.cdc([("U", {"id": number, "part": value}) for number, value in enumerate(moved)], at=world.later())
    world.cdc([("D", {"id": 0, "part": moved[0]}), ("I", {"id": 99, "part": "../../x"})], at=world.later())
    world.run()
    expected = sorted([*list(enumerate(moved))[1:], (99, "../../x")])
    assert world.rows() == expected
    assert sorted(by_delta_rs(world.path).select("id", "part").rows()) == expected
    outside = {path for path in files_below(world.root.parent) - before if "/lake/s/t/" not in f"/{path}"}
    assert {path for path in outside if "/raw/s/t/" not in f"/{path}"} == set()


@given(st.text(min_size=1, max_size=12), st.text(max_size=30))
def test_a_data_files_key_has_one_folder_per_partition(column, value):
    """Whatever column and value are, the key is the folder and the name: no slash of theirs makes a folder more."""
    key = new_key({column: value, "b": None})
    assert key.count("/") == 2
    first, second, _ = key.split("/")
    assert first not in ("", ".", "..")
    assert second == "b=__HIVE_DEFAULT_PARTITION__"
    assert not re.search(r"[\\\x00-\x1f\x7f/]", first.partition("=")[2] if "=" not in column else "")


@pytest.mark.parametrize("target", ["a..b/t", "ü/．．", "~/t", "$HOME/t", "100%/t", "a b/t"])
def test_a_target_with_an_odd_name_is_a_folder_of_the_lake(make_world, target):
    """A name that some decoder would read as a way out is a folder in the lake, and readers find it there."""
    world = make_world()
    world.table = Table(source="s/t", target=target, primary_key=("id",))
    loader = world.loader()
    object.__setattr__(loader.context, "log", DeltaLog(world.lake, target))
    world.load([{"id": 1, "name": "a"}])
    world.later(400)
    before = files_below(world.root.parent)
    world.run(loader)
    world.cdc([("U", {"id": 1, "name": "b"})], at=world.later())
    world.run(loader)
    made = {path for path in files_below(world.root.parent) - before if "/raw/s/t/" not in f"/{path}"}
    assert made
    assert all(f"/lake/{target}/" in f"/{path}" for path in made)
    assert by_delta_rs(str(world.root / "lake" / target)).rows() == [(1, "b")]


@pytest.mark.parametrize(
    "name",
    [
        "../LOAD00000001.csv", "..%2fLOAD00000001.csv", "%2e%2e", "LOAD00000001.csv/..", "LOAD0000000１.csv",
        "LOAD00000001.csv\n", "LOAD00000001.csv\x00", "./LOAD00000001.csv", "LОAD00000001.csv", "LOAD00000001.csv%00",
        "20260301-12000000０.csv", "..\\LOAD00000001.csv", "LOAD00000001.csv ", " 20260301-120000000.csv",
    ],
)  # fmt: skip
def test_a_raw_name_is_what_dms_writes_or_nothing(name):
    """Names that only look like DMS's, with other digits, letters, folders or characters, are no files of a table."""
    assert PLAIN.parse("s/t/", name, 1, "e", NOON) is None


@given(st.text(max_size=40))
def test_whatever_is_read_as_a_file_is_a_plain_name(text):
    """A file that is taken has a name of letters, digits, dash, dot, underscore, in no folder that leads elsewhere."""
    file = PLAIN.parse("s/t/", text, 1, "e", NOON)
    assert file is None or file.key == f"s/t/{file.name}"
    assert file is None or re.fullmatch(r"[A-Za-z0-9._-]+", file.name.removeprefix(file.folder))
    assert file is None or not {"", ".", ".."} & set(file.folder[:-1].split("/")[: file.folder.count("/")])


def test_odd_objects_in_raw_are_left_where_they_are(world):
    """Objects with names that look like ways out lie beside the table's files: told, not read, not touched."""
    world.load([{"id": 1, "name": "a"}])
    for name in ("%2e%2e%2fLOAD00000002.parquet", "LOAD0000000２.parquet", "..LOAD00000003.parquet", "%00.parquet"):
        world.put(name, b"nothing")
    world.later(400)
    world.run()
    assert world.rows() == [(1, "a")]
    assert len(list(world.raw.iterdir())) == 5


def test_quarantined_rows_stay_in_the_quarantine(make_world):
    """Rows that are refused are written below the quarantine's folder of their target, whatever they hold."""
    world = make_world(dms=DmsSettings(format="csv", header=True))
    world.put("LOAD00000001.csv", b'id,name\n1,a\n../../x,"../../y"\n')
    world.later(400)
    before = files_below(world.root.parent)
    world.run()
    made = [f"/{path}" for path in files_below(world.root.parent) - before]
    assert any("/lake/_quarantine/s/t/LOAD00000001.csv-" in path for path in made)
    assert all("/lake/_quarantine/s/t/" in path or "/lake/s/t/" in path for path in made)


OUTSIDE = [
    "../victim.parquet",
    "%2e%2e/victim.parquet",
    "a/../../victim.parquet",
    "{victim}",
    "file://{victim}",
    "%2F{victim}",
]


def foreign_file(world, path):
    """A data file beside the table, which a foreign commit claims for it."""
    victim = world.root / "lake" / "s" / "victim.parquet"
    pl.DataFrame({"id": [7], "name": ["victim"]}).write_parquet(victim)
    log = world.root / "lake" / "s" / "t" / "_delta_log"
    version = max(int(file.name[:20]) for file in log.glob("*.json")) + 1
    add = {
        "path": path.format(victim=victim), "partitionValues": {}, "size": victim.stat().st_size,
        "modificationTime": 0, "dataChange": True, "stats": json.dumps({"numRecords": 1}),
    }  # fmt: skip
    (log / f"{version:020d}.json").write_text(json.dumps({"add": add}) + "\n")
    return victim


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_foreign_commit_cannot_lead_us_out_of_the_table(make_world, path):
    """A log that names a file outside the table: refused before anything is read or written through that name."""
    world = make_world()
    world.load([{"id": 1, "name": "a"}])
    world.later(400)
    world.run()
    victim = foreign_file(world, path)
    content = victim.read_bytes()
    world.cdc([("U", {"id": 7, "name": "b"}), ("D", {"id": 1, "name": "a"})], at=world.later())
    files = files_below(world.root)
    loader = world.loader()
    with pytest.raises(TableError, match="outside its folder"):
        world.run(loader)
    loader.tidy()
    assert victim.read_bytes() == content
    assert files_below(world.root) == files


@pytest.mark.parametrize("path", OUTSIDE)
def test_the_sweep_deletes_nothing_outside_the_table(make_world, path):
    """A removed file outside the table is not the sweep's to delete, whatever its path says."""
    world = make_world()
    world.load([{"id": 1, "name": "a"}])
    world.later(400)
    world.run()
    victim = foreign_file(world, path)
    log = world.root / "lake" / "s" / "t" / "_delta_log"
    version = max(int(file.name[:20]) for file in log.glob("*.json")) + 1
    remove = {"path": path.format(victim=victim), "deletionTimestamp": 1, "dataChange": True}
    (log / f"{version:020d}.json").write_text(json.dumps({"remove": remove}) + "\n")
    far = int(NOON.timestamp() * 1000) + 400 * 86_400_000
    sweep(world.lake, "s/t", DeltaLog(world.lake, "s/t"), far, lambda: False)
    assert victim.exists()
    assert world.rows() == [(1, "a")]


def test_a_column_that_cannot_be_a_folder_is_refused(make_world):
    """A partition column whose name holds a backslash: the table stops before a commit, with the reason."""
    world = make_world(columns=(("id", "long"), ("a\\..\\b", "string")), partition_by=("a\\..\\b",))
    world.load([{"id": 1, "a\\..\\b": "x"}])
    world.later(400)
    with pytest.raises(TableError, match="refused"):
        world.run()
    assert not list((world.root / "lake").rglob("*.json"))
