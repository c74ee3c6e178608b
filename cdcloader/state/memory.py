"""State records in memory: for tests, dry runs and embedding; they end with the process."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from cdcloader.state.record import Record, from_attributes, to_attributes
from cdcloader.state.replicas import REPLICAS_PATH, Replicas, replicas_from_attributes, replicas_to_attributes
from cdcloader.state.store import (
    changed_attributes,
    changed_meanwhile,
    exists_already,
    guard_attributes,
    replicas_changed,
)


class MemoryStore:
    """A `StateStore` in a dict. It holds the stored form, so that it treats bad values as the others do."""

    def __init__(self) -> None:
        self._items: dict[str, dict[str, object]] = {}
        self._lock = threading.Lock()

    def put_item(self, path: str, attributes: Mapping[str, object]) -> None:
        """Write raw attributes past every check, as an operator's edit does; others stay as they are."""
        with self._lock:
            self._items.setdefault(path, {"path": path}).update(attributes)

    def get(self, path: str) -> Record | None:
        """The record as it is now, None when there is none."""
        with self._lock:
            item = dict(self._items.get(path, {}))
        return from_attributes(item) if item else None

    def all(self) -> list[Record]:
        """Every record, ordered by path; TableError when one of them is damaged."""
        with self._lock:
            items = [dict(self._items[path]) for path in sorted(self._items) if path != REPLICAS_PATH]
        return [from_attributes(item) for item in items]

    def create(self, record: Record) -> None:
        """Store a record that does not exist yet; StateConflict when it does."""
        item: dict[str, object] = dict(to_attributes(record))
        with self._lock:
            if record.path in self._items:
                raise exists_already(record.path)
            self._items[record.path] = item

    def update(self, old: Record, new: Record) -> Record:
        """Write what differs between `old` and `new`, provided that the guards still are as in `old`."""
        changes, guards = changed_attributes(old, new), guard_attributes(old)
        with self._lock:
            item = self._items.get(old.path)
            if item is None:
                raise changed_meanwhile(old.path)
            for name, (value, absent_counts) in guards.items():
                stored = item.get(name)
                if not (stored == value or (stored is None and absent_counts)):
                    raise changed_meanwhile(old.path)
            item.update(changes)
            written = dict(item)
        return from_attributes(written)

    def replicas(self) -> Replicas:
        """The item in which the replicas beat."""
        with self._lock:
            item = dict(self._items.get(REPLICAS_PATH, {}))
        return replicas_from_attributes(item) if item else Replicas()

    def put_replicas(self, replicas: Replicas) -> None:
        """Replace it, if the revision before stands there."""
        with self._lock:
            stands = self._items.get(REPLICAS_PATH, {}).get("Revision", 0)
            if stands != replicas.revision - 1:
                raise replicas_changed(replicas.revision)
            self._items[REPLICAS_PATH] = {"path": REPLICAS_PATH, **replicas_to_attributes(replicas)}

    def probe(self) -> None:
        """Memory is always there."""

    def close(self) -> None:
        """There is nothing to let go of."""
