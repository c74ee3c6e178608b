"""The peer delta-rs: one merge of a file of net changes into a copy of the table, rows in memory, not streamed."""

import json
import sys
import time

import pyarrow.parquet as pq
from deltalake import DeltaTable

job = json.loads(sys.argv[1])
start = time.perf_counter()
rows = pq.read_table(job["changes"])
columns = {name: f"s.{name}" for name in rows.column_names if name != "Op"}
(
    DeltaTable(job["table"])
    .merge(rows, f"t.{job['key']} = s.{job['key']}", source_alias="s", target_alias="t", streamed_exec=False)
    .when_matched_delete("s.Op = 'D'")
    .when_matched_update(columns)
    .when_not_matched_insert(columns, "s.Op != 'D'")
    .execute()
)
print(json.dumps({"seconds": time.perf_counter() - start}))
