"""Data files: Parquet in key order with Delta statistics, written once and never changed.

Statistics follow the Delta protocol, "Per-file Statistics": strings are cut at 32 characters (a cut maximum is
raised so that it still bounds), timestamps are ISO 8601, decimals are JSON numbers.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any
from urllib.parse import quote, unquote

import polars as pl

from cdcloader.changes.schema import Schema, polars_schema
from cdcloader.errors import TableError
from cdcloader.lake import deletion_vectors
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects

POSITION = "__position"
_STRING_LIMIT = 32
_ROW_GROUP_BYTES = 8 << 20
_ROW_GROUP_ROWS = (8_192, 122_880)


def write(
    objects: Objects,
    table: str,
    frame: pl.DataFrame,
    partition_values: Mapping[str, str | None],
    *,
    now_ms: int,
) -> DataFile:
    """Write one data file from a frame in key order, without its partition columns; returns its log entry."""
    folder = "".join(f"{name.replace('/', '%2F')}={_folder_value(value)}/" for name, value in partition_values.items())
    key = f"{folder}part-00000-{uuid.uuid4()}-c000.zstd.parquet"
    content = frame.drop(list(partition_values), strict=False)
    buffer = BytesIO()
    content.write_parquet(buffer, compression="zstd", statistics=True, row_group_size=row_group_rows(content))
    body = buffer.getbuffer()
    objects.write(f"{table}/{key}", body)
    # The log holds a URL-encoded path, so that the percent signs of a folder name are encoded again.
    return DataFile(quote(key, safe="/=-._"), dict(partition_values), len(body), now_ms, statistics_json(content))


def key_of(table: str, file: DataFile) -> str:
    """A data file's key under the lake's root."""
    return f"{table}/{unquote(file.path)}"


def write_all(
    objects: Objects,
    table: str,
    frame: pl.DataFrame,
    partition_by: Sequence[str],
    *,
    target_bytes: int,
    bytes_per_row: float,
    now_ms: int,
) -> list[DataFile]:
    """Write a frame that stands in (partition, key) order as files of about `target_bytes` each."""
    files = []
    for values, rows in split_partitions(frame, partition_by):
        size = rows.height * bytes_per_row
        pieces = max(1, round(size / target_bytes)) if size > 1.5 * target_bytes else 1
        step = math.ceil(rows.height / pieces)
        for start in range(0, rows.height, step):
            files.append(write(objects, table, rows.slice(start, step), values, now_ms=now_ms))
    return files


def split_partitions(
    frame: pl.DataFrame, partition_by: Sequence[str]
) -> list[tuple[dict[str, str | None], pl.DataFrame]]:
    """(partition values as the log spells them, rows) per partition; row order is kept."""
    if not frame.height:
        return []
    if not partition_by:
        return [({}, frame)]
    groups = frame.partition_by(list(partition_by), maintain_order=True)
    return [({name: partition_text(part.item(0, name)) for name in partition_by}, part) for part in groups]


def partition_text(value: object) -> str | None:
    """A partition value as the log spells it (Delta protocol, "Partition Value Serialization").

    TableError for the empty string, which Delta cannot tell from NULL.
    """
    if value is None:
        return None
    if value == "":
        raise TableError(
            "an empty string cannot be a partition value: Delta would read it back as NULL",
            hint="take the column out of partition_by",
        )
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f").removesuffix(".000000")
    if isinstance(value, bytes):
        raise TableError("a binary column cannot be a partition column", hint="change partition_by")
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def read(
    objects: Objects, table: str, file: DataFile, schema: Schema, *, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """The live rows of a data file with the table's types; `POSITION` holds each row's number in the file.

    Partition columns come from the log; columns that the file lacks are NULL. TableError when it is unreadable.
    """
    wanted = list(columns) if columns is not None else [field.name for field in schema]
    types = polars_schema(schema)
    target, options = objects.scan_target(key_of(table, file))
    try:
        scan = pl.scan_parquet(target, storage_options=options, row_index_name=POSITION, glob=False)
        stored = set(scan.collect_schema()) - set(file.partition_values)
        frame = scan.select(POSITION, *(name for name in wanted if name in stored)).collect()
    except (pl.exceptions.ComputeError, FileNotFoundError, OSError) as error:
        raise TableError(
            f"a data file of the target cannot be read: {error}",
            where=objects.path_of(key_of(table, file)),
            hint="restore the file, or reload the table",
        ) from error
    if file.vector:
        where = objects.path_of(key_of(table, file))
        dead = deletion_vectors.dead_rows(file.vector, lambda name: objects.read(f"{table}/{name}"), where=where)
        frame = frame.filter(~pl.col(POSITION).is_in(pl.Series(list(dead), dtype=frame.schema[POSITION]).implode()))
    return frame.select(POSITION, *(_column(name, stored, file, types[name]) for name in wanted))


def _column(name: str, stored: set[str], file: DataFile, dtype: pl.DataType) -> pl.Expr:
    if name in file.partition_values:
        return partition_literal(file.partition_values[name], dtype).alias(name)
    return pl.col(name).cast(dtype) if name in stored else pl.lit(None, dtype=dtype).alias(name)


def partition_literal(text: str | None, dtype: pl.DataType) -> pl.Expr:
    """The value of a partition column from the log's text."""
    if text is None:
        return pl.lit(None, dtype=dtype)
    if dtype == pl.Boolean:
        return pl.lit(text == "true")
    if dtype == pl.Date:
        return pl.lit(date.fromisoformat(text))
    if isinstance(dtype, pl.Datetime):
        moment = datetime.fromisoformat(text.replace(" ", "T"))
        return pl.lit(moment.replace(tzinfo=None)).cast(pl.Datetime("us")).dt.replace_time_zone(dtype.time_zone)
    return pl.lit(text).cast(dtype)


def row_group_rows(frame: pl.DataFrame) -> int:
    """Rows a row group: about 8 MiB in memory, so that statistics can prune inside a file."""
    width = max(1.0, frame.estimated_size() / max(1, frame.height))
    low, high = _ROW_GROUP_ROWS
    return int(min(high, max(low, _ROW_GROUP_BYTES / width)))


def statistics_json(frame: pl.DataFrame) -> str:
    """The `stats` of an add action: rows, and per column minimum, maximum and number of NULLs."""
    bounded = [name for name, dtype in frame.schema.items() if dtype != pl.Binary]
    exprs = [pl.all().null_count().name.prefix("n:")]
    exprs += [bound for name in bounded for bound in _bounds(name, frame.schema[name])]
    floats = [name for name in bounded if frame.schema[name].is_float()]
    exprs += [pl.col(floats).is_nan().any().name.prefix("x:")] if floats else []
    row = frame.select(exprs).row(0, named=True)
    with_nan = {name for name in floats if row[f"x:{name}"]}
    usable = [name for name in bounded if row[f"a:{name}"] is not None and name not in with_nan]
    usable = [name for name in usable if not (frame.schema[name].is_temporal() and _beyond_years(row, name))]
    lows = {name: _bound(row[f"a:{name}"], upper=False) for name in usable}
    highs = {name: _bound(row[f"z:{name}"], upper=True) for name in usable}
    nulls = {name: str(row[f"n:{name}"]) for name in frame.columns}
    return (
        f'{{"numRecords":{frame.height},"minValues":{_object(lows)},'
        f'"maxValues":{_object(highs)},"nullCount":{_object(nulls)}}}'
    )


def _bounds(name: str, dtype: pl.DataType) -> tuple[pl.Expr, pl.Expr]:
    """Minimum and maximum; moments as text, because Python knows no year before 1 or after 9999."""
    low, high = pl.col(name).min(), pl.col(name).max()
    if dtype.is_temporal():
        pattern = "%Y-%m-%d" if dtype == pl.Date else "%Y-%m-%dT%H:%M:%S%.6f"
        zone = "Z" if isinstance(dtype, pl.Datetime) and dtype.time_zone else ""
        low, high = (bound.dt.to_string(pattern) + zone for bound in (low, high))
    return low.alias(f"a:{name}"), high.alias(f"z:{name}")


def _object(members: Mapping[str, str | None]) -> str:
    return "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in members.items() if v is not None) + "}"


def _bound(value: Any, *, upper: bool) -> str | None:
    """A bound as a JSON literal; None when there is none to give."""
    if isinstance(value, str):
        return _string_bound(value, upper=upper)
    if isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return json.dumps(value) if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return f"{value:f}"
    return None


def _beyond_years(row: Mapping[str, Any], name: str) -> bool:
    """Whether a bound has no four-digit year, which readers of statistics cannot parse."""
    return not all(re.match(r"\d{4}-", row[f"{side}:{name}"]) for side in "az")


def _string_bound(value: str, *, upper: bool) -> str | None:
    if len(value) <= _STRING_LIMIT or not upper:
        return json.dumps(value[:_STRING_LIMIT], ensure_ascii=False)
    # Raising the last character that can be raised keeps the cut text above every value it stands for.
    cut = value[:_STRING_LIMIT]
    while cut:
        raised = ord(cut[-1]) + 1
        if not 0xD800 <= raised <= 0xDFFF and raised <= 0x10FFFF:
            return json.dumps(cut[:-1] + chr(raised), ensure_ascii=False)
        cut = cut[:-1]
    return None


def _folder_value(value: str | None) -> str:
    """A partition value as Hive spells it in a folder name; Polars reads it from there, not from the log."""
    return "__HIVE_DEFAULT_PARTITION__" if value is None else quote(value, safe="")
