"""How the process gives freed memory back; has to be said before the libraries that allocate are loaded.

A loader works in short bursts of large buffers, in many threads. Left alone, three allocators (glibc's, Arrow's,
Polars') each keep what their busiest moment took, in an arena per thread, and the process stays far above what
`memory_budget_mb` allows. What an operator has set in the environment stands.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8  # <malloc.h> of glibc
_TRIM_BYTES = 1 << 20
_ARENAS = 2


def bound_memory() -> None:
    """Few arenas, and memory that is given back soon; on systems without glibc only Arrow is told."""
    if sys.platform != "linux":
        return
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
    for variable in ("_RJEM_MALLOC_CONF", "JE_ARROW_MALLOC_CONF"):
        os.environ.setdefault(variable, "narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    if "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, _ARENAS)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
