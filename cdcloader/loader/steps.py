"""How a step of a table ends: what its loader tells whoever gives it its turns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cdcloader.loader.incremental import Committed


class Outcome(StrEnum):
    """How a step ended; DONE asks for the next step.

    WAITING is for the end of a full load, LEASED to another loader, HELD in trouble and not yet to be tried again.
    """

    DONE = "done"
    IDLE = "idle"
    WAITING = "waiting"
    PAUSED = "paused"
    LEASED = "leased"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Step:
    """What a step came to; `until` is when a wait for the end of a full load ends, `reason` is for people."""

    outcome: Outcome
    reason: str = ""
    until: datetime | None = None
    committed: Committed | None = None
