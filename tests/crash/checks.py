"""Checks the promises after a storm, through the servers and in the database itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx

from perdure.domain.events import ENDED_TURN, Event, NewEvent
from perdure.domain.projection import Projection, project
from perdure.store.database import Database, Tx
from perdure.store.events import events_after
from perdure.store.postgres.database import open_postgres
from perdure.store.sessions import SessionRow, look_session
from perdure.store.sqlite import open_sqlite
from tests.crash.followers import Session
from tests.crash.storm import COUNTER, Storm
from tests.talk import Json, Talk, text_in


async def check_storm(storm: Storm, url: str, *, may_seal: bool = False) -> None:
    """Check everything that clients can see.

    Args:
        may_seal: whether there were enough crashes for a turn to be given up: sealed, or ended because all
            tools of several answers were interrupted.
    """
    assert storm.refused == []
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        for session in storm.sessions:
            talk = Talk(http, session.id)
            events = await _whole_log(talk)
            sealed = {event["context"]["turn_id"] for event in events if _gives_up(event)}
            assert may_seal or not sealed
            check_log(events)
            check_steps([event for event in events if event["context"].get("turn_id") not in sealed])
            check_messages(session, events, sealed)
            check_followers(session, events)
            await check_tools(talk, events)
            assert (await talk.read())["status"] in ("idle", "started")


def _gives_up(event: Json) -> bool:
    """Whether the server gives a turn up with this event, after too many crashes."""
    failed = event["type"] == "turn.failed" and event["data"].get("error_code") == "no_progress"
    return failed or event["type"] == "turn.sealed"


async def _whole_log(talk: Talk) -> list[Json]:
    events: list[Json] = []
    while page := await talk.events(after_sequence=len(events)):
        events += page
    return events


def check_log(events: list[Json]) -> None:
    """The log is gapless; every turn that began has one end, and no events after it.

    A seal may end a turn that never began, with a message for people before it.
    """
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["id"] for event in events}) == len(events)
    begun: set[str] = set()
    ended: set[str] = set()
    for event in events:
        turn_id = event["context"].get("turn_id")
        if event["type"] == "turn.started":
            assert turn_id not in begun
            begun.add(turn_id)
        elif event["type"] == "turn.sealed" or event["data"].get("error_code") == "no_progress":
            begun.add(turn_id)
        elif event["type"] not in ("input.message", "session.activated", "session.idled", "session.started"):
            assert turn_id in begun, event
            assert turn_id not in ended, f"{event['type']} after the end of its turn"
        if event["type"] in ENDED_TURN:
            assert event["type"] == "turn.completed" or _gives_up(event), event
            ended.add(turn_id)
    assert begun == ended


def check_steps(events: list[Json]) -> None:
    """Every step that began has one end, and no model call was answered twice."""
    steps = Counter(event["type"] for event in events)
    assert steps["reason.started"] == steps["reason.completed"] >= steps["llm.generation"], steps
    # A call that a crash interrupts may be given up before it is sent again.
    answered = [event for event in events if event["type"] == "reason.completed" and event["data"]["success"]]
    assert len(answered) <= steps["llm.generation"], steps
    assert steps["act.started"] == steps["act.completed"], steps
    assert steps["tool.started"] == steps["tool.completed"], steps
    executions = Counter(event["context"]["exec_id"] for event in events if event["type"] == "llm.generation")
    assert set(executions.values()) <= {1}


def check_messages(session: Session, events: list[Json], sealed: set[str]) -> None:
    """Each acknowledged message is logged once, unchanged and at its sequence, and the model received it."""
    logged = {event["data"]["message"]["id"]: event for event in events if event["type"] == "input.message"}
    assert len(logged) == len(session.acknowledged)
    received = received_by_model(events)
    for message in session.acknowledged:
        check_message(message, logged, received, sealed)


def received_by_model(events: list[Json]) -> set[str]:
    """The ids of the messages that the model has received."""
    return {
        message["id"]
        for event in events
        if event["type"] == "llm.generation"
        for message in event["data"]["messages"]
    }


def check_message(message: Json, logged: dict[str, Json], received: set[str], given_up: set[str]) -> None:
    """The message is logged, unchanged and at its sequence, and the model received it.

    Args:
        logged: the events of messages, by the message's id.
        given_up: the turns that ended without being completed.
    """
    assert message["id"] in logged, f"lost: {message}"
    event = logged[message["id"]]
    assert event["sequence"] == message["sequence"]
    assert text_in(event["data"]["message"]) == text_in(message)
    assert message["id"] in received or event["context"]["turn_id"] in given_up, (
        f"never worked on: {message['id']}"
    )


def check_followers(session: Session, events: list[Json]) -> None:
    """The follower saw every event of the log once, in order and unchanged."""
    assert session.seen == events[: len(session.seen)]
    assert len(session.seen) == len(events)


async def check_tools(talk: Talk, events: list[Json]) -> None:
    """No call was started or answered twice, and its effects match the results that the model received."""
    started = [event["data"]["tool_call"]["id"] for event in events if event["type"] == "tool.started"]
    results = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert len(set(started)) == len(started)
    assert len({result["tool_call_id"] for result in results}) == len(results) <= len(started)
    edits = [result["status"] for result in results if result["tool_name"] == "edit_file"]
    assert set(edits) <= {"success", "interrupted"}, [result.get("error") for result in results]
    await talk.turn(
        {"tool_calls": [{"name": "read_file", "arguments": {"path": COUNTER}}]}, {"text": "Counted."}
    )
    read = (await talk.events(types="tool.completed", after_sequence=len(events)))[0]["data"]["result"][0][
        "text"
    ]
    calls = [event["data"]["tool_call"]["name"] for event in events if event["type"] == "tool.started"]
    assert edits.count("success") <= read.count("x") <= calls.count("edit_file")


async def check_rows(storm: Storm, data: Path, database_url: str) -> None:
    """Each session's row equals the projection of its log. The servers must be stopped."""
    database: Database = (
        await open_postgres(database_url) if database_url else await open_sqlite(data / "perdure.db")
    )
    try:
        for session in storm.sessions:
            row, events = await database.read(lambda tx, session=session: _row_and_log(tx, session.id))
            assert row.projection() == project(Projection(), map(_as_new, events))
            assert row.head == len(events)
    finally:
        await database.close()


async def _row_and_log(tx: Tx, session_id: str) -> tuple[SessionRow, list[Event]]:
    row = await look_session(tx, session_id)
    assert row is not None
    return row, await events_after(tx, session_id, 0, limit=1_000_000)


def _as_new(event: Event) -> NewEvent:
    return NewEvent(event.decoded(), event.context_struct(), event.ts)
