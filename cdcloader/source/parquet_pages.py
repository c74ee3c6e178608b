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


def has_usual_pages(content: bytes, parquet: pq.ParquetFile) -> bool:
    """Whether the first data page of each column chunk begins as data pages do.

    Polars makes room for as many values as a page says, and a damaged page may say any number.
    """
    metadata = parquet.metadata
    for place in range(metadata.num_row_groups):
        group = metadata.row_group(place)
        # A group without rows has no pages.
        for column in range(group.num_columns if group.num_rows else 0):
            start = group.column(column).data_page_offset
            if start < 0 or _DATA_PAGE.match(content, start) is None:
                return False
    return True
