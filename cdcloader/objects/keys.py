"""What a key may be."""

from __future__ import annotations

import re

from cdcloader.errors import TableError

_REFUSED = re.compile(r"[\\\x00-\x1f\x7f]")


def folder_of(prefix: str, where: str) -> str:
    """The folder without its trailing slash; TableError about `where` when it is no good key."""
    if not prefix:
        return ""
    folder = prefix.removesuffix("/")
    refuse_bad(folder, where)
    return folder


def refuse_bad(key: str, where: str) -> None:
    """TableError when a key could lead out of its root, or would not come back as it was written."""
    parts = key.split("/")
    if _REFUSED.search(key) or any(part in ("", ".", "..") for part in parts):
        hint = 'a key has no empty, "." or ".." part, no backslash and no control character'
        raise TableError(f"the key {key!r} is refused", where=where, hint=hint)
