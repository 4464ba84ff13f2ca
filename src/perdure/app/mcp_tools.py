"""Definitions of MCP servers' tools that are accepted, and prompts of MCP servers in sessions."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import App
from perdure.app.idempotency import Once
from perdure.app.mcp_attached import Attached, attached, attached_to_session, endpoint_of, redactor_of
from perdure.app.mcp_offers import SECONDS, asked, reached, signed_in
from perdure.app.mcp_servers import forget_tools
from perdure.app.messages import post_message
from perdure.capabilities.resolve import load_layers
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, InvalidInput, TooLarge, ToolError
from perdure.domain.ids import McpServerId, SessionId
from perdure.domain.mcp import McpPromptMessage
from perdure.domain.mcp_definitions import definition_of
from perdure.domain.mcp_views import (
    AcceptedMcpTool,
    AcceptMcpTool,
    McpPromptArgumentInfo,
    McpPromptInfo,
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
from perdure.domain.network import combine
from perdure.domain.redaction import Redactor
from perdure.domain.resources import require_manager
from perdure.domain.visible import without_hidden
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint
from perdure.store.database import Tx
from perdure.store.mcp_pins import accept_pin
from perdure.store.sessions import get_session
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
    endpoint, _ = await reached(app, caller, server_id)
    offer = await asked(app.mcp.hosts().offer(endpoint, timeout=SECONDS))
    tool = next((each for each in offer.tools if each.name == tool_name), None)
    if tool is None:
        raise InvalidInput(
            f"`tool_name`: the server has no tool {tool_name[:100]!r}: use a name from "
            f"GET /v1/mcp-servers/{server_id}/tools (`original_name`)",
            code="unknown_mcp_tool",
            field="tool_name",
        )
    digest, now = definition_of(tool), app.now()
    if body.definition is not None and body.definition != digest:
        raise Conflict(
            f"the tool {tool_name!r} has changed since you read it: list the server's tools again",
            code="mcp_tool_changed",
        )
    await app.database.write(
        lambda tx: accept_pin(tx, caller.organization_id, server_id, tool_name, digest, now)
    )
    forget_tools(app, caller, server_id)
    return AcceptedMcpTool(tool_name, digest)


# --- prompts --------------------------------------------------------------------


async def list_prompts(app: App, caller: Caller, server_id: McpServerId) -> list[McpPromptInfo]:
    """List the prompts that a server offers now. Raises ModelError if it cannot be asked."""
    endpoint, redactor = await reached(app, caller, server_id)
    listing = app.mcp.hosts().list_prompts(endpoint, scope="", timeout=SECONDS)
    found = [
        McpPromptInfo(
            each.name,
            each.description,
            tuple(McpPromptArgumentInfo(arg.name, arg.description, arg.required) for arg in each.arguments),
            each.title,
        )
        for each in await asked(listing)
    ]
    return msgspec.convert(redactor.value(msgspec.to_builtins(found)), list[McpPromptInfo])


class _Prompter(Struct, frozen=True):
    """A server of a session, and how it is reached."""

    server: Attached
    endpoint: McpEndpoint | McpStdioEndpoint
    redactor: Redactor


async def post_prompt(
    app: App, caller: Caller, session_id: SessionId, body: PostMcpPrompt, once: Once | None = None
) -> Message:
    """Get a prompt of one of the session's servers, and post it as a message of the user.

    Raises:
        NotFound: the session does not exist.
        InvalidInput: the session has no such server, or the prompt has no content that a message can have.
        ModelError: the server cannot be asked, or refuses.
    """

    async def work(tx: Tx) -> _Prompter:
        return await _prompter(app, tx, caller, session_id, body.server)

    found = await app.database.read(work)
    if found.server.signs_in and isinstance(found.endpoint, McpEndpoint):
        endpoint, token = await signed_in(app, caller, found.server.sign_in, found.endpoint)
        found = replace(found, endpoint=endpoint)
        found.redactor.learn({f"sign_in_{number}": each for number, each in enumerate(token)})
    messages = await asked(
        app.mcp.hosts().get_prompt(
            found.endpoint, scope=session_id, name=body.name, arguments=body.arguments, timeout=SECONDS
        )
    )
    content = tuple(part for each in messages for part in _parts(each, found.redactor))
    if not content:
        raise InvalidInput(f"the prompt {body.name!r} is empty", code="empty_mcp_prompt", field="name")
    if sum(len(part.text) for part in content if isinstance(part, TextPart)) > MAX_TEXT:
        raise TooLarge(f"the prompt {body.name!r} has more than {MAX_TEXT} characters")
    about: JsonObject = {"mcp_server": found.server.name, "mcp_prompt": body.name}
    return await post_message(
        app, caller, session_id, CreateMessage(InputMessage(content), metadata=about), once
    )


async def _prompter(app: App, tx: Tx, caller: Caller, session_id: SessionId, name: str) -> _Prompter:
    org_id = caller.organization_id
    row = await get_session(tx, org_id, session_id)
    names: list[str] = []
    for ref in await attached_to_session(app, tx, org_id, session_id):
        try:
            server = await attached(app, tx, org_id, ref.ref, ref.config)
        except ToolError:
            continue  # not active
        if name in (server.key, server.slug, server.name):
            layers = (await load_layers(tx, row)).layers
            network = combine(layer.network for layer in layers)
            secrets = await open_secrets(tx, app.vault, org_id, session_id)
            rules = replace(network, private=app.private_addresses)
            try:
                return _Prompter(server, endpoint_of(server, secrets, rules), redactor_of(server, secrets))
            except ToolError as error:
                raise InvalidInput(
                    f"the MCP server {server.name!r} cannot be asked: {error.message}",
                    code="missing_secret",
                    field="server",
                ) from None
        names.append(server.slug)
    raise InvalidInput(
        f"`server`: the session has no MCP server {name[:100]!r}; it has: {', '.join(names) or 'none'}",
        code="unknown_mcp_server",
        field="server",
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
