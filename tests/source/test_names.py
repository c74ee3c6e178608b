"""What file names mean: kinds, positions, and the order that they put files in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.source.names import (
    Kind,
    is_table_folder,
    name_before,
    parse,
    position_of_name,
    position_of_time,
    source_key,
    time_of_position,
    unread_layout,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TIMES = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def parsed(name, folder="sales/orders"):
    return parse(f"{folder}/{name}", 7, "etag", NOW)


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
        "SEGMENT1_LOAD00000001.csv",
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


@pytest.mark.parametrize("folder", ["", "sales", "sales/orders/old", "sales/orders/2019/01/18"])
def test_only_the_table_folder_holds_data_files(folder):
    """Files beside or below a table's folder are not its data."""
    assert parse(f"{folder}/LOAD00000001.csv".lstrip("/"), 1, "e", NOW) is None


UNREAD = [
    "SEGMENT1_LOAD00000001.csv",
    "SEGMENT12_LOAD0000000A.csv.gz",
    "east/SEGMENT1_LOAD00000001.parquet",
    "east/LOAD00000001.csv",
    "2024/01/31/20240131-101112123.parquet",
    "2024-01-31/20240131-101112123.csv",
    "2024_01_31_10/20240131-101112123.csv.gz",
    "20240131/20240131-101112123.json",
    "LOAD00000001.json",
    "20240131-101112123.JSON",
    "20240131-101112123.json.gz",
]
STRANGE = [
    "notes.txt",
    "LOAD1.json",
    "LOAD00000001.csv.tmp",
    "20240131-101112123.parquet.gz",
    "archive/20240131-101112123.csv",
    "2024/old/20240131-101112123.csv",
    "2024/01/31/part-0000.parquet",
    "manifest.json",
]


@pytest.mark.parametrize("name", UNREAD)
def test_layouts_that_are_not_read_are_known(name):
    """Segments, date partitions and JSON are no files of ours, but must not be taken for strange ones either."""
    assert unread_layout(f"sales/orders/{name}")
    assert parsed(name) is None


@pytest.mark.parametrize("name", STRANGE)
def test_other_files_are_no_layout_of_dms(name):
    """Whatever else lies there, and CDC files that were moved aside."""
    assert not unread_layout(f"sales/orders/{name}")
    assert not unread_layout(name)


@pytest.mark.parametrize("name", ["LOAD00000001.csv", "20240131-101112123.csv.gz", "FULL_LOAD_COMPLETE"])
def test_files_that_are_read_are_no_unread_layout(name):
    """What `parse` knows is read."""
    assert parsed(name) is not None
    assert not unread_layout(f"sales/orders/{name}")


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
    """A listing that starts after name_before(p) holds every file at p or later, LOAD files and markers."""
    name = f"{time:%Y%m%d-%H%M%S}{f'{time.microsecond:06d}0'[:digits]}.csv"
    if position_of_name(name) >= start:
        assert name > name_before(start)
    assert name_before(start) < "FULL_LOAD_COMPLETE"
    assert name_before(start) < "LOAD00000001.csv"


def test_name_before_skips_older_files():
    """A listing from a position leaves out the files of the millisecond before."""
    assert name_before(201901181845181840) > "20190118-184518183.csv"
    assert name_before(0) == ""


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
