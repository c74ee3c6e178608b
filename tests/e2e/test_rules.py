"""Column rules as their user has them: in the config file, by the installed command."""

from __future__ import annotations

import hashlib
from datetime import date

import polars as pl

LOAD = b"id,status,created_at,email\n1,new,2026-03-01 12:00:00,a@b.c\n2,test,2026-03-01 12:00:00,t@b.c\n"
CHANGES = (
    b"Op,id,status,created_at,email\nI,3,new,2026-03-02 12:00:00,c@b.c\n"
    b"U,1,test,2026-03-01 12:00:00,a@b.c\nU,2,paid,2026-03-01 12:00:00,t@b.c\n"
)
TABLE = {
    "source": "sales/orders",
    "primary_key": ["id"],
    "partition_by": ["order_day"],
    "rename": {"email": "mail"},
    "cast": {"id": "string"},
    "filter": "status <> 'test'",
    "derive": {"order_day": "CAST(created_at AS DATE)"},
    "mask": {"mail": "sha256"},
    "drop": ["created_at"],
}


def test_rules_by_the_command(make_site):
    """`run --once` makes the table that the rules say, counts what it left out, and `verify` finds it equal."""
    site = make_site("local")
    site.configure([TABLE])
    site.put("sales/orders/LOAD00000001.csv", LOAD)
    site.put("sales/orders/20260901-080000000.csv", CHANGES)
    assert site.run_once().code == 0

    def sha(text):
        return hashlib.sha256(text.encode()).hexdigest()

    frame = pl.read_delta(f"{site.lake}/sales/orders").sort("id")
    assert frame.columns == ["id", "status", "mail", "order_day"]
    assert frame.rows() == [
        ("2", "paid", sha("t@b.c"), date(2026, 3, 1)),
        ("3", "new", sha("c@b.c"), date(2026, 3, 2)),
    ]
    done = site.cli("verify", "sales/orders", "--config", site.config)
    assert done.code == 0, done.stdout
    assert "sales/orders: equal: 2 rows" in done.stdout


def test_expressions_that_are_none(make_site):
    """SQL that is none is a fault of the config: `validate` and `run` end with 2 and tell each with its place."""
    site = make_site("local")
    site.configure([{**TABLE, "filter": "status <>", "derive": {"order_day": "NOW()"}}])
    for command in (("validate",), ("run", "--once")):
        done = site.cli(*command, "--config", site.config)
        assert done.code == 2
        assert "tables[0].filter: 'status <>' is no SQL expression" in done.stderr
        assert "tables[0].derive.order_day: 'NOW()': it asks the clock (now)" in done.stderr
