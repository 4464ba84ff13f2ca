"""The words that a request may hold at a place where only some are known: for those who wrote another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from msgspec import inspect

_STEP = re.compile(r"[^.\[\]]+|\[[^\]]*\]")


def words_at(kind: object, place: str) -> list[str]:
    """The words that may stand at a place (`decisions[0].decision`) in something of this kind.

    None if others may as well.
    """
    *way, last = _STEP.findall(place) or [""]
    around = [_known(kind)]
    for step in way:
        around = [inner for each in _alternatives(around) for inner in _inside(each, step)]
    holders = list(_alternatives(around))
    tags = [each.tag for each in holders if isinstance(each, inspect.StructType) and each.tag_field == last]
    there = _alternatives(inner for each in holders for inner in _inside(each, last))
    words = tags or [word for each in there if isinstance(each, inspect.LiteralType) for word in each.values]
    return [word for word in words if isinstance(word, str)]


@lru_cache(maxsize=256)
def _known(kind: object) -> inspect.Type:
    return inspect.type_info(kind)


def _alternatives(kinds: Iterable[inspect.Type]) -> Iterator[inspect.Type]:
    for kind in kinds:
        match kind:
            case inspect.UnionType():
                yield from _alternatives(kind.types)
            case inspect.Metadata():
                yield from _alternatives((kind.type,))
            case _:
                yield kind


def _inside(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    """What stands in something of a kind, one step further in."""
    match kind:
        case inspect.StructType():
            yield from (field.type for field in kind.fields if field.encode_name == step)
        case inspect.ListType() | inspect.VarTupleType():
            yield kind.item_type
        case inspect.DictType():
            yield kind.value_type
