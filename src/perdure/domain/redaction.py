"""Events without secrets."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.events import NewEvent
from perdure.domain.storage import Redactor

_FIXED = ("id", "ts", "sequence", "thinking_signature")
_FIXED_ENDS = ("_id", "_ids", "_at", "_token")
"""Fields that are no free text: they tie events together, or mean something only as they are. A secret of four letters or digits
would be found in many an id."""


def redact_event(event: NewEvent, redactor: Redactor) -> NewEvent:
    """The event with every secret replaced by its name, in its data, metadata and tags."""
    data = _clean(event.data, redactor)
    metadata = redactor.value(event.metadata)
    tags = None if event.tags is None else tuple(redactor.text(tag) for tag in event.tags)
    if data is event.data and metadata is event.metadata and tags == event.tags:
        return event
    return msgspec.structs.replace(event, data=data, metadata=metadata, tags=tags)


def _clean(value: Any, redactor: Redactor) -> Any:
    """A struct, or what is in one, without secrets; the very same if there are none."""
    if isinstance(value, Struct):
        changes = {}
        for name in _texts(type(value)):
            before = getattr(value, name)
            after = _clean(before, redactor)
            if after is not before:
                changes[name] = after
        return msgspec.structs.replace(value, **changes) if changes else value
    if isinstance(value, tuple):
        cleaned = tuple(_clean(each, redactor) for each in value)
        return value if all(after is before for after, before in zip(cleaned, value, strict=True)) else cleaned
    if isinstance(value, str | dict | list):
        return redactor.value(value)
    return value


@lru_cache(maxsize=256)
def _texts(kind: type[Struct]) -> tuple[str, ...]:
    """The fields of a struct in which somebody's words can stand."""
    about = msgspec.inspect.type_info(kind)
    fields = about.fields if isinstance(about, msgspec.inspect.StructType) else ()
    return tuple(field.name for field in fields if not _is_fixed(field.name, field.type))


def _is_fixed(name: str, kind: msgspec.inspect.Type) -> bool:
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    plain = (msgspec.inspect.LiteralType, msgspec.inspect.NoneType, msgspec.inspect.BoolType, msgspec.inspect.IntType)
    return (
        name in _FIXED or name.endswith(_FIXED_ENDS) or all(isinstance(each, (*plain, msgspec.inspect.FloatType)) for each in kinds)
    )
