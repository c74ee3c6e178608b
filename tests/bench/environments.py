"""The peers, each in an environment of its own that is made when it is missing, and never beside ours."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Sample

PEERS = Path(__file__).parent / "peers"
_INSTALL_SECONDS_MAX = 900
_RUN_SECONDS_MAX = 1_800
_SPARK_MEMORY = "6g"


class Unavailable(Exception):
    """An environment cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another way to do the same work: its script and requirements are `peers/<script>.py` and `peers/<name>.txt`."""

    name: str
    label: str
    script: str
    needs: str | None = None


DELTALAKE = Peer("deltalake", "deltalake merge", "deltalake_merge")
DLT = Peer("dlt", "dlt merge", "dlt_merge")
PYSPARK = Peer("pyspark", "PySpark job", "pyspark_job", needs="java")
ALL = (DELTALAKE, DLT, PYSPARK)


class Environments:
    """Virtual environments below a folder. Without `install` only those that are there already are used."""

    def __init__(self, folder: Path, *, install: bool) -> None:
        self._folder = folder
        self._install = install
        self._refused: dict[str, str] = {}

    def python(self, name: str) -> Path:
        """The interpreter of the environment `name`; Unavailable when it cannot be made, the same answer each time."""
        if name in self._refused:
            raise Unavailable(self._refused[name])
        try:
            return self._python(name)
        except Unavailable as error:
            self._refused[name] = str(error)
            raise

    def _python(self, name: str) -> Path:
        folder, pins = self._folder / name, PEERS / f"{name}.txt"
        wanted = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
        stamp, python = folder / ".installed", folder / "bin" / "python"
        if not stamp.exists() or stamp.read_text() != wanted:
            if not self._install:
                raise Unavailable(f"its environment {folder.name} is not installed (a full run installs it)")
            self._make(folder, pins)
            stamp.write_text(wanted)
        return python

    def _make(self, folder: Path, pins: Path) -> None:
        print(f"installing {pins.stem} for the benchmarks (once) ...", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--requirement", pins]
        try:
            venv.create(folder, with_pip=True)
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS_MAX
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"{pins.stem} cannot be installed: {error}") from error
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise Unavailable(f"{pins.stem} cannot be installed: {last[-1] if last else 'pip says nothing'}")

    def run(self, peer: Peer, table: Path, changes: Path, key: str, scratch: Path) -> Sample:
        """Let a peer apply net changes to a table. `seconds` begins after its imports, or when its session stands.

        Unavailable when the peer cannot be had; RuntimeError with its last words when it fails.
        """
        if peer.needs and shutil.which(peer.needs) is None:
            raise Unavailable(f"there is no {peer.needs}")
        python = self.python(peer.name)
        scratch.mkdir(parents=True, exist_ok=True)
        job = {"table": table, "changes": changes, "key": key, "scratch": scratch, "memory": _SPARK_MEMORY}
        command = [str(python), str(PEERS / f"{peer.script}.py"), json.dumps(job, default=str)]
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=scratch, capture_output=True, text=True, check=False, timeout=_RUN_SECONDS_MAX
        )
        whole = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{peer.label} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        return Sample(seconds=answer["seconds"], process_seconds=whole)
