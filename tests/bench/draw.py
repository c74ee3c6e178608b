"""Draws the plots of a run: `python draw.py RESULTS.json FOLDER`, by an interpreter that has matplotlib.

What the run lacks is left out; the names of the files that were written are printed, one a line.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

COLOURS = {"ours": "#1b6ca8", "warm": "#7fb2d6", "deltalake": "#d1742f", "dlt": "#8a9a3b", "pyspark": "#7d4f9e"}
LABELS = {
    "ours": "cdcloader, new process",
    "warm": "cdcloader, running",
    "deltalake": "deltalake merge",
    "dlt": "dlt merge",
    "pyspark": "PySpark job",
}


def scattered(results):
    """Bars: seconds by peer and number of changes, on a logarithmic scale."""
    lines = [line for line in results if "who" in line["facts"] and not line["skipped"]]
    sizes = sorted({line["facts"]["changes"] for line in lines})
    seconds = {(line["facts"]["who"], line["facts"]["changes"]): _seconds(line) for line in lines}
    for line in lines:
        if line["facts"]["who"] == "ours":
            warm = sorted(sample["commit_seconds"] for sample in line["samples"]["warm"])
            seconds["warm", line["facts"]["changes"]] = warm[len(warm) // 2]
    names = [name for name in ("warm", *COLOURS) if any(name == who for who, _ in seconds)]
    names = list(dict.fromkeys(["warm", "ours", *names]))
    figure, axes = plt.subplots(figsize=(8, 4))
    width = 0.84 / len(names)
    for number, name in enumerate(names):
        heights = [seconds.get((name, size), 0) for size in sizes]
        places = [at + (number - (len(names) - 1) / 2) * width for at in range(len(sizes))]
        bars = axes.bar(places, heights, width * 0.94, color=COLOURS[name], label=LABELS[name])
        axes.bar_label(bars, [f"{height:.2g}" if height else "" for height in heights], fontsize=8, padding=2)
    _logarithmic(axes)
    axes.set_ylim(bottom=min(seconds.values()) / 2, top=max(seconds.values()) * 4)
    axes.set_xticks(range(len(sizes)), [f"{size:,} changes" for size in sizes])
    axes.set_ylabel("seconds (logarithmic)")
    axes.set_title(
        f"Scattered changes on {lines[0]['facts']['rows']:,} rows: file to commit; shorter is better", fontsize=10
    )
    axes.legend(fontsize=8, ncols=3, loc="upper left", frameon=False)
    return figure


def _logarithmic(axes):
    """A logarithmic scale of seconds with plain numbers: 0.1, 1, 10."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _seconds(line):
    return line["measured"] if line["unit"] == "s" else line["reference"]


def table_size(results):
    """Lines: seconds of the same changes against the rows of the table."""
    facts = next(line["facts"] for line in results if "warm" in line["facts"])
    rows = facts["rows"]
    figure, axes = plt.subplots(figsize=(8, 4))
    for name, key in (("warm", "warm"), ("ours", "cold"), ("deltalake", "deltalake")):
        points = [(at, value) for at, value in zip(rows, facts[key], strict=True) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=COLOURS[name], label=LABELS[name])
            for at, value in points:
                axes.annotate(f"{value:.2g} s", (at, value), xytext=(0, 7), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    _logarithmic(axes)
    axes.margins(0.12, 0.2)
    axes.set_xticks(rows, [f"{at:,}" for at in rows])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("rows in the table")
    axes.set_ylabel("seconds (logarithmic)")
    axes.set_title("The same scattered changes on tables of different size", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    return figure


def steady(results):
    """Three strips: seconds of each batch, live files, bytes, over a long stream."""
    series = next(line["facts"]["series"] for line in results if "series" in line["facts"])
    numbers = range(1, len(series) + 1)
    figure, (times, files, size) = plt.subplots(3, 1, figsize=(8, 6), sharex=True, height_ratios=(2, 1, 1))
    times.plot(numbers, [b["seconds"] for b in series], ".", ms=3, color=COLOURS["ours"], label="batch: file to commit")
    worked = [(at, b["upkeep_seconds"]) for at, b in zip(numbers, series, strict=True) if b["upkeep_seconds"] > 0.05]
    if worked:
        times.plot(*zip(*worked, strict=True), "x", ms=4, color=COLOURS["deltalake"], label="upkeep after it")
    _logarithmic(times)
    times.set_ylabel("seconds")
    times.legend(fontsize=8, frameon=False)
    times.set_title("A steady stream of batches through one loader", fontsize=10)
    files.plot(numbers, [b["files"] for b in series], color=COLOURS["ours"], label="live files")
    files.plot(numbers, [b["vectors"] for b in series], color=COLOURS["warm"], label="of them with a vector")
    files.set_ylim(bottom=0)
    files.legend(fontsize=8, frameon=False)
    files.set_ylabel("files")
    size.plot(numbers, [b["bytes"] / 1e6 for b in series], color=COLOURS["ours"])
    size.set_ylim(bottom=0)
    size.set_ylabel("live MB")
    size.set_xlabel("batch")
    return figure


PLOTS = {
    "scattered": ("scattered", scattered),
    "hundred_million": ("table-size", table_size),
    "steady": ("steady", steady),
}


def main():
    kept, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for case, (name, plot) in PLOTS.items():
        if case in kept["cases"]:
            drawn = plot(kept["cases"][case]["results"])
            for axes in drawn.axes:
                axes.spines[["top", "right"]].set_visible(False)
                axes.grid(axis="y", alpha=0.25)
                axes.set_axisbelow(True)
            drawn.tight_layout()
            drawn.savefig(folder / f"{name}.png", dpi=100)
            print(f"{name}.png")


main()
