"""Column rules from raw files to the table, beside a plain Python account of what they mean."""

from datetime import UTC, datetime

import polars as pl

COLUMNS = (("id", "long"), ("status", "string"), ("created_at", "timestamp"), ("email", "string"))
DAY = {"order_day": "CAST(created_at AS DATE)"}


def row(number, status="new", day=1, email="a@b.c"):
    return {"id": number, "status": status, "created_at": datetime(2026, 3, day, 12, tzinfo=UTC), "email": email}


def test_smoke(make_world):
    """All."""
    world = make_world(
        columns=COLUMNS, filter="status <> 'test'", derive=DAY, partition_by=("order_day",),
        mask={"email": "sha256"}, drop=("created_at",), rename={"status": "state"} and {}, cast={"id": "string"},
    )
    world.load([row(1), row(2, "test"), row(3, None)])
    world.later(600)
    step = world.run()
    print(step)
    print(world.frame())
    world.cdc([("U", row(1, "test")), ("I", row(4, day=2)), ("U", row(2, "ok"))])
    world.later()
    print(world.run())
    print(world.frame(), world.batches)
    raise AssertionError
