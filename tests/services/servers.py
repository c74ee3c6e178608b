"""Real servers for the tests, on loopback: Ceph's radosgw for S3 and dynalite for DynamoDB."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".services"
CEPH = Path(__file__).with_name("ceph.sh")
DYNALITE = "dynalite@4.0.0"
# Set by `python -m tests.services` for the tests that it starts: the folder of the servers that run.
VARIABLE = "CDCLOADER_TEST_SERVICES"


class Missing(Exception):
    """Something that the servers need is not on this machine."""


class Ceph:
    """An S3 server in `folder`/ceph; the access key and the secret key are both "test"."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port, self._data = port, folder.resolve() / "ceph"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @staticmethod
    def install() -> None:
        if not (CACHE / "ceph" / ".complete").exists():
            _say("Downloading Ceph from Debian into .services (once, about half a minute) ...")
            _run([CEPH, "install", CACHE / "ceph"])

    def start(self) -> None:
        monitor, old_monitor = free_ports(2)
        _run([CEPH, "start", CACHE / "ceph", self._data, self.port, monitor, old_monitor])

    def kill(self) -> None:
        """The gateway dies at once; what it had acknowledged is on the disk."""
        _end(self._data / "run" / "rgw.pid", signal.SIGKILL)

    def restart(self) -> None:
        _run([CEPH, "start-gateway", CACHE / "ceph", self._data])

    def stop(self) -> None:
        for name in ("rgw", "osd", "mon"):
            _end(self._data / "run" / f"{name}.pid", signal.SIGKILL)


class Dynalite:
    """A DynamoDB server that keeps its tables in `folder`/dynalite; it checks no credentials."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port, self._data = port, folder.resolve() / "dynalite"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @staticmethod
    def install() -> None:
        program = CACHE / "npm" / "node_modules" / ".bin" / "dynalite"
        if program.exists():
            return
        if not shutil.which("npm"):
            raise Missing("dynalite needs node and npm; on Debian: apt-get install nodejs npm")
        _say("Installing dynalite into .services (once) ...")
        _run(
            ["npm", "install", "--prefix", CACHE / "npm", "--no-save", "--no-audit", "--no-fund", "--silent", DYNALITE],
            npm_config_cache=str(CACHE / "npm-cache"),
        )
        shutil.rmtree(CACHE / "npm-cache", ignore_errors=True)

    def start(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        command = [
            CACHE / "npm" / "node_modules" / ".bin" / "dynalite",
            *("--host", "127.0.0.1", "--port", self.port, "--path", self._data / "tables"),
            *("--createTableMs", 0, "--deleteTableMs", 0, "--updateTableMs", 0),
        ]
        with (self._data / "log").open("ab") as log:
            running = subprocess.Popen(
                [*map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (self._data / "pid").write_text(str(running.pid))
        _wait_for(self.port, self._data / "log")

    restart = start

    def kill(self) -> None:
        _end(self._data / "pid", signal.SIGKILL)

    stop = kill


@dataclass(frozen=True)
class Servers:
    """Both, in one folder."""

    folder: Path
    ceph: Ceph
    dynalite: Dynalite

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The servers of a folder on the ports that they have, or are to have."""
        file = folder / "ports.json"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(free_ports(2)))
        s3, dynamodb = json.loads(file.read_text())
        return cls(folder, Ceph(folder, s3), Dynalite(folder, dynamodb))

    def start(self) -> None:
        self.ceph.start()
        self.dynalite.start()

    def stop(self) -> None:
        self.ceph.stop()
        self.dynalite.stop()


def running() -> Servers | None:
    """The servers that the tests are to use; None where the tests use moto."""
    folder = os.environ.get(VARIABLE)
    return Servers.of(Path(folder)) if folder else None


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _run(command: list[object], **environ: str) -> None:
    done = subprocess.run(
        [*map(str, command)],
        env=os.environ | environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise Missing(f"{' '.join(map(str, command))} failed:\n{done.stdout}")


def _end(pid_file: Path, number: signal.Signals) -> None:
    """Send a signal to a process of ours, and wait until it is gone."""
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    # The file may be an old one, and the number a stranger's by now.
    if _runs(pid, pid_file):
        os.kill(pid, number)
    while _runs(pid, pid_file):
        time.sleep(0.02)
    pid_file.unlink()


def _runs(pid: int, pid_file: Path) -> bool:
    """Whether the process of a file runs: its command names the folder. One that has ended but was not collected
    yet has no command any more."""
    data = pid_file.parent if pid_file.parent.name == "dynalite" else pid_file.parents[1]
    try:
        return str(data).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def _wait_for(port: int, log: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Missing(f"nobody listens on port {port}; see {log}")


def _say(text: str) -> None:
    print(text, flush=True)
