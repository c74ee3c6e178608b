"""Writes what AWS DMS writes to S3: the one generator of raw files, for the demo and for the tests.

`settings.py` is what DMS is told, `names.py` how files are called, `rendering.py` what stands in them, by
`csv_text.py`, `parquet_bytes.py` and `json_lines.py`; `files.py` puts both together.
"""

from __future__ import annotations

from cdcloader.demo.dms_writer.dms_types import delta_type
from cdcloader.demo.dms_writer.files import (
    RawFile,
    article_cdc_file,
    cdc_files,
    load_files,
    transactions_file,
    write_file,
)
from cdcloader.demo.dms_writer.names import (
    FULL_LOAD_COMPLETE,
    article_name,
    cdc_folder,
    cdc_name,
    load_name,
    segment_load_name,
    transactions_name,
)
from cdcloader.demo.dms_writer.parquet_bytes import ROW_GROUP_ROWS
from cdcloader.demo.dms_writer.rendering import (
    BEFORE,
    FULL_LOAD_TIME,
    OP,
    frame,
    render_cdc,
    render_load,
    render_transactions,
)
from cdcloader.demo.dms_writer.settings import Change, Columns, DmsSettings, Row

__all__ = [
    "BEFORE",
    "FULL_LOAD_COMPLETE",
    "FULL_LOAD_TIME",
    "OP",
    "ROW_GROUP_ROWS",
    "Change",
    "Columns",
    "DmsSettings",
    "RawFile",
    "Row",
    "article_cdc_file",
    "article_name",
    "cdc_files",
    "cdc_folder",
    "cdc_name",
    "delta_type",
    "frame",
    "load_files",
    "load_name",
    "render_cdc",
    "render_load",
    "render_transactions",
    "segment_load_name",
    "transactions_file",
    "transactions_name",
    "write_file",
]
