"""Rows and changes to the bytes of a file: which columns a file has, in which order, and what stands in them.

The forms are those of the AWS DMS user guide ("Using Amazon S3 as a target") and of files that DMS wrote:
columns stand as `Op`, timestamp column, source columns, columns that rules added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl

from cdcloader.changes.schema import polars_type
from cdcloader.demo.dms_writer.csv_text import csv_bytes, csv_fields, csv_lines, packed, time_text
from cdcloader.demo.dms_writer.dms_types import delta_type
from cdcloader.demo.dms_writer.json_lines import json_bytes
from cdcloader.demo.dms_writer.parquet_bytes import parquet_bytes
from cdcloader.demo.dms_writer.settings import Change, Columns, DmsSettings, Row

OP = "Op"
BEFORE = "BI_"
FULL_LOAD_TIME = datetime(2026, 9, 1, tzinfo=UTC)


def render_load(
    settings: DmsSettings,
    columns: Columns,
    rows: Sequence[Row] | pl.DataFrame,
    *,
    transferred_at: datetime = FULL_LOAD_TIME,
) -> bytes:
    """A LOAD file's bytes; the timestamp column is the time of transfer: `transferred_at` and a microsecond per row."""
    data = frame(columns, rows)
    content = _Content(settings)
    if settings.include_op_for_full_load:
        content.add(OP, "string", pl.repeat("I", data.height, eager=True))
    if settings.timestamp_column is not None:
        times = [transferred_at + timedelta(microseconds=number) for number in range(data.height)]
        content.add(settings.timestamp_column, "string", _texts([time_text(time) for time in times]))
    for name, kind in columns:
        content.add(name, kind, data[name])
    kinds = dict(columns)
    for name in settings.before_images:
        content.add(BEFORE + name, kinds[name], pl.repeat(None, data.height, dtype=data[name].dtype, eager=True))
    for name in settings.added_columns:
        text = time_text(transferred_at) if name.upper().endswith("TIMESTAMP") else ""
        content.add(name, "string", pl.repeat(text, data.height, dtype=pl.String, eager=True))
    return content.rendered()


def render_cdc(settings: DmsSettings, columns: Columns, changes: Sequence[Change]) -> bytes:
    """A CDC file's bytes: the changes in their order, `Op` first, without those that the settings leave out."""
    return _changes(settings, columns, [change for change in changes if settings.writes(change.op)]).rendered()


def render_transactions(settings: DmsSettings, changes: Sequence[tuple[str, Columns, Change]]) -> bytes:
    """A file of transactions: rows of several tables, given with source (`schema/table`) and columns, in their order.

    Each row is op, table, schema, values; there is no header, and it is CSV whatever the tables' LOAD files are.
    """
    plain = replace(settings, format="csv", header=False, timestamp_column=None)
    lines = [""] * len(changes)
    for source, columns in {source: columns for source, columns, _ in changes}.items():
        places = [place for place, (other, _, _) in enumerate(changes) if other == source]
        content = _changes(plain, columns, [changes[place][2] for place in places])
        names = csv_fields(plain, _texts(source.split("/")[::-1]), "string")
        content.fields[1:1] = [names.new_from_index(place, len(places)) for place in range(2)]
        for place, line in zip(places, csv_lines(plain, content.fields), strict=True):
            lines[place] = line
    return packed(settings, "".join(f"{line}{settings.row_delimiter}" for line in lines))


def frame(columns: Columns, rows: Sequence[Row] | pl.DataFrame) -> pl.DataFrame:
    """Rows as a typed frame of `columns` (name, kind); other keys of the rows are left out, absent ones NULL."""
    types = {name: polars_type(delta_type(kind)) for name, kind in columns}
    if isinstance(rows, pl.DataFrame):
        return rows.select(pl.col(name).cast(dtype) for name, dtype in types.items())
    return pl.DataFrame(
        [pl.Series(name, [row.get(name) for row in rows], dtype=dtype) for name, dtype in types.items()]
    )


@dataclass(init=False, slots=True)
class _Content:
    """The columns of one file in their order; `fields` are their CSV texts, if the file is CSV."""

    settings: DmsSettings
    columns: list[tuple[str, str]]
    data: list[pl.Series]
    fields: list[pl.Series]

    def __init__(self, settings: DmsSettings) -> None:
        self.settings = settings
        self.columns, self.data, self.fields = [], [], []

    def add(self, name: str, kind: str, values: pl.Series, absent: Sequence[bool] = ()) -> None:
        """One more column; where it is `absent` nothing was logged."""
        self.columns.append((name, kind))
        self.data.append(values)
        if self.settings.format == "csv":
            fields = csv_fields(self.settings, values, kind)
            if any(absent) and self.settings.no_supplemental_value is not None:
                token = _texts([self.settings.no_supplemental_value])
                fields = token.new_from_index(0, len(fields)).zip_with(pl.Series(absent), fields)
            self.fields.append(fields)

    def rendered(self) -> bytes:
        if self.settings.format == "csv":
            return csv_bytes(self.settings, [name for name, _ in self.columns], self.fields)
        if self.settings.format == "json":
            return json_bytes(self.settings, self.columns, self.data)
        return parquet_bytes(self.settings, self.columns, self.data)


def _changes(settings: DmsSettings, columns: Columns, changes: Sequence[Change]) -> _Content:
    content = _Content(settings)
    if settings.changes_have_op:
        content.add(OP, "string", _texts([change.op for change in changes]))
    if settings.timestamp_column is not None:
        texts = _texts([time_text(change.commit_time) for change in changes])
        content.add(settings.timestamp_column, "string", texts)
    data = frame(columns, [change.row for change in changes])
    for name, kind in columns:
        content.add(name, kind, data[name], [name not in change.row for change in changes])
    before = frame(columns, [change.before or {} for change in changes])
    kinds = dict(columns)
    for name in settings.before_images:
        content.add(BEFORE + name, kinds[name], before[name])
    for name in settings.added_columns:
        content.add(name, "string", _texts([_added(name, change) for change in changes]))
    return content


def _added(name: str, change: Change) -> str:
    """What a column of a transformation rule says of a change, by the header that its name ends in."""
    upper, time = name.upper(), change.commit_time
    if upper.endswith("CHANGE_SEQ"):
        return f"{time:%Y%m%d%H%M%S}{time.microsecond // 10_000:02d}{change.number:019d}"
    if upper.endswith("STREAM_POSITION"):
        return f"0x{change.number:016X}"
    if upper.endswith("OPERATION"):
        return {"I": "INSERT", "U": "UPDATE", "D": "DELETE"}[change.op]
    if upper.endswith("TIMESTAMP"):
        return time_text(time)
    return ""


def _texts(values: Sequence[str | None]) -> pl.Series:
    return pl.Series(values, dtype=pl.String)
