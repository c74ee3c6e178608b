"""Files that hold the changes of all tables: each is fetched and split once, and every table takes its rows from it.

What was split is kept in memory, then in a temporary file of this machine, both within bounds; what was let go of is
split again when somebody asks for it. Rows that belong to no table go to a quarantine of the folder's own, and rows
of tables that are not in the config are told in the log.
"""

from __future__ import annotations

import functools
import io
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import polars as pl
import structlog

from cdcloader.errors import TableError
from cdcloader.lake.quarantine import Quarantine
from cdcloader.loader.blob import Blob, Scratch
from cdcloader.loader.shared_listing import SharedListings
from cdcloader.objects import Objects
from cdcloader.source.names import RawFile
from cdcloader.source.raw_text import raw_text
from cdcloader.source.row_format import CsvFormat, FileInput
from cdcloader.source.transactions import TablesPiece, names_by_source, split

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MEMORY_BYTES, _DISK_BYTES = 64 << 20, 1 << 30
_PIECE_BYTES = (1 << 16, 4 << 20)
# Small files are mostly waiting, so several are fetched and split side by side.
_AT_ONCE_MAX = 8
# Splitting takes so many times a piece.
_COPIES = 4
# About what the place of a table's rows in a piece takes in memory.
_INDEX_BYTES = 300
_NAMED_MAX = 20
# So many names of foreign tables, and files, are remembered as told; more would only fill the memory.
_TOLD_MAX = 10_000
# So long a damaged file counts as damaged without a further look at it, unless it is replaced.
_DAMAGED_SECONDS = 60.0
_NUMBER_BYTES = 4
# The quarantine of rows that belong to no table, below the folder's name: a target may be named like the folder.
NO_TABLE = "_no_table"
_Identity = tuple[str, str, CsvFormat]


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """What splitting a file takes: where it is read, where its broken rows go, how it is written.

    `keep_going` is called between pieces, and raises what ends the work.
    """

    raw: Objects
    lake: Objects
    path: str
    csv: CsvFormat
    keep_going: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Share:
    """One table's rows of a shared file: how many there are, and the bytes of their text."""

    rows: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """A table's rows of one piece, in the file's blob: places in bytes."""

    text: int
    text_bytes: int
    numbers: int
    rows: int


@dataclass(slots=True)
class _Split:
    """A file that was split: the text and the row numbers of all tables, and where those of each stand."""

    blob: Blob
    parts: dict[str, list[_Part]] = field(default_factory=dict)
    broken: int = 0
    index_bytes: int = 0
    known: tuple[frozenset[str], Mapping[str, str]] = (frozenset(), {})

    def add(self, piece: TablesPiece) -> None:
        """Take the rows of the file's next piece."""
        text = self.blob.append(piece.text)
        numbers = self.blob.append(piece.numbers.view(np.uint8).data)
        for name, part in piece.parts.items():
            at = _Part(
                text + part.text.start,
                part.text.stop - part.text.start,
                numbers + part.rows.start * _NUMBER_BYTES,
                part.rows.stop - part.rows.start,
            )
            self.parts.setdefault(name, []).append(at)
        self.index_bytes += _INDEX_BYTES * len(piece.parts)

    def parts_of(self, source: str, sources: frozenset[str]) -> Sequence[_Part]:
        """Where the rows of a source stand, one of the configured `sources`."""
        known, names = self.known
        if sources is not known:
            # Both at once: another thread may ask just now, with fewer sources.
            names = names_by_source(self.parts, sources)
            self.known = sources, names
        name = names.get(source)
        if name is None and source not in sources:
            name = names_by_source(self.parts, {*sources, source}).get(source)
        return self.parts[name] if name is not None else ()


class Transactions:
    """What shared files hold, by table; thread-safe, for all tables of a process.

    `sources` are all that are loaded. In memory are at most about `memory_bytes`, and as much while files are
    split; on disk are `disk_bytes`; what is in use just now may be more. Without `quarantines` broken rows are left
    out, which is for those who only read. `listings` are those of the folders. `on_rows` is told the
    rows that no table takes: `no_table` or `not_loaded`, and how many.
    """

    def __init__(
        self,
        sources: Iterable[str] = (),
        *,
        memory_bytes: int = _MEMORY_BYTES,
        disk_bytes: int = _DISK_BYTES,
        quarantines: bool = True,
        listings: SharedListings | None = None,
        on_rows: Callable[[str, int], None] = lambda _result, _count: None,
    ) -> None:
        self.listings = listings or SharedListings()
        self.sources = frozenset(sources)
        self.quarantined = 0
        self._memory_bytes = memory_bytes
        least, most = _PIECE_BYTES
        self._piece_bytes = min(most, max(least, memory_bytes // (_AT_ONCE_MAX // 2 * _COPIES)))
        self._at_once = min(_AT_ONCE_MAX, max(1, memory_bytes // (self._piece_bytes * _COPIES)))
        self._quarantines = quarantines
        self._scratch = Scratch(disk_bytes)
        self._splits: OrderedDict[_Identity, Future[_Split]] = OrderedDict()
        self._damaged: dict[_Identity, tuple[float, TableError]] = {}
        self._told: set[str] = set()
        self._counted: set[_Identity] = set()
        self._on_rows = on_rows
        self._lock = threading.Lock()
        self._room = threading.Semaphore(self._at_once)

    def add(self, source: str) -> None:
        """A further source that is loaded."""
        with self._lock:
            self.sources |= {source}

    def shares(self, folder: SharedFolder, source: str, files: Sequence[RawFile]) -> list[Share]:
        """What each of the files holds of a table. Raises what splitting one of them raises."""
        share = functools.partial(self._share, folder, source)
        with self._lock:
            unsplit = sum(_identity(folder, file) not in self._splits for file in files)
        if unsplit <= 1:
            return [share(file) for file in files]
        with ThreadPoolExecutor(min(self._at_once, unsplit), thread_name_prefix="cdcloader-split") as pool:
            try:
                return list(pool.map(share, files))
            finally:
                pool.shutdown(cancel_futures=True)

    def inputs(self, folder: SharedFolder, source: str, files: Sequence[RawFile]) -> list[FileInput]:
        """The table's rows of these files, each as a file of its own that its reader takes, in the given order."""
        return [
            FileInput(
                ordinal=ordinal,
                name=folder.raw.path_of(file.key),
                kind=str(file.kind),
                format="csv",
                gzip=False,
                size=share.size,
                open=functools.partial(self._open, folder, source, file),
                numbers=functools.partial(self._numbers, folder, source, file),
            )
            for ordinal, (file, share) in enumerate(zip(files, self.shares(folder, source, files), strict=True))
        ]

    def _parts(self, folder: SharedFolder, source: str, file: RawFile) -> tuple[_Split, Sequence[_Part]]:
        found = self._split_of(folder, file)
        return found, found.parts_of(source, self.sources)

    def _share(self, folder: SharedFolder, source: str, file: RawFile) -> Share:
        if not file.size:
            return Share()
        _, parts = self._parts(folder, source, file)
        return Share(sum(part.rows for part in parts), sum(part.text_bytes for part in parts))

    def _open(self, folder: SharedFolder, source: str, file: RawFile) -> BinaryIO:
        found, parts = self._parts(folder, source, file)
        return cast("BinaryIO", io.BufferedReader(_Text(found.blob, parts)))

    def _numbers(self, folder: SharedFolder, source: str, file: RawFile) -> np.ndarray:
        """The numbers of a table's rows in the file."""
        found, parts = self._parts(folder, source, file)
        read = (found.blob.read(part.numbers, part.rows * _NUMBER_BYTES) for part in parts)
        return np.frombuffer(b"".join(read), np.uint32).astype(np.int64)

    def _split_of(self, folder: SharedFolder, file: RawFile) -> _Split:
        """The file as it was split, by this thread if by none before; others wait for who is about to."""
        identity = _identity(folder, file)
        with self._lock:
            self._refuse_damaged(identity)
            future = self._splits.get(identity)
            if waits := future is not None:
                self._splits.move_to_end(identity)
            else:
                future = self._splits[identity] = Future()
        if waits:
            return future.result()
        try:
            with self._room:
                found = self._made(folder, file)
        except BaseException as error:
            with self._lock:
                self._splits.pop(identity, None)
                if isinstance(error, TableError):
                    self._damaged[identity] = (time.monotonic(), error)
            future.set_exception(error)
            raise
        future.set_result(found)
        with self._lock:
            self._shrink()
        return found

    def _refuse_damaged(self, identity: _Identity) -> None:
        """Raise what a file had just now, lest each of a thousand tables fetch it again to find the same."""
        now = time.monotonic()
        self._damaged = {key: each for key, each in self._damaged.items() if now - each[0] < _DAMAGED_SECONDS}
        if identity in self._damaged:
            error = self._damaged[identity][1]
            # An error that is raised again and again would keep every trace of it.
            raise TableError(error.what, where=error.where, hint=error.hint)

    def _made(self, folder: SharedFolder, file: RawFile) -> _Split:
        path = folder.raw.path_of(file.key)
        # A file that would fill the memory alone goes to disk at once.
        found = _Split(Blob(self._scratch, self._memory_bytes // 2))
        quarantine = Quarantine(folder.lake, f"{folder.path}/{NO_TABLE}", {path: file.etag})
        stored = FileInput(0, path, str(file.kind), "csv", file.gzip, file.size, lambda: self._opened(folder, file))
        with raw_text(stored) as stream:
            for piece in split(stream, folder.csv, self._piece_bytes, where=path):
                folder.keep_going()
                found.add(piece)
                found.broken += piece.broken.height
                if self._quarantines:
                    quarantine.add(path, piece.broken.select(pl.lit(path).alias("file"), pl.all()))
        # Before any table goes past this file.
        quarantine.flush()
        if self._quarantines:
            self._tell(_identity(folder, file), path, found, quarantine)
        return found

    def _opened(self, folder: SharedFolder, file: RawFile) -> BinaryIO:
        # The version that was listed, whose ETag goes into the ledger, and no other.
        if file.size <= self._piece_bytes:
            return io.BytesIO(folder.raw.read(file.key, etag=file.etag))
        return folder.raw.open_reader(file.key, etag=file.etag)

    def _shrink(self) -> None:
        """Keep within the bounds: what was used longest ago goes from memory to disk, and from there away."""
        in_memory = sum(each.blob.memory_bytes + each.index_bytes for _, each in self._made_ones())
        for key, each in self._made_ones():
            if in_memory > self._memory_bytes and (held := each.blob.memory_bytes):
                in_memory -= held
                if not each.blob.put_aside():
                    in_memory -= each.index_bytes
                    del self._splits[key]
        for key, each in self._made_ones():
            if in_memory <= self._memory_bytes and not self._scratch.is_over:
                return
            in_memory -= each.index_bytes + each.blob.memory_bytes
            each.blob.let_go()
            del self._splits[key], each

    def _made_ones(self) -> Iterator[tuple[_Identity, _Split]]:
        """The files that are split, those first that were used longest ago; one may be let go of meanwhile."""
        for key in list(self._splits):
            future = self._splits[key]
            if future.done() and future.exception() is None:
                found = future.result()
                del future
                yield key, found
                del found

    def _tell(self, identity: _Identity, path: str, found: _Split, quarantine: Quarantine) -> None:
        """Rows of no table, and of tables that nobody loads: counted once for each file, told once for each name."""
        rows = Counter({name: sum(part.rows for part in parts) for name, parts in found.parts.items()})
        loaded = set(names_by_source(rows, self.sources).values())
        foreign = sorted(name for name in rows if name not in loaded)
        with self._lock:
            if identity in self._counted:
                return
            if len(self._counted) < _TOLD_MAX:
                self._counted.add(identity)
            new = [name for name in foreign if name not in self._told][: _TOLD_MAX - len(self._told)]
            self._told.update(new)
            self.quarantined += found.broken
        self._on_rows("no_table", found.broken)
        self._on_rows("not_loaded", sum(rows[name] for name in foreign))
        log = structlog.get_logger()
        if found.broken:
            log.warning(
                "rows that belong to no table are in quarantine", file=path, count=found.broken, where=quarantine.folder
            )
        if new:
            log.warning(
                "rows of tables that are not in the config are left out",
                file=path,
                count=len(new),
                tables={name: rows[name] for name in new[:_NAMED_MAX]},
                hint="add their sources to `tables` to load them; their changes are in these files, from the first on",
            )


class _Text(io.RawIOBase):
    """A table's text in a file's blob, as one stream."""

    def __init__(self, blob: Blob, parts: Sequence[_Part]) -> None:
        super().__init__()
        self._blob, self._parts = blob, parts
        self._starts = np.concatenate([[0], np.cumsum([part.text_bytes for part in parts], dtype=np.int64)])
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: int(self._starts[-1])}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        place = int(np.searchsorted(self._starts, self._at, side="right")) - 1
        if place >= len(self._parts):
            return 0
        part, done = self._parts[place], self._at - int(self._starts[place])
        got = self._blob.read(part.text + done, min(len(view), part.text_bytes - done))
        view[: len(got)] = got
        self._at += len(got)
        return len(got)


def _identity(folder: SharedFolder, file: RawFile) -> _Identity:
    """What tells one file as it is split from another: its version, and the marks of CSV."""
    return file.key, file.etag, replace(folder.csv, header=None, null_values=())
