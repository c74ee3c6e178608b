"""A world: sources that DMS writes, loaders that are disturbed at it, and the proof at its end."""

from __future__ import annotations

import heapq
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.services.proxy import (
    ERROR,
    FAILED,
    LATENCY,
    LOST,
    RESET,
    SLOW_BODY,
    SLOW_DOWN,
    TRUNCATED,
    TWICE,
    FaultProxy,
    Rule,
)
from tests.services.servers import Servers
from tests.soak.cloud import Cloud
from tests.soak.fleet import Command, Events, Keeper
from tests.soak.logs import Told
from tests.soak.places import Folder, Place
from tests.soak.proof import differences
from tests.soak.source import APART_SECONDS, WHAT_HAPPENS, Arrival, Source
from tests.soak.tables import TABLES, Table

_FAULTS = (LATENCY, RESET, LOST, ERROR, SLOW_DOWN, FAILED, TRUNCATED, SLOW_BODY, TWICE)
_FAULT_PROBABILITY = 0.004
_SETTLE_PASSES = 8
_PASS_SECONDS = 240.0


@dataclass(frozen=True)
class Kind:
    """What a world is like: where it is, how many loaders share it, and whether faults come between."""

    name: str
    cloud: bool
    loaders: int = 1
    faults: bool = False
    files_per_second: float = 4.0
    lease_seconds: float = 2.0


KINDS = (
    Kind("local", cloud=False),
    Kind("cloud", cloud=True, faults=True, files_per_second=3.0),
    Kind("local-races", cloud=False, loaders=2, files_per_second=3.0),
    Kind("cloud-races", cloud=True, loaders=2, files_per_second=3.0),
)


@dataclass
class Outcome:
    """What a world has been through; `differences` and `surprises` are empty when all is well."""

    kind: Kind
    place: str
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    bad_inputs: Counter[str] = field(default_factory=Counter)
    tally: Counter[str] = field(default_factory=Counter)
    longest_takeover_seconds: float | None = None
    differences: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)


class World:
    """One raw prefix, one lake, one state store, one config."""

    def __init__(
        self, home: Path, kind: Kind, seed: int, tables: Sequence[Table] = TABLES, servers: Servers | None = None
    ) -> None:
        self._kind, self._seed = kind, seed
        self._rng = random.Random(f"{seed} {kind.name}")
        home.mkdir(parents=True)
        self._proxy: FaultProxy | None = None
        self._place: Place = self._cloud(home / "cloud", servers) if kind.cloud else Folder(home / "folder")
        self.sources = {table.source: Source(table, f"{seed} {kind.name} {table.name}") for table in tables}
        self._free_at = dict.fromkeys(self.sources, 0.0)
        self._loaded_at: dict[str, float] = {}
        self._arrivals: list[tuple[float, int, Arrival]] = []
        self._numbers = itertools.count()
        config = home / "cdcloader.yaml"
        config.write_text(json.dumps(self._config(), indent=1))
        self._command = Command(home, self._place, config)
        self._outcome = Outcome(kind, self._place.kind)

    def close(self) -> None:
        """End the servers."""
        if self._proxy is not None:
            self._proxy.stop()
        self._place.close()

    def live(self, seconds: float, stopping: threading.Event) -> Outcome:
        """Write and disturb for so long, come to rest, and compare."""
        keepers = [self._keeper(number) for number in range(self._kind.loaders)]
        try:
            self._write(seconds, keepers, stopping)
        finally:
            for keeper in keepers:
                keeper.stop()
        for keeper in keepers:
            keeper.check()
        self._outcome.tally["seconds"] = round(seconds)
        if self._proxy is not None:
            self._proxy.rules()
            self._outcome.faults = self._proxy.injected
        self._settle()
        self._gather([keeper.events for keeper in keepers])
        self._outcome.differences += self.differences()
        self._verify()
        return self._outcome

    def differences(self) -> list[str]:
        """Where the tables differ from what the sources' histories say."""
        return [line for source in self.sources.values() for line in differences(self._place, source)]

    def folder_of(self, target: str) -> Path:
        """Where the target is on this machine, or a copy of it."""
        return self._place.local(target)

    def _config(self) -> dict[str, Any]:
        return {
            **self._place.settings(),
            "poll_interval_seconds": 1.0 if self._kind.cloud else 0.4,
            "max_parallel_tables": 2,
            "memory_budget_mb": 512,
            "lease_seconds": self._kind.lease_seconds,
            "http": {"host": "127.0.0.1", "port": 0},
            # A set whose last files come later is loaded without them first, and again with them.
            "full_load": {"quiet_seconds": 1.5, "overlap_seconds": 0},
            "batch": {"max_files": 20},
            "upkeep": {"seconds": 2},
            "tables": [source.table.config for source in self.sources.values()],
        }

    def _cloud(self, home: Path, servers: Servers | None) -> Cloud:
        """Faults come between; a real server tells nobody of commits, so there the proxy does."""
        cloud = Cloud(home, self._kind.name, servers)
        if self._kind.faults or servers:
            self._proxy = FaultProxy(*cloud.s3, seed=self._seed, dynamodb=cloud.dynamodb).start()
            cloud.reached_by(self._proxy.url)
            if servers:
                self._proxy.on_request = cloud.touch
        if self._proxy is not None and self._kind.faults:
            rules = (Rule(fault, probability=_FAULT_PROBABILITY, seconds=0.2) for fault in _FAULTS)
            self._proxy.rules(*rules)
        return cloud

    def _keeper(self, number: int) -> Keeper:
        rng = random.Random(f"{self._seed} {self._kind.name} keeper {number}")
        races = self._kind.loaders > 1
        keeper = Keeper(self._command, self._place, rng, lease_seconds=self._kind.lease_seconds, races=races)
        keeper.start()
        return keeper

    # DMS

    def _write(self, seconds: float, keepers: Sequence[Keeper], stopping: threading.Event) -> None:
        """Make files at a steady rate, and let them appear at their times; in the end all have appeared."""
        for source in self.sources.values():
            if not self._free_at[source.table.source]:
                # A source without any file would block its table, however short the world's life.
                self._expect(source.load() or source.changes(), source, loading=bool(source.table.rows))
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stopping.is_set() and all(keeper.is_alive() for keeper in keepers):
            self._put_due()
            if self._rng.random() < self._kind.files_per_second * 0.05:
                self._do_something()
            time.sleep(0.05)
        while self._arrivals:
            self._put_due()
            time.sleep(0.05)

    def _do_something(self) -> None:
        source = self._rng.choice(list(self.sources.values()))
        if self._free_at[source.table.source] > time.monotonic():
            return
        (doing,) = self._rng.choices(list(WHAT_HAPPENS), list(WHAT_HAPPENS.values()))
        loading = doing is Source.load
        if loading and not self._has_loaded(source):
            return
        self._expect(doing(source), source, loading=loading)

    def _has_loaded(self, source: Source) -> bool:
        """Whether the last set of LOAD files is in the target, whole.

        A reload before that would mean other rows: its set holds the leftovers of the one before, and after a first
        load every change counts, those before it too.
        """
        name = source.table.source
        if any(arrival.source == name and arrival.loads for _, _, arrival in self._arrivals):
            return False
        loads = [info["cdcloader"]["fullLoad"] for _, info in self._place.infos(name, last=6) if _is_batch(info)]
        return any(
            load["files"] >= source.load_files
            and load["newest"]
            and datetime.fromisoformat(load["newest"]).timestamp() >= int(self._loaded_at[name])
            for load in loads
        )

    def _expect(self, arrivals: Sequence[Arrival], source: Source, *, loading: bool) -> None:
        now = time.monotonic()
        for arrival in arrivals:
            heapq.heappush(self._arrivals, (now + arrival.seconds, next(self._numbers), arrival))
        if loading and arrivals:
            # The first load's later files may come among changes; a reload is over before the next change.
            first = self._free_at[source.table.source] == 0.0
            last = APART_SECONDS if first else max(arrival.seconds for arrival in arrivals)
            self._free_at[source.table.source] = now + last + APART_SECONDS
        self._put_due()

    def _put_due(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= time.monotonic():
            _, _, arrival = heapq.heappop(self._arrivals)
            key = f"{arrival.source}/{arrival.name}"
            if arrival.content is None:
                self._place.delete(key)
            else:
                if arrival.loads:
                    self._loaded_at[arrival.source] = time.time()
                self._place.put(key, arrival.content)

    # The end

    def _settle(self) -> None:
        """Single passes until one finds nothing to do; that must come soon."""
        for _ in range(_SETTLE_PASSES):
            begun = time.monotonic()
            code, summary, log = self._command.call("run", "--once", seconds=_PASS_SECONDS)
            self._outcome.tally["seconds to come to rest"] += round(time.monotonic() - begun)
            tables = summary.get("tables", [])
            if code == 0 and all(table["outcome"] == "idle" and not table["backlog_files"] for table in tables):
                return
            if code is None:
                break
        troubles = [f"{table['source']}: {table['outcome']}: {table['error']}" for table in tables if table["error"]]
        self._outcome.differences.append(f"it does not come to rest: exit code {code}: {troubles or log[-1500:]}")

    def _verify(self) -> None:
        """The loader's own `verify`, which knows nothing of the oracle, must see what the oracle saw."""
        _, told, log = self._command.call("verify", *self.sources, seconds=_PASS_SECONDS)
        results = {table["source"]: table for table in told.get("tables", ())}
        for source in self.sources:
            found = results.get(source, {"result": log[-600:]})
            if found["result"] in ("equal", "not verified"):
                words = "verified by `verify`" if found["result"] == "equal" else "that `verify` cannot verify"
                self._outcome.tally[f"tables {words}"] += 1
            else:
                self._outcome.differences.append(f"{source}: verify: {found}")

    def _gather(self, events: Sequence[Events]) -> None:
        outcome = self._outcome
        for one in events:
            outcome.kills += one.kills
            outcome.tally += one.tally
            outcome.surprises += one.ends
        for source in self.sources.values():
            outcome.bad_inputs += source.bad_inputs
            outcome.tally += source.tally
        told = Told({source.table.source: source.bad_files for source in self.sources.values()})
        told.read(self._command.logs)
        outcome.tally += told.tally
        outcome.surprises += told.surprises
        if self._kind.loaders > 1:
            outcome.longest_takeover_seconds, outcome.tally["takeovers"] = told.takeovers(
                [absence for one in events for absence in one.absences]
            )
        for table in self.sources:
            commits = [info.get("cdcloader", {}) for _, info in self._place.infos(table)]
            outcome.tally["commits of upkeep"] += sum("upkeep" in commit for commit in commits)
            outcome.tally["commits"] += sum("rows" in commit for commit in commits)
            outcome.tally["rows applied"] += sum(commit["rows"]["in"] for commit in commits if "rows" in commit)


def _is_batch(info: dict[str, Any]) -> bool:
    """Whether a commit moved the watermark, and tells where the table stands."""
    return "fullLoad" in info.get("cdcloader", {})
