"""SIGTERM and SIGINT: an orderly end, and an end at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

# Whatever hangs, an orderly end has come by then; orchestrators kill after 30 seconds.
_END_SECONDS = 28.0
_LOOK_SECONDS = 0.5


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
    """SIGTERM and SIGINT ask for an orderly end; a second one ends the process at once, and so does the deadline."""

    def __init__(self, stopping: threading.Event, received: Signals) -> None:
        self._stopping = stopping
        self._received = received
        self._left = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._keep_deadline, name="cdcloader-deadline", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._left.set()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._received.number is not None:
            self._end(number)
        self._received.number = number
        self._stopping.set()

    def _keep_deadline(self) -> None:
        """End the process where it does not end by itself, wherever it hangs."""
        # It looks instead of waiting for an event, which a signal handler cannot set at every moment.
        while self._received.number is None:
            if self._left.wait(_LOOK_SECONDS):
                return
        end = time.monotonic() + _END_SECONDS
        while time.monotonic() < end:
            if self._left.wait(_LOOK_SECONDS):
                return
        self._end(self._received.number)

    def _end(self, number: int) -> NoReturn:
        os._exit(128 + number)
