"""The lease of one table: it saves double work; correctness rests on conditional commits and writes alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from cdcloader.errors import StateConflict, TransientError
from cdcloader.state.record import Record
from cdcloader.state.store import StateStore


class Lease:
    """Takes, renews and releases; `is_gone` tells of an owner whether it certainly no longer runs."""

    def __init__(self, store: StateStore, owner: str, seconds: float, is_gone: Callable[[str], bool]) -> None:
        self._store = store
        self._owner = owner
        self._seconds = seconds
        self._is_gone = is_gone
        self._epoch: int | None = None

    @property
    def held(self) -> bool:
        """Whether we took the lease and have not let go of it; another loader may have taken it over since."""
        return self._epoch is not None

    def take(self, record: Record | None, now: datetime) -> Record | None:
        """The record as it is now, held by us; None when another loader holds it or the record is gone."""
        if record is None:
            return None
        expires_at = now + timedelta(seconds=self._seconds)
        if self._epoch == record.lease_epoch:
            if not self._is_due(record, now):
                return record
            return self._store.update(record, record.renewed(expires_at=expires_at))
        owner = record.lease_owner
        busy = owner is not None and owner != self._owner and not self._is_gone(owner)
        if busy and record.lease_expires_at is not None and record.lease_expires_at > now:
            return None
        leased = self._store.update(record, record.leased(owner=self._owner, expires_at=expires_at))
        self._epoch = leased.lease_epoch
        return leased

    def renew(self, path: str, now: datetime) -> None:
        """Keep the lease during long work, if it is due; trouble with it is not trouble of the work."""
        try:
            record = self._store.get(path)
            if record is not None and record.lease_epoch == self._epoch and self._is_due(record, now):
                self._store.update(record, record.renewed(expires_at=now + timedelta(seconds=self._seconds)))
        except (StateConflict, TransientError) as error:
            structlog.get_logger().debug("the lease could not be renewed", path=path, reason=str(error))

    def release(self, record: Record | None) -> None:
        """Let go, if the lease is still ours."""
        if record is not None and record.lease_epoch == self._epoch:
            try:
                self._store.update(record, record.released())
            except StateConflict as error:
                structlog.get_logger().debug("the lease was taken over", path=record.path, reason=str(error))
        self._epoch = None

    def _is_due(self, record: Record, now: datetime) -> bool:
        left = (record.lease_expires_at - now).total_seconds() if record.lease_expires_at else 0.0
        return left < self._seconds / 2
