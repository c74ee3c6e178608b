"""`python -m tests.soak`: the real loader is killed, stopped, raced and lied to for minutes; then no row may differ."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from tests.services.servers import Ceph, Dynalite, Servers
from tests.soak import figures
from tests.soak.world import KINDS, Kind, Outcome, World


def main() -> int:
    options = _parse()
    if options.write_docs:
        return figures.write_docs(options.write_docs)
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="cdcloader-soak-"))
    kinds = [kind for kind in KINDS if not options.only or kind.name in options.only]
    seconds = options.seconds or (8 if options.quick else 540)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    print(f"seed {seed}; {seconds} s in {len(kinds)} worlds under {folder}", file=sys.stderr)
    begun = time.time()
    servers = started(folder / "servers") if options.services else None
    try:
        outcomes = soak(folder, kinds, seed, seconds, stopping, servers)
    finally:
        if servers is not None:
            servers.stop()
    result = figures.result(outcomes, seed=seed, begun=begun, quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    Console(width=None if sys.stdout.isatty() else 160).print(figures.table(result))
    wrong = [line for outcome in outcomes for line in (*outcome.differences, *outcome.surprises)]
    for line in wrong[:30]:
        print(line, file=sys.stderr)
    if wrong:
        print(f"{len(wrong)} differences and surprises; seed {seed}; the worlds are kept in {folder}", file=sys.stderr)
        return 1
    if not options.folder:
        shutil.rmtree(folder)
    print("no row differs")
    return 0


def started(folder: Path) -> Servers:
    """Ceph and dynalite, installed where they are missing (tests/services)."""
    Dynalite.install()
    Ceph.install()
    servers = Servers.of(folder)
    servers.start()
    return servers


def soak(
    folder: Path,
    kinds: list[Kind],
    seed: int,
    seconds: float,
    stopping: threading.Event,
    servers: Servers | None = None,
) -> list[Outcome]:
    """The worlds, side by side."""

    def one(kind: Kind) -> Outcome:
        world = World(folder / kind.name, kind, seed, servers=servers)
        try:
            return world.live(seconds, stopping)
        finally:
            world.close()

    with ThreadPoolExecutor(len(kinds)) as pool:
        return list(pool.map(one, kinds))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, help="how long the worlds are disturbed (540)")
    parser.add_argument("--quick", action="store_true", help="a few seconds: shows that it runs")
    parser.add_argument("--only", nargs="+", choices=[kind.name for kind in KINDS], metavar="WORLD")
    parser.add_argument("--services", action="store_true", help="Ceph and dynalite in place of moto")
    parser.add_argument("--seed", type=int, help="of what DMS does and of the moments; printed, and random by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--folder", type=Path, help="where the worlds are made, and kept (else a temporary folder)")
    parser.add_argument("--write-docs", type=Path, metavar="FILE", help="write docs/guarantees.md from such a file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
