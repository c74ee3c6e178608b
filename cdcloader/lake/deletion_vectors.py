"""Deletion vectors: which rows of a data file are dead, written and read (pure).

Format: the Delta protocol, "Deletion Vector Format" and "Deletion Vector Descriptor Schema". A vector is the
magic number 1681511377 (int32, little endian) followed by a 64-bit roaring bitmap in its portable
serialisation. A vector file is one version byte (1), then per vector its length (int32, big endian), its
bytes and their CRC-32 (int32, big endian). Texts are z85: 5 characters for 4 bytes.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyroaring import BitMap64

from cdcloader.errors import TableError

_MAGIC = 1681511377
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_Z85_VALUE = {character: value for value, character in enumerate(_Z85)}
_UUID_CHARACTERS = 20
_FILE_VERSION = b"\x01"
# Around a vector in its file: the length before it, the checksum behind it.
_LENGTH_BYTES, _CHECKSUM_BYTES = 4, 4
# Up to here a vector stands in the log itself: a request less for every reader, while the log stays small.
INLINE_BYTES = 256
_HINT = "restore the table to an earlier version, or reload it"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Where a data file's vector stands: `storage_type` u (file by UUID), p (file by path) or i (inline)."""

    storage_type: str
    path_or_inline: str
    offset: int | None
    size_bytes: int
    cardinality: int

    @property
    def unique_id(self) -> str:
        """The part of a logical file's identity that the vector adds (Delta protocol, "unique id")."""
        place = f"{self.storage_type}{self.path_or_inline}"
        return place if self.offset is None else f"{place}@{self.offset}"


def from_action(action: Mapping[str, object]) -> Descriptor:
    """A descriptor from the `deletionVector` of an add or remove action."""
    offset = action.get("offset")
    return Descriptor(
        storage_type=str(action["storageType"]),
        path_or_inline=str(action["pathOrInlineDv"]),
        offset=None if offset is None else int(str(offset)),
        size_bytes=int(str(action["sizeInBytes"])),
        cardinality=int(str(action["cardinality"])),
    )


def to_action(vector: Descriptor) -> dict[str, object]:
    """The `deletionVector` object of an add or remove action."""
    action: dict[str, object] = {
        "storageType": vector.storage_type,
        "pathOrInlineDv": vector.path_or_inline,
        "sizeInBytes": vector.size_bytes,
        "cardinality": vector.cardinality,
    }
    return action if vector.offset is None else {**action, "offset": vector.offset}


def file_name(vector: Descriptor) -> str:
    """The vector file's path, relative to the table (absolute for storage type p)."""
    if vector.storage_type == "p":
        return vector.path_or_inline
    prefix, encoded = vector.path_or_inline[:-_UUID_CHARACTERS], vector.path_or_inline[-_UUID_CHARACTERS:]
    name = f"deletion_vector_{uuid.UUID(bytes=_z85_decode(encoded))}.bin"
    return f"{prefix}/{name}" if prefix else name


def pack(
    vectors: Sequence[BitMap64], file_id: uuid.UUID, *, inline_bytes: int = INLINE_BYTES
) -> tuple[list[Descriptor], bytes]:
    """Descriptors of `vectors`, in order, and the content of the one vector file that those above `inline_bytes` share.

    The file's place is `file_name` of any descriptor with storage type u; without such a descriptor it is empty.
    """
    descriptors: list[Descriptor] = []
    content, file_text = bytearray(_FILE_VERSION), _z85_encode(file_id.bytes)
    for dead in vectors:
        payload = encode(dead)
        if len(payload) <= inline_bytes:
            text, place = _z85_encode(payload + bytes(-len(payload) % 4)), None
        else:
            text, place = file_text, len(content)
            content += struct.pack(">i", len(payload)) + payload + struct.pack(">I", zlib.crc32(payload))
        descriptors.append(Descriptor("i" if place is None else "u", text, place, len(payload), len(dead)))
    return descriptors, bytes(content) if len(content) > len(_FILE_VERSION) else b""


def encode(dead: BitMap64) -> bytes:
    """A vector's bytes: magic number and bitmap. Runs of rows are stored as runs."""
    compact = dead.copy()
    compact.run_optimize()
    return struct.pack("<i", _MAGIC) + compact.serialize()


def dead_rows(vector: Descriptor, read: Callable[[str, int, int], bytes], *, where: str) -> BitMap64:
    """The row numbers (from 0) that a vector marks; `read` returns bytes of a vector file by (path, start, length).

    TableError when the bytes are not what the descriptor says.
    """
    if vector.storage_type == "i":
        payload = _z85_decode(vector.path_or_inline)[: vector.size_bytes]
    else:
        size = _LENGTH_BYTES + vector.size_bytes + _CHECKSUM_BYTES
        payload = _checked(read(file_name(vector), vector.offset or len(_FILE_VERSION), size), vector, where)
    if len(payload) < _LENGTH_BYTES or struct.unpack_from("<i", payload)[0] != _MAGIC:
        raise TableError("a deletion vector has an unknown format", where=where, hint=_HINT)
    try:
        dead = BitMap64.deserialize(payload[_LENGTH_BYTES:])
    except ValueError as error:
        raise TableError("a deletion vector is damaged", where=where, hint=_HINT) from error
    if len(dead) != vector.cardinality:
        raise TableError(
            f"a deletion vector marks {len(dead)} rows, the log says {vector.cardinality}", where=where, hint=_HINT
        )
    return dead


def _checked(stored: bytes, vector: Descriptor, where: str) -> bytes:
    """The payload of a vector in its file: length, bytes, CRC-32."""
    payload = stored[_LENGTH_BYTES:-_CHECKSUM_BYTES]
    whole = len(stored) == _LENGTH_BYTES + vector.size_bytes + _CHECKSUM_BYTES
    if (
        not whole
        or struct.unpack_from(">i", stored)[0] != vector.size_bytes
        or struct.unpack_from(">I", stored, len(stored) - _CHECKSUM_BYTES)[0] != zlib.crc32(payload)
    ):
        raise TableError("a deletion vector is damaged", where=where, hint=_HINT)
    return payload


def _z85_encode(content: bytes) -> str:
    return "".join(_characters(content[i : i + 4]) for i in range(0, len(content), 4))


def _characters(word: bytes) -> str:
    value = int.from_bytes(word, "big")
    digits = []
    for _ in range(5):
        value, digit = divmod(value, 85)
        digits.append(_Z85[digit])
    return "".join(reversed(digits))


def _z85_decode(text: str) -> bytes:
    words = (text[i : i + 5] for i in range(0, len(text), 5))
    return b"".join(_word(word) for word in words)


def _word(characters: str) -> bytes:
    value = 0
    for character in characters:
        value = value * 85 + _Z85_VALUE[character]
    return value.to_bytes(4, "big")
