"""The peer dlt: a pipeline that merges a file of net changes into a copy of the Delta table.

dlt takes the table where it stands (`<bucket>/<dataset>/<table>`); a flag column tells it what to delete, and
stays in the table. Its merge is delta-rs's, told not to stream, which is the faster way here.
"""

import json
import os
import sys
import time
from pathlib import Path

job = json.loads(sys.argv[1])
table = Path(job["table"])
# No telemetry, no progress, and the faster of the two ways of delta-rs.
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"
os.environ["DESTINATION__FILESYSTEM__DELTALAKE_STREAMED_EXEC"] = "false"
os.environ["DLT_DATA_DIR"] = job["scratch"]

import dlt  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.compute as pc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from dlt.destinations.impl.filesystem.filesystem import CURRENT_VERSION, INIT_FILE_NAME  # noqa: E402


@dlt.resource(
    name=table.name,
    primary_key=job["key"],
    write_disposition={"disposition": "merge", "strategy": "upsert"},
    columns={"dlt_deleted": {"hard_delete": True, "data_type": "bool"}},
    table_format="delta",
)
def changes():
    rows = pq.read_table(job["changes"])
    deleted = pc.equal(rows["Op"], pa.scalar("D"))
    yield rows.drop_columns(["Op"]).append_column("dlt_deleted", deleted)


# What dlt would have left there, had it made the table.
versions = {"initial_version": CURRENT_VERSION, "current_version": CURRENT_VERSION}
(table.parent / INIT_FILE_NAME).write_text(json.dumps(versions))
start = time.perf_counter()
pipeline = dlt.pipeline(
    pipeline_name="bench",
    pipelines_dir=f"{job['scratch']}/pipelines",
    dataset_name=table.parent.name,
    destination=dlt.destinations.filesystem(bucket_url=table.parent.parent.as_uri()),
)
pipeline.run(changes()).raise_on_failed_jobs()
print(json.dumps({"seconds": time.perf_counter() - start}))
