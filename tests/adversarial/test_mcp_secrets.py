"""An MCP server that repeats the credentials it got, in every place and form: nobody reads them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from perdure.app.input_requests import list_input_requests
from perdure.app.mcp_servers import create_server
from perdure.app.mcp_tools import list_prompts
from perdure.domain.errors import ModelError, ToolError
from perdure.domain.ids import McpServerId
from perdure.domain.mcp_servers import CreateMcpServer
from perdure.domain.tools import CapabilityRef
from tests.journeys.mcp_inside import Host, hosting
from tests.mcp_scripts import Json, Scripted, Step, Talk, event, replies, text
from tests.mcp_stub import Call, McpStub, tool
from tests.talk import call
from tests.unit.fake_server import Reply, Request

KEY = 'sk-"of"+the/server_0123456789'
PART = KEY[:12]
FORMS = {
    "plain": KEY,
    "JSON in JSON": json.dumps(json.dumps(KEY)),
    "unicode escapes": "".join(f"\\u{ord(each):04x}" for each in KEY),
    "percent": quote(KEY, safe=""),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "split by a hidden character": f"{KEY[:9]}\u200b{KEY[9:]}",
    "cut": "x" * (500 - len(PART)) + KEY,
    "cut before hidden characters": "x" * 400 + "\u200b" * (600 - len(PART)) + KEY,
    "far away": "x" * 1_990 + KEY,
}


def shows(said: str) -> bool:
    """Whether a text has the key, or the beginning of it, in some form."""
    plain = json.dumps(said) + said
    return any(form[:12] in plain for form in (KEY, FORMS["percent"], FORMS["base64"], json.dumps(KEY)[1:]))


def fails(said: str) -> Step:
    return replies(200, (-32000, said))


@pytest.mark.parametrize("form", [name for name in FORMS if name != "unicode escapes"])
@pytest.mark.parametrize("where", ["rpc", "http", "type"])
async def test_an_error_has_no_part_of_a_header(where: str, form: str) -> None:
    async def typed(_: Request, reply: Reply, __: Json) -> None:
        safe = FORMS[form].encode("ascii", "ignore").decode()
        await reply.start(200, safe, content_length="2")
        await reply.send(b"{}")

    step = {"rpc": fails(FORMS[form]), "http": replies(500, (-1, FORMS[form])), "type": typed}[where]
    async with (
        Scripted(tools__call=step) as server,
        Talk.to(server.url, headers=(("Authorization", f"Bearer {KEY}"),)) as talk,
    ):
        with pytest.raises(ToolError) as failed:
            await talk.call()
        assert not shows(failed.value.message), failed.value.message


async def _registered(host: Host, url: str, **more: Any) -> CapabilityRef:
    body = CreateMcpServer(name="Shop", url=url, api_key=KEY, **more)
    return CapabilityRef(f"mcp:{(await create_server(host.app, host.owner, body)).id}")


@pytest.mark.parametrize("size", [1, 7])
async def test_a_key_that_arrives_in_pieces_is_blanked_in_results_progress_and_errors(
    size: int, database_url: str, tmp_path: Path
) -> None:
    """In pieces of the stream, and as escapes of JSON: both are gone when the message is read."""

    async def in_pieces(reply: Reply, *frames: str) -> None:
        await reply.start(200, "text/event-stream")
        raw = "".join(f"{each}\n\n" for each in frames)
        for form in ("plain", "unicode escapes"):
            raw = raw.replace(f"<{form}>", FORMS[form] if form != "plain" else json.dumps(KEY)[1:-1])
        for start in range(0, len(raw), size):
            await reply.send(raw[start : start + size].encode())

    async def answer(_: Request, reply: Reply, message: Json) -> None:
        token = message["params"]["_meta"].get("progressToken")
        told = {"progressToken": token, "progress": 1, "message": "I have <unicode escapes>"}
        progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": told}
        said = text(message, "plain <plain>, escaped <unicode escapes>")
        said["result"]["structuredContent"] = {"<plain>": ["<unicode escapes>"]}
        await in_pieces(reply, event(progress), event(said))

    steps: tuple[Json, ...] = ({"tool_calls": [call("mcp_shop__act")]}, {"text": "Done."})
    async with Scripted(tools__call=answer) as server, hosting(database_url, tmp_path, *steps) as host:
        there = await host.with_session(refs=(await _registered(host, server.url),))
        await there.ask()
        (said,) = await there.said()
        assert said.count("[secret") >= 2, said
        log = json.dumps([str(each) for each in await there.log()])
        assert not shows(log)
        assert not shows(str(there.driver.requests))


async def test_a_question_does_not_repeat_the_servers_key(database_url: str, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": f"Not {KEY}"}}}
    asked = {"mode": "form", "message": f"Is it {KEY}?", "requestedSchema": schema}

    async def asks(made: Call) -> Json:
        requests = {"q": {"method": "elicitation/create", "params": asked}}
        return {"resultType": "input_required", "inputRequests": requests, "requestState": "s"}

    steps: tuple[Json, ...] = ({"tool_calls": [call("mcp_shop__buy")]}, {"text": "Done."})
    async with (
        McpStub([tool("buy")], answer=asks) as stub,
        hosting(database_url, tmp_path, *steps) as host,
    ):
        ref = await _registered(host, stub.url, elicitation_policy="url_and_form")
        there = await host.with_session(refs=(ref,))
        await there.ask()
        (question,) = await list_input_requests(there.app, there.owner, there.session.id)
        assert question.message.startswith("Is it [secret")
        assert not shows(str(question))
        assert not shows(str(await there.log()))


async def test_prompts_and_their_errors_do_not_repeat_the_servers_key(
    database_url: str, tmp_path: Path
) -> None:
    async with (
        McpStub([tool("buy")], prompts={f"about {KEY}": []}) as stub,
        hosting(database_url, tmp_path) as host,
    ):
        ref = await _registered(host, stub.url)
        server_id = McpServerId(ref.ref.removeprefix("mcp:"))
        assert not shows(str(await list_prompts(host.app, host.owner, server_id)))
        stub.refuses = {"prompts/list": f"no prompts for {KEY}"}
        with pytest.raises(ModelError) as failed:
            await list_prompts(host.app, host.owner, server_id)
        assert not shows(failed.value.message)
