"""One line of newline-delimited JSON to the texts of its values, with every digit of its numbers (pure)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from cdcloader.source.csv_records import NOT_UTF8


class Number(str):
    """A number as it is written: no digit of an identifier or a decimal may be rounded away."""

    __slots__ = ()


class Members(tuple[tuple[str, object], ...]):
    """The members of an object in their order, one of a name that came twice too."""

    __slots__ = ()


class Nested(str):
    """An object or a list as JSON text."""

    __slots__ = ()


class BadLineError(ValueError):
    """Why a line cannot become a row."""


@dataclass(slots=True)
class Names:
    """The columns' names by the keys of the lines: the first spelling counts where they differ in case alone."""

    folded: dict[str, str] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)

    def of(self, key: str) -> str:
        """The column that a key means; a new one is named after its key."""
        name = self.spelled.get(key)
        if name is None:
            name = self.spelled[key] = self.folded.setdefault(key.lower(), key)
        return name


# Python gives up at some hundreds, sooner or later by what called it: a line's fate must not hang on that.
_DEPTH_MAX = 200
_DECODER = json.JSONDecoder(object_pairs_hook=Members, parse_float=Number, parse_int=Number, parse_constant=Number)


def row_of(line: bytes, names: Names) -> dict[str, object]:
    """The values of one line, without blanks around it, by column; BadLineError where it is no row."""
    try:
        text = line.decode()
        members, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise BadLineError(f"no JSON object: Extra data (character {end + 1})")
        if isinstance(members, Members):
            members = _flat(members, line)
    except UnicodeEncodeError as error:
        raise BadLineError("half of a surrogate pair is no text") from error
    except UnicodeDecodeError as error:
        raise BadLineError(NOT_UTF8) from error
    except json.JSONDecodeError as error:
        raise BadLineError(f"no JSON object: {error.msg} (character {error.pos + 1})") from error
    except RecursionError as error:
        raise BadLineError("no row: it is nested too deeply") from error
    if not isinstance(members, Members):
        raise BadLineError("JSON, but no object")
    try:
        row = {names.spelled[key]: value for key, value in members}
    except KeyError:
        row = {names.of(key): value for key, value in members}
    if len(row) < len(members):
        keys = [names.of(key) for key, _ in members]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadLineError(f"the key '{twice}' stands there twice")
    return row


def text_of(value: object) -> str | None:
    """A value as the text that is parsed or kept: a number as written, a nested value as JSON; None for null."""
    if value is None or type(value) is str:
        return value
    return str(value) if isinstance(value, Number | Nested) else _rendered(value)


def _flat(members: Members, line: bytes) -> Members:
    """The members of a line with the text of what is nested; RecursionError or UnicodeEncodeError if one is none."""
    if b"[" in line or line.count(b"{") > 1:
        texts = ((key, Nested(_rendered(v)) if isinstance(v, Members | list) else v) for key, v in members)
        members = Members(texts)
    if rb"\u" in line and rb"\ud" in line.lower():
        # Half of a pair of surrogates can be escaped, and is no text that a table could hold.
        _rendered(members).encode()
    return members


def _rendered(value: object, depth: int = 0) -> str:
    """The value as JSON; RecursionError where it is nested too deeply."""
    if isinstance(value, Number | Nested):
        return str(value)
    if depth > _DEPTH_MAX:
        raise RecursionError
    if isinstance(value, Members):
        inner = [f"{json.dumps(k, ensure_ascii=False)}:{_rendered(v, depth + 1)}" for k, v in value]
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join([_rendered(each, depth + 1) for each in value]) + "]"
    return json.dumps(value, ensure_ascii=False)
