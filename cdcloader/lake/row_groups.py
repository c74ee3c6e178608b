"""Reading some row groups of a data file's key columns, when its footer says that only those may hold the keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cdcloader.changes.schema import Schema, polars_schema
from cdcloader.errors import TableError
from cdcloader.lake import datafiles, key_index
from cdcloader.lake.datafiles import POSITION
from cdcloader.lake.key_index import RowGroups
from cdcloader.lake.pruning import Bounds
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects

# Footers and the key columns of a row group are read with about this much more than is needed.
_BUFFER_BYTES = 64 << 10
_MOMENTS = (pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC"))


def read_footer(objects: Objects, table: str, file: DataFile, schema: Schema, names: Sequence[str]) -> RowGroups:
    """The file's row groups with the bounds of its key columns; TableError when it is unreadable."""
    types = polars_schema(schema)
    with _opened(objects, table, file) as parquet:
        metadata, stored = parquet.metadata, parquet.schema_arrow
        places = {metadata.schema.column(at).path: at for at in range(metadata.num_columns)}
        known = {
            name: places[name] for name in names if name in places and _is_kept(stored.field(name).type, types[name])
        }
        starts, bounds = [0], []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            starts.append(starts[-1] + group.num_rows)
            bounds.append({name: _bounds(group.column(at).statistics, types[name]) for name, at in known.items()})
    return RowGroups(tuple(starts), tuple(bounds))


def read_groups(
    objects: Objects,
    table: str,
    file: DataFile,
    schema: Schema,
    names: Sequence[str],
    groups: RowGroups,
    numbers: Sequence[int],
) -> pl.DataFrame:
    """The key columns of some row groups in the table's types, with `POSITION`; TableError when it is unreadable."""
    types = polars_schema(schema)
    frames = [pl.DataFrame(schema={**{name: types[name] for name in names}, POSITION: pl.UInt32})]
    with _opened(objects, table, file) as parquet:
        stored = [name for name in names if name in parquet.schema_arrow.names]
        for number in sorted(numbers):
            start, end = groups.starts[number], groups.starts[number + 1]
            frame = pl.DataFrame(pl.from_arrow(parquet.read_row_group(number, columns=stored)))
            frames.append(
                frame.select(
                    *(
                        pl.col(name).cast(types[name]) if name in stored else pl.lit(None, types[name]).alias(name)
                        for name in names
                    ),
                    pl.int_range(start, end, dtype=pl.UInt32).alias(POSITION),
                )
            )
    return pl.concat(frames)


@contextmanager
def _opened(objects: Objects, table: str, file: DataFile) -> Iterator[pq.ParquetFile]:
    key = datafiles.key_of(table, file)
    try:
        with objects.open_reader(key, buffer_bytes=_BUFFER_BYTES) as source:
            yield pq.ParquetFile(source)
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise TableError(
            f"a data file of the target cannot be read: {error}",
            where=objects.path_of(key),
            hint="restore the file, or reload the table",
        ) from error


def _is_kept(stored: pa.DataType, wanted: pl.DataType) -> bool:
    """Whether the footer's bounds are bounds of what is compared: no floats (a NaN is in no bounds), no other units."""
    if isinstance(wanted, pl.Decimal):
        return bool(pa.types.is_decimal(stored)) and stored.scale == wanted.scale
    if wanted.is_temporal():
        return stored in _MOMENTS
    if wanted.is_integer():
        return bool(pa.types.is_signed_integer(stored))
    return wanted == pl.String and bool(pa.types.is_string(stored) or pa.types.is_large_string(stored))


def _bounds(statistics: Any, wanted: pl.DataType) -> Bounds:
    """(minimum, maximum) in physical form, (None, None) where the footer does not say."""
    if statistics is None or not statistics.has_min_max:
        return None, None
    if statistics.physical_type in ("INT32", "INT64"):
        return statistics.min_raw, statistics.max_raw
    low, high = statistics.min, statistics.max
    if isinstance(low, Decimal) and isinstance(wanted, pl.Decimal) and wanted.precision <= key_index.SHORT_DIGITS:
        return int(low.scaleb(wanted.scale)), int(high.scaleb(wanted.scale))
    return low, high
