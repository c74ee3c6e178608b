"""What the config may say about the names of files: the time zone that they are in, and a pattern of the user's own."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

# Their clocks are turned back by two hours, so that two hours of names would have to be told apart, not one.
_UNORDERED = frozenset({"Antarctica/Troll"})
_WORDS = ("kind", "load", "cdc", "date", "time", "fraction", "number", "position", "format", "gz")


def time_zone(text: str) -> str:
    """An IANA name such as Europe/Berlin."""
    try:
        ZoneInfo(text)
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError only for names that look right.
        raise ValueError(f"{text!r} is no time zone; it should be a name such as Europe/Berlin") from error
    except KeyError as error:
        raise ValueError(f"there is no time zone {text!r}; it should be a name such as Europe/Berlin") from error
    if text in _UNORDERED:
        raise ValueError(f"{text!r} turns its clock back by two hours, which cannot be kept in order; have DMS use UTC")
    return text


def layout_pattern(text: str) -> str:
    """A regular expression whose named groups tell what a file is and where it stands."""
    try:
        groups = set(re.compile(text).groupindex)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    if unknown := sorted(groups - set(_WORDS)):
        raise ValueError(f"has the group {unknown[0]!r}; the groups are {', '.join(_WORDS)}")
    if "load" in groups and not groups & {"kind", "cdc", "date", "number", "position"}:
        return text  # A source of LOAD files alone needs no order.
    if not ({"date", "time"} <= groups or groups & {"number", "position"}):
        raise ValueError("tells no order of CDC files: it needs the groups date and time, or number, or position")
    return text
