"""The lease of one table: it saves double work; correctness rests on conditional commits and writes alone.

No clocks of two machines are compared. Who holds a lease changes its expiry again and again, which is its heartbeat;
who wants it waits until nothing of it has changed for the lease's time by the waiter's own clock. The epoch rises
whenever the holder changes, and every write of the record is conditional on it: a holder that slept too long writes
nothing.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from cdcloader.errors import StateConflict
from cdcloader.state.record import Record
from cdcloader.state.store import StateStore

# A holder may miss one renewal before anybody can take its lease for abandoned.
_RENEWALS = 3
_RENEWAL_TRIES = 3


class Lease:
    """Takes and releases the lease of the record `path`; while it is held a thread renews it.

    `is_gone` tells of an owner whether it certainly no longer runs; `clock` counts this machine's seconds, `now` tells
    the time that people read as the expiry.
    """

    def __init__(
        self,
        store: StateStore,
        path: str,
        owner: str,
        seconds: float,
        *,
        is_gone: Callable[[str], bool],
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._path = path
        self._owner = owner
        self._seconds = seconds
        self._is_gone = is_gone
        self._now = now
        self._clock = clock
        self._epoch: int | None = None
        self._lost = False
        # Keeps a renewal from ending behind a release, which it would half undo.
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._seen: tuple[str | None, int, datetime | None] | None = None
        self._seen_since = 0.0

    @property
    def held(self) -> bool:
        """Whether we took the lease and have not let go of it; another loader may have taken it over since."""
        return self._epoch is not None

    def take(self) -> Record | None:
        """The record as it is now, held by us; None when another loader holds it or the record is gone."""
        # The clock is read first: were we stopped behind the read, what we read would seem to stand still.
        at = self._clock()
        record = self._store.get(self._path)
        if record is None:
            return None
        if self._is_ours(record) and not self._lost:
            return record
        self._let_go()
        if not self._is_free(record, at):
            return None
        leased = self._store.update(record, record.leased(owner=self._owner, expires_at=self._expiry()))
        self._hold(leased.lease_epoch)
        return leased

    def check(self) -> None:
        """StateConflict when the last renewal found that another loader has taken over; makes no request."""
        if self._lost:
            raise self._overtaken()

    def confirm(self) -> None:
        """StateConflict when the record says that the lease is not ours."""
        record = self._store.get(self._path)
        if record is None or not self._is_ours(record):
            raise self._overtaken()

    def may_report(self, record: Record, seen: Record | None) -> bool:
        """Whether trouble met since `seen` was read is the table's, by `record` as it is now.

        It is not where another loader has the table: what stopped us may be over, or of our own making.
        """
        if self._epoch is not None:
            return record.lease_epoch == self._epoch
        same = seen is None or record.lease_epoch == seen.lease_epoch
        return same and record.lease_owner in (None, self._owner)

    def renew(self) -> bool:
        """Change the expiry; False when the lease is not ours any more. Trouble with it is not trouble of the work."""
        with self._renewing:
            for _ in range(_RENEWAL_TRIES):
                try:
                    record = self._store.get(self._path)
                    if record is None or not self._is_ours(record):
                        self._lost = self._epoch is not None
                        return False
                    self._store.update(record, record.renewed(expires_at=self._expiry()))
                except StateConflict:
                    continue  # The work moved the record meanwhile, or another loader took it: reading tells.
                except Exception as error:  # noqa: BLE001 (whatever it is, the next renewal may succeed)
                    structlog.get_logger().debug("a lease could not be renewed", path=self._path, reason=str(error))
                break
        return True

    def release(self) -> None:
        """Let go, if the lease is still ours."""
        epoch = self._epoch
        self._let_go()
        if epoch is None:
            return
        with self._renewing:
            record = self._store.get(self._path)
            if record is not None and (record.lease_epoch, record.lease_owner) == (epoch, self._owner):
                try:
                    self._store.update(record, record.released())
                except StateConflict as error:
                    structlog.get_logger().debug("the lease was taken over", path=self._path, reason=str(error))

    def _is_ours(self, record: Record) -> bool:
        # The owner too: a record that was deleted and made anew counts its epochs from the beginning.
        return (record.lease_epoch, record.lease_owner) == (self._epoch, self._owner)

    def _is_free(self, record: Record, at: float) -> bool:
        owner = record.lease_owner
        if owner is None or owner == self._owner or self._is_gone(owner):
            return True
        seen = (owner, record.lease_epoch, record.lease_expires_at)
        if seen != self._seen:
            self._seen, self._seen_since = seen, at
        return at - self._seen_since >= self._seconds

    def _hold(self, epoch: int) -> None:
        self._epoch, self._lost, self._ended = epoch, False, threading.Event()
        thread = threading.Thread(
            target=_keep_renewing,
            args=(weakref.ref(self), self._ended, self._seconds / _RENEWALS),
            name="cdcloader-lease",
            daemon=True,
        )
        thread.start()

    def _let_go(self) -> None:
        self._ended.set()
        self._epoch, self._lost = None, False

    def _expiry(self) -> datetime:
        return self._now() + timedelta(seconds=self._seconds)

    def _overtaken(self) -> StateConflict:
        return StateConflict("another loader took over the table", where=self._path, hint="plan again")


def _keep_renewing(held: weakref.ref[Lease], ended: threading.Event, every_seconds: float) -> None:
    """Renew until the lease has ended, is lost, or nobody has it in hand any more."""
    while not ended.wait(every_seconds):
        lease = held()
        if lease is None or not lease.renew():
            return
        del lease
