"""The config: frozen models of the YAML file and its environment, and one error that names every fault at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from cdcloader.config.clashes import find_clashes
from cdcloader.config.environment import override, substituted
from cdcloader.config.faults import Faults
from cdcloader.config.file import read_mapping, with_defaults
from cdcloader.config.models import (
    Batch,
    Config,
    Csv,
    DynamoDBState,
    FileConfig,
    FullLoad,
    Http,
    MemoryState,
    SQLiteState,
    Table,
)

__all__ = [
    "Batch",
    "Config",
    "Csv",
    "DynamoDBState",
    "FullLoad",
    "Http",
    "MemoryState",
    "SQLiteState",
    "Table",
    "load_config",
]


def load_config(path: str | Path, environ: Mapping[str, str]) -> Config:
    """The config in the file `path`, with `environ` substituted and laid over it.

    ConfigError when it is wrong; its `faults` are all of them, each as `tables[0].primary_key: message`.
    """
    faults = Faults()
    data = substituted(read_mapping(Path(path), faults), environ, (), faults)
    override(data, environ, faults)
    merged = with_defaults(data)
    try:
        config = FileConfig.model_validate(merged)
    except ValidationError as error:
        faults.explain(error, data)
        config = None
    find_clashes(merged, faults)
    if config is None or faults.messages:
        raise faults.error(str(path))
    values = {name: getattr(config, name) for name in Config.model_fields}
    values["tables"] = tuple(table.sharing(config.defaults.mask) for table in config.tables)
    return Config.model_construct(**values)
