"""The names and folders that DMS gives its files, and those of the layouts that articles describe."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

from cdcloader.demo.dms_writer.settings import DmsSettings

FULL_LOAD_COMPLETE = "FULL_LOAD_COMPLETE"

_FOLDERS = {
    "YYYYMMDD": ("%Y", "%m", "%d"),
    "YYYYMMDDHH": ("%Y", "%m", "%d", "%H"),
    "YYYYMM": ("%Y", "%m"),
    "MMYYYYDD": ("%m", "%Y", "%d"),
    "DDMMYYYY": ("%d", "%m", "%Y"),
}
_DELIMITERS = {"SLASH": "/", "DASH": "-", "UNDERSCORE": "_", "NONE": ""}


def load_name(number: int, settings: DmsSettings) -> str:
    """The name of LOAD file `number`, from 1: eight hexadecimal digits."""
    return f"LOAD{number:08X}.{settings.extension}"


def segment_load_name(segment: int, number: int, settings: DmsSettings) -> str:
    """The name of a LOAD file of a parallel load by ranges that have no names."""
    return f"SEGMENT{segment}_{load_name(number, settings)}"


def cdc_name(time: datetime, settings: DmsSettings) -> str:
    """The name of a CDC file created at `time` (UTC): `YYYYMMDD-HHMMSSmmm`, in DatePartitionTimezone."""
    local = _local(time, settings)
    return f"{local:%Y%m%d-%H%M%S}{local.microsecond // 1000:03d}.{settings.extension}"


def cdc_folder(commit_time: datetime, settings: DmsSettings) -> str:
    """The date partition of changes that were committed then: "" without one, else with a slash at its end."""
    if settings.date_partition is None:
        return ""
    local = _local(commit_time, settings)
    if settings.date_partition == "HIVE":
        return f"year={local:%Y}/month={local:%m}/day={local:%d}/"
    parts = [f"{local:{part}}" for part in _FOLDERS[settings.date_partition]]
    return _DELIMITERS[settings.date_partition_delimiter].join(parts) + "/"


def transactions_name(time: datetime, settings: DmsSettings) -> str:
    """The name of a file of transactions (PreserveTransactions) created at `time` (UTC): always CSV."""
    return f"CDC_TXN-{time:%Y%m%d%H%M%S}{time.microsecond // 1000:03d}{'.csv.gz' if settings.gzip else '.csv'}"


def article_name(kind: str, day: date, number: int, settings: DmsSettings) -> str:
    """`<day>/data-00001.parquet` or `<day>/cdc-00001.parquet`, as articles lay out what they copy from DMS."""
    return f"{day:%Y%m%d}/{kind}-{number:05d}.{settings.extension}"


def _local(time: datetime, settings: DmsSettings) -> datetime:
    if settings.date_partition_timezone == "UTC":
        return time
    return time.astimezone(ZoneInfo(settings.date_partition_timezone))
