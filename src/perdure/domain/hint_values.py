"""Which types of arguments can be made of JSON at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import inspect as mi


class UnsupportedHint(Exception):
    """A type hint has no JSON Schema. The text continues a sentence that begins with the type."""


_NO_KEYS = (
    mi.BoolType,
    mi.NoneType,
    mi.CollectionType,
    mi.TupleType,
    mi.DictType,
    mi.TypedDictType,
    mi.NamedTupleType,
    mi.DataclassType,
    mi.StructType,
)
"""Types that the name of a JSON object's member cannot be converted to."""

_UNHASHABLE = (mi.ListType, mi.SetType, mi.DictType, mi.TypedDictType, mi.ByteArrayType)


def check_convertible(hint: object) -> None:
    """Check that arguments can have this type: otherwise every call of the tool would fail.

    Raises:
        UnsupportedHint: they cannot.
    """
    waiting = [mi.type_info(hint)]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, mi.RawType):
            raise UnsupportedHint("is not supported (msgspec.Raw): use Any")
        if isinstance(kind, mi.DictType) and not _is_key(kind.key_type):
            raise UnsupportedHint(
                "has a dict with keys that are not possible in JSON: use keys of the type str or int, or a "
                "list of pairs"
            )
        if isinstance(kind, mi.SetType | mi.FrozenSetType) and not _is_hashable(kind.item_type):
            raise UnsupportedHint("has a set of values that are not hashable: use a list, or a frozen class")
        waiting += _inside(kind)


def _is_key(kind: mi.Type) -> bool:
    if isinstance(kind, mi.Metadata):
        return _is_key(kind.type)
    if isinstance(kind, mi.UnionType):
        return any(map(_is_key, kind.types))
    if isinstance(kind, mi.LiteralType):
        return any(isinstance(value, str | int) and not isinstance(value, bool) for value in kind.values)
    return not isinstance(kind, _NO_KEYS)


def _is_hashable(kind: mi.Type) -> bool:
    if isinstance(kind, mi.DataclassType | mi.StructType):
        cls: Any = kind.cls  # a class with `__hash__ = None` is not hashable
        return cls.__hash__ is not None and all(map(_is_hashable, _inside(kind)))
    return not isinstance(kind, _UNHASHABLE) and all(map(_is_hashable, _inside(kind)))


def _inside(kind: mi.Type) -> Iterator[mi.Type]:
    """The types that this one is made of."""
    if isinstance(kind, mi.Metadata):
        yield kind.type
    elif isinstance(kind, mi.UnionType):
        yield from kind.types
    elif isinstance(kind, mi.CollectionType):
        yield kind.item_type
    elif isinstance(kind, mi.TupleType):
        yield from kind.item_types
    elif isinstance(kind, mi.DictType):
        yield kind.key_type
        yield kind.value_type
    elif isinstance(kind, mi.StructType | mi.DataclassType | mi.TypedDictType | mi.NamedTupleType):
        yield from (field.type for field in kind.fields)
