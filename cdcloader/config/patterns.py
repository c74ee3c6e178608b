"""Names with wildcards: a source that stands for many folders, and the placeholders of their targets."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

_WILDCARD = re.compile(r"[*?\[]")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def is_pattern(source: str) -> bool:
    """Whether a source names folders by `*`, `?` or `[...]`, as shells do."""
    return _WILDCARD.search(source) is not None


def matches(pattern: str, name: str) -> bool:
    """Whether a folder's path matches, part by part: no wildcard stands for a slash, and case counts."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def matches_table(pattern: str, source: str) -> bool:
    """Whether a pattern without a slash matches the table's name, or one with slashes its whole source."""
    return matches(pattern, source if "/" in pattern else source.rpartition("/")[2])


def checked_target(target: str, source: str) -> str:
    """The target of a pattern; ValueError when its tables could not be told apart by it, or it names what is not."""
    if target == source:
        return target
    named = set(_PLACEHOLDER.findall(target))
    if not named <= {"schema", "table"}:
        raise ValueError(f"{target!r} may hold the placeholders {{schema}} and {{table}}, and no others")
    if not named:
        raise ValueError(
            f"every table of {source!r} would have the one target {target!r}; write {{table}} for its name"
        )
    return target


def filled(target: str, source: str) -> str:
    """The target of one table of a pattern whose target holds placeholders."""
    schema, _, table = source.rpartition("/")
    return _PLACEHOLDER.sub(lambda match: {"schema": schema, "table": table}[match[1]], target)
