"""Folders that are dates: which are, and that a part of the listing finds what all of it would."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.demo.dms_writer import DmsSettings, cdc_folder
from cdcloader.source.names import local_of_position, position_of_time
from cdcloader.source.partitions import Range, date_folder, ranges_beside, ranges_since, united

SEQUENCES = ["YYYYMMDD", "YYYYMMDDHH", "YYYYMM", "MMYYYYDD", "DDMMYYYY"]
DELIMITERS = ["SLASH", "DASH", "UNDERSCORE", "NONE"]
STYLES = [(sequence, delimiter) for sequence in SEQUENCES for delimiter in DELIMITERS] + [("HIVE", "SLASH")]
TIMES = st.datetimes(datetime(2016, 1, 1), datetime(2039, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
LOADS = ["LOAD00000001.csv", "SEGMENT1_LOAD00000001.csv", "p1/LOAD00000001.csv", "zone/LOAD1.csv", "FULL_LOAD_COMPLETE"]


def folder(style, time):
    sequence, delimiter = style
    settings = DmsSettings(format="csv", date_partition=sequence, date_partition_delimiter=delimiter)
    return cdc_folder(time, settings).rstrip("/")


def within(ranges, key):
    return any(each.after < key and (not each.before or key < each.before) for each in ranges)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=15)
@given(time=TIMES)
def test_a_folder_tells_its_date(style, time):
    """Every sequence and delimiter of DMS is read as what it was written from, and as no other."""
    found = date_folder(folder(style, time))
    assert found.style.text(time) == folder(style, time)
    assert found.date <= time.replace(tzinfo=None) < found.date + timedelta(days=31)
    assert (found.date.day == time.day) or style[0] == "YYYYMM"


@pytest.mark.parametrize(
    "text",
    ["", "2024", "2024/13/01", "2024/02/30", "2024/1/31", "v20240131", "20240131x", "x/2024/01/31", "99999999",
     "2024-01/31"],
)  # fmt: skip
def test_other_folders_are_no_dates(text):
    """A folder that DMS would not make of a date is none."""
    assert date_folder(text) is None


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=15)
@given(
    last=TIMES,
    new=st.lists(st.timedeltas(timedelta(days=-1), timedelta(days=20)), max_size=8),
    late=st.timedeltas(timedelta(0), timedelta(hours=1)),
)
def test_a_part_of_the_listing_finds_every_new_file(style, last, new, late):
    """Files in folders from a day before the last one on, LOAD files and markers: all are in the ranges, once."""
    now = last + timedelta(days=20)
    start = position_of_time(last - late)
    seen = date_folder(folder(style, last))
    since = min(seen.date, local_of_position(start)[0])
    ranges = united(ranges_since(seen.style, since, now.replace(tzinfo=None), f"{last - late:%Y%m%d-%H%M%S}"))
    # A file is written when its changes were committed or later; some were committed the day before the watermark's.
    names = [f"{folder(style, last + each)}/{max(last, last + each):%Y%m%d-%H%M%S}000.csv" for each in new]
    for key in [*names, *LOADS]:
        assert sum(within([each], key) for each in ranges) == 1
    if style[0] not in ("MMYYYYDD", "DDMMYYYY"):
        old = f"{folder(style, last - timedelta(days=70))}/20240131-101112123.csv"
        assert not within(ranges, old)
        assert len(ranges) == (2 if style[0] == "HIVE" else 1)


def test_too_many_folders_are_listed_whole():
    """Where folders do not sort by time, months of them are one listing of everything."""
    style = date_folder("31012024").style
    now = datetime(2024, 6, 1)  # noqa: DTZ001
    assert ranges_since(style, now - timedelta(days=80), now, "2024") is None
    assert len(ranges_since(style, now - timedelta(days=3), now, "2024")) == 7
    assert ranges_since(date_folder("year=2024/month=1/day=5").style, now, now, "2024") is None


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=15)
@given(time=TIMES, later=st.timedeltas(timedelta(0), timedelta(days=800)))
def test_folders_beside_plain_files_are_found(style, time, later):
    """A source of plain files that goes on in folders of dates, now or years later: no such folder is passed over."""
    start = f"{time:%Y%m%d-%H%M%S}000"
    key = f"{folder(style, time + later)}/20240131-101112123.csv"
    assert within([Range(start), *ranges_beside(start)], key)


@given(
    st.lists(st.tuples(st.text("abc", max_size=3), st.text("abc", max_size=3)), max_size=6), st.text("abc", max_size=3)
)
def test_united_ranges_hold_the_same_keys_once(pairs, key):
    """Ranges that overlap become one; a key is in one of them at most."""
    ranges = [Range(after, before) for after, before in pairs if not before or after < before]
    found = united(ranges)
    assert sum(within([each], key) for each in found) <= 1
    if within(ranges, key):
        assert within(found, key)
