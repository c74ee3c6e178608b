"""What one version of a Delta table holds: files, schema, vectors, transactions (pure).

Actions are those of the Delta protocol ("Actions"); a checkpoint holds the same actions as Parquet rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from cdcloader.changes.schema import Schema, from_json
from cdcloader.errors import TableError
from cdcloader.lake import deletion_vectors
from cdcloader.lake.deletion_vectors import Descriptor

Action = dict[str, Any]
FileId = tuple[str, str]

_READER_FEATURES = {"deletionVectors", "timestampNtz", "variantType", "variantType-preview", "vacuumProtocolCheck"}
_WRITER_FEATURES = {
    *_READER_FEATURES, "appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns",
    "identityColumns", "columnMapping", "domainMetadata", "allowColumnDefaults",
}  # fmt: skip
_HIGHEST_READER, _HIGHEST_WRITER = 3, 7
# How a path of the log begins that is not relative to the table.
ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|/")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A live data file: `path` as the log spells it, `stats` the JSON text of its statistics."""

    path: str
    partition_values: Mapping[str, str | None]
    size: int
    modification_time: int
    stats: str | None = None
    vector: Descriptor | None = None

    @property
    def id(self) -> FileId:
        """A logical file is its path and its vector."""
        return self.path, self.vector.unique_id if self.vector else ""

    def statistics(self) -> Mapping[str, Any]:
        """numRecords, minValues, maxValues, nullCount as far as the writer gave them; decimals exact."""
        loaded = json.loads(self.stats, parse_float=Decimal) if self.stats else {}
        return loaded if isinstance(loaded, dict) else {}

    def add(self, *, data_change: bool = True) -> Action:
        """The add action that makes the file live; `data_change` is False where rows only move between files."""
        body: Action = {
            "path": self.path,
            "partitionValues": dict(self.partition_values),
            "size": self.size,
            "modificationTime": self.modification_time,
            "dataChange": data_change,
        }
        if self.stats:
            body["stats"] = self.stats
        if self.vector:
            body["deletionVector"] = deletion_vectors.to_action(self.vector)
        return {"add": body}

    def remove(self, now_ms: int, *, data_change: bool = True) -> Action:
        """The remove action that ends the file; it names the vector, which is part of the file's identity."""
        body: Action = {
            "path": self.path,
            "deletionTimestamp": now_ms,
            "dataChange": data_change,
            "extendedFileMetadata": True,
            "partitionValues": dict(self.partition_values),
            "size": self.size,
        }
        if self.vector:
            body["deletionVector"] = deletion_vectors.to_action(self.vector)
        return {"remove": body}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a table. `files` by logical identity, `transactions` by application id."""

    version: int
    protocol: Action
    metadata: Action
    files: Mapping[FileId, DataFile] = field(default_factory=dict)
    transactions: Mapping[str, int] = field(default_factory=dict)

    def schema(self, where: str) -> Schema:
        """The table's columns; TableError for types that DMS tables do not have."""
        return from_json(self.metadata["schemaString"], where=where)

    @property
    def partition_columns(self) -> tuple[str, ...]:
        """The columns whose values stand in the log instead of in the data files."""
        return tuple(self.metadata.get("partitionColumns") or ())

    @property
    def configuration(self) -> Mapping[str, str]:
        """The table's properties."""
        return self.metadata.get("configuration") or {}


def apply(base: Snapshot | None, version: int, actions: Iterable[Action], *, where: str) -> Snapshot:
    """The snapshot after `actions`; TableError when the log does not hold what a table needs."""
    files = dict(base.files) if base else {}
    transactions = dict(base.transactions) if base else {}
    protocol = base.protocol if base else None
    metadata = base.metadata if base else None
    for action in actions:
        if body := action.get("add"):
            added = _data_file(body)
            files[added.id] = added
        elif body := action.get("remove"):
            files.pop(_file_id(body), None)
        elif body := action.get("txn"):
            transactions[body["appId"]] = int(body["version"])
        elif body := action.get("metaData"):
            metadata = _present(body)
        elif body := action.get("protocol"):
            protocol = _present(body)
    if protocol is None or metadata is None:
        raise TableError(
            f"version {version} has no protocol or no metadata",
            where=where,
            hint="the Delta log is damaged: restore it",
        )
    return Snapshot(version, protocol, metadata, files, transactions)


def check_supported(snapshot: Snapshot, *, where: str) -> None:
    """TableError when the table uses a feature that we would break; raised before anything is written."""
    protocol, configuration = snapshot.protocol, snapshot.configuration
    reader, writer = int(protocol.get("minReaderVersion", 1)), int(protocol.get("minWriterVersion", 2))
    named = {*(protocol.get("readerFeatures") or ())} - _READER_FEATURES
    named |= {*(protocol.get("writerFeatures") or ())} - _WRITER_FEATURES
    problems = [f"the table feature {name}" for name in sorted(named)]
    if reader > _HIGHEST_READER or writer > _HIGHEST_WRITER:
        problems.append(f"protocol reader {reader} / writer {writer}")
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        problems.append("column mapping")
    enabled = (
        "delta.enableChangeDataFeed",
        "delta.appendOnly",
        "delta.enableRowTracking",
        "delta.enableInCommitTimestamps",
    )
    problems += [name for name in enabled if configuration.get(name, "false").lower() == "true"]
    problems += [name for name in configuration if name.startswith("delta.constraints.")]
    for column in _readable_schema(snapshot, where):
        promised = {"delta.invariants", "delta.generationExpression", "delta.identity.start"} & set(
            column.metadata or {}
        )
        problems += [f"{name} on column {column.name!r}" for name in sorted(promised)]
    if any(_lies_elsewhere(file) for file in snapshot.files.values()):
        problems.append("files outside its folder (a shallow clone, or paths that lead out of it)")
    if problems:
        raise TableError(
            f"the target uses {', '.join(problems)}, which cdcloader does not support",
            where=where,
            hint="drop the feature from the table, or give the source another `target`",
        )


def _readable_schema(snapshot: Snapshot, where: str) -> Schema:
    try:
        return snapshot.schema(where)
    except TableError as error:
        hint = "drop the column from the table, or give the source another `target`"
        raise TableError(error.what, where=error.where, hint=hint) from error


def _lies_elsewhere(file: DataFile) -> bool:
    """Whether a file or its vector is named by an absolute path, or by one that leads out of the folder."""
    vector = file.vector.path_or_inline if file.vector and file.vector.storage_type != "i" else ""
    absolute = ABSOLUTE.match(file.path) or ABSOLUTE.match(unquote(file.path))
    # Nearly every path is plain; a table has many, and each is looked at in every batch.
    upwards = ".." in file.path + vector or "%" in file.path
    return bool(
        absolute
        or (file.vector and file.vector.storage_type == "p")
        or (upwards and ".." in [*unquote(file.path).split("/"), *vector.split("/")])
    )


def _present(body: Action) -> Action:
    """A checkpoint has NULL where a commit leaves a member out."""
    return {name: value for name, value in body.items() if value is not None}


def _file_id(body: Action) -> FileId:
    vector = body.get("deletionVector")
    return body["path"], deletion_vectors.from_action(vector).unique_id if vector else ""


def _data_file(body: Action) -> DataFile:
    vector = body.get("deletionVector")
    return DataFile(
        path=body["path"],
        partition_values=dict(body.get("partitionValues") or {}),
        size=int(body["size"]),
        modification_time=int(body.get("modificationTime") or 0),
        stats=body.get("stats"),
        vector=deletion_vectors.from_action(vector) if vector else None,
    )
