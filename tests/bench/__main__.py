"""`make bench`: speed and memory against bare Polars and DeltaTable.merge. A missed target is shown, never an error."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.cases import CASES, QUICK, Result, Scale
from tests.bench.data import Cache

_VERSIONS = ("cdcloader", "deltalake", "obstore", "polars", "pyarrow")


def main() -> int:
    options = _parse()
    cache = Cache(options.folder)
    if options.clean:
        print(f"removed {options.folder}" if cache.clean() else f"{options.folder} is no folder of the benchmarks")
        return 0
    scale = QUICK if options.quick else Scale()
    if options.runs:
        scale = replace(scale, runs=options.runs)
    console = Console(stderr=True)
    cache.open()
    results: list[Result] = []
    for name in options.only or CASES:
        with console.status(f"{name} ..."):
            results += CASES[name](cache, scale)
        cache.empty_runs()
    _print(results)
    if options.json:
        facts = {"machine": _machine(), "scale": asdict(scale)}
        lines = [{**asdict(result), "reached": result.reached} for result in results]
        options.json.write_text(json.dumps({**facts, "results": lines}, indent=1) + "\n")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little data and one run: shows that it runs, no more")
    parser.add_argument("--only", nargs="+", choices=list(CASES), metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--runs", type=int, help="interleaved runs of each (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all samples and facts of the machine")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="where data is kept (.bench)")
    parser.add_argument("--clean", action="store_true", help="remove that folder and end")
    return parser.parse_args()


def _print(results: list[Result]) -> None:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("case", "ours", "reference", "measured", "target", "reached"):
        shown.add_column(heading, justify="left" if heading == "case" else "right", no_wrap=True)
    shown.add_column("against; where it goes")
    for result in results:
        relative = result.target_name.endswith("x")
        shown.add_row(
            result.name,
            f"{result.ours:.2f} {result.unit}" if result.unit == "s" else f"{result.ours:.0f} {result.unit}",
            f"{result.reference:.2f} {result.unit}" if result.unit == "s" else f"{result.reference:.0f} {result.unit}",
            f"{result.measured:.2f} x" if relative else f"{result.measured:.2f} {result.unit}",
            f"<= {result.target_name}",
            "yes" if result.reached else "no",
            f"{result.reference_name}; {result.note}",
        )
    width = None if sys.stdout.isatty() else 220
    Console(width=width).print(shown)
    machine = _machine()
    print(f"{machine['cores']} cores, {machine['memory_gb']} GB; Python {machine['python']}; {machine['versions']}")


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {_version(name)}" for name in _VERSIONS),
        "load_average": os.getloadavg()[0],
    }


def _version(name: str) -> str:
    if name == "cdcloader":
        import cdcloader

        return cdcloader.__version__
    return version(name)


if __name__ == "__main__":
    sys.exit(main())
