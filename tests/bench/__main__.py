"""`make bench`: speed, memory and bytes, against the peers and against the reaches.

A missed reach is shown, never an error; wrong rows, ours or a peer's, are one: the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import traceback
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench import page
from tests.bench.bench import Bench
from tests.bench.cases import CASES
from tests.bench.data import Cache
from tests.bench.environments import Environments
from tests.bench.results import QUICK, Result, Scale, figure, reached_text, target_text

_VERSIONS = ("cdcloader", "deltalake", "duckdb", "obstore", "polars", "pyarrow")


def main() -> int:
    options = _parse()
    cache = Cache(options.folder)
    if options.clean:
        print(f"removed {options.folder}" if cache.clean() else f"{options.folder} is no folder of the benchmarks")
        return 0
    cache.open()
    environments = Environments(cache.folder / "envs", install=not options.quick)
    if options.write_docs:
        return page.write(options.write_docs, environments)
    scale = QUICK if options.quick else Scale()
    if options.runs:
        scale = replace(scale, runs=options.runs)
    kept = options.json or cache.folder / ("quick.json" if options.quick else "results.json")
    failed = _run(options.only or list(CASES), Bench(cache, scale, environments), kept)
    if kept.exists():
        page.draw(kept, cache.folder / "plots", environments)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little data, one run, no installs: shows that it runs")
    parser.add_argument("--only", nargs="+", choices=list(CASES), metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--runs", type=int, help="interleaved runs of each (3)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where all samples go; other cases that it holds stay in it"
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="where data and peers are kept (.bench)")
    parser.add_argument("--write-docs", type=Path, metavar="FILE", help="write docs/performance.md from such a file")
    parser.add_argument("--clean", action="store_true", help="remove that folder and end")
    return parser.parse_args()


def _run(names: list[str], bench: Bench, kept: Path) -> list[str]:
    """Run the cases, keeping what each has measured at once; returns those that failed."""
    console = Console(stderr=True)
    failed, results = [], []
    for name in names:
        begun = datetime.now(UTC)
        try:
            with console.status(f"{name} ..."):
                found = [replace(result, group=name) for result in CASES[name](bench)]
        except Exception:  # noqa: BLE001
            # A case that went wrong must not cost the hours of the others.
            traceback.print_exc()
            failed.append(name)
            continue
        finally:
            bench.cache.empty_runs()
        results += found
        _keep(kept, name, found, bench.scale, begun)
    _print(results)
    if bench.scale.load_rows == QUICK.load_rows:
        print("a quick run: it shows that everything runs; its figures mean nothing")
    print(f"kept in {kept}")
    return failed


def _keep(file: Path, name: str, results: list[Result], scale: Scale, begun: datetime) -> None:
    """Put a case's lines into the file, with the machine as it was; cases of another scale are dropped from it."""
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    sizes = {k: v for k, v in asdict(scale).items() if k != "runs"}
    same = kept.get("scale") == json.loads(json.dumps(sizes))
    cases = kept["cases"] if same else {}
    seconds = round((datetime.now(UTC) - begun).total_seconds())
    cases[name] = {
        "begun": begun.isoformat(timespec="seconds"),
        "seconds": seconds,
        "runs": scale.runs,
        "machine": _machine(),
        "results": [result.as_json() for result in results],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"scale": sizes, "quick": scale.load_rows == QUICK.load_rows, "cases": cases}, indent=1))


def _print(results: list[Result]) -> None:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("case", "measured", "reach", "reached", "ours", "reference"):
        shown.add_column(heading, justify="left" if heading == "case" else "right", no_wrap=True)
    shown.add_column("against; where it goes")
    for result in results:
        parts = "" if result.unit in ("s", "MB") else figure(result.ours, result.parts_unit)
        shown.add_row(
            result.name,
            "skipped" if result.skipped else figure(result.measured, result.unit),
            target_text(result),
            reached_text(result),
            parts,
            figure(result.reference, result.parts_unit),
            "; ".join(filter(None, (result.reference_name, result.note, result.skipped))),
        )
    Console(width=None if sys.stdout.isatty() else 240).print(shown)
    machine = _machine()
    print(f"{machine['cores']} cores, {machine['memory_gb']} GB; Python {machine['python']}; {machine['versions']}")


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "system": platform.system(),
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {_version(name)}" for name in _VERSIONS),
        "load_average": os.getloadavg()[0],
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _version(name: str) -> str:
    if name == "cdcloader":
        import cdcloader

        return cdcloader.__version__
    return version(name)


if __name__ == "__main__":
    sys.exit(main())
