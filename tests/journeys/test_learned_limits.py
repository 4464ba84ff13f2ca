"""Limits that a model's refusals name are in the session's log, so that a new process knows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conformance.drivers.vendor import Reply, open_vendor
from tests.journeys.test_windows import Scripted, narrow_talk, refused, scripted, size_of, turn
from tests.server import Server
from tests.talk import Json, new_talk
from tests.vendors import answer, new_model, vendor_provider


def named_window(body: Json) -> Reply:
    over = size_of(body) > 4_000
    return refused("This model's maximum context length is 4000 tokens.") if over else answer("y" * 400)


def silent_window(body: Json) -> Reply:
    return refused("no") if len(json.dumps(body["messages"])) > 9_000 else answer("y" * 1_500)


def longest_answer(body: Json) -> Reply:
    asked = body.get("max_tokens") or body.get("max_completion_tokens") or 1 << 20
    limit = "max_tokens is too large: 1048576. This model supports at most 4096 completion tokens"
    return refused(limit) if asked > 4_096 else answer("Fine.")


@pytest.mark.parametrize("script", [named_window, silent_window, longest_answer])
async def test_a_limit_is_remembered_after_a_restart(tmp_path: Path, script: Callable[[Json], Reply]) -> None:
    async with (
        Server(tmp_path) as server,
        httpx.AsyncClient(base_url=server.url) as http,
        scripted(script) as vendor,
    ):
        talk = await narrow_talk(http, vendor, harness_name="base")
        for _ in range(20):
            assert (await turn(talk, "x" * 1_500))["type"] == "turn.completed"
        assert len(vendor.bodies) > 20, "the limit was met"
        await server.restart()
        before = len(vendor.bodies)
        for _ in range(3):
            assert (await turn(talk, "x" * 1_500))["type"] == "turn.completed"
        assert len(vendor.bodies) == before + 3, "no refusal is paid for twice"


NO_TOOLS = [
    (400, "registry.example/library/small:4b does not support tools"),
    (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
    (500, "tools param requires --jinja flag"),
    (400, "`tool calling` is not supported with this model"),
    (400, "Function calling is not enabled for models/small-27b-it"),
    (422, "Unsupported parameter: 'tools' is not supported with this model."),
]


async def test_a_model_that_accepts_no_tools_is_asked_once_a_turn_and_the_error_says_what_to_do(
    api: httpx.AsyncClient,
) -> None:
    vendor = Scripted(lambda body: answer("y" * 1_500))
    async with open_vendor(vendor):
        model = await new_model(api, await vendor_provider(api, vendor))
        tool = {
            "type": "client_side",
            "name": "look",
            "description": "Look.",
            "parameters": {"type": "object"},
        }
        talk = await new_talk(api, model_id=model["id"], harness_name="base", tools=[tool])
        for _ in range(3):
            await turn(talk, "x" * 1_500)
        for status, words in NO_TOOLS:
            vendor.script = lambda body, status=status, words=words: refused(words, status)  # type: ignore[misc]
            before = len(vendor.bodies)
            failed = (await turn(talk, "hello"))["data"]
            assert len(vendor.bodies) == before + 1, words
            assert failed["error_code"] == "invalid_model_request"
            assert words in failed["error"]
            assert "an agent without tools" in failed["error"]
