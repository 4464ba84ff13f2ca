"""Models with small windows: a session goes on, whatever the server says or does about a long prompt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import httpx
import pytest
from aiohttp import web

from tests.conformance.drivers.protocols import Counts
from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.journeys.test_models import models, sync
from tests.server import Server
from tests.talk import Json, Talk, body_of, new_talk
from tests.vendors import CHAT, answer, listing, new_model, reply, vendor_provider

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SUMMARY = "memory of an agent"
"""Part of the prompt that asks for a summary."""

Script = Callable[[Json], Reply]


class Scripted(Vendor):
    """A vendor whose script sees each request."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script
        self.bodies: list[Json] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            self.bodies.append(await request.json())
            self.will(self.script(self.bodies[-1]))
        return await super().handle(request)


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Scripted]:
    vendor = Scripted(script)
    async with open_vendor(vendor):
        yield vendor


async def narrow_talk(
    api: httpx.AsyncClient, vendor: Vendor, window: int | None = None, **fields: object
) -> Talk:
    """A session with the vendor's model, whose window is in the provider's list if it is given."""
    provider = await vendor_provider(api, vendor)
    if window is None:
        model = await new_model(api, provider)
    else:
        vendor.will(listing({"id": "narrow", "max_model_len": window}))
        await sync(api, provider)
        (model,) = await models(api, provider)
    return await new_talk(api, model_id=model["id"], **fields)


async def turn(talk: Talk, text: str) -> Json:
    """Run a turn, and return the event that ended it."""
    said = await talk.say(text)
    events = await talk.logged_until("session.idled", after=said["sequence"])
    ends: list[Json] = [event for event in events if event["type"] in ("turn.completed", "turn.failed")]
    return ends[-1]


def size_of(body: Json) -> int:
    """The tokens of a request as a server counts them: 1 for each Chinese character, else 1 for 4."""
    text = json.dumps(body["messages"], ensure_ascii=False) + json.dumps(body.get("tools", []))
    wide = sum(ord(ch) > 0x2E80 for ch in text)
    return wide + (len(text) - wide) // 4


def refused(message: str, status: int = 400) -> Reply:
    return reply({"error": {"message": message, "type": "invalid_request_error"}}, status)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Prompt exceeds max length"),
        (422, "`inputs` must have less than 2250 tokens. Given: 4000"),
        (400, "no"),
        (413, "this is why"),
        (422, ""),
    ],
)
async def test_a_history_that_is_refused_is_sent_again_with_less_of_it(
    api: httpx.AsyncClient, status: int, message: str
) -> None:
    def script(body: Json) -> Reply:
        too_long = len(json.dumps(body["messages"])) > 9_000
        return refused(message, status) if too_long else answer("ok " + "y" * 1_500)

    async with scripted(script) as vendor:
        talk = await narrow_talk(api, vendor, harness_name="base")
        ends = [await turn(talk, "x" * 1_500) for _ in range(5)]
        assert [end["type"] for end in ends] == ["turn.completed"] * 5
        before = len(vendor.bodies)
        assert (await turn(talk, "again"))["type"] == "turn.completed"
        assert len(vendor.bodies) == before + 1, "what was accepted is remembered"


async def test_a_refusal_that_has_nothing_to_do_with_the_length_leaves_the_history_whole(
    api: httpx.AsyncClient,
) -> None:
    async with scripted(
        lambda body: refused("no") if "sunday" in str(body) else answer("y" * 1_500)
    ) as vendor:
        talk = await narrow_talk(api, vendor, harness_name="base")
        for _ in range(4):
            await turn(talk, "x" * 1_500)
        before = len(vendor.bodies)
        assert (await turn(talk, "sunday"))["data"]["error_code"] == "invalid_model_request"
        assert len(vendor.bodies) == before + 2, "tried once with less"
        vendor.script = lambda body: answer("Fine.")
        assert (await turn(talk, "monday"))["type"] == "turn.completed"
        assert json.dumps(vendor.sent["messages"]).count("x" * 1_500) == 4


async def test_a_limit_that_an_error_names_is_learned_for_the_model(api: httpx.AsyncClient) -> None:
    def script(body: Json) -> Reply:
        over = size_of(body) > 4_000
        return refused("This model's maximum context length is 4000 tokens.") if over else answer("y" * 400)

    async with scripted(script) as vendor:
        talk = await narrow_talk(api, vendor, harness_name="base")
        for _ in range(20):
            assert (await turn(talk, "x" * 1_500))["type"] == "turn.completed"
        refusals = len(vendor.bodies) - 20
        assert refusals == 1
        other = await new_talk(api, model_id=(await talk.read())["model_id"], harness_name="base")
        for _ in range(15):
            assert (await turn(other, "x" * 1_500))["type"] == "turn.completed"
        assert len(vendor.bodies) == 20 + 15 + refusals


async def test_an_answer_limit_that_is_too_high_is_lowered(api: httpx.AsyncClient) -> None:
    def script(body: Json) -> Reply:
        if body.get("max_tokens") is None:
            return refused(
                "max_tokens is too large: 99999. This model supports at most 4096 completion tokens."
            )
        return answer()

    async with scripted(script) as vendor:
        talk = await narrow_talk(api, vendor, harness_name="base")
        assert (await turn(talk, "Hello."))["type"] == "turn.completed"
        assert vendor.sent["max_tokens"] == 4_096
        assert (await turn(talk, "Hello."))["type"] == "turn.completed"
        assert len(vendor.bodies) == 3, "the limit is remembered"


@pytest.mark.parametrize(("piece", "reply_piece"), [("汉", "字"), ("Привет ", "Да "), ("word ", "text ")])
async def test_a_server_that_cuts_silently_is_never_sent_more_than_its_window(
    api: httpx.AsyncClient, piece: str, reply_piece: str
) -> None:
    window, sizes = 8_192, []

    def script(body: Json) -> Reply:
        sizes.append(size_of(body))
        text = reply_piece * (300 // len(reply_piece))
        usage = {"prompt_tokens": min(sizes[-1], window), "completion_tokens": 300}
        return Reply(
            [
                b"data: " + json.dumps(each).encode() + b"\n\n"
                for each in (
                    {"choices": [{"index": 0, "delta": {"content": text}}]},
                    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage},
                )
            ]
            + [b"data: [DONE]\n\n"]
        )

    async with scripted(script) as vendor:
        talk = await narrow_talk(api, vendor, window)
        for _ in range(14):
            assert (await turn(talk, piece * (1_500 // len(piece))))["type"] == "turn.completed"
    assert max(sizes) <= window


async def test_estimates_learn_from_the_usage_and_a_restart_does_not_forget(
    any_server: Server, http: httpx.AsyncClient
) -> None:
    """The vendor counts three tokens where the estimate has one."""
    window = 12_000

    def script(body: Json) -> Reply:
        size = size_of(body) * 3
        return answer("y" * 400, counts=Counts(size, 7, 0)) if size <= window else refused("no")

    async with scripted(script) as vendor:
        talk = await narrow_talk(http, vendor, window, harness_name="base")
        for number in range(16):
            if number == 8:
                await any_server.restart()
            assert (await turn(talk, "x" * 1_000))["type"] == "turn.completed"
        assert len(vendor.bodies) == 16


async def test_a_large_result_of_a_client_tool_fits_into_a_small_window(api: httpx.AsyncClient) -> None:
    window = 16_384
    tool = {
        "type": "client_side", "name": "weather", "description": "Weather.",
        "parameters": {"type": "object", "properties": {}},
    }  # fmt: skip

    def script(body: Json) -> Reply:
        if size_of(body) > window:
            return refused(f"This model's maximum context length is {window} tokens.")
        last = body["messages"][-1]
        if last["role"] == "user" and "look" in str(last["content"]):
            return Reply(CHAT.answer(calls=[(f"call_{n}", "weather", ["{}"]) for n in range(3)]))
        return answer("Fine.")

    async with scripted(script) as vendor:
        talk = await narrow_talk(api, vendor, window, tools=[tool])
        said = await talk.say("look")
        asked = (await talk.logged_until("tool.call_requested", after=said["sequence"]))[-1]["data"]
        results = [
            {"tool_call_id": each["id"], "result": f"begin {index} " + "word " * 18_000 + "end"}
            for index, each in enumerate(asked["tool_calls"])
        ]
        await talk.answer(*results)
        ended = await talk.logged_until("session.idled", after=said["sequence"])
        assert ended[-2]["type"] == "turn.completed"
        shown = [each["content"] for each in vendor.sent["messages"] if each["role"] == "tool"]
        assert [text[:7] for text in shown] == ["begin 0", "begin 1", "begin 2"]
        assert all("characters left out" in text and text.endswith("end") for text in shown)
        for index, text in enumerate(shown):
            path = text.split("all of it is in ", 1)[1].split(",", 1)[0]
            file = await api.get(talk.path(f"/fs{path}"))
            assert file.json()["content"].startswith(f"begin {index} word")
        logged = [event for event in ended if event["type"] == "tool.completed"]
        assert all(len(event["data"]["result"][0]["text"]) > 90_000 for event in logged)
        (await turn(talk, "and now?"))
        again = [each["content"] for each in vendor.sent["messages"] if each["role"] == "tool"]
        assert again == shown
        generation = (await talk.events(types="llm.generation"))[-1]
        told = [each for each in generation["data"]["messages"] if each["role"] == "tool_result"]
        assert [each["content"][0]["result"] for each in told] == shown


async def test_a_large_result_of_a_server_tool_fits_into_a_small_window(api: httpx.AsyncClient) -> None:
    window = 16_384

    def script(body: Json) -> Reply:
        if size_of(body) > window:
            return refused("no")
        if body["messages"][-1]["role"] == "user":
            return Reply(CHAT.answer(calls=[("call_1", "bash", ['{"command": "seq 1 8000"}'])]))
        return answer("Fine.")

    async with scripted(script) as vendor:
        talk = await narrow_talk(api, vendor, window)
        assert (await turn(talk, "count"))["type"] == "turn.completed"
        (shown,) = [each["content"] for each in vendor.sent["messages"] if each["role"] == "tool"]
        assert "all of it is in /.outputs/result-" in shown
        assert len(vendor.bodies) == 2


async def test_a_summary_that_cannot_be_written_is_tried_less_and_less_often(http: httpx.AsyncClient) -> None:
    summaries: list[int] = []

    def script(body: Json) -> Reply:
        if SUMMARY in str(body["messages"][0]["content"]):
            summaries.append(len(vendor.bodies))
            return refused("no")
        return answer("ok " + "y" * 400)

    async with scripted(script) as vendor:
        talk = await narrow_talk(http, vendor, 8_192)
        for _ in range(25):
            assert (await turn(talk, "x" * 2_000))["type"] == "turn.completed"
    assert 1 <= len(summaries) <= 6
    gaps = [after - before for before, after in pairwise(summaries)]
    assert gaps == sorted(gaps)


async def test_images_are_checked_where_they_come_in(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, harness_name="base")
    good = {
        "type": "image", "media_type": "image/png",
        "base64": PNG,
    }  # fmt: skip
    for changes in ({"base64": ""}, {"base64": "??"}, {"media_type": "application/pdf"}, {"url": "data:"}):
        body = body_of("look")
        body["message"]["content"].append({**good, **changes})
        refusal = await api.post(talk.path("/messages"), json=body)
        assert refusal.status_code == 400, changes
        assert refusal.json()["field"] == "message.content[1]"
    assert await talk.messages() == []


async def test_a_single_long_turn_that_is_refused_without_a_reason_goes_on_with_cut_results(
    api: httpx.AsyncClient,
) -> None:
    def script(body: Json) -> Reply:
        if len(json.dumps(body["messages"])) > 40_000:
            return refused("no")
        calls = sum(each["role"] == "tool" for each in body["messages"])
        if calls == 3:
            return answer("Fine.")
        return Reply(CHAT.answer(calls=[(f"call_{calls}", "bash", ['{"command": "seq 1 3500"}'])]))

    async with scripted(script) as vendor:
        talk = await narrow_talk(api, vendor)
        assert (await turn(talk, "count"))["type"] == "turn.completed"
        assert len(vendor.bodies) <= 7, "other forms of the history are tried first"


@pytest.mark.parametrize("field", ["content", "reasoning_content", "arguments", "name", "id"])
async def test_what_a_model_writes_without_end_can_be_read_and_the_session_goes_on(
    api: httpx.AsyncClient, field: str
) -> None:
    long = "x" * 1_100_000
    call = {"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": "{}"}}
    deltas: dict[str, Json] = {
        "content": {"content": long},
        "reasoning_content": {"reasoning_content": long, "content": "ok"},
        "arguments": {
            "tool_calls": [{**call, "function": {"name": "weather", "arguments": f'{{"a":"{long}"}}'}}]
        },
        "name": {"tool_calls": [{**call, "function": {"name": long, "arguments": "{}"}}]},
        "id": {"tool_calls": [{**call, "id": long}]},
    }

    def script(body: Json) -> Reply:
        if len(vendor.bodies) > 1:
            return answer("Fine.")
        chunk = {"choices": [{"index": 0, "delta": deltas[field], "finish_reason": "stop"}]}
        return Reply([b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"])

    async with scripted(script) as vendor:
        talk = await narrow_talk(api, vendor, harness_name="base")
        assert (await turn(talk, "go"))["type"] == "turn.completed"
        for path in ("/messages", "/export", "/context-report", "/events?limit=1000"):
            read = await api.get(talk.path(path))
            assert read.status_code == 200, path
            assert len(read.content) < 4_000_000, path
        assert (await api.post(talk.path("/fork"), json={})).status_code == 201
        assert (await turn(talk, "again"))["type"] == "turn.completed"
