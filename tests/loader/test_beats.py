"""Work that takes long tells the watchdog, again and again, that it comes on."""

from __future__ import annotations

from dataclasses import replace

from cdcloader.demo.dms_writer import DmsSettings


def beating(world):
    """A loader, and the beats that it has given."""
    beats, loader = [], world.loader()
    loader.context = replace(loader.context, beat=lambda: beats.append(1))
    return loader, beats


def test_a_full_load_beats_with_its_size(make_world):
    """More data, more beats: by chunk while it is read, and while what came out of order is merged."""
    counts = []
    for rows in (2_000, 40_000):
        world = make_world(dms=DmsSettings(format="csv", header=True))
        world.piece_bytes, world.chunk_bytes = 1 << 18, 1 << 15
        numbers = [*range(0, rows, 2), *range(1, rows, 2)]
        world.load([{"id": n * 7919 % rows, "name": f"n{n}"} for n in numbers])
        world.later(400)
        loader, beats = beating(world)
        world.run(loader)
        assert len(world.rows()) == rows
        counts.append(len(beats))
    assert counts[1] > counts[0] + 20


def test_a_batch_beats_with_each_file(make_world):
    """Files that are read, and files that keys are looked for in, are signs of progress."""
    world = make_world()
    world.load([{"id": n, "name": "a"} for n in range(100)])
    world.later(400)
    world.run()
    loader, beats = beating(world)
    for n in range(30):
        world.cdc([("U", {"id": n, "name": "b"})], at=world.later(1))
    world.run(loader)
    assert len(beats) > 30
