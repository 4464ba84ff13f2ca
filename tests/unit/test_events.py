"""Events: the class of the data names the kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from perdure.domain.event_data import EventData
from perdure.domain.events import (
    EVENT_DATA,
    Event,
    EventContext,
    NewEvent,
    SessionActivatedData,
    TurnCancelledData,
    TurnFailedData,
    decode_data,
)
from perdure.store.rows import to_json

FAILED = TurnFailedData("turn_1", "no")


def _stored(data: EventData) -> Event:
    return Event("event_1", "session_1", 1, data.kind, 7, "{}", to_json(data))


def test_every_class_of_event_data_is_listed_with_a_distinct_kind() -> None:
    classes = [
        each for base in EventData.__subclasses__() for each in base.__subclasses__() or [base]
    ]  # a class without a kind says what some have in common
    assert {data.kind: data for data in classes} == EVENT_DATA
    assert len(classes) == len(EVENT_DATA)


def test_the_type_of_an_event_is_the_kind_of_its_data() -> None:
    assert NewEvent(FAILED, EventContext(), 7).type == "turn.failed"


def test_the_kind_is_not_a_field_of_the_data() -> None:
    assert to_json(FAILED) == '{"turn_id":"turn_1","error":"no"}'
    assert decode_data("turn.failed", '{"turn_id":"turn_1","error":"no"}') == FAILED


@pytest.mark.parametrize("event", [NewEvent(FAILED, EventContext(), 7), _stored(FAILED)])
def test_data_can_be_read_as_its_own_class_and_as_no_other(event: Event | NewEvent) -> None:
    assert event.decoded() == event.get(TurnFailedData) == event.read(TurnFailedData) == FAILED
    assert event.get(TurnCancelledData) is None
    with pytest.raises(TypeError, match=r"cannot read the data of a turn\.failed event as TurnCancelledData"):
        event.read(TurnCancelledData)


def test_data_of_another_class_is_not_decoded() -> None:
    event = Event("event_1", "session_1", 1, "turn.failed", 7, "{}", "not JSON")
    assert event.get(SessionActivatedData) is None


def _limits_in(kind: Any, seen: set[Any]) -> Iterator[str]:
    """The constraints of a type and of the types in it."""
    if isinstance(kind, msgspec.inspect.StructType):
        if kind.cls in seen:
            return
        seen.add(kind.cls)
        for field in kind.fields:
            yield from (
                f"{kind.cls.__name__}.{field.name}: {limit}" for limit in _limits_in(field.type, seen)
            )
        return
    for name in kind.__struct_fields__:
        value = getattr(kind, name)
        if name in ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern"):
            if value is not None and (name, value) != ("min_length", len(getattr(kind, "item_types", ()))):
                yield f"{name}={value}"
        elif isinstance(value, msgspec.inspect.Type):
            yield from _limits_in(value, seen)
        elif isinstance(value, tuple):
            for each in value:
                if isinstance(each, msgspec.inspect.Type):
                    yield from _limits_in(each, seen)


def test_what_is_in_a_log_can_always_be_read_because_its_types_have_no_limits() -> None:
    seen: set[Any] = set()
    for data in (*EVENT_DATA.values(), EventContext):
        assert list(_limits_in(msgspec.inspect.type_info(data), seen)) == []
    assert len(seen) > len(EVENT_DATA)
