"""Deletes what no version of a table within its retention names: replaced files, vectors, orphans, old log entries.

Instead of delta-rs's `vacuum`: the full one deletes live vector files, and the lite one misses the files whose removal
stands in a part of the log that was cleaned away. This one goes through what the table's folder holds and keeps what
the log names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from cdcloader.lake import deletion_vectors
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.snapshot import ABSOLUTE, Snapshot, check_supported
from cdcloader.objects import ObjectInfo, Objects

_DAY_MS = 86_400_000
RETENTION_MS = 7 * _DAY_MS
LOG_RETENTION_MS = 30 * _DAY_MS
# No writer takes longer from a file to the commit that names it; a shorter retention of the table does not reach below.
_IN_FLIGHT_MS = 2 * _DAY_MS
_DELETES = 1_000
_FILE_RETENTION = "delta.deletedFileRetentionDuration"

_VECTOR = re.compile(r"deletion_vector_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.bin")
# Names that no object of ours has, and that `Objects` does not take.
_REFUSED = re.compile(r"[\\\x00-\x1f\x7f]")
_UNITS_MS = {"week": 7 * _DAY_MS, "day": _DAY_MS, "hour": 3_600_000, "minute": 60_000, "second": 1_000}
_INTERVAL = re.compile(r"(?:interval\s+)?((?:\d+\s+(?:week|day|hour|minute|second)s?\s*)+)", re.IGNORECASE)
_PLAIN_INTERVAL = re.compile(r"interval \d+ (?:week|day|hour|minute|second)s?")
_INTERVAL_PART = re.compile(r"(\d+)\s+([a-z]+?)s?(?:\s|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Swept:
    """What was deleted: data files, vector files, the bytes of both, entries of the log.

    `next_key` is where the next sweep goes on (its `start_after`); "" when this one came to the end.
    """

    files: int = 0
    bytes: int = 0
    vectors: int = 0
    log_files: int = 0
    next_key: str = ""


def sweep(
    objects: Objects,
    table: str,
    log: DeltaLog,
    now_ms: int,
    deadline: Callable[[], bool],
    retention_ms: int = RETENTION_MS,
    *,
    start_after: str = "",
) -> Swept:
    """Delete what is not needed any more, until `deadline()` says that time is up; no commit is written.

    Every version that was the newest within the retention can still be read afterwards: 7 days for data and 30 days for
    the log, or as `delta.deletedFileRetentionDuration`, `delta.logRetentionDuration` and
    `delta.enableExpiredLogCleanup` of the table say; a duration that is not understood keeps everything. TableError,
    and nothing deleted, when the table has features that cdcloader does not know, because they may name files in ways
    that it does not know either.

    A kill at any point leaves a correct table: each object that is deleted is one that no such version names, whatever
    else has been deleted or not.
    """
    snapshot = log.snapshot()
    if snapshot is None:
        return Swept()
    check_supported(snapshot, where=log.where)
    # The log first: it is small, and the files may take more than one sweep.
    log_files = _clean_log(objects, log, snapshot, now_ms, deadline)
    retention = _duration(snapshot, _FILE_RETENTION, retention_ms)
    if retention is None or (retention > RETENTION_MS and not _is_in_checkpoints(snapshot)):
        return Swept(log_files=log_files)
    named = _named(log, snapshot, now_ms - retention)
    rule = _Rule(table, named, now_ms - max(retention, _IN_FLIGHT_MS), snapshot.partition_columns)
    return replace(_sweep_files(objects, rule, deadline, start_after), log_files=log_files)


def _clean_log(objects: Objects, log: DeltaLog, snapshot: Snapshot, now_ms: int, deadline: Callable[[], bool]) -> int:
    """Delete the old entries of the log, oldest first, so that the versions that are left always follow each other."""
    retention = _duration(snapshot, "delta.logRetentionDuration", LOG_RETENTION_MS)
    kept = snapshot.configuration.get("delta.enableExpiredLogCleanup", "true").lower() == "false"
    expired = [] if kept or retention is None else log.expired(now_ms - retention)
    for start in range(0, len(expired), _DELETES):
        objects.delete(expired[start : start + _DELETES])
        if deadline():
            return min(len(expired), start + _DELETES)
    return len(expired)


@dataclass(slots=True)
class _Named:
    """What versions within the retention name: keys relative to the table, and bare names of absolute paths."""

    keys: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def add(self, path: str, vector: deletion_vectors.Descriptor | None) -> None:
        """A file of the log, and its vector file if it has one."""
        self._add(path)
        if vector and vector.storage_type != "i":
            self._add(deletion_vectors.file_name(vector))

    def _add(self, path: str) -> None:
        # The log spells paths URL-encoded; a writer that forgets to must not lose its file for it.
        for spelled in {path, unquote(path)}:
            if ABSOLUTE.match(spelled):
                # It may lie in this folder under another name of it (s3a://, a link): no file of that name is deleted.
                self.names.add(spelled.rpartition("/")[2])
            else:
                self.keys.add(spelled)

    def holds(self, key: str) -> bool:
        return key in self.keys or key.rpartition("/")[2] in self.names


def _named(log: DeltaLog, snapshot: Snapshot, since_ms: int) -> _Named:
    """Live files, and those removed since then, which older versions still name; with the vectors of both.

    A commit that is made meanwhile names new files, which are too young to be deleted, and files that are live here.
    """
    named = _Named()
    for file in snapshot.files.values():
        named.add(file.path, file.vector)
    for body in log.removes():
        removed_ms, vector = body.get("deletionTimestamp"), body.get("deletionVector")
        # A removal without a time may have been a moment ago.
        if removed_ms is None or int(removed_ms) >= since_ms:
            named.add(str(body["path"]), deletion_vectors.from_action(vector) if vector else None)
    return named


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which objects of the table's folder may go."""

    table: str
    named: _Named
    before_ms: int
    partition_columns: tuple[str, ...]

    def allows(self, item: ObjectInfo) -> bool:
        """An old data or vector file, at a place where a table has such files, that nobody names."""
        key = item.key.removeprefix(f"{self.table}/")
        *folders, name = key.split("/")
        known = name.endswith(".parquet") or _VECTOR.fullmatch(name)
        return bool(
            known
            and not name.startswith(("_", "."))
            and not _REFUSED.search(key)
            and all(self._is_partition(folder) for folder in folders)
            and item.last_modified.timestamp() * 1000 < self.before_ms
            and not self.named.holds(key)
        )

    def _is_partition(self, folder: str) -> bool:
        """Other folders are somebody else's: the log, `_change_data`, or another table inside this one's folder."""
        column, equals, _ = folder.partition("=")
        return bool(equals and column) and (not column.startswith(("_", ".")) or column in self.partition_columns)


def _sweep_files(objects: Objects, rule: _Rule, deadline: Callable[[], bool], start_after: str) -> Swept:
    """Page by page; at least one page, so that every sweep gets on."""
    files, size, vectors = 0, 0, 0
    for page in objects.pages(rule.table, start_after):
        going = [item for item in page if rule.allows(item)]
        objects.delete(item.key for item in going)
        gone = sum(item.key.endswith(".bin") for item in going)
        files, vectors, size = files + len(going) - gone, vectors + gone, size + sum(item.size for item in going)
        if deadline() and page:
            return Swept(files, size, vectors, next_key=page[-1].key)
    return Swept(files, size, vectors)


def _is_in_checkpoints(snapshot: Snapshot) -> bool:
    """Whether delta-rs understands the retention; else its checkpoints tell the removals of the last 7 days only."""
    return bool(_PLAIN_INTERVAL.fullmatch(snapshot.configuration.get(_FILE_RETENTION, "")))


def _duration(snapshot: Snapshot, name: str, default_ms: int) -> int | None:
    """A table property such as "interval 7 days" in milliseconds; None when it cannot be understood."""
    text = snapshot.configuration.get(name)
    if text is None:
        return default_ms
    match = _INTERVAL.fullmatch(text.strip())
    if match is None:
        return None
    return sum(int(count) * _UNITS_MS[unit.lower()] for count, unit in _INTERVAL_PART.findall(match[1]))
