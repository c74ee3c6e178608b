"""What our part of a commitInfo says, and how it brings a state record forward (pure).

The Delta log is the truth about a table. Each commit of ours carries in `commitInfo.cdcloader` all that its
state record needs, so that a record that is behind, or lost, is made whole by reading the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cdcloader.errors import TableError
from cdcloader.source.actions import Progress, Replay
from cdcloader.source.layouts import PLAIN, Naming
from cdcloader.source.names import RawFile
from cdcloader.state.record import NEVER, Phase, Record, first_file

_APP = re.compile(r"cdcloader:(\d+)")
LEDGER_FILES_MAX = 5_000
# The member of our part of a commitInfo that a commit of upkeep has instead of an account: it moved no watermark.
UPKEEP = "upkeep"


@dataclass(frozen=True, slots=True)
class Account:
    """What one commit did: where the table then stands, the raw files applied, and every row of them.

    rows_in = inserted + updated + deleted + noop + superseded + quarantined. A row that changed its key is two changes,
    and counts twice in `rows_in`: the old key is deleted, the new one inserted or updated. `skipped` are all the files
    that an operator had us skip so far (name -> ETag), so that a record that is rebuilt from the log knows them too.
    The first commit of a generation tells `after` which position of the generation before it was made.
    `version` is the folder below the source's that the table is made of.
    """

    generation: int
    position: int
    floor: int
    file: str
    files: Mapping[str, str]
    full_load_date: datetime
    full_load_newest: datetime | None
    full_load_files: int
    rows_in: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    noop: int = 0
    superseded: int = 0
    quarantined: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None
    full_load_layout: str = ""
    after: int | None = None

    @property
    def rows(self) -> dict[str, int]:
        """The rows by kind, as `rows_total` labels them."""
        return {
            "insert": self.inserted,
            "update": self.updated,
            "delete": self.deleted,
            "noop": self.noop,
            "superseded": self.superseded,
            "quarantined": self.quarantined,
        }

    def check(self, where: str) -> None:
        """TableError when a row is not accounted for; nothing is committed then."""
        if self.rows_in != sum(self.rows.values()):
            raise TableError(
                f"{self.rows_in} rows were read but {sum(self.rows.values())} accounted for: {self.rows}",
                where=where,
                hint="this is a bug in cdcloader; nothing was committed; please report it with this message",
            )


def application_id(generation: int) -> str:
    """The appId of the `txn` action."""
    return f"cdcloader:{generation}"


def to_info(account: Account) -> dict[str, Any]:
    """The JSON form of an account."""
    newest = account.full_load_newest
    return {
        "generation": account.generation,
        "position": account.position,
        "floor": account.floor,
        "file": account.file,
        "files": dict(account.files),
        "fullLoad": {
            "date": account.full_load_date.isoformat(),
            "newest": newest.isoformat() if newest else None,
            "files": account.full_load_files,
            **({"layout": account.full_load_layout} if account.full_load_layout else {}),
        },
        "rows": {"in": account.rows_in, **account.rows},
        **({"skipped": dict(account.skipped)} if account.skipped else {}),
        **({"after": account.after} if account.after is not None else {}),
        **({"version": account.version} if account.version else {}),
    }


def from_info(info: Mapping[str, Any]) -> Account:
    """An account from its JSON form."""
    rows, load = info["rows"], info["fullLoad"]
    return Account(
        generation=int(info["generation"]),
        position=int(info["position"]),
        floor=int(info["floor"]),
        file=str(info["file"]),
        files=dict(info["files"]),
        full_load_date=datetime.fromisoformat(load["date"]),
        full_load_newest=datetime.fromisoformat(load["newest"]) if load["newest"] else None,
        full_load_files=int(load["files"]),
        rows_in=rows["in"],
        inserted=rows["insert"],
        updated=rows["update"],
        deleted=rows["delete"],
        noop=rows["noop"],
        superseded=rows["superseded"],
        quarantined=rows["quarantined"],
        skipped=dict(info.get("skipped") or {}),
        after=info.get("after"),
        version=info.get("version"),
        full_load_layout=str(load.get("layout") or ""),
    )


def logged_progress(transactions: Mapping[str, int]) -> tuple[int, int] | None:
    """(generation, position) of our newest generation in a table's transactions; None when we never wrote it."""
    found = [(int(match[1]), version) for app, version in transactions.items() if (match := _APP.fullmatch(app))]
    return max(found) if found else None


def forward(
    record: Record,
    account: Account,
    *,
    version: int,
    look_back_seconds: float,
    now: datetime,
    naming: Naming = PLAIN,
) -> Record:
    """The record after a commit of ours that it does not know yet."""
    ledger, base = _known_before(record, account, naming)
    ledger |= account.files
    ledger, ledger_from = trim(ledger, max(account.floor, base), account.position, look_back_seconds, naming)
    return replace(
        record.advanced(
            position=account.position,
            file=account.file,
            ledger=ledger,
            ledger_from=ledger_from,
            version=version,
            inserted=account.inserted,
            updated=account.updated,
            deleted=account.deleted,
            quarantined=account.quarantined,
            now=now,
        ),
        generation=account.generation,
        floor=account.floor,
        last_full_load_date=account.full_load_date,
        recorded_full_load_date=account.full_load_date,
        full_load_newest=account.full_load_newest,
        full_load_files=account.full_load_files,
        full_load_layout=account.full_load_layout,
        skipped_files=_skipped_after(record, account, naming),
        source_version=account.version,
    )


def _known_before(record: Record, account: Account, naming: Naming) -> tuple[dict[str, str], int]:
    """The applied files that are known besides a commit's own, and the position from which all of them are."""
    if account.generation == record.generation:
        return dict(record.ledger), record.ledger_from
    if account.position == account.floor:
        return {}, account.floor
    first = min(positions(account.files, naming), default=account.position)
    if _begins_within(record, account, first):
        # A replay begins before the end of what is known: what lies before it was applied, or it would not.
        return {name: etag for name, etag in record.ledger.items() if (naming.position_of_name(name) or 0) < first}, (
            min(record.ledger_from, first)
        )
    # Of a generation that we join in the middle, the files before this commit are not known.
    return {}, first


def _begins_within(record: Record, account: Account, first: int) -> bool:
    """Whether a new generation of the same full load begins where the record has come to, or before that."""
    loads = (record.recorded_full_load_date, record.full_load_newest, record.full_load_files, record.floor)
    same_load = loads == (
        account.full_load_date, account.full_load_newest, account.full_load_files, account.floor,
    )  # fmt: skip
    # Of shared files the log names only those that hold rows of the table, so that its position may lie before `first`.
    reached = first if account.after is None else min(first, account.after)
    return same_load and account.generation > record.generation and reached <= record.recorded_position


def _skipped_after(record: Record, account: Account, naming: Naming) -> dict[str, str]:
    """The files that count as skipped after a commit: not those that it applied, because it began before the skip."""
    loads_whole = account.position == account.floor
    kept = {
        name: etag
        for name, etag in record.skipped_files.items()
        if account.files.get(name) != etag and not (loads_whole and naming.position_of_name(name) is None)
    }
    return {**kept, **account.skipped}


def replayed(record: Record, action: Replay, generation: int, naming: Naming) -> Record:
    """A new generation that applies again from a late file on; earlier files stay known as applied."""
    place = naming.named_position(action.from_position)
    begun = record.rewound(generation=generation, position=place, file=naming.file_at(record.path, place))
    return replace(begun, floor=action.floor, ledger=dict(action.ledger), ledger_from=action.ledger_from)


def without_rows(
    record: Record, files: Sequence[RawFile], look_back_seconds: float, now: datetime, naming: Naming
) -> Record:
    """The record after files without a byte, which make no table and no commit."""
    last = max(files, key=lambda file: file.sort_key)
    applied = {**record.ledger, **{file.name: file.etag for file in files}}
    ledger, ledger_from = trim(applied, record.ledger_from, last.position, look_back_seconds, naming)
    return record.advanced(
        position=last.position,
        file=applied_file(record, last),
        ledger=ledger,
        ledger_from=ledger_from,
        version=None,
        inserted=0,
        updated=0,
        deleted=0,
        quarantined=0,
        now=now,
    )


def without_ledger(record: Record, generation: int, position: int, *, version: int, naming: Naming) -> Record:
    """The record at a position that is known from the log's `txn` alone: files before it count as applied."""
    return replace(
        record.rewound(generation=generation, position=position, file=naming.file_at(record.path, position)),
        phase=Phase.STREAMING,
        floor=record.floor if record.generation == generation else 0,
        recorded_version=version,
    )


def trim(
    ledger: Mapping[str, str], ledger_from: int, position: int, look_back_seconds: float, naming: Naming
) -> tuple[dict[str, str], int]:
    """The ledger of the look-back before `position`, and the position from which it is complete."""
    start = max(ledger_from, naming.position_before(position, look_back_seconds))
    placed = sorted(zip(positions(ledger, naming), ledger, strict=True))
    kept = [(at, name) for at, name in placed if at >= start]
    if len(kept) > LEDGER_FILES_MAX:
        # A position is kept whole or not at all, so that no file of it looks late.
        start = kept[-LEDGER_FILES_MAX][0] + 1
        kept = [(at, name) for at, name in kept if at >= start]
    return {name: ledger[name] for _, name in kept}, start


def positions(files: Mapping[str, str], naming: Naming) -> list[int]:
    """The positions of applied files."""
    return [naming.position_of_name(name) or 0 for name in files]


def applied_file(record: Record, file: RawFile) -> str:
    """The LastIncrementalFile of a table whose last file this is."""
    folder = f"{record.source_version}/" if record.source_version else ""
    return f"{record.path}{folder}{file.name}"


def edited_position(record: Record, naming: Naming) -> int | None:
    """The position that an operator set by hand in LastIncrementalFile; None when it is as we left it."""
    position = naming.position_of_name(record.last_incremental_file)
    if record.last_incremental_file == first_file(record.path) and position != record.recorded_position:
        # A `layout` may have a file of that name: unless it is the one that was applied, nothing is.
        position = 0
    if position is None:
        raise TableError(
            f"LastIncrementalFile is {record.last_incremental_file!r}, which names no CDC file",
            where=record.path,
            hint="set it to a file such as YYYYMMDD-HHMMSSmmm.parquet; files after it are applied (0.parquet: all)",
        )
    return None if position == record.recorded_position else position


def progress_of(record: Record, naming: Naming = PLAIN) -> Progress:
    """Where the table stands, as planning needs it."""
    never = record.last_full_load_date <= NEVER and record.recorded_full_load_date <= NEVER
    return Progress(
        generation=record.generation,
        position=record.recorded_position,
        floor=record.floor,
        ledger=record.ledger,
        ledger_from=record.ledger_from,
        full_load_date=None if never else record.last_full_load_date,
        full_load_newest=record.full_load_newest,
        full_load_files=record.full_load_files,
        full_load_date_edited=record.last_full_load_date != record.recorded_full_load_date,
        full_load_layout=record.full_load_layout,
        naming=naming,
    )


def unclaimed(record: Record) -> Record:
    """A record that says more than we ever did (an AWS walkthrough wrote it): the table starts from the beginning."""
    return replace(
        record,
        last_full_load_date=NEVER,
        recorded_full_load_date=NEVER,
        last_incremental_file=first_file(record.path),
        recorded_position=0,
        full_load_newest=None,
        full_load_files=0,
        full_load_layout="",
        phase=Phase.NEW,
    )


def utc_second(time: datetime) -> datetime:
    """A time as LastFullLoadDate holds it."""
    return time.astimezone(UTC).replace(microsecond=0)
