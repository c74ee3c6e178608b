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
from polars.testing import assert_series_equal

from cdcloader.changes.schema import polars_type
from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.demo.legacy_types import without_logical_types

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


def in_csv(kind, values, op):
    text = TYPES[kind][3]
    rows = [f"{op}{place},{'' if value is None else text(value)}\n" for place, value in enumerate(values)]
    return "".join(["Op,id,v\n" if op else "id,v\n", *rows]).encode()


def in_json(kind, values, op):
    delta, _, _, text = TYPES[kind]
    lines = []
    for place, value in enumerate(values):
        shown = "null" if value is None else text(value)
        if value is not None and (delta in ("string", "date", "timestamp", "binary") or shown[-1] in "fn"):
            shown = json.dumps(shown.strip('"') if delta == "binary" else value if delta == "string" else shown)
        lines.append(
            f'{{{f"{chr(34)}Op{chr(34)}:{chr(34)}{op[0]}{chr(34)}," if op else ""}"id":{place},"v":{shown}}}\n'
        )
    return "".join(lines).replace(":+", ":").encode()


def in_parquet(kind, values, op, version, unit):
    arrow = TYPES[kind][1]
    if pa.types.is_time(arrow):
        values = [value and dt.time.fromisoformat(value) for value in values]
    elif pa.types.is_decimal256(arrow):
        values = [value and Decimal(value) for value in values]
    elif pa.types.is_timestamp(arrow):
        arrow = pa.timestamp(unit, "UTC")
    elif pa.types.is_uint64(arrow):
        values = [value if value is None else int(value) for value in values]
    table = pa.table({"id": pa.array(range(len(values)), pa.int64()), "v": pa.array(values, arrow)})
    if op:
        table = table.add_column(0, "Op", pa.array([op[0]] * len(values)))
    out = io.BytesIO()
    pages = "2.0" if version == "2.6" else "1.0"
    pq.write_table(
        table, out, version=version, data_page_version=pages, store_schema=False, write_time_adjusted_to_utc=True
    )
    # The old kind of files names no logical types.
    return out.getvalue() if version == "2.6" else without_logical_types(out.getvalue())


WRITERS = {
    "csv": ("csv", in_csv),
    "json": ("json", in_json),
    "parquet 1.0, ms": ("parquet", lambda *rows: in_parquet(*rows, "1.0", "ms")),
    "parquet 1.0, us": ("parquet", lambda *rows: in_parquet(*rows, "1.0", "us")),
    "parquet 2.0, us": ("parquet", lambda *rows: in_parquet(*rows, "2.6", "us")),
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("kind", TYPES)
def test_a_value_of_each_type_is_what_it_was(make_world, kind, form):
    """A value of each type of DMS, NULL among them, is in the table as it was, from LOAD and CDC file alike."""
    delta, _, values, _ = TYPES[kind]
    suffix, write = WRITERS[form]
    settings = DmsSettings(format="parquet" if suffix == "parquet" else "csv")
    world = make_world(dms=settings, columns=(("id", "long"), ("v", delta)))
    world.put(f"LOAD00000001.{suffix}", write(kind, [*values, None], ""))
    world.later(600)
    world.run()
    expected = pl.Series("v", [*values, None], dtype=polars_type(delta))
    seen = world.frame().sort("id")["v"]
    assert_series_equal(seen, expected, check_exact=True)
    changed = [None, *values]
    world.put(f"{world.now:%Y%m%d-%H%M%S}000.{suffix}", write(kind, changed, "U,"))
    world.later()
    world.run()
    assert_series_equal(
        world.frame().sort("id")["v"], pl.Series("v", changed, dtype=polars_type(delta)), check_exact=True
    )
    fields = {field.name: field.type.type for field in deltalake.DeltaTable(world.path).schema().fields}
    assert fields["v"] == delta
    assert not list((world.root / "lake").glob("_quarantine/**/*.parquet"))
