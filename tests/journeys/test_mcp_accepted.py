"""Definitions of tools that are accepted, and prompts in sessions: in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.app.grants import keep_grant
from perdure.app.mcp_servers import change_server, create_server
from perdure.app.mcp_tools import (
    MAX_TEXT,
    accept_in_session,
    accept_tool,
    list_prompts,
    post_prompt,
    tools_in_session,
)
from perdure.domain.connections import SignInServer
from perdure.domain.errors import Conflict, InvalidInput, ModelError, NotFound, PerdureError, TooLarge
from perdure.domain.events import InputMessageData
from perdure.domain.mcp_servers import CreateMcpServer, InlineMcpServer, UpdateMcpServer
from perdure.domain.mcp_views import AcceptMcpTool, PostMcpPrompt
from perdure.domain.messages import ImagePart, TextPart
from perdure.domain.tools import CapabilityRef
from perdure.net.oauth import place_of
from tests.journeys.mcp_inside import Host, hosting
from tests.mcp_stub import McpStub, tool
from tests.oauth_server import oauth_server
from tests.talk import Json
from tests.unit.test_oauth import INSIDE, signed_in_at

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
KEY = "sk-very-secret-1"


class Shop:
    """A session with a server, which needs a secret of the session."""

    def __init__(self, host: Host, stub: McpStub) -> None:
        self.host, self.stub = host, stub
        self.app, self.owner, self.session = host.app, host.owner, host.session

    async def post(self, name: str = "plan", server: str = "Shop", **arguments: str) -> list[Any]:
        """Post a prompt, and return the parts of the message."""
        body = PostMcpPrompt(server, name, arguments)
        await post_prompt(self.app, self.owner, self.session.id, body)
        found = [event.get(InputMessageData) for event in await self.host.log()]
        return [list(each.message.content) for each in found if each is not None][-1]

    def says(self, *contents: Json, role: str = "user") -> None:
        self.stub.prompts["plan"] = [{"role": role, "content": each} for each in contents]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    text = {"type": "text", "text": "Plan."}
    async with McpStub([tool("buy")], prompts={"plan": [{"role": "user", "content": text}]}) as stub:
        servers = {"Shop": InlineMcpServer(url=stub.url, headers={"X-Key": "{{secret:KEY}}"})}
        async with hosting("", tmp_path, servers=servers, secrets={"KEY": KEY}) as host:
            yield Shop(host, stub)


async def refused(kind: type[PerdureError], code: str, field: str | None, work: Any) -> None:
    with pytest.raises(kind) as failed:
        await work
    assert (failed.value.code, getattr(failed.value, "field", None)) == (code, field)


# --- prompts -------------------------------------------------------------------


async def test_a_prompt_becomes_a_message_with_what_can_be_shown(shop: Shop) -> None:
    shop.says(
        {"type": "text", "text": f"Plan with {KEY}."},
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        {"type": "resource", "resource": {"uri": "a:b", "text": "Two."}},
        {"type": "resource_link", "uri": "a:c", "name": "C"},
        {"type": "video", "data": ""},
        {"type": "text", "text": "\u200b"},
    )
    first, image, resource, link, video = await shop.post(city="Rome")
    assert first.text.startswith("Plan with ")
    assert KEY not in first.text
    assert isinstance(image, ImagePart)
    assert [resource, link, video] == [
        TextPart("[resource a:b]\nTwo."),
        TextPart("[link to the resource a:c]"),
        TextPart("[content of the type 'video': it cannot be shown]"),
    ]
    assert shop.stub.asked[0]["arguments"] == {"city": "Rome"}


async def test_what_the_agent_shall_have_said_is_marked(shop: Shop) -> None:
    shop.says({"type": "text", "text": "I can."}, role="assistant")
    assert await shop.post() == [TextPart("[assistant] I can.")]


async def test_a_prompt_without_content_or_with_too_much_is_refused(shop: Shop) -> None:
    shop.says()
    await refused(InvalidInput, "empty_mcp_prompt", "name", shop.post())
    shop.says({"type": "text", "text": "x" * MAX_TEXT}, {"type": "text", "text": "x"})
    with pytest.raises(TooLarge, match=f"more than {MAX_TEXT} characters"):
        await shop.post()
    with pytest.raises(ModelError, match="no prompt nothing"):
        await shop.post("nothing")
    assert [event.type for event in await shop.host.log()].count("input.message") == 0


async def test_a_server_that_the_session_does_not_have_is_refused(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match="no MCP server 'Mall'; it has: shop") as failed:
        await shop.post(server="Mall")
    assert (failed.value.code, failed.value.field) == ("unknown_mcp_server", "server")
    work = tools_in_session(shop.app, shop.owner, shop.session.id, "Mall")
    await refused(NotFound, "mcp_server_not_found", None, work)


async def test_a_server_whose_secret_is_missing_cannot_be_asked(shop: Shop) -> None:
    servers = {"Shop": InlineMcpServer(url=shop.stub.url, headers={"X-Key": "{{secret:OTHER}}"})}
    shop.session = (await shop.host.with_session(servers=servers)).session
    await refused(InvalidInput, "missing_secret", "server", shop.post())


async def test_a_server_that_is_not_active_is_not_one_of_the_session(shop: Shop) -> None:
    body = CreateMcpServer("Mall", shop.stub.url)
    server = await create_server(shop.app, shop.owner, body)
    host = await shop.host.with_session(refs=(CapabilityRef(f"mcp:{server.id}"),))
    shop.session = host.session
    found = await tools_in_session(shop.app, shop.owner, shop.session.id, str(server.id))
    assert [each.original_name for each in found.data] == ["buy"]
    (prompt,) = await list_prompts(shop.app, shop.owner, server.id)
    assert (prompt.name, prompt.arguments) == ("plan", ())
    await change_server(shop.app, shop.owner, server.id, UpdateMcpServer(status="disabled"))
    with pytest.raises(InvalidInput, match="it has: none"):
        await shop.post(server="Mall")


# --- definitions ---------------------------------------------------------------


async def test_a_tool_is_accepted_as_it_is_now(shop: Shop) -> None:
    async def accept(name: str = "buy", definition: str | None = None) -> str:
        body = AcceptMcpTool(definition)
        found = await accept_in_session(shop.app, shop.owner, shop.session.id, "Shop", name, body)
        assert found.tool_name == name
        return found.definition

    first = await accept()
    assert await accept(definition=first) == first
    await refused(InvalidInput, "unknown_mcp_tool", "tool_name", accept("sell"))
    shop.stub.tools = [tool("buy", "Buys everything.")]
    shop.host.forget_tools()
    await refused(Conflict, "mcp_tool_changed", None, accept(definition=first))
    assert await accept() != first


async def test_a_tool_of_a_registered_server_is_accepted_for_all_sessions(shop: Shop) -> None:
    server = await create_server(shop.app, shop.owner, CreateMcpServer("Mall", shop.stub.url))
    accepted = await accept_tool(shop.app, shop.owner, server.id, "buy", AcceptMcpTool())
    listed = await tools_in_session(shop.app, shop.owner, shop.session.id, "Shop")
    assert accepted.definition == listed.data[0].definition
    assert msgspec.to_builtins(accepted)["tool_name"] == "buy"


async def test_a_server_with_a_sign_in_is_asked_as_the_caller(tmp_path: Path) -> None:
    async with hosting("", tmp_path) as opened, oauth_server() as crm:
        crm.lies.lists_openly, crm.lies.repeats = False, True
        body = CreateMcpServer("crm", crm.mcp, auth_mode="o_auth", acts_as="user")
        server = await create_server(opened.app, opened.owner, body)
        host = await opened.with_session(refs=(CapabilityRef(f"mcp:{server.id}"),))
        work = tools_in_session(host.app, host.owner, host.session.id, "crm")
        with pytest.raises(ModelError):
            await work
        grant, _ = await signed_in_at(crm, await place_of(crm.mcp, INSIDE))
        org, person = host.session_org, host.owner.user_id
        at = SignInServer(server.id, "crm", crm.mcp)
        await host.app.database.write(
            lambda tx: keep_grant(
                host.app, tx, org, person, at, msgspec.structs.replace(grant, expires_at=None), None
            )
        )
        (found,) = (await tools_in_session(host.app, host.owner, host.session.id, "crm")).data
        assert found.original_name == "find"
        assert found.description.startswith("You sent Bearer ")
        assert grant.access_token not in found.description, "the server's echo of it is redacted"
