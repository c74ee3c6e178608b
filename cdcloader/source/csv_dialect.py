"""CSV whose delimiters no parser takes, rewritten record for record into CSV that they all take (pure).

Values are kept as they are, and so is whether they stood in quotes, which decides what is NULL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

from cdcloader.source.csv_records import Piece, content, records, value_pattern
from cdcloader.source.row_format import CsvFormat

# Delimiters stand in for the file's own, so they must not occur in its text; control characters seldom do.
_STAND_INS = tuple(bytes([code]) for code in (*range(0x1F, 0x0D, -1), *range(0x0C, 0x0A, -1), *range(0x08, 0x00, -1)))


class NoStandInError(ValueError):
    """Every control character occurs in the text, so that none can stand in for a delimiter."""


def plain_piece(piece: Piece, csv: CsvFormat) -> tuple[Piece, CsvFormat]:
    """The piece, and how it is written: with a delimiter of one byte and LF behind each record.

    The records that were cut out of it are left as they were.
    """
    if csv.plain:
        return piece, csv
    text = bytes(piece.text)
    delimiter, row_end, quote = _stand_ins(text)
    plain = replace(csv, delimiter=delimiter.decode(), row_delimiter=None)
    rewritten = _replaced(text, csv, delimiter, row_end)
    if rewritten is not None:
        return Piece(memoryview(rewritten), piece.skipped, piece.quoted), plain
    plain = replace(plain, quote=csv.quote or quote.decode())
    rewritten = b"".join(_rewritten(text, csv, plain))
    return Piece(memoryview(rewritten), piece.skipped), plain


def restored(text: str, plain: CsvFormat, csv: CsvFormat) -> str:
    """A record of a rewritten text as the file has it, but for quotes around line ends."""
    return text if plain.delimiter == csv.delimiter else text.replace(plain.delimiter, csv.delimiter)


def _stand_ins(text: bytes) -> list[bytes]:
    found = list(islice((byte for byte in _STAND_INS if byte not in text), 3))
    if len(found) < 3:
        raise NoStandInError
    return found


def _replaced(text: bytes, csv: CsvFormat, delimiter: bytes, row_end: bytes) -> bytes | None:
    """The rewritten text, by what stands outside of quotes; None when that does not tell all."""
    quote = (csv.quote or "").encode()
    parts = text.split(quote) if quote else [text]
    outside = parts[::2]
    if len(parts) % 2 == 0 or not _stand_at_borders(outside, csv):
        return None
    if csv.row_delimiter is not None:
        own = csv.row_delimiter.encode()
        outside = [part.replace(own, row_end) for part in outside]
        if any(b"\n" in part or b"\r" in part for part in outside):
            return None
    wide = csv.delimiter.encode()
    parts[::2] = [part.replace(wide, delimiter).replace(row_end, b"\n") for part in outside]
    return quote.join(parts)


def _stand_at_borders(outside: list[bytes], csv: CsvFormat) -> bool:
    """Whether each quote opens at a value's start, or closes at its end: none is a character of its value."""
    ends = (b"\n", b"\r") if csv.row_delimiter is None else (csv.row_delimiter.encode(),)
    borders = (csv.delimiter.encode(), *ends)
    opens = all(not part or part.endswith(borders) for part in outside[:-1])
    return opens and all(not part or part.startswith(borders) for part in outside[1:])


def _rewritten(text: bytes, csv: CsvFormat, plain: CsvFormat) -> Iterator[bytes]:
    quote, delimiter = (plain.quote or "").encode(), plain.delimiter.encode()
    width = len(csv.delimiter.encode())
    pattern = _value(csv)
    for whole in records(text, csv):
        record, at, values = content(whole, csv), 0, []
        while found := pattern.match(record, at):
            values.append(_protected(found[0], quote, is_quoted=bool(csv.quote) and found[0].startswith(quote)))
            at = found.end() + width
            if found.end() >= len(record):
                break
        yield delimiter.join(values) + b"\n"


def _protected(value: bytes, quote: bytes, *, is_quoted: bool) -> bytes:
    """The value, in quotes if it holds a line end."""
    if is_quoted or not (b"\n" in value or b"\r" in value):
        return value
    return quote + value.replace(quote, quote * 2) + quote


@cache
def _value(csv: CsvFormat) -> re.Pattern[bytes]:
    return re.compile(value_pattern(csv), re.DOTALL)
