"""How much freed memory the allocators keep, and how soon they give it back."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8  # <malloc.h> of glibc
_TRIM_BYTES = 1 << 20
_ARENAS = 2
_DECAY_MS = 100
_POLARS_SETTINGS = "_RJEM_MALLOC_CONF"
_POLARS_OWN = "dirty_decay_ms:500,muzzy_decay_ms:1000"
_CORES_AN_ARENA = 2
# Below this budget the memory that allocators keep would be a large part of it.
TIGHT_MB = 1024


def share_arenas() -> None:
    """Let Polars' allocator have an arena for every two cores; it would have four for each core.

    What a thread frees stays in its arena for a while, where other threads do not find it: with one arena in place of
    eight a load in a tight budget peaks about 20 MB lower, in the same processor time. What an operator has set stands.
    To be called before Polars is imported, which reads it once; later it changes nothing.
    """
    if not _stated():
        os.environ[_POLARS_SETTINGS] = _few_arenas()


def _stated() -> str:
    """What somebody has set; without what Polars puts before it when it is imported, and child processes inherit."""
    setting = os.environ.get(_POLARS_SETTINGS, "")
    while setting.startswith(_POLARS_OWN):
        setting = setting.removeprefix(_POLARS_OWN).removeprefix(",")
    return setting


def _few_arenas() -> str:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return f"narenas:{max(1, cores // _CORES_AN_ARENA)}"


def return_at_once() -> None:
    """Let Polars' allocator keep nothing that was freed, at the price of asking for it again.

    For budgets below `TIGHT_MB`: in 512 MB a backlog of 10M changes peaks 170 MB lower, for a sixth more processor
    time. What an operator has set stands. To be called before Polars is imported, which reads it once.
    """
    if _stated() in ("", _few_arenas()):
        os.environ[_POLARS_SETTINGS] = f"{_few_arenas()},dirty_decay_ms:0,muzzy_decay_ms:0"


def keep_little() -> None:
    """Give memory back soon, at the price of asking for it again: about a quarter more processor time.

    A loader works in short bursts of large buffers, in many threads. Left alone, glibc's and Arrow's allocators
    each keep what their busiest moment took, in an arena per thread. What an operator has set in the
    environment stands. To be called before threads are started.
    """
    # Imported here, because the package's first import must stay light.
    import pyarrow as pa

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
