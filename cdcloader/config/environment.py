"""What the environment says: `${NAME}` in the file's texts, and `CDCLOADER_...` variables laid over its keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml

from cdcloader.config.faults import Faults, Location, models_in
from cdcloader.config.file import composed, constructed
from cdcloader.config.models import Config, Model, TableDefaults
from cdcloader.config.values import shown

PREFIX = "CDCLOADER_"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-[^{}]*)?\}")


def substituted(value: Any, environ: Mapping[str, str], location: Location, faults: Faults) -> Any:
    """The same value with `${NAME}` and `${NAME:-default}` replaced in its texts (not in its keys)."""
    if isinstance(value, dict):
        return {key: substituted(item, environ, (*location, key), faults) for key, item in value.items()}
    if isinstance(value, list):
        return [substituted(item, environ, (*location, index), faults) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name, default in _VARIABLE.findall(value):
        if name not in environ and not default:
            faults.add(location, f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
    if "${" in _VARIABLE.sub("", value):
        faults.add(location, f"{shown(value)} should name variables as ${{NAME}} or ${{NAME:-default}}")
    # As in a shell, the default serves for an empty variable too.
    return _VARIABLE.sub(lambda match: environ.get(match[1]) or (match[2] or "").removeprefix(":-"), value)


def override(data: dict[str, Any], environ: Mapping[str, str], faults: Faults) -> None:
    """Lay the `CDCLOADER_...` variables over the file's values, in place; `__` goes one level down."""
    settings = dict(_settings(Config, ())) | dict(_settings(TableDefaults, ("defaults",)))
    known = {"__".join(keys).upper(): keys for keys in settings if keys[0] != "tables"}
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        keys = known.get(variable.removeprefix(PREFIX))
        if keys is None:
            faults.add((variable,), _unknown(variable, known))
        elif not environ[variable]:
            faults.add((variable,), "is empty; unset it, or write null")
        else:
            try:
                _put(data, keys, _value(environ[variable], settings[keys]))
            except (yaml.YAMLError, ValueError):
                faults.add((variable,), f"{shown(environ[variable])} is not a YAML value")
            faults.variables[".".join(keys)] = variable


def _settings(model: type[Model], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, field in model.model_fields.items():
        yield (*above, name), field.annotation
        for inner in models_in(field.annotation):
            yield from _settings(inner, (*above, name))


def _unknown(variable: str, known: Mapping[str, object]) -> str:
    if variable.startswith(f"{PREFIX}TABLES"):
        return "tables cannot be set by the environment; write ${NAME} in the file instead"
    near = difflib.get_close_matches(variable.removeprefix(PREFIX), known, 1)
    return "no setting has this name" + (f"; did you mean {PREFIX}{near[0]}?" if near else "")


def _value(text: str, kind: Any) -> Any:
    """The text as a YAML value, or as it is where the setting is text: a path may look like anything."""
    if kind is str:
        return text
    admits_text = str in get_args(kind)
    try:
        value = constructed(composed(text, "the variable"))
    except (yaml.YAMLError, ValueError):
        if not admits_text:
            raise
        return text
    return text if admits_text and value is not None else value


def _put(data: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    section: Any = data
    for key in keys[:-1]:
        if section.get(key) is None:
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            # The file has no section here, which is a fault of its own.
            return
    section[keys[-1]] = value
