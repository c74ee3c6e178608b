"""What file names mean: kinds, positions, and the order that they put files in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.source.layouts import PLAIN, naming_of
from cdcloader.source.names import (
    Kind,
    is_table_folder,
    position_of_name,
    position_of_time,
    source_key,
    time_of_position,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TIMES = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def parsed(name, folder="sales/orders"):
    return PLAIN.parse(f"{folder}/", name, 7, "etag", NOW)


@pytest.mark.parametrize(
    ("name", "position", "form", "gzip"),
    [
        ("20190118-184518184.csv", 201901181845181840, "csv", False),
        ("20190118-184518184.csv.gz", 201901181845181840, "csv", True),
        ("20190118-184518184.parquet", 201901181845181840, "parquet", False),
        ("20190118-184518184.CSV.GZ", 201901181845181840, "csv", True),
        ("20141029-1134010000.csv", 201410291134010000, "csv", False),
        ("20141029-1134011239.csv", 201410291134011239, "csv", False),
        ("20141029-113401123987.csv", 201410291134011239, "csv", False),
    ],
)
def test_cdc_files(name, position, form, gzip):
    """A CDC file is known by its name, with three or more digits of fraction, whatever its extension's case."""
    file = parsed(name)
    assert (file.kind, file.position, file.format, file.gzip) == (Kind.CDC, position, form, gzip)
    assert (file.key, file.name, file.size, file.etag) == (f"sales/orders/{name}", name, 7, "etag")
    assert file.last_modified == NOW
    assert file.load_number == 0


@pytest.mark.parametrize(
    ("name", "number", "form"),
    [
        ("LOAD00000001.csv", 1, "csv"),
        ("LOAD0000000A.csv.gz", 10, "csv"),
        ("LOAD00000010.parquet", 16, "parquet"),
        ("LOADFFFFFFFF.Parquet", 0xFFFFFFFF, "parquet"),
    ],
)
def test_load_files(name, number, form):
    """A LOAD file's counter is hexadecimal."""
    file = parsed(name)
    assert (file.kind, file.load_number, file.format, file.position) == (Kind.LOAD, number, form, 0)


def test_marker():
    """FULL_LOAD_COMPLETE is a marker without a format."""
    file = parsed("FULL_LOAD_COMPLETE")
    assert (file.kind, file.format, file.gzip) == (Kind.MARKER, "", False)


@pytest.mark.parametrize(
    "name",
    [
        "20191318-184518184.csv",
        "20190230-184518184.csv",
        "20190118-246060000.csv",
        "20190118-184560184.csv",
        "00000118-184518184.csv",
        "20190118-18451818.csv",
        "20190118-184518184",
        "20190118-184518184.csv.tmp",
        "20190118-184518184.parquet.gz",
        "20190118-184518184.csvgz",
        "x20190118-184518184.csv",
        "٢0190118-184518184.csv",
        "LOAD0000001.csv",
        "LOAD0000000G.csv",
        "LOAD00000001.csv.crc",
        "SEGMENT_LOAD00000001.csv",
        "LOAD00000001.parquet.gz",
        "data-00001.parquet",
        "cdc-00001.parquet",
        "CDC_TXN-20201117153046033.csv",
        "FULL_LOAD_COMPLETE.csv",
        "full_load_complete",
        "_SUCCESS",
        ".csv",
        "",
    ],
)
def test_other_names_are_not_dms_files(name):
    """A name that DMS does not write, or whose date no calendar has, is no data file."""
    assert parsed(name) is None


READ = [
    ("SEGMENT1_LOAD00000001.csv", Kind.LOAD, "SEGMENT1_"),
    ("SEGMENT12_LOAD0000000A.csv.gz", Kind.LOAD, "SEGMENT12_"),
    ("LOAD_1_00000001.csv", Kind.LOAD, "LOAD_1_"),
    ("east/SEGMENT1_LOAD00000001.parquet", Kind.LOAD, "east/SEGMENT1_"),
    ("east/LOAD00000001.csv", Kind.LOAD, "east/"),
    ("20240131/LOAD00000001.csv", Kind.LOAD, "20240131/"),
    ("20240131/data-00001.parquet", Kind.LOAD, ""),
    ("20240131/cdc-00001.parquet", Kind.CDC, ""),
    ("20240131/FULL_LOAD_COMPLETE", Kind.MARKER, ""),
    ("2024/01/31/20240131-101112123.parquet", Kind.CDC, ""),
    ("2024/01/31/10/20240131-101112123.parquet", Kind.CDC, ""),
    ("2024-01-31/20240131-101112123.csv", Kind.CDC, ""),
    ("2024_01_31_10/20240131-101112123.csv.gz", Kind.CDC, ""),
    ("202401/20240131-101112123.csv", Kind.CDC, ""),
    ("01202431/20240131-101112123.csv", Kind.CDC, ""),
    ("31-01-2024/20240131-101112123.csv", Kind.CDC, ""),
    ("20240131/20240131-101112123.json", Kind.CDC, ""),
    ("year=2024/month=01/day=31/20240131-101112123.csv", Kind.CDC, ""),
    ("year=2024/month=1/day=31/hour=7/20240131-101112123.csv", Kind.CDC, ""),
    ("LOAD00000001.json", Kind.LOAD, ""),
    ("20240131-101112123.JSON", Kind.CDC, ""),
    ("20240131-101112123.jsonl.gz", Kind.CDC, ""),
    ("20240131-101112123.ndjson", Kind.CDC, ""),
]
UNREAD = [
    "2024/13/20240131-101112123.parquet",
    "2024/01/31/10/11/20240131-101112123.parquet",
    "1999_1/20240131-101112123.csv",
    "year=2024/quarter=1/20240131-101112123.csv",
    "old/east/LOAD00000001.csv",
    "year=2024/month=01/day=31/LOAD00000001.csv",
]
STRANGE = [
    "notes.txt",
    "LOAD1.json",
    "LOAD00000001.csv.tmp",
    "20240131-101112123.parquet.gz",
    "archive/20240131-101112123.csv",
    "2024/old/20240131-101112123.csv",
    "2024/01/31/part-0000.parquet",
    "2024/data-00001.csv",
    "v202011191200/LOAD00000001.csv",
    "v202011191200/2024/01/31/20240131-101112123.csv",
    ".tmp/LOAD00000001.csv",
    "../LOAD00000001.csv",
    "manifest.json",
]


@pytest.mark.parametrize(("name", "kind", "group"), READ)
def test_layouts(name, kind, group):
    """Segments, partitions, folders of dates, the articles' files and JSON are read; a counter belongs to its group."""
    file = parsed(name)
    assert (file.kind, file.group, file.name, file.key) == (kind, group, name, f"sales/orders/{name}")
    assert not PLAIN.is_unread(name)
    if kind is Kind.CDC:
        assert file.position == position_of_name(f"bucket/raw/sales/orders/{name}")
    if ".json" in name.lower() or "ndjson" in name:
        assert file.format == "json"


@pytest.mark.parametrize("name", UNREAD)
def test_files_that_may_mean_several_things_are_known(name):
    """They look like DMS's own, so they must not be taken for strange ones; where they stand says too little."""
    assert PLAIN.is_unread(name)
    assert parsed(name) is None


@pytest.mark.parametrize("name", STRANGE)
def test_other_files_are_no_layout_of_dms(name):
    """Whatever else lies there, versions that the config does not name, and CDC files that were moved aside."""
    assert not PLAIN.is_unread(name)
    assert parsed(name) is None


def test_numbered_files_go_by_day_and_number():
    """The articles' files have a position of day and number, which is no time."""
    names = ["20240131/cdc-00002.parquet", "20240131/cdc-00010.parquet", "20240201/cdc-00001.parquet"]
    files = [parsed(name) for name in names]
    assert [file.name for file in sorted(files, key=lambda file: file.position)] == names
    assert all(file.numbered for file in files)
    assert files[0].position == 202401310000000002
    assert PLAIN.written_at(files[0]) == NOW


def test_files_of_preserve_transactions():
    """CDC_TXN files are CDC files of the shared folder, in their own order, and nothing else there is one."""
    naming = naming_of("UTC", None, "changes")
    file = naming.parse_transactions("CDC_TXN-20201117153046033.csv.gz", 1, "e", NOW)
    assert (file.kind, file.position, file.gzip, file.transactions) == (Kind.CDC, 202011171530460330, True, True)
    assert (file.key, file.name) == ("changes/CDC_TXN-20201117153046033.csv.gz", "CDC_TXN-20201117153046033.csv.gz")
    assert position_of_name(f"b/s/t/{file.name}") == file.position
    for name in ("CDC_TXN-20201117153046033.parquet", "20201117-153046033.csv", "x/CDC_TXN-20201117153046033.csv"):
        assert naming.parse_transactions(name, 1, "e", NOW) is None


def test_sort_key():
    """LOAD files go by their number, CDC files by position, and equal ones by name."""
    loads = ["LOAD00000009.csv", "LOAD0000000A.csv", "LOAD0000000a.csv", "LOAD00000010.csv"]
    cdc = ["20190118-184518184.csv", "20190118-184518184.parquet", "20190118-1845181845.csv", "20190119-000000000.csv"]
    for names in (loads, cdc):
        assert [file.name for file in sorted(map(parsed, reversed(names)), key=lambda file: file.sort_key)] == names


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("20190118-184518184.csv", 201901181845181840),
        ("bucket/raw/sales/orders/20190118-184518184.csv.gz", 201901181845181840),
        ("20190118-184518184", 201901181845181840),
        ("bucket/raw/sales/orders/0.parquet", 0),
        ("0.csv", 0),
        ("null", None),
        ("", None),
        ("bucket/raw/sales/orders/", None),
        ("20191318-184518184.csv", None),
        ("LOAD00000001.csv", None),
    ],
)
def test_position_of_name(text, position):
    """A watermark is read from a bare name, from a qualified one, and from the walkthrough's 0.parquet."""
    assert position_of_name(text) == position


def test_position_of_time_is_in_utc():
    """A time in another zone has the position of the same moment in UTC; without a zone it is UTC."""
    east = timezone(timedelta(hours=9))
    assert position_of_time(datetime(2019, 1, 19, 3, 45, 18, 184000, tzinfo=east)) == 201901181845181840
    assert position_of_time(datetime(2019, 1, 18, 18, 45, 18)) == 201901181845180000  # noqa: DTZ001


@pytest.mark.parametrize(
    ("position", "time"),
    [
        (0, datetime(1, 1, 1, tzinfo=UTC)),
        (-5, datetime(1, 1, 1, tzinfo=UTC)),
        (201902309961990000, datetime(2019, 2, 28, 23, 59, 59, tzinfo=UTC)),
        (201900000000000000, datetime(2019, 1, 1, tzinfo=UTC)),
        (10**20, datetime(9999, 1, 1, tzinfo=UTC)),
    ],
)
def test_time_of_position_clamps(position, time):
    """A position that is no time gives the nearest time instead of an error."""
    assert time_of_position(position) == time


@given(TIMES)
def test_time_and_position_agree(time):
    """A time goes to its position and back, to the tenth of a millisecond."""
    assert time_of_position(position_of_time(time)) == time.replace(microsecond=time.microsecond // 100 * 100)


@given(TIMES, TIMES)
def test_positions_keep_the_order_of_times(one, other):
    """An earlier time never has a later position."""
    assert (one <= other) <= (position_of_time(one) <= position_of_time(other))


@given(st.integers(0, 10**18), TIMES, st.integers(3, 7))
def test_name_before_loses_no_file(start, time, digits):
    """A listing that starts after PLAIN.name_before(p) holds every file at p or later, LOAD files and markers."""
    name = f"{time:%Y%m%d-%H%M%S}{f'{time.microsecond:06d}0'[:digits]}.csv"
    if position_of_name(name) >= start:
        assert name > PLAIN.name_before(start)
    assert PLAIN.name_before(start) < "FULL_LOAD_COMPLETE"
    assert PLAIN.name_before(start) < "LOAD00000001.csv"


def test_name_before_skips_older_files():
    """A listing from a position leaves out the files of the millisecond before."""
    assert PLAIN.name_before(201901181845181840) > "20190118-184518183.csv"
    assert PLAIN.name_before(0) == ""


def test_folders_of_dms_itself_are_not_tables():
    """DMS's control tables and validation reports are not loaded."""
    assert [is_table_folder(name) for name in ("orders", "orders/", "my_awsdms_", "s3_validation")] == [True] * 4
    dms = ["awsdms_apply_exceptions", "AWSDMS_STATUS/", "s3_validation_failures", ""]
    assert not any(is_table_folder(name) for name in dms)


def test_source_key():
    """A raw key belongs to the source that its first two folders name."""
    assert source_key("sales/orders/LOAD00000001.csv") == "sales/orders"
    assert source_key("sales/orders/2019/01/x.csv") == "sales/orders"
    assert source_key("sales/stray.csv") == ""
