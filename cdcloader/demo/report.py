"""What the loader tells the demo about one commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DemoBatch:
    """A full load or batch of `table`: rows by kind, the Delta version, and how long it took."""

    table: str
    rows: Mapping[str, int]
    version: int
    seconds: float
