"""Writes data files again with other types of some columns, in bounded memory.

A reader expects each data file to have the types of the table's schema, so that all files change at once. Rows keep
their order, dead ones are left out. Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import polars as pl

from cdcloader.changes.conversion import text_through
from cdcloader.changes.evolution import TEXT_OF
from cdcloader.changes.schema import Field, Schema, polars_type
from cdcloader.lake.filewriter import FileWriter
from cdcloader.lake.rewriting import Written, discard
from cdcloader.lake.snapshot import DataFile
from cdcloader.lake.sorted_rows import Rows
from cdcloader.lake.target import Target

# Of a file, rows of this share of a piece are in memory at once.
_BATCH_SHARE = 4


def retype(
    target: Target, schema: Schema, files: Iterable[DataFile], *, piece_bytes: int, going_on: Callable[[], None]
) -> Written:
    """Write the files of `target`, whose schema is the old one, with the types of `schema`.

    `going_on` is called often and may raise; then, as after any other error, nothing that was written is left behind.
    """
    old = {column.name: column.type for column in target.schema}
    others = {column.name: column for column in schema if column.type != old[column.name]}
    adds: list[DataFile] = []
    removes: list[DataFile] = []
    try:
        for file in files:
            removes.append(file)
            # One by one, so that what stands is known where one fails.
            adds.extend(_retyped(target, file, old, others, piece_bytes, going_on))
    except BaseException:
        discard(target, adds)
        raise
    return Written((*adds,), (*removes,), (*adds,))


def _retyped(
    target: Target,
    file: DataFile,
    old: Mapping[str, str],
    others: Mapping[str, Field],
    piece_bytes: int,
    going_on: Callable[[], None],
) -> Iterator[DataFile]:
    """The live rows of one file as new ones: one, unless it was larger than memory likes; none if all are dead."""
    writer: FileWriter | None = None
    for frame in Rows(target, file, batch_bytes=piece_bytes // _BATCH_SHARE).stored():
        going_on()
        writer = writer or FileWriter(target.objects, target.path, file.partition_values)
        writer.append(frame.with_columns(_values(frame[name], old[name], column) for name, column in others.items()))
        if writer.size >= max(target.file_bytes, piece_bytes):
            yield writer.close(now_ms=target.now_ms)
            writer = None
    if writer is not None:
        yield writer.close(now_ms=target.now_ms)


def _values(values: pl.Series, old: str, column: Field) -> pl.Series:
    if column.type != "string":
        return values.cast(polars_type(column.type))
    through = (column.metadata or {}).get(TEXT_OF)
    return text_through(values, old, through if isinstance(through, str) else None).alias(column.name)
