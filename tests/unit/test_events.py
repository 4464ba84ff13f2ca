"""Events: the class of the data names the kind."""

from __future__ import annotations

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
    classes = EventData.__subclasses__()
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
