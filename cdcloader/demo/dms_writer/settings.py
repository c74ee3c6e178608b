"""What DMS is told about its S3 target, and what it is given to write: settings, columns, rows, changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

Columns = Sequence[tuple[str, str]]
Row = Mapping[str, object]

Sequences = Literal["YYYYMMDD", "YYYYMMDDHH", "YYYYMM", "MMYYYYDD", "DDMMYYYY", "HIVE"]
Delimiters = Literal["SLASH", "DASH", "UNDERSCORE", "NONE"]


@dataclass(frozen=True, slots=True)
class DmsSettings:
    """The S3 target settings that a reader of the files can see, by their names in the DMS API.

    `header` is AddColumnName. `datetime_scale` is the source column's fraction digits (0, 3 or 6), which decide
    the CSV text of a timestamp. With `rfc4180` off, CSV fields are copied raw, as DMS does, ambiguous or not.
    `no_supplemental_value` stands for UseCsvNoSupValue too: it marks the columns that a change does not name.
    `date_partition` is DatePartitionSequence, and None DatePartitionEnabled=false; HIVE (`year=2026/month=09/day=01`)
    is what people make of it. With `cdc_path` PreserveTransactions is on.
    `before_images` and `added_columns` are columns that transformation rules add behind the source's: `BI_<name>` by
    add-before-image-columns, and `AR_H_...` headers. `format` json is no DMS format; articles load such files.
    """

    format: Literal["csv", "parquet", "json"] = "csv"
    gzip: bool = False
    header: bool = False
    include_op_for_full_load: bool = False
    timestamp_column: str | None = None
    null_value: str = ""
    parquet_timestamp_in_millisecond: bool = False
    rfc4180: bool = True
    delimiter: str = ","
    datetime_scale: Literal[0, 3, 6] = 6
    row_delimiter: str = "\n"
    no_supplemental_value: str | None = None
    parquet_version: Literal["1.0", "2.0"] = "1.0"
    encoding_type: Literal["plain", "rle-dictionary"] = "plain"
    cdc_inserts_only: bool = False
    cdc_inserts_and_updates: bool = False
    date_partition: Sequences | None = None
    date_partition_delimiter: Delimiters = "SLASH"
    date_partition_timezone: str = "UTC"
    cdc_path: str | None = None
    before_images: tuple[str, ...] = ()
    added_columns: tuple[str, ...] = ()

    @property
    def extension(self) -> str:
        """The end of a file's name: gzip shows in a text file's name, while in Parquet it is the codec inside."""
        return f"{self.format}.gz" if self.gzip and self.format != "parquet" else self.format

    @property
    def changes_have_op(self) -> bool:
        """Whether CDC files say what a change is: both filters leave it out unless LOAD files have it too."""
        return self.include_op_for_full_load or not (self.cdc_inserts_only or self.cdc_inserts_and_updates)

    def writes(self, op: str) -> bool:
        """Whether changes of this kind reach the files."""
        if self.cdc_inserts_only:
            return op == "I"
        return op != "D" or not self.cdc_inserts_and_updates


class Change(NamedTuple):
    """One I, U or D: the row after an I or U, before a D; `commit_time` is the source transaction's (UTC).

    `before` is the row before a U, for `before_images`; `number` counts the task's changes, for AR_H_CHANGE_SEQ.
    """

    op: str
    row: Row
    commit_time: datetime
    before: Row | None = None
    number: int = 0
