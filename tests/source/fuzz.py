"""Files that were valid once: what becomes of bytes on their way, and the promise that reading them keeps."""

from __future__ import annotations

import io
from dataclasses import replace
from random import Random

from cdcloader.changes.net import ROW
from cdcloader.changes.schema import Field, Schema
from cdcloader.errors import TableError
from cdcloader.source.rows import Chunk, FileInput, RowFormat, describe, read

_ROUNDS_MAX = 50
SPECIAL = [b",", b'"', b"\n", b"\r\n", b"\r", b'""', b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"}", b":", b"\x1f\x8b"]


def damaged(valid: bytes, chance: Random, hits_max: int = 4) -> bytes:
    """The bytes after some hits: flipped bits, lost, doubled, swapped or inserted pieces, another end."""
    data = valid
    for _ in range(chance.randint(1, hits_max)):
        place, size = chance.randrange(len(data) + 1), chance.randint(1, 40)
        before, piece, after = data[:place], data[place : place + size], data[place + size :]
        hit = chance.choice(("flip", "byte", "insert", "noise", "cut", "double", "swap", "end"))
        if hit == "flip" and piece:
            data = before + bytes([piece[0] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
        elif hit == "byte":
            data = before + chance.randbytes(1) + data[place + 1 :]
        elif hit == "insert":
            data = before + chance.choice(SPECIAL) + data[place:]
        elif hit == "noise":
            data = before + chance.randbytes(chance.randint(1, 8)) + data[place:]
        elif hit == "cut":
            data = before + after
        elif hit == "double":
            data = before + piece + piece + after
        elif hit == "swap":
            data = before + after[:size] + piece + after[size:]
        elif hit == "end" and chance.random() < 0.3:
            data = before
    return data


def random_text(chance: Random) -> bytes:
    """Bytes that look like CSV or JSON here and there."""
    words = [*SPECIAL, b"I", b"U", b"1", b"id", b"Op", b"2026-09-01", b"\xc3\xbc"]
    return b"".join(
        chance.choice(words) if chance.random() < 0.9 else chance.randbytes(3) for _ in range(chance.randint(0, 60))
    )


def raw_file(content: bytes, format_: str, kind: str = "cdc", *, gzip: bool = False) -> FileInput:
    """The bytes as a raw file."""
    name = f"s/t/file.{format_}"
    return FileInput(0, name, kind, format_, gzip, len(content), lambda: io.BytesIO(content))


def read_whole(file: FileInput, fmt: RowFormat, chunk_bytes: int) -> list[Chunk] | None:
    """What the file holds, checked against the promise; None where it was refused.

    A refusal is a TableError that names the file and says what to do. Else each row is there once, by its number,
    as a row or as a reject with reason and text.
    """
    try:
        chunks = _chunks(file, fmt, chunk_bytes)
    except TableError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert file.name in str(refusal.where), refusal
        assert refusal.hint, refusal
        return None
    numbers = [number for chunk in chunks for number in (*chunk.rows[ROW], *chunk.rejects["row"])]
    assert sum(chunk.rows_in for chunk in chunks) == len(numbers)
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    for chunk in chunks:
        assert chunk.rejects["reason"].null_count() == 0
        assert chunk.rejects["raw"].null_count() == 0
        assert set(chunk.rejects["file"]) <= {file.name}
    return chunks


def rows_in(chunks: list[Chunk]) -> int:
    """How many rows the file has."""
    return sum(chunk.rows_in for chunk in chunks)


def _chunks(file: FileInput, fmt: RowFormat, chunk_bytes: int) -> list[Chunk]:
    """The file read as a full load reads it: types that were inferred give way until every value fits."""
    schema: Schema = describe([file], fmt)
    known = {field.name for field in fmt.known}
    guessed = {field.name for field in schema} - known if file.kind == "load" and file.format != "parquet" else set()
    for _ in range(_ROUNDS_MAX):
        form = replace(fmt, known=schema)
        chunks = list(read(file, form, schema, inferred=frozenset(guessed), chunk_bytes=chunk_bytes))
        misfits = next((chunk.misfits for chunk in chunks if chunk.misfits), None)
        if misfits is None:
            return chunks
        schema = tuple(Field(field.name, misfits.get(field.name, field.type)) for field in schema)
    raise AssertionError("the types find no end")
