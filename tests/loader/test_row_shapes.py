"""Rows in the shapes that a config describes, from raw files to the table."""

from __future__ import annotations

import gzip

import polars as pl
import pytest

from cdcloader.config.models import Csv
from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.errors import TableError
from cdcloader.loader.steps import Outcome
from cdcloader.loader.verify import as_json, verify

CSV = DmsSettings(format="csv")


def cdc(world, text, suffix="csv"):
    content = text.encode()
    name = f"{world.now:%Y%m%d-%H%M%S}000.{suffix}"
    world.put(name, gzip.compress(content) if suffix.endswith("gz") else content)
    world.later()
    return name


def load(world, text, suffix="csv"):
    world.put(f"LOAD00000001.{suffix}", text.encode())
    world.later(600)


def quarantined(world):
    files = sorted((world.root / "lake").glob("_quarantine/**/*.parquet"))
    return [row for file in files for row in pl.read_parquet(file).select("row", "reason").rows()]


def test_json_from_the_full_load_to_changes_of_new_columns(make_world):
    """Types are inferred from the full load and kept, a new key is a new column, a bad line goes to quarantine."""
    world = make_world()
    load(world, '{"id":1,"name":"a","n":1.5}\n{"id":2,"name":"b","n":2.25}\n', "json")
    assert world.run().outcome is Outcome.IDLE
    cdc(world, '{"Op":"U","id":1,"n":"3.75","new":{"a":[1]}}\n{"Op":"D","id":2}\nno\n', "ndjson.gz")
    assert world.run().outcome is Outcome.IDLE
    cdc(world, '{"Op":"I","id":9007199254740993,"n":"x"}\n{"Op":"I","id":9007199254740993,"name":"c"}\n', "jsonl")
    assert world.run().outcome is Outcome.IDLE
    frame = world.frame().sort("id")
    assert frame.schema["n"] == pl.Decimal(38, 10)
    rows = [(row[0], row[1], row[3]) for row in frame.select("id", "name", "n", "new").rows()]
    assert rows == [(1, None, '{"a":[1]}'), (9007199254740993, "c", None)]
    assert str(frame["n"][0]) == "3.7500000000"
    assert [reason.split(" (")[0] for _, reason in quarantined(world)] == [
        "no JSON object: Expecting value", "column 'n': 'x' is not a decimal(38,10)",
    ]  # fmt: skip


def test_json_that_is_none_blocks_the_table(make_world):
    """A list of objects is named as what it is not, and nothing of it is applied."""
    world = make_world()
    load(world, '{"id":1,"name":"a"}\n', "json")
    world.run()
    name = cdc(world, '[\n{"Op":"D","id":1},\n', "json")
    with pytest.raises(TableError, match=rf"{name}: not one of 2 lines is a JSON object"):
        world.run()
    assert world.rows() == [(1, "a")]


def test_csv_between_delimiters_of_several_characters(make_world):
    """Delimiter, row delimiter and null token of the config are those of every file."""
    csv = Csv(delimiter="~|", row_delimiter="<end>\n", null_values=("NULL",), header=False)
    world = make_world(dms=CSV, csv=csv)
    load(world, '1~|line\nline<end>\n2~|NULL<end>\n3~|"~|<end>\n"<end>\n')
    world.run()
    cdc(world, "U~|2~|<end>\nD~|1~|x<end>\nI~|4<end>\n")
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(2, ""), (3, "~|<end>\n")]
    assert quarantined(world) == [(3, "expected 3 fields, got 2")]


def test_op_column_keeps_its_place_in_files_without_a_header(make_world):
    """Its place is that under `columns`, after the first batch as well, and the target has no such column."""
    columns = (("id", "long"), ("op_type", "string"), ("name", "string"))
    world = make_world(dms=CSV, columns=columns, op_column="op_type", csv=Csv(header=False))
    load(world, "1,INSERT,a\n2,,b\n")
    world.run()
    for text in ("1,UPDATE,c\n", "2,DELETE,b\n3,I,d\n"):
        cdc(world, text)
        assert world.run().outcome is Outcome.IDLE
    assert world.frame().columns == ["id", "name"]
    assert world.rows() == [(1, "c"), (3, "d")]


def test_changes_without_op_set_the_rows_of_their_keys(make_world):
    """cdcInsertsOnly: refused until the config says `insert`; then a known key is updated, another one inserted."""
    for policy in ("refuse", "insert"):
        world = make_world(dms=CSV, changes_without_op=policy)
        load(world, "1,a\n")
        world.run()
        cdc(world, "1,b\n2,c\n")
        if policy == "refuse":
            with pytest.raises(TableError, match="without an Op column"):
                world.run()
    assert world.run().outcome is Outcome.IDLE
    assert world.rows() == [(1, "b"), (2, "c")]


def test_tables_of_any_shape_can_be_verified(make_world):
    """`verify` reads JSON and CSV of other dialects as the loader did, by all columns and by keys alone."""
    json_world = make_world()
    load(json_world, '{"id":1,"name":"a","n":1.5}\n{"id":2,"name":"b"}\n', "json")
    json_world.run()
    cdc(json_world, '{"Op":"U","id":1,"name":"c"}\n{"Op":"D","id":2}\n[]\n', "json")
    csv_world = make_world(dms=CSV, csv=Csv(delimiter="||", row_delimiter="~\n"), op_column="op_type")
    load(csv_world, 'id||name~\n1||"a~\n"~\n')
    csv_world.run()
    cdc(csv_world, "op_type||id||name~\nINSERT||2||b\n~\n")
    for world in (json_world, csv_world):
        world.run()
        context = world.loader().context
        for quick in (False, True):
            found = verify(context, world.store.get(context.path), quick=quick, budget_bytes=256 << 20)
            assert found.equal, as_json(found, show_keys=True)
