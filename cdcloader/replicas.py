"""The daemons that share a config: which of them are alive, and which tables are this one's.

Each raises its own counter in one item of the state store, and watches the others': who has not raised it for
`lease_seconds` of the watcher's own clock is dead to the watcher. Correctness rests on none of this: it only spreads
the work, and where replicas disagree for a while, leases and conditional writes decide.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import structlog

from cdcloader.errors import CdcloaderError, StateConflict, as_ours
from cdcloader.state.replicas import Beat, Replicas, group_of, owner_of
from cdcloader.state.store import StateStore

_BEATS = 4
_FORGOTTEN_AFTER = 10
_TRIES = 8
_JOIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """A beat, and since when it stands so."""

    beat: Beat
    since: float


class Replica:
    """This daemon among those that have the same `tables` (paths of state records); `name` is its lease owner too.

    Where tables are found by patterns, `group` is what those that share them have in common, and `tables` grows.
    `is_gone` tells of a name whether it certainly no longer runs; `clock` counts this machine's seconds.
    """

    def __init__(
        self,
        store: StateStore,
        name: str,
        tables: Collection[str],
        seconds: float,
        *,
        group: Collection[str] | None = None,
        is_gone: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._store = store
        self._tables = tuple(tables)
        self._group = group_of(tables if group is None else group)
        self._seconds = seconds
        self._is_gone = is_gone
        self._clock = clock
        self._count = 0
        self._seen: dict[str, _Seen] = {}
        self._looked = 0.0
        self._alive = frozenset({name})
        self._silent: frozenset[str] = frozenset()
        self._troubled = False
        self._ending = threading.Event()
        self._joined = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> frozenset[str]:
        """The replicas that share our tables, we among them, as of our last look."""
        return self._alive

    def add(self, tables: Iterable[str]) -> None:
        """Further tables that were found; the group stays what it is."""
        self._tables = (*self._tables, *tables)

    def owner(self, table: str) -> str:
        """The replica that a table belongs to."""
        return owner_of(table, self._alive) or self.name

    def owns(self, table: str) -> bool:
        """Whether a table is ours."""
        return self.owner(table) == self.name

    def is_silent(self, name: str) -> bool:
        """Whether a replica, of whatever group, was seen to beat no more for as long as a lease lasts."""
        return name in self._silent

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin to beat, in a thread; `on_change` is called by it when replicas have come or gone.

        Waits a little for the first look, so that a daemon that joins others does not begin with all tables.
        """
        self._thread = threading.Thread(target=self._beat_on, args=(on_change,), name="cdcloader-replica", daemon=True)
        self._thread.start()
        self._joined.wait(_JOIN_SECONDS)

    def leave(self) -> None:
        """Tell the others, in the thread, that our tables are theirs now; returns at once."""
        self._ending.set()

    def wait(self, seconds: float) -> None:
        """Wait until the others are told, but not for long: they find out by themselves."""
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))

    def beat(self) -> bool:
        """Look at the others and raise our counter; True when replicas of our group have come or gone."""
        before = self._alive
        self._rewrite(self._raised)
        return self._alive != before

    def _beat_on(self, on_change: Callable[[], None]) -> None:
        while True:
            changed = self._beaten()
            self._joined.set()
            if changed:
                ours = sum(map(self.owns, self._tables))
                structlog.get_logger().info("replicas have come or gone", count=len(self._alive), tables=ours)
                on_change()
            # Not all at the same moment, so that few of the conditional writes meet.
            if self._ending.wait(self._seconds / _BEATS * random.uniform(0.8, 1)):  # noqa: S311
                break
        try:
            self._rewrite(self._left)
        except CdcloaderError as error:
            structlog.get_logger().warning("the other replicas could not be told of our end", error=str(error))

    def _beaten(self) -> bool:
        """`beat`, with trouble told once: a daemon that cannot beat goes on with the tables that it has."""
        try:
            changed = self.beat()
        except Exception as trouble:  # noqa: BLE001 (without this thread the others would take us for dead for ever)
            error = as_ours(trouble, where="the replicas")
            if not self._troubled:
                structlog.get_logger().warning(
                    "the replicas cannot be seen: going on with the tables in hand",
                    error=error.what,
                    where=error.where,
                    hint=error.hint,
                    tables=sum(map(self.owns, self._tables)),
                )
            self._troubled = True
            return False
        if self._troubled:
            structlog.get_logger().info("the replicas are seen again", count=len(self._alive))
        self._troubled = False
        return changed

    def _rewrite(self, next_beats: Callable[[Replicas, float], dict[str, Beat]]) -> None:
        """Change the item, again and again while others are quicker."""
        for tried in range(_TRIES):
            # The clock is read first: were we stopped behind the read, the others would seem to be silent.
            at = self._clock()
            item = self._store.replicas()
            self._observe(item, at)
            try:
                self._store.put_replicas(item.after(next_beats(item, at)))
            except StateConflict:
                self._ending.wait(random.uniform(0, 0.02 * 2**tried))  # noqa: S311
            else:
                return

    def _observe(self, item: Replicas, at: float) -> None:
        """What a look tells: only what stood still from an earlier look to this one is silent."""
        if at - self._looked > 2 * self._seconds:
            # We slept, or the store was away: then the others may not have been able to beat either.
            self._seen = {}
        self._looked = at
        self._seen = {
            name: seen if (seen := self._seen.get(name)) and seen.beat == beat else _Seen(beat, at)
            for name, beat in item.beats.items()
        }
        silent = {name for name, seen in self._seen.items() if at - seen.since >= self._seconds or self._is_gone(name)}
        self._silent = frozenset(silent - {self.name})
        ours = {name for name, beat in item.beats.items() if beat.group == self._group}
        self._alive = frozenset((ours - silent) | {self.name})

    def _raised(self, item: Replicas, at: float) -> dict[str, Beat]:
        self._count += 1
        return {**self._remembered(item, at), self.name: Beat(self._count, self._group)}

    def _left(self, item: Replicas, at: float) -> dict[str, Beat]:
        return {name: beat for name, beat in self._remembered(item, at).items() if name != self.name}

    def _remembered(self, item: Replicas, at: float) -> dict[str, Beat]:
        """The others but those that are silent for long, or certainly gone."""
        long = _FORGOTTEN_AFTER * self._seconds
        return {
            name: beat
            for name, beat in item.beats.items()
            if name == self.name or not (self._is_gone(name) or at - self._seen[name].since >= long)
        }
