"""Typed results: the final answer matches the schema that is set for it, or the turn fails."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.server import post
from tests.talk import Json, Talk, body_of, call, kinds_of, new_talk, script, text_in

WEATHER: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
ROME: Json = {"city": "Rome", "degrees": 21}
LIST: Json = {"type": "array", "items": {"$ref": "#/$defs/name"}, "$defs": {"name": {"type": "string"}}}


async def _turn(talk: Talk, *steps: Json, **controls: Any) -> list[Json]:
    """Run a turn of a message with these options; returns its events."""
    posted = await post(talk.http, f"/v1/sessions/{talk.id}/messages", _body(*steps, **controls))
    return await talk.logged_until("session.idled", after=posted["sequence"])


def _body(*steps: Json, **controls: Any) -> Json:
    return body_of(script(*steps), **({"controls": controls} if controls else {}))


def _ends(events: list[Json]) -> Json:
    (end,) = [each["data"] for each in events if each["type"] in ("turn.completed", "turn.failed")]
    return dict(end)


async def test_the_value_of_a_valid_answer_is_in_the_log(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, output_schema=WEATHER)
    events = await _turn(talk, {"text": json.dumps(ROME)})
    kinds = kinds_of(events)
    assert kinds[kinds.index("reason.completed") :] == [
        "reason.completed",
        "output.accepted",
        "turn.completed",
        "session.idled",
    ]
    (accepted,) = [each["data"] for each in events if each["type"] == "output.accepted"]
    assert accepted["output"] == _ends(events)["output"] == ROME
    assert accepted["message_id"] == _ends(events)["final_message_id"]


async def test_without_a_schema_nothing_is_checked(api: httpx.AsyncClient) -> None:
    events = await _turn(await new_talk(api), {"text": json.dumps(ROME)})
    assert "output.accepted" not in kinds_of(events)
    assert "output" not in _ends(events)


async def test_the_model_corrects_an_answer_after_it_reads_what_was_wrong(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, output_schema=WEATHER)
    events = await _turn(
        talk, {"text": "It is warm."}, {"text": '{"city": "Rome", "degrees": "21"}'}, {"output": ROME}
    )
    rejected = [each["data"] for each in events if each["type"] == "output.rejected"]
    assert [each["attempt"] for each in rejected] == [1, 2]
    assert rejected[0]["errors"] == ["answer: the text is not valid JSON: invalid character (byte 0)"]
    assert rejected[1]["errors"] == ['degrees: the value is not of type "integer"']
    assert _ends(events)["output"] == ROME
    assert _ends(events)["iterations"] == 3
    told = (await talk.events(types="llm.generation"))[-1]["data"]["messages"]
    notes = [text_in(message) for message in told if message["role"] == "system"]
    assert 'degrees: the value is not of type "integer"' in notes[-1]
    phases = [each.get("phase") for each in await talk.messages() if each["role"] == "agent"]
    assert phases == ["commentary", "commentary", "final_answer"]


async def test_a_turn_without_a_valid_answer_fails_and_says_why(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, output_schema=WEATHER)
    wrong = {"text": '{"city": 1}'}
    events = await _turn(talk, wrong, wrong, wrong, {"output": ROME})
    assert _ends(events)["error_code"] == "output_invalid"
    assert "city: the value is not of type" in _ends(events)["error"]
    assert "output" not in _ends(events)
    assert kinds_of(events).count("output.rejected") == 3
    after = await _turn(talk, {"output": ROME})
    assert _ends(after)["output"] == ROME


async def test_the_message_comes_before_the_session_and_that_before_the_agent(
    api: httpx.AsyncClient,
) -> None:
    agent = await post(api, "/v1/agents", {"name": "typed", "system_prompt": "", "output_schema": WEATHER})
    assert agent["output_schema"] == WEATHER
    inherits = await new_talk(api, agent_id=agent["id"])
    assert _ends(await _turn(inherits, {"output": ROME}))["output"] == ROME
    own = await new_talk(api, agent_id=agent["id"], output_schema={"type": "boolean"})
    assert _ends(await _turn(own, {"output": True}))["output"] is True
    for number in (1, 2):
        assert (
            _ends(await _turn(own, {"output": number}, output_schema={"type": "integer"}))["output"] == number
        )
    assert _ends(await _turn(own, {"output": False}))["output"] is False


@pytest.mark.parametrize(
    "text", ['```json\n{"city": "Rome", "degrees": 21}\n```', '\n {"city":"Rome","degrees":21}\n']
)
async def test_json_in_a_fence_or_among_blanks_is_an_answer(api: httpx.AsyncClient, text: str) -> None:
    talk = await new_talk(api, output_schema=WEATHER)
    assert _ends(await _turn(talk, {"text": text}))["output"] == ROME
    assert json.loads(text_in((await talk.messages())[-1])) == ROME


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (LIST, ["a", "b"]),
        ({"type": "string"}, "yes"),
        ({"type": ["integer", "null"]}, 7),
        ({"anyOf": [WEATHER, {"type": "string"}]}, ROME),
        ({}, [{"any": "thing"}]),
        ({"enum": [1, "two"]}, "two"),
        ({"type": "object", "properties": {"value": {"type": "integer"}}}, {"value": 3}),
    ],
)
async def test_a_schema_may_be_of_any_type(api: httpx.AsyncClient, schema: Json, value: Any) -> None:
    talk = await new_talk(api, output_schema=schema)
    async with talk.follow() as stream:
        await post(api, f"/v1/sessions/{talk.id}/messages", _body({"output": value, "delay_ms": 1}))
        seen = await stream.until("turn.completed")
    assert seen[-1].data["data"]["output"] == value
    deltas = [each.data["data"] for each in seen if each.kind == "output.message.delta"]
    (completed,) = [each.data["data"] for each in seen if each.kind == "output.message.completed"]
    assert json.loads(text_in(completed["message"])) == value
    assert json.loads(deltas[-1]["accumulated"]) == value


async def test_null_is_a_value_like_any_other(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, output_schema={"type": "null"})
    events = await _turn(talk, {"output": None})
    assert "output.accepted" in kinds_of(events)
    assert "output" not in _ends(events)


async def test_tools_run_before_the_typed_answer(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, output_schema=WEATHER)
    events = await _turn(talk, {"tool_calls": [call("get_current_time")]}, {"output": ROME})
    assert _ends(events)["output"] == ROME
    assert _ends(events)["tool_call_count"] == 1


async def test_a_call_of_the_result_tool_is_the_answer_and_no_call(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, output_schema=WEATHER)
    events = await _turn(talk, {"text": "Here it is.", "tool_calls": [call("final_result", **ROME)]})
    assert _ends(events)["output"] == ROME
    assert _ends(events)["tool_call_count"] == 0
    assert json.loads(text_in((await talk.messages())[-1])) == ROME
    assert all(part["type"] == "text" for part in (await talk.messages())[-1]["content"])


async def test_beside_other_calls_the_result_tool_is_too_early(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, output_schema=WEATHER)
    calls = [call("final_result", city="Oslo", degrees=1), call("get_current_time")]
    events = await _turn(talk, {"tool_calls": calls}, {"tool_calls": [call("final_result", **ROME)]})
    assert _ends(events)["output"] == ROME
    assert [each["data"]["tool_name"] for each in events if each["type"] == "tool.completed"] == [
        "get_current_time"
    ]


async def test_a_tool_of_the_agent_may_have_the_name_of_the_result_tool(api: httpx.AsyncClient) -> None:
    tool = {
        "type": "client_side",
        "name": "final_result",
        "description": "",
        "parameters": {"type": "object"},
    }
    talk = await new_talk(api, output_schema=WEATHER, tools=[tool])
    await post(
        api,
        f"/v1/sessions/{talk.id}/messages",
        _body(
            {"tool_calls": [call("final_result", "call_1")]}, {"tool_calls": [call("final_result_2", **ROME)]}
        ),
    )
    await talk.logged_until("tool.call_requested")
    await talk.answer({"tool_call_id": "call_1", "result": "ok"})
    assert _ends(await talk.logged_until("session.idled"))["output"] == ROME


@pytest.mark.parametrize("name", ["finalResult", "final-result"])
async def test_a_tool_with_a_name_like_that_of_the_result_tool_is_called(
    api: httpx.AsyncClient, name: str
) -> None:
    tool = {"type": "client_side", "name": name, "description": "", "parameters": {"type": "object"}}
    talk = await new_talk(api, output_schema=WEATHER, tools=[tool])
    await talk.say(script({"tool_calls": [call(name, "call_1", **ROME)]}, {"output": ROME}))
    (asked,) = (await talk.logged_until("tool.call_requested"))[-1]["data"]["tool_calls"]
    assert (asked["name"], asked["arguments"]) == (name, ROME)


@pytest.mark.parametrize(
    ("schema", "cut", "whole"),
    [
        ({"type": "integer"}, {"text": "12"}, 1234),
        ({"type": "object"}, {"tool_calls": [{"name": "final_result", "arguments": ""}]}, ROME),
    ],
    ids=["a number", "no arguments yet"],
)
async def test_a_value_that_may_be_cut_is_no_answer(
    api: httpx.AsyncClient, schema: Json, cut: Json, whole: Any
) -> None:
    talk = await new_talk(api, output_schema=schema)
    events = await _turn(talk, {**cut, "finish_reason": "length"}, {"output": whole})
    (rejected,) = [each["data"] for each in events if each["type"] == "output.rejected"]
    assert "reached its length limit" in rejected["errors"][0]
    assert _ends(events)["output"] == whole


async def test_a_message_that_steers_keeps_the_schema_of_the_turn(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    tool = call("ask", "call_1")
    ask = {"type": "client_side", "name": "ask", "description": "", "parameters": {"type": "object"}}
    talk = await new_talk(api, tools=[ask])
    await post(api, f"/v1/sessions/{talk.id}/messages", _body({"tool_calls": [tool]}, output_schema=WEATHER))
    await talk.logged_until("tool.call_requested")
    await talk.say(script({"text": "no"}, {"output": ROME}))
    events = await talk.logged_until("session.idled")
    assert kinds_of(events).count("output.rejected") == 1
    assert _ends(events)["output"] == ROME


async def test_response_format_is_stored_as_output_schema(api: httpx.AsyncClient) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER, "strict": True}}
    agent = await post(api, "/v1/agents", {"name": "formed", "system_prompt": "", "response_format": form})
    session = await post(api, "/v1/sessions", {"agent_id": agent["id"], "response_format": form})
    posted = await post(
        api, f"/v1/sessions/{session['id']}/messages", _body({"output": ROME}, response_format=form)
    )
    for found in (agent, session, posted["controls"]):
        assert found["output_schema"] == WEATHER
        assert "response_format" not in found
    changed = await api.patch(f"/v1/agents/{agent['id']}", json={"output_schema": None})
    assert changed.json().get("output_schema") is None
    changed = await api.patch(f"/v1/agents/{agent['id']}", json={"response_format": form})
    assert changed.json()["output_schema"] == WEATHER


NESTED: Json = {"type": "string"}
for _ in range(70):
    NESTED = {"type": "array", "items": NESTED}


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"type": "text"}, "output_schema.type"),
        ({"type": "object", "properties": {"a": {"type": "number", "minimum": "1"}}}, "output_schema"),
        ({"$ref": "#"}, "output_schema"),
        ({"$ref": "https://example.com/schema"}, "output_schema"),
        ({"pattern": "("}, "output_schema.pattern"),
        ({"enum": ["x" * 70_000]}, "output_schema"),
        (NESTED, "output_schema"),
        ({"$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {}},
          "$ref": "#/$defs/d0"}, "output_schema"),
    ],
)  # fmt: skip
async def test_a_schema_that_cannot_be_checked_is_refused_wherever_it_is_set(
    api: httpx.AsyncClient, schema: Json, field: str
) -> None:
    talk = await new_talk(api)
    refused = [
        await api.post("/v1/agents", json={"name": "bad", "system_prompt": "", "output_schema": schema}),
        await api.post("/v1/sessions", json={"output_schema": schema}),
        await api.post(f"/v1/sessions/{talk.id}/messages", json=_body(output_schema=schema)),
    ]
    for response, where in zip(refused, ("", "", "controls."), strict=True):
        problem = response.json()
        assert (response.status_code, problem["code"]) == (400, "invalid_output_schema"), problem
        assert problem["field"].startswith(where + field)


async def test_both_ways_to_set_a_schema_at_once_are_refused(api: httpx.AsyncClient) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": WEATHER}}
    response = await api.post("/v1/sessions", json={"output_schema": WEATHER, "response_format": form})
    assert (response.status_code, response.json()["field"]) == (400, "response_format")


async def test_a_costly_schema_is_checked_in_another_process(api: httpx.AsyncClient) -> None:
    tree = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["name"],
    }
    talk = await new_talk(api, output_schema=tree)
    wrong: Json = {"name": "a", "children": [{"children": []}]}
    right: Json = {"name": "a", "children": [{"name": "b"}]}
    events = await _turn(talk, {"output": wrong}, {"output": right})
    (rejected,) = [each["data"] for each in events if each["type"] == "output.rejected"]
    assert rejected["errors"] == ['children/0: "name" is a required property']
    assert _ends(events)["output"] == right


async def test_the_simulated_model_makes_up_a_value_that_fits(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, output_schema=WEATHER)
    await talk.say("What is the weather?")
    assert _ends(await talk.logged_until("session.idled"))["output"] == {"city": "text", "degrees": 0}


async def test_an_agents_schema_is_in_its_file_and_its_versions(api: httpx.AsyncClient) -> None:
    fields = {"name": "filed", "system_prompt": "Be brief.", "output_schema": WEATHER}
    agent = await post(api, "/v1/agents", fields)
    written = (await api.get(f"/v1/agents/{agent['id']}/export")).text
    assert (await api.patch(f"/v1/agents/{agent['id']}", json={"output_schema": None})).status_code == 200
    imported = await api.post("/v1/agents/import", content=written, headers={"content-type": "text/markdown"})
    assert imported.json()["id"] == agent["id"]
    assert imported.json()["output_schema"] == WEATHER
    wrong = written.replace('"integer"', '"number"').replace("integer", "whole")
    refused = await api.post("/v1/agents/import", content=wrong, headers={"content-type": "text/markdown"})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_output_schema")
    versions = (await api.get(f"/v1/agents/{agent['id']}/versions")).json()
    assert len(versions) == 3
