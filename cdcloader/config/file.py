"""The YAML file as plain values: read, its doubled keys found, `defaults` merged into its tables."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from cdcloader.config.faults import Faults, Location
from cdcloader.errors import ConfigError

HINT = "docs/configuration.md explains every key"
# A thousand tables with many columns take a tenth of these.
_BYTES_MAX = 4 << 20
_NODES_MAX = 200_000


def read_mapping(path: Path, faults: Faults) -> dict[str, Any]:
    """The mapping in the file; a key that it states twice is a fault. ConfigError when there is no mapping."""
    try:
        text = _read(path)
    except FileNotFoundError as error:
        raise ConfigError("there is no such config file", where=str(path), hint=HINT) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config cannot be read: {error}", where=str(path), hint=HINT) from error
    try:
        node = composed(text, path.name)
        _check_nodes(node, (), faults, set())
        data = constructed(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        hint = 'inside { } and [ ] write "${NAME}" in quotes' if "${" in text else HINT
        raise ConfigError(f"the config is not YAML: {error}", where=str(path), hint=hint) from error
    if not isinstance(data, dict):
        raise ConfigError("the config is not a mapping of keys to values", where=str(path), hint=HINT)
    return data


def _read(path: Path) -> str:
    """The file's text; of a file that is no config, a device even, no more is read than a config may hold."""
    with path.open("rb") as stream:
        content = stream.read(_BYTES_MAX + 1)
    if len(content) > _BYTES_MAX:
        raise ConfigError(f"the config is larger than {_BYTES_MAX >> 20} MiB", where=str(path), hint=HINT)
    return content.decode("utf-8-sig")


def composed(text: str, name: str) -> yaml.Node | None:
    """The nodes of a text; ValueError when its aliases stand for more than any config holds, before they are used."""
    node = yaml.compose(_Named(text, name), Loader=yaml.SafeLoader)
    if node is not None and _size(node, {}, set()) > _NODES_MAX:
        raise ValueError(f"with its aliases written out it has more than {_NODES_MAX:,} values")
    return node


def constructed(node: yaml.Node | None) -> Any:
    """The plain values of a text's nodes: numbers, texts, lists, mappings and the like, never objects."""
    return None if node is None else yaml.SafeLoader("").construct_document(node)


def _size(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """How many nodes there are when every alias is written out; each is looked at once."""
    if id(node) in above:
        raise ValueError("an alias contains itself")
    if id(node) not in known:
        above = above | {id(node)}
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_size(each, known, above) for each in inner)
    return known[id(node)]


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


def _check_nodes(node: yaml.Node | None, location: Location, faults: Faults, visited: set[int]) -> None:
    """Find doubled keys, of which YAML would silently keep the last."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_nodes(item, (*location, index), faults, visited)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                faults.add((*location, name), f"is stated twice, the second time in line {key.start_mark.line + 1}")
            seen.add(name)
            _check_nodes(value, (*location, name), faults, visited)
