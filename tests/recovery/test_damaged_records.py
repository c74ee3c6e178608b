"""A state record that somebody else damaged stops its own table by name, and no other."""

from __future__ import annotations

import threading

import pytest

from cdcloader.errors import TableError
from cdcloader.loader.steps import Outcome
from cdcloader.turns import take_turn
from tests.loader.conftest import World

DAMAGES = {
    "Phase": "running",
    "Ledger": "eJyrVkrLz1eyUkpKLFKqBQAkXgRa",
    "LeaseEpoch": -1,
    "LeaseExpiresAt": "soon",
    "Generation": 2**70,
    "RecordedPosition": "7",
    "LastFullLoadDate": "2026-03-01",
    "ActiveFlag": "yes",
    "PrimaryKey": "[1]",
    "UpdatedAt": "0001-01-01T00:00:00.000000+14:00",
    "SkippedFiles": {"S": "x"},
}


def two_tables(folder):
    worlds = []
    for name in ("damaged", "good"):
        (folder / name).mkdir()
        worlds.append(World(folder / name))
    worlds[1].store = worlds[0].store
    for world in worlds:
        world.load([{"id": 1, "name": "x"}])
        world.later(400)
        world.run()
        world.cdc([("I", {"id": 2, "name": "x"})])
        world.later()
    return worlds


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_record_stops_its_table_alone(tmp_path, name):
    """The error names path and attribute and says what to do; the record is left as it is, the other table runs on."""
    damaged, good = two_tables(tmp_path)
    loaders = [damaged.loader(), good.loader()]
    path = loaders[0].context.path
    damaged.store.put_item(path, {name: DAMAGES[name]})
    before = dict(damaged.store._items[path])
    stopped, went_on = (take_turn(loader, threading.Event()) for loader in loaders)
    assert isinstance(stopped.error, TableError)
    assert (stopped.error.where, name in stopped.error.what, name in stopped.error.hint) == (path, True, True)
    assert damaged.store._items[path] == before
    assert (went_on.error, went_on.step.outcome) == (None, Outcome.IDLE)
    assert good.rows() == [(1, "x"), (2, "x")]
    assert damaged.rows() == [(1, "x")]
    assert f"{name} is damaged" in loaders[0].status(look=True)["error"]
