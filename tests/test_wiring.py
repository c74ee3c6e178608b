"""Who holds a lease, and who of them certainly no longer runs."""

from __future__ import annotations

import os
import subprocess
import sys

from cdcloader import wiring
from cdcloader.wiring import owner_is_gone


def test_only_processes_of_this_place_are_known_to_be_gone(monkeypatch):
    """Containers may share the name of a host, and each has a process 1: one must not take the other for dead."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = wiring._machine()
    assert owner_is_gone(f"{here}:{ended.pid}:0badcafe")
    assert owner_is_gone(f"{here}:{os.getpid()}:0badcafe"), "our number, and not we: whoever had it before has ended"
    assert not owner_is_gone(f"{here}:{os.getppid()}:0badcafe")
    monkeypatch.setattr(wiring, "_machine", lambda: here.partition("/")[0] + "/another")
    assert not owner_is_gone(f"{here}:{ended.pid}:0badcafe")
    assert not owner_is_gone(f"{here}:{os.getpid()}:0badcafe")
