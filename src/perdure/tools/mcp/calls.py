"""Calls of MCP servers' tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.mcp_attached import Attached, at_hand, attached, endpoint_of, redactor_of
from perdure.capabilities.mcp_schemas import original
from perdure.capabilities.port import Later, Tool, ToolContext, ToolOutcome
from perdure.domain.errors import OutcomeUnknown, ToolError
from perdure.domain.ids import OrgId
from perdure.domain.mcp import McpContent, McpInputRequest, McpInputRequired, McpLost, McpRefused, McpTool
from perdure.domain.mcp_servers import mode_of
from perdure.domain.messages import JsonObject
from perdure.domain.trace_context import trace_headers
from perdure.domain.weights import weight_of
from perdure.net.mcp.lazy import LazyHosts
from perdure.store.database import Tx
from perdure.store.storage import open_secrets
from perdure.tools.mcp.consent import (
    Authorization,
    answers_for,
    asks_in_chat,
    authorization_for,
    authorized,
    input_required,
)
from perdure.tools.mcp.results import error_of, result_of

EFFECT_KEY = "io.perdure/effect-key"
"""Where the key of a call's effect is in its `_meta`."""

LARGE = 20_000
"""The weight of an answer above which its result is made in a thread: that may take more than 10 ms."""
_UNKNOWN = frozenset({-32601, -32602})
"""The errors for an unknown tool; servers give the second one for invalid arguments too."""


class Origin(Struct, frozen=True, omit_defaults=True):
    """What a call needs to know of its tool, from the list that was stored when the model was offered it.

    Attributes:
        tool: its name at the server.
        renamed: the names of properties at the server, by those that the model uses.
        headers: arguments, each with the header that repeats it.
    """

    tool: str
    renamed: dict[str, str] = {}
    headers: tuple[tuple[str, str], ...] = ()


class Reach(Struct, frozen=True):
    """How tools reach their servers.

    Attributes:
        changed: is told which server's tools are not what was listed.
        skills: the tools that read skills, for agents without the capability `skills`.
    """

    services: Services
    hosts: LazyHosts
    changed: Changed
    skills: tuple[Tool, ...] = ()

    async def read(
        self, context: ToolContext, capability_id: str, config: Any
    ) -> tuple[Attached, dict[str, str]]:
        """Read a server as it is now, and the session's secrets. Raises ToolError: it cannot be used."""
        services = self.services
        known = at_hand(services, capability_id, config)
        if known is not None and not known.placeholders:
            return known, {}  # no read is needed, which would take as long as a small call

        async def body(tx: Tx) -> tuple[Attached, dict[str, str]]:
            server = await attached(services, tx, context.org_id, capability_id, config)
            if not server.placeholders:
                return server, {}
            return server, await open_secrets(tx, services.vault, context.org_id, context.session_id)

        return await services.database.read(body)


class Changed(Protocol):
    """Takes note that a server's list of tools is out of date."""

    def __call__(self, org_id: OrgId, capability_id: str) -> None: ...


class McpCall(Struct, frozen=True):
    """Runs a tool of a server. Two of the same tool are equal, so that a list that did not change is not new.

    Attributes:
        config: as in `attached`.
    """

    reach: Reach
    capability_id: str
    config: Any
    origin: Origin
    readonly: bool
    destructive: bool | None
    idempotent: bool

    async def __call__(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
        """Make the call; it waits if somebody has to sign in for it, or its server asks a person.

        Raises:
            ToolError: it failed, or was not made.
            McpLost: it was sent, and no answer came.
        """
        reach, name = self.reach, self.origin.tool
        server, secrets = await reach.read(context, self.capability_id, self.config)
        if mode_of(server.rules, name, self.destructive) == "deny":
            raise ToolError(f"the tool {name!r} of the MCP server {server.name!r} is not allowed any more")
        redactor = redactor_of(server, secrets)
        endpoint = endpoint_of(server, secrets, context.network)
        may_park = asks_in_chat(self.config)
        authorization = await authorization_for(reach.services, context, server.sign_in, may_park=may_park)
        if isinstance(authorization, Later):
            return authorization
        arguments = original(arguments, self.origin.renamed)
        meta: JsonObject = {}
        headers: dict[str, str] = {}
        if not self.readonly:
            arguments, headers = _with_key(server, name, arguments, context.effect_key)
            meta[EFFECT_KEY] = context.effect_key
        meta |= trace_headers()
        headers |= trace_headers()
        asks = server.rules.elicitation_policy != "none"
        answers = await answers_for(reach.services, context) if asks else None

        async def send(used: Authorization) -> McpContent | McpInputRequired:
            return await reach.hosts.hosts().call(
                used.on(endpoint),
                scope=context.session_id,
                tool=McpTool(name, header_arguments=self.origin.headers),
                arguments=arguments,
                meta=meta,
                extra_headers=headers,
                timeout=server.rules.tool_timeout_ms / 1000,
                idempotent=self.readonly or self.idempotent,
                progress=lambda line: context.progress(redactor.text(line)),
                answers=answers,
            )

        try:
            answer = await authorized(
                reach.services, context, server.sign_in, authorization, send, may_park=may_park
            )
            if isinstance(answer, McpInputRequired):
                asked = tuple(_question(each, redactor.value) for each in answer.requests)
                answer = replace(answer, requests=asked)
                answer = await input_required(reach.services, context, server.sign_in, answer)
        except McpRefused as refused:
            raise self._refused(context, server, redactor.text(refused.message), refused.rpc_code) from None
        except McpLost as lost:
            raise McpLost(redactor.text(lost.message)) from None
        except OutcomeUnknown:
            raise
        except ToolError as error:
            error.message = redactor.text(error.message)
            raise
        return answer if isinstance(answer, Later) else await outcome_of(answer, redactor.value)

    def _refused(self, context: ToolContext, server: Attached, said: str, code: int) -> ToolError:
        """The error for a call that the server refused."""
        if code not in _UNKNOWN:
            return ToolError(said)
        self.reach.changed(context.org_id, self.capability_id)
        return ToolError(
            f"{said}. The tools of the MCP server {server.name!r} are listed again before you answer: if "
            f"{self.origin.tool!r} is missing or different then, continue with what is there."
        )


def _with_key(
    server: Attached, name: str, arguments: JsonObject, key: str
) -> tuple[JsonObject, dict[str, str]]:
    """The arguments and headers with the key of the call's effect, where the server takes it."""
    argument = key_argument(server, name)
    if argument is not None:
        arguments = {**arguments, argument: key}
    header = server.rules.effect_key_header
    return arguments, {} if header is None else {header: key}


def key_argument(server: Attached, name: str) -> str | None:
    """The argument of a tool that takes the key of a call's effect."""
    given = server.rules.effect_key_argument
    return given.get(name) or given.get("*")


def _question(request: McpInputRequest, redact: Callable[[Any], Any]) -> McpInputRequest:
    """What a server asks, without what it repeats of its credentials: members of the organization read it."""
    message, schema, url = redact([request.message, request.schema, request.url])
    return replace(request, message=message, schema=schema, url=url)


async def outcome_of(answer: McpContent, redact: Callable[[Any], Any]) -> ToolOutcome:
    """The result for the model; a large one is made in a thread, so that no other session waits."""
    parts = (answer.content, answer.structured)
    if weight_of(parts, LARGE) > LARGE:
        return await asyncio.to_thread(_made, answer, redact)
    return _made(answer, redact)


def _made(answer: McpContent, redact: Callable[[Any], Any]) -> ToolOutcome:
    clean = McpContent(redact(answer.content), redact(answer.structured), answer.is_error)
    if clean.is_error:
        raise ToolError(error_of(clean))
    return result_of(clean).outcome()
