"""Where one table stands: the record, its phases, its transitions and its stored form (pure).

The stored form keeps the attribute names and formats of the AWS walkthrough's DynamoDB table (`PrimaryKey`,
`LastFullLoadDate`, ...: strings, with "null" for none), so that its users can point us at their table. Ours stand
beside them in CamelCase; an attribute that is absent or None has its default.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cdcloader.errors import TableError

Attribute = str | int | None
Attributes = dict[str, Attribute]

NEVER = datetime(1900, 1, 1, tzinfo=UTC)
ERROR_CHARACTERS_MAX = 2000
LEDGER_BYTES_MAX = 64 * 1024 * 1024


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
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_quarantined: int = 0
    tidied_version: int | None = None
    """The version at which upkeep found nothing more to do, and the `write_mode` that it was done for."""
    tidied_mode: str | None = None
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
        except ValueError as error:
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


def whole_seconds(time: datetime) -> datetime:
    """An aware time in UTC, cut to seconds as the walkthrough stores it."""
    return time.astimezone(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class _Codec:
    """How one kind of value is stored; `read` raises ValueError for what `write` cannot have written."""

    write: Callable[[Any], Attribute]
    read: Callable[[object], object]


def _read_text(stored: object) -> str:
    if not isinstance(stored, str):
        raise ValueError(f"{stored!r} should be text")  # noqa: TRY004
    return stored


def _read_count(stored: object) -> int:
    if not isinstance(stored, int) or isinstance(stored, bool) or stored < 0:
        raise ValueError(f"{stored!r} should be a whole number, 0 or more")
    return stored


def _read_flag(stored: object) -> bool:
    text = _read_text(stored).strip().lower()
    if text not in ("true", "false"):
        raise ValueError(f"{stored!r} should be 'true' or 'false'")
    return text == "true"


def _read_phase(stored: object) -> Phase:
    text = _read_text(stored)
    if text not in {phase.value for phase in Phase}:
        raise ValueError(f"{text!r} should be one of {', '.join(Phase)}")
    return Phase(text)


def _write_names(names: tuple[str, ...] | None) -> str:
    if not names:
        return "null"
    # A comma list, as the walkthrough has it, cannot say a name with a comma in it; JSON can.
    plain = all(name and "," not in name and name == name.strip() for name in names)
    text = ",".join(names)
    return text if plain and text != "null" and not text.startswith("[") else json.dumps(names)


def _read_names(stored: object) -> tuple[str, ...]:
    text = _read_text(stored).strip()
    if text in ("null", ""):
        return ()
    names = json.loads(text) if text.startswith("[") else [name.strip() for name in text.split(",")]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{text!r} should be column names separated by commas")
    return tuple(names)


def _parsed(stored: object) -> tuple[str, datetime | None]:
    text = _read_text(stored)
    try:
        return text, datetime.fromisoformat(text)
    except ValueError:
        return text, None


def _write_date(time: datetime) -> str:
    return whole_seconds(time).replace(tzinfo=None).isoformat(sep=" ")


def _read_date(stored: object) -> datetime:
    text, time = _parsed(stored)
    # Conditional writes compare the text, so that another spelling of the same second would never match again.
    if time is None or time.tzinfo is not None:
        raise ValueError(f"{text!r} should be a UTC time as '2026-01-31 23:59:59'")
    spelled = _write_date(time.replace(tzinfo=UTC))
    if spelled != text:
        raise ValueError(f"{text!r} should be written {spelled!r}")
    return time.replace(tzinfo=UTC)


def _write_time(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="microseconds")


def _read_time(stored: object) -> datetime:
    text, time = _parsed(stored)
    if time is None or time.tzinfo is None:
        raise ValueError(f"{text!r} should be a time as '2026-01-31T23:59:59.000000+00:00'")
    return time.astimezone(UTC)


def _write_ledger(ledger: Mapping[str, str]) -> str:
    text = json.dumps(dict(ledger), sort_keys=True, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _read_ledger(stored: object) -> dict[str, str]:
    text = _read_text(stored)
    try:
        inflate = zlib.decompressobj()
        unpacked = inflate.decompress(base64.b64decode(text, validate=True), LEDGER_BYTES_MAX)
        ledger = json.loads(unpacked) if inflate.eof else None
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        raise ValueError(f"it cannot be unpacked ({error})") from error
    if isinstance(ledger, dict) and all(isinstance(etag, str) for etag in ledger.values()):
        return ledger
    raise ValueError("it does not hold file names with their ETags")


def _unchanged(value: Attribute) -> Attribute:
    return value


_TEXT = _Codec(_unchanged, _read_text)
_COUNT = _Codec(_unchanged, _read_count)
_FLAG = _Codec(lambda flag: "true" if flag else "false", _read_flag)
_PHASE = _Codec(str, _read_phase)
_KEY = _Codec(_write_names, lambda stored: _read_names(stored) or None)
_NAMES = _Codec(_write_names, _read_names)
_DATE = _Codec(_write_date, _read_date)
_TIME = _Codec(_write_time, _read_time)
_LEDGER = _Codec(_write_ledger, _read_ledger)

_ATTRIBUTES: dict[str, tuple[str, _Codec]] = {
    "path": ("path", _TEXT),
    "bucket": ("bucket", _TEXT),
    "prefix": ("prefix", _TEXT),
    "folder": ("folder", _TEXT),
    "PrimaryKey": ("primary_key", _KEY),
    "PartitionKey": ("partition_key", _NAMES),
    "LastFullLoadDate": ("last_full_load_date", _DATE),
    "LastIncrementalFile": ("last_incremental_file", _TEXT),
    "ActiveFlag": ("active", _FLAG),
    "out_path": ("out_path", _TEXT),
    "Phase": ("phase", _PHASE),
    "Generation": ("generation", _COUNT),
    "Floor": ("floor", _COUNT),
    "RecordedPosition": ("recorded_position", _COUNT),
    "RecordedFullLoadDate": ("recorded_full_load_date", _DATE),
    "FullLoadNewest": ("full_load_newest", _TIME),
    "FullLoadFiles": ("full_load_files", _COUNT),
    "RecordedVersion": ("recorded_version", _COUNT),
    "Ledger": ("ledger", _LEDGER),
    "LedgerFrom": ("ledger_from", _COUNT),
    "LeaseOwner": ("lease_owner", _TEXT),
    "LeaseEpoch": ("lease_epoch", _COUNT),
    "LeaseExpiresAt": ("lease_expires_at", _TIME),
    "LastError": ("last_error", _TEXT),
    "LastErrorFile": ("last_error_file", _TEXT),
    "LastErrorHint": ("last_error_hint", _TEXT),
    "ConsecutiveFailures": ("consecutive_failures", _COUNT),
    "RowsInserted": ("rows_inserted", _COUNT),
    "RowsUpdated": ("rows_updated", _COUNT),
    "RowsDeleted": ("rows_deleted", _COUNT),
    "RowsQuarantined": ("rows_quarantined", _COUNT),
    "TidiedVersion": ("tidied_version", _COUNT),
    "TidiedMode": ("tidied_mode", _TEXT),
    "SweptAt": ("swept_at", _TIME),
    "SweptTo": ("swept_to", _TEXT),
    "UpdatedAt": ("updated_at", _TIME),
}
ATTRIBUTES = tuple(_ATTRIBUTES)
COUNT_ATTRIBUTES = tuple(name for name, (_, codec) in _ATTRIBUTES.items() if codec is _COUNT)
