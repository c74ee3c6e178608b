"""Where one table stands: the record, its phases, its transitions and its stored form (pure).

The stored form keeps the attribute names and formats of the AWS walkthrough's DynamoDB table (`PrimaryKey`,
`LastFullLoadDate`, ...: strings, with "null" for none), so that its users can point us at their table. Ours stand
beside them in CamelCase; an attribute that is absent or None has its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cdcloader.errors import TableError
from cdcloader.state.codecs import COUNT, DATE, FLAG, KEY, LEDGER, NAMES, TEXT, TIME, Attributes, Codec, read_text

NEVER = datetime(1900, 1, 1, tzinfo=UTC)
ERROR_CHARACTERS_MAX = 2000


class Phase(StrEnum):
    """A table's life: `new` -> `full_load` -> `streaming`; an operator pauses it, trouble blocks or retries it."""

    NEW = "new"
    FULL_LOAD = "full_load"
    STREAMING = "streaming"
    PAUSED = "paused"
    BLOCKED = "blocked"
    RETRYING = "retrying"


@dataclass(frozen=True, slots=True)
class Record:
    """The state of one table; times are aware and UTC, positions are those of DESIGN's vocabulary."""

    path: str
    bucket: str = ""
    prefix: str = ""
    folder: str = ""
    primary_key: tuple[str, ...] | None = None
    partition_key: tuple[str, ...] = ()
    last_full_load_date: datetime = NEVER
    """Whole seconds; `NEVER` when the table was never loaded."""
    last_incremental_file: str = ""
    """Bucket-qualified, as the walkthrough writes it; an operator may edit it."""
    active: bool = True
    out_path: str = ""
    phase: Phase = Phase.NEW
    generation: int = 0
    floor: int = 0
    """Files at or below this position do not belong to the generation."""
    recorded_position: int = 0
    recorded_full_load_date: datetime = NEVER
    """Like `recorded_position`, what we last wrote: where the value beside it differs, an operator edited it."""
    full_load_newest: datetime | None = None
    """LastModified, in microseconds, of the newest LOAD file of the loaded set."""
    full_load_files: int = 0
    full_load_layout: str = ""
    """How the LOAD files of the loaded set shared out the table: "", "segments" or "folders"."""
    recorded_version: int | None = None
    ledger: Mapping[str, str] = field(default_factory=dict)
    """Name -> ETag of the CDC files applied in the look-back."""
    ledger_from: int = 0
    """The ledger is complete from this position on."""
    lease_owner: str | None = None
    lease_epoch: int = 0
    lease_expires_at: datetime | None = None
    last_error: str | None = None
    last_error_file: str | None = None
    last_error_hint: str | None = None
    consecutive_failures: int = 0
    blocked_etag: str | None = None
    """The ETag of `last_error_file` where that is a raw file: when it is replaced, the table is tried again at once."""
    retry_at: datetime | None = None
    """When the table will be tried again, for people: the loader that waits counts by its own clock."""
    skipped_files: Mapping[str, str] = field(default_factory=dict)
    """Name -> ETag of the files that an operator had us skip; another ETag is another file, which is applied."""
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_quarantined: int = 0
    tidied_version: int | None = None
    """The version at which upkeep found nothing more to do, and the `write_mode` that it was done for."""
    tidied_mode: str | None = None
    source_version: str | None = None
    """The folder below the source's that the table is made of; None: the source's own."""
    swept_at: datetime | None = None
    swept_to: str | None = None
    """Where a sweep that has not come to its end goes on."""
    updated_at: datetime | None = None

    def advanced(  # noqa: PLR0913
        self,
        *,
        position: int,
        file: str,
        ledger: Mapping[str, str],
        ledger_from: int,
        version: int | None,
        inserted: int,
        updated: int,
        deleted: int,
        quarantined: int,
        now: datetime,
    ) -> Record:
        """After a batch: watermark and ledger forward, the batch's rows added to the totals."""
        return replace(
            self._healthy(now),
            recorded_position=position,
            last_incremental_file=file,
            ledger=dict(ledger),
            ledger_from=ledger_from,
            recorded_version=version,
            rows_inserted=self.rows_inserted + inserted,
            rows_updated=self.rows_updated + updated,
            rows_deleted=self.rows_deleted + deleted,
            rows_quarantined=self.rows_quarantined + quarantined,
        )

    def rewound(self, generation: int, position: int, file: str) -> Record:
        """A new generation that begins after `position`; what was applied before it is forgotten."""
        return replace(
            self,
            generation=generation,
            floor=position,
            recorded_position=position,
            last_incremental_file=file,
            ledger={},
            ledger_from=position,
        )

    def failed(self, phase: Phase, error: str, file: str | None, hint: str | None, now: datetime) -> Record:
        """After trouble: `phase` is blocked or retrying; the texts are cut so that the record stays small."""
        return replace(
            self,
            phase=phase,
            last_error=error[:ERROR_CHARACTERS_MAX],
            last_error_file=file,
            last_error_hint=None if hint is None else hint[:ERROR_CHARACTERS_MAX],
            consecutive_failures=self.consecutive_failures + 1,
            updated_at=now,
        )

    def leased(self, owner: str, expires_at: datetime) -> Record:
        """Held by `owner`, under a new epoch that shuts out the holder before."""
        return replace(self, lease_owner=owner, lease_epoch=self.lease_epoch + 1, lease_expires_at=expires_at)

    def renewed(self, expires_at: datetime) -> Record:
        """Held for longer by the same owner, under the same epoch."""
        return replace(self, lease_expires_at=expires_at)

    def released(self) -> Record:
        """Held by nobody; the epoch stays, because epochs only grow."""
        return replace(self, lease_owner=None, lease_expires_at=None)

    def healed(self, now: datetime) -> Record:
        """After trouble that went away by itself: a table that has nothing left to do has no trouble either."""
        loaded = self.recorded_version is not None
        return replace(self._healthy(now.astimezone(UTC)), phase=Phase.STREAMING if loaded else Phase.NEW)

    def _healthy(self, now: datetime) -> Record:
        return replace(
            self,
            phase=Phase.STREAMING,
            last_error=None,
            last_error_file=None,
            last_error_hint=None,
            consecutive_failures=0,
            blocked_etag=None,
            retry_at=None,
            updated_at=now,
        )


def new_record(
    path: str,
    bucket: str,
    prefix: str,
    folder: str,
    primary_key: tuple[str, ...] | None,
    partition_key: tuple[str, ...],
    out_path: str,
) -> Record:
    """The record of a table that was never loaded, as the walkthrough would begin it (but active)."""
    watermark = first_file(path)
    return Record(path, bucket, prefix, folder, primary_key, partition_key, NEVER, watermark, out_path=out_path)


def first_file(path: str) -> str:
    """The LastIncrementalFile of a table without CDC files: "0" sorts before every date."""
    return path + "0.parquet"


def to_attributes(record: Record) -> Attributes:
    """Every attribute of the stored form, by name; None where there is nothing to store."""
    return {name: codec.write(getattr(record, key)) for name, (key, codec) in _ATTRIBUTES.items()}


def from_attributes(attributes: Mapping[str, object]) -> Record:
    """The record of a stored item, also of one that the walkthrough alone has written; others' attributes are left out.

    TableError, naming the path and the attribute, when a value cannot be what it should be.
    """
    path = attributes.get("path")
    if not isinstance(path, str) or not path:
        raise TableError(f"a state record has no path, but {path!r}", where="path", hint="delete the record")
    values: dict[str, Any] = {"path": path, "last_incremental_file": first_file(path)}
    for name, (key, codec) in _ATTRIBUTES.items():
        stored = attributes.get(name)
        if stored is None:
            continue
        try:
            values[key] = codec.read(stored)
        except (ValueError, OverflowError, RecursionError) as error:
            raise TableError(
                f"the state record's {name} is damaged: {error}",
                where=path,
                hint=f"set {name} to a good value, or delete the record: what it says is read back from the target "
                "(but a pause, and the row totals)",
            ) from error
    return Record(**values)


def default_attributes(path: str) -> Attributes:
    """What the attributes of the record `path` count as while they are absent."""
    return to_attributes(Record(path=path, last_incremental_file=first_file(path)))


def _read_phase(stored: object) -> Phase:
    text = read_text(stored)
    if text not in {phase.value for phase in Phase}:
        raise ValueError(f"{text!r} should be one of {', '.join(Phase)}")
    return Phase(text)


_PHASE = Codec(str, _read_phase)

_ATTRIBUTES: dict[str, tuple[str, Codec]] = {
    "path": ("path", TEXT),
    "bucket": ("bucket", TEXT),
    "prefix": ("prefix", TEXT),
    "folder": ("folder", TEXT),
    "PrimaryKey": ("primary_key", KEY),
    "PartitionKey": ("partition_key", NAMES),
    "LastFullLoadDate": ("last_full_load_date", DATE),
    "LastIncrementalFile": ("last_incremental_file", TEXT),
    "ActiveFlag": ("active", FLAG),
    "out_path": ("out_path", TEXT),
    "Phase": ("phase", _PHASE),
    "Generation": ("generation", COUNT),
    "Floor": ("floor", COUNT),
    "RecordedPosition": ("recorded_position", COUNT),
    "RecordedFullLoadDate": ("recorded_full_load_date", DATE),
    "FullLoadNewest": ("full_load_newest", TIME),
    "FullLoadFiles": ("full_load_files", COUNT),
    "FullLoadLayout": ("full_load_layout", TEXT),
    "RecordedVersion": ("recorded_version", COUNT),
    "Ledger": ("ledger", LEDGER),
    "LedgerFrom": ("ledger_from", COUNT),
    "LeaseOwner": ("lease_owner", TEXT),
    "LeaseEpoch": ("lease_epoch", COUNT),
    "LeaseExpiresAt": ("lease_expires_at", TIME),
    "LastError": ("last_error", TEXT),
    "LastErrorFile": ("last_error_file", TEXT),
    "LastErrorHint": ("last_error_hint", TEXT),
    "ConsecutiveFailures": ("consecutive_failures", COUNT),
    "BlockedEtag": ("blocked_etag", TEXT),
    "RetryAt": ("retry_at", TIME),
    "SkippedFiles": ("skipped_files", LEDGER),
    "RowsInserted": ("rows_inserted", COUNT),
    "RowsUpdated": ("rows_updated", COUNT),
    "RowsDeleted": ("rows_deleted", COUNT),
    "RowsQuarantined": ("rows_quarantined", COUNT),
    "TidiedVersion": ("tidied_version", COUNT),
    "TidiedMode": ("tidied_mode", TEXT),
    "SourceVersion": ("source_version", TEXT),
    "SweptAt": ("swept_at", TIME),
    "SweptTo": ("swept_to", TEXT),
    "UpdatedAt": ("updated_at", TIME),
}
ATTRIBUTES = tuple(_ATTRIBUTES)
COUNT_ATTRIBUTES = tuple(name for name, (_, codec) in _ATTRIBUTES.items() if codec is COUNT)
