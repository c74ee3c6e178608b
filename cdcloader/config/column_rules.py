"""What a table's column rules may say: the types of their keys, and what does not go together (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from cdcloader.changes.type_names import normal_type

# The loader's own columns begin so, beside those of a table.
_OWN = "__"


def _own_columns(names: Mapping[str, object]) -> None:
    own = [name for name in names if name.startswith(_OWN)]
    if own:
        raise ValueError(f"{own[0]!r} begins with {_OWN}, as the loader's own columns do")


def _renames(names: dict[str, str]) -> dict[str, str]:
    _own_columns(dict.fromkeys(names.values()))
    for label, each in (("old", list(names)), ("new", list(names.values()))):
        if twice := _twice(each):
            raise ValueError(f"the {label} name {twice!r} stands there twice (case does not tell columns apart)")
    return names


def _derived(expressions: dict[str, str]) -> dict[str, str]:
    _own_columns(expressions)
    if twice := _twice(expressions):
        raise ValueError(f"{twice!r} stands there twice (case does not tell columns apart)")
    return expressions


def _once(columns: dict[str, Any]) -> dict[str, Any]:
    if twice := _twice(columns):
        raise ValueError(f"{twice!r} stands there twice (case does not tell columns apart)")
    return columns


def _null(value: object) -> object:
    # YAML's null is what the word stands for.
    return "null" if value is None else value


_Name = Annotated[str, Field(min_length=1)]
Renames = Annotated[dict[_Name, _Name], AfterValidator(_renames)]
Casts = Annotated[dict[_Name, Annotated[str, AfterValidator(normal_type)]], AfterValidator(_once)]
Derived = Annotated[dict[_Name, _Name], AfterValidator(_derived)]
Masks = Annotated[
    dict[_Name, Annotated[Literal["sha256", "null"], BeforeValidator(_null)]],
    AfterValidator(_once),
]


def check_rule(rule: str, value: Any, table: Mapping[str, Any]) -> None:
    """ValueError where a rule does not go with the keys of `table`, which are those that were read before it."""
    if value:
        _CHECKS[rule](value, table)


def _check_rename(renames: Mapping[str, str], table: Mapping[str, Any]) -> None:
    new = _folded(renames.values())
    for key in ("primary_key", "partition_by", "sequence_by", "columns", "keep_columns", "op_column"):
        named = table.get(key) or ()
        for name in (named,) if isinstance(named, str) else named:
            if name.lower() in _folded(renames) - new:
                raise ValueError(f"{key} names {name!r}, which is renamed: write its new name there")


def _check_drop(names: Iterable[str], table: Mapping[str, Any]) -> None:
    for key in ("primary_key", "partition_by"):
        if both := _folded(table.get(key) or ()) & _folded(names):
            raise ValueError(f"{min(both)!r} is needed by {key}")


def _check_whole_rows(_expressions: object, table: Mapping[str, Any]) -> None:
    token = getattr(table.get("csv"), "no_supplemental_value", None)
    if table.get("partial_updates") == "keep" or token is not None:
        key = "csv.no_supplemental_value" if token is not None else "partial_updates: keep"
        raise ValueError(f"looks at whole rows, and with {key} an update may have only some of its values")


def _check_derive(expressions: Mapping[str, str], table: Mapping[str, Any]) -> None:
    _check_whole_rows(expressions, table)
    derived = _folded(expressions)
    if both := derived & _folded(table.get("primary_key") or ()):
        raise ValueError(f"{min(both)!r} is in primary_key; a key is made of the source's own columns")
    for key in ("cast", "drop"):
        if both := derived & _folded(table.get(key) or ()):
            raise ValueError(f"{min(both)!r} is in {key} too, which is for the source's own columns")
    if both := derived & _folded((table.get("rename") or {}).values()):
        raise ValueError(f"{min(both)!r} is a new name under rename too")


def _check_mask(masks: Mapping[str, str], table: Mapping[str, Any]) -> None:
    emptied = [name for name, way in masks.items() if way == "null"]
    if both := _folded(emptied) & _folded(table.get("primary_key") or ()):
        raise ValueError(f"{min(both)!r} is in primary_key; null would make all keys one (sha256 keeps them apart)")
    if both := _folded(masks) & _folded(table.get("drop") or ()):
        raise ValueError(f"{min(both)!r} is in drop too")


_CHECKS = {
    "rename": _check_rename,
    "drop": _check_drop,
    "filter": _check_whole_rows,
    "derive": _check_derive,
    "mask": _check_mask,
}


def _folded(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            return name
        seen.add(name.lower())
    return None
