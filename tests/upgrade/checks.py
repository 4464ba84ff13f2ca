"""Checks of every session of an old database, after its turn has finished."""

from __future__ import annotations

from collections import Counter

from tests.talk import Json, text_in
from tests.upgrade.place import Place
from tests.upgrade.state import holds

ENDS = {"turn.completed", "turn.failed", "turn.cancelled", "turn.sealed"}
OUTSIDE_TURNS = {"input.message", "session.activated", "session.idled", "session.started"}


async def check_session(place: Place, name: str, before: list[Json] | None) -> None:
    """Check that a session matches its log, has lost nothing, and takes another message.

    Args:
        before: its log as the old server returned it; None for a deleted session.
    """
    kept, talk = place.sessions[name], place.talk(name)
    if kept.over == "gone":
        return
    asked = len(place.model.calls(name))
    events = await talk.events()
    assert before is not None
    assert len(events) >= len(before) == kept.head
    for old, new in zip(before, events, strict=False):
        assert holds(new, old), f"an event has changed: {old} is now {new}"
    check_log(events)
    generations = [event for event in events[kept.head :] if event["type"] == "llm.generation"]
    assert len(generations) == asked, "the model was asked more or less often than the log says"
    again = await place.turn(name, {"text": "And on it goes."}, ask="Go on?")
    ends = [event for event in again if event["type"] in ENDS]
    assert [event["type"] for event in ends] == ["turn.failed" if kept.over else "turn.completed"]
    assert ends[0]["data"].get("error_code") == kept.over
    events = await talk.events()
    check_log(events)
    check_messages(kept.acknowledged, events)
    assert (await talk.read())["status"] == "idle"


def check_log(events: list[Json]) -> None:
    """Check a log: no gaps; each turn that started has one end, its last event; each call of a completed turn
    has one end."""
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["id"] for event in events}) == len(events)
    turns: dict[str, list[str]] = {}
    for event in events:
        turn_id = event["context"].get("turn_id")  # what clients do to files belongs to no turn
        if turn_id and event["type"] not in OUTSIDE_TURNS:
            turns.setdefault(turn_id, []).append(event["type"])
    for turn_id, kinds in turns.items():
        assert kinds[0] == "turn.started", (turn_id, kinds)
        steps = Counter(kinds)
        assert steps["turn.started"] == sum(steps[end] for end in ENDS) == 1, (turn_id, kinds)
        # A cancelled turn ends with messages about the cancel.
        assert kinds[-1] in ENDS or kinds[-2:] == ["turn.cancelled", "output.message.completed"], (
            turn_id,
            kinds,
        )
        if kinds[-1] == "turn.completed":
            assert steps["reason.started"] == steps["reason.completed"], kinds
            assert steps["act.started"] == steps["act.completed"], kinds
    started = [event["data"]["tool_call"]["id"] for event in events if event["type"] == "tool.started"]
    completed = [event["data"]["tool_call_id"] for event in events if event["type"] == "tool.completed"]
    assert max([*Counter(started).values(), *Counter(completed).values()], default=1) == 1


def check_messages(acknowledged: list[Json], events: list[Json]) -> None:
    """Check that each acknowledged message is in the log once, unchanged and at its sequence, and that the
    model got it, unless its turn was ended."""
    logged = {event["data"]["message"]["id"]: event for event in events if event["type"] == "input.message"}
    ended = {event["context"]["turn_id"] for event in events if event["type"] in ENDS - {"turn.completed"}}
    generations = [event["data"] for event in events if event["type"] == "llm.generation"]
    shown = {message["id"] for data in generations for message in data.get("messages", ())}
    for message in acknowledged:
        event = logged[message["id"]]
        assert event["sequence"] == message["sequence"]
        assert text_in(event["data"]["message"]) == text_in(message)
        assert message["id"] in shown or event["context"]["turn_id"] in ended, "a message was never worked on"
