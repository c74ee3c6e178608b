"""How the process gives freed memory back, for small memory budgets."""

from __future__ import annotations

import ctypes
import os
import sys

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8  # <malloc.h> of glibc
_TRIM_BYTES = 1 << 20
_ARENAS = 2
_DECAY_MS = 100


def keep_little() -> None:
    """Give memory back soon, at the price of asking for it again: about a quarter more processor time.

    A loader works in short bursts of large buffers, in many threads. Left alone, glibc's and Arrow's allocators
    each keep what their busiest moment took, in an arena per thread. What an operator has set in the
    environment stands. To be called before threads are started.
    """
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ and "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
        pa.jemalloc_set_decay_ms(_DECAY_MS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    if "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, _ARENAS)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
