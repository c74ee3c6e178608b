"""The actions of a commit: what a version adds and removes, and the account that it carries."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from cdcloader import __version__
from cdcloader.changes.evolution import Evolution
from cdcloader.changes.schema import Schema, to_json
from cdcloader.errors import TableError
from cdcloader.lake.log import INFO
from cdcloader.lake.snapshot import Action, DataFile, Snapshot
from cdcloader.lake.upkeep import VECTORS_PROPERTY
from cdcloader.loader.account import Account, application_id, to_info
from cdcloader.loader.context import KEY_PROPERTY, VERSION_PROPERTY, Context, key_property
from cdcloader.loader.schema_changes import changes_info

_TIMESTAMP_NTZ, _VECTORS = "timestampNtz", "deletionVectors"
# What writer version 2 stands for, spelled as features.
_LEGACY_FEATURES = ("appendOnly", "invariants")


def commit(
    context: Context,
    base: Snapshot | None,
    account: Account,
    *,
    columns: Evolution,
    adds: Iterable[DataFile],
    removes: Iterable[DataFile],
    operation: str,
    doubled: int = 0,
) -> Snapshot:
    """Commit one version; CommitConflict when another writer was first.

    The account must be whole, and its rows those by which the table grows: else TableError, and nothing is committed.
    `columns` are those of the table after it, and what changes for that. `doubled` rows end beside another one of
    their key.
    """
    adds, removes = list(adds), list(removes)
    account.check(context.log.where)
    _check_kinds(account, context)
    # A full load replaces whatever is there.
    before = live_rows(() if operation == "WRITE" else removes)
    _check_growth(account, before, live_rows(adds), doubled, context.log.where)
    now_ms = context.now_ms
    actions = [
        *table_actions(
            context,
            base,
            columns.schema,
            now_ms,
            vectors=any(file.vector for file in adds),
            properties=columns.properties,
            version=account.version,
        ),
        *(file.remove(now_ms) for file in removes),
        *(file.add() for file in adds),
        {
            "txn": {
                "appId": application_id(account.generation),
                "version": account.position,
                "lastUpdated": now_ms,
            }
        },
    ]
    info: Action = {
        "timestamp": now_ms,
        "operation": operation,
        "operationParameters": {"mode": "Overwrite"} if operation == "WRITE" else {},
        "operationMetrics": {f"num_{kind}": str(count) for kind, count in account.rows.items()},
        "engineInfo": f"cdcloader/{__version__}",
        INFO: {**to_info(account), **changes_info(columns.changes)},
    }
    return context.log.commit(base, actions, info)


def live_rows(files: Iterable[DataFile]) -> int | None:
    """The rows of some files without the dead ones; None where the statistics of one do not say."""
    total = 0
    for file in files:
        rows = file.statistics().get("numRecords")
        if rows is None:
            return None
        total += int(rows) - (file.vector.cardinality if file.vector else 0)
    return total


def check_same_rows(removes: Iterable[DataFile], adds: Iterable[DataFile], where: str) -> None:
    """TableError unless files that are written again hold as many rows as those that they replace."""
    before, after = live_rows(removes), live_rows(adds)
    if before is not None and after is not None and before != after:
        raise TableError(
            f"{before} rows would be written again as {after}",
            where=where,
            hint="this is a bug in cdcloader, or another writer wrote wrong statistics (numRecords); nothing was "
            "committed; please report it with this message",
        )


def _check_kinds(account: Account, context: Context) -> None:
    """Without a key no row can meet another one."""
    left_out = context.table.filter is not None
    if not context.key and (account.superseded or account.updated or (account.noop and not left_out)):
        raise TableError(
            f"rows of a table without a primary key would be lost: {account.rows}",
            where=context.log.where,
            hint="this is a bug in cdcloader; nothing was committed; please report it with this message",
        )


def _check_growth(account: Account, before: int | None, after: int | None, doubled: int, where: str) -> None:
    """Rows before + inserted - deleted = rows after, by what the log will say of the files that go and come."""
    if before is None or after is None:
        return
    growth = account.inserted - account.deleted - doubled
    if after - before != growth:
        raise TableError(
            f"the table would grow by {after - before} rows, and by the account by {growth}: {account.rows}"
            + (f", of {doubled} keys a second row" if doubled else ""),
            where=where,
            hint="this is a bug in cdcloader, or another writer wrote wrong statistics (numRecords); nothing was "
            "committed; please report it with this message",
        )


def table_actions(
    context: Context,
    base: Snapshot | None,
    schema: Schema,
    now_ms: int,
    *,
    vectors: bool,
    properties: Mapping[str, str | None] = MappingProxyType({}),
    version: str | None = None,
) -> list[Action]:
    """Protocol and metadata, where they are new or change; `vectors` tells that files with vectors are added.

    `version` is that of the source, where it has any; the table remembers it.
    """
    features = [_TIMESTAMP_NTZ] if any(column.type == "timestamp_ntz" for column in schema) else []
    features += [_VECTORS] if vectors else []
    actions: list[Action] = []
    protocol = _protocol(base.protocol if base else None, features)
    if base is None or protocol != base.protocol:
        actions.append({"protocol": protocol})
    partition_by = list(context.table.partition_by)
    stated = {
        **(base.configuration if base else {}),
        **({VECTORS_PROPERTY: "true"} if vectors else {}),
        **properties,
        KEY_PROPERTY: key_property(context.table),
        **({VERSION_PROPERTY: version} if version else {}),
    }
    metadata: Action = {
        "id": base.metadata["id"] if base else str(uuid.uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": to_json(schema),
        "partitionColumns": partition_by,
        "configuration": {name: value for name, value in stated.items() if value is not None},
        "createdTime": base.metadata.get("createdTime", now_ms) if base else now_ms,
    }
    same = base is not None and all(
        base.metadata.get(name) == metadata[name] for name in ("partitionColumns", "configuration")
    )
    if base is None or not same or base.schema(context.log.where) != schema:
        names = ("name", "description")
        actions.append(
            {"metaData": {**{n: base.metadata[n] for n in names if base and n in base.metadata}, **metadata}}
        )
    return actions


def _protocol(old: Action | None, features: Sequence[str]) -> Action:
    """The lowest protocol that the table needs, never lower than it had."""
    protocol = old or {"minReaderVersion": 1, "minWriterVersion": 2}
    missing = [name for name in features if name not in (protocol.get("writerFeatures") or ())]
    if not missing:
        return protocol
    readers = [*(protocol.get("readerFeatures") or ()), *missing]
    writers = [*(protocol.get("writerFeatures") or _LEGACY_FEATURES), *missing]
    return {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": readers, "writerFeatures": writers}
