"""CSV text cut into pieces, and what is looked for in its bytes."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.source import csv_records
from cdcloader.source.csv_records import holds_odd_zeros, pieces
from cdcloader.source.row_format import CsvFormat

CSV = CsvFormat()


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["a,b", "", "1,22,333", '"x\ny",z', '"q""q"', "é,ü" * 9]), max_size=20),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 60),
    st.booleans(),
)
def test_pieces_are_the_text_cut_behind_records(records, end, whole_end, piece_bytes, told):
    """Whatever the size of the pieces, with the stream's length told or not: no byte is lost, no record is cut."""
    text = end.join(records) + (end if whole_end else "")
    data = text.encode()
    cut = list(pieces(io.BytesIO(data), piece_bytes, CSV, blank_rows=True, length=len(data) if told else None))
    assert b"".join(bytes(piece.text) for piece in cut) == data
    assert not any(piece.skipped for piece in cut)
    for piece in cut[:-1]:
        assert bytes(piece.text).endswith(b"\n")
        assert bytes(piece.text).count(b'"') % 2 == 0
    assert all(piece.quoted for piece in cut if b'"' in bytes(piece.text))


def test_the_last_pieces_are_smaller():
    """Little is left to be worked on when a stream of known length has been read."""
    data = b"0123456,89\n" * 10_000
    sizes = [len(p.text) for p in pieces(io.BytesIO(data), 20_000, CSV, blank_rows=False, length=len(data))]
    assert max(sizes) < 21_000
    assert sizes[0] > 19_000
    assert sizes[-1] <= 20_000 // 4 + 11
    assert len(sizes) < 12


# What the fast parser takes for another number than is written, as one value.
ODD = re.compile(r'(?:^|[,\n\r"])(?:0[0-9xX]|-0(?:[0-9xX]|[^.]|$)| (?: |-|0))')
ODD_HEX = re.compile(r'(?:^|[,\n\r"])(?:0[xX]|-0[xX]| (?: |0[xX]))')


@settings(max_examples=500)
@given(st.text(st.sampled_from('0012-.,\n\r" xXa'), min_size=1, max_size=40), st.sampled_from([1, 2, 3, 7, 1 << 18]))
def test_odd_zeros_are_found_in_any_text(text, scanned_bytes):
    """Looking at all bytes at once finds what a pattern finds, wherever one block ends and the next begins."""
    view = memoryview(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "_SCANNED_BYTES", scanned_bytes)
        assert holds_odd_zeros(view, CSV, hex_only=False) == bool(ODD.search(text))
        assert holds_odd_zeros(view, CSV, hex_only=True) == bool(ODD_HEX.search(text))
