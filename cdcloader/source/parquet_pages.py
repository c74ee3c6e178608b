"""Whether a Parquet file's pages may be given to Polars, which aborts the process over some damaged ones (pure)."""

from __future__ import annotations

import re

import pyarrow.parquet as pq

# A number that is not negative in Thrift's compact protocol: the lowest bit of its first byte is the sign.
_SHORT = b"".join(re.escape(bytes([byte])) for byte in range(0, 128, 2))
_LONG = b"".join(re.escape(bytes([byte])) for byte in range(128, 256, 2))
_NUMBER = rb"\x15(?:[%b]|[%b][\x80-\xff]{0,3}[\x00-\x7f])" % (_SHORT, _LONG)
_CHECKSUM = rb"\x15[\x80-\xff]*[\x00-\x7f]"
# The header of a data page of either version: its type, its two sizes, and the struct that begins with its values.
_DATA_PAGE = re.compile(rb"\x15[\x00\x06]%b%b(?:%b)?[\x1c\x2c\x4c\x5c]%b" % (_NUMBER, _NUMBER, _CHECKSUM, _NUMBER))
# What a footer says of a column chunk: its values, its two sizes, and where its first data page stands.
_ANY = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
_CHUNK = re.compile(rb"\x16%b\x16%b\x16%b\x26(%b)" % (_ANY, _ANY, _ANY, _ANY))
_TAIL_BYTES = 8


def has_usual_pages(content: bytes, parquet: pq.ParquetFile) -> bool:
    """Whether the first data page of each column chunk begins as data pages do.

    Polars makes room for as many values as a page says, and a damaged page may say any number. The footer's text is
    searched, because pyarrow aborts the process where its objects for column chunks meet a damaged one.
    """
    metadata = parquet.metadata
    if not metadata.num_rows:
        return True
    footer = content[-_TAIL_BYTES - metadata.serialized_size : -_TAIL_BYTES]
    # Two chunks may look like one more, or like none: then the file is merely read by the slower way.
    starts = [_number(match[1]) for match in _CHUNK.finditer(footer)]
    if len(starts) != metadata.num_row_groups * metadata.num_columns:
        return False
    return all(_DATA_PAGE.match(content, start) for start in starts)


def _number(varint: bytes) -> int:
    """A number of Thrift's compact protocol that is not negative."""
    value = 0
    for place, byte in enumerate(varint):
        value |= (byte & 0x7F) << (7 * place)
    return value >> 1
