"""Which rows of the live data files are dead: vectors are read once, kept, and written one file a commit."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from pyroaring import BitMap64

from cdcloader.lake import datafiles, deletion_vectors
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects

_NONE = BitMap64()
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/=_.+-]+")
# Statistics as we write them: what they lack is put behind them, and parsing them would only cost time.
_PLAIN_STATISTICS = re.compile(r'\{"numRecords":[0-9]+,.*\}\Z', re.DOTALL)
_LOOSE = ',"tightBounds":false}'
_FLOAT = re.compile(r'"\\u0000([-+.0-9eE]+)"')


class Vectors:
    """Decoded vectors of the tables of one process, up to `max_bytes`; the oldest used go first. Thread-safe."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, str], tuple[BitMap64, int]] = OrderedDict()
        self._lock = threading.Lock()

    def dead(self, objects: Objects, table: str, file: DataFile) -> BitMap64:
        """The rows of a data file that its vector marks, to be copied before it is changed."""
        if file.vector is None:
            return _NONE
        name = (objects.path_of(table), file.vector.unique_id)
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name][0]
        dead = datafiles.dead_rows(objects, table, file)
        self._keep(name, dead, file.vector.size_bytes)
        return dead

    def mark(self, objects: Objects, table: str, marks: Sequence[tuple[DataFile, BitMap64]]) -> list[DataFile]:
        """The given files with vectors of all their dead rows, to be added in their place; writes one vector file."""
        descriptors, content = deletion_vectors.pack([dead for _, dead in marks], uuid.uuid4())
        packed = next((d for d in descriptors if d.storage_type == "u"), None)
        if packed is not None:
            objects.write(f"{table}/{deletion_vectors.file_name(packed)}", content)
        marked = []
        for (file, dead), descriptor in zip(marks, descriptors, strict=True):
            marked.append(replace(file, vector=descriptor, stats=_loose_statistics(objects, table, file)))
            self._keep((objects.path_of(table), descriptor.unique_id), dead, descriptor.size_bytes)
        return marked

    def _keep(self, name: tuple[str, str], dead: BitMap64, size: int) -> None:
        with self._lock:
            self._bytes -= self._kept.pop(name, (dead, 0))[1]
            self._kept[name] = (dead, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self._bytes -= freed


def is_markable(file: DataFile) -> bool:
    """Whether every reader finds the vector of a file.

    Polars 2.1 looks for vectors by the path that delta-rs gives, which is encoded once more than the file's own: of a
    partition folder with a space, a percent sign or an umlaut it would show the dead rows.
    """
    return _PLAIN_PATH.fullmatch(file.path) is not None


def _loose_statistics(objects: Objects, table: str, file: DataFile) -> str:
    """Statistics of a file with a vector: they count its dead rows too, so their bounds are wide, not tight.

    The protocol demands `numRecords` beside a vector ("Writer Requirements for Deletion Vectors").
    """
    if file.stats and _PLAIN_STATISTICS.match(file.stats):
        if file.stats.endswith(_LOOSE):
            return file.stats
        if '"tightBounds"' not in file.stats:
            return file.stats[:-1] + _LOOSE
    # Floats keep their digits: a bound that is rounded is no bound.
    statistics = json.loads(file.stats, parse_float=lambda text: f"\0{text}") if file.stats else {}
    if statistics.get("tightBounds") is False and "numRecords" in statistics:
        return str(file.stats)
    if "numRecords" not in statistics:
        statistics["numRecords"] = datafiles.stored_rows(objects, table, file)
    text = json.dumps({**statistics, "tightBounds": False}, ensure_ascii=True, separators=(",", ":"))
    return _FLOAT.sub(r"\1", text)
