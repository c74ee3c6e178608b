"""SIGTERM and SIGINT: an orderly end, and an end at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn


class Signals:
    """The first signal that came."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name if self.number else ""

    @property
    def exit_code(self) -> int | None:
        return 128 + self.number if self.number else None


class Handlers:
    """SIGTERM and SIGINT ask for an orderly end; a second one ends the process at once."""

    def __init__(self, stopping: threading.Event, received: Signals) -> None:
        self._stopping = stopping
        self._received = received
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._received.number is not None:
            self._end(number)
        self._received.number = number
        self._stopping.set()

    def _end(self, number: int) -> NoReturn:
        os._exit(128 + number)
