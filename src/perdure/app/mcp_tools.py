"""Definitions of MCP servers' tools that are accepted, and prompts of MCP servers in sessions."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import App
from perdure.app.idempotency import Once
from perdure.app.mcp_attached import Attached, attached, attached_to_session, endpoint_of
from perdure.app.mcp_offers import SECONDS, Reached, asked, reached, signed_in, tools_of
from perdure.app.messages import post_message
from perdure.capabilities.layers import read_layers
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, InvalidInput, NotFound, TooLarge, ToolError
from perdure.domain.ids import McpServerId, SessionId
from perdure.domain.mcp import McpPromptMessage
from perdure.domain.mcp_definitions import definition_of
from perdure.domain.mcp_servers import MCP_REF
from perdure.domain.mcp_views import (
    AcceptedMcpTool,
    AcceptMcpTool,
    McpPromptArgumentInfo,
    McpPromptInfo,
    McpToolList,
    PostMcpPrompt,
)
from perdure.domain.messages import (
    CreateMessage,
    ImagePart,
    InputMessage,
    JsonObject,
    Message,
    TextPart,
)
from perdure.domain.network import NetworkRules, combine
from perdure.domain.redaction import Redactor
from perdure.domain.resources import require_manager
from perdure.domain.visible import without_hidden
from perdure.net.mcp.endpoints import McpEndpoint
from perdure.store.database import Tx
from perdure.store.mcp_pins import accept_pin
from perdure.store.sessions import SessionRow, get_session
from perdure.store.storage import open_secrets

MAX_TEXT = 200_000
"""Characters of a prompt's texts."""


async def accept_tool(
    app: App, caller: Caller, server_id: McpServerId, tool_name: str, body: AcceptMcpTool
) -> AcceptedMcpTool:
    """Accept a tool of a server as the server defines it now: its calls ask no more because it has changed.

    Raises:
        InvalidInput: the server has no such tool.
        Conflict: the tool is not defined as the caller has seen it.
        ModelError: the server cannot be asked.
    """
    require_manager(caller, "mcp_server")
    known = await reached(app, caller, server_id)
    return await _accept(app, caller, known, _Place(server_id, f"{MCP_REF}{server_id}"), tool_name, body)


async def tools_in_session(app: App, caller: Caller, session_id: SessionId, server_name: str) -> McpToolList:
    """List the tools that a server of a session offers now, asked with the session's secrets.

    Raises:
        NotFound: the session does not exist, or has no such server.
        InvalidInput: a secret of the server's headers is missing.
        ModelError: the server cannot be asked.
    """
    known, place = await _in_session(app, caller, session_id, server_name)
    return await tools_of(app, caller, known, place.key)


async def accept_in_session(
    app: App, caller: Caller, session_id: SessionId, server_name: str, tool_name: str, body: AcceptMcpTool
) -> AcceptedMcpTool:
    """Accept a tool of a session's server: for an inline one, in all sessions that use the same URL.

    Raises as `accept_tool` and `tools_in_session` do.
    """
    require_manager(caller, "mcp_server")
    known, place = await _in_session(app, caller, session_id, server_name)
    return await _accept(app, caller, known, place, tool_name, body)


class _Place(Struct, frozen=True):
    """Where a server's tools are remembered.

    Attributes:
        key: under which they are pinned.
    """

    key: str
    capability_id: str


async def _accept(
    app: App, caller: Caller, known: Reached, place: _Place, tool_name: str, body: AcceptMcpTool
) -> AcceptedMcpTool:
    offer = await asked(app.mcp.hosts().offer(known.endpoint, timeout=SECONDS))
    tool = next((each for each in offer.tools if each.name == tool_name), None)
    if tool is None:
        raise InvalidInput(
            f"`tool_name`: the server has no tool {tool_name[:100]!r}: use a name (`original_name`) from the "
            "list of its tools",
            code="unknown_mcp_tool",
            field="tool_name",
        )
    digest, now = definition_of(tool), app.now()
    if body.definition is not None and body.definition != digest:
        raise Conflict(
            f"the tool {tool_name!r} has changed since you read it: list the server's tools again",
            code="mcp_tool_changed",
        )
    org_id = caller.organization_id
    await app.database.write(lambda tx: accept_pin(tx, org_id, place.key, tool_name, digest, now))
    app.registry.discoveries.forget(org_id, place.capability_id)
    return AcceptedMcpTool(tool_name, digest)


# --- prompts --------------------------------------------------------------------


async def list_prompts(app: App, caller: Caller, server_id: McpServerId) -> list[McpPromptInfo]:
    """List the prompts that a server offers now. Raises ModelError if it cannot be asked."""
    known = await reached(app, caller, server_id)
    listing = app.mcp.hosts().list_prompts(known.endpoint, scope="", timeout=SECONDS)
    found = [
        McpPromptInfo(
            each.name,
            each.description,
            tuple(McpPromptArgumentInfo(arg.name, arg.description, arg.required) for arg in each.arguments),
            each.title,
        )
        for each in await asked(listing)
    ]
    return msgspec.convert(known.redactor.value(msgspec.to_builtins(found)), list[McpPromptInfo])


async def post_prompt(
    app: App, caller: Caller, session_id: SessionId, body: PostMcpPrompt, once: Once | None = None
) -> Message:
    """Get a prompt of one of the session's servers, and post it as a message of the user.

    Raises:
        NotFound: the session does not exist.
        InvalidInput: the session has no such server, or the prompt has no content that a message can have.
        ModelError: the server cannot be asked, or refuses.
    """
    known, _ = await _in_session(app, caller, session_id, body.server, field="server")
    messages = await asked(
        app.mcp.hosts().get_prompt(
            known.endpoint, scope=session_id, name=body.name, arguments=body.arguments, timeout=SECONDS
        )
    )
    redactor = known.redactor
    content = tuple(part for each in messages for part in _parts(each, redactor))
    if not content:
        raise InvalidInput(f"the prompt {body.name!r} is empty", code="empty_mcp_prompt", field="name")
    if sum(len(part.text) for part in content if isinstance(part, TextPart)) > MAX_TEXT:
        raise TooLarge(f"the prompt {body.name!r} has more than {MAX_TEXT} characters")
    about: JsonObject = {"mcp_server": known.name, "mcp_prompt": body.name}
    return await post_message(
        app, caller, session_id, CreateMessage(InputMessage(content), metadata=about), once
    )


async def _in_session(
    app: App, caller: Caller, session_id: SessionId, name: str, field: str | None = None
) -> tuple[Reached, _Place]:
    """Return how a session reaches one of its servers, with the caller's sign-in if it wants one.

    Args:
        field: the field of the body that names the server; None if the path does.

    Raises:
        NotFound: there is no such session, or the path names none of its servers.
        InvalidInput: the field names none of them, or a secret of its headers is missing.
    """

    async def work(tx: Tx) -> tuple[Attached, dict[str, str], NetworkRules]:
        row = await get_session(tx, caller.organization_id, session_id)
        server = await _named(app, tx, row, name, field)
        network = combine(layer.network for layer in await read_layers(tx, row))
        return server, await open_secrets(tx, app.vault, row.org_id, session_id), network

    server, secrets, network = await app.database.read(work)
    try:
        endpoint = endpoint_of(server, secrets, replace(network, private=app.private_addresses))
    except ToolError as error:
        raise InvalidInput(
            f"the MCP server {server.name!r} cannot be asked: {error.message}",
            code="missing_secret",
            field=field,
        ) from None
    hidden = (*server.sealed, *(secrets[each] for each in server.placeholders if each in secrets))
    if server.signs_in and isinstance(endpoint, McpEndpoint):
        endpoint, token = await signed_in(app, caller, server.sign_in, endpoint)
        hidden += token
    known = Reached(endpoint, server.name, server.slug, server.rules, dict(server.labels), (), hidden)
    return known, _Place(server.key, server.capability_id)


async def _named(app: App, tx: Tx, row: SessionRow, name: str, field: str | None) -> Attached:
    """The session's server with this id, slug or name. Raises NotFound, or InvalidInput about the field."""
    slugs: list[str] = []
    for ref in await attached_to_session(app, tx, row.org_id, row.id):
        try:
            server = await attached(app, tx, row.org_id, ref.ref, ref.config)
        except ToolError:
            continue  # not active
        if name in (server.key, server.slug, server.name):
            return server
        slugs.append(server.slug)
    if field is None:
        raise NotFound("MCP server in this session", code="mcp_server_not_found")
    raise InvalidInput(
        f"`{field}`: the session has no MCP server {name[:100]!r}; it has: {', '.join(slugs) or 'none'}",
        code="unknown_mcp_server",
        field=field,
    )


def _parts(message: McpPromptMessage, redactor: Redactor) -> list[TextPart | ImagePart]:
    """A message of a prompt as parts of the user's message; what the agent shall have said is marked."""
    block = redactor.value(message.content)
    match block:
        case {"type": "image", "data": str(data), "mimeType": str(kind)}:
            return [ImagePart(base64=data, media_type=kind)]
        case {"type": "text", "text": str(text)}:
            said = text
        case {"type": "resource", "resource": {"uri": str(uri), "text": str(text)}}:
            said = f"[resource {uri}]\n{text}"
        case {"type": "resource_link", "uri": str(uri)}:
            said = f"[link to the resource {uri}]"
        case _:
            said = f"[content of the type {block.get('type')!r:.40}: it cannot be shown]"
    said = without_hidden(said)
    return [TextPart(f"[assistant] {said}" if message.role == "assistant" else said)] if said else []
