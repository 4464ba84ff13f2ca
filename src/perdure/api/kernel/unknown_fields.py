"""Finds the fields of a JSON body that its type does not have, so that a misspelt one is not lost silently.

A body's type ignores unknown fields, because clients of newer releases send more of them. The search decodes
the body once more, without a type.
"""

from __future__ import annotations

import msgspec
from msgspec import inspect

from perdure.api.kernel.json_bounds import LARGE, without_strings
from perdure.domain.errors import InvalidInput

MAX_VALUES = 100_000
"""A body with more colons and commas, in text or between values, is not searched: it would take too long.
The strings of a body that is mostly a file's content do not count."""
MAX_LISTED = 20
"""The maximum number of unknown fields that are named."""
MAX_NAME = 100
"""The maximum length of a field's path in a warning, in characters."""

_NAMES = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw] | str | float | bool | None)
"""Decodes the names of an object's members, but not their values, so that long texts are not copied."""

Fields = dict[str, "Shape | None"]
"""A struct's fields, each with the shape of its value; None if the value may have any fields, or has none."""


class Shape:
    """Where a type has named fields.

    Attributes:
        fields: the fields of a struct; None for other values.
        tag: the field that says which of `variants` a value is; empty without variants.
        items: the shape of a list's items, or of a dict's values; None if it does not matter.
    """

    __slots__ = ("fields", "items", "tag", "variants")

    @property
    def is_flat(self) -> bool:
        """Whether the names of the value's own fields are all that is known."""
        return not self.variants and self.items is None and not any((self.fields or {}).values())

    def __init__(self) -> None:
        self.fields: Fields | None = None
        self.tag = ""
        self.variants: dict[object, Fields] = {}
        self.items: Shape | None = None


def shape_of(kind: object) -> Shape | None:
    """Return the shape of a type; None if it has no named fields anywhere."""
    return _shape(inspect.type_info(kind), {})


def _shape(kind: inspect.Type, seen: dict[type, Shape]) -> Shape | None:
    match kind:
        case inspect.Metadata():
            return _shape(kind.type, seen)
        case inspect.UnionType():
            return _merged([shape for each in kind.types if (shape := _shape(each, seen)) is not None])
        case inspect.ListType() | inspect.VarTupleType():
            return _with_items(_shape(kind.item_type, seen))
        case inspect.DictType():
            return _with_items(_shape(kind.value_type, seen))
        case inspect.StructType():
            if kind.cls not in seen:
                seen[kind.cls] = shape = Shape()
                shape.fields = {each.encode_name: _shape(each.type, seen) for each in kind.fields}
                if kind.tag_field is not None:
                    shape.tag = kind.tag_field
                    shape.variants = {kind.tag: shape.fields}
            return seen[kind.cls]
    return None


def _with_items(items: Shape | None) -> Shape | None:
    if items is None:
        return None
    shape = Shape()
    shape.items = items
    return shape


def _merged(shapes: list[Shape]) -> Shape | None:
    """Return the shape of a union: msgspec allows one struct, or several with tags, and one list."""
    if len(shapes) < 2:
        return shapes[0] if shapes else None
    shape = Shape()
    for each in shapes:
        shape.items = shape.items or each.items
        shape.tag = shape.tag or each.tag
        shape.variants |= each.variants
        if each.fields is not None and not each.tag:
            shape.fields = each.fields
    return shape


def unknown_fields(shape: Shape, body: bytes) -> list[str]:
    """Return a warning about each unknown field of a body, with its path: at most `MAX_LISTED`.

    Args:
        shape: the shape of the body's type.
        body: JSON that has been decoded into the type without an error.

    Raises:
        InvalidInput: the body has too many values to be searched.
    """
    counted = without_strings(body) if len(body) > LARGE else body
    if counted.count(b":") + counted.count(b",") > MAX_VALUES:
        raise InvalidInput(f"the body has more than {MAX_VALUES} values, too many to look for unknown fields")
    found: list[tuple[str, Fields]] = []
    names_suffice = len(body) > LARGE and shape.is_flat
    _search(shape, _NAMES.decode(body) if names_suffice else msgspec.json.decode(body), "", found)
    return [_warning(path, known) for path, known in found[:MAX_LISTED]]


def _search(shape: Shape, value: object, path: str, found: list[tuple[str, Fields]]) -> None:
    """Add the path of each unknown field in a value, and the fields that are known in its place."""
    if isinstance(value, list):
        if shape.items is not None:
            for index, item in enumerate(value):
                _search(shape.items, item, f"{path}[{index}]", found)
        return
    if not isinstance(value, dict) or len(found) >= MAX_LISTED:
        return
    before = f"{path}." if path else ""
    fields = shape.fields
    if shape.variants:
        fields = shape.variants.get(value.get(shape.tag), fields)
    if fields is None:
        if shape.items is not None and not shape.variants:
            for name, member in value.items():
                _search(shape.items, member, before + name, found)
        return
    if not value.keys() <= fields.keys():
        found += [(before + name, fields) for name in value if name not in fields and name != shape.tag]
    for name, member in value.items():
        deeper = fields.get(name)
        if deeper is not None:
            _search(deeper, member, before + name, found)


def _warning(path: str, known: Fields) -> str:
    from difflib import get_close_matches  # only requests with a mistake need it

    parent, dot, name = path.rpartition(".")
    close = get_close_matches(name[:MAX_NAME], list(known), 1, 0.7)
    meant = f": did you mean `{parent[:MAX_NAME]}{dot}{close[0]}`?" if close else ""
    return f"unknown field `{path[:MAX_NAME]}` was ignored{meant}"
