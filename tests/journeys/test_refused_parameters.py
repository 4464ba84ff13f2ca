"""Servers that refuse a parameter that a call can do without: the session goes on, and the log says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conformance.drivers.protocols import Wire
from tests.conformance.drivers.vendor import JSON, Reply
from tests.journeys.test_windows import SUMMARY, Scripted, narrow_talk, refused, scripted, size_of, turn
from tests.server import Server
from tests.talk import Json, Talk, new_talk
from tests.vendors import CHAT, MESSAGES, RESPONSES, answer, new_model, reply, vendor_provider

LOOK = {
    "type": "client_side",
    "name": "look",
    "description": "Look.",
    "parameters": {"type": "object", "properties": {}},
}
THINKING = {"reasoning": {"effort": "low"}}


def extra(body: Json, *known: str) -> list[str]:
    """The parameters that the server does not know, in the order in which it finds them."""
    return [name for name in body if name not in {"model", "messages", "input", "tools", "stream", *known}]


def strict_chat(body: Json) -> Reply:
    """As servers in Python do: all at once, in fields beside a message that says nothing."""
    words = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}
    found = [{**words, "loc": ["body", name], "input": body[name]} for name in extra(body)]
    return reply({"detail": found}, 422) if found else answer("Fine.", CHAT)


def strict_responses(body: Json) -> Reply:
    """As OpenAI does: one after the other."""
    found = extra(body, "instructions")
    if not found and "strict" in body["tools"][0]:
        found = ["tools[0].strict"]
    error = {"type": "invalid_request_error", "code": "unknown_parameter"}
    for name in found:
        return reply({"error": {**error, "message": f"Unknown parameter: '{name}'.", "param": name}}, 400)
    return answer("Fine.", RESPONSES)


def strict_messages(body: Json) -> Reply:
    """As gateways to Anthropic's models do."""
    found = extra(body, "system", "max_tokens")
    if not found and "cache_control" in json.dumps(body):
        found = ["tools.0.custom.cache_control"]
    for name in found:
        error = {"type": "invalid_request_error", "message": f"{name}: Extra inputs are not permitted"}
        return reply({"type": "error", "error": error}, 400)
    return answer("Fine.", MESSAGES)


async def talk_with(http: httpx.AsyncClient, vendor: Scripted, wire: Wire, model_id: str) -> Talk:
    model = await new_model(http, await vendor_provider(http, vendor, wire), model_id)
    fields = {"model_id": model["id"], "harness_name": "base", "tools": [LOOK], "parallel_tool_calls": False}
    return await new_talk(http, **fields)


async def adaptation(talk: Talk) -> Json | None:
    """What the log says about the newest call."""
    ended = [event["data"] for event in await talk.events() if event["type"] == "reason.completed"]
    found: Json | None = ended[-1].get("adaptation")
    return found


@pytest.mark.parametrize(
    ("wire", "model_id", "script", "calls", "left_out"),
    [
        (CHAT, "model-1", strict_chat, 2, {"stream_options", "parallel_tool_calls", "reasoning_effort"}),
        (
            RESPONSES,
            "model-1",
            strict_responses,
            7,
            {"store", "parallel_tool_calls", "prompt_cache_key", "reasoning", "include", "strict"},
        ),
        (
            MESSAGES,
            "claude-opus-4-6",
            strict_messages,
            5,
            {"thinking", "output_config", "tool_choice", "cache_control"},
        ),
    ],
    ids=lambda value: getattr(value, "provider_type", None),
)
async def test_a_call_is_made_without_what_its_server_refuses_and_so_are_all_later_ones(
    tmp_path: Path,
    wire: Wire,
    model_id: str,
    script: Callable[[Json], Reply],
    calls: int,
    left_out: set[str],
) -> None:
    async with (
        Server(tmp_path) as server,
        httpx.AsyncClient(base_url=server.url) as http,
        scripted(script) as vendor,
    ):
        talk = await talk_with(http, vendor, wire, model_id)
        said = await talk.say("one", controls=THINKING)
        await talk.logged_until("session.idled", after=said["sequence"])
        assert len(vendor.bodies) == calls
        found = await adaptation(talk)
        assert found is not None
        assert set(found["parameters_left_out"]) == left_out
        assert found["refusal"]
        await server.restart()
        assert (await turn(talk, "two"))["type"] == "turn.completed"
        fork = Talk(http, (await http.post(talk.path("/fork"), json={})).json()["id"])
        assert (await turn(fork, "three"))["type"] == "turn.completed"
        assert len(vendor.bodies) == calls + 2, "no refusal is paid for twice"
        assert await adaptation(fork) == {
            "model_id": found["model_id"],
            "parameters_left_out": found["parameters_left_out"],
        }
        assert "look" in json.dumps(vendor.bodies[-1]["tools"])


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        ("Unknown parameter: 'stream_options'.", 2),
        ("Unknown parameter: 'messages'.", 1),
        ("Unknown parameter: 'model'.", 1),
        ("Unknown parameter: 'seed'.", 1),
        ("This model doesn't support tool use in streaming mode.", 2),
        ("Unsupported parameters: 'stream', 'stream_options', 'parallel_tool_calls'", 2),
    ],
)
async def test_a_refusal_that_stays_ends_the_turn_after_a_few_calls(
    api: httpx.AsyncClient, words: str, calls: int
) -> None:
    async with scripted(lambda body: refused(words)) as vendor:
        talk = await talk_with(api, vendor, CHAT, "model-1")
        failed = await turn(talk, "one")
        assert failed["type"] == "turn.failed"
        assert words in failed["data"]["error"]
        assert len(vendor.bodies) == calls
        vendor.script = lambda body: answer("Fine.")
        assert (await turn(talk, "two"))["type"] == "turn.completed"
        assert await adaptation(talk) is None, "what did not help is not remembered"


async def test_a_server_that_takes_tools_in_no_stream_is_asked_for_a_whole_answer(
    api: httpx.AsyncClient,
) -> None:
    def script(body: Json) -> Reply:
        if body.get("stream"):
            return refused("This model doesn't support tool use in streaming mode.")
        return Reply([CHAT.whole("I look.", ("c1", "look", {}))], 200, JSON)

    async with scripted(script) as vendor:
        talk = await talk_with(api, vendor, CHAT, "model-1")
        await talk.say("one")
        asked = await talk.logged_until("tool.call_requested")
        assert asked[-1]["data"]["tool_calls"][0]["name"] == "look"
        found = await adaptation(talk)
        assert found is not None
        assert found["parameters_left_out"] == ["stream"]
        assert "stream_options" not in vendor.bodies[-1]


async def test_a_header_that_the_provider_sets_is_left_out_if_the_server_refuses_it(
    api: httpx.AsyncClient,
) -> None:
    async with scripted(lambda body: refused("invalid beta flag")) as vendor:
        vendor.script = lambda body: fine if len(vendor.bodies) > 1 else refused("invalid beta flag")
        fine = answer("Fine.", MESSAGES)
        headers = {"headers": {"Anthropic-Beta": "context-1m-2025-08-07", "X-Team": "blue"}}
        provider = await vendor_provider(api, vendor, MESSAGES, options=headers)
        talk = await new_talk(api, model_id=(await new_model(api, provider))["id"], harness_name="base")
        assert (await turn(talk, "one"))["type"] == "turn.completed"
        first, second = (asked.headers for asked in vendor.asked)
        assert first["anthropic-beta"]
        assert "anthropic-beta" not in second
        assert second["x-team"] == "blue"
        assert second["anthropic-version"] == first["anthropic-version"]
        found = await adaptation(talk)
        assert found is not None
        assert found["parameters_left_out"] == ["anthropic-beta"]


async def test_a_summary_is_written_without_what_the_server_refuses(api: httpx.AsyncClient) -> None:
    def script(body: Json) -> Reply:
        if SUMMARY in json.dumps(body["messages"]) and "stream_options" in body:
            return refused("Unrecognized request argument supplied: stream_options")
        over = size_of(body) > 5_000
        return refused("This model's maximum context length is 5000 tokens.") if over else answer("y" * 400)

    async with scripted(script) as vendor:
        talk = await narrow_talk(api, vendor)
        for _ in range(10):
            assert (await turn(talk, "x" * 1_500))["type"] == "turn.completed"
        done = [event["data"] for event in await talk.events() if event["type"] == "context.compacted"]
        assert done
        assert all(data["strategy_used"] == "summary" for data in done)
