"""The protocol of a state store, and the rules of a conditional update that every adapter keeps."""

from __future__ import annotations

from typing import Protocol

from cdcloader.errors import StateConflict
from cdcloader.state.codecs import Attributes
from cdcloader.state.record import Record, default_attributes, to_attributes
from cdcloader.state.replicas import REPLICAS_PATH, Replicas

GUARDS = ("LeaseEpoch", "Generation", "LastIncrementalFile", "LastFullLoadDate", "RecordedPosition")
"""An update holds only while these still are in the store what they were when the record was read."""


class StateStore(Protocol):
    """Where the records are kept; every method may be called from any thread.

    A store that cannot be reached for now raises TransientError, one that an operator must see to ConfigError, a
    damaged record TableError. After a TransientError or a StateConflict the write may have happened: read again.
    """

    def get(self, path: str) -> Record | None:
        """The record as it is now, None when there is none."""
        ...

    def all(self) -> list[Record]:
        """Every record, ordered by path; TableError when one of them is damaged."""
        ...

    def create(self, record: Record) -> None:
        """Store a record that does not exist yet; StateConflict when it does."""
        ...

    def update(self, old: Record, new: Record) -> Record:
        """Write what differs between `old` and `new`, provided that the `GUARDS` still are as in `old`.

        StateConflict when they are not, or when the record is gone. What does not differ is left alone, so that an
        operator's edit of it stays. The record as it then stands in the store is returned.
        """
        ...

    def replicas(self) -> Replicas:
        """The item in which the replicas beat, as it is now; TableError when it is damaged. It is no record."""
        ...

    def put_replicas(self, replicas: Replicas) -> None:
        """Replace that item, provided that what stands there is of the revision before; StateConflict else."""
        ...

    def probe(self) -> None:
        """Make sure, cheaply, that the store can be used (what is missing is created); ConfigError with a hint."""
        ...

    def close(self) -> None:
        """Let go of connections; the store is not used afterwards."""
        ...


def changed_attributes(old: Record, new: Record) -> Attributes:
    """The attributes that differ, with their new values; None removes an attribute."""
    if old.path != new.path:
        raise ValueError(f"an update cannot turn {old.path!r} into {new.path!r}")
    before, after = to_attributes(old), to_attributes(new)
    return {name: value for name, value in after.items() if before[name] != value}


def guard_attributes(old: Record) -> dict[str, tuple[str | int, bool]]:
    """Guard name -> (the value that it must have, whether an absent attribute counts as that value)."""
    values, defaults = to_attributes(old), default_attributes(old.path)
    guards = {}
    for name in GUARDS:
        value = values[name]
        if value is None:
            raise ValueError(f"{name} cannot guard an update, it is None")
        guards[name] = (value, value == defaults[name])
    return guards


def exists_already(path: str) -> StateConflict:
    """What `create` raises."""
    return StateConflict("the state record exists already", where=path, hint="read it again")


def changed_meanwhile(path: str) -> StateConflict:
    """What `update` raises."""
    return StateConflict("the state record was changed by someone else, or is gone", where=path, hint="read it again")


def replicas_changed(revision: int) -> StateConflict:
    """What `put_replicas` raises."""
    return StateConflict(f"another replica wrote revision {revision}", where=REPLICAS_PATH, hint="read it again")
