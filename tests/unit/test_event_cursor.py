"""The client reads pages that end early to their end, in each direction."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.client.event_cursor import EventCursor
from perdure.domain.event_pages import EventPage

HEAD = 30


def _event(sequence: int) -> dict[str, Any]:
    return {
        "id": f"event_{sequence:032x}",
        "type": "turn.started",
        "ts": "2026-03-14T09:26:53.589793Z",
        "session_id": "session_0192f0c1b2a37b5c8d4e5f60718293a4",
        "context": {},
        "data": {},
        "sequence": sequence,
    }


def _answer(params: dict[str, Any], newest_first: bool, room: int) -> EventPage:
    """A server's page of at most `room` events."""
    after, before = params.get("after_sequence") or 0, params.get("before_sequence") or HEAD + 1
    assert not (params.get("after_sequence") and params.get("before_sequence"))
    limit = params["limit"] or 100
    found = list(range(after + 1, before))
    backwards = newest_first or bool(params.get("before_sequence"))
    wanted = (found[::-1] if backwards else found)[:limit]
    page = wanted[:room]
    if backwards and not newest_first:
        page = page[::-1]
    more = {"has_more": True} if len(page) < len(wanted) else {}
    body = msgspec.json.encode({"data": [_event(each) for each in page]} | more)
    return msgspec.json.decode(body, type=EventPage)


@pytest.mark.parametrize("room", [1, 3, 100])
@pytest.mark.parametrize(
    ("after", "before", "newest_first", "limit", "expected"),
    [
        (None, None, False, None, range(1, 31)),
        (None, None, False, 7, range(1, 8)),
        (5, None, False, 7, range(6, 13)),
        (None, None, True, 7, range(30, 23, -1)),
        (25, None, True, None, range(30, 25, -1)),
        (None, 20, False, 7, range(13, 20)),
        (None, 20, True, 7, range(19, 12, -1)),
        (30, None, False, None, []),
    ],
)
def test_the_events_of_all_pages_are_those_of_one(
    room: int, after: int | None, before: int | None, newest_first: bool, limit: int | None, expected: Any
) -> None:
    cursor = EventCursor(after, before, newest_first, limit)
    while not cursor.done:
        cursor.add(_answer(dict(cursor.params()), newest_first, room))
    assert [event.sequence for event in cursor.events()] == list(expected)
