"""The cells of the matrix: how DMS was set, and what the config has to say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal

from cdcloader.demo.dms_writer import DmsSettings, delta_type
from tests.matrix.history import COLUMNS, TAME, TEXTS

HEADERLESS, HEADER, PARQUET, JSON = "csv", "csv-header", "parquet", "json"
TEXT = (HEADERLESS, HEADER)
ALL = (*TEXT, PARQUET, JSON)
DMS_FORMATS = (*TEXT, PARQUET)
NAMED = (HEADER, PARQUET, JSON)
COMBINED = (2, 4)


@dataclass(frozen=True)
class Cell:
    """One way in which DMS writes, as far as a reader sees it. `config` are keys of the table beside its key.

    The full load has as many files as `load_files`. Changes come every `step`, from `start` on. The config names the
    sources, or the `pattern` that finds them; their files stand in the folder `version` of each. `beside` are other
    objects that stand below raw, which must not matter; `{extension}` in their names is that of the format.
    """

    name: str
    dms: DmsSettings
    config: Mapping[str, Any] = field(default_factory=dict)
    load_files: int = 2
    parallel: Literal["ranges", "folders"] | None = None
    layout: Literal["dms", "articles"] = "dms"
    sources: tuple[str, ...] = ("sales/orders",)
    pattern: str | None = None
    version: str | None = None
    texts: tuple[str, ...] = TEXTS
    moves_keys: bool = False
    evolves: bool = False
    start: datetime = datetime(2026, 2, 27, 12, tzinfo=UTC)
    step: timedelta = timedelta(hours=7)
    beside: Mapping[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Setting:
    """One thing that may differ from a base: DMS's settings, the config's keys, parts of the cell.

    Of one `group` a cell has one at most, because they exclude each other; `without` are groups that it excludes too.
    `rare` ones are not in the default run.
    """

    name: str
    group: str
    bases: tuple[str, ...] = ALL
    dms: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    rare: bool = False
    without: tuple[str, ...] = ()

    def goes_with(self, other: Setting) -> bool:
        """Whether both may be in one cell."""
        return other.group not in (self.group, *self.without) and self.group not in other.without


_COLUMNS = {"columns": {name: delta_type(kind) for name, kind in COLUMNS}}
BASES = {
    HEADERLESS: Cell(HEADERLESS, DmsSettings(), {**_COLUMNS, "csv": {"header": False}}),
    HEADER: Cell(HEADER, DmsSettings(header=True), _COLUMNS),
    PARQUET: Cell(PARQUET, DmsSettings("parquet")),
    JSON: Cell(JSON, DmsSettings("json"), _COLUMNS),
}


def on_base(base: str, *settings: Setting) -> Cell:
    """A base with some settings changed."""
    cell = BASES[base]
    for setting in settings:
        csv = {**cell.config.get("csv", {}), **setting.config.get("csv", {})}
        config = {**cell.config, **setting.config, **({"csv": csv} if csv else {})}
        cell = replace(cell, dms=replace(cell.dms, **setting.dms), config=config, **setting.parts)
    return replace(cell, name=", ".join([base, *(setting.name for setting in settings)]))


def drawn(chance: Random) -> Cell:
    """A base with some settings changed at once, at random."""
    base = chance.choice(ALL)
    chosen: list[Setting] = []
    wanted = chance.randint(*COMBINED)
    for setting in chance.sample(SETTINGS, len(SETTINGS)):
        if len(chosen) < wanted and base in setting.bases and all(setting.goes_with(other) for other in chosen):
            chosen.append(setting)
    return on_base(base, *chosen)


def _time(name: str) -> dict[str, Any]:
    return {"dms": {"timestamp_column": name}, "config": {"timestamp_column": name}}


def _csv(**keys: Any) -> dict[str, Any]:
    return {"csv": keys}


def _dates(sequence: str, delimiter: str, *, rare: bool) -> Setting:
    dms = {"date_partition": sequence, "date_partition_delimiter": delimiter}
    return Setting(f"DatePartitionSequence {sequence} {delimiter}", "date", dms=dms, rare=rare)


def _zone(zone: str, sequence: str, start: datetime) -> Setting:
    dms = {"date_partition": sequence, "date_partition_timezone": zone}
    parts = {"start": start, "step": timedelta(minutes=40)}
    return Setting(f"DatePartitionTimezone {zone} {sequence}", "date", ALL, dms, {"timezone": zone}, parts)


_SEQUENCES = ("YYYYMMDD", "YYYYMMDDHH", "YYYYMM", "MMYYYYDD", "DDMMYYYY")
_DELIMITERS = ("SLASH", "DASH", "UNDERSCORE", "NONE")

SETTINGS = [
    *(
        _dates(sequence, delimiter, rare=delimiter != _DELIMITERS[place % len(_DELIMITERS)])
        for place, sequence in enumerate(_SEQUENCES)
        for delimiter in _DELIMITERS
    ),
    _dates("HIVE", "SLASH", rare=False),
    # The clocks are turned back while changes come, and forward.
    _zone("Europe/Berlin", "YYYYMMDDHH", datetime(2025, 10, 25, 21, tzinfo=UTC)),
    _zone("America/New_York", "DDMMYYYY", datetime(2025, 11, 2, 2, tzinfo=UTC)),
    _zone("Australia/Lord_Howe", "YYYYMMDD", datetime(2026, 4, 4, 12, tzinfo=UTC)),
    _zone("Europe/Berlin", "YYYYMMDD", datetime(2026, 3, 28, 22, tzinfo=UTC)),
    Setting("the layout of articles", "date", parts={"layout": "articles"}),
    Setting("parallel load by ranges", "load", parts={"parallel": "ranges", "load_files": 3}),
    Setting("parallel load by partitions", "load", parts={"parallel": "folders", "load_files": 3}),
    Setting("CompressionType GZIP", "gzip", dms={"gzip": True}),
    Setting("TimestampColumnName", "time", **_time("loaded_at")),
    Setting("TimestampColumnName by its usual name", "time", dms={"timestamp_column": "DMS_TIMESTAMP"}),
    Setting("IncludeOpForFullLoad", "op", dms={"include_op_for_full_load": True}),
    Setting("CdcInsertsOnly with Op", "op", dms={"include_op_for_full_load": True, "cdc_inserts_only": True}),
    Setting("CdcInsertsAndUpdates with Op", "op",
            dms={"include_op_for_full_load": True, "cdc_inserts_and_updates": True}),
    Setting("CdcInsertsOnly without Op", "op", ALL, {"cdc_inserts_only": True}, {"changes_without_op": "insert"}),
    Setting("CdcInsertsAndUpdates without Op", "op", ALL,
            {"cdc_inserts_and_updates": True}, {"changes_without_op": "insert"}),
    Setting("MaxFileSize: 17 LOAD files", "load", parts={"load_files": 17}),
    Setting("no full load", "load", parts={"load_files": 0}),
    Setting("control tables", "beside", parts={"beside": {
        "sales/awsdms_apply_exceptions/LOAD00000001.csv": b"1\n",
        "s3_validation_failures/x/LOAD00000001.csv": b"1\n",
    }}),
    Setting("empty files", "date", parts={"beside": {
        f"sales/orders/20260227-12000000{place}.{{extension}}": b"" for place in range(3)
    }}),
    Setting("found by a pattern", "source", parts={"pattern": "sales/*", "sources": ("sales/orders", "sales/visits")}),
    Setting("a folder for each version", "source", config={"version": "v202602270000"},
            parts={"version": "v202602270000"}),
    Setting("CsvDelimiter ;", "delimiter", TEXT, {"delimiter": ";"}, _csv(delimiter=";")),
    Setting("CsvDelimiter tab", "delimiter", TEXT, {"delimiter": "\t"}, _csv(delimiter="\t")),
    Setting("CsvDelimiter ||", "delimiter", TEXT, {"delimiter": "||"}, _csv(delimiter="||")),
    Setting("CsvDelimiter 0x1F", "delimiter", TEXT, {"delimiter": "\x1f"}, _csv(delimiter="\x1f")),
    Setting("CsvRowDelimiter CR LF", "row", TEXT, {"row_delimiter": "\r\n"}),
    Setting("CsvRowDelimiter CR", "row", TEXT, {"row_delimiter": "\r"}),
    Setting("CsvRowDelimiter CR LF alone", "row", TEXT, {"row_delimiter": "\r\n"}, _csv(row_delimiter="\r\n")),
    Setting("CsvRowDelimiter ~ LF ~", "row", TEXT, {"row_delimiter": "~\n~"}, _csv(row_delimiter="~\n~")),
    Setting("CsvNullValue NULL", "null", TEXT, {"null_value": "NULL"}, _csv(null_values=["NULL"])),
    Setting("Rfc4180 off", "delimiter", TEXT, {"rfc4180": False, "delimiter": "|"}, _csv(quote=None, delimiter="|"),
            {"texts": TAME}),
    Setting("timestamps of whole seconds", "scale", (*TEXT, JSON), {"datetime_scale": 0}),
    Setting("timestamps of milliseconds", "scale", (*TEXT, JSON), {"datetime_scale": 3}),
    Setting("ParquetVersion 2.0", "version", (PARQUET,), {"parquet_version": "2.0"}),
    Setting("EncodingType rle-dictionary", "encoding", (PARQUET,), {"encoding_type": "rle-dictionary"}),
    Setting("ParquetTimestampInMillisecond", "scale", (PARQUET,), {"parquet_timestamp_in_millisecond": True}),
    Setting("AR_H_CHANGE_SEQ", "added", NAMED, {"added_columns": ("AR_H_CHANGE_SEQ",)},
            {"sequence_by": ["AR_H_CHANGE_SEQ"]}),
    Setting("other AR_H columns", "added", NAMED,
            {"added_columns": ("AR_H_STREAM_POSITION", "AR_H_TIMESTAMP", "AR_H_OPERATION", "AR_H_USER")}),
    Setting("add-before-image-columns", "before", NAMED, {"before_images": ("id", "part", "text")}),
    Setting("keys that change, with before-images", "before", NAMED, {"before_images": ("id", "part")},
            parts={"moves_keys": True}, without=("op",)),
    Setting("a column added, a column dropped", "schema", NAMED, parts={"evolves": True}),
    Setting("CsvNoSupValue", "partial", TEXT, {"no_supplemental_value": "~absent~"},
            _csv(no_supplemental_value="~absent~"), without=("op",)),
    Setting("PreserveTransactions", "date", DMS_FORMATS, {"cdc_path": "changes/all"}, {"cdc_path": "changes/all"},
            {"sources": ("sales/orders", "crm/orders", "crm/visits")},
            # Without a full load or a header nothing names the columns.
            without=("load", "op", "added", "before", "naive", "schema", "source")),
    Setting("timestamps naive", "naive", (PARQUET,), config={"timestamps": "naive"}),
    Setting("timestamps naive", "naive", (*TEXT, JSON),
            config={"timestamps": "naive", "columns": {**_COLUMNS["columns"], "at": "timestamp_ntz"}}),
    Setting("partition_by", "partition", config={"partition_by": ["part"]}),
    Setting("copy_on_write", "mode", config={"write_mode": "copy_on_write"}),
]  # fmt: skip
CELLS = [*BASES.values(), *(on_base(base, setting) for setting in SETTINGS for base in setting.bases)]
# Each setting once, on one base after the other.
SPREAD = [
    *BASES.values(),
    *(on_base(each.bases[place % len(each.bases)], each) for place, each in enumerate(SETTINGS) if not each.rare),
]
REST = [cell for cell in CELLS if cell.name not in {each.name for each in SPREAD}]
