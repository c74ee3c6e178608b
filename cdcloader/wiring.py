"""Config -> running objects; the only module that names concrete adapters."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from cdcloader.allocators import keep_little
from cdcloader.config import Config
from cdcloader.config.models import DynamoDBState, SQLiteState
from cdcloader.lake.key_cache import KeyCache
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.vectors import Vectors
from cdcloader.loader.context import Context, Settings
from cdcloader.loader.incremental import Committed
from cdcloader.loader.report import Reporter
from cdcloader.loader.table import TableLoader
from cdcloader.metrics import Metrics
from cdcloader.objects import Objects
from cdcloader.source.plan import Limits
from cdcloader.state.dynamodb import DynamoDBStore
from cdcloader.state.memory import MemoryStore
from cdcloader.state.sqlite import SQLiteStore
from cdcloader.state.store import StateStore

_MIB = 1 << 20
# What the process takes before it has read a row, and what of it stays between batches.
_IMPORTS_MB, _RUNNING_MB = 140, 200
# Below this the memory that allocators keep would be a large part of the budget.
_TIGHT_MB = 1024
# Shares of a table's part of the memory budget. Text grows when it is parsed, sorted and encoded again, and
# compressed files grow when they are read, so each share is what several copies of it leave room for.
_CHUNK_SHARE, _PIECE_SHARE = 24, 12
# Shares of what a batch may take beside the table's key columns. The rows that it holds are copied in parts only.
_FETCH_SHARE, _PASS_SHARE, _BATCH_SHARE = 16, 12, 2
# The part of the whole budget that key columns may take, between batches too.
_KEYS_SHARE = 8
_CHUNK_BYTES = (_MIB, 16 * _MIB)


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything that runs: one loader per table, their state store, and the metrics."""

    config: Config
    raw: Objects
    lake: Objects
    store: StateStore
    metrics: Metrics
    loaders: tuple[TableLoader, ...]

    def close(self) -> None:
        """Let go of connections."""
        self.store.close()


def assemble(
    config: Config,
    *,
    tables: tuple[str, ...] = (),
    on_batch: Callable[[str, Committed], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Assembly:
    """Open what the config names and make a loader for each table, or for those named.

    ConfigError when a name is unknown, or when raw, lake or state cannot be used at all.
    """
    if config.memory_budget_mb < _TIGHT_MB:
        keep_little()
    chosen = tuple(config.table(name) for name in tables) or config.tables
    raw, lake = Objects.open(config.raw), Objects.open(config.lake, create=True)
    store = _store(config)
    store.probe()
    metrics = Metrics(CollectorRegistry())
    settings = _settings(config, len(chosen))
    keys, vectors = _key_cache(config, metrics), Vectors()
    loaders = tuple(
        _loader(
            Context(table, raw, lake, DeltaLog(lake, table.target), settings, _now, stopping, keys, vectors),
            store,
            metrics,
            on_batch,
        )
        for table in chosen
    )
    return Assembly(config, raw, lake, store, metrics, loaders)


def _loader(
    context: Context, store: StateStore, metrics: Metrics, on_batch: Callable[[str, Committed], None] | None
) -> TableLoader:
    reporter = Reporter(context.table.source, metrics, _now, context.settings.file_bytes, on_batch)
    return TableLoader(context, store, reporter, owner_is_gone)


def _key_cache(config: Config, metrics: Metrics) -> KeyCache:
    """One for all tables, so that those that change most have most of it."""
    return KeyCache(
        config.memory_budget_mb * _MIB // _KEYS_SHARE,
        Path(config.cache.path) if config.cache.path else None,
        config.cache.max_mb * _MIB,
        on_lookup=metrics.key_cache_lookup,
    )


def _store(config: Config) -> StateStore:
    state = config.state
    if isinstance(state, DynamoDBState):
        return DynamoDBStore(state.table)
    if isinstance(state, SQLiteState):
        return SQLiteStore(state.path)
    return MemoryStore()


def _settings(config: Config, tables: int) -> Settings:
    budget_mb, parallel = config.memory_budget_mb, min(config.max_parallel_tables, tables)
    share = max(budget_mb - _IMPORTS_MB, budget_mb // 4) * _MIB // parallel
    batch_share = max(budget_mb - _RUNNING_MB - budget_mb // _KEYS_SHARE, budget_mb // 4) * _MIB // parallel
    return Settings(
        owner=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
        limits=Limits(
            max_files=config.batch.max_files,
            max_bytes=config.batch.max_bytes,
            quiet_seconds=config.full_load.quiet_seconds,
            overlap_seconds=config.full_load.overlap_seconds,
        ),
        lease_seconds=config.lease_seconds,
        look_back_seconds=config.look_back_seconds,
        upkeep_seconds=config.upkeep.seconds,
        piece_bytes=share // _PIECE_SHARE,
        chunk_bytes=min(max(share // _CHUNK_SHARE, _CHUNK_BYTES[0]), _CHUNK_BYTES[1]),
        fetch_bytes=batch_share // _FETCH_SHARE,
        batch_bytes=batch_share // _BATCH_SHARE,
        pass_bytes=batch_share // _PASS_SHARE,
    )


def owner_is_gone(owner: str) -> bool:
    """Whether a lease owner was a process of this machine that no longer runs; then nobody needs to wait for it."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # In a container every process has the same number: ours is alive, so the owner with our number is not.
    return int(pid) == os.getpid()


def _now() -> datetime:
    return datetime.now(UTC)
