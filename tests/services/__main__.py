"""`make test-services`: starts Ceph and dynalite on loopback and runs the tests that can run against them.

What is missing is installed into .services, once. These are the contract, recovery and end-to-end suites and the matrix
of faults, or what `python -m tests.services PATH ...` names. Nothing is skipped for lack of a server: that is an error.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

from tests.services.servers import CACHE, ROOT, VARIABLE, Ceph, Dynalite, Missing, Servers

# Those of whose tests some need S3 or DynamoDB.
SUITES = (
    "tests/contract",
    "tests/e2e/test_s3.py",
    "tests/e2e/test_daemon.py",
    "tests/e2e/test_operate.py",
    "tests/e2e/test_verify.py",
    "tests/e2e/test_watchdog.py",
    "tests/recovery/test_two_daemons.py",
    "tests/services",
)
FOLDER = CACHE / "run"


def main(words: list[str]) -> int:
    """The exit code of pytest; 3 when the servers cannot be had."""
    servers = None
    # Who stops this stops the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        Dynalite.install()
        Ceph.install()
        _end_old_ones()
        servers = Servers.of(FOLDER)
        print("Starting Ceph and dynalite (half a minute) ...", flush=True)
        servers.start()
        names_some = any((ROOT / word.partition("::")[0]).exists() for word in words)
        return _pytest(words if names_some else [*SUITES, *words])
    except Missing as missing:
        print(f"The servers for the tests cannot be started: {missing}", file=sys.stderr)
        return 3
    finally:
        if servers is not None:
            servers.stop()


def _end_old_ones() -> None:
    """Those of a run that was killed, with their data."""
    if FOLDER.exists():
        Servers.of(FOLDER).stop()
        shutil.rmtree(FOLDER)


def _pytest(words: list[str]) -> int:
    chosen = "(not slow or services) and not moto"
    # What the names of the tests say is done in a local folder, in SQLite or in memory meets no server.
    command = [sys.executable, "-m", "pytest", "-q", "-m", chosen, "-k", "not (local or sqlite or memory)", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {VARIABLE: str(FOLDER)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
