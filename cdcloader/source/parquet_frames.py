"""Parquet bytes to frames with a file's own names and types: by Polars, or by pyarrow where that is safer (pure)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cdcloader.errors import TableError
from cdcloader.source.parquet_layout import UNREADABLE, is_wide
from cdcloader.source.parquet_pages import has_usual_pages
from cdcloader.source.row_format import FileInput

_HINT = "wait for DMS to write it again, or leave it out if its rows are of no use: cdcloader resume TABLE --skip FILE"


@contextmanager
def opened(file: FileInput) -> Iterator[BinaryIO]:
    with file.open() as stored:
        yield stored


@contextmanager
def readable(file: FileInput) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise TableError(
            "not a readable Parquet file: truncated or damaged",
            where=file.name,
            hint=_HINT,
        ) from error


def frames(
    parquet: pq.ParquetFile, stream: BinaryIO, file: FileInput, chunk_bytes: int, columns: list[str] | None
) -> Iterator[pl.DataFrame]:
    """The file's rows with its own names and types, some row groups at a time; all columns, or those given."""
    if isinstance(stream, io.BytesIO) and data_bytes(parquet) <= chunk_bytes:
        if parquet.metadata.num_rows:
            yield _whole(parquet, stream, file, columns)
        return
    for groups in _group_runs(parquet, chunk_bytes):
        rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
        size = sum(_group_bytes(parquet, group) for group in groups)
        if size <= chunk_bytes:
            with readable(file):
                frame = _frame(parquet.read_row_groups(groups, columns=columns))
            yield frame
            continue
        batch_rows = max(1, rows * chunk_bytes // max(size, 1))
        batches = parquet.iter_batches(batch_size=batch_rows, row_groups=groups, columns=columns)
        while True:
            with readable(file):
                batch = next(batches, None)
                piece = None if batch is None else _frame(pa.Table.from_batches([batch]))
            if piece is None:
                break
            yield piece


def frames_together(files: Sequence[tuple[bytes, pq.ParquetFile]], columns: list[str] | None) -> pl.DataFrame | None:
    """The rows of files of one schema; None where Polars gives up, so that each is read alone, to find the fault."""
    if _has_wide_decimals(files[0][1]) or not all(has_usual_pages(content, parquet) for content, parquet in files):
        return None
    try:
        frame = pl.read_parquet([content for content, _ in files], columns=columns)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    return frame if frame.height == sum(parquet.metadata.num_rows for _, parquet in files) else None


def check_rows(read: int, parquet: pq.ParquetFile, file: FileInput) -> None:
    """TableError when a file has another number of rows than it says: its row groups or pages are damaged."""
    said = parquet.metadata.num_rows
    if read != said:
        raise TableError(
            f"not a sound Parquet file: {read} rows, and {said} by its footer", where=file.name, hint=_HINT
        )


def data_bytes(parquet: pq.ParquetFile) -> int:
    return sum(_group_bytes(parquet, group) for group in range(parquet.num_row_groups))


def _whole(parquet: pq.ParquetFile, stream: io.BytesIO, file: FileInput, columns: list[str] | None) -> pl.DataFrame:
    """The whole file: by Polars, and by pyarrow where Polars gives up or might do worse."""
    content = stream.getvalue()
    if not _has_wide_decimals(parquet) and has_usual_pages(content, parquet):
        with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return pl.read_parquet(content, columns=columns)
    with readable(file):
        return _frame(parquet.read(columns=columns))


def _has_wide_decimals(parquet: pq.ParquetFile) -> bool:
    return any(is_wide(field.type) for field in parquet.schema_arrow)


def _frame(table: pa.Table) -> pl.DataFrame:
    """The rows, after a check that pyarrow leaves out and Polars relies upon: damaged text makes Polars panic."""
    for column in table.columns:
        if not pa.types.is_primitive(column.type):
            column.validate(full=True)
    for place, field in enumerate(table.schema):
        if is_wide(field.type):
            digits = [None if value is None else f"{value:f}" for value in table.column(place).to_pylist()]
            table = table.set_column(place, field.name, pa.array(digits, pa.string()))
    return cast("pl.DataFrame", pl.from_arrow(table, rechunk=False))


def _group_bytes(parquet: pq.ParquetFile, group: int) -> int:
    return int(parquet.metadata.row_group(group).total_byte_size)


def _group_runs(parquet: pq.ParquetFile, chunk_bytes: int) -> Iterator[list[int]]:
    """Neighbouring row groups that fit a chunk together; a larger one stands alone."""
    run: list[int] = []
    size = 0
    for group in range(parquet.num_row_groups):
        group_bytes = _group_bytes(parquet, group)
        if run and size + group_bytes > chunk_bytes:
            yield run
            run, size = [], 0
        run.append(group)
        size += group_bytes
    if run:
        yield run
