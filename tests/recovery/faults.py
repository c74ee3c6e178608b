"""Every effect of the loader by name, and doors that let one of them fail in a chosen way.

All that the loader changes goes through few doors: objects of the lake, delta-rs' checkpoint, the state record. The
doors here stand around them and know each effect by its name in `POINTS`; docs/guarantees.md says what follows.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from cdcloader.errors import TransientError
from cdcloader.objects import Objects
from cdcloader.state.record import Phase, Record
from cdcloader.state.store import StateStore, changed_attributes

POINTS = (
    "data file put",
    "vector file put",
    "quarantine file put",
    "commit created",
    "checkpoint written",
    "data files deleted",
    "log entries deleted",
    "record created",
    "record claimed",
    "lease taken",
    "lease renewed",
    "lease released",
    "watermark recorded",
    "rewind recorded",
    "failure recorded",
    "recovery recorded",
    "upkeep recorded",
    "order recorded",
)


class Way(StrEnum):
    """How an effect goes wrong."""

    KILLED_BEFORE = "not done, and the process dies"
    FAILED = "not done, and an error is reported"
    HALF = "half done, and the process dies"
    KILLED_AFTER = "done, and the process dies"
    LOST = "done, and an error is reported"
    TWICE = "done twice, and the second answer counts"


# What has no halves: an object appears whole, and a conditional write is one.
HALVES = ("checkpoint written", "data files deleted", "log entries deleted")


class Killed(BaseException):
    """The process dies here: no handler of the loader's may run."""


@dataclass
class Faults:
    """Lets effects through and counts them; the `number`-th of the name `point` (of all: "") goes wrong in a way."""

    point: str = ""
    number: int = 0
    way: Way | None = None
    met: Counter[str] = field(default_factory=Counter)
    fired: bool = False
    dead: bool = False

    def effect(
        self,
        point: str,
        do: Callable[[], Any],
        *,
        half: Callable[[], Any] = lambda: None,
        lost: Callable[[], Exception] = lambda: TransientError("the connection was reset"),
    ) -> Any:
        """Do it, or not, or twice; `lost` makes the error of a request that failed, or seems to have."""
        assert point in POINTS, point
        if self.dead:
            raise Killed  # Cleaning up on the way out is nothing that a dead process does.
        self.met[point] += 1
        way = self.way_of(point)
        if way is None:
            return do()
        self.fired = True
        if way is Way.HALF:
            half()
        elif way not in (Way.KILLED_BEFORE, Way.FAILED):
            answer = do()
        if way in (Way.FAILED, Way.LOST):
            raise lost()
        if way is Way.TWICE:
            return do() or answer
        self.dead = True
        raise Killed

    def way_of(self, point: str) -> Way | None:
        """How this effect goes wrong, if it does."""
        count = self.met[point] if self.point == point else 0 if self.point else self.met.total()
        return self.way if count == self.number and not self.fired else None


class Storm(Faults):
    """Any effect may go wrong, again and again."""

    def __init__(self, seed: int, share: float = 0.15) -> None:
        super().__init__()
        self._random, self._share = random.Random(seed), share

    def way_of(self, point: str) -> Way | None:
        ways = [way for way in Way if way is not Way.HALF or point in HALVES]
        return self._random.choice(ways) if self._random.random() < self._share else None


class FaultyLake:
    """The objects of a lake, with a door at each effect; `meanwhile` is what other threads do beside a write."""

    def __init__(self, objects: Objects, faults: Faults) -> None:
        self._objects, self._faults = objects, faults
        self.meanwhile: Callable[[], Any] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def write(self, key: str, data: bytes | memoryview) -> None:
        self.meanwhile()
        kind = "quarantine" if key.startswith("_quarantine/") else "vector" if key.endswith(".bin") else "data"
        self._faults.effect(f"{kind} file put", lambda: self._objects.write(key, data))

    def create(self, key: str, data: bytes) -> None:
        assert "/_delta_log/" in key, key
        self._faults.effect("commit created", lambda: self._objects.create(key, data))

    def delete(self, keys: Any) -> None:
        keys = list(keys)
        if not keys:
            return
        point = "log entries deleted" if "/_delta_log/" in keys[0] else "data files deleted"
        some = keys[: len(keys) // 2]
        self._faults.effect(point, lambda: self._objects.delete(keys), half=lambda: self._objects.delete(some))


class FaultyStore:
    """A state store with a door at each effect."""

    def __init__(self, store: StateStore, faults: Faults) -> None:
        self._store, self._faults = store, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, record: Record) -> None:
        self._faults.effect("record created", lambda: self._store.create(record))

    def update(self, old: Record, new: Record) -> Record:
        if threading.current_thread() is not threading.main_thread():
            # The thread that renews the lease goes by the real clock; what it does is played by `meanwhile`.
            if self._faults.dead:
                raise TransientError("the process is dead")
            return self._store.update(old, new)
        if not changed_attributes(old, new):
            return self._store.update(old, new)
        return self._faults.effect(name_of(old, new), lambda: self._store.update(old, new))


def name_of(old: Record, new: Record) -> str:
    """What a change of the state record is about; "" for one that nobody has named yet."""
    trouble = (Phase.BLOCKED, Phase.RETRYING)
    answers = {
        "order recorded": (new.active, new.skipped_files) != (old.active, old.skipped_files),
        "lease taken": new.lease_epoch != old.lease_epoch,
        "lease released": old.lease_owner is not None and new.lease_owner is None,
        "failure recorded": new.consecutive_failures > old.consecutive_failures,
        "rewind recorded": new.generation > old.generation and new.recorded_version == old.recorded_version,
        "upkeep recorded": (new.tidied_version, new.swept_at, new.swept_to)
        != (old.tidied_version, old.swept_at, old.swept_to),
        "watermark recorded": (new.recorded_version, new.recorded_position)
        != (old.recorded_version, old.recorded_position),
        "lease renewed": new.lease_expires_at != old.lease_expires_at,
        "recovery recorded": old.phase in trouble and new.phase not in trouble,
        "record claimed": old.updated_at is None,
    }
    return next((name for name, answer in answers.items() if answer), "")


@contextmanager
def checkpoints_through(faults: Faults) -> Iterator[None]:
    """delta-rs writes checkpoints by itself; here it does so through a door."""
    create = DeltaTable.create_checkpoint

    def create_checkpoint(table: DeltaTable) -> None:
        faults.effect(
            "checkpoint written",
            lambda: create(table),
            half=lambda: without_hint(table, create),
            lost=lambda: DeltaError("the connection was reset"),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeltaTable, "create_checkpoint", create_checkpoint)
        yield


def without_hint(table: DeltaTable, create: Callable[[DeltaTable], None]) -> None:
    """A checkpoint that stands, and that `_last_checkpoint` does not name yet."""
    hint = Path(table.table_uri.removeprefix("file://")) / "_delta_log" / "_last_checkpoint"
    before = hint.read_bytes() if hint.exists() else None
    create(table)
    hint.unlink()
    if before is not None:
        hint.write_bytes(before)
