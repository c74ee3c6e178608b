"""A table's history as DMS writes it, what it makes, and the command that loads it."""

from __future__ import annotations

import io

import polars as pl

PASSES_MAX = 8


class Source:
    """What was written to one table's prefix, and the rows that this makes."""

    def __init__(self, site, table, *, keyed=True):
        self._site, self._table, self._keyed, self.rows = site, table, keyed, {}

    def load(self):
        self.rows = {id_: f"loaded {id_}" for id_ in range(1, 21)}
        self._put("LOAD00000001.parquet", {"id": [*self.rows], "name": [*self.rows.values()]})

    def change(self, number):
        """A file of changes; of inserts alone where there is no key."""
        changes = [("I", id_, f"inserted by {number}") for id_ in range(100 * number, 100 * number + 5)]
        if self._keyed:
            changes += [("U", id_, f"updated by {number}") for id_ in range(1, 6)]
            changes += [("D", 5 + number, None)]
        for op, id_, name in changes:
            self.rows[id_] = name
            if op == "D":
                del self.rows[id_]
        ops, ids, names = zip(*changes, strict=True)
        self._put(f"20260901-08{number:02}00000.parquet", {"Op": ops, "id": ids, "name": names})

    def _put(self, name, columns):
        buffer = io.BytesIO()
        pl.DataFrame(columns).write_parquet(buffer)
        self._site.put(f"sales/{self._table}/{name}", buffer.getvalue())

    def differences(self, *readers):
        """What the readers see that was not written, or do not see that was."""
        wanted = sorted(self.rows.items())
        for reader in readers:
            found = sorted(self._site.readers(f"sales/{self._table}")[reader]().select("id", "name").rows())
            if found != wanted:
                yield f"{self._table}, {reader}: {len(found)} rows for {len(wanted)}, {set(found) ^ set(wanted)}"


def run_to_the_end(site):
    """Run after run, as a scheduler does, until one says that all is well."""
    for _ in range(PASSES_MAX):
        process = site.cli.start("run", "--once", "--config", site.config)
        code, said = process.running.wait(300), process.log.read_text()
        assert code in (0, 1), said[-4000:]
        assert "Traceback" not in said, said[-4000:]
        if code == 0:
            return
    raise AssertionError(f"{PASSES_MAX} runs and no end:\n{said[-4000:]}")
