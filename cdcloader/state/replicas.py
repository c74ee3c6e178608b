"""The item in which the replicas beat, its stored form, and which replica a table belongs to (pure).

A replica is a daemon; those of one group have the same tables and share them. The item holds a counter for each, which
only its own replica raises: whoever sees it rise knows, by no clock but its own, that the other is alive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cdcloader.errors import TableError
from cdcloader.state.codecs import Attributes

REPLICAS_PATH = "cdcloader:replicas"
"""The item's key. No record has it: the path of a record ends with a slash."""

_HINT = "delete it: the daemons write it anew"


@dataclass(frozen=True, slots=True)
class Beat:
    """How often a replica has beaten, and the group that it belongs to."""

    count: int
    group: str


@dataclass(frozen=True, slots=True)
class Replicas:
    """The item: its revision (0 while there is none) and the beat of each replica, by name."""

    revision: int = 0
    beats: Mapping[str, Beat] = field(default_factory=dict)

    def after(self, beats: Mapping[str, Beat]) -> Replicas:
        """The next revision."""
        return Replicas(self.revision + 1, dict(beats))


def replicas_to_attributes(replicas: Replicas) -> Attributes:
    """The stored form, without the key."""
    beats = {name: {"beat": beat.count, "group": beat.group} for name, beat in replicas.beats.items()}
    return {"Revision": replicas.revision, "Beats": json.dumps(beats, sort_keys=True, separators=(",", ":"))}


def replicas_from_attributes(attributes: Mapping[str, object]) -> Replicas:
    """The replicas of a stored item; TableError, naming the attribute, when it cannot be what we wrote."""
    revision = attributes.get("Revision")
    if not isinstance(revision, int) or isinstance(revision, bool) or revision < 1:
        raise _damaged("Revision", f"{revision!r} should be a whole number, 1 or more")
    return Replicas(revision, _beats(attributes.get("Beats")))


def owner_of(table: str, replicas: Collection[str]) -> str | None:
    """The replica that a table belongs to, None when there is none.

    Each replica draws a number for the table, and the highest has it (rendezvous hashing): all who see the same
    replicas agree, and one that comes or goes moves only the tables that it gets or had.
    """
    return max(replicas, key=lambda replica: (_draw(table, replica), replica), default=None)


def group_of(tables: Iterable[str]) -> str:
    """The group of the replicas that have these tables."""
    text = "\0".join(sorted(tables))
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _draw(table: str, replica: str) -> bytes:
    text = f"{replica}\0{table}"
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()


def _beats(stored: object) -> dict[str, Beat]:
    try:
        found = json.loads(stored) if isinstance(stored, str) else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _damaged("Beats", "it does not hold replicas with their beats")
    return {name: _beat(name, value) for name, value in found.items()}


def _beat(name: str, value: object) -> Beat:
    count, group = (value.get("beat"), value.get("group")) if isinstance(value, dict) else (None, None)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0 or not isinstance(group, str):
        raise _damaged("Beats", f"the replica {name!r} has no beat")
    return Beat(count, group)


def _damaged(attribute: str, reason: str) -> TableError:
    return TableError(f"the replicas' {attribute} is damaged: {reason}", where=REPLICAS_PATH, hint=_HINT)
