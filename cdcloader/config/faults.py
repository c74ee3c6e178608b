"""Everything that is wrong with a config, each fault with its place and in words that help to mend it."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cdcloader.config.models import FileConfig, Model
from cdcloader.config.values import shown
from cdcloader.errors import ConfigError

Location = tuple[str | int, ...]

_KINDS = {
    "bool": "true or false",
    "dict": "a mapping of keys to values",
    "finite": "a number",
    "float": "a number",
    "int": "a whole number",
    "model": "a mapping of keys to values",
    "string": "text",
    "tuple": "a list",
}
_FORMATS = {
    "greater_than": "should be more than {gt:g}, got {value}",
    "greater_than_equal": "should be at least {ge:g}, got {value}",
    "invalid_key": "keys should be text; put {value} in quotes",
    "less_than_equal": "should be at most {le}, got {value}",
    "literal_error": "{value} is none of {choices}",
    "string_too_short": "is empty",
    "too_short": "is empty; list at least one",
    "union_tag_invalid": "its kind should be one of {choices}",
    "union_tag_not_found": "its kind is missing; it is one of {choices}",
    "value_error": "{error}",
}
_MISSING = {
    "primary_key": "is missing; name the key's columns, or write null for an insert-only table",
    "raw": "is missing; it is the place that DMS writes to",
    "lake": "is missing; it is the place for the Delta tables",
    "state": "is missing; write {kind: dynamodb}, or {kind: sqlite, path: ./cdcloader.db}",
    "tables": "is missing; list at least one table",
}


class Faults:
    """What is wrong, by place. The first message for a place stays, because later ones follow from it."""

    def __init__(self) -> None:
        self.messages: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        """Place -> the environment variable that its value came from."""

    def add(self, location: Location, message: str) -> None:
        """Note a fault."""
        place = spelled(location)
        variable = self.variables.get(place)
        self.messages.setdefault(place, f"{message} (from {variable})" if variable else message)

    def explain(self, error: ValidationError, stated: dict[str, Any]) -> None:
        """Note what pydantic found; what a table took over from `defaults` is a fault there alone."""
        details = error.errors(include_url=False)
        in_defaults = {tuple(detail["loc"])[1:] for detail in details if detail["loc"][:1] == ("defaults",)}
        for detail in details:
            location = detail["loc"]
            inherited = location[:1] == ("tables",) and location[2:] in in_defaults and not _holds(stated, location)
            # What only follows from a fault is none of its own: a target whose source is bad, a list of bad tables.
            follows = detail["type"] == "default_factory_not_called" or (
                detail["type"] == "too_short" and detail["input"]
            )
            if not inherited and not follows:
                self.add(_in_file(location), _message(detail))

    def error(self, where: str) -> ConfigError:
        """All of it as one error."""
        faults = tuple(f"{place}: {message}" for place, message in self.messages.items())
        count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        return ConfigError("\n  ".join((f"the config has {count}:", *faults)), where=where, faults=faults)


def spelled(location: Location) -> str:
    """A place as `tables[0].csv.quote`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def models_in(annotation: Any) -> list[type[Model]]:
    """The sections that an annotation allows: of `Http | None` it is `Http`."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


def _models_at(location: Location) -> list[type[Model]]:
    models: list[type[Model]] = [FileConfig]
    for key in location:
        tagged = [model for model in models if _tag(model) == key]
        fields = [model.model_fields[key] for model in models if isinstance(key, str) and key in model.model_fields]
        if not isinstance(key, int):
            models = tagged or [model for field in fields for model in models_in(field.annotation)]
    return models


def _tag(model: type[Model]) -> object:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _in_file(location: Location) -> Location:
    # pydantic names the kind of state, and that a key is meant, as if they were levels of the file.
    levels = (location[0], *location[2:]) if location[0] == "state" else location
    return tuple(level for level in levels if level != "[key]")


def _holds(data: Any, location: Location) -> bool:
    for key in location:
        index = range(len(data)) if isinstance(data, list) else data if isinstance(data, dict) else ()
        if key not in index:
            return False
        data = data[key]
    return True


def _message(detail: ErrorDetails) -> str:
    kind, location, value = detail["type"], detail["loc"], detail["input"]
    if kind == "extra_forbidden":
        return _unknown_key(location)
    if kind == "missing":
        return _MISSING.get(str(location[-1]), "is missing")
    if kind in _FORMATS:
        context = detail.get("ctx", {})
        if kind == "literal_error":
            context = {"choices": _choices(value, str(context["expected"]))}
        if kind.startswith("union_tag"):
            context = {"choices": ", ".join(str(_tag(model)) for model in _models_at(location))}
        return _FORMATS[kind].format(value=shown(value), **context)
    expected = _KINDS.get(kind.split("_", maxsplit=1)[0], detail["msg"])
    quotes = "; put it in quotes" if expected == "text" and not isinstance(value, (dict, list)) else ""
    return f"should be {expected}, got {shown(value)}{quotes}"


def _unknown_key(location: Location) -> str:
    keys = [name for model in _models_at(location[:-1]) for name in model.model_fields]
    near = difflib.get_close_matches(str(location[-1]), keys, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"there is no such key; {hint}the keys here are {', '.join(keys)}"


def _choices(value: object, expected: str) -> str:
    choices = expected.replace("'", "").replace("True", "true").replace("False", "false").replace(" or ", ", ")
    near = difflib.get_close_matches(str(value), choices.split(", "), 1)
    return choices + (f"; did you mean {near[0]}?" if near else "")
