"""Cancel: the running turn ends at once, and the session accepts the next message."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.golden.events import check_events
from tests.inside import Gate, house_with, outcomes
from tests.server import Server
from tests.stub_model import endless_model, use_model_at
from tests.talk import call, kinds_of, new_talk, script, text_in, when

SLOW = {"text": "word " * 2000, "delay_ms": 50}
WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather.",
    "parameters": {"type": "object"},
}
CANCELLED = ["turn.cancelled", "input.message", "output.message.completed", "session.idled"]


async def test_a_cancel_in_the_middle_of_an_answer_logs_exactly_these_events(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, harness_name="base")
    async with talk.follow() as stream:
        await talk.say(script({"text": "word " * 100, "delay_ms": 50}, ask="Count."))
        await stream.until("output.message.delta")
        assert await talk.cancel() == "cancelled"
        frames = await stream.until("session.idled")
    assert [frame.kind for frame in frames if frame.logged] == CANCELLED
    assert (await talk.read())["status"] == "idle"
    check_events("cancelled_turn", await talk.events())
    request, confirmation = (await talk.messages())[-2:]
    assert (request["role"], confirmation["role"]) == ("user", "agent")
    assert "cancel" in text_in(request)
    assert "cancelled" in text_in(confirmation)


async def test_after_a_cancel_nothing_runs_and_the_turn_has_no_more_events(api: httpx.AsyncClient) -> None:
    talk, others = await new_talk(api), await _running(api)
    async with talk.follow() as stream:
        await talk.say(script(SLOW))
        await stream.until("output.message.delta")
        await talk.cancel()
        await stream.until("session.idled")
        await when(lambda: _run_no_more_than(others, api), patience=1)
        events = await talk.turn({"text": "Fine."}, ask="Now this.")
        later = await stream.until("session.idled")
    assert events[-2]["type"] == "turn.completed"
    assert {frame.data["context"]["turn_id"] for frame in later} == {events[0]["context"]["turn_id"]}


async def test_the_models_connection_is_closed_within_a_second(sqlite_server: Server) -> None:
    async with (
        endless_model() as (url, asked, hung_up),
        httpx.AsyncClient(base_url=sqlite_server.url) as http,
    ):
        talk = await new_talk(http, model_id=await use_model_at(http, url))
        await talk.say("Talk for ever.")
        await asyncio.wait_for(asked.wait(), 10)
        await talk.cancel()
        await asyncio.wait_for(hung_up.wait(), 1)


async def test_a_cancel_ends_the_wait_between_two_attempts(api: httpx.AsyncClient) -> None:
    talk, others = await new_talk(api), await _running(api)
    await talk.say(script({"fail": {"retry_after": 50}}))
    await talk.logged_until("output.message.started")
    await talk.cancel()
    assert kinds_of(await talk.logged_until("session.idled"))[-4:] == CANCELLED
    await when(lambda: _run_no_more_than(others, api), patience=1)


async def test_a_session_that_waits_for_its_client_can_be_cancelled(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, tools=[WEATHER])
    await talk.say(script({"tool_calls": [call("weather", "call_1")]}))
    await talk.logged_until("tool.call_requested")
    assert "cancel" in [action["rel"] for action in (await talk.read())["allowed_actions"]]
    assert await talk.cancel() == "cancelled"
    assert kinds_of(await talk.events())[-4:] == CANCELLED
    assert "cancel" not in [action["rel"] for action in (await talk.read())["allowed_actions"]]
    late = await talk.answer({"tool_call_id": "call_1", "result": "sun"}, status=409)
    assert late["code"] == "not_waiting_for_tool_results"
    assert (await talk.turn({"text": "Next."}))[-2]["type"] == "turn.completed"


async def test_there_is_nothing_to_cancel_before_and_after_a_turn(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    assert await talk.cancel() == "no_op"
    await talk.turn({"text": "Done."})
    before = await talk.events()
    assert await talk.cancel() == "no_op"
    assert await talk.events() == before


async def test_one_of_two_concurrent_cancels_finds_nothing_to_cancel(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.say(script(SLOW))
    await talk.logged_until("turn.started")
    assert sorted(await asyncio.gather(talk.cancel(), talk.cancel())) == ["cancelled", "no_op"]
    assert kinds_of(await talk.events()).count("turn.cancelled") == 1


async def test_a_message_right_after_a_cancel_gets_a_turn_of_its_own(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    for number in range(5):
        await talk.say(script(SLOW))
        await talk.cancel()
        message = await talk.say(script({"text": f"Answer {number}."}))
        events = await talk.logged_until("session.idled", after=message["sequence"] - 1)
        assert kinds_of(events)[-2] == "turn.completed"
        assert (await talk.read())["output_preview"] == f"Answer {number}."
    turns = [event["context"]["turn_id"] for event in await talk.events(types="turn.started")]
    assert len(set(turns)) == len(turns)


async def test_a_cancel_covers_pending_messages(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.say(script(SLOW))
    await talk.logged_until("output.message.started")
    await talk.say(script({"text": "Never said."}))
    await talk.cancel()
    assert kinds_of(await talk.events())[-4:] == CANCELLED
    assert kinds_of(await talk.turn({"text": "Said."})).count("turn.started") == 1
    assert "Never said." not in [text_in(message) for message in await talk.messages()]


async def test_a_cancel_stops_running_tools(tmp_path: Path) -> None:
    gate = Gate(parties=2)
    async with house_with(gate, tmp_path) as house:
        await house.say(script({"tool_calls": [call("wait"), call("meet")]}))
        await gate.reached.wait()
        await house.cancel()
        events = await house.until_idle()
        assert [event.type for event in events[-4:]] == CANCELLED
        assert outcomes(events) == []
        await asyncio.wait_for(gate.left.wait(), 1)
        await house.say(script({"text": "Back."}))
        assert (await house.until_idle())[-2].type == "turn.completed"


async def test_the_next_model_call_sees_what_was_cancelled(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, tools=[WEATHER])
    await talk.say(script({"tool_calls": [call("weather", "call_1")]}, ask="Rain?"))
    await talk.logged_until("tool.call_requested")
    await talk.cancel()
    generation = next(
        event for event in await talk.turn({"text": "Hm."}) if event["type"] == "llm.generation"
    )
    received = generation["data"]["messages"]
    assert [message["role"] for message in received] == [
        "user",
        "agent",
        "tool_result",
        "user",
        "agent",
        "user",
    ]
    assert received[2]["content"][0]["error"]


async def _running(http: httpx.AsyncClient) -> int:
    """How many sessions run on the server, which other tests may have left some on."""
    return int((await http.get("/health")).json()["running_sessions"])


async def _run_no_more_than(others: int, http: httpx.AsyncClient) -> bool:
    return await _running(http) <= others
