"""Sends a signal at the moment when a file changes, sooner than a thread among others could: `python -S sniper.py`.

Arguments: process, signal, seconds to wait at most, and pairs of a path and the modification time that it had (0: it
was not there). Exits with 0 when it has sent the signal, with 1 when nothing changed in time or the process was gone.
"""

from __future__ import annotations

import os
import sys
import time

_POLL_SECONDS = 0.0002


def main(process: int, number: int, seconds: float, *pairs: str) -> int:
    before = {path: int(at) for path, at in zip(pairs[::2], pairs[1::2], strict=True)}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if any(modified(path) != at for path, at in before.items()):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                return 1
            return 0
        time.sleep(_POLL_SECONDS)
    return 1


def modified(path: str) -> int:
    """When it was modified, in nanoseconds; 0 where it is not there."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 (importing pathlib takes longer than the rest)
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]))
