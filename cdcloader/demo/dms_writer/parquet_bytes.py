"""Parquet as DMS writes it: columns are OPTIONAL but the timestamp column, with converted types only."""

from __future__ import annotations

import io
from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cdcloader.demo.dms_writer.dms_types import arrow_type
from cdcloader.demo.dms_writer.settings import Columns, DmsSettings
from cdcloader.demo.legacy_types import without_logical_types

ROW_GROUP_ROWS = 10_000
# In version 1.0 an unsigned number of 32 bits is a plain INT64.
_VERSIONS = {"1.0": "1.0", "2.0": "2.6"}


def parquet_bytes(settings: DmsSettings, columns: Columns, data: Sequence[pl.Series]) -> bytes:
    """A file of these columns; (name, kind) beside the values as a table holds them."""
    milliseconds = settings.parquet_timestamp_in_millisecond
    fields = [
        pa.field(name, arrow_type(kind, milliseconds=milliseconds), nullable=name != settings.timestamp_column)
        for name, kind in columns
    ]
    values = [_times(series) if kind == "time" else series for (_, kind), series in zip(columns, data, strict=True)]
    # Milliseconds cut what the source has beyond them, which Arrow calls an unsafe cast.
    arrays = [series.to_arrow().cast(field.type, safe=False) for series, field in zip(values, fields, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=pa.schema(fields)),
        buffer,
        row_group_size=ROW_GROUP_ROWS,
        version=_VERSIONS[settings.parquet_version],
        compression="GZIP" if settings.gzip else "NONE",
        use_dictionary=settings.encoding_type != "plain",
        write_statistics=[field.name for field in fields if not pa.types.is_decimal(field.type)],
        store_schema=False,
        # Without it a time has no converted type at all.
        write_time_adjusted_to_utc=True,
    )
    return without_logical_types(buffer.getvalue())


def _times(texts: pl.Series) -> pl.Series:
    return texts.str.to_time("%H:%M:%S%.f")
