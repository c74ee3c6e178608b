"""Which tables there are: those with an entry of their own, and the folders that the config's patterns name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import structlog

from cdcloader.config import Config, Table
from cdcloader.config.expansion import table_of, wants
from cdcloader.config.patterns import is_pattern, matches
from cdcloader.config.values import table_name
from cdcloader.errors import CdcloaderError, TableError, TransientError, Treatment, treatment
from cdcloader.objects import Objects
from cdcloader.source.names import is_table_folder
from cdcloader.state.record import Phase
from cdcloader.state.store import StateStore

SEARCH = "the search for tables"
"""What the watchdog calls a look for new tables."""

_LISTING_FOLDERS = 8
_NAMED_MAX = 5
_CLASH_HINT = (
    "give it an entry of its own with another `target`, a `target` with {schema} and {table} to the pattern's entry, "
    "or name it in `exclude`"
)


class Discovery:
    """Finds tables, again and again; one that was found stays, though its folder should vanish.

    `look` is for one thread at a time; `tables` and `troubles` may be read by any.
    """

    def __init__(
        self, config: Config, raw: Objects, store: StateStore, beat: Callable[[], None] = lambda: None
    ) -> None:
        self._config = config
        self._raw = raw
        self._store = store
        self._beat = beat
        self._shared = {table.cdc_path for table in config.tables if table.cdc_path}
        self._remembered: set[str] | None = None
        self._told: set[str] = set()
        self.tables: Mapping[str, Table] = {table.source: table for table in config.exact}
        """By source."""
        self.troubles: Mapping[str, CdcloaderError] = {}
        """What keeps a folder, or all those of a pattern, from being tables; by source or pattern."""

    def look(self) -> list[Table]:
        """The tables that are new since the last look. What goes wrong is in `troubles`, and the others are found."""
        if not self._config.patterns:
            return []
        troubles: dict[str, CdcloaderError] = {}
        folders = self._folders(troubles) | self._from_records()
        new = self._without_clashes(self._candidates(folders, troubles), troubles)
        self._note_idle_patterns(folders, troubles)
        self.tables = {**self.tables, **{table.source: table for table in new}}
        self._tell(new, troubles)
        self.troubles = troubles
        return new

    def named(self, names: Iterable[str]) -> tuple[Table, ...]:
        """The tables with these sources; ConfigError when there is none, or what stands in its way."""
        wanted = [name.strip("/") for name in names]
        if any(name not in self.tables for name in wanted):
            self.look()
        for name in wanted:
            if name in self.troubles:
                raise self.troubles[name]
            if name not in self.tables:
                # The folder may be one of those that could not be listed.
                wanted_by_any = any(wants(entry, name) for entry in self._config.patterns)
                failed = [error for source, error in self.troubles.items() if matches(source, name)]
                if failed and wanted_by_any:
                    raise failed[0]
                self._config.table(name)
        return tuple(self.tables[name] for name in wanted)

    def _folders(self, troubles: dict[str, CdcloaderError]) -> set[str]:
        """Every folder that a pattern names: one LIST for each folder above them."""
        listed: dict[str, list[str]] = {}
        found: set[str] = set()
        for entry in self._config.patterns:
            above, parts = [""], entry.source.split("/")
            for depth, part in enumerate(parts, start=1):
                if depth < len(parts) and not is_pattern(part):
                    above = [_joined(folder, part) for folder in above]
                    continue
                self._list(above, listed, "/".join(parts[depth - 1 :]), troubles)
                below = (_joined(folder, name) for folder in above for name in listed.get(folder, ()))
                start = "/".join(parts[:depth])
                above = [folder for folder in below if matches(start, folder)]
            found |= {folder for folder in above if wants(entry, folder)}
        return found

    def _list(
        self, folders: Iterable[str], listed: dict[str, list[str]], rest: str, troubles: dict[str, CdcloaderError]
    ) -> None:
        """The folders in each of `folders` that may be tables, or hold some, beside those that are listed already."""

        def names(folder: str) -> list[str] | CdcloaderError:
            self._beat()
            try:
                found = self._raw.folders(folder)
            except CdcloaderError as error:
                return error
            return [name for name in found if is_table_folder(name) and _joined(folder, name) not in self._shared]

        wanted = [folder for folder in folders if folder not in listed]
        with ThreadPoolExecutor(_LISTING_FOLDERS, thread_name_prefix="cdcloader-discovery") as pool:
            for folder, answer in zip(wanted, pool.map(names, wanted), strict=True):
                if isinstance(answer, CdcloaderError):
                    troubles[_joined(folder, rest)] = answer
                else:
                    listed[folder] = answer

    def _from_records(self) -> set[str]:
        """Folders that were tables when this process began, for which their records stand; they may have vanished."""
        if self._remembered is None:
            root = self._raw.qualified("").rstrip("/")
            try:
                paths = [record.path for record in self._store.all()]
            except TransientError:
                return set()  # The tables tell it; the next look asks again.
            except CdcloaderError as error:
                log = structlog.get_logger()
                log.warning("tables whose folders are gone cannot be told until the next start", error=str(error))
                paths = []
            within = (path.removeprefix(f"{root}/").strip("/") for path in paths if path.startswith(f"{root}/"))
            self._remembered = {source for source in within if any(wants(e, source) for e in self._config.patterns)}
        return self._remembered

    def _candidates(self, folders: Iterable[str], troubles: dict[str, CdcloaderError]) -> list[Table]:
        """The folders as tables, by the first pattern that wants them, but those that are claimed."""
        inner = [*(table.source for table in self._config.exact), *self._shared]
        found = []
        for source in sorted(set(folders) - self.tables.keys()):
            entry = next((each for each in self._config.patterns if wants(each, source)), None)
            # A folder that holds another table, or the changes of all tables, is no table itself.
            if entry is None or any(each.startswith(f"{source}/") for each in inner):
                continue
            try:
                found.append(table_of(entry, table_name(source)))
            except ValueError as error:
                where = self._raw.path_of(source)
                troubles[source] = TableError(f"this folder cannot be a table: {error}", where=where, hint=_CLASH_HINT)
        return found

    def _without_clashes(self, candidates: Iterable[Table], troubles: dict[str, CdcloaderError]) -> list[Table]:
        """The candidates whose target is theirs alone; the others are newcomers that must wait for the operator."""
        by_target = defaultdict(list)
        for table in candidates:
            by_target[table.target].append(table)
        owners = {table.target: table.source for table in self.tables.values()}
        inner = Counter(str(parent) for target in owners for parent in PurePosixPath(target).parents)
        accepted = []
        for target, tables in by_target.items():
            owner = owners.get(target)
            chosen = tables[0] if len(tables) == 1 and owner is None else None
            if len(tables) > 1 and owner is None:
                # After a start, in no order that means anything: the target is that of whoever has filled it.
                chosen = self._incumbent(tables)
            parents = {str(parent) for parent in PurePosixPath(target).parents}
            for table in tables:
                nested = target in inner or not parents.isdisjoint(owners)
                if table is chosen and not nested:
                    continue
                other = owner or next((each.source for each in tables if each is not table), "another")
                what = f"{target!r} lies inside another table's target, or around it" if nested else ""
                troubles[table.source] = TableError(
                    what or f"{target!r} is the target of {other} already",
                    where=self._raw.path_of(table.source),
                    hint=_CLASH_HINT,
                )
            if chosen is not None and chosen.source not in troubles:
                accepted.append(chosen)
                owners[target] = chosen.source
                inner.update(parents)
        return accepted

    def _incumbent(self, tables: Iterable[Table]) -> Table | None:
        """The one table among those of one target that was ever loaded; None when that does not tell."""
        try:
            records = [(table, self._store.get(self._raw.qualified(f"{table.source}/"))) for table in tables]
        except CdcloaderError:
            return None
        loaded = [table for table, record in records if record is not None and record.recorded_version is not None]
        return loaded[0] if len(loaded) == 1 else None

    def _note_idle_patterns(self, folders: Iterable[str], troubles: dict[str, CdcloaderError]) -> None:
        """A pattern that names nothing is likely a mistake, where its folders could be listed."""
        if any(is_pattern(source) for source in troubles):
            return
        for entry in self._config.patterns:
            if not any(wants(entry, source) for source in folders):
                troubles[entry.source] = TableError(
                    "the pattern names no folder",
                    where=self._raw.path_of(""),
                    hint="check `raw`, `source` and `exclude`; DMS makes a table's folder when it writes its first row",
                )

    def _tell(self, new: Iterable[Table], troubles: Mapping[str, CdcloaderError]) -> None:
        """Name what was found, and each trouble once."""
        log = structlog.get_logger()
        names = [table.source for table in new]
        if names:
            log.info("tables found", count=len(names), tables=names[:_NAMED_MAX])
        for source, error in troubles.items():
            if f"{source}: {error}" not in self._told:
                log.warning("no table by a pattern", table=source, error=error.what, where=error.where, hint=error.hint)
        self._told = {f"{source}: {error}" for source, error in troubles.items()}


def phase_of(error: CdcloaderError) -> Phase:
    """What the metrics and the status call a folder that cannot be a table, or cannot be looked at."""
    return Phase.RETRYING if treatment(error) is Treatment.RETRY else Phase.BLOCKED


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
