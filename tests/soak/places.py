"""Where a world is: raw files are put there, and tables read. Here the protocol, and a folder with SQLite."""

from __future__ import annotations

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from cdcloader.demo.dms_writer import write_file
from tests.soak.sniper import modified
from tests.soak.tables import TABLES

ATTRIBUTES = ("LeaseOwner", "RecordedVersion", "RowsInserted", "RowsUpdated", "RowsDeleted", "RowsQuarantined")


class Place(ABC):
    """Raw, lake and state. Keys of raw are `schema/table/file`, those of the lake begin with the target."""

    kind: str
    environ: Mapping[str, str]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """`raw`, `lake` and `state` of the config."""

    @abstractmethod
    def put(self, key: str, content: bytes) -> None:
        """A raw file, whole or not there."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """A raw file, if it is there."""

    @abstractmethod
    def tripwires(self, *, commit: bool) -> dict[str, int]:
        """Paths of this machine, one of which changes at the next commit, or at the next data file that is written.

        Each with the time at which it was modified, 0 where it is not there yet.
        """

    @abstractmethod
    def names(self, prefix: str) -> list[str]:
        """The names of the lake's objects whose keys begin with `prefix`, a folder with its slash, without it."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """An object of the lake."""

    @abstractmethod
    def local(self, target: str) -> Path:
        """The target in a folder of this machine: itself, or a copy."""

    @abstractmethod
    def records(self) -> dict[str, dict[str, Any]]:
        """source -> some attributes of its state record."""

    @abstractmethod
    def close(self) -> None:
        """End what was started."""

    def infos(self, target: str, last: int | None = None) -> list[tuple[int, dict[str, Any]]]:
        """(version, commitInfo) of the target's log, or of its `last` versions."""
        names = sorted(name for name in self.names(f"{target}/_delta_log/") if _is_commit(name))
        found = []
        for name in names[-last if last else 0 :]:
            actions = [json.loads(line) for line in self.read(f"{target}/_delta_log/{name}").splitlines()]
            found += [(int(name[:20]), action["commitInfo"]) for action in actions if "commitInfo" in action]
        return found


class Folder(Place):
    """On this machine, with SQLite."""

    kind = "folder and SQLite"

    def __init__(self, home: Path) -> None:
        self._raw, self._lake, self._state = home / "raw", home / "lake", home / "state.db"
        self._raw.mkdir(parents=True)
        self.environ = {}

    def settings(self) -> dict[str, Any]:
        state = {"kind": "sqlite", "path": str(self._state)}
        return {"raw": str(self._raw), "lake": str(self._lake), "state": state}

    def put(self, key: str, content: bytes) -> None:
        path = self._raw / key
        write_file(path.parent, path.name, content)

    def delete(self, key: str) -> None:
        (self._raw / key).unlink(missing_ok=True)

    def close(self) -> None:
        """A folder needs no end."""

    def tripwires(self, *, commit: bool) -> dict[str, int]:
        folders = [self._lake / table.source for table in TABLES]
        if commit:
            return {str(folder / "_delta_log" / self._next_commit(folder)): 0 for folder in folders}
        return {str(folder): modified(str(folder)) for folder in folders}

    def names(self, prefix: str) -> list[str]:
        folder = self._lake / prefix
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []

    def read(self, key: str) -> bytes:
        return (self._lake / key).read_bytes()

    def local(self, target: str) -> Path:
        return self._lake / target

    def _next_commit(self, folder: Path) -> str:
        names = self.names(f"{folder.relative_to(self._lake)}/_delta_log/")
        versions = [int(name[:20]) for name in names if _is_commit(name)]
        return f"{max(versions, default=-1) + 1:020d}.json"

    def records(self) -> dict[str, dict[str, Any]]:
        try:
            with closing(sqlite3.connect(f"file:{self._state}?mode=ro", uri=True, timeout=30)) as connection:
                connection.row_factory = sqlite3.Row
                rows = connection.execute("SELECT * FROM tables").fetchall()
        except sqlite3.OperationalError:
            return {}  # Killed before it was made.
        return {source_of(row["path"]): {name: row[name] for name in ATTRIBUTES} for row in rows}


def _is_commit(name: str) -> bool:
    return len(name) == 25 and name[:20].isdigit() and name.endswith(".json")


def source_of(path: str) -> str:
    return "/".join(path.rstrip("/").split("/")[-2:])
