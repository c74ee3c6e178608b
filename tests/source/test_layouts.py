"""How one source's files are named: time zones, and layouts of the config's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.source.layouts import PLAIN, naming_of
from cdcloader.source.names import Kind

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BERLIN = naming_of("Europe/Berlin", None, None)
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kolkata", "Africa/Cairo"]
# The days around the clock's changes of these zones, and others.
TIMES = st.one_of(
    st.datetimes(datetime(2024, 10, 27), datetime(2024, 10, 27, 3), timezones=st.just(UTC)),  # noqa: DTZ001
    st.datetimes(datetime(2024, 4, 6, 12), datetime(2024, 4, 7, 12), timezones=st.just(UTC)),  # noqa: DTZ001
    st.datetimes(datetime(2024, 10, 31), datetime(2024, 11, 4), timezones=st.just(UTC)),  # noqa: DTZ001
    st.datetimes(datetime(2016, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)


def name_at(time, zone):
    local = time.astimezone(ZoneInfo(zone))
    return f"{local:%Y%m%d-%H%M%S}{local.microsecond // 1000:03d}.csv"


def written(naming, zone, time, delay=timedelta(seconds=2)):
    return naming.parse("s/t/", name_at(time, zone), 1, "e", time + delay)


@pytest.mark.parametrize("zone", ZONES)
@settings(max_examples=40)
@given(one=TIMES, apart=st.timedeltas(timedelta(milliseconds=1), timedelta(hours=3)))
def test_order_over_a_clock_that_falls_back(zone, one, apart):
    """Files stand in the order in which they were written, through the hour that comes twice too."""
    naming, other = naming_of(zone, None, None), one + apart
    one, other = (time.replace(microsecond=time.microsecond // 1000 * 1000) for time in (one, other))
    first, second = written(naming, zone, one), written(naming, zone, other)
    assert (first.position < second.position) == (one < other)
    for file, time in ((first, one), (second, other)):
        assert naming.position_of_name(f"bucket/s/t/{file.name}") == file.position
        assert naming.position_of_time(time) == file.position
        assert naming.time_of_position(file.position) == time
        assert naming.named_position(file.position) == file.position
        assert naming.position_of_name(naming.file_at("b/s/t/", file.position)) == file.position
        assert file.key == f"s/t/{name_at(time, zone)}"
        before = naming.named_position(file.position - 1)
        assert before < file.position


@pytest.mark.parametrize("zone", ZONES)
@settings(max_examples=40)
@given(start=TIMES, later=st.timedeltas(timedelta(0), timedelta(hours=3)))
def test_a_listing_from_a_position_loses_no_file(zone, start, later):
    """What was written at a position or after it is listed, although names go back when the clock does."""
    naming = naming_of(zone, None, None)
    position = naming.position_of_time(start)
    file = written(naming, zone, start + later)
    if file.position >= position:
        assert file.key.removeprefix("s/t/") > naming.name_before(position)


def test_the_second_pass_is_told_by_last_modified():
    """A file of the repeated hour belongs to the pass that it was written in; a copy counts as of the first."""
    times = [datetime(2024, 10, 27, hour, 15, tzinfo=UTC) for hour in (0, 1)]
    files = [written(BERLIN, "Europe/Berlin", time) for time in times]
    assert [file.name for file in files] == ["20241027-021500000.csv", "20241027-021500000.csv#2"]
    assert [file.position for file in files] == [202410270215000000, 202410270269000000]
    assert written(BERLIN, "Europe/Berlin", times[1], timedelta(days=9)).name == "20241027-021500000.csv"
    assert written(PLAIN, "Europe/Berlin", times[1]).name == "20241027-021500000.csv"


def test_a_watermark_before_the_jump_of_the_clock_passes_over_nothing():
    """The place before 03:00 of the morning whose 02:00 hour does not exist is not behind it."""
    three = 202403310300000000
    assert BERLIN.named_position(three - 1) == 202403310159599999
    assert BERLIN.position_before(three, 60) == 202403310159000000


def custom(pattern):
    return naming_of("UTC", pattern, None)


def one(naming, name):
    return naming.parse("s/t/", name, 1, "e", NOW)


DAILY = r"(?P<kind>full|inc|meta)/(?P<date>\d{4}-\d\d-\d\d)/part-(?P<number>\d+)\.(?P<format>csv|parquet)(?P<gz>\.gz)?"


def test_a_layout_of_the_configs_own():
    """Its groups tell kind, format, number and place; what does not match is no file of it, and nothing is unread."""
    naming = custom(DAILY)
    load, change = one(naming, "full/2024-01-31/part-7.parquet"), one(naming, "inc/2024-01-31/part-12.csv.gz")
    assert (load.kind, load.load_number, load.format, load.gzip) == (Kind.LOAD, 7, "parquet", False)
    assert (change.kind, change.position, change.format, change.gzip) == (Kind.CDC, 202401310000000012, "csv", True)
    assert change.numbered
    for name in ("meta/2024-01-31/part-1.csv", "LOAD00000001.csv", "full/2024-01-31/part-7.parquet.gz", "x/y.csv"):
        assert one(naming, name) is None
        assert not naming.is_unread(name)
    assert one(naming, "full/FULL_LOAD_COMPLETE").kind is Kind.MARKER
    assert naming.position_of_name(f"bucket/raw/s/t/{change.name}") == change.position
    assert naming.position_of_name("bucket/raw/s/t/0.parquet") == 0


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"(?P<cdc>c)-(?P<date>\d{8})T(?P<time>\d\d:\d\d:\d\d)\.(?P<fraction>\d+)\.csv|(?P<load>l).*\.csv",
         ["c-20240131T10:11:12.5.csv", "c-20240131T10:11:13.05.csv"]),
        (r"(?P<kind>change)s?/(?P<number>\d+)\.json", ["change/0.json", "change/9.json", "change/10.json"]),
        (r"(?P<position>\d+)\.csv", ["0.csv", "20240131.csv", "99999999999999999.csv"]),
    ],
)  # fmt: skip
def test_positions_of_a_layout(pattern, names):
    """Files stand in the order that their groups tell, none at the place before the first, and names keep it."""
    naming = custom(pattern)
    files = [one(naming, name) for name in names]
    positions = [file.position for file in files]
    assert positions == sorted(positions)
    assert positions[0] > 0
    for file in files:
        assert naming.position_of_name(f"bucket/raw/s/t/{file.name}") == file.position
        assert naming.position_of_name(naming.file_at("b/", naming.named_position(file.position))) == file.position
        assert (naming.written_at(file) == NOW) == (not naming.by_time)


@given(st.integers(1, 10**18 - 1))
def test_a_place_that_no_file_has_can_be_named(position):
    """The LastIncrementalFile of a position at or below any other one reads back as it was."""
    for naming in (PLAIN, BERLIN, custom(DAILY)):
        place = naming.named_position(position)
        assert naming.position_of_name(naming.file_at("bucket/s/t/", place)) == place


def test_namings_of_one_config_are_equal():
    """Plans of two looks can be compared."""
    assert naming_of("Europe/Berlin", DAILY, "x") == naming_of("Europe/Berlin", DAILY, "x")
    assert replace(PLAIN) == naming_of("UTC", None, None)
