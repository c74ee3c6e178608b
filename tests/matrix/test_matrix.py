"""Every setting of DMS that a reader can see, end to end, against a dict: one by one, and several at once."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.matrix.cells import REST, SPREAD, drawn
from tests.matrix.world import Play

# The seeds are fixed: a cell that fails is found again by its number.
SOME, MANY = range(4), range(4, 100)


@pytest.mark.parametrize("cell", SPREAD, ids=str)
def test_a_setting(cell, tmp_path):
    """What DMS writes under a setting is in the target, row for row; each setting on one of the bases."""
    Play(cell, tmp_path).run()


@pytest.mark.parametrize("seed", SOME)
def test_settings_at_once(seed, tmp_path):
    """What DMS writes under several settings at once is in the target, row for row."""
    Play(drawn(Random(seed)), tmp_path, str(seed)).run()


@pytest.mark.slow
@pytest.mark.parametrize("cell", REST, ids=str)
def test_a_setting_on_the_other_bases(cell, tmp_path):
    """As above, on each base that a setting goes with."""
    Play(cell, tmp_path).run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_many_settings_at_once(seed, tmp_path):
    """As above, for many more combinations."""
    Play(drawn(Random(seed)), tmp_path, str(seed)).run()


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(100, 2**32))
def test_combinations_that_nobody_tried(seed, tmp_path_factory):
    """As above, for combinations that differ in each run."""
    Play(drawn(Random(seed)), tmp_path_factory.mktemp("cell"), str(seed)).run()
