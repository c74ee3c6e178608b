"""The rows of one version of a target, as delta-rs reads them, which did not write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow as pa
import structlog
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError

from cdcloader.changes.schema import Schema, polars_schema
from cdcloader.lake import datafiles
from cdcloader.lake.snapshot import Snapshot
from cdcloader.loader.aside import Aside
from cdcloader.loader.comparison import Digest, digest
from cdcloader.loader.context import Context

# delta-rs hands on small batches; frames of about so many rows cost less each.
_FRAME_ROWS = 100_000
_CANNOT = (DeltaError, pa.ArrowException, OSError, pl.exceptions.PolarsError)
DELTA_RS, OWN = "delta-rs", "cdcloader"


class Readback:
    """Reads a pinned version by delta-rs, or by the loader's own reader where that cannot; `reader` says by which."""

    def __init__(self, context: Context, snapshot: Snapshot, schema: Schema) -> None:
        self._context, self._snapshot, self._schema = context, snapshot, schema
        self._types = polars_schema(schema)
        self.reader = DELTA_RS

    def put_aside(self, side: Aside, names: Sequence[str]) -> None:
        """Add all rows to a side that is empty."""
        try:
            for frame in self._by_delta_rs(names):
                side.add(frame)
        except _CANNOT as error:
            self._cannot(error)
            side.clear()
            for frame in self._by_ourselves(names):
                side.add(frame)

    def digest(self, names: Sequence[str], key: Sequence[str]) -> Digest:
        """The digest of all rows."""
        try:
            return self._digest(self._by_delta_rs(names), key)
        except _CANNOT as error:
            self._cannot(error)
            return self._digest(self._by_ourselves(names), key)

    def empty(self, names: Sequence[str] | None = None) -> pl.DataFrame:
        """A frame without rows."""
        return pl.DataFrame(schema={name: self._types[name] for name in (self._types if names is None else names)})

    def _digest(self, frames: Iterator[pl.DataFrame], key: Sequence[str]) -> Digest:
        found = Digest()
        for frame in frames:
            found = found.plus(digest(frame, key))
        return found

    def _cannot(self, error: Exception) -> None:
        self.reader = OWN
        # The text of an error about values may hold values.
        text = str(error) if isinstance(error, (DeltaError, OSError)) else type(error).__name__
        structlog.get_logger().warning("delta-rs cannot read the target", table=self._context.table.source, error=text)

    def _by_delta_rs(self, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        context = self._context
        location, options = context.lake.scan_target(context.table.target)
        table = DeltaTable(location, version=self._snapshot.version, storage_options=options)
        columns = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
        # By way of pyarrow, because what goes wrong then has a type.
        stream = QueryBuilder().register("target", table).execute(f"select {columns} from target")
        reader = pa.RecordBatchReader.from_stream(stream)
        waiting: list[pa.RecordBatch] = []
        rows = 0
        for batch in reader:
            waiting.append(batch)
            rows += batch.num_rows
            if rows >= _FRAME_ROWS:
                yield self._frame(waiting, names)
                waiting, rows = [], 0
        if rows:
            yield self._frame(waiting, names)

    def _frame(self, batches: Sequence[pa.RecordBatch], names: Sequence[str]) -> pl.DataFrame:
        frame = pl.DataFrame(pa.Table.from_batches(batches))
        return frame.select(pl.col(name).cast(self._types[name]) for name in names)

    def _by_ourselves(self, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        lake, target = self._context.lake, self._context.table.target
        for file in self._snapshot.files.values():
            yield datafiles.read(lake, target, file, self._schema, columns=names).select(names)
