"""The resource of a session through its life, also during a turn."""

from __future__ import annotations

import asyncio
import re

import httpx

from perdure.domain.ids import new_id
from tests.talk import Json, call, kinds_of, new_talk, script

WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather.",
    "parameters": {"type": "object"},
}
SLOW = {"text": "one two three four five six seven eight", "delay_ms": 60}


async def test_a_session_is_started_then_active_then_idle_and_then_active_again(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    assert (await talk.read())["status"] == "started"
    for _ in range(2):
        message = await talk.say(script(SLOW))
        assert (await talk.read())["status"] == "active"
        await talk.logged_until("session.idled", after=message["sequence"])
        assert (await talk.read())["status"] == "idle"


async def test_a_session_waits_for_tool_results_until_it_has_them(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, tools=[WEATHER])
    await talk.say(script({"tool_calls": [call("weather", "call_1")]}, SLOW))
    await talk.logged_until("tool.call_requested")
    assert (await talk.read())["status"] == "waiting_for_tool_results"
    assert (await talk.answer({"tool_call_id": "call_1", "result": 1}))["status"] == "active"
    assert (await talk.read())["status"] == "active"
    await talk.logged_until("session.idled")
    assert (await talk.read())["status"] == "idle"


async def test_a_failed_turn_leaves_the_session_idle(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.turn({"fail": {"code": "provider_auth"}})
    session = await talk.read()
    assert (session["status"], session.get("finished_at")) == ("idle", None)


async def test_started_at_is_the_start_of_the_first_turn(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    assert "started_at" not in await talk.read()
    await talk.turn({"text": "One."})
    started_at = (await talk.read())["started_at"]
    assert started_at == next(event["ts"] for event in await talk.events(types="turn.started"))
    await talk.turn({"text": "Two."})
    assert (await talk.read())["started_at"] == started_at


async def test_a_change_during_a_turn_does_not_disturb_it(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    quiet = await new_talk(api)
    slow = {"tokens": 5, "delay_ms": 800}  # long enough for the changes on a busy machine
    await quiet.turn(slow)
    async with talk.follow() as stream:
        await talk.say(script(slow))
        await stream.until("output.message.delta")
        for number in range(10):
            changed = await api.patch(
                talk.path(), json={"title": f"Title {number}", "tags": [f"tag {number}"]}
            )
            assert changed.json()["status"] == "active"
        await stream.until("session.idled")
    session = await talk.read()
    assert (session["title"], session["tags"]) == ("Title 9", ["tag 9"])
    assert kinds_of(await talk.events()) == kinds_of(await quiet.events())


async def test_every_change_increases_updated_at(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    created = (await talk.read())["updated_at"]
    changes = [(await api.patch(talk.path(), json={"title": str(number)})).json() for number in range(5)]
    seen = [created, *(change["updated_at"] for change in changes)]
    await talk.turn({"text": "Hello."})
    seen.append((await talk.read())["updated_at"])
    assert seen == sorted(set(seen))
    assert (await api.patch(talk.path(), json={})).json()["updated_at"] == seen[-1]


async def test_a_tool_can_set_the_title(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, title="Untitled")
    events = await talk.turn(
        {"tool_calls": [call("write_session_title", title="  A trip to Rome ")]}, {"text": "Named."}
    )
    assert (await talk.read())["title"] == "A trip to Rome"
    assert events[-2]["type"] == "turn.completed"
    refused = await talk.turn({"tool_calls": [call("write_session_title", title="\u0007")]}, {"text": "No."})
    assert "control characters" in next(
        event["data"]["error"] for event in refused if event["type"] == "tool.completed"
    )
    assert (await talk.read())["title"] == "A trip to Rome"


IDS = {
    "{schedule_id}": new_id("sched"),
    "{callback_id}": new_id("callback"),
    "{input_id}": new_id("input"),
    "{message_id}": new_id("message"),
    "{participant_id}": new_id("participant"),
    "{task_id}": new_id("task"),
    "{config_id}": new_id("pushconfig"),
}


async def operations_on_a_session(api: httpx.AsyncClient) -> list[tuple[str, str, Json | None]]:
    """The method, the rest of the path and an example body of every operation on a session."""
    found: list[tuple[str, str, Json | None]] = []
    for path, methods in (await api.get("/api-doc/openapi.json")).json()["paths"].items():
        if path.startswith("/v1/sessions/{session_id}"):
            rest = path.removeprefix("/v1/sessions/{session_id}")
            rest = re.sub(r"{\w+}", lambda name: IDS.get(name[0], "x"), rest)
            for method, operation in methods.items():
                content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                found.append((method.upper(), rest, content.get("example")))
    return sorted(found, key=lambda each: (each[1], each[0]))


async def test_every_operation_on_a_session_deleted_during_a_turn_answers_not_found(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    async with talk.follow() as stream:
        await talk.say(script(SLOW))
        await stream.until("output.message.delta")
        assert (await api.delete(talk.path())).status_code == 204
        frames = await stream.to_end()
    assert "turn.cancelled" in [frame.kind for frame in frames]
    assert (frames[-1].kind, frames[-1].data["reason"]) == ("disconnecting", "session_deleted")
    operations = await operations_on_a_session(api)
    assert len(operations) > 11
    for method, rest, body in operations:
        answer = await api.request(method, talk.path(rest), json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found"), (
            method,
            rest,
            answer.text,
        )
    listed = (await api.get("/v1/sessions", params={"limit": 100})).json()["data"]
    assert talk.id not in [session["id"] for session in listed]


async def test_a_session_that_never_existed_looks_like_a_deleted_one(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await api.delete(talk.path())
    gone = (await api.get(talk.path())).json()
    never = (await api.get(f"/v1/sessions/{new_id('session')}")).json()
    own = {"instance": "", "request_id": ""}
    assert {**gone, **own} == {**never, **own}


async def test_sessions_do_not_affect_each_other(api: httpx.AsyncClient) -> None:
    talks = await asyncio.gather(*(new_talk(api) for _ in range(10)))
    steps = {"tool_calls": [call("write_file", path="/mine", content="x"), call("get_session_info")]}
    logs = await asyncio.gather(*(talk.turn(steps, {"text": f"I am {talk.id}."}) for talk in talks))
    for talk, log in zip(talks, logs, strict=True):
        assert {event["session_id"] for event in log} == {talk.id}
        assert [event["sequence"] for event in log] == list(range(2, 2 + len(log)))
        assert (await talk.read())["output_preview"] == f"I am {talk.id}."
