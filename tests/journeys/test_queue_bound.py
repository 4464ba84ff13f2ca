"""How many messages may wait for turns of their own."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from perdure.client import Client, Conflict, Controls
from perdure.domain.errors import Conflict as Refused
from perdure.domain.messages import MAX_TEXT, Message
from perdure.domain.queued import MAX_QUEUED, MAX_QUEUED_BYTES, QueuedMessage, check_queue, size_of
from tests.talk import Json, Talk, body_of, call, new_talk, script, when

WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "Look outside.",
    "parameters": {"type": "object"},
}
QUEUE = {"controls": {"when_busy": "queue"}}


async def waiting(http: httpx.AsyncClient) -> Talk:
    """A session whose turn waits for its client."""
    talk = await new_talk(http, tools=[WEATHER])
    await talk.say(script({"tool_calls": [call("weather", _id="c1")]}, {"text": "Done."}))
    await talk.logged_until("tool.call_requested")
    return talk


def queued(text: str = "Next.") -> Json:
    return body_of(script({"text": "Fine."}, ask=text), **QUEUE)


async def began(talk: Talk) -> int:
    return len(await talk.events(types="turn.started"))


async def test_a_hundred_messages_may_wait_and_further_ones_are_refused_until_one_begins(
    api: httpx.AsyncClient,
) -> None:
    talk = await waiting(api)
    path = talk.path("/messages")
    answers = await asyncio.gather(*(api.post(path, json=queued()) for _ in range(MAX_QUEUED + 10)))
    assert sorted(answer.status_code for answer in answers) == [201] * MAX_QUEUED + [409] * 10
    refused = [answer.json() for answer in answers if answer.status_code == 409]
    assert {each["code"] for each in refused} == {"queue_full"}
    assert "at most 100" in refused[0]["detail"]
    head = (await talk.events())[-1]["sequence"]

    # Each door has the same limit, and a message that was taken is taken again.
    fields = {"params": {"session_id": talk.id, **queued()}}
    command = await api.post("/v1/commands/create_message", json=fields)
    assert (command.status_code, command.json()["code"]) == (409, "queue_full")
    async with Client(str(api.base_url)) as client:
        with pytest.raises(Conflict, match="queue is full"):
            await client.send_message(talk.id, "Next.", controls=Controls(when_busy="queue"))
    assert (await talk.events())[-1]["sequence"] == head, "a refusal changes nothing"

    await talk.answer({"tool_call_id": "c1", "result": "sunny"})

    async def all_done() -> bool:
        return (await talk.read())["status"] == "idle"

    await when(all_done)
    assert await began(talk) == MAX_QUEUED + 1
    again = await waiting(api)
    assert (await api.post(again.path("/messages"), json=queued())).status_code == 201


async def test_a_message_that_interrupts_needs_no_room_in_the_queue(api: httpx.AsyncClient) -> None:
    talk = await waiting(api)
    path = talk.path("/messages")
    for _ in range(MAX_QUEUED):
        assert (await api.post(path, json=queued())).status_code == 201
    steer = body_of(script({"text": "So."}, ask="Now."), controls={"when_busy": "interrupt"})
    assert (await api.post(path, json=steer)).status_code == 201

    async def all_done() -> bool:
        return (await talk.read())["status"] == "idle"

    await when(all_done)
    assert await began(talk) == MAX_QUEUED + 2


async def test_large_messages_may_wait_as_long_as_they_have_room_together(api: httpx.AsyncClient) -> None:
    talk = await waiting(api)
    path = talk.path("/messages")
    large = {"role": "user", "content": [{"type": "text", "text": "x" * MAX_TEXT}] * 9}
    statuses = [(await api.post(path, json={"message": large, **QUEUE})).status_code for _ in range(3)]
    assert statuses == [201, 201, 409]
    assert (await api.post(path, json=queued())).status_code == 201
    assert await talk.cancel() == "cancelled"


def test_a_message_that_waits_alone_may_have_any_size() -> None:
    message = Message("message_1", "user", (), "2026-01-01T00:00:00Z", metadata={"x": "y" * MAX_QUEUED_BYTES})
    check_queue((), message)
    for queue in ((QueuedMessage("turn_1", 1),), (QueuedMessage("turn_1", 1),) * MAX_QUEUED):
        with pytest.raises(Refused) as refused:
            check_queue(queue, message)
        assert refused.value.code == "queue_full"
    small = Message("message_2", "user", (), "2026-01-01T00:00:00Z")
    check_queue((QueuedMessage("turn_1", MAX_QUEUED_BYTES - size_of(small)),), small)
