"""Checkpoints of the Delta log, read column by column: a table of thousands of files takes some hundredths of a second.

Source of the format: the Delta protocol, "Checkpoints" and "Checkpoint Schema". Statistics stay the text that they are
until somebody asks for those of a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cdcloader.errors import TableError
from cdcloader.lake import deletion_vectors
from cdcloader.lake.snapshot import Action, DataFile, FileId, Snapshot, apply

_ADD = ("path", "partitionValues", "size", "modificationTime", "stats", "deletionVector")
_REMOVE = ("path", "deletionTimestamp", "deletionVector")
_OTHERS = ("txn", "metaData", "protocol")
# What bounds the Python objects that exist at once beside the snapshot.
_ROWS = 8_192


def read(version: int, parts: Iterable[bytes], *, where: str) -> Snapshot:
    """The snapshot of `version` from the parts of its checkpoint; TableError when they are damaged or of a V2 one."""
    files: dict[FileId, DataFile] = {}
    others: list[Action] = []
    with _errors_of(version, where):
        for part in map(_opened, parts):
            _refuse_sidecars(part, version, where)
            for group in range(part.num_row_groups):
                files.update((file.id, file) for file in _data_files(part, group))
            for name in _OTHERS:
                others += [{name: body} for body in _bodies(part, name)]
    return replace(apply(None, version, others, where=where), files=files)


def removes(version: int, parts: Iterable[bytes], *, where: str) -> Iterator[Action]:
    """The remove actions of a checkpoint: path, deletionTimestamp and deletionVector of each, as far as it has them."""
    with _errors_of(version, where):
        for part in map(_opened, parts):
            for batch in part.iter_batches(_ROWS, columns=_leaves(part, "remove", _REMOVE)):
                if batch.num_columns:
                    yield from map(_plain, batch.column("remove").drop_null().to_pylist())


def _opened(content: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(BytesIO(content))


@contextmanager
def _errors_of(version: int, where: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise TableError(
            f"the checkpoint of version {version} is damaged: {error}",
            where=where,
            hint="delete its files and _last_checkpoint from _delta_log if the commits before it are still there",
        ) from error


def _bodies(part: pq.ParquetFile, name: str) -> list[Action]:
    """The bodies of one kind of action."""
    if name not in part.schema_arrow.names:
        return []
    column = part.read(columns=[name])[name].drop_null()
    return [_plain(body) for body in column.to_pylist(maps_as_pydicts="strict")]


def _refuse_sidecars(part: pq.ParquetFile, version: int, where: str) -> None:
    """A V2 checkpoint may have a classic name; read as a classic one it would lack the files of its sidecars."""
    columns = _leaves(part, "sidecar", ("path",))
    if columns and part.read(columns=columns)["sidecar"].null_count < part.metadata.num_rows:
        raise v2_checkpoint(version, where)


def v2_checkpoint(version: int, where: str) -> TableError:
    """The error of a table that can be read only by a V2 checkpoint."""
    return TableError(
        f"version {version} has a V2 checkpoint, which cdcloader does not read",
        where=where,
        hint="set delta.checkpointPolicy to classic and write a checkpoint, or give the source another `target`",
    )


def _data_files(part: pq.ParquetFile, group: int) -> Iterator[DataFile]:
    """The live files of a row group; what a column lacks altogether is NULL."""
    columns = _leaves(part, "add", _ADD)
    parsed = _leaves(part, "add", ("stats_parsed",))
    for batch in part.iter_batches(_ROWS, row_groups=[group], columns=columns) if columns else ():
        adds = batch.column("add").drop_null()
        stats = _column(adds, "stats")
        if parsed and None in stats:
            # Statistics as columns are many columns, so they are read only where the text is missing. Files that this
            # group has told already are told again, which changes nothing.
            yield from _data_files_with_parsed(part, group, [*columns, *parsed])
            return
        yield from _built(adds, stats)


def _data_files_with_parsed(part: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[DataFile]:
    for batch in part.iter_batches(_ROWS, row_groups=[group], columns=columns):
        adds = batch.column("add").drop_null()
        texts = zip(_column(adds, "stats"), _stats_texts(adds), strict=True)
        yield from _built(adds, [text if text is not None else other for text, other in texts])


def _built(adds: pa.StructArray, stats: list[str | None]) -> Iterator[DataFile]:
    names = ("path", "partitionValues", "size", "modificationTime")
    return map(_data_file, *(_column(adds, name) for name in names), stats, _column(adds, "deletionVector"))


def _data_file(
    path: str, values: Mapping[str, str | None] | None, size: int, time: int | None, stats: str | None, vector: Any
) -> DataFile:
    descriptor = deletion_vectors.from_action(vector) if vector else None
    return DataFile(path, values or {}, size, time or 0, stats, descriptor)


def _column(rows: pa.StructArray, name: str) -> list[Any]:
    """A member of each row; NULL where the rows have no such member, or it is NULL, or an empty map."""
    index = rows.type.get_field_index(name)
    if index < 0:
        return [None] * len(rows)
    # flatten() takes the rows' own NULLs and offset into account, field() does not.
    values = rows.flatten()[index]
    if isinstance(values, pa.MapArray):
        # Most tables have no partitions, and an empty map a row costs more than all else together.
        return values.to_pylist(maps_as_pydicts="strict") if len(values.items) else [None] * len(rows)
    return [None] * len(rows) if values.null_count == len(rows) else values.to_pylist()


def _stats_texts(rows: pa.StructArray) -> list[str | None]:
    """Statistics from `stats_parsed`, where a writer was told to leave the text out (writeStatsAsJson=false).

    Bounds of moments are left out: writers store them in ways that do not say what they mean (INT96). A column without
    bounds excludes no file.
    """
    parsed = rows.flatten()[rows.type.get_field_index("stats_parsed")]
    counts = _column(parsed, "numRecords")
    members = {name: _members(parsed, name) for name in ("minValues", "maxValues", "nullCount")}
    tight = _column(parsed, "tightBounds")
    return [
        None if count is None else _stats_text(count, {name: all_[row] for name, all_ in members.items()}, tight[row])
        for row, count in enumerate(counts)
    ]


def _members(parsed: pa.StructArray, name: str) -> list[dict[str, Any]]:
    index = parsed.type.get_field_index(name)
    if index < 0:
        return [{} for _ in range(len(parsed))]
    inner = parsed.flatten()[index]
    usable = [field.name for field in inner.type if _is_plain(field.type)]
    columns = [_column(inner, column) for column in usable]
    return [
        {column: values[row] for column, values in zip(usable, columns, strict=True) if values[row] is not None}
        for row in range(len(parsed))
    ]


def _is_plain(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_string, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_floating)
    return any(test(kind) for test in tests)


def _stats_text(count: int, members: Mapping[str, Mapping[str, Any]], tight: bool | None) -> str:  # noqa: FBT001
    inner = (
        f'"{name}":{{' + ",".join(f"{json.dumps(c)}:{t}" for c, v in values.items() if (t := _literal(v))) + "}"
        for name, values in members.items()
    )
    bounds = "" if tight is None else f',"tightBounds":{json.dumps(tight)}'
    return f'{{"numRecords":{count},{",".join(inner)}{bounds}}}'


def _literal(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return "" if isinstance(value, float) and not math.isfinite(value) else json.dumps(value, ensure_ascii=False)


def _leaves(part: pq.ParquetFile, name: str, members: Iterable[str]) -> list[str]:
    """The paths of the members that the checkpoint has of an action."""
    schema = part.schema_arrow
    if name not in schema.names:
        return []
    kind = schema.field(name).type
    return [f"{name}.{member}" for member in members if kind.get_field_index(member) >= 0]


def _plain(body: Mapping[str, Any]) -> Action:
    """A checkpoint row's struct as the JSON action would have it: absent instead of NULL."""
    return {
        name: _plain(value) if name in ("deletionVector", "format") and isinstance(value, dict) else value
        for name, value in body.items()
        if value is not None
    }
