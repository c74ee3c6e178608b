"""Files of whole transactions: every row ends with its table, or is told to be broken."""

import csv
import io
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.errors import TableError
from cdcloader.source.csv_records import NOT_UTF8, UNCLOSED
from cdcloader.source.row_format import CsvFormat
from cdcloader.source.transactions import TOO_SHORT, names_by_source, split

NAMES = ("sales/orders", "sales/items", "hr/people")


PLAIN = CsvFormat()


def collect(content, fmt=PLAIN, piece_bytes=1 << 20):
    """The text and the row numbers by table, and the broken rows."""
    texts, numbers, broken = defaultdict(bytes), defaultdict(list), []
    for piece in split(io.BytesIO(content), fmt, piece_bytes, where="raw/f.csv"):
        for name, part in piece.parts.items():
            texts[name] += bytes(piece.text[part.text])
            numbers[name] += piece.numbers[part.rows].tolist()
        broken += piece.broken.rows()
    return dict(texts), dict(numbers), broken


def parsed(text, delimiter=",", end="\n"):
    """The rows as Python's csv module reads them, which knows delimiters of one character alone."""
    if delimiter == "||":
        text, delimiter = text.replace(b"||", b"\x1f"), "\x1f"
    if end == "<>":
        text = text.replace(b"<>", b"\n")
    return list(csv.reader(io.StringIO(text.decode(), newline=""), delimiter=delimiter, strict=True))


def written(row, delimiter, *, always_quoted):
    """A row as RFC 4180 has it (Python's csv module leaves a CR unquoted)."""

    def field(value):
        return '"' + value.replace('"', '""') + '"' if always_quoted or set(value) & {*'"\r\n', *delimiter} else value

    return delimiter.join(map(field, row))


values = st.text(st.sampled_from('ab,;|"\n\r é0'), max_size=6)
rows = st.tuples(st.sampled_from("IUD"), st.sampled_from(NAMES), st.lists(values, max_size=4))


@given(
    rows=st.lists(rows, max_size=30),
    always_quoted=st.booleans(),
    delimiter=st.sampled_from([",", ";", "||"]),
    end=st.sampled_from(["\n", "\r\n", "<>"]),
    piece_bytes=st.integers(1, 200),
    marked=st.booleans(),
)
def test_every_row_goes_to_its_table_with_its_number(rows, always_quoted, delimiter, end, piece_bytes, marked):
    """As Python's csv module reads a shared file, each table gets its rows, in their order, with their numbers."""
    content = ""
    expected, places = defaultdict(list), defaultdict(list)
    for number, (op, name, row) in enumerate(rows, start=1):
        schema, table = name.split("/")
        content += written([op, table, schema, *row], delimiter, always_quoted=always_quoted) + end
        expected[name].append([op, *row])
        places[name].append(number)
    text = ("\ufeff" if marked else "") + content
    texts, numbers, broken = collect(
        text.encode(), CsvFormat(delimiter=delimiter, row_delimiter="<>" if end == "<>" else None), piece_bytes
    )
    assert broken == []
    assert {name: parsed(text, delimiter, end) for name, text in texts.items()} == dict(expected)
    assert numbers == dict(places)


lines = st.lists(
    st.one_of(
        st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b"")),
        st.sampled_from([b'I,t,s,"x"y', b'U,t,s,5" pipe', b'D,t,s,"open', b"I,t", b"", b'I,"t",s,1', b"I,u,s,\xff"]),
    ),
    max_size=20,
)


@given(lines=lines, piece_bytes=st.integers(1, 60))
def test_no_row_is_lost(lines, piece_bytes):
    """Whatever the bytes are: each record is one row of one table, or one broken row, and has a number of its own."""
    content = b"\n".join(lines)
    _, numbers, broken = collect(content, piece_bytes=piece_bytes)
    found = sorted([number for each in numbers.values() for number in each] + [number for number, _, _ in broken])
    assert found == list(range(1, len(found) + 1))
    if b'"' not in content:
        assert len(found) == sum(bool(line) for line in lines)


def test_broken_rows_are_told_with_number_reason_and_text():
    """What belongs to no table does not keep the other rows from theirs."""
    content = b'I,t,s,1\nI,t\n\nU,t,s,"open\nD,\xff,s,3\nI,t,s,"a\nb"\nI,t,s\nx'
    texts, numbers, broken = collect(content)
    assert texts == {"s/t": b'I,1\nI,"a\nb"\nI\n'}
    assert numbers == {"s/t": [1, 5, 6]}
    assert broken == [
        (2, TOO_SHORT, "I,t"),
        (3, UNCLOSED, 'U,t,s,"open'),
        (4, NOT_UTF8, "D,\\xff,s,3"),
        (7, TOO_SHORT, "x"),
    ]


def test_a_value_that_is_not_utf8_stays_with_its_table():
    """The table's own quarantine tells of it, with its number in the shared file."""
    texts, numbers, broken = collect(b"I,t,s,\xff\nI,u,s,1\n")
    assert texts == {"s/t": b"I,\xff\n", "s/u": b"I,1\n"}
    assert (numbers, broken) == ({"s/t": [1], "s/u": [2]}, [])


def test_quotes_that_mean_nothing_are_characters():
    """A quote inside an unquoted value, names in quotes, and quoting that is switched off."""
    content = b'I,"t",s,5" pipe\nI,t,"s","a,b"\n'
    assert collect(content)[0] == {"s/t": b'I,5" pipe\nI,"a,b"\n'}
    assert collect(b'I,t,s,"a\nI,t,s,b"\n', CsvFormat(quote=None))[0] == {"s/t": b'I,"a\nI,b"\n'}


@pytest.mark.parametrize("at_once", [1, 3])
def test_short_records_are_taken_a_few_at_a_time(at_once, monkeypatch):
    """Memory is bounded where a file has millions of them; nothing of the result depends on it."""
    content = b'x\nI,t,s,1\n\nD,u,s,2\nU,t,s,"open\nI,t,s,3\n\xff,\xff,\xff\n' * 3
    whole = collect(content)
    monkeypatch.setattr("cdcloader.source.transactions._RECORDS_AT_ONCE", at_once)
    assert collect(content) == whole


def test_line_ends_of_every_kind_end_a_row():
    """LF, CR LF, a CR alone, and a last row without one."""
    texts, numbers, broken = collect(b"I,t,s,1\r\nI,u,s,2\rI,t,s,3\nI,t,s,4")
    assert (texts, broken) == ({"s/t": b"I,1\r\nI,3\nI,4\n", "s/u": b"I,2\r"}, [])
    assert numbers == {"s/t": [1, 3, 4], "s/u": [2]}


def test_utf_16_is_refused_by_name():
    """A file in another encoding stops its tables; it is not split into nonsense."""
    with pytest.raises(TableError, match="UTF-16"):
        collect("I,t,s,1\n".encode("utf-16"))


def test_a_source_is_found_by_other_capitals_only_where_that_is_certain():
    """Names are compared exactly first; rows of a table that differs in case alone are never mixed in."""
    assert names_by_source({"s/t", "S/T"}, {"s/t"}) == {"s/t": "s/t"}
    assert names_by_source({"S/T", "s/u"}, {"s/t", "s/u"}) == {"s/t": "S/T", "s/u": "s/u"}
    assert names_by_source({"S/T"}, {"s/t", "S/T"}) == {"S/T": "S/T"}
    assert names_by_source({"S/T"}, {"s/t", "s/T"}) == {}
    assert names_by_source({"S/T", "S/t"}, {"s/t"}) == {}
    assert names_by_source({"s/u"}, {"s/t"}) == {}
