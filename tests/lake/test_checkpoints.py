"""Checkpoints of any writer are read as the commits that they stand for, or refused."""

import json
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from cdcloader.errors import TableError
from cdcloader.lake.deletion_vectors import Descriptor
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects

COLUMNS = (("id", "long"), ("name", "string"), ("amount", "decimal(20,4)"), ("ok", "boolean"), ("day", "date"))
MOMENTS = (("at", "timestamp"), ("ratio", "double"))
DVS = {
    "minReaderVersion": 3, "minWriterVersion": 7,
    "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"],
}  # fmt: skip


def metadata(partition_by=("p",)):
    fields = [
        {"name": n, "type": t, "nullable": True, "metadata": {}} for n, t in (*COLUMNS, *MOMENTS, ("p", "string"))
    ]
    return {
        "id": str(uuid.uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": list(partition_by),
        "configuration": {"delta.enableDeletionVectors": "true", "a b": "ü"},
        "createdTime": 5,
    }


def stats(n):
    """Statistics of a file as a JSON text; a few files have none, or not all."""
    low = {"id": n, "name": f'na"me{n}', "amount": 1234.5678, "ok": False, "day": "2024-01-01"}
    text = {
        "numRecords": 10 + n,
        "minValues": {**low, "at": "2024-01-01T00:00:00.123Z", "ratio": 0.1},
        "maxValues": {**low, "id": n + 5, "ok": True, "at": "2024-01-02T00:00:00Z", "ratio": 1e300},
        "nullCount": {name: n % 3 for name, _ in (*COLUMNS, *MOMENTS)},
        "tightBounds": n % 2 == 0,
    }
    return None if n % 7 == 6 else json.dumps({"numRecords": 3} if n % 7 == 5 else text)


def data_file(n):
    vectors = [
        None,
        Descriptor("u", "ab^-aqEH.-t@S}K{vb[*k^", 4, 40, 6),
        Descriptor("i", "wi5b=000010000siXQKl0rr91", None, 40, 2),
    ]
    partition = [None, "a/b c", "ü"][n % 3]
    return DataFile(f"p=x%20{n}/part-{n}.parquet", {"p": partition}, 1000 + n, 77 + n, stats(n), vectors[n % 3])


@pytest.fixture
def table(tmp_path):
    """A table of 40 files, some with vectors, some removed, with transactions; the log is at version 2."""
    log = DeltaLog(Objects.open(str(tmp_path)), "t")
    files = [data_file(n) for n in range(40)]
    now = int(datetime.now(UTC).timestamp() * 1000)
    base = log.commit(None, [{"protocol": DVS}, {"metaData": metadata()}, *(f.add() for f in files)], {})
    base = log.commit(
        base, [*(f.remove(now) for f in files[::9]), {"txn": {"appId": "cdcloader:1", "version": 10**17}}], {}
    )
    log.commit(base, [{"txn": {"appId": "x", "version": 7, "lastUpdated": 8}}], {})
    return tmp_path, log.snapshot()


def without_commits(root, last):
    for version in range(last + 1):
        (root / "t" / "_delta_log" / f"{version:020d}.json").unlink()
    return DeltaLog(Objects.open(str(root)), "t")


def checkpoint_path(root, version=2):
    return root / "t" / "_delta_log" / f"{version:020d}.checkpoint.parquet"


def test_a_checkpoint_says_what_the_commits_say(table):
    """Files with their vectors and partition values, transactions, schema and properties: all the same."""
    root, wanted = table
    DeltaTable(str(root / "t")).create_checkpoint()
    assert without_commits(root, 2).snapshot() == wanted
    assert {body["path"] for body in DeltaLog(Objects.open(str(root)), "t").removes()} == {
        data_file(n).path for n in range(0, 40, 9)
    }


def test_a_checkpoint_in_parts_is_read_when_it_is_whole(table):
    """The parts are read as one; while one of them is missing there is no checkpoint."""
    root, wanted = table
    DeltaTable(str(root / "t")).create_checkpoint()
    rows = pq.read_table(checkpoint_path(root))
    checkpoint_path(root).unlink()
    (root / "t/_delta_log/_last_checkpoint").unlink()
    names = [root / "t" / "_delta_log" / f"{2:020d}.checkpoint.{n:010d}.0000000003.parquet" for n in (1, 2, 3)]
    for number, name in enumerate(names):
        pq.write_table(rows.slice(number * 15, 15 if number < 2 else None), name, row_group_size=4)
    log = without_commits(root, 1)
    assert log.snapshot() == wanted
    names[1].unlink()
    with pytest.raises(TableError, match="version 0"):
        DeltaLog(Objects.open(str(root)), "t").snapshot()


def rewritten(root, change):
    """The checkpoint of delta-rs with other `add` structs."""
    rows = pq.read_table(checkpoint_path(root)).combine_chunks()
    index = rows.schema.get_field_index("add")
    adds = rows["add"].combine_chunks()
    members = {field.name: values for field, values in zip(adds.type, adds.flatten(), strict=True)}
    members = change(members)
    changed = pa.StructArray.from_arrays(list(members.values()), list(members), mask=adds.is_null())
    pq.write_table(rows.set_column(index, "add", changed), checkpoint_path(root), row_group_size=17)


def parsed_statistics(texts):
    """`stats_parsed` as Spark writes it: typed columns; moments as nanoseconds without a zone (INT96)."""
    types = {
        "id": pa.int64(),
        "name": pa.string(),
        "amount": pa.decimal128(20, 4),
        "ok": pa.bool_(),
        "day": pa.date32(),
    }
    types |= {"at": pa.timestamp("ns"), "ratio": pa.float64(), "broken": pa.float64()}
    bounds = pa.struct(list(types.items()))

    def typed(values):
        values = dict(values or {}, broken=float("nan"))
        if "amount" in values:
            values["amount"] = Decimal("1234.5678")
            values["day"] = date(2024, 1, 1)
            values["at"] = 1_704_067_200_000_000_000
        return values

    def row(text):
        if text is None:
            return None
        body = json.loads(text)
        return {**body, "minValues": typed(body.get("minValues")), "maxValues": typed(body.get("maxValues"))}

    kind = pa.struct(
        [
            ("numRecords", pa.int64()),
            ("minValues", bounds),
            ("maxValues", bounds),
            ("nullCount", pa.struct([(name, pa.int64()) for name in types])),
            ("tightBounds", pa.bool_()),
        ]
    )
    return pa.array([row(text) for text in texts.to_pylist()], type=kind)


@pytest.mark.parametrize("how", ["all", "half", "no column"])
def test_statistics_that_stand_only_in_columns_are_read_from_there(table, how):
    """Where a writer leaves the text out, counts and bounds come from `stats_parsed`; those of moments are unknown."""
    root, wanted = table
    DeltaTable(str(root / "t")).create_checkpoint()

    def change(members):
        texts = members["stats"]
        members = {**members, "stats_parsed": parsed_statistics(texts)}
        if how == "no column":
            return {name: values for name, values in members.items() if name != "stats"}
        kept = [text if how == "half" and n % 2 else None for n, text in enumerate(texts.to_pylist())]
        return {**members, "stats": pa.array(kept, type=pa.string())}

    rewritten(root, change)
    read = without_commits(root, 2).snapshot()
    assert read.files.keys() == wanted.files.keys()
    reconstructed = 0
    for name, file in read.files.items():
        ours, theirs = file.statistics(), wanted.files[name].statistics()
        if ours == theirs:
            continue
        reconstructed += 1
        assert (ours["numRecords"], ours["nullCount"]) == (theirs["numRecords"], theirs.get("nullCount", {}))
        assert ours.get("tightBounds") == theirs.get("tightBounds")
        for side in ("minValues", "maxValues"):
            known = {k: v for k, v in theirs.get(side, {}).items() if k not in ("at", "day")}
            assert ours[side] == known
    assert reconstructed >= 10


def test_a_checkpoint_without_statistics_or_vectors_is_read(table):
    """Old writers know neither: what a column lacks is not there."""
    root, wanted = table
    DeltaTable(str(root / "t")).create_checkpoint()
    rewritten(root, lambda members: {n: members[n] for n in ("path", "partitionValues", "size", "modificationTime")})
    files = without_commits(root, 2).snapshot().files.values()
    assert {(file.path, file.size) for file in files} == {(file.path, file.size) for file in wanted.files.values()}
    assert all(file.stats is None and file.vector is None and file.statistics() == {} for file in files)


# ---- what cannot be read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
def test_a_damaged_checkpoint_is_named(table, damage):
    """Truncated or empty: the error names the version and says what helps."""
    root, _ = table
    DeltaTable(str(root / "t")).create_checkpoint()
    whole = checkpoint_path(root).read_bytes()
    checkpoint_path(root).write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(TableError, match="checkpoint of version 2 is damaged") as raised:
        DeltaLog(Objects.open(str(root)), "t").snapshot()
    assert "_last_checkpoint" in raised.value.hint


@pytest.mark.parametrize("suffix", ["json", "parquet"])
@pytest.mark.parametrize("commits", ["all", "since", "none"])
def test_a_v2_checkpoint_is_an_error_where_it_is_needed(table, suffix, commits):
    """While all commits are there nobody needs it; else the error says what it is, and never "no table"."""
    root, wanted = table
    folder = root / "t" / "_delta_log"
    (folder / f"{1:020d}.checkpoint.{uuid.uuid4()}.{suffix}").write_bytes(b"v2")
    (folder / "_last_checkpoint").write_text('{"version": 1, "v2Checkpoint": {"path": "x"}}')
    if commits == "all":
        assert DeltaLog(Objects.open(str(root)), "t").snapshot() == wanted
        return
    log = without_commits(root, 1 if commits == "since" else 2)
    with pytest.raises(TableError, match="V2 checkpoint"):
        log.snapshot()


def test_a_v2_checkpoint_with_a_classic_name_is_not_read_without_its_sidecars(table):
    """It would lack the files that its sidecars hold."""
    root, _ = table
    DeltaTable(str(root / "t")).create_checkpoint()
    rows = pq.read_table(checkpoint_path(root))
    kind = rows.schema.field("sidecar").type
    sidecar = {"path": "x.parquet", "sizeInBytes": 1, "modificationTime": 1, "tags": None}
    column = pa.array([sidecar] + [None] * (rows.num_rows - 1), type=kind)
    pq.write_table(rows.set_column(rows.schema.get_field_index("sidecar"), "sidecar", column), checkpoint_path(root))
    with pytest.raises(TableError, match="V2 checkpoint"):
        DeltaLog(Objects.open(str(root)), "t").snapshot()


@pytest.mark.parametrize("hint", ['{"version": 1}', '{"version": 90}', '{"version": "x"}', "", "[]"])
def test_a_hint_that_is_wrong_does_no_harm(table, hint):
    """`_last_checkpoint` may name a checkpoint that is gone, or nothing at all."""
    root, wanted = table
    (root / "t/_delta_log/_last_checkpoint").write_text(hint)
    assert DeltaLog(Objects.open(str(root)), "t").snapshot() == wanted
    DeltaTable(str(root / "t")).create_checkpoint()
    (root / "t/_delta_log/_last_checkpoint").write_text(hint)
    assert without_commits(root, 1).snapshot() == wanted


# ---- many files -------------------------------------------------------------------------------------------


def test_many_files_are_read_whole_whatever_the_row_groups(tmp_path):
    """5,000 files in row groups of any size, with rows of other actions between them, are read whole."""
    path = str(tmp_path / "t")
    pl.DataFrame({"id": [1]}).write_delta(path)
    log = DeltaLog(Objects.open(str(tmp_path)), "t")
    added = [DataFile(f"part-{n}.parquet", {}, n, n, '{"numRecords":1}').add() for n in range(5_000)]
    wanted = log.commit(log.snapshot(), added, {})
    DeltaTable(path).create_checkpoint()
    rows = pq.read_table(checkpoint_path(tmp_path, 1))
    for size in (50, 999, 10_000):
        shuffled = rows.take(pl.Series(range(rows.num_rows)).shuffle(seed=size).to_arrow())
        pq.write_table(shuffled, checkpoint_path(tmp_path, 1), row_group_size=size)
        assert DeltaLog(Objects.open(str(tmp_path)), "t").snapshot().files == wanted.files
