"""Raw files ahead of their use."""

from __future__ import annotations

import threading
from io import BytesIO

import pytest

from cdcloader.errors import TransientError
from cdcloader.loader.fetch import Ahead
from cdcloader.source.rows import FileInput


class Store:
    """Ten objects of 100 bytes and one of 1,000; counts what is read whole, and what was opened as a stream."""

    def __init__(self):
        self.contents = [bytes([place]) * (1_000 if place == 5 else 100) for place in range(10)]
        self.reads, self.streams = [], []
        self._lock = threading.Lock()

    def read(self, place):
        with self._lock:
            self.reads.append(place)
        return self.contents[place]

    def inputs(self):
        def stream(place):
            self.streams.append(place)
            return BytesIO(self.contents[place])

        return [
            FileInput(place, f"f{place}", "cdc", "csv", False, len(content), lambda place=place: stream(place))
            for place, content in enumerate(self.contents)
        ]


def contents(ahead):
    found = []
    for item in ahead.inputs:
        with item.open() as stored:
            found.append(stored.read())
    return found


def test_what_fits_is_fetched_once():
    """Describing and reading a small batch costs one request a file."""
    store = Store()
    with Ahead(store.inputs(), store.read, 10_000) as ahead:
        assert contents(ahead) == contents(ahead) == store.contents
    assert sorted(store.reads) == list(range(10))
    assert store.streams == []


def test_no_more_than_the_bound_is_ahead():
    """A batch of any size has only so many bytes in memory; files larger than that are streamed."""
    store = Store()
    with Ahead(store.inputs(), store.read, 300) as ahead:
        first = ahead.inputs[0].open()
        assert first.read() == store.contents[0]
        ahead.inputs[1].open()
        assert len(store.reads) <= 5
        assert contents(ahead) == contents(ahead) == store.contents
    assert store.streams == [5, 5]


def test_one_file_alone_may_be_as_large_as_the_bound():
    """The bound says what is ahead; what is asked for comes in any case."""
    store = Store()
    with Ahead(store.inputs()[5:6], lambda _: store.read(5), 1_000) as ahead:
        assert contents(ahead) == [store.contents[5]]


def test_any_order_gives_the_right_content():
    """Files may be opened out of order and by several threads at once."""
    store = Store()
    with Ahead(store.inputs(), store.read, 300) as ahead:
        found = {}

        def look(place):
            found[place] = ahead.inputs[place].open().read()

        for _ in range(5):
            threads = [threading.Thread(target=look, args=(place,)) for place in (7, 1, 8, 0, 2, 2, 9)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == {place: store.contents[place] for place in (7, 1, 8, 0, 2, 9)}


def test_trouble_of_a_read_is_told_where_the_file_is_opened():
    """A failed read surfaces with its own error."""

    def fail(place):
        raise TransientError("throttled", where=f"f{place}")

    with Ahead(Store().inputs(), fail, 300) as ahead, pytest.raises(TransientError, match="throttled"):
        ahead.inputs[3].open()
