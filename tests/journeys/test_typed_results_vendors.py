"""Typed results of models whose servers refuse a part of what asks for them, and of a real model server."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.conformance.drivers.protocols import Wire
from tests.conformance.drivers.vendor import Reply
from tests.journeys.test_windows import refused, scripted
from tests.server import Server, post
from tests.talk import Json, Talk, body_of, new_talk, text_in
from tests.vendors import CHAT, MESSAGES, answer, new_model, vendor_provider

WEATHER: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
}
ROME: Json = {"city": "Rome", "degrees": 21}


async def _turn(talk: Talk, **controls: object) -> list[Json]:
    said = await talk.say("What is the weather?", controls=controls)
    return await talk.logged_until("session.idled", after=said["sequence"])


async def test_a_server_that_refuses_the_parameter_gets_the_tool_and_one_without_tools_gets_words(
    api: httpx.AsyncClient,
) -> None:
    def script(body: Json) -> Reply:
        if "response_format" in body:
            return refused("This model does not support response format `json_schema`.")
        if "tool_choice" in body:
            return refused("This model does not support this tool_choice.")
        if "tools" in body:
            return refused("This model does not support tools.")
        text = "Warm." if len(vendor.bodies) == 4 else json.dumps(ROME)
        return answer(f"```json\n{text}\n```")

    async with scripted(script) as vendor:
        model = await new_model(api, await vendor_provider(api, vendor))
        talk = await new_talk(api, model_id=model["id"], harness_name="base")
        events = await _turn(talk, output_schema=WEATHER)
        assert [sorted(body.keys() - {"model", "messages"}) for body in vendor.bodies] == [
            ["response_format", "stream", "stream_options"],
            ["stream", "stream_options", "tool_choice", "tools"],
            ["stream", "stream_options", "tools"],
            ["stream", "stream_options"],
            ["stream", "stream_options"],
        ]
        assert '"degrees"' in vendor.bodies[3]["messages"][0]["content"], "the schema, in words"
        assert [event["type"] for event in events if event["type"].startswith("output.")][-2:] == [
            "output.message.completed",
            "output.accepted",
        ]
        ended = [event["data"] for event in events if event["type"] == "reason.completed"]
        assert set(ended[-1]["adaptation"]["parameters_left_out"]) == {
            "response_format",
            "result_tool",
            "tool_choice",
        }
        again = await _turn(talk, output_schema=WEATHER)
        assert again[-2]["data"]["output"] == ROME
        assert len(vendor.bodies) == 6, "no refusal is paid for twice"


@pytest.mark.parametrize(
    ("wire", "refusal"),
    [
        (CHAT, "Invalid schema for function 'final_result': In context=(), 'oneOf' is not permitted."),
        (MESSAGES, "tools.1.custom.input_schema: JSON schema is invalid."),
    ],
    ids=["its name", "its place"],
)
async def test_a_server_that_refuses_the_result_tools_schema_gets_words(
    api: httpx.AsyncClient, wire: Wire, refusal: str
) -> None:
    def script(body: Json) -> Reply:
        return refused(refusal) if len(body["tools"]) > 1 else answer(json.dumps(ROME), wire)

    look = {"type": "client_side", "name": "look", "description": "", "parameters": {"type": "object"}}
    async with scripted(script) as vendor:
        model = await new_model(api, await vendor_provider(api, vendor, wire))
        talk = await new_talk(api, model_id=model["id"], harness_name="base", tools=[look])
        assert (await _turn(talk, output_schema=WEATHER))[-2]["data"]["output"] == ROME
        assert [len(body["tools"]) for body in vendor.bodies] == [2, 1]
        assert "degrees" in json.dumps(vendor.bodies[1]), "the schema, in words"


async def test_the_answer_that_the_result_tool_gives_leaves_no_call_behind(api: httpx.AsyncClient) -> None:
    def script(body: Json) -> Reply:
        if body["messages"][-1]["content"] == "And now?":
            return answer("Still warm.")
        pieces = ['{"city": "Ro', 'me", "degrees": 21}']
        return Reply(CHAT.answer(["Here."], calls=[("c1", "final_result", pieces)]))

    look = {"type": "client_side", "name": "look", "description": "", "parameters": {"type": "object"}}
    async with scripted(script) as vendor:
        model = await new_model(api, await vendor_provider(api, vendor))
        talk = await new_talk(api, model_id=model["id"], harness_name="base", tools=[look])
        async with talk.follow() as stream:
            await talk.say("Weather?", controls={"output_schema": WEATHER})
            seen = await stream.until("turn.completed")
        assert seen[-1].data["data"]["output"] == ROME
        shown = [each.data["data"] for each in seen if each.kind == "output.message.delta"]
        assert json.loads(shown[-1]["accumulated"]) == ROME
        names = [tool["function"]["name"] for tool in vendor.bodies[0]["tools"]]
        assert names == ["look", "final_result"]
        said = await talk.say("And now?")
        await talk.logged_until("turn.completed", after=said["sequence"])
        history = vendor.bodies[-1]["messages"]
        assert [(each["role"], "tool_calls" in each) for each in history[-3:]] == [
            ("user", False),
            ("assistant", False),
            ("user", False),
        ]
        assert json.loads(history[-2]["content"]) == ROME
        assert [tool["function"]["name"] for tool in vendor.bodies[-1]["tools"]] == ["look"]


@pytest.mark.parametrize(
    "schema", [WEATHER, {"type": "array", "items": {"enum": ["sun", "rain"]}, "maxItems": 3}]
)
async def test_a_real_model_server_answers_in_the_form(server: Server, llama_url: str, schema: Json) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        fields = {
            "name": "llama",
            "provider_type": "openai_completions",
            "base_url": llama_url,
            "api_key": "x",
        }
        model = await new_model(http, await post(http, "/v1/providers", fields), "local")
        talk = await new_talk(http, model_id=model["id"], harness_name="base", output_schema=schema)
        async with talk.follow() as stream:
            await post(http, talk.path("/messages"), body_of("What is the weather in Rome?"))
            seen = await stream.until("turn.completed", "turn.failed")
    end = seen[-1].data
    assert end["type"] == "turn.completed", end["data"]
    value = end["data"]["output"]
    message = [each.data["data"]["message"] for each in seen if each.kind == "output.message.completed"][-1]
    assert json.loads(text_in(message)) == value
    assert type(value) is (dict if schema is WEATHER else list)
    shown = [each.data["data"]["accumulated"] for each in seen if each.kind == "output.message.delta"]
    assert json.loads(shown[-1]) == value
