"""A folder that many tables share is listed once for all of them, for some seconds."""

import threading

import pytest

from cdcloader.loader.shared_listing import SharedListings
from cdcloader.objects import Objects


class Folder:
    """A folder of ten objects, of which every listing is counted, and a clock."""

    def __init__(self, root):
        self.objects, self.lists, self.now = Objects.open(str(root), create=True), [], 0.0
        for number in range(10):
            self.objects.write(f"txn/{number}", b"x")
        self.pages, self.objects.pages = self.objects.pages, self._counted

    def _counted(self, folder, start_after=""):
        self.lists.append(start_after)
        yield from self.pages(folder, start_after=start_after)

    def listings(self, seconds=5):
        return SharedListings(seconds, lambda: self.now)

    def names(self, listings, start_after=""):
        return [item.key[-1] for page in listings.pages(self.objects, "txn", start_after) for item in page]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_a_listing_serves_whoever_asks_for_the_same_or_less(folder):
    """Within its seconds; who asks for more, or later, has a new one."""
    listings = folder.listings()
    assert folder.names(listings, "txn/3") == list("456789")
    assert folder.names(listings, "txn/7") == list("89")
    assert folder.lists == ["txn/3"]
    assert folder.names(listings) == list("0123456789")
    assert folder.names(listings, "txn/3") == list("456789")
    assert folder.lists == ["txn/3", ""]
    folder.now = 5.1
    folder.objects.write("txn/a", b"x")
    assert folder.names(listings, "txn/7") == list("89a")


def test_none_is_kept_where_no_seconds_are_given(folder):
    """What was put a moment ago is seen."""
    listings = folder.listings(0)
    folder.names(listings)
    folder.objects.write("txn/a", b"x")
    assert "a" in folder.names(listings)


def test_tables_that_ask_at_once_wait_for_one_answer(folder):
    """Threads that look at the same time cost one listing."""
    listings, found = folder.listings(), []
    threads = [threading.Thread(target=lambda: found.append(folder.names(listings))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list("0123456789")] * 8
    assert folder.lists == [""]


def test_a_long_listing_is_handed_on_and_not_kept(folder, monkeypatch):
    """A history of files must not stay in memory for the sake of the next table."""
    monkeypatch.setattr("cdcloader.loader.shared_listing._KEPT_OBJECTS_MAX", 3)
    listings = folder.listings()
    for _ in range(2):
        assert folder.names(listings) == list("0123456789")
    assert folder.lists == ["", ""]
