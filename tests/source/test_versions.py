"""Versions: which of two is the later one, and which folders look like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.source.versions import is_later, looks_like_version

ORDERED = [
    "2",
    "10",
    "a",
    "a1",
    "a2",
    "a10",
    "a10.9",
    "a10.10",
    "b",
    "v202011191200",
    "v202011191201",
    "v20201119120100",
]


def test_digits_count_as_numbers_and_the_rest_as_text():
    """`v9` comes before `v10`, and any version after none."""
    for place, version in enumerate(ORDERED):
        assert is_later(version, None)
        assert [is_later(version, other) for other in ORDERED] == [place > at for at in range(len(ORDERED))]


@given(st.text(max_size=8), st.text(max_size=8))
def test_of_two_versions_at_most_one_is_later(first, second):
    """Any text can be compared; texts that differ only in leading zeros are neither."""
    assert not (is_later(first, second) and is_later(second, first))
    assert not is_later(first, first)
    assert not is_later("v01", "v1")


@pytest.mark.parametrize(
    ("folder", "looks"),
    [("v1", True), ("v202011191200", True), ("v1.2-3", True), ("v", False), ("vat", False), ("1", False)],
)
def test_a_version_looks_like_v_and_digits(folder, looks):
    """As the articles name them; a segment of a parallel load may begin with a v as well."""
    assert looks_like_version(folder) is looks
