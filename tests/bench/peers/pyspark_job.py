"""The peer PySpark: a job that reads the table's Parquet files, takes out the changed keys, adds the new rows, and
writes everything again, beside the old files, which it then replaces.

It needs no Delta package, so it writes no log: it does less than a Delta table asks for.
"""

import json
import shutil
import sys
import time
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

job = json.loads(sys.argv[1])
table, scratch = Path(job["table"]), Path(job["scratch"])
spark = (
    SparkSession.builder.master("local[*]")
    .config("spark.driver.memory", job["memory"])
    .config("spark.local.dir", str(scratch))
    .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
    .config("spark.sql.parquet.compression.codec", "zstd")
    .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.log.level", "ERROR")
    .getOrCreate()
)
start = time.perf_counter()
changes = spark.read.parquet(job["changes"])
old = spark.read.parquet(str(table))
kept = old.join(f.broadcast(changes.select(job["key"])), job["key"], "left_anti")
new = changes.where(f.col("Op") != "D").select(*old.columns)
kept.select(*old.columns).unionByName(new).write.mode("overwrite").parquet(str(scratch / "new"))
shutil.rmtree(table)
(scratch / "new").rename(table)
print(json.dumps({"seconds": time.perf_counter() - start}))
spark.stop()
