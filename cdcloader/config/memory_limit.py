"""How much memory this process may take: its control group's limit, or what the machine has."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

_MIB = 1 << 20
# The part of the limit that is planned with: a peak may lie a quarter above the budget, and the rest is the system's.
_NUMERATOR, _DENOMINATOR = 3, 4
_LEAST_MB, _MOST_MB = 256, 4096
# As much as there could be on any machine: version 1 of control groups writes "no limit" as such a number.
_NO_LIMIT_BYTES = 1 << 60


def default_budget_mb(root: Path = Path("/")) -> int:
    """The budget where the config names none: three quarters of the memory, 256 MiB at least and 4096 at most."""
    return min(max(memory_bytes(root) * _NUMERATOR // _DENOMINATOR // _MIB, _LEAST_MB), _MOST_MB)


def budget_mb(stated: int | None) -> int:
    """The budget that holds, in MiB, where the config states one or none."""
    return stated if stated is not None else default_budget_mb()


def budget_warning(stated: int | None, root: Path = Path("/")) -> str:
    """What is wrong with a budget that the config states, in words; "" when it is neither too large nor too small."""
    limit_mb = memory_bytes(root) // _MIB
    budget = budget_mb(stated)
    if budget < _LEAST_MB:
        return (
            f"memory_budget_mb is {budget}, but the loader's libraries and the least that its work needs take more: it "
            f"keeps to no less than {_LEAST_MB}, and will take about as much as with {_LEAST_MB}"
        )
    if budget <= limit_mb:
        return ""
    return (
        f"memory_budget_mb is {budget}, but this process may take {limit_mb} MiB (its control group's limit, or what "
        "the machine has) and would be killed before it kept to its budget; lower it, or leave it out"
    )


def memory_bytes(root: Path = Path("/")) -> int:
    """The tighter of the control group's limit and the machine's memory; `root` is where /proc and /sys lie."""
    limit, physical = cgroup_limit_bytes(root), _physical_bytes()
    return physical if limit is None else min(limit, physical)


def cgroup_limit_bytes(root: Path = Path("/")) -> int | None:
    """The least limit of this process's control group and those above it, of either version; None without one."""
    groups = _text(root / "proc/self/cgroup")
    mount = root / "sys/fs/cgroup"
    limits = [_limit(folder / file) for base, file, path in _places(groups, mount) for folder in _upwards(base, path)]
    return min((limit for limit in limits if limit is not None), default=None)


def _places(groups: str, mount: Path) -> list[tuple[Path, str, str]]:
    """(where the hierarchy is mounted, its file of the limit, the path of the group in it) of each line that counts."""
    places = []
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            # With both versions on one machine the second lies in a folder of its own.
            places += [(mount, "memory.max", path), (mount / "unified", "memory.max", path)]
        elif "memory" in controllers.split(","):
            places.append((mount / "memory", "memory.limit_in_bytes", path))
    return places


def _upwards(base: Path, path: str) -> list[Path]:
    """The group's folder and those above it. In a container the path may be one of the host, which is not there."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    return [base.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _limit(file: Path) -> int | None:
    text = _text(file).strip()
    number = int(text) if text.isascii() and text.isdigit() else _NO_LIMIT_BYTES
    return number if 0 < number < _NO_LIMIT_BYTES else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
