"""What the pattern that a table's `layout` gives makes of the name of a file (pure)."""

from __future__ import annotations

import re

from cdcloader.source.names import FORMATS, POSITION_MAX, Kind, Named, base_of, position_of_digits, position_of_number

_KINDS = {
    **dict.fromkeys(("load", "full", "data", "initial"), Kind.LOAD),
    **dict.fromkeys(("cdc", "inc", "change", "changes", "incremental"), Kind.CDC),
}
_MARKER = "FULL_LOAD_COMPLETE"


def named_by(layout: re.Pattern[str], name: str) -> Named | None:
    """What a name (relative to the source's folder) says by the groups of `layout`; None where it is no file of it."""
    match = layout.fullmatch(name)
    if match is None:
        return Named(Kind.MARKER) if base_of(name) == _MARKER else None
    groups = {group: text for group, text in match.groupdict().items() if text}
    suffix = name.lower().removesuffix(".gz").rpartition(".")[2]
    form = FORMATS.get(groups.get("format", suffix).lower())
    gzip = "gz" in groups or name.lower().endswith(".gz")
    kind = _kind(layout, groups)
    if form is None or kind is None or (gzip and form == "parquet"):
        return None
    if kind is Kind.LOAD:
        return _load(match, groups, form, gzip=gzip)
    position = _position(groups)
    if position is None:
        return None
    is_time = "date" in groups and "time" in groups and "position" not in groups
    return Named(Kind.CDC, form, gzip, position, number=None if is_time else position)


def _kind(layout: re.Pattern[str], groups: dict[str, str]) -> Kind | None:
    if "kind" in layout.groupindex:
        return _KINDS.get(groups.get("kind", "").lower())
    if "load" in groups:
        return Kind.LOAD
    return Kind.CDC if "cdc" in groups or "cdc" not in layout.groupindex else None


def _load(match: re.Match[str], groups: dict[str, str], form: str, *, gzip: bool) -> Named | None:
    if "number" not in groups:
        return Named(Kind.LOAD, form, gzip, group="" if "date" in groups else match.string)
    try:
        # Decimal numbers keep their order when they are read so.
        number = int(groups["number"], 16)
    except ValueError:
        return None
    # What lies under another date is another load, and not another part of the same.
    group = "" if "date" in groups else match.string[: match.start("number")]
    return Named(Kind.LOAD, form, gzip, load_number=number, group=group)


def _position(groups: dict[str, str]) -> int | None:
    """The position that the groups tell; one more than a bare number, because 0 is the place before the first file."""
    digits = {group: re.sub("[^0-9]", "", text) for group, text in groups.items()}
    date, time, number = digits.get("date", ""), digits.get("time", ""), digits.get("number", "")
    bare = digits.get("position") or ("" if date else number)
    if bare:
        return int(bare) + 1 if int(bare) < POSITION_MAX else None
    if len(date) == 8 and len(time) == 6:
        return position_of_digits(date, time, digits.get("fraction") or (f"{number:0>4}" if number else "0"))
    return position_of_number(date, int(number)) if number and not time else None
