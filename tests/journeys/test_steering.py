"""Steering: a message posted during a turn belongs to it, after the answer or results that it interrupted."""

from __future__ import annotations

from pathlib import Path

import httpx

from perdure.domain.messages import text_of
from tests.inside import Gate, house_with, outcomes
from tests.talk import Json, call, kinds_of, new_talk, script, text_in

WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather.",
    "parameters": {"type": "object"},
}


def received_by_the_model(events: list[Json]) -> list[Json]:
    """The messages that the last model call received."""
    return [event["data"]["messages"] for event in events if event["type"] == "llm.generation"][-1]


async def test_a_message_posted_during_a_model_call_steers_its_turn(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    async with talk.follow() as stream:
        await talk.say(script({"text": "one two three four five six", "delay_ms": 60}, ask="First."))
        await stream.until("output.message.delta")
        second = await talk.say(script({"text": "As you wish."}, ask="Second."))
        await stream.until("session.idled")
    events = await talk.events()
    kinds = kinds_of(events)
    assert kinds.count("turn.started") == kinds.count("turn.completed") == kinds.count("session.idled") == 1
    assert len({event["context"]["turn_id"] for event in events[1:]}) == 1
    received = received_by_the_model(events)
    assert [message["role"] for message in received] == ["user", "agent", "user"]
    assert text_in(received[1]) == "one two three four five six"
    assert received[2]["id"] == second["id"]
    assert text_in((await talk.messages())[-1]) == "As you wish."


async def test_followers_still_see_the_rest_of_the_interrupted_answer(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    async with talk.follow() as stream:
        await talk.say(script({"text": "one two three four five six", "delay_ms": 80}))
        await stream.until("output.message.delta")
        await talk.say(script({"text": "Yes."}))
        await stream.until("input.message")
        deltas = [
            frame.data["data"] for frame in await stream.until("output.message.completed") if frame.live
        ]
    assert len(deltas) > 1
    assert deltas[-1]["accumulated"] == "one two three four five six"


async def test_several_messages_are_answered_together(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await talk.say(script({"text": "one two three four five", "delay_ms": 60}))
    await talk.logged_until("output.message.started")
    await talk.say("And this.")
    await talk.say(script({"text": "Both."}, ask="And that."))
    events = await talk.logged_until("session.idled")
    assert [message["role"] for message in received_by_the_model(events)] == ["user", "agent", "user", "user"]
    assert kinds_of(events).count("llm.generation") == 2


async def test_the_model_receives_a_message_posted_during_tool_calls_with_their_results(
    tmp_path: Path,
) -> None:
    gate = Gate(parties=1)
    async with house_with(gate, tmp_path) as house:
        await house.say(script({"tool_calls": [call("wait")]}, {"text": "Never answers."}))
        await gate.reached.wait()
        await house.say(script({"text": "As you wish."}, ask="Never mind."))
        gate.open.set()
        events = await house.until_idle()
    assert [event.type for event in events].count("turn.started") == 1
    assert outcomes(events)[0].status == "success"
    answers = [
        text_of(event.decoded().message.content)
        for event in events
        if event.type == "output.message.completed"
    ]
    assert answers == ["", "As you wish."]


async def test_a_message_cancels_the_pending_client_side_calls(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, tools=[WEATHER])
    await talk.say(
        script({"tool_calls": [call("weather", "call_1", city="Rome"), call("weather", "call_2")]})
    )
    await talk.logged_until("tool.call_requested")
    message = await talk.say(script({"text": "Fine, no weather."}, ask="Forget it."))
    events = await talk.logged_until("session.idled")
    results = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert [(each["tool_call_id"], each["status"]) for each in results] == [
        ("call_1", "cancelled"),
        ("call_2", "cancelled"),
    ]
    assert all(each["error"] == "cancelled: the user sent a new message" for each in results)
    received = received_by_the_model(events)
    assert [each["role"] for each in received] == ["user", "agent", "tool_result", "tool_result", "user"]
    assert received[-1]["id"] == message["id"]
    assert kinds_of(events).count("turn.started") == 1
    assert (await talk.read())["output_preview"] == "Fine, no weather."


async def test_a_steering_message_can_choose_the_model_of_the_next_call(api: httpx.AsyncClient) -> None:
    provider = (await api.post("/v1/providers", json={"name": "Other", "provider_type": "llmsim"})).json()
    other = (
        await api.post(
            f"/v1/providers/{provider['id']}/models", json={"model_id": "other", "display_name": "Other"}
        )
    ).json()
    talk = await new_talk(api)
    await talk.say(script({"text": "one two three four five", "delay_ms": 60}))
    await talk.logged_until("output.message.started")
    await talk.say(script({"text": "Other."}), controls={"model_id": other["id"]})
    events = await talk.logged_until("session.idled")
    models = [event["data"]["metadata"]["model"] for event in events if event["type"] == "llm.generation"]
    assert models == ["simulated", "other"]


async def test_messages_posted_between_steps_are_never_lost(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    posted = [await talk.say(script({"text": f"Answer {number}."})) for number in range(30)]
    async with talk.follow(after_sequence=posted[-1]["sequence"] - 1) as stream:
        await stream.until("session.idled")
    events = await talk.events()
    logged = [event["data"]["message"]["id"] for event in events if event["type"] == "input.message"]
    assert logged == [message["id"] for message in posted]
    received = {
        message["id"]
        for event in events
        if event["type"] == "llm.generation"
        for message in event["data"]["messages"]
    }
    assert received >= set(logged)
    assert (await talk.read())["output_preview"] == "Answer 29."
