"""One data file that grows by frames, so that a load of any size writes files of the right size in little memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO

import polars as pl
import pyarrow.parquet as pq

from cdcloader.lake import datafiles, statistics
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects

# Dictionaries pay where values repeat; building one for a column of distinct values costs more than writing it.
_REPEATING_SHARE = 0.5
_LOOKED_AT_ROWS = 10_000


class FileWriter:
    """A Parquet file in the making; `append` frames in key order, then `close` once. Nothing stands before that."""

    def __init__(self, objects: Objects, table: str, partition_values: Mapping[str, str | None]) -> None:
        self._objects = objects
        self._table = table
        self._values = dict(partition_values)
        self._buffer = BytesIO()
        self._writer: pq.ParquetWriter | None = None
        self._summaries: list[pl.DataFrame] = []
        self._rows = 0

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._buffer.tell()

    def append(self, frame: pl.DataFrame) -> None:
        """Write rows behind those written before; the partition columns are left out."""
        content = frame.drop(list(self._values), strict=False)
        data = content.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._buffer,
                data.schema,
                compression="zstd",
                use_dictionary=_repeating(content),
                store_schema=False,
                write_statistics=True,
            )
        groups = math.ceil(content.height / datafiles.row_group_rows(content))
        self._writer.write_table(data, row_group_size=math.ceil(content.height / groups))
        self._summaries.append(statistics.summarise(content))
        self._rows += content.height

    def close(self, *, now_ms: int) -> DataFile:
        """Put the file into the table's folder; returns its log entry."""
        if self._writer is None:
            raise ValueError("a data file needs a row")
        self._writer.close()
        body = self._buffer.getbuffer()
        key = datafiles.new_key(self._values)
        self._objects.write(f"{self._table}/{key}", body)
        stats = statistics.to_json(self._rows, statistics.combine(self._summaries))
        return DataFile(datafiles.path_of(key), self._values, len(body), now_ms, stats)


def _repeating(frame: pl.DataFrame) -> Sequence[str]:
    """The columns in which values repeat, as far as the first rows show."""
    head = frame.head(_LOOKED_AT_ROWS)
    return [name for name in head.columns if head[name].n_unique() < _REPEATING_SHARE * head.height]
