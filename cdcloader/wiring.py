"""Config -> running objects; the only module that names concrete adapters."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from cdcloader.allocators import TIGHT_MB, keep_little
from cdcloader.config import Config, Table
from cdcloader.config.memory_limit import budget_mb, budget_warning
from cdcloader.config.models import DynamoDBState, SQLiteState
from cdcloader.lake.key_cache import KeyCache
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.vectors import Vectors
from cdcloader.loader.admission import Admission
from cdcloader.loader.columns import check_expressions
from cdcloader.loader.context import Context, Settings
from cdcloader.loader.discovery import SEARCH, Discovery, phase_of
from cdcloader.loader.incremental import Committed
from cdcloader.loader.report import Reporter
from cdcloader.loader.shared_listing import SharedListings
from cdcloader.loader.sizes import key_cache_bytes, shared_files_mb
from cdcloader.loader.status import status_of
from cdcloader.loader.table import TableLoader
from cdcloader.loader.transactions import Transactions
from cdcloader.loader.trouble import Pauses
from cdcloader.metrics import Metrics
from cdcloader.objects import Objects
from cdcloader.replicas import Replica
from cdcloader.source.actions import Limits
from cdcloader.state.memory import MemoryStore
from cdcloader.state.sqlite import SQLiteStore
from cdcloader.state.store import StateStore
from cdcloader.watchdog import Watchdog

_MIB = 1 << 20
# How old the listing of a folder may be that tables share.
_LISTED_SECONDS = 5.0


@dataclass(slots=True)
class Assembly:
    """Everything that runs: one loader per table, their state store, the metrics, and what watches over turns.

    `loaders` grows by `discover`, where tables were chosen by no name.
    """

    config: Config
    raw: Objects
    lake: Objects
    store: StateStore
    metrics: Metrics
    watchdog: Watchdog
    replica: Replica
    budget_mb: int
    discovery: Discovery
    make: Callable[[Table], TableLoader]
    named: bool
    loaders: tuple[TableLoader, ...] = ()

    @property
    def grows(self) -> bool:
        """Whether further tables may be found."""
        return bool(self.config.patterns) and not self.named

    def discover(self) -> tuple[TableLoader, ...]:
        """The loaders of tables that are new under the config's patterns; for one thread at a time."""
        if not self.grows:
            return ()
        before = self.discovery.troubles
        new = self._joined(self.discovery.look())
        for source in before.keys() - self.discovery.troubles.keys() - {loader.source for loader in new}:
            self.metrics.forget(source)
        for source, error in self.discovery.troubles.items():
            self.metrics.phase(source, str(phase_of(error)))
        return new

    def start(self, tables: Iterable[Table]) -> None:
        """Begin with these tables, and with those that are found now."""
        self._joined(tables)
        self.discover()

    def _joined(self, tables: Iterable[Table]) -> tuple[TableLoader, ...]:
        new = tuple(map(self.make, tables))
        self.loaders += new
        self.replica.add(loader.context.path for loader in new)
        return new

    def troubles(self) -> list[dict[str, Any]]:
        """The lines in `status` of what should be tables by a pattern, and cannot."""
        return [
            status_of(source, source, None, None, _now(), error=str(error)) | {"phase": str(phase_of(error))}
            for source, error in sorted(({} if self.named else self.discovery.troubles).items())
        ]

    def close(self) -> None:
        """Let go of connections."""
        self.store.close()


def assemble(
    config: Config,
    *,
    tables: tuple[str, ...] = (),
    on_batch: Callable[[str, Committed], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    only_reads: bool = False,
) -> Assembly:
    """Open what the config names and make a loader for each table, or for those named.

    Who `only_reads` writes no quarantine when shared files are split. ConfigError when a name is unknown, or when raw,
    lake or state cannot be used at all.
    """
    check_expressions(config.tables)
    budget = budget_mb(config.memory_budget_mb)
    if warning := budget_warning(config.memory_budget_mb):
        structlog.get_logger().warning(warning)
    if budget < TIGHT_MB:
        keep_little()
    if not config.patterns:
        # What is wrong with the call is said before anything is opened.
        tables = tuple(config.table(name).source for name in tables)
    raw, lake = Objects.open(config.raw), Objects.open(config.lake, create=True)
    store = _store(config)
    store.probe()
    metrics = Metrics(CollectorRegistry())
    watchdog = Watchdog(config.watchdog_seconds, _longest_pause_seconds(config))
    discovery = Discovery(config, raw, store, partial(watchdog.beat, SEARCH))
    chosen = discovery.named(tables) if tables else config.exact
    grows = bool(config.patterns) and not tables
    shared_mb = shared_files_mb(budget) if any(table.cdc_path for table in (*chosen, *config.patterns)) else 0
    shares = config.max_parallel_tables if grows else min(config.max_parallel_tables, len(chosen))
    admission = Admission(budget - shared_mb, shares)
    metrics.watch_memory(granted_bytes=admission.granted_bytes, waiting_tables=admission.waiting)
    settings = _settings(config, admission)
    keys, vectors = _key_cache(config, budget, metrics), Vectors()
    # Replicas share what their config names, not what each of them has found so far.
    group = [raw.qualified(f"{table.source}/") for table in (config.tables if grows else chosen)]
    replica = Replica(store, settings.owner, (), config.lease_seconds, group=group, is_gone=owner_is_gone)
    shared = Transactions(
        discovery.tables,
        memory_bytes=max(1, shared_mb * _MIB // 2),
        quarantines=not only_reads,
        listings=SharedListings(min(_LISTED_SECONDS, config.poll_interval_seconds / 2)),
        on_rows=metrics.untaken_rows,
    )

    def make(table: Table) -> TableLoader:
        log, beat = DeltaLog(lake, table.target), partial(watchdog.beat, table.source)
        shared.add(table.source)
        context = Context(table, raw, lake, log, settings, _now, stopping, keys, vectors, admission, beat, shared)
        return _loader(context, store, metrics, replica, on_batch)

    assembly = Assembly(
        config, raw, lake, store, metrics, watchdog, replica, budget, discovery, make, named=bool(tables)
    )
    assembly.start(chosen)
    return assembly


def _longest_pause_seconds(config: Config) -> float:
    """How long no table may have a turn without anything being wrong."""
    return max(config.poll_interval_seconds, config.retry.max_seconds, config.retry.blocked_max_seconds)


def _loader(
    context: Context,
    store: StateStore,
    metrics: Metrics,
    replica: Replica,
    on_batch: Callable[[str, Committed], None] | None,
) -> TableLoader:
    reporter = Reporter(
        context.table.source, metrics, _now, context.settings.file_bytes, on_batch, naming=context.naming
    )
    return TableLoader(context, store, reporter, lambda owner: owner_is_gone(owner) or replica.is_silent(owner))


def _key_cache(config: Config, budget: int, metrics: Metrics) -> KeyCache:
    """One for all tables, so that those that change most have most of it."""
    return KeyCache(
        key_cache_bytes(budget),
        Path(config.cache.path) if config.cache.path else None,
        config.cache.max_mb * _MIB,
        on_lookup=metrics.key_cache_lookup,
    )


def _store(config: Config) -> StateStore:
    state = config.state
    if isinstance(state, DynamoDBState):
        # Whoever keeps state on this machine has no use for the megabytes of the AWS client.
        from cdcloader.state.dynamodb import DynamoDBStore

        return DynamoDBStore(state.table)
    if isinstance(state, SQLiteState):
        return SQLiteStore(state.path)
    return MemoryStore()


def _settings(config: Config, admission: Admission) -> Settings:
    return Settings(
        owner=f"{_machine()}:{os.getpid()}:{secrets.token_hex(4)}",
        limits=Limits(
            max_files=config.batch.max_files,
            max_bytes=config.batch.max_bytes,
            quiet_seconds=config.full_load.quiet_seconds,
            overlap_seconds=config.full_load.overlap_seconds,
        ),
        lease_seconds=config.lease_seconds,
        look_back_seconds=config.look_back_seconds,
        upkeep_seconds=config.upkeep.seconds,
        pauses=Pauses(config.retry.max_seconds, config.retry.blocked_max_seconds),
        **asdict(admission.sizes(1)),
    )


def owner_is_gone(owner: str) -> bool:
    """Whether a lease owner was a process of this machine that no longer runs; then nobody needs to wait for it."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != _machine() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # In a container every process has the same number: ours is alive, so the owner with our number is not.
    return int(pid) == os.getpid()


@cache
def _machine() -> str:
    """Where the number of a process means something: this host, since its start, and the container that we are in.

    The name of the host alone does not do: containers may share it, and each has a process 1.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        place = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except (OSError, ValueError):
        return socket.gethostname()
    return f"{socket.gethostname()}/{hashlib.blake2b(place.encode(), digest_size=4).hexdigest()}"


def _now() -> datetime:
    return datetime.now(UTC)
