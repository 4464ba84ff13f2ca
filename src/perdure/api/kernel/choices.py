"""Finds the values that a field accepts, or an example, for an error about a wrong value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from msgspec import inspect

_STEP = re.compile(r"[^.\[\]]+|\[[^\[\]]*\]")


def choices_at(kind: object, path: str) -> list[str]:
    """List the strings that a type accepts at a path such as `decisions[0].decision`.

    Returns:
        The choices: values of a Literal, or tags of a tagged union. Empty if the path takes any string.
    """
    parents, last = _parents_at(kind, path)
    tags = [each.tag for each in parents if isinstance(each, inspect.StructType) and each.tag_field == last]
    fields = _members(inner for each in parents for inner in _children(each, last))
    values = tags or [
        value for each in fields if isinstance(each, inspect.LiteralType) for value in each.values
    ]
    return [value for value in values if isinstance(value, str)]


def example_at(kind: object, path: str) -> str | None:
    """Return the first example that a type declares for a string at a path, if there is one."""
    parents, last = _parents_at(kind, path)
    for field in (inner for each in parents for inner in _children(each, last)):
        for each in field.types if isinstance(field, inspect.UnionType) else (field,):
            if isinstance(each, inspect.Metadata) and isinstance(each.type, inspect.StrType):
                examples = (each.extra_json_schema or {}).get("examples") or [None]
                return None if examples[0] is None else str(examples[0])
    return None


def _parents_at(kind: object, path: str) -> tuple[list[inspect.Type], str]:
    """Return the types that the last step of a path begins at, and that step."""
    *steps, last = _STEP.findall(path) or [""]
    types = [_type_info(kind)]
    for step in steps:
        types = [inner for each in _members(types) for inner in _children(each, step)]
    return list(_members(types)), last


@lru_cache(maxsize=256)
def _type_info(kind: object) -> inspect.Type:
    return inspect.type_info(kind)


def _members(kinds: Iterable[inspect.Type]) -> Iterator[inspect.Type]:
    """Yield the types without their unions and metadata."""
    for kind in kinds:
        match kind:
            case inspect.UnionType():
                yield from _members(kind.types)
            case inspect.Metadata():
                yield from _members((kind.type,))
            case _:
                yield kind


def _children(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    """Yield the type of a struct's field, of a list's items, or of a dict's values."""
    match kind:
        case inspect.StructType():
            yield from (field.type for field in kind.fields if field.encode_name == step)
        case inspect.ListType() | inspect.VarTupleType():
            yield kind.item_type
        case inspect.DictType():
            yield kind.value_type
