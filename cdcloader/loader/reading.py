"""A batch's raw files -> frames of typed change rows, in order; what breaks a rule goes to the quarantine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import polars as pl

from cdcloader.changes.changed_keys import with_old_keys_deleted
from cdcloader.changes.net import OP, TIME, sequence_columns, unset_columns
from cdcloader.lake.quarantine import Quarantine
from cdcloader.lake.snapshot import Snapshot
from cdcloader.loader.columns import batch_columns
from cdcloader.loader.context import Context, Stopwatch
from cdcloader.source.rows import Chunk, FileInput, read, read_together

# Two hide what of decoding is Python; more would only hold more in memory.
_READERS = 2
# Files of this share of a chunk (as stored) are read together: their data is several times larger.
_SMALL_SHARE = 4


class Reading:
    """The rows of some inputs as `schema`: the table's columns as they will be after the batch.

    `rows_in` counts every row of the files, a row that changed its key twice; `rows` counts those that became a change,
    or two; `left_out` those of an insert-only table that its filter did not let through; `newest` is the newest commit
    time that they tell. All are complete when `frames` has ended.
    """

    def __init__(
        self, context: Context, base: Snapshot | None, inputs: Sequence[FileInput], quarantine: Quarantine
    ) -> None:
        self._inputs, self.quarantine, self._beat = inputs, quarantine, context.beat
        self._chunk_bytes = context.settings.chunk_bytes
        self.columns = batch_columns(context, base, inputs)
        self.evolution = self.columns.evolution
        self.schema = self.evolution.schema
        self._format = context.row_format(self.columns.source)
        self._leave_out = not context.key
        self.rows_in = self.rows = self.left_out = 0
        self.newest: datetime | None = None

    def frames(self, watch: Stopwatch) -> Iterator[pl.DataFrame]:
        """The table's columns, `OP`, the `SEQ` and the `UNSET` columns of all rows, in order."""
        chunks = self._chunks()
        while True:
            with watch.phase("read"):
                chunk = next(chunks, None)
            if chunk is None:
                return
            self._beat()
            self._note_time(chunk.rows)
            with watch.phase("read"):
                ruled, rejects = self._ruled(chunk) if self.columns.differ else (chunk.rows, chunk.rejects)
            rows = with_old_keys_deleted(ruled)
            self.rows_in += chunk.rows_in + rows.height - ruled.height
            self.rows += rows.height
            for (file,), some in rejects.group_by("file", maintain_order=True) if rejects.height else ():
                self.quarantine.add(str(file), some)
            helpers = [OP, *sequence_columns(rows.columns), *unset_columns(rows.columns)]
            yield rows.select([*(column.name for column in self.schema), *helpers])

    def _ruled(self, chunk: Chunk) -> tuple[pl.DataFrame, pl.DataFrame]:
        """A chunk's rows after the column rules, and its rejects with those that a rule made."""
        found = self.columns.applied(chunk, self._inputs, leave_out=self._leave_out)
        self.left_out += found.left_out
        return found.rows, found.rejects

    def _note_time(self, rows: pl.DataFrame) -> None:
        newest = rows[TIME].max()
        if isinstance(newest, datetime):
            moment = newest.astimezone(UTC)
            self.newest = max(self.newest or moment, moment)

    def _chunks(self) -> Iterator[Chunk]:
        """Small files are read by several threads, some of them ahead; a large one by the caller's, chunk by chunk."""
        groups = list(neighbours(self._inputs, self._chunk_bytes // _SMALL_SHARE))
        if len(groups) <= 1:
            for group in groups:
                yield from self._read(group)
            return
        with ThreadPoolExecutor(_READERS, thread_name_prefix="cdcloader-read") as pool:
            ahead: deque[Future[list[Chunk]]] = deque()
            try:
                for group in groups:
                    if len(group) == 1 and group[0].size > self._chunk_bytes // _SMALL_SHARE:
                        while ahead:
                            yield from ahead.popleft().result()
                        yield from self._read(group)
                        continue
                    ahead.append(pool.submit(lambda files: list(self._read(files)), group))
                    if len(ahead) > _READERS:
                        yield from ahead.popleft().result()
                while ahead:
                    yield from ahead.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, group: Sequence[FileInput]) -> Iterator[Chunk]:
        if len(group) == 1:
            return read(group[0], self._format, self.columns.source, chunk_bytes=self._chunk_bytes)
        return read_together(group, self._format, self.columns.source, chunk_bytes=self._chunk_bytes)


class _Sized(Protocol):
    @property
    def size(self) -> int: ...

    @property
    def kind(self) -> str: ...


_File = TypeVar("_File", bound=_Sized)


def neighbours(files: Sequence[_File], size_max: int) -> Iterator[list[_File]]:
    """Neighbours of one kind that are small together; a file that is larger stands alone."""
    group: list[_File] = []
    size = 0
    for file in files:
        if group and (size + file.size > size_max or file.kind != group[0].kind):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group
