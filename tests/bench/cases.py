"""The cases by name, in the order in which `make bench` runs them; each measures something and returns its lines."""

from __future__ import annotations

import functools
from collections.abc import Callable

from tests.bench import loads, scattered, streams
from tests.bench.bench import Bench
from tests.bench.results import Result

CASES: dict[str, Callable[[Bench], list[Result]]] = {
    "scattered": scattered.scattered,
    "hundred_million": scattered.hundred_million,
    "bytes_written": scattered.bytes_written,
    "steady": streams.steady,
    "backlog": streams.backlog,
    "memory": streams.memory,
    "recent_changes": loads.recent_changes,
    "full_load_csv": functools.partial(loads.full_load, "full_load_csv", ".csv"),
    "full_load_parquet": functools.partial(loads.full_load, "full_load_parquet", ".parquet"),
    "full_load_memory": loads.full_load_memory,
    "idle_pass": loads.idle_pass,
}
