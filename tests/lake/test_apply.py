"""Random batches against a dict, each version read back by readers that we did not write."""

import itertools
import time
import uuid
from datetime import date
from decimal import Decimal

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.changes.schema import Field, polars_schema, to_json
from cdcloader.lake.apply import Application, apply_net
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.target import Target
from cdcloader.objects import Objects
from tests.readers import read_by_all

MODES = ["auto", "merge_on_read", "copy_on_write"]
VALUES = {
    "long": st.integers(-(2**63), 2**63 - 1),
    "integer": st.integers(-20, 20),
    "string": st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40),
    "date": st.dates(date(1, 1, 1), date(9999, 12, 31)),
    "decimal(12,2)": st.decimals(Decimal("-9999999.99"), Decimal("9999999.99"), places=2, allow_nan=False),
    "boolean": st.booleans(),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "binary": st.binary(max_size=8),
}
SMALL_KEYS = {
    "long": st.integers(-15, 15),
    "string": st.sampled_from(["", "a", "b/c", "d e", "ü%20", "é=1", "A", "x" * 33, "x" * 32 + "y", "ｆ"]),
    "date": st.dates(date(2020, 1, 1), date(2020, 1, 20)),
    "decimal(12,2)": st.decimals(Decimal(-2), Decimal(2), places=1),
}
PARTITIONS = {
    "string": st.sampled_from(["a", "b c", "ü/%20=&?#+", "C:\\d", None]),
    "integer": st.sampled_from([1, -2, None]),
    "date": st.sampled_from([date(2024, 2, 29), None]),
    "boolean": st.sampled_from([True, False]),
    "decimal(12,2)": st.sampled_from([Decimal("1.50"), Decimal("-0.05")]),
}


@st.composite
def histories(draw):
    """(schema, key, partition_by, batches); a batch is a list of (op, row) with one row per key."""
    keys = draw(st.lists(st.sampled_from(sorted(SMALL_KEYS)), min_size=1, max_size=2))
    fields = [Field(f"k{n}", kind) for n, kind in enumerate(keys)]
    partition = draw(st.one_of(st.none(), st.sampled_from(sorted(PARTITIONS))))
    fields += [Field("p q", partition)] if partition else []
    fields += [
        Field(f"v{n}", k) for n, k in enumerate(draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3)))
    ]
    strategies = {f"k{n}": SMALL_KEYS[kind] for n, kind in enumerate(keys)}
    strategies |= {"p q": PARTITIONS[partition]} if partition else {}
    strategies |= {f.name: st.one_of(st.none(), VALUES[f.type]) for f in fields if f.name.startswith("v")}
    change = st.tuples(st.sampled_from("IUD"), st.fixed_dictionaries(strategies))
    key = tuple(f"k{n}" for n in range(len(keys)))
    batch = st.lists(change, max_size=25, unique_by=lambda c: tuple(c[1][k] for k in key))
    return tuple(fields), key, ("p q",) if partition else (), draw(st.lists(batch, min_size=1, max_size=6))


def commit(log, target, snapshot, applied):
    actions = []
    if snapshot is None:
        metadata = {
            "id": str(uuid.uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": to_json(target.schema),
            "partitionColumns": list(target.partition_by),
            "configuration": {"delta.enableDeletionVectors": "true"},
            "createdTime": 0,
        }
        features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
        actions = [{"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}, {"metaData": metadata}]
    actions += [file.remove(0) for file in applied.removes] + [file.add() for file in applied.adds]
    return log.commit(snapshot, actions, {"timestamp": 0, "operation": "MERGE"})


def rows_of(frame, key):
    return sorted(frame.to_dicts(), key=lambda row: tuple(row[k] for k in key))


@settings(max_examples=60, deadline=None)
@given(history=histories(), modes=st.lists(st.sampled_from(MODES), min_size=6, max_size=6), passes=st.integers(1, 3))
def test_any_history_of_batches_equals_a_dict_to_every_reader(history, modes, passes, tmp_path_factory):
    """Any write mode, changed at any time, over random keys and types: every reader sees what a dict holds."""
    schema, key, partition_by, batches = history
    lake = Objects.open(str(tmp_path_factory.mktemp("lake")))
    log, path = DeltaLog(lake, "s/t"), lake.path_of("s/t")
    model, snapshot = {}, None
    for batch, mode in zip(batches, modes, strict=False):
        target = Target(lake, "s/t", schema, key, partition_by, 2_000, int(time.time() * 1000), mode)
        columns = {**polars_schema(schema), "__op": pl.String}
        net = pl.DataFrame([{**row, "__op": op} for op, row in batch], schema=columns).sort(key)
        expected = {"inserted": 0, "updated": 0, "deleted": 0, "noop": 0}
        for op, row in batch:
            k = tuple(row[name] for name in key)
            kind = ("deleted" if k in model else "noop") if op == "D" else ("updated" if k in model else "inserted")
            expected[kind] += 1
            if op == "D":
                model.pop(k, None)
            else:
                model[k] = row
        application = Application(target, snapshot, piece_bytes=1_000)
        for part in np.array_split(np.arange(net.height), passes):
            application.add(net[part.tolist()])
        applied = application.finish()
        assert {name: getattr(applied, name) for name in expected} == expected
        snapshot = commit(log, target, snapshot, applied)
    wanted = [model[k] for k in sorted(model)]
    if not model:
        assert not snapshot.files
    for reader, frame in read_by_all(path, schema).items() if model else ():
        seen = [{name: row[name] for name in frame.columns} for row in wanted]
        assert rows_of(frame, key) == seen, reader


def test_files_keep_their_key_ranges_and_a_scattered_batch_does_not_break_them(tmp_path):
    """Rewritten files stay inside their key range, so the next batch of recent keys touches one file."""
    lake = Objects.open(str(tmp_path))
    schema = (Field("id", "long"), Field("v", "long"))
    columns = {**polars_schema(schema), "__op": pl.String}
    log, snapshot = DeltaLog(lake, "t"), None
    for start in range(0, 4000, 1000):
        target = Target(lake, "t", schema, ("id",), (), 8_000, 0, "copy_on_write")
        net = pl.DataFrame({"id": range(start, start + 1000), "v": 0, "__op": "I"}, schema=columns)
        applied = apply_net(target, snapshot, net)
        assert applied.strategy == "append"
        snapshot = commit(log, target, snapshot, applied)
    ids = [5, 999, 1500, 2500, 3999, 4000]
    scattered = pl.DataFrame({"id": ids, "v": 1, "__op": ["U"] * 5 + ["I"]}, schema=columns)
    applied = apply_net(Target(lake, "t", schema, ("id",), (), 8_000, 0, "copy_on_write"), snapshot, scattered)
    snapshot = commit(log, target, snapshot, applied)
    ranges = sorted(
        (file.statistics()["minValues"]["id"], file.statistics()["maxValues"]["id"]) for file in snapshot.files.values()
    )
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(ranges))
    recent = pl.DataFrame({"id": [3998, 4001], "v": 2, "__op": ["U", "I"]}, schema=columns)
    applied = apply_net(Target(lake, "t", schema, ("id",), (), 8_000, 0, "copy_on_write"), snapshot, recent)
    assert len(applied.removes) == 1


def test_a_file_whose_rows_are_all_deleted_is_dropped(tmp_path):
    """Deleting every row of a file removes it and writes nothing."""
    lake = Objects.open(str(tmp_path))
    schema = (Field("id", "long"),)
    columns = {**polars_schema(schema), "__op": pl.String}
    log, target = DeltaLog(lake, "t"), Target(lake, "t", schema, ("id",), (), 8_000, 0, "copy_on_write")
    snapshot = commit(
        log, target, None, apply_net(target, None, pl.DataFrame({"id": [1, 2], "__op": "I"}, schema=columns))
    )
    applied = apply_net(target, snapshot, pl.DataFrame({"id": [1, 2], "__op": "D"}, schema=columns))
    assert (len(applied.removes), applied.adds, applied.strategy) == (1, [], "drop")


def test_small_batches_of_new_rows_leave_few_files(tmp_path):
    """New small files absorb small ones: the number of files grows with the logarithm of the number of batches."""
    lake = Objects.open(str(tmp_path))
    schema = (Field("id", "string"), Field("v", "string"))
    columns = {**polars_schema(schema), "__op": pl.String}
    log, snapshot = DeltaLog(lake, "t"), None
    for _ in range(64):
        target = Target(lake, "t", schema, ("id",), (), 128 << 20, 0)
        ids = sorted(str(uuid.uuid4()) for _ in range(20))
        net = pl.DataFrame({"id": ids, "v": ids, "__op": "I"}, schema=columns)
        snapshot = commit(log, target, snapshot, apply_net(target, snapshot, net))
    assert len(snapshot.files) <= 12
    assert pl.read_delta(lake.path_of("t")).height == 64 * 20


def test_a_key_that_stands_in_the_table_twice_is_changed_twice(tmp_path):
    """A foreign append may double a key; an update leaves one row of it, a delete none."""
    lake = Objects.open(str(tmp_path))
    schema = (Field("id", "long"), Field("v", "long"))
    columns = {**polars_schema(schema), "__op": pl.String}
    log, target = DeltaLog(lake, "t"), Target(lake, "t", schema, ("id",), (), 8_000, 0, "copy_on_write")
    snapshot = None
    rows = pl.DataFrame({"id": [1, 2, 3], "v": 0}, schema=polars_schema(schema))
    snapshot = commit(log, target, None, apply_net(target, None, rows.with_columns(__op=pl.lit("I"))))
    rows.write_delta(lake.path_of("t"), mode="append")
    snapshot = log.snapshot()
    net = pl.DataFrame({"id": [1, 2], "v": [7, None], "__op": ["U", "D"]}, schema=columns)
    applied = apply_net(target, snapshot, net)
    assert (applied.updated, applied.deleted) == (1, 1)
    commit(log, target, snapshot, applied)
    assert sorted(pl.read_delta(lake.path_of("t")).rows()) == [(1, 7), (3, 0), (3, 0)]
