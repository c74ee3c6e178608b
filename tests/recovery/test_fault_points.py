"""Every effect of the loader goes wrong, in every way, at every place of several histories; then the table is right."""

import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.recovery.faults import HALVES, POINTS, Faults, Way
from tests.recovery.stories import STORIES, Stage

GUARANTEES = Path(__file__).parents[2] / "docs" / "guarantees.md"


@pytest.fixture(scope="module")
def stage_of(tmp_path_factory):
    return cache(lambda name: Stage(STORIES[name], tmp_path_factory.mktemp("stage")))


def places(stage):
    """(act, point, number) of each effect of a story."""
    return [(act, p, n) for act, met in enumerate(stage.met) for p in sorted(met) for n in range(1, met[p] + 1)]


# After these ways what the loader knows and what stands differ most: the act that follows is played too.
FAR_APART = (Way.KILLED_AFTER, Way.LOST)


def goes_wrong(stage, act, point, number, way, *, go_on):
    """Play an act in which one effect goes wrong; the table is right, also after the act that follows."""
    stage.go_to(act)
    faults = stage.play(act, Faults(point, number, way))
    assert faults.fired
    stage.scene.check()
    if go_on and way in FAR_APART and act + 1 < len(stage.story.acts):
        stage.play(act + 1)
        stage.scene.check()


def ways_of(point):
    return [way for way in Way if way is not Way.HALF or point in HALVES]


def all_go_wrong(stage, cases, *, go_on):
    for act, point, number, way in cases:
        try:
            goes_wrong(stage, act, point, number, way, go_on=go_on)
        except Exception as error:
            name = stage.story.acts[act].__name__
            raise AssertionError(f"{stage.story.name}, {name}: {point} {number}: {way}") from error


def test_every_effect_has_a_name_and_a_line(stage_of):
    """The effects that the histories meet are those of the list, and docs/guarantees.md has a line for each."""
    met = sum((met for name in STORIES for met in stage_of(name).met), Counter())
    assert set(met) == set(POINTS)
    table = GUARANTEES.read_text(encoding="utf-8").partition("<!-- points -->")[2].partition("<!-- /points -->")[0]
    assert tuple(re.findall(r"^\| \*\*(.+?)\*\* \|", table, re.MULTILINE)) == POINTS


@pytest.mark.parametrize("point", POINTS)
def test_an_effect_that_goes_wrong_is_repaired_by_reading(stage_of, point):
    """Not done, half done, done unknown to us, done twice, with or without a death: once, somewhere in a history."""
    choose = random.Random(point)
    for way in ways_of(point):
        met = [(name, place) for name in STORIES for place in places(stage_of(name)) if place[1] == point]
        name, place = choose.choice(met)
        all_go_wrong(stage_of(name), [(*place, way)], go_on=False)


@pytest.mark.parametrize("name", ["keyed", "insert-only", "small memory"])
def test_a_commit_whose_answer_is_lost_counts_once(stage_of, name):
    """Full load, reload, batch, late file, replay and upkeep: what stands in the log decides, and it is there once."""
    stage = stage_of(name)
    commits = [place for place in places(stage) if place[1] == "commit created"]
    all_go_wrong(stage, [(*place, Way.LOST) for place in commits], go_on=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("name", STORIES)
def test_any_effect_may_go_wrong_anywhere(stage_of, name, way):
    """The same at every occurrence of every effect in every history."""
    stage = stage_of(name)
    all_go_wrong(stage, [(*place, way) for place in places(stage) if way in ways_of(place[1])], go_on=True)
