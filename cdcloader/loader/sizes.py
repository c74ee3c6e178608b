"""How the memory budget is divided: the bounds of a table's work by the shares that it was granted (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cdcloader.source.names import RawFile

_MIB = 1 << 20
# What the process takes before it has read a row, and what of it stays between batches.
_IMPORTS_MB, _RUNNING_MB = 140, 200
# Parts of a table's part of the memory budget. Text grows when it is parsed, sorted and encoded again, and
# compressed files grow when they are read, so each part is what several copies of it leave room for.
_CHUNK_PART, _PIECE_PART = 24, 12
# Parts of what a batch may take beside the table's key columns. The rows that it holds are copied in parts only.
_FETCH_PART, _PASS_PART, _BATCH_PART = 16, 12, 2
# The part of the whole budget that key columns may take, between batches too, and of what the process leaves of it.
_KEYS_PART, _KEYS_REST_PART = 8, 4
_CHUNK_BYTES = (_MIB, 16 * _MIB)
# What a stored byte becomes in a frame: text gains views and loses digits, compressed files gain most.
_GROWTH = {"csv": 3, "json": 3, "parquet": 6}
_GZIP_GROWTH = 12
# The part of the whole budget that files of all tables' changes take: half of it while they are split, half after it.
_SHARED_PART = 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """The bounds in bytes that `Settings` explains."""

    piece_bytes: int
    chunk_bytes: int
    fetch_bytes: int
    batch_bytes: int
    pass_bytes: int


def sizes_of(budget_mb: int, shares: int, of: int) -> Sizes:
    """The bounds of one table that holds `shares` of the `of` equal shares of the budget.

    Pieces and chunks are those of one share always: the size of data files follows from pieces, and must not change
    with what other tables do.
    """
    share = max(budget_mb - _IMPORTS_MB, budget_mb // 4) * _MIB // of
    batch_share = max(budget_mb - _RUNNING_MB - _keys_mb(budget_mb), budget_mb // 6) * _MIB * shares // of
    return Sizes(
        piece_bytes=share // _PIECE_PART,
        chunk_bytes=min(max(share // _CHUNK_PART, _CHUNK_BYTES[0]), _CHUNK_BYTES[1]),
        fetch_bytes=batch_share // _FETCH_PART,
        batch_bytes=batch_share // _BATCH_PART,
        pass_bytes=batch_share // _PASS_PART,
    )


def key_cache_bytes(budget_mb: int) -> int:
    """What the key columns of all tables may take."""
    return _keys_mb(budget_mb) * _MIB


def _keys_mb(budget_mb: int) -> int:
    rest = max(budget_mb - _RUNNING_MB, budget_mb // _KEYS_PART)
    return max(1, min(budget_mb // _KEYS_PART, rest // _KEYS_REST_PART))


def shared_files_mb(budget_mb: int) -> int:
    """What files that hold the changes of all tables may take."""
    return budget_mb // _SHARED_PART


def shares_wanted(files: Iterable[RawFile], batch_bytes: int) -> int:
    """How many shares would hold the rows of a batch of these files, where one share holds `batch_bytes` of them."""
    rows_bytes = sum(file.size * (_GZIP_GROWTH if file.gzip else _GROWTH.get(file.format, 1)) for file in files)
    return max(1, math.ceil(rows_bytes / max(1, batch_bytes)))
