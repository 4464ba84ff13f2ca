"""The tools with which a model reads the resources of its session's MCP servers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from perdure.app.mcp_attached import Attached, attached, attached_to_session, endpoint_of, redactor_of
from perdure.capabilities.port import READ_ONLY, Later, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.errors import ToolError
from perdure.domain.mcp import McpContent
from perdure.domain.messages import JsonObject
from perdure.domain.tools import CapabilityRef
from perdure.store.database import Tx
from perdure.store.storage import open_secrets
from perdure.tools.mcp.calls import Reach
from perdure.tools.mcp.consent import Authorization, authorization_for, authorized
from perdure.tools.mcp.results import result_of

PAGE = 100
"""Resources that one call lists."""

_SERVER = {
    "type": "string",
    "description": "The server: the part of its tools' names between `mcp_` and `__`.",
}


def resource_tools(reach: Reach) -> list[Tool]:
    """The tools; each server that has resources offers them, and a session has them once."""
    return [
        Tool(
            "mcp_list_resources",
            "List the resources (files, records, pages) that the session's MCP servers offer to be read.",
            schema(
                {
                    "server": {**_SERVER, "description": f"{_SERVER['description']} Default: all."},
                    "offset": {"type": "integer", "minimum": 0, "description": "Resources to skip."},
                }
            ),
            _Lists(reach),
            READ_ONLY,
            "List resources",
        ),
        Tool(
            "mcp_read_resource",
            "Read a resource of an MCP server by its URI.",
            schema({"server": _SERVER, "uri": {"type": "string", "maxLength": 8192}}, "server", "uri"),
            _Reads(reach),
            READ_ONLY,
            "Read a resource",
        ),
    ]


async def _servers(reach: Reach, context: ToolContext) -> tuple[list[Attached], dict[str, str]]:
    """The session's servers that can be used, and its secrets."""
    services, org_id = reach.services, context.org_id

    async def body(tx: Tx) -> tuple[list[Attached], dict[str, str]]:
        refs: list[CapabilityRef] = await attached_to_session(services, tx, org_id, context.session_id)
        found: list[Attached] = []
        for ref in refs:
            try:
                found.append(await attached(services, tx, org_id, ref.ref, ref.config))
            except ToolError:
                continue  # not active: its tools say so
        return found, await open_secrets(tx, services.vault, org_id, context.session_id)

    return await services.database.read(body)


def _named(servers: list[Attached], name: str) -> Attached:
    for server in servers:
        if name in (server.slug, server.name, f"mcp_{server.slug}"):
            return server
    known = ", ".join(server.slug for server in servers) or "none"
    raise ToolError(f"There is no MCP server {name[:100]!r}. There are: {known}.")


class _Reads(Struct, frozen=True):
    reach: Reach

    async def __call__(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
        reach = self.reach
        servers, secrets = await _servers(reach, context)
        server = _named(servers, str(arguments["server"]))
        redactor = redactor_of(server, secrets)
        endpoint = endpoint_of(server, secrets, context.network)
        authorization = await authorization_for(reach.services, context, server.sign_in)
        if isinstance(authorization, Later):
            return authorization

        async def send(used: Authorization) -> McpContent:
            return await reach.hosts.hosts().read_resource(
                used.on(endpoint),
                scope=context.session_id,
                uri=str(arguments["uri"]),
                timeout=server.rules.tool_timeout_ms / 1000,
            )

        found = await authorized(reach.services, context, server.sign_in, authorization, send)
        if isinstance(found, Later):
            return found
        return result_of(McpContent(tuple(redactor.value(found.content)))).outcome()


class _Lists(Struct, frozen=True):
    reach: Reach

    async def __call__(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
        servers, secrets = await _servers(self.reach, context)
        wanted = arguments.get("server")
        chosen = servers if wanted is None else [_named(servers, str(wanted))]
        skipped = int(arguments.get("offset") or 0)
        lists: list[JsonObject] = []
        for server in chosen:
            endpoint = endpoint_of(server, secrets, context.network)
            try:
                authorization = await authorization_for(
                    self.reach.services, context, server.sign_in, may_park=False
                )
                if isinstance(authorization, Later):
                    raise TypeError("a list of resources waits for nobody")
                found = await self.reach.hosts.hosts().list_resources(
                    authorization.on(endpoint),
                    scope=context.session_id,
                    timeout=server.rules.tool_timeout_ms / 1000,
                )
            except ToolError as error:
                if wanted is not None:
                    raise
                lists.append({"server": server.slug, "error": error.message})
                continue
            redact: Callable[[object], object] = redactor_of(server, secrets).value
            page = [redact(msgspec.to_builtins(each)) for each in found[skipped : skipped + PAGE]]
            left = max(len(found) - skipped - PAGE, 0)
            more = {"more": f"{left} more: use offset {skipped + PAGE}"} if left else {}
            lists.append({"server": server.slug, "resources": page, **more})
        return ToolOutcome({"servers": lists})
