"""Fields of a recipe set from outside: `schedule.lr = 1e-3`, `network.units.*.ops.0.out = 32`.

A field is a dotted path into the recipe's data as TOML holds them; in a list, a number is one element and `*` is
every element that has such a field. What may stand where, `fftrain/recipe.py` says; here are only plain data.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from msgspec import NODEFAULT, inspect, to_builtins

from ffruntime.core.devices import require_numbers
from ffruntime.core.errors import UsageError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Override: TypeAlias = tuple[str, Any]  # (field, value)


def parse_override(text: str) -> Override:
    """`FIELD=VALUE` -> (field, value). Raises `UsageError`."""
    field, equals, value = text.partition("=")
    if not (field.strip() and equals):
        raise UsageError(f"'{text}': expected FIELD=VALUE, such as schedule.lr=1e-3")
    return field.strip(), parse_value(value)


def parse_value(text: str) -> Any:
    """A value as TOML writes it: `1e-3`, `true`, `[1, 2]`, `{ op = "relu" }`. What is not TOML is a string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text.strip()
    try:
        return require_numbers(parsed["value"]) if len(parsed) == 1 else text.strip()
    except ValueError as error:
        raise UsageError(f"'{text}': {error}") from error


def set_fields(data: Any, overrides: Iterable[Override], kind: Any) -> Any:
    """A copy of `data` with fields set in their order; `kind` is the msgspec struct that the data are meant for.

    A table sets the fields that it names; another `kind` or `op` begins with its own defaults. Raises `UsageError`
    for a field that there is not. Whether a value fits is found when the data are converted to `kind`.
    """
    root = inspect.type_info(kind)
    for field, value in overrides:
        try:
            data = _put(data, field.split("."), value, root)
        except _MissingError as missing:
            raise _unknown_field(field, missing, data, root) from None
    return data


class _MissingError(Exception):
    """Below the first `depth` names of a field there is no such name, but those `known`."""

    def __init__(self, known: Iterable[str]) -> None:
        super().__init__()
        self.depth, self.known = 0, list(known)


def _put(data: Any, path: list[str], value: Any, kind: inspect.Type) -> Any:
    if not path:
        return _put_table(data, value, kind)
    name, *rest = path
    element = _element(kind)
    if element and isinstance(data, list | tuple):
        return _put_in_list(list(data), name, rest, value, element)
    struct = _struct(kind, data)
    if struct is None:
        raise _MissingError([])
    if name == struct.tag_field and not rest:
        tags = [str(option.tag) for option in _structs(kind)]
        if value not in tags:
            raise unknown(name, str(value), tags)
        return data if value == struct.tag else {name: value}
    fields = {field.encode_name: field for field in struct.fields}
    if name not in fields:
        raise _MissingError([*fields, *filter(None, [struct.tag_field])])
    try:
        return data | {name: _put(_get(data, fields[name]), rest, value, fields[name].type)}
    except _MissingError as missing:
        missing.depth += 1
        raise


def _put_table(data: Any, value: Any, kind: inspect.Type) -> Any:
    struct = _struct(kind, data)
    if struct is None or not isinstance(value, dict):
        return value
    for name in sorted(value, key=lambda name: name != struct.tag_field):  # the kind first
        data = _put(data, name.split("."), value[name], kind)
    return data


def _put_in_list(items: list[Any], name: str, rest: list[str], value: Any, element: inspect.Type) -> list[Any]:
    indices = [index for index in range(len(items)) if name in ("*", str(index))]
    if not indices:
        raise _MissingError([*map(str, range(len(items))), "*"])
    missing: list[_MissingError] = []
    for index in indices:
        try:
            items[index] = _put(items[index], rest, value, element)
        except _MissingError as error:
            missing.append(error)
    if len(missing) == len(indices):
        missing[0].depth += 1
        raise missing[0]
    return items


def _unknown_field(field: str, missing: _MissingError, data: Any, root: inspect.Type) -> UsageError:
    names, depth = field.split("."), missing.depth
    if not missing.known:
        return UsageError(f"unknown field '{field}': {'.'.join(names[:depth])} is a value and has no fields")
    elsewhere = sorted({".".join(path) for path in _paths(data, root) if path[-1] == names[-1]})
    if elsewhere and depth == len(names) - 1 and not difflib.get_close_matches(names[depth], missing.known):
        return UsageError(f"unknown field '{field}': did you mean '{elsewhere[0]}'?")
    return unknown(
        "field", field, [".".join([*names[:depth], name, *names[depth + 1 :]]) for name in missing.known]
    )


def _paths(data: Any, kind: inspect.Type) -> Iterator[list[str]]:
    """Every field that can be set in `data`; the elements of a list as `*`."""
    struct, element = _struct(kind, data), _element(kind)
    if struct:
        for field in struct.fields:
            yield from ([field.encode_name, *rest] for rest in _paths(_get(data, field), field.type))
    elif element and isinstance(data, list | tuple):
        for item in data:
            yield from (["*", *rest] for rest in _paths(item, element))
    else:
        yield []


def _get(data: dict[str, Any], field: inspect.Field) -> Any:
    """The field's value, or its default where it is left out."""
    default = None if field.default is NODEFAULT else to_builtins(field.default)
    return data.get(field.encode_name, default)


def _structs(kind: inspect.Type) -> list[inspect.StructType]:
    options = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return [option for option in options if isinstance(option, inspect.StructType)]


def _struct(kind: inspect.Type, data: Any) -> inspect.StructType | None:
    """The struct that such data are: the only one, or the one that their tag names."""
    for struct in _structs(kind):
        if isinstance(data, dict) and (struct.tag_field is None or data.get(struct.tag_field) == struct.tag):
            return struct
    return None


def _element(kind: inspect.Type) -> inspect.Type | None:
    return kind.item_type if isinstance(kind, inspect.VarTupleType) else None
