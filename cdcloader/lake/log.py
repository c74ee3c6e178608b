"""The Delta log of one table: read any version, commit the next one atomically.

Source of the format: the Delta protocol, "Delta Log Entries", "Checkpoints" and "Last Checkpoint File". A
version is created only if it is absent, so that two writers can never both own it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cdcloader.errors import CommitConflict, TableError, TransientError
from cdcloader.lake import checkpoints
from cdcloader.lake.snapshot import Action, Snapshot, apply
from cdcloader.objects import ObjectExists, ObjectMissing, Objects

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet")
_CHECKPOINT_V2 = re.compile(r"(\d{20})\.checkpoint\.[0-9a-f-]{36}\.(?:json|parquet)")
_COMPACTED = re.compile(r"\d{20}\.(\d{20})\.compacted\.json")
_CHECKSUM = re.compile(r"(\d{20})\.crc")
INFO = "cdcloader"
# Commits are small objects, and reading them one after the other would be mostly waiting.
_READS = 16
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Listing:
    """What stands in `_delta_log`: commits by version, the parts of each complete checkpoint, V2 checkpoints."""

    commits: dict[int, str]
    checkpoints: dict[int, list[str]]
    v2_checkpoints: list[int]


class DeltaLog:
    """The log under `<table>/_delta_log/`; keeps the newest snapshot that it has read."""

    def __init__(self, objects: Objects, table: str) -> None:
        self._objects = objects
        self._table = table
        self._folder = f"{table}/_delta_log/"
        self._latest: Snapshot | None = None

    @property
    def where(self) -> str:
        """The table's location, for messages."""
        return self._objects.path_of(self._table)

    def snapshot(self, version: int | None = None) -> Snapshot | None:
        """The newest version, or the given one; None when there is no table.

        Only the commits since the last call are read. TableError when the log has a gap or lacks the version.
        """
        if version is not None:
            return self._read(self._list(""), None, version)
        try:
            return self._newest()
        except ObjectMissing:
            # The log was cleaned between our listing and our reading; what is gone is in a checkpoint now.
            self._latest = None
            return self._newest()

    def _newest(self) -> Snapshot | None:
        if self._latest is None:
            listing = self._list_from_checkpoint()
            if not listing.commits and not listing.checkpoints:
                if listing.v2_checkpoints:
                    raise checkpoints.v2_checkpoint(max(listing.v2_checkpoints), self.where)
                return None
            self._latest = self._read(listing, None, None)
            return self._latest
        listing = self._list(f"{self._latest.version:020d}")
        if self._latest.version not in listing.commits and self._latest.version not in listing.checkpoints:
            self._latest = None  # The table was deleted, and perhaps made anew, behind our back.
            return self._newest()
        self._latest = self._read(listing, self._latest, None)
        return self._latest

    def removes(self) -> Iterator[Action]:
        """The remove actions that the newest checkpoint and the commits since hold, newest commit last.

        A checkpoint keeps those of the last 7 days, or of the table's `delta.deletedFileRetentionDuration`.
        """
        listing = self._list_from_checkpoint()
        checkpoint = max(listing.checkpoints, default=-1)
        if checkpoint >= 0:
            yield from checkpoints.removes(checkpoint, self._parts(listing.checkpoints[checkpoint]), where=self.where)
        for version in sorted(listing.commits):
            if version > checkpoint:
                yield from (action["remove"] for action in self._actions(version) if action.get("remove"))

    def commit(self, base: Snapshot | None, actions: Sequence[Action], info: Action) -> Snapshot:
        """Write version base+1 with `actions` and a commitInfo; nobody sees half of it.

        CommitConflict when another writer took the version. When the answer was lost, the version is read back
        and decided by our commit id; TransientError when it cannot be read either (plan again from the log).
        """
        version = base.version + 1 if base else 0
        commit_id = str(uuid.uuid4())
        info = {**info, INFO: {**info.get(INFO, {}), "commitId": commit_id}}
        lines = [{"commitInfo": info}, *actions]
        body = "\n".join(map(_ENCODER.encode, lines))
        try:
            self._objects.create(self._commit_key(version), body.encode())
        except ObjectExists as error:
            # A retry inside the client may meet the commit that its first try wrote.
            if self._commit_id(version) != commit_id:
                raise CommitConflict(f"version {version} was taken by another writer", where=self.where) from error
        except TransientError:
            if not self._was_committed(version, commit_id):
                raise
        self._latest = apply(base, version, actions, where=self.where)
        return self._latest

    def expired(self, before_ms: int) -> list[str]:
        """The keys of the log, oldest first, that no version needs which was the newest at `before_ms` or later.

        They all stand before a complete checkpoint, read once more here, of a version that is that old itself.
        """
        old, last = self._old_entries(before_ms)
        parts: dict[tuple[int, int], list[str]] = {}
        for version, key in old:
            match = _CHECKPOINT.fullmatch(key.removeprefix(self._folder))
            if match and version <= last:
                parts.setdefault((version, int(match[3] or 1)), []).append(key)
        complete = {version: keys for (version, count), keys in parts.items() if len(keys) == count}
        for checkpoint in sorted(complete, reverse=True):
            expired = [key for version, key in old if version < checkpoint]
            if expired and self._is_readable(checkpoint, complete[checkpoint]):
                return expired
        return []

    def _old_entries(self, before_ms: int) -> tuple[list[tuple[int, str]], int]:
        """(version, key) of the entries up to the first commit that is not older than `before_ms`; the last older one.

        Of a compacted commit the last of its versions counts. Names that are not known are left out.
        """
        old: list[tuple[int, str]] = []
        last = -1
        for page in self._objects.pages(self._folder):
            for item in page:
                name = item.key.removeprefix(self._folder)
                if match := _COMMIT.fullmatch(name):
                    if item.last_modified.timestamp() * 1000 >= before_ms:
                        return old, last
                    last = int(match[1])
                known = match or _CHECKPOINT.fullmatch(name) or _COMPACTED.fullmatch(name) or _CHECKSUM.fullmatch(name)
                if known:
                    old.append((int(known[1]), item.key))
        return old, last

    def _is_readable(self, version: int, keys: Iterable[str]) -> bool:
        try:
            checkpoints.read(version, self._parts(keys), where=self.where)
        except TableError:
            return False
        return True

    def infos(self, first: int, last: int) -> list[tuple[int, Action]]:
        """(version, our part of the commitInfo) of versions first..last that we wrote and that still exist."""
        found = []
        for version in range(first, last + 1):
            try:
                info = self._info(version)
            except ObjectMissing:
                continue
            if INFO in info:
                found.append((version, info[INFO]))
        return found

    def forget(self) -> None:
        """Drop what was read, so that the next snapshot reads the log anew."""
        self._latest = None

    def _commit_key(self, version: int) -> str:
        return f"{self._folder}{version:020d}.json"

    def _actions(self, version: int) -> list[Action]:
        text = self._objects.read(self._commit_key(version)).decode()
        try:
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        except ValueError as error:
            raise TableError(
                f"version {version} of the Delta log is not JSON", where=self.where, hint="restore that file"
            ) from error

    def _info(self, version: int) -> Action:
        bodies = [action["commitInfo"] for action in self._actions(version) if "commitInfo" in action]
        return bodies[0] if bodies else {}

    def _commit_id(self, version: int) -> str | None:
        commit_id = self._info(version).get(INFO, {}).get("commitId")
        return None if commit_id is None else str(commit_id)

    def _was_committed(self, version: int, commit_id: str) -> bool:
        try:
            found = self._commit_id(version)
        except ObjectMissing:
            return False
        if found != commit_id:
            raise CommitConflict(f"version {version} was taken by another writer", where=self.where)
        return True

    def _checkpoint_hint(self) -> str:
        """The name from which a listing suffices, as `_last_checkpoint` says; it is only a hint."""
        try:
            hint = json.loads(self._objects.read(f"{self._folder}_last_checkpoint"))
            return f"{int(hint['version']):020d}"
        except (ObjectMissing, ValueError, KeyError, TypeError):
            return ""

    def _list_from_checkpoint(self) -> _Listing:
        """A listing that suffices to read the newest version: from the hinted checkpoint on, if that stands."""
        hint = self._checkpoint_hint()
        listing = self._list(hint)
        return listing if listing.checkpoints or not hint else self._list("")

    def _list(self, start: str) -> _Listing:
        found = self._objects.list(self._folder, start_after=f"{self._folder}{start}" if start else "")
        commits: dict[int, str] = {}
        parts: dict[tuple[int, int], list[str]] = {}
        v2_checkpoints = []
        for item in found:
            name = item.key.removeprefix(self._folder)
            if match := _COMMIT.fullmatch(name):
                commits[int(match[1])] = item.key
            elif match := _CHECKPOINT.fullmatch(name):
                parts.setdefault((int(match[1]), int(match[3] or 1)), []).append(item.key)
            elif match := _CHECKPOINT_V2.fullmatch(name):
                v2_checkpoints.append(int(match[1]))
        complete = {version: keys for (version, count), keys in parts.items() if len(keys) == count}
        return _Listing(commits, complete, v2_checkpoints)

    def _read(self, listing: _Listing, base: Snapshot | None, version: int | None) -> Snapshot:
        last = version if version is not None else max([*listing.commits, *listing.checkpoints])
        checkpoint = max((v for v in listing.checkpoints if v <= last), default=-1)
        first = base.version + 1 if base else 0
        cleaned = any(wanted not in listing.commits for wanted in range(first, checkpoint + 1))
        if checkpoint >= first and (base is None or cleaned):
            base = checkpoints.read(checkpoint, self._parts(listing.checkpoints[checkpoint]), where=self.where)
            first = checkpoint + 1
        versions = range(first, last + 1)
        self._refuse_gaps(versions, listing)
        if base is not None and not versions:
            return base
        return apply(base, last, self._all_actions(versions), where=self.where)

    def _refuse_gaps(self, versions: range, listing: _Listing) -> None:
        missing = next((version for version in versions if version not in listing.commits), None)
        if missing is None:
            return
        if listing.v2_checkpoints:
            raise checkpoints.v2_checkpoint(max(listing.v2_checkpoints), self.where)
        raise TableError(
            f"version {missing} of the Delta log is missing",
            where=self.where,
            hint="the log was cleaned or damaged: restore it, or delete the target and reload the table",
        )

    def _all_actions(self, versions: range) -> Iterator[Action]:
        """The actions of some versions, in order; a batch of commits at a time, so that few are in memory at once."""
        if len(versions) == 1:
            yield from self._actions(versions[0])
            return
        with ThreadPoolExecutor(_READS, thread_name_prefix="cdcloader-log") as pool:
            for start in range(0, len(versions), _READS):
                for actions in pool.map(self._actions, versions[start : start + _READS]):
                    yield from actions

    def _parts(self, keys: Iterable[str]) -> Iterator[bytes]:
        return (self._objects.read(key) for key in sorted(keys))
