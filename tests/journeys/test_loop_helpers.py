"""Repairs of tool calls with mistakes, and detection of loops."""

from __future__ import annotations

import json

import httpx

from tests.talk import Json, call, new_talk, script

REPEAT = {"tool_calls": [call("get_current_time", timezone="UTC")]}


def results_in(events: list[Json]) -> list[Json]:
    return [event["data"] for event in events if event["type"] == "tool.completed"]


async def test_an_agent_that_repeats_its_calls_gets_errors_and_then_the_turn_fails(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api, capabilities=[{"ref": "loop_detection", "config": {"limit": 2}}])
    await talk.say("[[sim " + json.dumps([REPEAT] * 10) + "]]")
    events = await talk.logged_until("session.idled")
    assert [result["success"] for result in results_in(events)] == [True, True, False, False, False]
    assert "in a row" in results_in(events)[-1]["error"]
    failed = next(event["data"] for event in events if event["type"] == "turn.failed")
    assert failed["error_code"] == "loop_detected"


async def test_without_loop_detection_an_agent_can_repeat_its_calls(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, harness_name="base", capabilities=[{"ref": "current_time"}])
    events = await talk.turn(*[REPEAT] * 6, {"text": "Enough."})
    assert [result["success"] for result in results_in(events)] == [True] * 6


async def test_a_call_with_mistakes_is_repaired_if_the_session_enables_it(api: httpx.AsyncClient) -> None:
    slip = {"tool_calls": [{"name": "Get-Current-Time", "arguments": "{'timezone': 'Europe/Paris',}"}]}
    talk = await new_talk(api, capabilities=[{"ref": "tool_call_repair"}])
    events = await talk.turn(slip, {"text": "Done."})
    repaired = next(event["data"] for event in events if event["type"] == "tool.call_repaired")
    assert repaired["outcome"] == "name_and_arguments"
    (result,) = results_in(events)
    assert json.loads(result["result"][0]["text"])["timezone"] == "Europe/Paris"


async def test_quoted_values_and_nulls_are_repaired_if_the_session_enables_it(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(
        api,
        capabilities=[{"ref": "tool_call_repair"}],
        initial_files=[{"path": "/a", "content": "1\n2\n3\n"}],
    )
    slips = [
        call("read_file", path="/a", offset="2", limit=None),
        call("read_many_files", paths="/a"),
        call("read_file", path=None),
    ]
    events = await talk.turn({"tool_calls": slips}, {"text": "Done."})
    assert [event["data"]["outcome"] for event in events if event["type"] == "tool.call_repaired"] == [
        "arguments"
    ] * 2
    lines, files, left = results_in(events)
    assert json.loads(lines["result"][0]["text"])["content"] == "2\n3\n"
    assert json.loads(files["result"][0]["text"])["files"][0]["path"] == "/a"
    assert "path" in left["error"]


async def test_a_client_gets_repaired_arguments_that_fit_its_tool(api: httpx.AsyncClient) -> None:
    parameters = {
        "type": "object",
        "properties": {"floor": {"type": "integer"}, "door": {"type": "string"}},
        "required": ["floor"],
    }
    tool = {
        "type": "client_side",
        "name": "open_door",
        "description": "Opens a door.",
        "parameters": parameters,
    }
    talk = await new_talk(api, capabilities=[{"ref": "tool_call_repair"}], tools=[tool])
    message = await talk.say(
        script({"tool_calls": [call("open_door", floor="3", door=None)]}, {"text": "Done."})
    )
    asked = (await talk.logged_until("tool.call_requested", after=message["sequence"]))[-1]["data"][
        "tool_calls"
    ]
    assert [each["arguments"] for each in asked] == [{"floor": 3}]


async def test_without_repair_a_call_with_mistakes_gets_an_error_as_its_result(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_talk(api)
    slip = {"tool_calls": [{"name": "get_current_time", "arguments": "{'timezone': 'UTC'}"}]}
    (result,) = results_in(await talk.turn(slip, {"text": "Done."}))
    assert "not valid JSON" in result["error"]
