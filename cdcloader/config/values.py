"""The values that a config may hold, each by the rule that it keeps: names, places, numbers."""

from __future__ import annotations

import os
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from cdcloader.config.patterns import is_pattern


def shown(value: object) -> str:
    """A value as YAML would have it, short enough for one line."""
    words = {True: "true", False: "false", None: "null"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(value: object) -> object:
    # YAML's yes and true would else count as 1.
    if isinstance(value, bool):
        raise ValueError(f"should be a number, got {shown(value)}")  # noqa: TRY004
    return value


def listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names {', '.join(map(repr, twice))} more than once")
    return names


def _key(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names == ():
        raise ValueError("is empty; write null for an insert-only table")
    return names


def table_name(text: str) -> str:
    """A folder under raw or lake, without slashes at its ends."""
    name = text.strip("/")
    bad = [part for part in name.split("/") if part in ("", ".", "..") or not part.isprintable() or "\\" in part]
    if bad:
        raise ValueError(f"{shown(text)} should be schema/table; it may not hold the part {shown(bad[0])}")
    return name


def folder_name(text: str) -> str:
    """A folder under raw of any depth, without slashes at its ends."""
    try:
        return table_name(text)
    except ValueError as error:
        raise ValueError(str(error).replace("schema/table", "a folder, relative to raw")) from error


def target_name(text: str) -> str:
    name = table_name(text)
    if name.startswith("_") or "_delta_log" in name.split("/"):
        raise ValueError(f"{shown(text)} is not for tables; names that start with _ are the loader's own, set target")
    if unquote(name) != name:
        # delta-rs would look for the table, and write its checkpoints, at the decoded path.
        raise ValueError(f"{shown(text)} holds a percent escape, which readers of Delta tables decode; set target")
    if any(part.startswith(".") for part in name.split("/")):
        raise ValueError(f"{shown(text)} is hidden, as its name starts with a dot; set target")
    return name


def version_name(text: str) -> str:
    """A folder directly below a table's."""
    if table_name(text) != text or "/" in text or is_pattern(text):
        raise ValueError(f"{shown(text)} should be the name of one folder, such as v202011191200")
    return text


def local(text: str) -> str:
    """A local folder or file as an absolute path; `file://` URLs and ~ are understood."""
    if text.startswith("file://"):
        url = urlsplit(text)
        if url.netloc not in ("", "localhost"):
            raise ValueError(f"{shown(text)} should be file:///absolute/path")
        text = unquote(url.path)
    if not text or "\0" in text or "://" in text:
        raise ValueError(f"{shown(text)} should be a local path")
    return os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111


def place(text: str) -> str:
    """Raw or lake: s3://bucket/prefix without a slash at its end, or an absolute local path."""
    scheme, separator, rest = text.partition("://")
    if scheme == "s3" and separator:
        bucket, *parts = rest.rstrip("/").split("/")
        if "@" in bucket:
            raise ValueError("holds credentials; they come from the standard AWS variables, profile or role")
        if not bucket or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{shown(text)} should be s3://bucket/prefix")
        return f"s3://{'/'.join((bucket, *parts))}"
    if not text or (separator and scheme != "file"):
        raise ValueError(f"{shown(text)} should be s3://bucket/prefix or a local folder")
    return local(text)


def file_path(text: str) -> str:
    if text == ":memory:":
        raise ValueError("a state in memory is {kind: memory}")
    return local(text)


Whole = Annotated[int, BeforeValidator(_number)]
Seconds = Annotated[float, BeforeValidator(_number)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(listed), AfterValidator(_distinct)]
Key = Annotated[Names | None, AfterValidator(_key)]
Place = Annotated[str, AfterValidator(place)]
