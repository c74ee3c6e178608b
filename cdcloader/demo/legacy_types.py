"""Takes the logical types out of a Parquet file's footer, so that only converted types say what a column holds.

DMS writes Parquet of that older kind. Readers see a difference: Polars reads such a timestamp without a zone,
pyarrow reads it as UTC. No writer at hand can leave them out, so the footer is edited; it is a Thrift struct in
the compact protocol (github.com/apache/thrift, doc/specs/thrift-compact-protocol.md; parquet.thrift).
"""

from __future__ import annotations

from collections.abc import Iterator

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_SCHEMA_FIELD = 2
_LOGICAL_TYPE_FIELD = 10
_LONG_LIST = 15
_TAIL_BYTES = 8


def without_logical_types(file: bytes) -> bytes:
    """The same Parquet file with the field `logicalType` removed from each schema element."""
    footer_bytes = int.from_bytes(file[-_TAIL_BYTES:-4], "little")
    start = len(file) - _TAIL_BYTES - footer_bytes
    footer = file[start:-_TAIL_BYTES]
    kept = bytearray()
    end_of_cut = 0
    # Logical type is the last field of its struct, so no later field header counts from it.
    for cut_from, cut_to in _logical_types(_Reader(footer)):
        kept += footer[end_of_cut:cut_from]
        end_of_cut = cut_to
    kept += footer[end_of_cut:]
    return file[:start] + bytes(kept) + len(kept).to_bytes(4, "little") + file[-4:]


def _logical_types(reader: _Reader) -> Iterator[tuple[int, int]]:
    """The spans of the `logicalType` fields in a FileMetaData struct, header byte included."""
    for _, field, kind in reader.fields():
        if field != _SCHEMA_FIELD:
            reader.skip(kind)
            continue
        size, _ = reader.list_header()
        for _ in range(size):
            for start, inner, inner_kind in reader.fields():
                reader.skip(inner_kind)
                if inner == _LOGICAL_TYPE_FIELD:
                    yield start, reader.place


class _Reader:
    """A cursor over bytes in Thrift's compact protocol that can pass over whatever it does not need."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def fields(self) -> Iterator[tuple[int, int, int]]:
        """(start of the header, field id, type) of each field of a struct; the consumer passes over its value."""
        field = 0
        while True:
            start = self.place
            header = self._byte()
            if header == 0:
                return
            delta = header >> 4
            field = field + delta if delta else self._zigzag()
            yield start, field, header & 0x0F

    def list_header(self) -> tuple[int, int]:
        """(number of elements, their type) of a list or set."""
        header = self._byte()
        size = header >> 4
        return (self._varint() if size == _LONG_LIST else size), header & 0x0F

    def skip(self, kind: int) -> None:
        """Pass over one field's value; a boolean's value stands in its header."""
        if kind in (_I16, _I32, _I64):
            self._varint()
        elif kind == _BYTE:
            self.place += 1
        elif kind == _DOUBLE:
            self.place += 8
        elif kind == _BINARY:
            size = self._varint()
            self.place += size
        elif kind == _STRUCT:
            for _, _, inner in self.fields():
                self.skip(inner)
        elif kind in (_LIST, _SET):
            size, inner = self.list_header()
            for _ in range(size):
                # In a list, unlike in a field, a boolean takes a byte.
                self.skip(_BYTE if inner in (_TRUE, _FALSE) else inner)
        elif kind == _MAP:
            raise ValueError("a Parquet footer has no maps")

    def _byte(self) -> int:
        value = self.data[self.place]
        self.place += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
