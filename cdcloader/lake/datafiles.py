"""Data files: Parquet in key order with Delta statistics, written once and never changed."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from cdcloader.changes.schema import Schema, polars_schema
from cdcloader.errors import CdcloaderError, TableError, TransientError
from cdcloader.lake import deletion_vectors, statistics
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects
from cdcloader.objects.failures import READ, translated

POSITION = "__position"
Numbers = np.ndarray[Any, Any]
ROW_GROUP_BYTES = 8 << 20
_ROW_GROUP_ROWS = (8_192, 122_880)
# Column chunks of a row group are read with about this much more than is needed.
_ROWS_BUFFER_BYTES = 64 << 10


def write(
    objects: Objects,
    table: str,
    frame: pl.DataFrame,
    partition_values: Mapping[str, str | None],
    *,
    now_ms: int,
) -> DataFile:
    """Write one data file from a frame in key order, without its partition columns; returns its log entry."""
    key = new_key(partition_values)
    content = frame.drop(list(partition_values), strict=False)
    buffer = BytesIO()
    content.write_parquet(buffer, compression="zstd", statistics=True, row_group_size=row_group_rows(content))
    body = buffer.getbuffer()
    objects.write(f"{table}/{key}", body)
    stats = statistics.to_json(content.height, statistics.summarise(content))
    return DataFile(path_of(key), dict(partition_values), len(body), now_ms, stats)


def new_key(partition_values: Mapping[str, str | None]) -> str:
    """The key of a new data file, relative to the table."""
    folder = "".join(f"{name.replace('/', '%2F')}={_folder_value(value)}/" for name, value in partition_values.items())
    return f"{folder}part-00000-{uuid.uuid4()}-c000.zstd.parquet"


def path_of(key: str) -> str:
    """A key as the log spells it: URL-encoded, so that the percent signs of a folder name are encoded again."""
    return quote(key, safe="/=-._")


def key_of(table: str, file: DataFile) -> str:
    """A data file's key under the lake's root."""
    return f"{table}/{unquote(file.path)}"


def pieces(
    frame: pl.DataFrame, partition_by: Sequence[str], *, target_bytes: int, bytes_per_row: float
) -> Iterator[tuple[dict[str, str | None], pl.DataFrame]]:
    """(partition values, rows) of each file that a frame in (partition, key) order makes, of about `target_bytes`."""
    for values, rows in split_partitions(frame, partition_by):
        size = rows.height * bytes_per_row
        count = max(1, round(size / target_bytes)) if size > 1.5 * target_bytes else 1
        step = math.ceil(rows.height / count)
        for start in range(0, rows.height, step):
            yield values, rows.slice(start, step)


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
        # The clock is UTC's; `strftime` would write the year 900 with three digits.
        return value.replace(tzinfo=None).isoformat(sep=" ")
    if isinstance(value, bytes):
        raise TableError("a binary column cannot be a partition column", hint="change partition_by")
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def read(
    objects: Objects,
    table: str,
    file: DataFile,
    schema: Schema,
    *,
    columns: Sequence[str] | None = None,
    dead: BitMap64 | None = None,
) -> pl.DataFrame:
    """The live rows of a data file with the table's types; `POSITION` holds each row's number in the file.

    `dead` are the rows that are left out; None means those of the file's vector.
    Partition columns come from the log; columns that the file lacks are NULL. TableError when it is unreadable,
    TransientError when the lake does not answer.
    """
    wanted = list(columns) if columns is not None else [field.name for field in schema]
    types = polars_schema(schema)
    target, options = objects.scan_target(key_of(table, file))
    try:
        scan = pl.scan_parquet(target, storage_options=options, row_index_name=POSITION, glob=False)
        stored = set(scan.collect_schema()) - set(file.partition_values)
        frame = scan.select(POSITION, *(name for name in wanted if name in stored)).collect()
    except (pl.exceptions.ComputeError, OSError) as error:
        raise _unreadable(error, objects.path_of(key_of(table, file))) from error
    frame = live_rows(frame, dead_rows(objects, table, file) if dead is None else dead)
    return frame.select(POSITION, *(_column(name, stored, file, types[name]) for name in wanted))


def read_rows(
    objects: Objects,
    table: str,
    file: DataFile,
    schema: Schema,
    *,
    columns: Sequence[str],
    positions: Numbers,
) -> pl.DataFrame:
    """Some rows of a data file, by their rising `positions`, as `read` gives them; only their row groups are read."""
    types, key = polars_schema(schema), key_of(table, file)
    frames, start = [], 0
    try:
        with objects.open_reader(key, buffer_bytes=_ROWS_BUFFER_BYTES) as source:
            parquet = pq.ParquetFile(source)
            stored = set(parquet.schema_arrow.names) - set(file.partition_values)
            wanted = [name for name in columns if name in stored]
            for number in range(parquet.num_row_groups) if len(positions) else ():
                end = start + parquet.metadata.row_group(number).num_rows
                inside = positions[np.searchsorted(positions, start) : np.searchsorted(positions, end)]
                if len(inside):
                    places = pl.Series(POSITION, inside.astype(np.uint32))
                    group = pl.DataFrame(pl.from_arrow(parquet.read_row_group(number, columns=wanted)))
                    picked = group[places - start] if wanted else group
                    frames.append(pl.DataFrame([places, *picked.get_columns()]))
                start = end
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(error, objects.path_of(key)) from error
    rows = pl.concat(frames) if frames else pl.DataFrame(schema={POSITION: pl.UInt32})
    stored &= set(rows.columns)
    return rows.select(POSITION, *(_column(name, stored, file, types[name]) for name in columns))


def _unreadable(error: Exception, where: str) -> CdcloaderError:
    """Why Polars could not read a file, as our error: passing trouble of S3 passes, a damaged file stays so."""
    known = translated(error, where, READ) if isinstance(error, OSError) else None
    if isinstance(known, TransientError):
        return known
    what = known.what if isinstance(error, PermissionError) and known else str(error)
    return TableError(
        f"a data file of the target cannot be read: {what}", where=where, hint="restore the file, or reload the table"
    )


def live_rows(frame: pl.DataFrame, dead: BitMap64) -> pl.DataFrame:
    """A frame with `POSITION` without the rows at the dead positions."""
    if not dead or not frame.height:
        return frame
    return frame.filter(pl.Series(alive(frame[POSITION].to_numpy(), dead)))


def alive(positions: Numbers, dead: BitMap64) -> Numbers:
    """Which of some positions are not dead."""
    marks = np.zeros(max(dead.max(), int(positions.max())) + 1, dtype=np.bool_)
    marks[np.frombuffer(dead.to_array(), dtype=np.uint64)] = True
    return ~marks[positions]


def dead_rows(objects: Objects, table: str, file: DataFile) -> BitMap64:
    """The positions that a file's vector marks; TableError when it cannot be read."""
    if file.vector is None:
        return BitMap64()

    def read_vector(name: str, start: int, length: int) -> bytes:
        return objects.read_range(f"{table}/{name}", start, length)

    return deletion_vectors.dead_rows(file.vector, read_vector, where=objects.path_of(key_of(table, file)))


def stored_rows(objects: Objects, table: str, file: DataFile) -> int:
    """The number of rows in a data file, dead ones included; from its footer where the log does not say."""
    rows = file.statistics().get("numRecords")
    if rows is not None:
        return int(rows)
    with objects.open_reader(key_of(table, file), buffer_bytes=1 << 16) as source:
        return int(pq.ParquetFile(source).metadata.num_rows)


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


def row_group_rows(frame: pl.DataFrame, group_bytes: int = ROW_GROUP_BYTES) -> int:
    """Rows a row group: about 8 MiB in memory, so that statistics can prune inside a file."""
    width = max(1.0, frame.estimated_size() / max(1, frame.height))
    low, high = _ROW_GROUP_ROWS
    return int(min(high, max(low, group_bytes / width)))


def _folder_value(value: str | None) -> str:
    """A partition value as Hive spells it in a folder name; Polars reads it from there, not from the log."""
    return "__HIVE_DEFAULT_PARTITION__" if value is None else quote(value, safe="")
