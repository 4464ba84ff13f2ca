"""Servers that refuse a history: the session goes on, the log says how, and a restart forgets nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from perdure.llm.adaptations import IMAGE_LEFT_OUT
from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.server import Server
from tests.talk import Json, Talk, kinds_of, new_talk, text_in
from tests.vendors import CHAT, MESSAGES, answer, new_model, reply, vendor_provider

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = {"type": "image", "base64": PNG, "media_type": "image/png"}
SCREENSHOT = {
    "type": "client_side",
    "name": "screenshot",
    "description": "Take a screenshot.",
    "parameters": {"type": "object", "properties": {}},
}


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


def refusal(message: str, status: int = 400) -> Reply:
    return reply({"error": {"message": message, "type": "invalid_request_error"}}, status)


def asks_for(tool: str, call_id: str = "call_1") -> Reply:
    return Reply(CHAT.answer(calls=[(call_id, tool, ["{}"])]))


async def talk_with(
    http: httpx.AsyncClient, vendor: Vendor, wire: Any = CHAT, **fields: Any
) -> tuple[Talk, str]:
    provider = await vendor_provider(http, vendor, wire)
    model = await new_model(http, provider)
    return await new_talk(http, model_id=model["id"], harness_name="base", **fields), model["id"]


async def turn(talk: Talk, *content: Any) -> list[Json]:
    """Post a message and return the events of its turn."""
    parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]
    before = len(await talk.events())
    await talk.http.post(talk.path("/messages"), json={"message": {"content": parts}})
    await talk.logged_until("session.idled", after=before)
    return (await talk.events())[before:]


def adaptation_in(events: list[Json]) -> Json | None:
    ended = [event["data"] for event in events if event["type"] == "reason.completed"]
    found: Json | None = ended[-1].get("adaptation")
    return found


async def test_an_image_that_the_model_refuses_is_left_out_from_then_on(
    api: httpx.AsyncClient, vendor: Vendor
) -> None:
    talk, model = await talk_with(api, vendor)
    words = "this model does not support image input"
    vendor.will(refusal(words), answer("I cannot see it."), answer("Hello."))
    events = await turn(talk, "what is this?", PICTURE)
    assert kinds_of(events).count("turn.completed") == 1
    assert adaptation_in(events) == {"model_id": model, "changes": ["no_images"], "refusal": words}
    assert IMAGE_LEFT_OUT in str(vendor.sent["messages"])
    events = await turn(talk, "then say hello")
    assert adaptation_in(events) == {"model_id": model, "changes": ["no_images"]}
    assert len(vendor.asked) == 3
    assert "image_url" in str(vendor.asked[0].body)
    assert "image_url" not in str(vendor.sent)


async def test_what_a_server_accepted_is_remembered_after_a_restart(tmp_path: Path, vendor: Vendor) -> None:
    async with Server(tmp_path) as server, httpx.AsyncClient(base_url=server.url) as http:
        talk, _ = await talk_with(http, vendor, tools=[SCREENSHOT])
        vendor.will(asks_for("no_such_tool"), answer("Done."))
        await turn(talk, "one")
        vendor.will(refusal("Bad Request"), answer("Two."))
        events = await turn(talk, "two")
        found = adaptation_in(events)
        assert found is not None
        assert found["refusal"] == "Bad Request"
        assert "short_call_ids" in found["changes"]
        await server.restart()
        vendor.will(answer("Three."))
        events = await turn(talk, "three")
        again = adaptation_in(events)
        assert again is not None
        assert again["changes"] == found["changes"]
        assert len(vendor.sent["messages"][1]["tool_calls"][0]["id"]) == 9
        assert len(vendor.asked) == 5
        fork = await http.post(talk.path("/fork"), json={})
        vendor.will(answer("Four."))
        copy = Talk(http, fork.json()["id"])
        assert adaptation_in(await turn(copy, "four")) == again


async def test_a_history_that_no_form_helps_fails_after_a_few_calls(
    api: httpx.AsyncClient, vendor: Vendor
) -> None:
    talk, _ = await talk_with(api, vendor)
    vendor.will(asks_for("no_such_tool"), answer("Done."))
    await turn(talk, "one")
    vendor.will(*[refusal("Bad Request")] * 3)
    events = await turn(talk, "two")
    assert "turn.failed" in kinds_of(events)
    assert len(vendor.asked) == 5
    assert "called the tool no_such_tool" in str(vendor.sent)
    vendor.will(answer("Fine."))
    assert adaptation_in(await turn(talk, "three")) is None


async def test_a_chat_template_that_fails_gets_tools_as_text(api: httpx.AsyncClient, vendor: Vendor) -> None:
    talk, _ = await talk_with(api, vendor)
    vendor.will(asks_for("no_such_tool"), answer("Done."))
    await turn(talk, "one")
    words = "Jinja Exception: Conversation roles must alternate user/assistant/user/assistant/..."
    vendor.will(refusal(words, 500), refusal(words, 500), answer("Two."))
    found = adaptation_in(await turn(talk, "two"))
    assert found is not None
    assert found["changes"] == ["alternating_roles", "tools_as_text"]
    assert [message["role"] for message in vendor.sent["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize("status", [401, 403])
async def test_other_refusals_are_not_answered_with_another_history(
    api: httpx.AsyncClient, vendor: Vendor, status: int
) -> None:
    talk, _ = await talk_with(api, vendor)
    vendor.will(asks_for("no_such_tool"), answer("Done."))
    await turn(talk, "one")
    vendor.will(*[refusal("no", status)] * 9)
    events = await turn(talk, "two")
    assert adaptation_in(events) is None
    assert "called the tool" not in str(vendor.sent)


@pytest.mark.parametrize(("wire", "mark"), [(CHAT, "image_url"), (MESSAGES, "'type': 'image'")])
async def test_the_image_of_a_clients_tool_reaches_the_model_as_an_image(
    api: httpx.AsyncClient, vendor: Vendor, wire: Any, mark: str
) -> None:
    talk, _ = await talk_with(api, vendor, wire, tools=[SCREENSHOT])
    for shape in (
        [{"type": "text", "text": "done"}, PICTURE],
        PICTURE,
        {"content": [{"type": "image", "data": PNG, "mimeType": "image/png"}], "isError": False},
    ):
        vendor.will(Reply(wire.answer(calls=[("c1", "screenshot", ["{}"])])), answer("I see.", wire))
        before = len(await talk.events())
        await talk.say("look")
        asked = await talk.logged_until("tool.call_requested", after=before)
        identity = asked[-1]["data"]["tool_calls"][0]["id"]
        body = {"tool_results": [{"tool_call_id": identity, "result": shape}]}
        assert (await api.post(talk.path("/tool-results"), json=body)).status_code == 200
        await talk.logged_until("session.idled", after=before)
        assert mark in str(vendor.sent["messages"][-1]), shape
        assert text_in((await talk.messages())[-1]) == "I see."
