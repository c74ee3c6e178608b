"""Versions of a source: loads beside each other, in folders of their own, of which the latest counts (pure)."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"([0-9]+)")
# As the articles on versioned reloads name them; other names must be configured to be read at all.
_USUAL = re.compile(r"v[0-9]+([._-][0-9]+)*")


def is_later(version: str, than: str | None) -> bool:
    """Whether a version comes after another one, None being none: as text, but for digits, which count as numbers."""
    return than is None or _order(version) > _order(than)


def looks_like_version(folder: str) -> bool:
    """Whether a folder below a table's is named as versions are."""
    return _USUAL.fullmatch(folder) is not None


def _order(version: str) -> list[tuple[int, int, str]]:
    # Every other part is digits: the first, which may be empty, is not.
    parts = enumerate(_DIGITS.split(version))
    return [(1, 0, part) if place % 2 == 0 else (0, int(part), "") for place, part in parts if part or place % 2]
