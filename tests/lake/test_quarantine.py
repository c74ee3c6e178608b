"""The quarantine takes little memory, and the same file makes the same objects whatever it is read with."""

from __future__ import annotations

import polars as pl
import pytest

from cdcloader.lake import quarantine
from cdcloader.lake.quarantine import Quarantine
from cdcloader.objects import Objects


def rejects(file: str, first: int, count: int) -> pl.DataFrame:
    numbers = range(first, first + count)
    return pl.DataFrame(
        {"file": [file] * count, "row": list(numbers), "reason": ["bad"] * count, "raw": [f"{n},x" for n in numbers]}
    )


def written(root, files):
    """The objects that reading these files writes, with their content: file -> chunks of so many rows."""
    objects = Objects.open(str(root), create=True)
    kept = Quarantine(objects, "s/t", {f"raw/{name}": "etag" for name in files})
    most = 0
    for name, chunks in files.items():
        first = 1
        for count in chunks:
            kept.add(f"raw/{name}", rejects(f"raw/{name}", first, count))
            first += count
            most = max(most, sum(frame.height for frames in kept._waiting.values() for frame in frames))
    kept.flush()
    assert kept.rows == sum(map(sum, files.values()))
    return {item.key: pl.read_parquet(objects.path_of(item.key)).rows() for item in objects.list("_quarantine")}, most


def test_many_files_with_bad_rows_do_not_fill_the_memory(tmp_path, monkeypatch):
    """Rows wait for a part to be full, of all files together; the parts are those of each file alone."""
    monkeypatch.setattr(quarantine, "_PART_ROWS", 100)
    files = {f"{n}.csv": [40, 30, 20] for n in range(20)} | {"large.csv": [60] * 7, "last.csv": [1]}
    together, most = written(tmp_path / "together", files)
    assert most < 200
    alone = {}
    for name, chunks in files.items():
        alone |= written(tmp_path / name, {name: chunks})[0]
    assert together == alone
    rows = [row for content in together.values() for row in content]
    assert len(rows) == len(set(rows)) == sum(map(sum, files.values()))


@pytest.mark.parametrize("count", [0, 1])
def test_little_is_written_once(tmp_path, count):
    """A file without a bad row writes nothing, one with one writes one object."""
    objects, _ = written(tmp_path, {"a.csv": [0, count, 0]})
    assert len(objects) == count
