from __future__ import annotations

import gzip
import io
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdcloader.demo.dms_writer import (
    Change,
    DmsSettings,
    cdc_name,
    frame,
    load_name,
    render_cdc,
    render_load,
    write_file,
)

COLUMNS = (
    ("id", "long"),
    ("small", "short"),
    ("price", "decimal(10,2)"),
    ("ratio", "double"),
    ("text", "string"),
    ("flag", "boolean"),
    ("raw", "binary"),
    ("day", "date"),
    ("at", "timestamp"),
)
AT = datetime(2026, 9, 1, 1, 2, 3, 456789, tzinfo=UTC)
FULL = {
    "id": 1,
    "small": -2,
    "price": Decimal(24000),
    "ratio": 21804.858784530072,
    "text": "plain",
    "flag": True,
    "raw": b"\x01\xff",
    "day": date(2026, 9, 1),
    "at": AT,
}
ROWS = [FULL, {"id": 2, "text": ""}, {"id": 3}]


def test_csv_spells_values_as_dms_does():
    """Decimals keep their scale, doubles are %+.16e, NULL is empty, an empty string is quoted, lines end in LF."""
    assert render_load(DmsSettings(), COLUMNS, ROWS).decode() == (
        "1,-2,24000.00,+2.1804858784530072e+04,plain,true,01ff,2026-09-01,2026-09-01 01:02:03.456789\n"
        '2,,,,"",,,,\n'
        "3,,,,,,,,\n"
    )


def test_csv_puts_op_and_the_timestamp_column_first():
    """A CDC file begins with Op, then the commit time; a LOAD has Op only when asked, and the time of transfer."""
    columns = (("id", "long"),)
    settings = DmsSettings(header=True, timestamp_column="ts")
    assert render_cdc(settings, columns, [Change("D", {"id": 7}, AT)]) == (
        b"Op,ts,id\nD,2026-09-01 01:02:03.456789,7\n"
    )
    assert render_load(settings, columns, [{"id": 7}, {"id": 8}], transferred_at=AT) == (
        b"ts,id\n2026-09-01 01:02:03.456789,7\n2026-09-01 01:02:03.456790,8\n"
    )
    with_op = DmsSettings(header=True, include_op_for_full_load=True)
    assert render_load(with_op, columns, [{"id": 7}]) == b"Op,id\nI,7\n"


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t", "||"])
def test_rfc4180_quotes_only_what_needs_it(delimiter):
    """A delimiter, a quote or a line break puts a field in quotes, with its quotes doubled."""
    columns = (("id", "long"), ("text", "string"))
    texts = ["plain", f"a{delimiter}b", 'say "x"', "two\nlines", "cr\rhere", "", " "]
    out = render_load(DmsSettings(delimiter=delimiter), columns, [{"id": 1, "text": text} for text in texts]).decode()
    fields = ["plain", f'"a{delimiter}b"', '"say ""x"""', '"two\nlines"', '"cr\rhere"', '""', " "]
    assert out == "".join(f"1{delimiter}{field}\n" for field in fields)


def test_a_null_token_is_told_from_the_same_text():
    """With CsvNullValue=NULL, NULL is the bare token and the string NULL is quoted."""
    out = render_load(DmsSettings(null_value="NULL"), (("text", "string"),), [{"text": None}, {"text": "NULL"}])
    assert out == b'NULL\n"NULL"\n'


def test_without_rfc4180_fields_are_copied_raw():
    """Rfc4180=false copies a field as it is."""
    out = render_load(DmsSettings(rfc4180=False), (("text", "string"),), [{"text": 'a"b,c'}])
    assert out == b'a"b,c\n'


@pytest.mark.parametrize(("scale", "text"), [(0, "01:02:03"), (3, "01:02:03.456"), (6, "01:02:03.456789")])
def test_timestamps_have_the_digits_of_the_source_column(scale, text):
    """The source column's scale decides the fraction of a CSV timestamp."""
    out = render_load(DmsSettings(datetime_scale=scale), (("at", "timestamp"),), [{"at": AT}])
    assert out.decode() == f"2026-09-01 {text}\n"


def test_a_timestamp_of_another_zone_is_written_in_utc():
    """A timestamp is an instant; its text is UTC."""
    there = AT.astimezone(timezone(timedelta(hours=9)))
    assert render_load(DmsSettings(), (("at", "timestamp"),), [{"at": there}]) == b"2026-09-01 01:02:03.456789\n"


def test_gzip_csv_is_the_same_text_and_the_same_bytes_each_time():
    """Compression changes nothing else, and rendering is deterministic."""
    packed = render_load(DmsSettings(gzip=True), COLUMNS, ROWS)
    assert gzip.decompress(packed) == render_load(DmsSettings(), COLUMNS, ROWS)
    assert packed == render_load(DmsSettings(gzip=True), COLUMNS, ROWS)


def test_a_file_without_rows_is_empty_or_a_header_alone():
    """No rows give no lines, and the header if there is one."""
    assert render_load(DmsSettings(), COLUMNS, []) == b""
    assert render_load(DmsSettings(header=True), COLUMNS[:2], []) == b"id,small\n"
    assert pl.read_parquet(render_cdc(DmsSettings("parquet"), COLUMNS, [])).height == 0


@pytest.mark.parametrize("milliseconds", [True, False])
def test_parquet_has_the_types_that_dms_gives(milliseconds):
    """All columns are OPTIONAL but the timestamp column; timestamps are legacy ones in UTC, decimals fixed bytes."""
    settings = DmsSettings("parquet", timestamp_column="ts", parquet_timestamp_in_millisecond=milliseconds)
    file = render_cdc(settings, COLUMNS, [Change("I", row, AT) for row in ROWS])
    schema = pq.ParquetFile(io.BytesIO(file)).schema
    columns = {schema.column(place).name: schema.column(place) for place in range(len(schema))}
    assert list(columns) == ["Op", "ts", *(name for name, _ in COLUMNS)]
    assert {name for name, column in columns.items() if column.max_definition_level == 0} == {"ts"}
    assert "is_from_converted_type=true" in str(columns["at"].logical_type)
    assert columns["at"].converted_type == ("TIMESTAMP_MILLIS" if milliseconds else "TIMESTAMP_MICROS")
    assert columns["price"].physical_type == "FIXED_LEN_BYTE_ARRAY"
    assert columns["small"].converted_type == "INT_16"


def test_both_parquet_readers_see_what_they_see_in_a_dms_file():
    """Polars reads a timestamp without zone, pyarrow in UTC; the values are those of the rows."""
    file = render_load(DmsSettings("parquet", include_op_for_full_load=True), COLUMNS, ROWS)
    by_polars = pl.read_parquet(file)
    assert by_polars.schema["at"] == pl.Datetime("us")
    assert by_polars["Op"].to_list() == ["I"] * 3
    assert pq.read_table(io.BytesIO(file)).schema.field("at").type == pa.timestamp("us", tz="UTC")
    values = by_polars.drop("Op").with_columns(pl.col("at").dt.replace_time_zone("UTC"))
    assert values.equals(frame(COLUMNS, ROWS))


def test_parquet_has_row_groups_of_ten_thousand_rows_and_gzip_inside():
    """DMS's row group length is 10,000; a compressed Parquet file keeps its name and its rows."""
    settings = DmsSettings("parquet", gzip=True)
    rows = pl.DataFrame({"id": range(25_001)})
    file = render_load(settings, (("id", "long"),), rows)
    metadata = pq.read_metadata(io.BytesIO(file))
    assert [metadata.row_group(place).num_rows for place in range(metadata.num_row_groups)] == [10_000, 10_000, 5_001]
    assert metadata.row_group(0).column(0).compression == "GZIP"
    assert pl.read_parquet(file)["id"].to_list() == list(range(25_001))
    assert load_name(1, settings) == "LOAD00000001.parquet"


def test_names_are_those_of_dms():
    """LOAD files count in eight hexadecimal digits, CDC files carry their time to the millisecond."""
    assert load_name(10, DmsSettings()) == "LOAD0000000A.csv"
    assert load_name(16, DmsSettings(gzip=True)) == "LOAD00000010.csv.gz"
    assert cdc_name(AT, DmsSettings("parquet")) == "20260901-010203456.parquet"


def test_a_file_appears_whole_and_replaces_its_forerunner(tmp_path):
    """After a write the folder holds the file alone, and a second write replaces it."""
    write_file(tmp_path / "a" / "b", "LOAD00000001.csv", b"1\n")
    path = write_file(tmp_path / "a" / "b", "LOAD00000001.csv", b"2\n")
    assert path.read_bytes() == b"2\n"
    assert list(path.parent.iterdir()) == [path]
