"""The frozen models of the config: every key, its default, and the rules that its value keeps."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic import field_validator as checks

from cdcloader.changes.type_names import normal_type
from cdcloader.config.column_rules import Casts, Derived, Masks, Renames, check_rule
from cdcloader.config.naming import layout_pattern, time_zone
from cdcloader.config.patterns import checked_target, is_pattern
from cdcloader.config.values import (
    Key,
    Name,
    Names,
    Place,
    Seconds,
    Whole,
    file_path,
    folder_name,
    listed,
    local,
    shown,
    table_name,
    target_name,
    version_name,
)
from cdcloader.errors import ConfigError

# A table's key is called what users call it; the method of pydantic's that has this name is long deprecated.
warnings.filterwarnings("ignore", message='Field name "schema" in "TableDefaults" shadows')


class Model(BaseModel):
    """A section of the config."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DynamoDBState(Model):
    """State in DynamoDB; endpoint, region and credentials come from the standard AWS variables."""

    kind: Literal["dynamodb"] = "dynamodb"
    table: Name = "DMSCDC_Controller"


class SQLiteState(Model):
    """State in a file, for one machine."""

    kind: Literal["sqlite"] = "sqlite"
    path: Annotated[str, AfterValidator(file_path)]


class MemoryState(Model):
    """State that ends with the process."""

    kind: Literal["memory"] = "memory"


State = Annotated[DynamoDBState | SQLiteState | MemoryState, Field(discriminator="kind")]


class Http(Model):
    """Where metrics, health and status are served."""

    host: Name = "0.0.0.0"  # noqa: S104
    port: Whole = Field(default=9108, ge=0, le=65535)


class FullLoad(Model):
    """When a full load counts as complete, and which changes a reload leaves out."""

    quiet_seconds: Seconds = Field(default=300, ge=0)
    overlap_seconds: Seconds = Field(default=300, ge=0)


class Batch(Model):
    """How much one batch takes at most."""

    max_files: Whole = Field(default=500, ge=1)
    max_bytes: Whole = Field(default=1024**3, ge=1)


class Cache(Model):
    """Where the key columns of data files are kept beside memory, and how much of them."""

    path: Annotated[str, AfterValidator(local)] | None = None
    max_mb: Whole = Field(default=4096, ge=1)


class Upkeep(Model):
    """How long a table is tidied at most, each time that it is found up to date."""

    seconds: Seconds = Field(default=10, ge=0)


class Retry(Model):
    """The longest pauses of a table that is in trouble."""

    max_seconds: Seconds = Field(default=300, gt=0)
    blocked_max_seconds: Seconds = Field(default=900, gt=0)


class Csv(Model):
    """How the CSV files of a table are written."""

    header: Literal["auto", True, False] = "auto"
    encoding: Literal["utf-8"] = "utf-8"
    delimiter: Name = ","
    row_delimiter: Name = "auto"
    quote: str | None = Field(default='"', validate_default=True)
    null_values: Annotated[tuple[str, ...], BeforeValidator(listed)] = ("",)
    no_supplemental_value: str | None = None

    @checks("header", mode="before")
    @classmethod
    def _flag(cls, value: object) -> object:
        # A substituted variable is always text.
        return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value

    @checks("encoding", mode="before")
    @classmethod
    def _utf8(cls, value: object) -> object:
        if str(value).lower().replace("_", "-") in ("utf-8", "utf8"):
            return "utf-8"
        raise ValueError(f"{shown(value)} is not read; cdcloader reads utf-8, which DMS writes: convert the files")

    @checks("quote")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or not value.isascii() or value in "\r\n\0"):
            raise ValueError(f"{shown(value)} should be one ASCII character, or null")
        return value

    @checks("delimiter")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if any(character in value for character in "\r\n\0"):
            raise ValueError(f'{shown(value)} should hold no line end (a tab is "\\t" in double quotes)')
        return value

    @checks("quote", "row_delimiter")
    @classmethod
    def _told_apart(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Each text begins with what no other holds, so that one way alone leads through a record."""
        others = {name: info.data.get(name) for name in ("delimiter", "row_delimiter") if name != info.field_name}
        for name, other in others.items():
            if value is not None and other not in (None, "auto") and (value in other or other in value):
                raise ValueError(f"{shown(value)} and the {name} {shown(other)} cannot be told apart")
        return value

    @checks("no_supplemental_value")
    @classmethod
    def _tells_apart(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value == "" or (value is not None and value in info.data.get("null_values", ())):
            raise ValueError(f"{shown(value)} would be NULL too; it should be another text")
        return value


class BeforeImage(Model):
    """How DMS names the columns that hold values as they were before a change (add-before-image-columns)."""

    prefix: str = "BI_"
    suffix: str = Field(default="", validate_default=True)

    @checks("suffix")
    @classmethod
    def _differs(cls, value: str, info: ValidationInfo) -> str:
        if not value and not info.data.get("prefix", "BI_"):
            raise ValueError("prefix and suffix are empty; write before_image: null where there are no before-images")
        return value


class TableDefaults(Model):
    """What `defaults` may state for every table."""

    primary_key: Key = None
    partition_by: Names = ()
    sequence_by: Names = ()
    columns: dict[Name, Annotated[str, AfterValidator(normal_type)]] = {}
    csv: Csv = Csv()
    timestamps: Literal["utc", "naive"] = "utc"
    timestamp_column: Name | None = None
    op_column: Name | None = None
    changes_without_op: Literal["refuse", "insert"] = "refuse"
    keep_columns: Names = ()
    before_image: BeforeImage | None = BeforeImage()
    partial_updates: Literal["overwrite", "keep"] = "overwrite"
    partial_columns: Names = ()
    write_mode: Literal["auto", "merge_on_read", "copy_on_write"] = "auto"
    on_source_truncate: Literal["ignore", "truncate"] = "ignore"
    version: Annotated[str, AfterValidator(version_name)] | None = None
    timezone: Annotated[str, AfterValidator(time_zone)] = "UTC"
    layout: Annotated[str, AfterValidator(layout_pattern)] | None = None
    cdc_path: Annotated[str, AfterValidator(folder_name)] | None = None
    schema: Literal["evolve", "freeze", "quarantine"] = "evolve"  # type: ignore[assignment]
    on_type_change: Literal["widen", "string", "block"] = "widen"
    rename: Renames = {}
    drop: Names = ()
    cast: Casts = {}
    filter: Name | None = None
    derive: Derived = {}
    mask: Masks = {}

    @checks("rename", "drop", "filter", "derive", "mask")
    @classmethod
    def _goes_together(cls, value: Any, info: ValidationInfo) -> Any:
        check_rule(str(info.field_name), value, info.data)
        return value


class Table(TableDefaults):
    """One source and the target that it is loaded into; or, where the source is a pattern, every folder that it names.

    What a pattern's folders become: `expansion.table_of`.
    """

    source: Annotated[str, AfterValidator(table_name)]
    target: Annotated[str, AfterValidator(target_name)] = Field(
        default_factory=lambda data: data["source"], validate_default=True
    )
    primary_key: Key
    exclude: Names = ()
    primary_keys: dict[Name, Key] = {}
    _shared_masks: frozenset[str] = frozenset()

    @property
    def is_pattern(self) -> bool:
        """Whether the source stands for many."""
        return is_pattern(self.source)

    @property
    def own_masks(self) -> tuple[str, ...]:
        """The columns under `mask` that are meant for this table alone, so that it must have them."""
        return tuple(name for name in self.mask if name not in self._shared_masks)

    def sharing(self, masks: Iterable[str]) -> Self:
        """The same table with masks that are meant for many tables, of which not each has the column."""
        table = self.model_copy()
        table._shared_masks = frozenset(masks)  # noqa: SLF001 (the copy's own)
        return table

    @checks("target")
    @classmethod
    def _of_pattern(cls, value: str, info: ValidationInfo) -> str:
        source = info.data.get("source", "")
        return checked_target(value, source) if is_pattern(source) else value

    @checks("exclude", "primary_keys")
    @classmethod
    def _beside_pattern(cls, value: object, info: ValidationInfo) -> object:
        source = info.data.get("source", "*")
        if value and not is_pattern(source):
            raise ValueError(f"goes with a pattern, such as 'sales/*'; {shown(source)} is one table")
        return value

    @checks("partial_updates")
    @classmethod
    def _keyed(cls, value: str, info: ValidationInfo) -> str:
        if value == "keep" and "primary_key" in info.data and info.data["primary_key"] is None:
            raise ValueError("keeps values of the row with the same key; the table has no primary_key")
        return value

    @checks("partial_columns")
    @classmethod
    def _kept_by_name(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if names and info.data.get("partial_updates") == "overwrite":
            raise ValueError("says nothing without partial_updates: keep")
        keys = [name for name in names if name in (info.data.get("primary_key") or ())]
        if keys:
            raise ValueError(f"names {', '.join(map(repr, keys))} of the primary_key, which are never kept")
        return names


class Config(Model):
    """The whole config; local paths are absolute."""

    raw: Place
    lake: Place
    state: State
    poll_interval_seconds: Seconds = Field(default=60, gt=0)
    max_parallel_tables: Whole = Field(default=4, ge=1)
    memory_budget_mb: Annotated[Whole, Field(ge=1)] | None = None
    watchdog_seconds: Seconds = Field(default=900, gt=0)
    lease_seconds: Seconds = Field(default=60, gt=0)
    look_back_seconds: Whole = Field(default=3600, ge=0)
    http: Http | None = Http()
    full_load: FullLoad = FullLoad()
    batch: Batch = Batch()
    upkeep: Upkeep = Upkeep()
    retry: Retry = Retry()
    cache: Cache = Cache()
    tables: Annotated[tuple[Table, ...], Field(min_length=1)]

    @property
    def patterns(self) -> tuple[Table, ...]:
        """The entries that stand for many tables."""
        return tuple(table for table in self.tables if table.is_pattern)

    @property
    def exact(self) -> tuple[Table, ...]:
        """The entries that stand for one table."""
        return tuple(table for table in self.tables if not table.is_pattern)

    def table(self, source: str) -> Table:
        """The table with that source, which has an entry of its own; ConfigError when there is none."""
        for table in self.exact:
            if table.source == source.strip("/"):
                return table
        known = ", ".join(table.source for table in self.tables)
        raise ConfigError(f"no table has the source {source!r}", where="tables", hint=f"the sources are {known}")


class FileConfig(Config):
    """The config as the file has it."""

    defaults: TableDefaults = TableDefaults()
