"""Vectors as the Delta protocol writes them, and what happens to damaged ones."""

import struct
import uuid
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64

from cdcloader.errors import TableError
from cdcloader.lake.deletion_vectors import Descriptor, dead_rows, encode, file_name, from_action, pack, to_action

# An inline vector as the tests of delta-kernel-rs have it; the one in the text of the protocol is of an older format.
EXAMPLE = "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"

ROWS = st.one_of(
    st.sets(st.integers(0, 200), max_size=60),
    st.sets(st.integers(0, 2**33), max_size=20),
    st.builds(lambda start, count: set(range(start, start + count)), st.integers(0, 70_000), st.integers(0, 5_000)),
)


def read_from(content):
    return lambda _name, start, length: content[start : start + length]


def nothing(_name, _start, _length):
    raise AssertionError("an inline vector needs no file")


def test_a_vector_of_another_writer_is_read_and_written():
    """Row numbers 3, 4, 7, 11, 18 and 29 have the text that delta-kernel gives them."""
    vector = Descriptor("i", EXAMPLE, None, 44, 6)
    assert list(dead_rows(vector, nothing, where="t")) == [3, 4, 7, 11, 18, 29]
    descriptors, content = pack([BitMap64([3, 4, 7, 11, 18, 29])], uuid.uuid4())
    assert (descriptors, content) == ([vector], b"")


@given(vectors=st.lists(ROWS, min_size=1, max_size=5), inline_bytes=st.sampled_from([0, 64, 10_000]))
def test_packed_vectors_come_back_in_order(vectors, inline_bytes):
    """Whatever rows are marked, inline or in the shared file: each descriptor gives its own rows back."""
    bitmaps = [BitMap64(rows) for rows in vectors]
    descriptors, content = pack(bitmaps, uuid.uuid4(), inline_bytes=inline_bytes)
    assert [dead_rows(d, read_from(content), where="t") for d in descriptors] == bitmaps
    assert [d.cardinality for d in descriptors] == [len(rows) for rows in vectors]
    assert [from_action(to_action(d)) for d in descriptors] == descriptors
    assert len({d.unique_id for d in descriptors if d.storage_type == "u"}) == sum(
        d.storage_type == "u" for d in descriptors
    )


def test_a_vector_file_has_the_layout_of_the_protocol():
    """Version byte, then length, bytes and CRC-32 (big endian) of each vector; the name comes from the UUID."""
    file_id = uuid.UUID("d2c639aa-8816-431a-aaf6-d3fe2512ff61")
    bitmaps = [BitMap64(range(0, 4_000, 2)), BitMap64(range(1, 9_000, 3))]
    (first, second), content = pack(bitmaps, file_id, inline_bytes=0)
    assert file_name(first) == "deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin"
    # The protocol's own spelling of this UUID.
    assert first.path_or_inline == "^-aqEH.-t@S}K{vb[*k^"
    payloads = [encode(bitmap) for bitmap in bitmaps]
    layout = b"".join(struct.pack(">i", len(p)) + p + struct.pack(">I", zlib.crc32(p)) for p in payloads)
    assert content == b"\x01" + layout
    assert (first.offset, second.offset) == (1, 1 + 4 + len(payloads[0]) + 4)


@pytest.mark.parametrize("damage", ["cut", "flipped", "length", "count", "magic", "bitmap"])
def test_a_damaged_vector_stops_its_table(damage):
    """A vector that is not what the log says is an error with the place and a remedy, never a guess."""
    (vector,), content = pack([BitMap64(range(0, 4_000, 2))], uuid.uuid4(), inline_bytes=0)
    body = bytearray(content)
    if damage == "cut":
        del body[-9:]
    elif damage == "flipped":
        body[50] ^= 1
    elif damage == "length":
        body[4] ^= 1
    elif damage == "count":
        vector = replace(vector, cardinality=7)
    elif damage == "magic":
        (vector,), _ = pack([BitMap64([1])], uuid.uuid4())
        vector = replace(vector, path_or_inline="00000" + vector.path_or_inline[5:])
    else:
        (vector,), _ = pack([BitMap64([1])], uuid.uuid4())
        vector = replace(vector, path_or_inline=vector.path_or_inline[:10], size_bytes=8)
    with pytest.raises(TableError, match="deletion vector") as caught:
        dead_rows(vector, read_from(bytes(body)), where="s3://lake/t/part.parquet")
    assert caught.value.where == "s3://lake/t/part.parquet"
    assert caught.value.hint
