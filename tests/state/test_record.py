"""The record: its stored form, read back or refused, and its transitions."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.errors import TableError
from cdcloader.state.record import (
    ATTRIBUTES,
    ERROR_CHARACTERS_MAX,
    NEVER,
    Phase,
    Record,
    default_attributes,
    from_attributes,
    new_record,
    to_attributes,
)
from cdcloader.state.store import GUARDS

PATH = "bucket/raw/sales/orders/"
NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
WALKTHROUGH = {
    "path": PATH,
    "bucket": "bucket",
    "prefix": "raw/sales/",
    "folder": "orders/",
    "PrimaryKey": "order_id, line",
    "PartitionKey": "null",
    "LastFullLoadDate": "2026-02-28 23:59:59",
    "LastIncrementalFile": PATH + "20260301-101112131.parquet",
    "ActiveFlag": "true",
    "out_path": "lake/curated/",
}


def fresh() -> Record:
    return new_record(PATH, "bucket", "raw/sales/", "orders/", ("order_id",), (), "lake/curated/sales/orders/")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.lists(texts.filter(bool), max_size=3).map(tuple)
counts = st.integers(0, 2**63 - 1)
times = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.just(UTC))  # noqa: DTZ001
dates = times.map(lambda time: time.replace(microsecond=0))
maybe_text = st.none() | texts
records = st.builds(
    Record,
    path=texts.filter(bool),
    bucket=texts,
    prefix=texts,
    folder=texts,
    primary_key=st.none() | names.filter(bool),
    partition_key=names,
    last_full_load_date=dates,
    last_incremental_file=texts,
    active=st.booleans(),
    out_path=texts,
    phase=st.sampled_from(Phase),
    generation=counts,
    floor=counts,
    recorded_position=counts,
    recorded_full_load_date=dates,
    full_load_newest=st.none() | times,
    full_load_files=counts,
    full_load_layout=st.sampled_from(["", "segments", "folders"]),
    recorded_version=st.none() | counts,
    ledger=st.dictionaries(texts, texts, max_size=4),
    ledger_from=counts,
    lease_owner=maybe_text,
    lease_epoch=counts,
    lease_expires_at=st.none() | times,
    last_error=maybe_text,
    last_error_file=maybe_text,
    last_error_hint=maybe_text,
    consecutive_failures=counts,
    blocked_etag=maybe_text,
    retry_at=st.none() | times,
    skipped_files=st.dictionaries(texts, texts, max_size=4),
    rows_inserted=counts,
    rows_updated=counts,
    rows_deleted=counts,
    rows_quarantined=counts,
    updated_at=st.none() | times,
)


@given(records)
def test_every_record_survives_being_stored(record: Record) -> None:
    """Whatever a field holds, it is read back as it was."""
    assert from_attributes(to_attributes(record)) == record


def test_every_field_is_stored() -> None:
    """No field of the record can be forgotten in the stored form."""
    assert len(ATTRIBUTES) == len(dataclasses.fields(Record))


def test_a_new_record_is_what_the_walkthrough_would_write() -> None:
    """Its users' tools read it: strings in their formats, "null" for none; but active."""
    stored = to_attributes(new_record(PATH, "bucket", "raw/sales/", "orders/", None, (), "lake/curated/"))
    assert {name: stored[name] for name in WALKTHROUGH} == {
        **WALKTHROUGH,
        "PrimaryKey": "null",
        "LastFullLoadDate": "1900-01-01 00:00:00",
        "LastIncrementalFile": PATH + "0.parquet",
    }
    keyed = to_attributes(dataclasses.replace(fresh(), primary_key=("a", "b"), partition_key=("c",), active=False))
    assert (keyed["PrimaryKey"], keyed["PartitionKey"], keyed["ActiveFlag"]) == ("a,b", "c", "false")


def test_a_record_of_the_walkthrough_alone_is_read() -> None:
    """Its strings mean what they mean there; what is ours has its defaults."""
    record = from_attributes(WALKTHROUGH)
    assert record == Record(
        path=PATH,
        bucket="bucket",
        prefix="raw/sales/",
        folder="orders/",
        primary_key=("order_id", "line"),
        partition_key=(),
        last_full_load_date=datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC),
        last_incremental_file=PATH + "20260301-101112131.parquet",
        active=True,
        out_path="lake/curated/",
    )


def test_absent_attributes_have_their_defaults() -> None:
    """A version 1.0 record has no out_path; a key alone is a record that was never loaded."""
    record = from_attributes({"path": PATH, "note": "an operator's own"})
    assert record == Record(PATH, last_incremental_file=PATH + "0.parquet")
    assert (record.active, record.last_full_load_date, record.phase) == (True, NEVER, Phase.NEW)
    assert to_attributes(record) == default_attributes(PATH)


def test_column_names_with_commas_are_kept_apart() -> None:
    """A comma list cannot say them; then the list is JSON."""
    record = dataclasses.replace(fresh(), primary_key=("a,b", "c"), partition_key=("null",))
    stored = to_attributes(record)
    assert (stored["PrimaryKey"], stored["PartitionKey"]) == ('["a,b", "c"]', '["null"]')
    assert from_attributes(stored) == record


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bucket", 5),
        ("PrimaryKey", "a,,b"),
        ("PrimaryKey", '["a", 1]'),
        ("PrimaryKey", '["a"'),
        ("PrimaryKey", ["a"]),
        ("LastFullLoadDate", "2026-02-30 00:00:00"),
        ("LastFullLoadDate", "2026-02-28"),
        ("LastFullLoadDate", "2026-02-28 00:00:00+01:00"),
        ("LastFullLoadDate", "yesterday"),
        ("LastFullLoadDate", 20260228),
        ("LastIncrementalFile", 7),
        ("ActiveFlag", "yes"),
        ("ActiveFlag", True),
        ("Phase", "running"),
        ("Phase", 1),
        ("Generation", "1"),
        ("Generation", -1),
        ("Generation", True),
        ("RecordedPosition", 1.5),
        ("RecordedVersion", {"B": b"x"}),
        ("FullLoadNewest", "2026-02-28T00:00:00"),
        ("LeaseExpiresAt", "soon"),
        ("Ledger", "!"),
        ("Ledger", base64.b64encode(b"no zlib").decode()),
        ("Ledger", base64.b64encode(zlib.compress(b"{}")[:-3]).decode()),
        ("Ledger", base64.b64encode(zlib.compress(b"\xff{}")).decode()),
        ("Ledger", packed(["a"])),
        ("Ledger", packed({"a": 1})),
        ("Ledger", "é"),
    ],
)
def test_a_damaged_attribute_is_refused_by_name(name: str, value: Any) -> None:
    """Nothing is guessed: the error names the record, the attribute and the cure."""
    with pytest.raises(TableError, match=f"the state record's {name} is damaged") as caught:
        from_attributes({**WALKTHROUGH, name: value})
    assert caught.value.where == PATH
    assert name in caught.value.hint


@pytest.mark.parametrize("path", [None, "", 5])
def test_a_record_without_a_path_is_refused(path: Any) -> None:
    """There is nothing to name it by."""
    with pytest.raises(TableError, match="has no path"):
        from_attributes({**WALKTHROUGH, "path": path})


def test_times_are_stored_in_utc_and_dates_in_seconds() -> None:
    """A record from anywhere compares with any other."""
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    stored = to_attributes(dataclasses.replace(fresh(), last_full_load_date=east, updated_at=east))
    assert stored["LastFullLoadDate"] == "2026-03-01 12:00:00"
    assert stored["UpdatedAt"] == "2026-03-01T12:00:00.123456+00:00"


# Transitions


def blocked() -> Record:
    return fresh().failed(Phase.BLOCKED, "no Op column", "LOAD00000001.csv", "set columns", NOW)


def test_a_failure_is_told_and_counted() -> None:
    """Error, file and hint stand in the record; endless texts are cut."""
    record = blocked().failed(Phase.RETRYING, "x" * 10_000, None, None, NOW + timedelta(seconds=1))
    assert (record.phase, record.consecutive_failures, record.updated_at) == (
        Phase.RETRYING,
        2,
        NOW + timedelta(seconds=1),
    )
    assert (len(record.last_error or ""), record.last_error_file) == (ERROR_CHARACTERS_MAX, None)
    assert (blocked().last_error, blocked().last_error_file, blocked().last_error_hint) == (
        "no Op column",
        "LOAD00000001.csv",
        "set columns",
    )


def test_trouble_that_went_away_is_forgotten() -> None:
    """Nothing left to do: the error is gone, and the phase is what the table has come to."""
    assert blocked().healed(NOW) == dataclasses.replace(fresh(), updated_at=NOW)
    loaded = dataclasses.replace(blocked(), recorded_version=3)
    assert (loaded.healed(NOW).phase, loaded.healed(NOW).last_error) == (Phase.STREAMING, None)


def test_a_batch_moves_the_watermark_and_adds_its_rows() -> None:
    """The totals are of the table's whole life."""
    before = dataclasses.replace(blocked(), rows_inserted=1, rows_updated=2, rows_deleted=3, rows_quarantined=4)
    after = before.advanced(
        position=9,
        file=PATH + "9.csv",
        ledger={"9.csv": "etag"},
        ledger_from=5,
        version=6,
        inserted=10,
        updated=20,
        deleted=30,
        quarantined=40,
        now=NOW,
    )
    assert after == dataclasses.replace(
        fresh(),
        phase=Phase.STREAMING,
        recorded_position=9,
        last_incremental_file=PATH + "9.csv",
        ledger={"9.csv": "etag"},
        ledger_from=5,
        recorded_version=6,
        rows_inserted=11,
        rows_updated=22,
        rows_deleted=33,
        rows_quarantined=44,
        updated_at=NOW,
    )


def test_a_rewind_begins_a_generation_after_its_position() -> None:
    """What was applied after it is applied again."""
    before = dataclasses.replace(fresh(), ledger={"a": "1"}, ledger_from=90, recorded_position=99)
    assert before.rewound(3, 50, PATH + "50.csv") == dataclasses.replace(
        fresh(),
        generation=3,
        floor=50,
        recorded_position=50,
        last_incremental_file=PATH + "50.csv",
        ledger={},
        ledger_from=50,
    )


def test_a_lease_has_a_new_epoch_each_time_it_is_taken() -> None:
    """Renewing and releasing keep the epoch, so that epochs only grow."""
    taken = fresh().leased("a", NOW)
    assert (taken.lease_owner, taken.lease_epoch, taken.lease_expires_at) == ("a", 1, NOW)
    renewed = taken.renewed(NOW + timedelta(seconds=60))
    assert (renewed.lease_owner, renewed.lease_epoch) == ("a", 1)
    released = renewed.released()
    assert (released.lease_owner, released.lease_epoch, released.lease_expires_at) == (None, 1, None)
    assert released.leased("b", NOW).lease_epoch == 2


bytes_and_binaries = st.binary(max_size=6) | st.builds(lambda value: {"B": value}, st.binary(max_size=3))
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | bytes_and_binaries
    | st.sampled_from(["null", "true", "0", "-1", "[", "[1]", '["a"]', "0001-01-01 00:00:00", "9999-12-31 23:59:59"])
    | st.sampled_from(["0001-01-01T00:00:00.000000+14:00", "9999-12-31T23:59:59.999999-14:00", "[" * 100_000])
    | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def refusal(attributes: dict[str, Any]) -> TableError | None:
    try:
        from_attributes(attributes)
    except TableError as error:
        return error
    return None


@settings(max_examples=150)
@given(records, st.sampled_from(ATTRIBUTES), anything)
def test_one_attribute_replaced_by_anything(record: Record, name: str, value: Any) -> None:
    """Either a record that could have been stored, with the others' values as they were, or its name is told."""
    stored = to_attributes(record)
    told = refusal({**stored, name: value})
    if told is not None:
        path = record.path if name != "path" else "path"
        assert (told.where, name in told.what, told.hint != "") == (path, True, True)
        return
    read = from_attributes({**stored, name: value})
    again = to_attributes(read)
    assert from_attributes(again) == read
    assert {other: kept for other, kept in again.items() if other != name} == {
        other: kept for other, kept in stored.items() if other != name
    }
    if name in GUARDS and value is not None:
        assert again[name] == value, "a guard that is spelled differently could never be met"
