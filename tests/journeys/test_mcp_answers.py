"""`perdure inputs` and `perdure mcp prompt(s)`: what chat does at a terminal, without one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.command import perdure
from tests.mcp_stub import Call, McpStub, text, tool
from tests.server import Server, use_simulated_model
from tests.talk import Json, call, new_talk, script

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def http(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server on SQLite: the commands know nothing of databases."""
    environment = {"PERDURE_PRIVATE_ADDRESSES": "127.0.0.0/8"}
    async with (
        Server(tmp_path_factory.mktemp("answers"), environment=environment) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        await use_simulated_model(client)
        yield client


FORM: Json = {
    "type": "object",
    "properties": {
        "size": {"enum": ["S", "M"]},
        "count": {"type": "integer", "minimum": 1},
        "gift": {"type": "boolean"},
        "extras": {"type": "array", "items": {"enum": ["milk", "sugar"]}},
    },
    "required": ["size"],
}


class Desk:
    """Asks two questions, a form and a visit, and tells what it was answered."""

    def __init__(self) -> None:
        self.given: Json = {}

    async def __call__(self, made: Call) -> Json:
        given = made.more.get("inputResponses")
        if given is not None:
            self.given = given
            return text("Ordered.")
        form = {"mode": "form", "message": "Which size?", "requestedSchema": FORM}
        visit = {"mode": "url", "message": "Pay.", "url": "https://pay.example.com/1", "elicitationId": "e"}
        asked = {"form": form, "visit": visit}
        return {
            "resultType": "input_required",
            "inputRequests": {
                key: {"method": "elicitation/create", "params": each} for key, each in asked.items()
            },
            "requestState": "s",
        }


async def test_questions_are_listed_answered_and_declined_without_a_terminal(http: httpx.AsyncClient) -> None:
    url, desk = str(http.base_url), Desk()

    async def run(*arguments: str, status: int = 0) -> Any:
        done = await perdure("inputs", *arguments, url=url)
        assert done.status == status, done.out + done.err
        return done.err if status else done.out

    async with McpStub([tool("buy")], answer=desk) as stub:
        talk = await new_talk(
            http, mcpServers={"Desk": {"url": stub.url, "elicitation_policy": "url_and_form"}}
        )
        assert "Nothing asks for input" in await run("list", talk.id)
        assert "nothing asks" in await run("answer", talk.id, status=1)
        await talk.say(script({"tool_calls": [call("mcp_desk__buy")]}, {"text": "Done."}))
        await talk.logged_until("tool.parked")
        shown = await run("list", talk.id)
        assert "Desk asks: Which size?" in shown
        assert "size (S, M)" in shown
        assert "https://pay.example.com/1" in shown
        listed = [json.loads(line) for line in (await run("list", talk.id, "--json")).splitlines()]
        ids = {each["mode"]: each["id"] for each in listed}
        assert "2 questions are open" in await run("answer", talk.id, status=1)
        assert "no question 'input_x'" in await run("answer", talk.id, "input_x", status=1)
        assert "is not NAME=TEXT" in await run("answer", talk.id, ids["form"], "--field", "size", status=2)
        assert "`content.count`" in await run(
            "answer", talk.id, ids["form"], "-f", "size=M", "-f", "count=x", status=1
        )
        assert "has no fields" in await run("answer", talk.id, ids["url"], "-f", "size=M", status=1)
        fields = ("size=M", "count=2", "gift=yes", "extras=milk, sugar")
        options = [part for each in fields for part in ("--field", each)]
        assert ids["form"] in await run("answer", talk.id, ids["form"], *options)
        assert f"declined {ids['url']}" in await run("decline", talk.id)
        await talk.logged_until("session.idled")
    content = {"size": "M", "count": 2, "gift": True, "extras": ["milk", "sugar"]}
    assert desk.given == {"form": {"action": "accept", "content": content}, "visit": {"action": "decline"}}


async def test_prompts_are_listed_and_posted_by_the_command(http: httpx.AsyncClient) -> None:
    url = str(http.base_url)
    said = [{"role": "user", "content": {"type": "text", "text": "Plan a trip."}}]
    async with McpStub([tool("buy")], prompts={"plan": said}) as stub:
        done = await perdure("mcp", "add", "Trips", stub.url, "--json", url=url)
        server = json.loads(done.out)
        done = await perdure("mcp", "prompts", "Trips", url=url)
        assert "plan" in done.out, done.err
        talk = await new_talk(http, capabilities=[{"ref": f"mcp:{server['id']}"}])
        done = await perdure("mcp", "prompt", talk.id, "Trips", "plan", "-a", "city=Rome", url=url)
        assert done.status == 0, done.err
        await talk.logged_until("session.idled")
        assert "Plan a trip." in str(await talk.events())
        assert stub.asked[-1]["arguments"] == {"city": "Rome"}
        done = await perdure("mcp", "prompt", talk.id, "Trips", "gone", url=url)
        assert done.status == 1


async def test_the_commands_show_and_accept_tools_of_a_sessions_own_server(
    http: httpx.AsyncClient,
) -> None:
    url = str(http.base_url)
    async with McpStub([tool("buy", "Buys.")]) as stub:
        talk = await new_talk(http, mcpServers={"Desk": {"url": stub.url}})
        await talk.say(script({"text": "Hi."}))
        await talk.logged_until("session.idled")
        for changed in (False, True):
            if changed:
                stub.tools = [tool("buy", "Buys all.")]
            done = await perdure("mcp", "tools", "Desk", "--session", talk.id, url=url)
            assert ("ask (changed)" in done.out) == changed, done.out + done.err
            done = await perdure("mcp", "accept", "Desk", "buy", "--session", talk.id, url=url)
            assert ("accepted buy" if changed else "nothing to accept") in done.out, done.err
        assert "auto" in (await perdure("mcp", "tools", "Desk", "--session", talk.id, url=url)).out
