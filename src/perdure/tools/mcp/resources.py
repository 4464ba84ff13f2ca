"""The tools with which a model reads the resources of its session's MCP servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from perdure.app.mcp_attached import Attached, attached, attached_to_session, endpoint_of, redactor_of
from perdure.capabilities.port import READ_ONLY, Later, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.errors import ToolError
from perdure.domain.mcp import McpContent
from perdure.domain.messages import JsonObject
from perdure.domain.tools import CapabilityRef, ToolHints
from perdure.store.database import Tx
from perdure.store.storage import open_secrets
from perdure.tools.mcp.calls import Reach, outcome_of
from perdure.tools.mcp.consent import Authorization, authorization_for, authorized

PAGE = 100
"""Resources of one server that one call lists."""
LIST_TIMEOUT = 20.0
"""Seconds for each list when those of all servers are listed: one that hangs does not hide the others."""

_SERVER = {
    "type": "string",
    "description": "The server: the part of its tools' names between `mcp_` and `__`, or its name.",
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
            ToolHints(readonly=True, idempotent=True, open_world=False),
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


async def servers_of(reach: Reach, context: ToolContext) -> tuple[list[Attached], dict[str, str]]:
    """The session's servers that can be used, and its secrets."""
    services, org_id = reach.services, context.org_id

    async def body(tx: Tx) -> tuple[list[Attached], dict[str, str]]:
        refs: list[CapabilityRef] = await attached_to_session(
            services, tx, org_id, context.session_id, context.agent
        )
        found: list[Attached] = []
        for ref in refs:
            try:
                found.append(await attached(services, tx, org_id, ref.ref, ref.config))
            except ToolError:
                continue  # not active: its tools say so
        return found, await open_secrets(tx, services.vault, org_id, context.session_id)

    return await services.database.read(body)


def labels_of(servers: Sequence[Attached]) -> list[str]:
    """What the model calls each server: its slug, or what tells servers of the same slug apart."""
    labels = [server.slug for server in servers]
    for others in ([server.name for server in servers], [server.capability_id for server in servers]):
        counted = Counter(labels)
        labels = [
            label if counted[label] == 1 else other for label, other in zip(labels, others, strict=True)
        ]
    return labels


def _named(servers: list[Attached], name: str) -> Attached:
    """The server that the model means. Raises ToolError: there is none, or more than one."""
    labels = labels_of(servers)
    if name in labels:
        return servers[labels.index(name)]
    found = [each for each in servers if name in (each.name, each.slug, f"mcp_{each.slug}")]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} MCP servers are called" if found else "There is no MCP server"
    raise ToolError(f"{problem} {name[:100]!r}. There are: {', '.join(labels) or 'none'}.")


class _Reads(Struct, frozen=True):
    reach: Reach

    async def __call__(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
        reach = self.reach
        servers, secrets = await servers_of(reach, context)
        server = _named(servers, str(arguments["server"]))
        context.provided_by(server.capability_id, server.name)
        context.heard_from(f"the MCP server {server.name}")
        redactor = redactor_of(server, secrets)
        found = await read_resource(reach, context, server, secrets, str(arguments["uri"]))
        if isinstance(found, Later):
            return found
        return await outcome_of(found, redactor.value)


async def read_resource(
    reach: Reach, context: ToolContext, server: Attached, secrets: dict[str, str], uri: str
) -> McpContent | Later:
    """Read a resource of a server, or have the call wait until somebody has signed in there.

    Args:
        secrets: the session's.

    Raises:
        ToolError: it needs a sign-in that nobody can give for this call.
    """
    endpoint = endpoint_of(server, secrets, context.network)
    authorization = await authorization_for(reach.services, context, server.sign_in)
    if isinstance(authorization, Later):
        return authorization

    async def send(used: Authorization) -> McpContent:
        return await reach.hosts.hosts().read_resource(
            used.on(endpoint),
            scope=context.session_id,
            uri=uri,
            timeout=server.rules.tool_timeout_ms / 1000,
        )

    return await authorized(reach.services, context, server.sign_in, authorization, send)


class _Lists(Struct, frozen=True):
    reach: Reach

    async def __call__(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
        servers, secrets = await servers_of(self.reach, context)
        skipped, wanted = int(arguments.get("offset") or 0), arguments.get("server")
        if wanted is not None:
            server = _named(servers, str(wanted))
            context.provided_by(server.capability_id, server.name)
            context.heard_from(f"the MCP server {server.name}")
            label = labels_of(servers)[servers.index(server)]
            timeout = server.rules.tool_timeout_ms / 1000
            return ToolOutcome(
                {"servers": [await self._list(context, server, secrets, label, skipped, timeout)]}
            )

        async def one(server: Attached, label: str) -> JsonObject:
            timeout = min(server.rules.tool_timeout_ms / 1000, LIST_TIMEOUT)
            try:
                return await self._list(context, server, secrets, label, skipped, timeout)
            except ToolError as error:
                return {"server": label, "error": error.message}

        lists = await asyncio.gather(*map(one, servers, labels_of(servers)))
        return ToolOutcome({"servers": list(lists)})

    async def _list(
        self,
        context: ToolContext,
        server: Attached,
        secrets: dict[str, str],
        label: str,
        skipped: int,
        timeout: float,
    ) -> JsonObject:
        """A page of a server's resources. Raises ToolError: they cannot be listed."""
        endpoint = endpoint_of(server, secrets, context.network)
        authorization = await authorization_for(self.reach.services, context, server.sign_in, may_park=False)
        if isinstance(authorization, Later):
            raise TypeError("a list of resources waits for nobody")
        found = await self.reach.hosts.hosts().list_resources(
            authorization.on(endpoint), scope=context.session_id, timeout=timeout
        )
        redact: Callable[[object], object] = redactor_of(server, secrets).value
        page = [redact(msgspec.to_builtins(each)) for each in found[skipped : skipped + PAGE]]
        left = max(len(found) - skipped - PAGE, 0)
        more = {"more": f"{left} more: use offset {skipped + PAGE}"} if left else {}
        return {"server": label, "resources": page, **more}
