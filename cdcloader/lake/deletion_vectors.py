"""Deletion vectors: which rows of a data file are dead (pure).

Format: the Delta protocol, "Deletion Vector Format" and "Deletion Vector Descriptor Schema". A vector is the
magic number 1681511377 (int32, little endian) followed by a 64-bit roaring bitmap in its portable
serialisation. A vector file is one version byte (1), then per vector its length (int32, big endian), its
bytes and their CRC-32 (int32, big endian). Texts are z85: 5 characters for 4 bytes.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyroaring import BitMap64

from cdcloader.errors import TableError

_MAGIC = 1681511377
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_Z85_VALUE = {character: value for value, character in enumerate(_Z85)}
_UUID_CHARACTERS = 20


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


def dead_rows(vector: Descriptor, read: Callable[[str], bytes], *, where: str) -> BitMap64:
    """The row numbers (from 0) that a vector marks; `read` returns a vector file's bytes by its path.

    TableError when the bytes are not what the descriptor says.
    """
    if vector.storage_type == "i":
        payload = _z85_decode(vector.path_or_inline)[: vector.size_bytes]
    else:
        content, start = read(file_name(vector)), vector.offset or 1
        (length,) = struct.unpack_from(">i", content, start)
        payload = content[start + 4 : start + 4 + length]
        (checksum,) = struct.unpack_from(">I", content, start + 4 + length)
        if length != vector.size_bytes or zlib.crc32(payload) != checksum:
            raise TableError("a deletion vector is damaged", where=where, hint="restore the table or reload it")
    if struct.unpack_from("<i", payload)[0] != _MAGIC:
        raise TableError("a deletion vector has an unknown format", where=where, hint="reload the table")
    return BitMap64.deserialize(payload[4:])


def _z85_decode(text: str) -> bytes:
    words = (text[i : i + 5] for i in range(0, len(text), 5))
    return b"".join(_word(word) for word in words)


def _word(characters: str) -> bytes:
    value = 0
    for character in characters:
        value = value * 85 + _Z85_VALUE[character]
    return value.to_bytes(4, "big")
