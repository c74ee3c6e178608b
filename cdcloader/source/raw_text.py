"""The text of a raw file as a stream of bytes, out of its gzip (pure)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from cdcloader.errors import TableError
from cdcloader.source.row_format import FileInput


@contextmanager
def raw_text(file: FileInput) -> Iterator[BinaryIO]:
    """The file's text as a stream of bytes; TableError when a gzip is damaged."""
    try:
        with file.open() as stored:
            yield cast("BinaryIO", gzip.GzipFile(fileobj=stored)) if file.gzip else stored
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TableError(
            "truncated or not gzip",
            where=file.name,
            hint="wait for DMS to write it again, or leave it out if its rows are of no use: cdcloader resume TABLE "
            "--skip FILE",
        ) from error
