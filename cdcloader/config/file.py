"""The YAML file as plain values: read, its doubled keys found, `defaults` merged into its tables."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from cdcloader.config.faults import Faults, Location
from cdcloader.errors import ConfigError

HINT = "docs/configuration.md explains every key"


def read_mapping(path: Path, faults: Faults) -> dict[str, Any]:
    """The mapping in the file; a key that it states twice is a fault. ConfigError when there is no mapping."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError("there is no such config file", where=str(path), hint=HINT) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config cannot be read: {error}", where=str(path), hint=HINT) from error
    try:
        node = yaml.compose(_Named(text, path.name), Loader=yaml.SafeLoader)
        _check_nodes(node, (), faults, set(), set())
        data = yaml.safe_load(_Named(text, path.name))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        hint = 'inside { } and [ ] write "${NAME}" in quotes' if "${" in text else HINT
        raise ConfigError(f"the config is not YAML: {error}", where=str(path), hint=hint) from error
    if not isinstance(data, dict):
        raise ConfigError("the config is not a mapping of keys to values", where=str(path), hint=HINT)
    return data


class _Named(StringIO):
    """A text that YAML's messages call by the name of its file."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def with_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """The same config with `defaults` merged into every table; what the table states goes first."""
    defaults, tables = data.get("defaults"), data.get("tables")
    if defaults is None:
        # An empty section, as is left when all its keys are commented out.
        data = {key: value for key, value in data.items() if key != "defaults"}
    if not isinstance(defaults, dict) or not isinstance(tables, list):
        return data
    shared = {key: value for key, value in defaults.items() if key not in ("source", "target")}
    merged = [_merged(shared, table) if isinstance(table, dict) else table for table in tables]
    return {**data, "tables": merged}


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            both[key] = _merged(under[key], over[key])
    return both


def _check_nodes(
    node: yaml.Node | None, location: Location, faults: Faults, visited: set[int], above: set[int]
) -> None:
    """Find doubled keys, of which YAML would silently keep the last, and aliases that contain themselves."""
    if id(node) in above:
        raise ValueError("an alias contains itself")
    if id(node) in visited:
        return
    visited.add(id(node))
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_nodes(item, (*location, index), faults, visited, above)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                faults.add((*location, name), f"is stated twice, the second time in line {key.start_mark.line + 1}")
            seen.add(name)
            _check_nodes(value, (*location, name), faults, visited, above)
