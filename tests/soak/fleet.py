"""The loaders of a world: real processes, each started, watched, killed or stopped at random moments, started again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cdcloader
from tests.soak.places import Place

STARTING, IDLE, WORKING, COMMITTED = "while starting", "idle", "at work", "between commit and record"
_LIFE_SECONDS = 3.0
_WATCH_SECONDS = 12.0
_DRAIN_SECONDS = 90.0
# After a drain, and at the deadline for one, which a machine at its limit may need.
_ENDED_CODES = (0, 128 + signal.SIGTERM)
# What happens to one of several loaders, and how often.
_RACE_SIGNALS = ((signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM), (6, 3, 1))
_SNIPER = str(Path(__file__).with_name("sniper.py"))


@dataclass
class Member:
    """One process of the loader."""

    running: subprocess.Popen[bytes]
    log: Path
    once: bool
    begun: float = field(default_factory=time.monotonic)
    ready: bool = False

    @property
    def pid(self) -> int:
        return self.running.pid

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.begun

    @property
    def started(self) -> bool:
        """Whether it has come as far as to work, as a daemon says."""
        return b"daemon started" in self.log.read_bytes()

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()


class Command:
    """The command as its user has it, with nothing of this machine's settings."""

    def __init__(self, home: Path, place: Place, config: Path) -> None:
        script = Path(sys.executable).with_name("cdcloader")
        self._words = [str(script)] if script.exists() else [sys.executable, "-m", "cdcloader"]
        self._home, self._config = home, config
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(home), "NO_PROXY": "*", **place.environ}
        if not script.exists():
            self.environ["PYTHONPATH"] = str(Path(cdcloader.__file__).parents[1])
        self.logs = home / "logs"
        self.logs.mkdir()
        self._numbers = iter(range(1, 1_000_000))

    def start(self, *, once: bool = False) -> Member:
        log = self.logs / f"{next(self._numbers):05d}.log"
        words = [*self._words, "run", "--config", str(self._config), *(["--once", "--json"] if once else [])]
        with log.open("wb") as stream:
            running = subprocess.Popen(
                words, env=self.environ, cwd=self._home, stdout=subprocess.DEVNULL, stderr=stream
            )
        return Member(running, log, once)

    def call(self, *arguments: str, seconds: float) -> tuple[int | None, dict[str, Any], str]:
        """A command to its end: exit code (None: it did not end in time), the JSON it printed, and what it logged."""
        words = [*self._words, *arguments, "--json", "--config", str(self._config)]
        log = self.logs / f"{next(self._numbers):05d}.log"
        with log.open("wb") as stream:
            running = subprocess.Popen(words, env=self.environ, cwd=self._home, stdout=subprocess.PIPE, stderr=stream)
        try:
            told, _ = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            return None, {}, log.read_text()
        return running.returncode, json.loads(told) if told.startswith(b"{") else {}, log.read_text()


@dataclass
class Events:
    """What was done to the loaders of a world."""

    kills: Counter[str] = field(default_factory=Counter)
    tally: Counter[str] = field(default_factory=Counter)
    ends: list[str] = field(default_factory=list)
    """Processes that ended by themselves and should not have."""
    absences: list[tuple[float, float, Path]] = field(default_factory=list)
    """(from, to, log) of a loader's stops and deaths, in seconds of the clock of the day."""


class Keeper(threading.Thread):
    """Keeps one loader going, and disturbs it, until told to stop."""

    def __init__(
        self, command: Command, place: Place, rng: random.Random, *, lease_seconds: float, races: bool
    ) -> None:
        super().__init__(daemon=True)
        self.events = Events()
        self._command, self._place, self._rng = command, place, rng
        self._lease_seconds, self._races = lease_seconds, races
        self._stopping = threading.Event()
        self._member: Member | None = None
        self._start_seconds = 1.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._life()
        except BaseException as error:  # noqa: BLE001
            self.failure = error
        finally:
            if self._member is not None:
                self._member.kill()

    def stop(self) -> None:
        """No more lives after this one, which is cut short."""
        self._stopping.set()
        self.join()

    def check(self) -> None:
        """Raise what went wrong with the keeper itself."""
        if self.failure is not None:
            raise self.failure

    def _life(self) -> None:
        """One process, from its start to its death."""
        once = not self._races and self._rng.random() < 0.15
        self._member = member = self._command.start(once=once)
        while not self._stopping.is_set():
            (number,) = self._rng.choices(*_RACE_SIGNALS) if self._races else (signal.SIGKILL,)
            if not self._strike(member, number):
                self._note_end(member)
                return
            if number == signal.SIGSTOP:
                self._suspended(member)
                continue
            if number == signal.SIGTERM:
                self._ended(member)
            else:
                self._killed(member)
            return

    def _strike(self, member: Member, number: int) -> bool:
        """Send a signal at a random moment of its life; False when it ended before, or we are to stop."""
        chance, rng = self._rng.random(), self._rng
        if chance < 0.12 and not self._races:
            alive = self._rest(member, rng.uniform(0, self._start_seconds))
        elif chance < 0.35:
            alive = self._await_start(member) and self._rest(member, rng.uniform(0, _LIFE_SECONDS))
        else:
            alive = self._await_start(member) and self._rest(member, rng.uniform(0, _LIFE_SECONDS / 2))
            if alive and self._shoot(member, number, commit=chance > 0.6):
                return True
        if alive and member.running.poll() is None:
            member.running.send_signal(number)
            return True
        return False

    def _await_start(self, member: Member) -> bool:
        """How long a start takes depends on the machine and on who else is at work, so it is measured each time."""
        while not self._is_started(member):
            if not self._rest(member, 0.05):
                return False
        if not (member.once or member.ready):
            self._start_seconds = member.age_seconds
        member.ready = True
        return True

    def _is_started(self, member: Member) -> bool:
        if member.once:
            return member.age_seconds > self._start_seconds
        return member.started

    def _rest(self, member: Member, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while member.running.poll() is None and not self._stopping.is_set() and time.monotonic() < end:
            time.sleep(min(0.05, max(0.0, end - time.monotonic())))
        return member.running.poll() is None and not self._stopping.is_set()

    def _shoot(self, member: Member, number: int, *, commit: bool) -> bool:
        """The signal just when a commit, or a data file, appears. Nobody waits for the process, so its number stays."""
        wires = self._place.tripwires(commit=commit)
        pairs = [word for path, at in wires.items() for word in (path, str(at))]
        words = [sys.executable, "-S", "-E", _SNIPER, str(member.pid), str(int(number)), str(_WATCH_SECONDS), *pairs]
        return subprocess.run(words, check=False).returncode == 0

    def _ended(self, member: Member) -> None:
        """It was asked to end, as at a deployment: that takes no longer than a batch, and is no failure."""
        self.events.tally["SIGTERMs"] += 1
        try:
            code: int | None = member.running.wait(_DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
            member.kill()
        if code not in _ENDED_CODES:
            self.events.ends.append(f"{member.log}: {code} after SIGTERM: {member.log.read_text()[-600:]}")

    def _killed(self, member: Member) -> None:
        struck = time.time()
        code = member.running.wait()
        if code != -signal.SIGKILL:
            self._note_end(member)
            return
        self.events.kills[self._moment_of_death(member)] += 1
        if self._races:
            self._stopping.wait(self._rng.choice([0.0, self._lease_seconds * self._rng.uniform(0.5, 3)]))
            self.events.absences.append((struck, time.time(), member.log))

    def _moment_of_death(self, member: Member) -> str:
        held = [source for source, record in self._place.records().items() if _owns(member.pid, record)]
        if not held:
            return IDLE if self._is_started(member) else STARTING
        return COMMITTED if any(self._is_unrecorded(source) for source in held) else WORKING

    def _is_unrecorded(self, source: str) -> bool:
        """Whether the table's last batch is in the Delta log and not in its record."""
        infos = self._place.infos(source, last=4)
        last = max((version for version, info in infos if "position" in info.get("cdcloader", {})), default=-1)
        recorded = self._place.records().get(source, {}).get("RecordedVersion")
        return last > (-1 if recorded is None else recorded)

    def _suspended(self, member: Member) -> None:
        """As when a machine swaps, or a virtual one is paused: mostly for longer than the lease."""
        begun = time.time()
        holds = any(_owns(member.pid, record) for record in self._place.records().values())
        self._stopping.wait(self._lease_seconds * self._rng.uniform(0.5, 4))
        member.running.send_signal(signal.SIGCONT)
        self.events.absences.append((begun, time.time(), member.log))
        self.events.tally["SIGSTOPs"] += 1
        self.events.tally["SIGSTOPs while it held a table"] += holds

    def _note_end(self, member: Member) -> None:
        if self._stopping.is_set():
            return
        code = member.running.wait()
        if member.once and code in (0, 1):
            self.events.tally["passes of run --once that ended"] += 1
            return
        self.events.ends.append(f"{member.log} ended by itself with {code}: {member.log.read_text()[-600:]}")


def _owns(pid: int, record: dict[str, Any]) -> bool:
    return f":{pid}:" in str(record["LeaseOwner"] or "")
