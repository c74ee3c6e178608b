"""Damaged files through the loader: a table stops at such a file and names it, or every row of it is accounted for."""

from decimal import Decimal
from random import Random

import polars as pl
import pytest

from cdcloader.demo.dms_writer import Change, DmsSettings, cdc_name, render_cdc
from cdcloader.errors import TableError
from tests.source.fuzz import damaged

COLUMNS = (("id", "long"), ("name", "string"), ("price", "decimal(10,2)"))
KINDS = (DmsSettings(header=True), DmsSettings(), DmsSettings("parquet"), DmsSettings(gzip=True), DmsSettings("json"))


def check(make_world, seed):
    chance = Random(seed)
    dms = chance.choice(KINDS)
    world = make_world(columns=COLUMNS, dms=dms)
    world.load([{"id": number, "name": "old", "price": Decimal("0.25")} for number in range(5)])
    world.later(400)
    world.run()
    before = world.rows()
    changes = [
        Change("IUD"[number % 3], {"id": number, "name": f'new "{number}"\n', "price": Decimal(number)}, world.now)
        for number in range(20)
    ]
    content = damaged(render_cdc(dms, COLUMNS, changes), chance)
    name = world.put(cdc_name(world.now, dms), content)
    try:
        world.run()
    except TableError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert name in str(refusal.where)
        assert refusal.hint
        assert world.rows() == before
        assert world.record().recorded_position == world.batches[0].account.position
        return
    account = world.batches[-1].account if len(world.batches) > 1 else None
    quarantine = sorted((world.root / "lake" / "_quarantine").rglob("*.parquet"))
    rejected = pl.concat([pl.read_parquet(file) for file in quarantine]).height if quarantine else 0
    assert rejected == (account.quarantined if account else 0)
    assert account is None or account.rows_in == sum(account.rows.values())


@pytest.mark.parametrize("seed", range(15))
def test_a_damaged_file_stops_its_table_or_is_accounted_for(make_world, seed):
    """Either nothing of the file is in the table, and the error says which; or all of its rows are told."""
    check(make_world, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(15, 300))
def test_many_damaged_files(make_world, seed):
    """As above, for many more."""
    check(make_world, seed)
