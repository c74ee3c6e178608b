"""The net changes of a batch of any size: in key order, in passes that fit the memory budget.

Rows are kept in memory while they fit. What does not fit is netted, put aside on this machine's disk in key order,
and merged when everything is read. A pass is a range of keys: that bounds it as a hash of the keys would, and
lets its rows be written behind those of the pass before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl
import pyarrow as pa

from cdcloader.changes.net import can_be_netted_again, full_plan, net_plan, picked, sequence_columns
from cdcloader.lake.spill import Spill
from cdcloader.loader.context import Stopwatch

# A frame is cut by the average size of its rows; a part that is so many times too large is cut again.
_TOO_LARGE = 2
# What is put aside is copied in parts of this share of a pass.
_PART_SHARE = 4
_VIEW_BYTES = 16


def net_passes(
    frames: Iterator[pl.DataFrame],
    key: Sequence[str],
    batch_bytes: int,
    pass_bytes: int,
    watch: Stopwatch,
    keep_going: Callable[[], None],
) -> Iterator[pl.DataFrame]:
    """The net change of each key, in frames of about `pass_bytes` that follow each other in key order.

    `frames` come in (file, row) order. At most about `batch_bytes` of them are in memory; TransientError when the
    disk is full that takes the rest. `keep_going` is called between frames once there is a rest.
    """
    held, spill = _Held(), None
    try:
        for frame in frames:
            held.add(frame)
            if held.size > batch_bytes:
                with watch.phase("net"):
                    rows = held.whole()
                    plan = _plan_of_part(rows, key)
                    if 2 * plan.height <= rows.height:
                        # A few keys that change again and again need no disk.
                        held.add(picked(rows, plan))
                        continue
                    spill = spill or _Aside(key, sequence_columns(rows.columns), pass_bytes)
                    spill.add(_parts(rows, plan, pass_bytes // _PART_SHARE))
                    del rows, plan
            if spill is not None:
                keep_going()
        if spill is None:
            yield from _timed(_held_passes(held, key, pass_bytes), watch)
        else:
            yield from _timed(_spilled_passes(held, spill, key, pass_bytes), watch)
    finally:
        if spill is not None:
            spill.close()


def insert_passes(frames: Iterator[pl.DataFrame], pass_bytes: int) -> Iterator[pl.DataFrame]:
    """The rows of an insert-only table as they were read, in frames of about `pass_bytes`."""
    held = _Held()
    for frame in frames:
        held.add(frame)
        if held.size >= pass_bytes:
            yield held.whole()
    if held.size:
        yield held.whole()


class _Held:
    """The frames that are in memory; `size` is their bytes."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []
        self.size: float = 0

    def add(self, frame: pl.DataFrame) -> None:
        if frame.height:
            self._frames.append(frame)
            self.size += _bytes_of(frame)

    def whole(self) -> pl.DataFrame:
        """All rows in one frame without seams, which rows are picked from fast; nothing is held after it."""
        frames, self._frames, self.size = self._frames, [], 0
        if len(frames) <= 1:
            return frames[0] if frames else pl.DataFrame()
        columns = []
        for name in frames[0].columns:
            columns.append(pl.concat([frame.get_column(name) for frame in frames], rechunk=True))
            # The pieces of a column are let go of before the next one is copied.
            frames = [frame.drop(name) for frame in frames]
            pa.default_memory_pool().release_unused()
        return pl.DataFrame(columns)


class _Aside:
    """Pieces of a batch on disk, each in key order and netted if that can be done again; merged, they are netted."""

    def __init__(self, key: Sequence[str], sequence: Sequence[str], pass_bytes: int) -> None:
        self._spill = Spill(key, key, pass_bytes, sequence)
        self._pieces = 0

    def add(self, piece: Iterator[pl.DataFrame]) -> None:
        self._spill.add(piece, self._pieces)
        self._pieces += 1

    def merged(self) -> Iterator[pl.DataFrame]:
        return self._spill.merged()

    def close(self) -> None:
        self._spill.close()


def _held_passes(held: _Held, key: Sequence[str], pass_bytes: int) -> Iterator[pl.DataFrame]:
    if held.size:
        rows = held.whole()
        yield from _parts(rows, net_plan(rows, key), pass_bytes)


def _spilled_passes(held: _Held, spill: _Aside, key: Sequence[str], pass_bytes: int) -> Iterator[pl.DataFrame]:
    if held.size:
        rows = held.whole()
        spill.add(_parts(rows, _plan_of_part(rows, key), pass_bytes // _PART_SHARE))
        del rows
    yield from spill.merged()


def _plan_of_part(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """What of a part of a batch has to be kept until the rest is there: its net changes, where they tell enough."""
    return net_plan(rows, key) if can_be_netted_again(rows.columns) else full_plan(rows, key)


def _parts(rows: pl.DataFrame, plan: pl.DataFrame, size: int) -> Iterator[pl.DataFrame]:
    """The rows of a plan, in frames of about `size` bytes."""
    step = max(1, int(rows.height * size / max(1, _bytes_of(rows))))
    start = 0
    while start < plan.height:
        rest = plan.height - start
        part = picked(rows, plan.slice(start, rest if rest < 1.5 * step else step))
        while part.height > 1 and _bytes_of(part) > _TOO_LARGE * size:
            part = part.head(part.height // 2)
        start += part.height
        yield part


def _bytes_of(frame: pl.DataFrame) -> float:
    """What a frame takes in memory: Polars' estimate leaves out the views of a column of text."""
    texts = sum(dtype in (pl.String, pl.Binary) for dtype in frame.dtypes)
    return frame.estimated_size() + _VIEW_BYTES * texts * frame.height


def _timed(passes: Iterator[pl.DataFrame], watch: Stopwatch) -> Iterator[pl.DataFrame]:
    """The passes; the time that each takes to come counts as netting."""
    while True:
        with watch.phase("net"):
            frame = next(passes, None)
        if frame is None:
            return
        yield frame
