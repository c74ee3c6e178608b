"""The generator's other shapes: names and folders, partial rows, before images, transactions, JSON, unsigned types."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdcloader.demo.dms_writer import (
    Change,
    DmsSettings,
    article_cdc_file,
    cdc_files,
    cdc_folder,
    cdc_name,
    load_files,
    render_cdc,
    render_load,
    render_transactions,
    transactions_file,
)

AT = datetime(2026, 9, 1, 23, 2, 3, 456789, tzinfo=UTC)
COLUMNS = (("id", "long"), ("text", "string"))


def records(content):
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


@pytest.mark.parametrize(
    ("sequence", "delimiter", "folder"),
    [
        (None, "SLASH", ""),
        ("YYYYMMDD", "SLASH", "2026/09/01/"),
        ("YYYYMMDDHH", "DASH", "2026-09-01-23/"),
        ("YYYYMM", "UNDERSCORE", "2026_09/"),
        ("MMYYYYDD", "NONE", "09202601/"),
        ("DDMMYYYY", "SLASH", "01/09/2026/"),
        ("HIVE", "SLASH", "year=2026/month=09/day=01/"),
    ],
)
def test_date_partitions_are_folders_of_the_commit_date(sequence, delimiter, folder):
    """Each sequence and delimiter gives DMS's folder."""
    assert cdc_folder(AT, DmsSettings(date_partition=sequence, date_partition_delimiter=delimiter)) == folder


def test_a_time_zone_moves_folder_and_name():
    """DatePartitionTimezone is the zone of both, and a change of the day before has a folder of its own."""
    settings = DmsSettings(date_partition="YYYYMMDD", date_partition_timezone="Europe/Berlin")
    assert cdc_name(AT, settings) == "20260902-010203456.csv"
    changes = [Change("I", {"id": 1}, AT.replace(hour=12)), Change("I", {"id": 2}, AT)]
    files = cdc_files(settings, "s/t", COLUMNS, changes, at=AT)
    assert [file.key for file in files] == [
        "s/t/2026/09/01/20260902-010203456.csv",
        "s/t/2026/09/02/20260902-010203456.csv",
    ]
    assert [file.content for file in files] == [b"I,1,\n", b"I,2,\n"]


def test_a_full_load_has_numbered_files_segments_or_folders():
    """LOAD files count in hexadecimal; parallel loads are SEGMENTn_ or folders; articles have day folders."""
    pieces = [[{"id": number}] for number in range(10)]

    def last(**options):
        return load_files(DmsSettings("parquet"), "s/t", COLUMNS, pieces, at=AT, **options)[-1].key

    assert last() == "s/t/LOAD0000000A.parquet"
    assert last(parallel="ranges") == "s/t/SEGMENT10_LOAD00000001.parquet"
    assert last(parallel="folders") == "s/t/part_10/LOAD00000001.parquet"
    assert last(layout="articles") == "s/t/20260901/FULL_LOAD_COMPLETE"
    file = article_cdc_file(DmsSettings("parquet"), "s/t", COLUMNS, [Change("I", {"id": 1}, AT)], at=AT, number=3)
    assert file.key == "s/t/20260901/cdc-00003.parquet"


def test_filters_of_changes_leave_out_op_unless_load_files_have_it():
    """CdcInsertsOnly and CdcInsertsAndUpdates drop changes, and Op with them unless IncludeOpForFullLoad is on."""
    changes = [Change(op, {"id": 1}, AT) for op in "IUD"]
    assert render_cdc(DmsSettings(cdc_inserts_only=True), COLUMNS, changes) == b"1,\n"
    both = DmsSettings(cdc_inserts_and_updates=True, include_op_for_full_load=True)
    assert render_cdc(both, COLUMNS, changes) == b"I,1,\nU,1,\n"


def test_what_was_not_logged_has_its_own_token():
    """CsvNoSupValue stands where a change does not name a column; a NULL and the same text are told from it."""
    settings = DmsSettings(no_supplemental_value="?")
    rows = [{"id": 1}, {"id": 1, "text": None}, {"id": 1, "text": "?"}]
    assert render_cdc(settings, COLUMNS, [Change("U", row, AT) for row in rows]) == b'U,1,?\nU,1,\nU,1,"?"\n'


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_columns_of_rules_stand_behind(format_):
    """BI_ columns hold the row before a U; AR_H_CHANGE_SEQ has 35 digits, and is empty in a full load."""
    settings = DmsSettings(format_, header=True, before_images=("id",), added_columns=("AR_H_CHANGE_SEQ",))
    changes = [Change("U", {"id": 2, "text": "x"}, AT, before={"id": 1}, number=7)]
    file = render_cdc(settings, COLUMNS, changes)
    names, row = records(file) if format_ == "csv" else (pl.read_parquet(file).columns, pl.read_parquet(file).row(0))
    assert names == ["Op", "id", "text", "BI_id", "AR_H_CHANGE_SEQ"]
    assert [str(value) for value in row] == ["U", "2", "x", "1", "20260901230203450000000000000000007"]
    loaded = render_load(settings, COLUMNS, [{"id": 1}])
    assert format_ == "parquet" or records(loaded)[1] == ["1", "", "", ""]


def test_a_row_delimiter_is_quoted_inside_fields():
    """CsvRowDelimiter ends rows, and puts a field that holds it in quotes."""
    settings = DmsSettings(delimiter="||", row_delimiter="\r\n")
    assert render_load(settings, COLUMNS, [{"id": 1, "text": "a||b"}, {"id": 2, "text": "c\r\n"}]) == (
        b'1||"a||b"\r\n2||"c\r\n"\r\n'
    )


def test_transactions_hold_rows_of_all_tables():
    """Op, table, schema, values; widths differ; the order is that of the changes; no header and always CSV."""
    settings = DmsSettings("parquet", header=True, cdc_path="changes")
    wide = (*COLUMNS, ("more", "string"))
    changes = [
        ("a/t", COLUMNS, Change("I", {"id": 1, "text": "x,y"}, AT)),
        ("b/u", wide, Change("D", {"id": 2}, AT)),
        ("a/t", COLUMNS, Change("U", {"id": 1}, AT)),
    ]
    assert render_transactions(settings, changes) == b'I,t,a,1,"x,y"\nD,u,b,2,,\nU,t,a,1,\n'
    assert transactions_file(settings, changes, at=AT).key == "changes/CDC_TXN-20260901230203456.csv"


def test_json_keeps_every_digit():
    """Numbers stand as they are, whatever their size; text is escaped; NULL is null."""
    columns = (("id", "long"), ("n", "decimal(38,10)"), ("u", "uint8"), ("t", "string"), ("b", "boolean"))
    row = {"id": 2**63 - 1, "n": Decimal("1234567890123456789.0123456789"), "u": 2**64 - 1, "t": 'a"\nß', "b": None}
    file = render_load(DmsSettings("json"), columns, [row])
    assert json.loads(file, parse_float=Decimal) == row


@pytest.mark.parametrize(("version", "uint4"), [("1.0", pa.int64()), ("2.0", pa.uint32())])
@pytest.mark.parametrize("encoding", ["plain", "rle-dictionary"])
def test_unsigned_and_time_types_are_those_of_dms(version, uint4, encoding):
    """UINT1 to UINT8 and TIME have converted types; Parquet 1.0 knows no UINT4, and writes INT64."""
    columns = (("a", "uint1"), ("b", "uint2"), ("c", "uint4"), ("d", "uint8"), ("e", "time"))
    row = {"a": 255, "b": 65535, "c": 2**32 - 1, "d": 2**64 - 1, "e": "12:34:56"}
    file = render_load(DmsSettings("parquet", parquet_version=version, encoding_type=encoding), columns, [row])
    table = pq.read_table(io.BytesIO(file))
    assert table.schema.types == [pa.uint8(), pa.uint16(), uint4, pa.uint64(), pa.time32("ms")]
    assert [str(value) for value in table.to_pylist()[0].values()] == [str(value) for value in row.values()]
    assert ("PLAIN" in str(pq.read_metadata(io.BytesIO(file)).row_group(0).column(0).encodings)) or encoding != "plain"
