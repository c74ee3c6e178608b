"""Every type of DMS, in every format that it writes, from raw files to what readers of the table see."""

from __future__ import annotations

import datetime as dt
import io
import json
from decimal import Decimal

import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

from cdcloader.changes.schema import Field, polars_type
from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.demo.legacy_types import without_logical_types
from cdcloader.lake.log import DeltaLog
from tests.readers import by_duckdb, read_by_all

UTC = dt.UTC
DAYS = [dt.date(1, 1, 1), dt.date(1899, 12, 31), dt.date(1970, 1, 1), dt.date(9999, 12, 31)]
MOMENTS = [dt.datetime(d.year, d.month, d.day, 23, 59, 58, 123000, UTC) for d in DAYS]
LONG = 10**44 + 1
TEXTS = ["", "NULL", 'a "b", c', "line\nline\r\n", "é😀\t\\", "0"]

# DMS type: (Delta type, Arrow type in Parquet, values, their CSV text)
TYPES = {
    "BLOB": ("binary", pa.binary(), [b"", b"\x00\xff", b"text"], lambda v: f'"{v.hex()}"'),
    "DATE": ("date", pa.date32(), DAYS, str),
    "TIME": ("string", pa.time32("ms"), ["00:00:00", "23:59:59.999000"], str),
    "TIME-us": ("string", pa.time64("us"), ["00:00:00", "23:59:59.999999"], str),
    "DATETIME": ("timestamp", pa.timestamp("us", "UTC"), MOMENTS, lambda v: f"{v.replace(tzinfo=None).isoformat(' ')}"),
    "INT1": ("byte", pa.int8(), [-128, 0, 127], str),
    "INT2": ("short", pa.int16(), [-(2**15), 0, 2**15 - 1], str),
    "INT4": ("integer", pa.int32(), [-(2**31), 0, 2**31 - 1], str),
    "INT8": ("long", pa.int64(), [-(2**63), 0, 2**63 - 1], str),
    "UINT1": ("short", pa.uint8(), [0, 255], str),
    "UINT2": ("integer", pa.uint16(), [0, 2**16 - 1], str),
    "UINT4": ("long", pa.uint32(), [0, 2**32 - 1], str),
    "UINT8": ("decimal(20,0)", pa.uint64(), [Decimal(0), Decimal(2**64 - 1)], str),
    "NUMERIC": ("decimal(12,2)", pa.decimal128(12, 2), [Decimal("24000.00"), Decimal("-9999999999.99")], str),
    "NUMERIC38": ("decimal(38,10)", pa.decimal128(38, 10), [Decimal(f"{10**27}.0000000001"), Decimal(0)], str),
    "NUMERIC45": ("string", pa.decimal256(47, 2), [f"{LONG}.25", "-0.01"], str),
    "REAL4": ("float", pa.float32(), [1.5, -3.4028234663852886e38, float("inf")], "{:+.8e}".format),
    "REAL8": ("double", pa.float64(), [21804.858784530072, 5e-324, float("nan"), -float("inf")], "{:+.16e}".format),
    "STRING": ("string", pa.string(), TEXTS, lambda v: '"' + v.replace('"', '""') + '"'),
    "CLOB-JSON": ("string", pa.string(), ['{"a": [1.10, "x"]}'], lambda v: '"' + v.replace('"', '""') + '"'),
    "UUID": ("string", pa.string(), ["6F9619FF-8B86-D011-B42D-00C04FC964FF"], str),
    "BOOLEAN": ("boolean", pa.bool_(), [True, False], lambda v: str(v).lower()),
}  # fmt: skip


ROWS = 1 + max(len(values) for _, _, values, _ in TYPES.values())


def values_of(kind, turn):
    """The type's values and NULLs, one for each row; `turn` moves them on by so many rows."""
    values = [*TYPES[kind][2], *[None] * ROWS][:ROWS]
    return values[-turn:] + values[:-turn] if turn else values


def in_csv(turn, op):
    columns = [[_csv_text(kind, value) for value in values_of(kind, turn)] for kind in TYPES]
    rows = [",".join([*op[:1], str(place), *row]) for place, row in enumerate(zip(*columns, strict=True))]
    return "\n".join([",".join([*(["Op"] if op else []), "id", *TYPES]), *rows, ""]).encode()


def _csv_text(kind, value):
    return "" if value is None else TYPES[kind][3](value)


def in_json(turn, op):
    columns = [[_json_text(kind, value) for value in values_of(kind, turn)] for kind in TYPES]
    lines = []
    for place, row in enumerate(zip(*columns, strict=True)):
        members = [*([f'"Op":"{op}"'] if op else []), f'"id":{place}']
        members += [f"{json.dumps(kind)}:{text}" for kind, text in zip(TYPES, row, strict=True)]
        lines.append("{" + ",".join(members) + "}\n")
    return "".join(lines).encode()


def _json_text(kind, value):
    """Numbers and booleans as JSON has them, everything else as a string."""
    delta, _, _, text = TYPES[kind]
    if value is None:
        return "null"
    if delta == "string":
        return json.dumps(value)
    if delta in ("binary", "date", "timestamp"):
        return json.dumps(text(value).strip('"'))
    shown = text(value).removeprefix("+")
    return json.dumps(shown) if shown[-1] in "fn" else shown


def in_parquet(turn, op, version, unit):
    arrays = {"Op": pa.array([op] * ROWS)} if op else {}
    arrays |= {"id": pa.array(range(ROWS), pa.int64())}
    arrays |= {kind: _parquet_column(kind, values_of(kind, turn), unit) for kind in TYPES}
    out = io.BytesIO()
    pages = "2.0" if version == "2.6" else "1.0"
    pq.write_table(
        pa.table(arrays), out, version=version, data_page_version=pages, store_schema=False,
        write_time_adjusted_to_utc=True,
    )  # fmt: skip
    # The old kind of files names no logical types.
    return out.getvalue() if version == "2.6" else without_logical_types(out.getvalue())


def _parquet_column(kind, values, unit):
    arrow = TYPES[kind][1]
    if pa.types.is_time(arrow):
        values = [value and dt.time.fromisoformat(value) for value in values]
    elif pa.types.is_decimal256(arrow):
        values = [value and Decimal(value) for value in values]
    elif pa.types.is_timestamp(arrow):
        arrow = pa.timestamp(unit, "UTC")
    elif pa.types.is_uint64(arrow):
        values = [value if value is None else int(value) for value in values]
    return pa.array(values, arrow)


WRITERS = {
    "csv": ("csv", in_csv),
    "json": ("json", in_json),
    "parquet 1.0, ms": ("parquet", lambda *rows: in_parquet(*rows, "1.0", "ms")),
    "parquet 1.0, us": ("parquet", lambda *rows: in_parquet(*rows, "1.0", "us")),
    "parquet 2.0, us": ("parquet", lambda *rows: in_parquet(*rows, "2.6", "us")),
}


@pytest.fixture(scope="module", params=WRITERS)
def loaded(request, world_class, tmp_path_factory):
    """The world, its table after the full load, and after each row was changed."""
    suffix, write = WRITERS[request.param]
    settings = DmsSettings(format="parquet" if suffix == "parquet" else "csv")
    columns = (("id", "long"), *((kind, delta) for kind, (delta, _, _, _) in TYPES.items()))
    world = world_class(tmp_path_factory.mktemp("types"), dms=settings, columns=columns)
    world.put(f"LOAD00000001.{suffix}", write(0, ""))
    world.later(600)
    world.run()
    full = world.frame().sort("id")
    world.put(f"{world.now:%Y%m%d-%H%M%S}000.{suffix}", write(1, "U"))
    world.later()
    world.run()
    return world, full, world.frame().sort("id")


@pytest.mark.parametrize("kind", TYPES)
def test_a_value_of_each_type_is_what_it_was(loaded, kind):
    """A value of each type of DMS, NULL among them, is in the table as it was, from LOAD and CDC file alike."""
    world, full, changed = loaded
    delta = TYPES[kind][0]
    fields = {field.name: field.type.type for field in deltalake.DeltaTable(world.path).schema().fields}
    assert fields[kind] == delta
    for turn, frame in enumerate((full, changed)):
        expected = pl.Series(kind, values_of(kind, turn), dtype=polars_type(delta))
        assert_series_equal(frame[kind], expected, check_exact=True)


def test_no_row_of_any_type_is_quarantined(loaded):
    """All rows that were written are in the table, as DuckDB sees it too."""
    world, full, changed = loaded
    assert (full.height, changed.height) == (ROWS, ROWS)
    assert not list((world.root / "lake").glob("_quarantine/**/*.parquet"))
    schema = tuple(Field(kind, delta) for kind, (delta, _, _, _) in TYPES.items())
    seen = by_duckdb(world.path, (Field("id", "long"), *schema)).sort("id")
    assert_frame_equal(seen, changed, check_exact=True)


def test_a_moment_of_an_early_year_can_be_a_partition(make_world):
    """A year before 1000 has four digits in the log too, else readers stop at the whole table."""
    moments = [dt.datetime(1, 1, 1, tzinfo=UTC), dt.datetime(900, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)]
    world = make_world(columns=(("id", "long"), ("t", "timestamp")), partition_by=("t",))
    world.load([{"id": number, "t": moment} for number, moment in enumerate(moments)])
    world.later(600)
    world.run()
    world.cdc([("U", {"id": 1, "t": moments[0]})])
    world.later()
    world.run()
    schema = DeltaLog(world.lake, "s/t").snapshot().schema("s/t")
    for reader, frame in read_by_all(world.path, schema).items():
        assert frame.sort("id").rows() == [(0, moments[0]), (1, moments[0])], reader
