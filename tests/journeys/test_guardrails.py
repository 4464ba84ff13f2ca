"""Guardrails in a turn: what a check blocks is neither stored nor shown."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.guarded import BAD, OUTPUT, assert_nowhere, guarded_talk, guarded_turn, hits_in, of_kind
from tests.server import Server
from tests.talk import Json, call, text_in

WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object"},
}
SLOW = 70
"""Milliseconds between words: each is a delta of its own."""


def checked(**fields: Any) -> Json:
    return {**OUTPUT, **fields}


async def test_a_blocked_answer_is_replaced_and_left_nowhere(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    talk = await guarded_talk(api, OUTPUT)
    words = " ".join(f"word{n}" for n in range(40))
    step = {"text": f"It is said {words} that {BAD} flies.", "thinking": "Let me see.", "delay_ms": 5}
    frames = await guarded_turn(talk, step)
    (replaced,) = of_kind(frames, "output.message.replaced")
    (message,) = [each["message"] for each in of_kind(frames, "output.message.completed")]
    assert replaced == {
        "turn_id": replaced["turn_id"],
        "guardrail_capability_id": "guardrails",
        "guardrail_id": "birds",
        "reason_code": "bird_name",
        "replacement": text_in(message),
        "message_id": message["id"],
    }
    assert text_in(message) == "This answer was withheld because it violates a rule."
    assert hits_in(frames) == [("birds", "block", "text", "bird_name")]
    (generation,) = of_kind(frames, "llm.generation")
    assert generation["output"]["text"] == text_in(message)
    shown = "".join(each["delta"] for each in of_kind(frames, "output.message.delta"))
    assert shown.startswith("It is said word0")
    assert "vio" not in shown
    (completed,) = of_kind(frames, "turn.completed")
    assert completed["final_answer_preview"] == text_in(message)
    await assert_nowhere(shared_server, talk)


async def test_an_answer_without_a_match_streams_as_it_comes_and_is_stored_whole(
    api: httpx.AsyncClient,
) -> None:
    talk = await guarded_talk(api, OUTPUT)
    text = " ".join(f"violet{n} crow{n}" for n in range(60))
    frames = await guarded_turn(talk, {"text": text, "delay_ms": 3})
    deltas = of_kind(frames, "output.message.delta")
    assert len(deltas) > 2
    assert "".join(each["delta"] for each in deltas) == text == deltas[-1]["accumulated"]
    (message,) = [each["message"] for each in of_kind(frames, "output.message.completed")]
    assert text_in(message) == text
    assert hits_in(frames) == []


async def test_a_match_is_masked_however_the_model_splits_it(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    talk = await guarded_talk(api, checked(action="replace", replacement="(a bird)"))
    text = f"Look: {BAD}, and then {BAD} again. " + "And more of it follows here. " * 4
    frames = await guarded_turn(talk, {"text": text, "delay_ms": SLOW / 10})
    whole = text.replace(BAD, "(a bird)")
    assert "".join(each["delta"] for each in of_kind(frames, "output.message.delta")) == whole
    (message,) = [each["message"] for each in of_kind(frames, "output.message.completed")]
    assert text_in(message) == whole
    assert hits_in(frames) == [("birds", "replace", "text", "bird_name")]
    assert of_kind(frames, "guardrail.hit")[0]["count"] == 2
    assert not of_kind(frames, "output.message.replaced")
    await assert_nowhere(shared_server, talk)


async def test_blocked_thinking_is_dropped_and_the_answer_stays(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    talk = await guarded_talk(api, OUTPUT)
    frames = await guarded_turn(talk, {"thinking": f"Maybe {BAD}?", "text": "A crow."})
    (message,) = [each["message"] for each in of_kind(frames, "output.message.completed")]
    assert text_in(message) == "A crow."
    assert "thinking" not in message
    assert hits_in(frames) == [("birds", "block", "thinking", "bird_name")]
    await assert_nowhere(shared_server, talk)


async def test_the_answer_of_another_attempt_is_checked_as_well(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    talk = await guarded_talk(api, OUTPUT)
    step = {"text": f"One two three four five six seven {BAD} and on.", "cut_after": 9, "cut_times": 1}
    frames = await guarded_turn(talk, step)
    assert of_kind(frames, "llm.generation")[0]["metadata"]["retry"]["attempts"] == 2
    assert len(of_kind(frames, "output.message.replaced")) == 1
    await assert_nowhere(shared_server, talk)


async def test_an_answer_that_is_cut_is_checked_as_well(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    talk = await guarded_talk(api, OUTPUT)
    for reason in ("length", "content_filter"):
        await guarded_turn(talk, {"text": f"It ends with {BAD}", "finish_reason": reason})
    await assert_nowhere(shared_server, talk)


async def test_a_typed_answer_is_checked_as_the_value_that_it_means(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    schema = {"type": "object", "properties": {"bird": {"type": "string"}}, "required": ["bird"]}
    talk = await guarded_talk(api, OUTPUT, output_schema=schema)
    odd = json.dumps({"bird": "@"}).replace("@", "".join(f"\\u{ord(letter):04x}" for letter in BAD))
    frames = await guarded_turn(talk, {"text": odd})
    assert len(of_kind(frames, "output.message.replaced")) == 1
    assert "output" not in of_kind(frames, "turn.completed")[0]
    masks = await guarded_talk(api, checked(action="replace", replacement='a "bird"'), output_schema=schema)
    frames = await guarded_turn(masks, {"text": odd})
    assert of_kind(frames, "turn.completed")[0]["output"] == {"bird": 'a "bird"'}
    await assert_nowhere(shared_server, masks)


async def test_a_blocked_call_does_not_start_and_the_model_is_told_why(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    talk = await guarded_talk(api, checked(stage="tool_use"), tools=[WEATHER])
    bad = call("write_todos", "c1", todos=[{"content": BAD, "status": "pending"}])
    step = {"tool_calls": [bad, call("weather", "c2", city=BAD), call(f"no {BAD}", "c3")]}
    frames = await guarded_turn(talk, step, {"text": "I cannot."})
    results = of_kind(frames, "tool.completed")
    assert [(each["tool_call_id"], each["success"]) for each in results] == [
        ("c1", False),
        ("c2", False),
        ("c3", False),
    ]
    assert "bird_name" in results[0]["error"]
    assert not of_kind(frames, "tool.started")
    assert not of_kind(frames, "tool.call_requested")
    assert [each[1:3] for each in hits_in(frames)] == [("block", "call")] * 3
    await assert_nowhere(shared_server, talk)


async def test_arguments_are_masked_before_the_client_gets_them(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    talk = await guarded_talk(api, checked(stage="tool_use", action="replace"), tools=[WEATHER])
    frames = await guarded_turn(
        talk,
        {"tool_calls": [call("weather", "c1", city=f"near {BAD}", days=3)]},
        {"text": "Sun."},
        until="tool.call_requested",
    )
    (asked,) = of_kind(frames, "tool.call_requested")
    assert asked["tool_calls"][0]["arguments"] == {"city": "near [removed]", "days": 3}
    await assert_nowhere(shared_server, talk)


@pytest.mark.parametrize("tool", ["weather", "write_todos"])
async def test_a_check_can_ask_a_person_about_a_call(api: httpx.AsyncClient, tool: str) -> None:
    asks = {"type": "regex", "pattern": "Rome", "stage": "tool_use", "action": "ask", "id": "cities"}
    talk = await guarded_talk(api, asks, tools=[WEATHER])
    arguments: Json = {"todos": [{"content": "See Rome", "status": "pending"}]}
    frames = await guarded_turn(
        talk, {"tool_calls": [call(tool, "c1", **arguments)]}, {"text": "Done."}, until="tool.call_requested"
    )
    assert hits_in(frames) == [("cities", "ask", "call", "regex_match")]
    (asked,) = of_kind(frames, "tool.call_requested")
    assert asked["tool_calls"][0]["name"] == "approve_tool_call"
    decided = await api.post(
        talk.path("/tool-approvals"), json={"decisions": [{"tool_call_id": "c1", "decision": "allow"}]}
    )
    assert decided.status_code == 200, decided.text
    if tool == "weather":
        await talk.logged_until("tool.call_requested", after=frames[-1].data["sequence"])
        await talk.answer({"tool_call_id": "c1", "result": "Sun."})
    events = await talk.logged_until("session.idled")
    assert [e["data"]["success"] for e in events if e["type"] == "tool.completed"] == [True, True]


async def test_the_result_of_a_client_is_checked_before_it_is_stored(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    talk = await guarded_talk(
        api, checked(stage="tool_output", replacement="Nothing to see."), tools=[WEATHER]
    )
    for result in ({"result": f"A {BAD}."}, {"result": {"sky": [BAD]}}, {"error": f"No {BAD}."}):
        await guarded_turn(
            talk, {"tool_calls": [call("weather", "c1")]}, {"text": "Well."}, until="tool.call_requested"
        )
        head = (await talk.events())[-1]["sequence"]
        await talk.answer({"tool_call_id": "c1", **result})
        events = await talk.logged_until("session.idled", after=head)
        (completed,) = [each["data"] for each in events if each["type"] == "tool.completed"]
        said = completed.get("error") or completed["result"][0]["text"]
        assert said == "Nothing to see."
        assert [each["data"]["part"] for each in events if each["type"] == "guardrail.hit"] == ["result"]
    await assert_nowhere(shared_server, talk)


async def test_a_check_that_logs_changes_nothing(api: httpx.AsyncClient) -> None:
    logs = {
        "type": "regex",
        "pattern": "sun+y",
        "action": "log",
        "id": "weather",
        "stage": ["output", "tool_use"],
    }
    talk = await guarded_talk(api, logs, tools=[WEATHER])
    frames = await guarded_turn(talk, {"text": "It is sunny."})
    assert hits_in(frames) == [("weather", "log", "text", "regex_match")]
    assert of_kind(frames, "output.message.delta")[-1]["accumulated"] == "It is sunny."


async def test_arguments_that_a_person_edits_are_checked_like_the_models(
    api: httpx.AsyncClient, shared_server: Server
) -> None:
    asks = {"type": "tool_pattern", "tool": "weather", "stage": "tool_use", "action": "ask", "id": "always"}
    talk = await guarded_talk(api, asks, checked(stage="tool_use"), tools=[WEATHER])
    step = {"tool_calls": [call("weather", "c1", city="Rome")]}
    frames = await guarded_turn(talk, step, {"text": "Done."}, until="tool.call_requested")
    decision: Json = {"tool_call_id": "c1", "decision": "allow"}
    for city, status in ((BAD, 400), ("Oslo", 200)):
        body = {"decisions": [{**decision, "arguments": {"city": city}}]}
        decided = await api.post(talk.path("/tool-approvals"), json=body)
        assert decided.status_code == status, decided.text
        if status == 400:
            assert decided.json()["code"] == "guardrail_blocked"
    async with talk.follow(after_sequence=frames[-1].data["sequence"]) as stream:
        asked = (await stream.until("tool.call_requested"))[-1].data["data"]
    assert asked["tool_calls"][0]["arguments"] == {"city": "Oslo"}
    await assert_nowhere(shared_server, talk)
