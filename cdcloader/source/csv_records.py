"""CSV bytes to pieces that end at a record's end, without the records whose quoting is broken (pure).

A newline inside quotes belongs to its value. Quoting is strict where it decides what a record is: a quote that is
never closed, or text after a closing quote, breaks its record. The broken record is its first line alone and reading
goes on behind it, so that one stray quote cannot swallow the rows that follow. A quote inside an unquoted value
is only a character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cdcloader.source.row_format import CsvFormat

Text = bytes | bytearray
Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
_SHORTEST_PIECE = 4  # a part of a whole one
LONGEST_RECORD = 128 * 2**20
UNCLOSED = "a quote is not closed, or text follows a closing quote"
NOT_UTF8 = "the text is not UTF-8"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NEWLINES = (0x0A, 0x0D)
_LINE_END_MAX = max(_NEWLINES)
_LINE_END = np.full(1, _LINE_END_MAX, np.uint8)
_PADDING = np.full(3, _LINE_END_MAX, np.uint8)
_SCANNED_BYTES = 1 << 18  # Few enough that a pass over them finds them in the processor's cache.
_SIGN = np.zeros(256, np.bool_)
_SIGN[[*b"0- "]] = True
_AFTER_ZERO = np.zeros(256, np.bool_)
_AFTER_ZERO[[*b"0123456789xX"]] = True
_HEX_SIGN = np.zeros(256, np.bool_)
_HEX_SIGN[[*b"xX"]] = True


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that was cut out: its place among the piece's records (from 0), its text, why."""

    place: int
    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole records, and the broken ones that stood among them; `quoted`: a quote may be in the text."""

    text: memoryview
    skipped: tuple[Skipped, ...] = ()
    quoted: bool = True


def pieces(
    stream: BinaryIO, piece_bytes: int, csv: CsvFormat, *, blank_rows: bool, length: int | None = None
) -> Iterator[Piece]:
    """The stream's records in pieces of about `piece_bytes`; a longer record makes a longer piece.

    `blank_rows`: an empty line is a row (of a table with one column), and not nothing. `length`: bytes of the stream,
    if they are known; then its last pieces are smaller, because the last one is waited for by all that comes after.
    """
    wanted = max(piece_bytes, 1)
    buffer = _filled(stream, b"", wanted)
    left = (length or 0) - len(buffer)
    more = bool(buffer)
    while more:
        piece, end = _take(buffer, csv, blank_rows=blank_rows, final=False)
        rest = buffer[end:]
        # The text that was handed on must not wait here for the next to be read.
        del buffer
        if end:
            yield piece
        del piece
        shorter = max(left // 2, wanted // _SHORTEST_PIECE) if length else wanted
        buffer = _filled(stream, rest, max(min(wanted, shorter), len(rest)))
        left -= len(buffer) - len(rest)
        more = len(buffer) > len(rest)
    if buffer:
        yield _take(buffer, csv, blank_rows=blank_rows, final=True)[0]


def holds_odd_zeros(text: memoryview, csv: CsvFormat, *, quoted: bool = True, hex_only: bool) -> bool:
    """Whether a value may begin with a zero that is not its whole integer part: 007, -0, 0x1F (or 0x1F alone).

    The fast parser takes them for 7, 0 and 31. Dates (2020-01-02) and fractions (0.5) are not meant. `quoted`:
    there may be a quote in the text.
    """
    data = np.frombuffer(text, np.uint8)
    borders = [ord(csv.delimiter), *([ord(csv.quote)] if quoted and csv.quote else [])]
    # The first value begins as if behind a line's end; what is padded at the end is no part of a value.
    if _any_odd(np.concatenate([_LINE_END, data[:3], _PADDING])[:4], borders, hex_only=hex_only):
        return True
    for start in range(0, len(data), _SCANNED_BYTES):
        block = data[start : start + _SCANNED_BYTES + len(_PADDING)]
        if len(block) < _SCANNED_BYTES + len(_PADDING):
            block = np.concatenate([block, _PADDING])
        if _any_odd(block, borders, hex_only=hex_only):
            return True
    return False


def _any_odd(block: Bytes, borders: list[int], *, hex_only: bool) -> bool:
    """Whether an odd zero stands behind a border in the block; its last three bytes are looked at only as followers.

    A value that begins like one is found by comparing all bytes at once, and only then looked at.
    """
    before, first = block[: -len(_PADDING)], block[1 : 1 - len(_PADDING)]
    found = before <= _LINE_END_MAX
    for border in borders:
        found |= before == border
    found &= first <= ord("0")
    places = np.flatnonzero(found)
    places = places[_SIGN[block[places + 1]]]
    if not len(places):
        return False
    odd = _HEX_SIGN if hex_only else _AFTER_ZERO
    sign, second, third = block[places + 1], block[places + 2], block[places + 3]
    zero, odd_third = second == ord("0"), odd[third]
    behind_minus, behind_blank = zero & odd_third, zero & odd_third | (second == ord(" "))
    if not hex_only:
        behind_minus |= zero & (third != ord("."))
        behind_blank |= zero | (second == ord("-"))
    hit = np.where(sign == ord("0"), odd[second], np.where(sign == ord("-"), behind_minus, behind_blank))
    return bool(hit.any())


def _filled(stream: BinaryIO, start: Text, wanted: int) -> Text:
    """`start` and about the next `wanted` bytes of the stream behind it, read in place; `start` alone at its end."""
    if not start:
        return stream.read(wanted)
    buffer = bytearray(len(start) + wanted)
    buffer[: len(start)] = start
    filled = len(start)
    with memoryview(buffer) as view:
        while filled < len(buffer) and (got := stream.readinto(view[filled:])):  # type: ignore[attr-defined]
            filled += got
    del buffer[filled:]
    return buffer


def sift(text: bytes, csv: CsvFormat, *, blank_rows: bool) -> Piece:
    """Cut out the records that are not UTF-8."""
    keep, skipped, place = [], [], 0
    for record in records(text, csv):
        try:
            record.decode()
            keep.append(_kept(record, csv))
        except UnicodeDecodeError:
            skipped.append(Skipped(place, record, NOT_UTF8))
        place += blank_rows or bool(content(record, csv))
    return Piece(memoryview(b"".join(keep)), tuple(skipped))


def records(text: Text, csv: CsvFormat) -> Iterator[bytes]:
    """The records of a text that has no broken one, each with its end."""
    at, pattern = 0, _record(csv)
    while at < len(text):
        match = pattern.match(text, at)
        record = match[0] if match and match[0] else bytes(text[at:])
        yield record
        at += len(record)


def first_record(text: bytes, csv: CsvFormat) -> int | None:
    """Where the text's first record ends (its line end included); None when it needs more text."""
    found = _next(text, 0, csv, final=False)
    return len(found[0]) if found else None


def head_records(text: bytes, csv: CsvFormat, limit: int, *, whole: bool) -> list[list[str]]:
    """The values of the first records; the last one only if the text is `whole`.

    An empty line is a record with one empty value, a broken record is one with none.
    """
    found_values: list[list[str]] = []
    at = 0
    while len(found_values) < limit and (found := _next(text, at, csv, final=whole)):
        record, sound = found
        found_values.append(split_values(content(record, csv), csv) if sound else [])
        at += len(record)
    return found_values


def content(record: bytes, csv: CsvFormat) -> bytes:
    """A record without its end."""
    return record.rstrip(b"\r\n") if csv.row_delimiter is None else record.removesuffix(csv.row_delimiter.encode())


def blank_start(text: bytes, csv: CsvFormat) -> int:
    """How many bytes of empty records the text begins with."""
    if csv.row_delimiter is None:
        return len(text) - len(text.lstrip(b"\r\n"))
    end, at = csv.row_delimiter.encode(), 0
    while text.startswith(end, at):
        at += len(end)
    return at


def last_end(buffer: Text, csv: CsvFormat) -> int:
    """Behind the last end of a record, quotes aside; 0 when there is none."""
    if csv.row_delimiter is not None:
        end = csv.row_delimiter.encode()
        return buffer.rfind(end) + len(end) if end in buffer else 0
    # A carriage return at the very end may be the first half of a line end.
    return buffer.rfind(b"\n") + 1 or buffer.rfind(b"\r", 0, max(len(buffer) - 1, 0)) + 1


def first_end(buffer: Text, at: int, csv: CsvFormat, *, final: bool) -> int | None:
    """Behind the first end of a record, quotes aside; None when there is none that is certain yet."""
    found = _record_end(csv).search(buffer, at)
    if found is None or (not final and csv.row_delimiter is None and found[0] == b"\r" and found.end() == len(buffer)):
        return None
    return found.end()


def record_places(text: memoryview, csv: CsvFormat) -> tuple[Places, Places, Places, Places]:
    """Where the records of a text begin, where their content and they end, and the delimiters of all their values.

    It looks at one value after the other, for a text in which quotes stand where they mean nothing, or whose delimiters
    are no single bytes. A record that is not sound has no delimiters.
    """
    whole, value, delimiter = bytes(text), re.compile(value_pattern(csv), re.DOTALL), re.compile(_delimiter(csv))
    starts, stops, ends, delimiters, at = [], [], [], [], 0
    while at < len(whole):
        starts.append(at)
        match = _record(csv).match(whole, at)
        end = match.end() if match else first_end(whole, at, csv, final=True) or len(whole)
        while match and (found := value.match(whole, at)) and (behind := delimiter.match(whole, found.end())):
            delimiters.append(found.end())
            at = behind.end()
        stops.append(starts[-1] + len(content(whole[starts[-1] : end], csv)))
        at = end
        ends.append(at)
    return _places(starts), _places(stops), _places(ends), _places(delimiters)


def _places(found: list[int]) -> Places:
    return np.array(found, np.int64)


def split_values(record: bytes, csv: CsvFormat) -> list[str]:
    """The values of one record, unquoted; bytes that are not UTF-8 are replaced."""
    text = record.decode(errors="replace")
    quote, delimiter = csv.quote, csv.delimiter
    if not quote or quote not in text:
        return text.split(delimiter)
    values, at = [], 0
    while True:
        if text.startswith(quote, at):
            value, at = _quoted(text, at + 1, quote)
        else:
            value = ""
        end = text.find(delimiter, at)
        values.append(value + text[at : end if end >= 0 else len(text)])
        if end < 0:
            return values
        at = end + len(delimiter)


def _quoted(text: str, start: int, quote: str) -> tuple[str, int]:
    at = start
    while True:
        end = text.find(quote, at)
        if end < 0:
            return text[start:].replace(quote * 2, quote), len(text)
        if text[end + 1 : end + 2] != quote:
            return text[start:end].replace(quote * 2, quote), end + 1
        at = end + 2


def _take(buffer: Text, csv: CsvFormat, *, blank_rows: bool, final: bool) -> tuple[Piece, int]:
    """The whole records at the start of the buffer and where they end (0: not one record is whole yet)."""
    if not csv.quote or csv.quote.encode() not in buffer:
        end = len(buffer) if final else last_end(buffer, csv)
        return Piece(memoryview(buffer)[:end], quoted=False), end
    if not csv.plain:
        impatient = final or len(buffer) > LONGEST_RECORD
        return _take_slowly(buffer, csv, blank_rows=blank_rows, final=final, impatient=impatient)
    quotes = np.flatnonzero(np.frombuffer(buffer, np.uint8) == ord(csv.quote))
    impatient = final or len(buffer) > LONGEST_RECORD
    if is_well_quoted(buffer, quotes, csv) and not (impatient and len(quotes) % 2):
        end = len(buffer) if final else _last_end(buffer, quotes)
        return Piece(memoryview(buffer)[:end]), end
    return _take_slowly(buffer, csv, blank_rows=blank_rows, final=final, impatient=impatient)


def is_well_quoted(buffer: Text | memoryview, quotes: np.ndarray, csv: CsvFormat) -> bool:
    """Whether every quote that opens stands at a value's start and every one that closes at a value's end."""
    data = np.frombuffer(buffer, np.uint8)
    borders = np.array([ord(csv.delimiter), *_NEWLINES], np.uint8)
    opening, closing = quotes[::2], quotes[1::2]
    before = data[opening[opening > 0] - 1]
    after = data[closing[closing < len(data) - 1] + 1]
    quote = ord(csv.quote or '"')
    starts = np.isin(before, borders) | (before == quote)
    return bool(starts.all() and (np.isin(after, borders) | (after == quote)).all())


def _last_end(buffer: Text, quotes: np.ndarray) -> int:
    """Behind the last line end that has an even number of quotes before it; 0 when there is none."""
    for end, stop in ((b"\n", len(buffer)), (b"\r", len(buffer) - 1)):
        at = stop
        while (at := buffer.rfind(end, 0, at)) >= 0:
            before = int(np.searchsorted(quotes, at))
            if not before % 2:
                return at + 1
            at = int(quotes[before - 1])
    return 0


def _take_slowly(buffer: Text, csv: CsvFormat, *, blank_rows: bool, final: bool, impatient: bool) -> tuple[Piece, int]:
    """Record by record, for a buffer with a broken record; `impatient` gives up on a quote that is still open."""
    keep, skipped, at, place = [], [], 0, 0
    while found := _next(buffer, at, csv, final=final, impatient=impatient):
        record, sound = found
        if sound:
            keep.append(_kept(record, csv))
        else:
            skipped.append(Skipped(place, record, UNCLOSED))
        at += len(record)
        place += blank_rows or bool(content(record, csv))
    return Piece(memoryview(b"".join(keep)), tuple(skipped)), at


def _kept(record: bytes, csv: CsvFormat) -> bytes:
    """A record whose end stays its own whatever follows: a lone carriage return would join a newline."""
    return record[:-1] + b"\n" if csv.row_delimiter is None and record.endswith(b"\r") else record


def _next(text: Text, at: int, csv: CsvFormat, *, final: bool, impatient: bool = False) -> tuple[bytes, bool] | None:
    """The record at `at` with its line end, and whether it is sound; None when it is not whole yet."""
    if at >= len(text):
        return None
    if match := _record(csv).match(text, at):
        ended = text.endswith((csv.row_delimiter or "\n").encode())
        unfinished = match.end() == len(text) and not ended
        return (match[0], True) if final or not unfinished else None
    end = first_end(text, at, csv, final=final)
    if not final and (end is None or (not impatient and _is_open(text, at, csv))):
        return None
    return bytes(text[at:end]), False


def _is_open(buffer: Text, at: int, csv: CsvFormat) -> bool:
    """Whether more bytes may still complete the record: the buffer ends inside its quotes."""
    return _open_record(csv).match(buffer, at) is not None


@cache
def _record(csv: CsvFormat) -> re.Pattern[bytes]:
    """One record and its end, or the text's end."""
    value, delimiter = value_pattern(csv), _delimiter(csv)
    return re.compile(rb"%b(?:%b%b)*+(?:%b|\Z)" % (value, delimiter, value, _record_end(csv).pattern), re.DOTALL)


@cache
def _record_end(csv: CsvFormat) -> re.Pattern[bytes]:
    return re.compile(rb"\r\n|\n|\r" if csv.row_delimiter is None else re.escape(csv.row_delimiter.encode()))


@cache
def _open_record(csv: CsvFormat) -> re.Pattern[bytes]:
    """The start of a record up to the text's end inside quotes, or behind them where a delimiter may have begun."""
    quote = re.escape((csv.quote or "").encode())
    start = rb"(?:%b%b)*+" % (value_pattern(csv), _delimiter(csv))
    begun = b"" if csv.plain else rb"(?:%b.{0,%d})?" % (quote, _longest_mark(csv) - 1)
    return re.compile(rb"%b%b(?:[^%b]++|%b%b)*+%b\Z" % (start, quote, quote, quote, quote, begun), re.DOTALL)


def _longest_mark(csv: CsvFormat) -> int:
    return max(len(csv.delimiter.encode()), len((csv.row_delimiter or "\r\n").encode()))


def _delimiter(csv: CsvFormat) -> bytes:
    """The delimiter, where it is not the start of a record's end."""
    delimiter = re.escape(csv.delimiter.encode())
    return delimiter if csv.plain else rb"(?!%b)%b" % (_record_end(csv).pattern, delimiter)


def value_pattern(csv: CsvFormat) -> bytes:
    """A value in or without quotes."""
    delimiter, end = re.escape(csv.delimiter.encode()), _record_end(csv).pattern
    plain = rb"[^%b\r\n]*+" % delimiter
    if not csv.plain:
        starts = re.escape(
            csv.delimiter.encode()[:1] + (csv.row_delimiter.encode()[:1] if csv.row_delimiter else b"\r\n")
        )
        plain = rb"(?:[^%b]++|(?!%b|%b).)*+" % (starts, end, delimiter)
    if not csv.quote:
        return plain
    quote = re.escape(csv.quote.encode())
    return rb"(?:%b(?:[^%b]++|%b%b)*+%b(?=%b|%b|\Z)|(?!%b)%b)" % (
        quote, quote, quote, quote, quote, delimiter, end, quote, plain,
    )  # fmt: skip
