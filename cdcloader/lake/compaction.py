"""Which files upkeep writes again, and with which others: small jobs, most useful first (pure).

The files of a partition that follow one another in key order are its *base*; files whose key range lies over those
of the base (scattered batches make them) are its *overlays*. Small neighbours of the base are merged, small overlays
are merged with one another, and where the overlays have become heavy, they *settle*: a file of the base is written
again with the overlays' rows that belong between its neighbours. Each job makes the table better by a measure that
no other job makes worse (bytes of overlays, files with dead rows, number of files), so planning comes to an end.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cdcloader.lake.live import Key, Live, Partition, end_of, span_of

Spread = Callable[[str, Sequence[Key]], Sequence[int]]

# Overlays above this share of the bytes below them settle.
_OVERLAY_SHARE_MAX = 0.25
# A partition of so few files may have that many beyond twice the least: the tail that a stream of small batches leaves.
_SMALL_FILES, _TAIL_FILES = 2, 2
_GROUPS_MAX = 64
# Up to so many times the size of the other, a file is of like size.
_UNEVEN = 3.0
# A settled file may become so many times the size that files aim at; what is larger is not worth one commit.
_SETTLED_FILES_MAX = 4
# Rows that make so many files of the right size still go into one.
WHOLE_FILES_MAX = 1.5


class Kind(StrEnum):
    """What a job is for."""

    PURGE = "purge"
    MERGE = "merge"
    FOLD = "fold"
    SETTLE = "settle"


@dataclass(frozen=True, slots=True)
class Job:
    """One commit: the live rows of each group of files are written again, in key order, as files of the right size.

    To settle, the rows of `overlays` from the key `low` up to, and without, `high` (None: no bound) join the one group
    and die where they were.
    """

    kind: Kind
    groups: tuple[tuple[str, ...], ...]
    bytes: float
    overlays: tuple[str, ...] = ()
    low: Key | None = None
    high: Key | None = None


def make_jobs(files: Sequence[Live], *, keyed: bool, marks: bool, target_bytes: int, spread: Spread) -> list[Job]:
    """The jobs that a table needs now, in the order in which to do them; planning again afterwards may find more.

    `marks` tells whether rows may die by vectors; where they may not, vectors are purged. `spread` counts the live
    rows of a file below the first of some ascending keys, between each and the next, and from the last on.
    """
    parts: dict[Partition, list[Live]] = {}
    for file in files:
        parts.setdefault(file.partition, []).append(file)
    layouts = [_Layout.of(part, keyed=keyed) for part in parts.values()]
    merges = [group for layout in layouts for group in layout.merges(target_bytes)]
    merged = {file.path for group in merges for file in group}
    purges = [] if marks else [[file] for file in files if file.vector and file.path not in merged]
    # What settles depends on where the files lie, so it is planned where no other files are about to change.
    busy = {group[0].partition for group in merges}
    quiet = [layout for layout in layouts if marks and layout.partition not in busy]
    settles = [job for layout in quiet for job in layout.settled(target_bytes, spread)]
    taken = merged.union(*({*job.groups[0], *job.overlays} for job in settles))
    folds = [[file] for file in files if marks and file.is_dying and file.path not in taken]
    return [
        *_packed(Kind.PURGE, purges, target_bytes),
        *_packed(Kind.MERGE, merges, target_bytes),
        *_packed(Kind.FOLD, folds, target_bytes),
        *settles,
    ]


@dataclass(slots=True)
class _Layout:
    """The files of one partition: the base in key order, overlays, and files that lie nobody knows where."""

    base: list[Live]
    overlays: list[Live] = field(default_factory=list)
    unplaced: list[Live] = field(default_factory=list)

    @classmethod
    def of(cls, files: Sequence[Live], *, keyed: bool) -> _Layout:
        if not keyed:
            return cls(sorted(files, key=lambda file: (file.written, file.path)))
        placed = [file for file in files if file.is_placed]
        base = _heaviest_chain(placed)
        chosen = {file.path for file in base}
        return cls(
            base, [f for f in placed if f.path not in chosen], [file for file in files if not file.is_placed]
        )  # fmt: skip

    @property
    def partition(self) -> Partition:
        return next(file for files in (self.base, self.overlays, self.unplaced) for file in files).partition

    def merges(self, target_bytes: int) -> list[list[Live]]:
        """Groups of files that are better one file."""
        scattered = sorted([*self.overlays, *self.unplaced], key=lambda file: (file.live_bytes, file.path))
        neighbours = _full_windows(self.base, target_bytes)
        others = _full_windows(scattered, target_bytes)
        taken = {file.path for group in [*neighbours, *others] for file in group}
        inside = self._inside(target_bytes, taken)
        taken |= {file.path for group in inside for file in group}
        others += inside
        left = _Crowd(
            [*_cut_at(self.base, taken)], [file for file in scattered if file.path not in taken], target_bytes
        )  # fmt: skip
        files = [*self.base, *scattered]
        least = max(1, math.ceil(sum(file.live_bytes for file in files) / target_bytes))
        allowed = 2 * least + (_TAIL_FILES if least <= _SMALL_FILES else 0)
        extra = len(files) - sum(len(group) - 1 for group in [*neighbours, *others]) - allowed
        return [*neighbours, *others, *left.thinned(extra)]

    def settled(self, target_bytes: int, spread: Spread) -> list[Job]:
        """Where the overlays are heavy: the files of the base to write again with their rows, the densest first."""
        tiles = _Tiles.of(self.base)
        heavy = sum(file.live_bytes for file in self.overlays)
        below = sum(self.base[tile].live_bytes for tile in {t for file in self.overlays for t in tiles.under(file)})
        if heavy <= _OVERLAY_SHARE_MAX * below:
            return []
        shares = [tiles.shares(file, spread) for file in self.overlays]
        weights = [sum(share.get(tile, 0.0) for share in shares) for tile in range(len(self.base))]
        densest = sorted(range(len(self.base)), key=lambda tile: -weights[tile] / max(1.0, self.base[tile].live_bytes))
        jobs = []
        for tile in densest:
            bytes_ = self.base[tile].live_bytes + weights[tile]
            if heavy <= _OVERLAY_SHARE_MAX * below or not weights[tile]:
                break
            if bytes_ > self._largest(self.base[tile], target_bytes):
                continue
            low, high = tiles.range(tile)
            over = tuple(file.path for file, share in zip(self.overlays, shares, strict=True) if share.get(tile))
            jobs.append(Job(Kind.SETTLE, ((self.base[tile].path,),), bytes_, over, low, high))
            heavy, below = heavy - weights[tile], below + weights[tile]
        return jobs

    def _largest(self, base: Live, target_bytes: int) -> float:
        """The most bytes that may come of a file of the base and what settles in it."""
        if any(file.is_cut for file in (*self.base, *self.overlays)):
            # Of the parts of a file that is divided nobody would know where they lie, and so they would never settle.
            return WHOLE_FILES_MAX * target_bytes
        return _SETTLED_FILES_MAX * max(target_bytes, base.live_bytes)

    def _inside(self, target_bytes: int, taken: set[str]) -> list[list[Live]]:
        """A file of the base with the overlays that lie wholly over it, where they are heavy: that needs no vectors."""
        tiles = _Tiles.of(self.base)
        over: dict[int, list[Live]] = {}
        for file in self.overlays:
            under = tiles.under(file)
            if len(under) == 1 and file.path not in taken:
                over.setdefault(under[0], []).append(file)
        groups = []
        for tile, files in over.items():
            base, heavy = self.base[tile], sum(file.live_bytes for file in files)
            fits = heavy + base.live_bytes <= self._largest(base, target_bytes)
            if base.path not in taken and fits and heavy > _OVERLAY_SHARE_MAX * base.live_bytes:
                groups.append([base, *files])
        return groups


@dataclass(frozen=True, slots=True)
class _Tiles:
    """The ranges that divide all keys between the files of the base, so that no row is left over.

    Each begins with the lowest key of its file as far as that is known; what bounds it may be the first columns of a
    key, which stand before every key that begins with them.
    """

    starts: list[Key]

    @classmethod
    def of(cls, base: Sequence[Live]) -> _Tiles:
        starts: list[Key] = []
        for before, file in itertools.pairwise(base):
            starts.append(max(end_of(before), file.low or (), starts[-1] if starts else ()))
        return cls(starts)

    def under(self, file: Live) -> range:
        """The tiles that the file's range touches."""
        if file.low is None or file.high is None:
            return range(len(self.starts) + 1)
        return range(bisect.bisect_right(self.starts, file.low), bisect.bisect_right(self.starts, file.high) + 1)

    def shares(self, file: Live, spread: Spread) -> dict[int, float]:
        """The bytes of a file's live rows by tile."""
        under = self.under(file)
        if len(under) == 1:
            return {under[0]: file.live_bytes}
        counts = spread(file.path, self.starts[under[0] : under[-1]])
        each = file.live_bytes / max(1, sum(counts))
        return {tile: count * each for tile, count in zip(under, counts, strict=True) if count}

    def range(self, tile: int) -> tuple[Key | None, Key | None]:
        low = self.starts[tile - 1] if tile else None
        return low, self.starts[tile] if tile < len(self.starts) else None


@dataclass(slots=True)
class _Crowd:
    """Files of which some are merged only because there are too many: runs of neighbours, and files apart."""

    runs: list[list[Live]]
    apart: list[Live]
    target_bytes: int

    def thinned(self, extra: int) -> list[list[Live]]:
        """Groups that make the files fewer by `extra`, as far as that goes, writing as little as possible."""
        rows = [[[file] for file in run] for run in self.runs]
        pool = [[file] for file in self.apart]
        for _ in range(min(extra, _GROUPS_MAX)):
            found = [(*cost, row, at) for row in (*rows, pool) for at, cost in _costs(row, self.target_bytes)]
            if not found:
                break
            *_, row, at = min(found, key=lambda pair: pair[:2])
            row[at : at + 2] = [row[at] + row[at + 1]]
            pool.sort(key=_bytes)
        return [group for row in [*rows, pool] for group in row if len(group) > 1]


def _costs(row: Sequence[list[Live]], target_bytes: int) -> Iterator[tuple[int, tuple[float, float]]]:
    """The places in a row where two groups make one file, with what that costs: (by how much too uneven, bytes).

    Files of like size rest after a merge until they have doubled. A large one would be written with every batch.
    """
    for at, (first, second) in enumerate(itertools.pairwise(row)):
        small, large = sorted((_bytes(first), _bytes(second)))
        if small + large <= target_bytes:
            yield at, (max(_UNEVEN, large / max(1.0, small)), small + large)


def _bytes(group: Sequence[Live]) -> float:
    return sum(file.live_bytes for file in group)


def _heaviest_chain(files: Sequence[Live]) -> list[Live]:
    """The files that follow one another without overlap and weigh most together, in key order."""
    spans = sorted(((*span_of(file), file) for file in files), key=lambda span: (span[1], span[0], span[2].path))
    ends = [high for _, high, _ in spans]
    best: list[float] = [0.0]
    before: list[int] = []
    for number, (low, _, file) in enumerate(spans):
        fits = bisect.bisect_left(ends, low, hi=number)
        before.append(fits)
        best.append(max(best[-1], best[fits] + max(1.0, file.live_bytes)))
    chain: list[Live] = []
    number = len(spans)
    while number:
        if best[number] == best[number - 1]:
            number -= 1
            continue
        chain.append(spans[number - 1][2])
        number = before[number - 1]
    return chain[::-1]


def _full_windows(files: Sequence[Live], target_bytes: int) -> list[list[Live]]:
    """Runs of small files that together make at least half a file of the right size, and not more than one.

    A byte is written once for this: the file that it is in afterwards is not small.
    """
    groups: list[list[Live]] = []
    window: list[Live] = []

    def close() -> None:
        if len(window) > 1 and _bytes(window) >= target_bytes / 2:
            groups.append([*window])
        window.clear()

    for file in files:
        small = file.live_bytes < target_bytes / 2
        if not small or _bytes(window) + file.live_bytes > target_bytes:
            close()
        if small:
            window.append(file)
    close()
    return groups


def _cut_at(files: Sequence[Live], taken: set[str]) -> Iterator[list[Live]]:
    """The runs of neighbours between files that are taken."""
    run: list[Live] = []
    for file in files:
        if file.path not in taken:
            run.append(file)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _packed(kind: Kind, groups: Sequence[list[Live]], target_bytes: int) -> list[Job]:
    """Jobs of as many groups as one commit should write."""
    jobs: list[Job] = []
    packed: list[list[Live]] = []
    size = 0.0
    for group in [*groups, None]:
        full = group is None or size + _bytes(group) > target_bytes or len(packed) == _GROUPS_MAX
        if packed and full:
            jobs.append(Job(kind, tuple(tuple(file.path for file in each) for each in packed), size))
            packed, size = [], 0.0
        if group is not None:
            packed.append(group)
            size += _bytes(group)
    return jobs
