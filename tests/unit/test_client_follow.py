"""Following a session: resume without repeats or gaps, time limits, and the end of a turn."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from perdure.client import (
    ApiError,
    BadAnswer,
    Client,
    NotFound,
    TurnFailed,
    Unreachable,
    WireEvent,
    data_of,
    is_live,
)
from perdure.domain.ids import new_event_id, new_id
from perdure.domain.turn_watch import TurnWatch
from tests.unit.fake_server import FakeServer, Handler, Reply, Request, answers, cuts, script, streams

SESSION_ID = new_id("session")
TURN = new_id("turn")
NOW = "2026-03-14T09:26:53.589793Z"
IDS = [new_event_id(n) for n in range(20)]
MESSAGE_ID = new_id("message")
MESSAGE = {"id": MESSAGE_ID, "role": "user", "content": [{"type": "text", "text": "hi"}], "created_at": NOW}


def event(sequence: int, kind: str = "turn.started", data: Any = None, **context: str) -> dict[str, Any]:
    return {
        "id": IDS[sequence],
        "type": kind,
        "ts": NOW,
        "session_id": SESSION_ID,
        "sequence": sequence,
        "context": {"turn_id": TURN, **context},
        "data": data or {"turn_id": TURN, "input_message_id": MESSAGE_ID},
    }


def frame(sequence: int, kind: str = "turn.started", data: Any = None, **context: str) -> str:
    made = event(sequence, kind, data, **context)
    return f"id: {made['id']}\nevent: {kind}\nretry: 100\ndata: {json.dumps(made)}"


def delta(after: int, text: str) -> str:
    """A delta: its id and sequence are those of the last event in the log at that moment."""
    return frame(after, "output.message.delta", {"turn_id": TURN, "delta": text, "accumulated": text})


async def take(client: Client, count: int, **options: Any) -> list[WireEvent]:
    async with aclosing(client.follow(SESSION_ID, **options)) as events:
        taken: list[WireEvent] = []
        async for one in events:
            taken.append(one)
            if len(taken) == count:
                break
        return taken


def sequences(events: list[WireEvent]) -> list[int | None]:
    return [one.sequence for one in events]


def since(server: FakeServer) -> list[str | None]:
    return [request.query.get("since_id", [None])[0] for request in server.requests]


async def test_a_lost_connection_is_resumed_after_the_last_event_without_repeats() -> None:
    steps = script(cuts(frame(1), frame(2)), cuts(), cuts(frame(2), frame(3)), streams(frame(3), frame(4)))
    async with FakeServer(steps) as server, Client(server.url) as client:
        assert sequences(await take(client, 4)) == [1, 2, 3, 4]
    assert since(server) == [None, IDS[2], IDS[2], IDS[3]]


async def test_the_client_reconnects_after_the_time_that_a_disconnecting_frame_names() -> None:
    goodbye = 'event: disconnecting\ndata: {"reason":"connection_cycle","retry_ms":1}'
    strange = 'event: disconnecting\ndata: {"reason":"slow_consumer","retry_ms":-5}'
    steps = script(streams(frame(1), goodbye), streams(strange), streams(frame(2)))
    async with FakeServer(steps) as server, Client(server.url) as client:
        assert sequences(await take(client, 2)) == [1, 2]
    assert since(server) == [None, IDS[1], IDS[1]]


async def test_the_client_reconnects_after_a_stream_ends() -> None:
    async with (
        FakeServer(script(streams(), streams(frame(1)), streams(frame(2)))) as server,
        Client(server.url) as client,
    ):
        assert sequences(await take(client, 2)) == [1, 2]
    assert len(server.requests) == 3


async def test_a_follower_can_start_at_an_event_and_filter_by_type() -> None:
    async with FakeServer(streams(frame(5), frame(6))) as server, Client(server.url) as client:
        options = {
            "since_id": IDS[5],
            "types": ("turn.started", "turn.completed"),
            "exclude": ("tool.progress",),
        }
        assert sequences(await take(client, 1, **options)) == [6]
    assert server.requests[0].query == {
        "since_id": [IDS[5]],
        "types": ["turn.started", "turn.completed"],
        "exclude": ["tool.progress"],
    }
    assert server.requests[0].headers["accept"] == "text/event-stream"


async def test_a_delta_does_not_move_the_cursor_even_if_it_is_ahead_of_the_log() -> None:
    steps = script(
        cuts(frame(1), delta(3, "He"), delta(3, "Hello")), streams(frame(2), frame(3), delta(3, "Hello you"))
    )
    async with FakeServer(steps) as server, Client(server.url) as client:
        taken = await take(client, 6)
    assert [(one.sequence, is_live(one)) for one in taken] == [
        (1, False),
        (3, True),
        (3, True),
        (2, False),
        (3, False),
        (3, True),
    ]
    assert data_of(taken[1]).accumulated == "He"
    assert since(server) == [None, IDS[1]]


async def test_a_connection_without_data_times_out() -> None:
    async def silence(_: Request, reply: Reply) -> None:
        await reply.stream(frame(1))
        await reply.silence()

    async with FakeServer(script(silence, streams(frame(2)))) as server, Client(server.url) as client:
        assert sequences(await take(client, 2, idle_timeout=0.05)) == [1, 2]


async def test_heartbeats_keep_a_quiet_connection_alive() -> None:
    async def heartbeats(_: Request, reply: Reply) -> None:
        await reply.stream(frame(1))
        for _beat in range(10):
            await asyncio.sleep(0.05)
            await reply.frames(": heartbeat")
        await reply.frames(frame(2))

    async with FakeServer(heartbeats) as server, Client(server.url) as client:
        assert sequences(await take(client, 2, idle_timeout=0.3)) == [1, 2]
    assert len(server.requests) == 1


@pytest.mark.parametrize("trouble", [answers(503, {}), answers(429, {}), cuts()], ids=["503", "429", "cut"])
async def test_the_client_retries_while_the_server_is_busy_or_unreachable(trouble: Handler) -> None:
    steps = script(trouble, trouble, streams(frame(1)))
    async with FakeServer(steps) as server, Client(server.url) as client:
        assert sequences(await take(client, 1)) == [1]


async def test_retrying_ends_after_the_time_limit() -> None:
    async with FakeServer(cuts()) as server, Client(server.url) as client:
        with pytest.raises(Unreachable, match="no answer from"):
            await take(client, 1, patience=0.05)


async def test_a_deleted_session_ends_the_stream_with_the_servers_error() -> None:
    gone = answers(404, {"detail": "no such session", "code": "session_not_found"})
    async with FakeServer(script(cuts(frame(1)), gone)) as server, Client(server.url) as client:
        with pytest.raises(NotFound, match="no such session"):
            await take(client, 2)


async def test_a_response_that_is_not_an_event_stream_is_an_error() -> None:
    async with FakeServer(answers(200, {"status": "ok"})) as server, Client(server.url) as client:
        with pytest.raises(BadAnswer, match="event stream"):
            await take(client, 1)
    async with (
        FakeServer(streams("event: turn.started\ndata: nonsense")) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(BadAnswer, match="not an event"):
            await take(client, 1)
    async with FakeServer(answers(400, {"detail": "unknown type"})) as server, Client(server.url) as client:
        with pytest.raises(ApiError, match="unknown type"):
            await take(client, 1)


def test_a_cursor_that_is_not_an_event_id_is_refused_before_a_request_is_sent() -> None:
    async def main() -> None:
        async with Client("http://127.0.0.1:1") as client:
            await take(client, 1, since_id="session_1")

    with pytest.raises(Exception, match="event_<32"):
        asyncio.run(main())


# --- turns --------------------------------------------------------------------


def asked(sequence: int) -> str:
    return frame(sequence, "input.message", {"message": MESSAGE})


def answered(sequence: int, text: str) -> str:
    message = {
        **MESSAGE,
        "id": new_id("message"),
        "role": "agent",
        "content": [{"type": "text", "text": text}],
    }
    return frame(sequence, "output.message.completed", {"message": message})


DONE = {"turn_id": TURN, "iterations": 1}


def session_server(*frames: str) -> Handler:
    """Answers the requests of `run`: the last event, the message, the stream."""

    async def handle(request: Request, reply: Reply) -> None:
        if request.path.endswith("/events"):
            await reply.json(200, {"data": [event(2)]})
        elif request.method == "POST":
            await reply.json(201, MESSAGE)
        else:
            await reply.stream(*frames)
            await reply.silence()

    return handle


async def test_a_run_starts_with_the_message_and_ends_with_its_turn() -> None:
    frames = (
        frame(3, "turn.completed", DONE),
        asked(4),
        frame(5, input_message_id=MESSAGE_ID),
        delta(5, "He"),
        answered(6, "Hello"),
        frame(7, "turn.completed", DONE),
        frame(8, "session.idled"),
    )
    async with FakeServer(session_server(*frames)) as server, Client(server.url) as client:
        events = [one async for one in client.run(SESSION_ID, "hi")]
        assert await client.ask(SESSION_ID, "hi") == "Hello"
    assert sequences(events) == [4, 5, 5, 6, 7]
    stream = next(request for request in server.requests if request.path.endswith("/sse"))
    assert stream.query == {"since_id": [IDS[2]], "exclude": ["llm.generation"]}


@pytest.mark.parametrize(
    ("kind", "data", "code", "message"),
    [
        (
            "turn.failed",
            {"turn_id": TURN, "error": "no key", "error_code": "provider_auth"},
            "provider_auth",
            "no key",
        ),
        ("turn.cancelled", {"turn_id": TURN}, "turn_cancelled", "the turn was cancelled"),
        ("turn.sealed", {"turn_id": TURN, "reason": "no_progress"}, "turn_sealed", "sealed: no_progress"),
    ],
)
async def test_a_turn_without_an_answer_raises_the_reason(
    kind: str, data: Any, code: str, message: str
) -> None:
    frames = (asked(3), frame(4, input_message_id=MESSAGE_ID), frame(5, kind, data))
    async with FakeServer(session_server(*frames)) as server, Client(server.url) as client:
        with pytest.raises(TurnFailed, match=message) as caught:
            await client.ask(SESSION_ID, "hi")
    assert (caught.value.ended_by, caught.value.turn_id, caught.value.code) == (kind, TURN, code)


def ends_at(*events: dict[str, Any]) -> int | None:
    watch = TurnWatch(MESSAGE_ID)
    for made in events:
        wire = msgspec.json.decode(json.dumps(made), type=WireEvent)
        watch.take(wire)
        if watch.is_last(wire):
            return wire.sequence
    return None


INPUT = {"message": MESSAGE}
REASON = {"harness_id": "harness_1"}


def test_a_steered_turn_is_over_when_it_ends() -> None:
    assert (
        ends_at(
            event(1, "reason.started", REASON),
            event(2, "input.message", INPUT),
            event(3, "reason.started", REASON),
            event(4, "turn.completed", DONE),
        )
        == 4
    )


def test_a_turn_that_failed_before_it_read_the_message_does_not_end_the_run() -> None:
    assert (
        ends_at(
            event(1, "reason.started", REASON),
            event(2, "input.message", INPUT),
            event(3, "turn.failed", {"turn_id": TURN, "error": "x"}),
            event(4, input_message_id=MESSAGE_ID),
            event(5, "turn.completed", DONE),
        )
        == 5
    )


def test_a_cancellation_ends_the_run_of_a_message_that_no_model_call_has_read() -> None:
    assert ends_at(event(1, "input.message", INPUT), event(2, "turn.cancelled", {"turn_id": TURN})) == 2


def test_another_message_does_not_start_the_watch() -> None:
    other = {
        "message": {**MESSAGE, "id": new_id("message"), "content": [{"type": "text", "text": MESSAGE_ID}]}
    }
    assert (
        ends_at(
            event(1, "input.message", other),
            event(2, "reason.started", REASON),
            event(3, "turn.completed", DONE),
        )
        is None
    )
