"""Tables in the shape of real DMS files that are known: they load with no config beyond their keys."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from decimal import Decimal

import polars as pl
import pytest

from cdcloader.changes.schema import Field
from cdcloader.cli.run import single_pass
from cdcloader.config import load_config
from cdcloader.demo.dms_writer import Change, DmsSettings, cdc_name, render_cdc, render_load, write_file
from cdcloader.wiring import assemble
from tests.readers import by_duckdb

AT = datetime(2019, 1, 18, 18, 45, 18, 184000, tzinfo=UTC)
HIRED = datetime(1987, 6, 17, tzinfo=UTC)
EMPLOYEES = (
    ("EMPLOYEE_ID", "long"),
    ("FIRST_NAME", "string"),
    ("HIRE_DATE", "timestamp"),
    ("SALARY", "decimal(38,2)"),
    ("COMMISSION_PCT", "decimal(38,2)"),
    ("MANAGER_ID", "long"),
)
TYPES = (
    ("id", "long"),
    ("my_int", "integer"),
    ("my_smallint", "short"),
    ("my_numeric", "decimal(15,2)"),
    ("my_real", "float"),
    ("my_double", "double"),
    ("my_money", "decimal(38,4)"),
    ("my_varchar", "string"),
    ("my_text", "string"),
    ("my_bytea", "binary"),
    ("my_timestamp", "timestamp"),
    ("my_uuid", "string"),
    ("my_json", "string"),
    ("my_jsonb", "string"),
    ("my_bool", "boolean"),
)


@pytest.fixture
def load(tmp_path):
    """Load the raw files with a config that says no more than the key; the table as Polars and DuckDB see it."""

    def run(source, key, columns):
        config = tmp_path / "cdcloader.yaml"
        sections = {
            "raw": str(tmp_path / "raw"), "lake": str(tmp_path / "lake"), "state": {"kind": "memory"},
            "full_load": {"quiet_seconds": 0}, "tables": [{"source": source, "primary_key": key}],
        }  # fmt: skip
        config.write_text(json.dumps(sections))
        assembly = assemble(load_config(config, {}))
        assert [ended.error for ended in single_pass(assembly, threading.Event())] == [None]
        assembly.close()
        path = str(tmp_path / "lake" / source)
        frame = pl.read_delta(path).sort(columns[0][0])
        schema = tuple(Field(name, kind) for name, kind in columns)
        assert by_duckdb(path, schema).sort(columns[0][0]).equals(frame)
        assert not list((tmp_path / "lake").glob("_quarantine/**/*.parquet"))
        return frame

    return run


def test_employees_of_oracle(tmp_path, load):
    """CSV with AddColumnName: the LOAD header has no Op, NULL is empty, dates are times; all types are inferred."""
    dms = DmsSettings(header=True, datetime_scale=0)
    folder = tmp_path / "raw" / "hr" / "employees"

    def row(number, name, salary, commission=None, manager=None):
        values = (number, name, HIRED, Decimal(salary), commission, manager)
        return dict(zip((column for column, _ in EMPLOYEES), values, strict=True))

    kept, gone = row(100, "Steven", "24000.00"), row(101, "De Haan", "17000.50", Decimal("0.25"), 100)
    write_file(folder, "LOAD00000001.csv", render_load(dms, EMPLOYEES, [kept, gone]))
    changed = row(100, "Steven", "9000.00", None, 102)
    changes = [Change("U", changed, AT), Change("I", gone, AT), Change("D", gone, AT)]
    write_file(folder, cdc_name(AT, dms), render_cdc(dms, EMPLOYEES, changes))
    frame = load("hr/employees", ["EMPLOYEE_ID"], EMPLOYEES)
    assert frame.rows() == [tuple(changed.values())]


def test_every_type_of_postgresql(tmp_path, load):
    """Parquet 2.0 with TimestampColumnName first and REQUIRED, no Op, legacy timestamps: the types are the file's."""
    dms = DmsSettings(
        "parquet", parquet_version="2.0", timestamp_column="DMS_TIMESTAMP", parquet_timestamp_in_millisecond=True
    )
    row = {
        "id": 1, "my_int": 1298498081, "my_smallint": 15887, "my_numeric": Decimal("1427131847.59"), "my_real": 0.5,
        "my_double": 0.6868230728671094, "my_money": Decimal("47632969758.5400"), "my_varchar": "", "my_text": "mraj",
        "my_bytea": b"whthctcu", "my_timestamp": AT, "my_uuid": "181e9c5d-9b55-4535-8c6e-6c8c1234b807",
        "my_json": '{"key_24":"pldnjobcs"}', "my_jsonb": '{"key_5": "bzrjxawn"}', "my_bool": False,
    }  # fmt: skip
    rows = [row, {"id": 2}]
    write_file(tmp_path / "raw" / "public" / "types", "LOAD00000001.parquet", render_load(dms, TYPES, rows))
    frame = load("public/types", None, TYPES)
    assert frame.columns == [name for name, _ in TYPES]
    assert frame.rows() == [tuple(row.values()), (2, *[None] * (len(TYPES) - 1))]
