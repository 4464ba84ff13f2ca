"""What MCP servers offer now: their tools, and checks that say what is wrong with a server."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Iterator, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import App
from perdure.app.mcp_checks import check_urls, is_credential, is_shown
from perdure.app.service_tokens import sign_in_of
from perdure.capabilities.mcp_schemas import adapt
from perdure.domain.accounts import Caller
from perdure.domain.connections import SignInServer, identities_of
from perdure.domain.errors import InvalidInput, ModelError, PerdureError, ToolError
from perdure.domain.ids import McpServerId
from perdure.domain.local_mcp import LocalMcpServer
from perdure.domain.mcp import McpLost, McpOffer, McpRefused, McpTool, McpUnauthorized, McpUnreachable
from perdure.domain.mcp_definitions import definition_of
from perdure.domain.mcp_servers import McpRules, mode_of, tool_name_of
from perdure.domain.mcp_views import CheckCode, McpCheck, McpFault, McpToolHints, McpToolInfo, McpToolList
from perdure.domain.network import NetworkRules
from perdure.domain.redaction import Redactor
from perdure.domain.tool_schemas import SchemaBudget
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint
from perdure.store.database import Tx
from perdure.store.mcp_pins import read_pins
from perdure.store.mcp_servers import McpSecrets, McpServerRow, get_mcp_server, headers_of, open_mcp_secrets

T = TypeVar("T")
F = TypeVar("F", McpToolList, McpCheck)

SECONDS = 20.0
"""How long a server may take to list its tools for a person who waits."""
_NAMED = 5
"""Unknown tools that a note names."""


class Reached(Struct, frozen=True):
    """A server that can be asked.

    Attributes:
        left_out: the headers that need a secret of a session, and are not sent.
        secrets: what is sent, and must not come back.
        signs_in: whether people sign in at it.
    """

    endpoint: McpEndpoint | McpStdioEndpoint
    name: str
    slug: str
    rules: McpRules
    labels: dict[str, str] = {}
    left_out: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    signs_in: bool = False

    @property
    def redactor(self) -> Redactor:
        """Redacts what the server repeats of its credentials."""
        return Redactor({f"mcp_{self.slug}_{number}": text for number, text in enumerate(self.secrets, 1)})

    def without_secrets(self, found: F) -> F:
        """Return what was found without what the server repeats of its credentials."""
        plain = msgspec.to_builtins(found)
        redacted = self.redactor.value(plain)
        return found if redacted is plain else msgspec.convert(redacted, type(found))


def local_endpoint(server: LocalMcpServer) -> McpEndpoint | McpStdioEndpoint:
    """Return how a server of the operator's file is reached. Its URL may be in a private network."""
    policy = server.rules.elicitation_policy
    if server.command is None:
        rules = NetworkRules(private=True)
        return McpEndpoint(server.url or "", tuple(server.headers.items()), rules=rules, elicitation=policy)
    env = tuple(server.env.items())
    return McpStdioEndpoint(server.name, server.command, server.args, env, server.cwd, elicitation=policy)


async def reached(app: App, caller: Caller, server_id: McpServerId) -> Reached:
    """Return how a registered server is reached, without a session. Raises NotFound."""
    local = app.local_mcp.get(server_id)
    if local is not None:
        given = tuple(local.headers.values())
        return Reached(local_endpoint(local), local.name, local.slug, local.rules, secrets=given)

    async def work(tx: Tx) -> tuple[McpServerRow, McpSecrets]:
        row = await get_mcp_server(tx, caller.organization_id, server_id)
        return row, await open_mcp_secrets(app.vault, tx, row)

    row, secrets = await app.database.read(work)
    headers = headers_of(row, secrets)
    if row.auth_mode == "api_key" and secrets.api_key is not None:
        headers["Authorization"] = f"Bearer {secrets.api_key}"
    left_out = tuple(name for name, value in headers.items() if is_shown(value))
    sent = tuple((name, value) for name, value in headers.items() if name not in left_out)
    rules = NetworkRules(private=app.private_addresses)
    offered = row.rules_struct()
    endpoint = McpEndpoint(row.url, sent, row.protocol_mode, rules, offered.elicitation_policy)
    hidden = tuple(filter(None, (secrets.api_key, secrets.client_secret, *secrets.headers.values())))
    signs_in = row.auth_mode == "o_auth"
    if signs_in:
        server = SignInServer(row.id, row.name, row.url, offered.acts_as)
        endpoint, token = await signed_in(app, caller, server, endpoint)
        hidden += token
    return Reached(endpoint, row.name, row.slug, offered, row.label_map(), left_out, hidden, signs_in)


async def signed_in(
    app: App, caller: Caller, server: SignInServer, endpoint: McpEndpoint
) -> tuple[McpEndpoint, tuple[str, ...]]:
    """Return where a server is reached with the caller's sign-in, or the organization's; and its token."""
    identities = identities_of(server.acts_as, caller.user_id)
    try:
        found = await sign_in_of(app, caller.organization_id, identities, server)
    except McpUnreachable:
        found = None  # the server says that it wants a sign-in
    if found is None:
        return endpoint, ()
    identity, token = found[0], found[1].grant.access_token
    kept = tuple(each for each in endpoint.headers if each[0].lower() != "authorization")
    headers = (*kept, ("Authorization", f"Bearer {token}"))
    return replace(endpoint, headers=headers, identity=f"{server.key}/{identity}"), (token,)


async def tools_of_server(app: App, caller: Caller, server_id: McpServerId) -> McpToolList:
    """List the tools that a server offers now. Raises ModelError (502) if it cannot be asked."""
    return await tools_of(app, caller, await reached(app, caller, server_id), server_id)


async def tools_of(app: App, caller: Caller, known: Reached, key: str) -> McpToolList:
    """List the tools that a server offers now.

    Args:
        key: under which its tools are pinned.

    Raises:
        ModelError: the server cannot be asked.
    """
    offer = await asked(app.mcp.hosts().offer(known.endpoint, timeout=SECONDS))
    pins = await app.database.read(lambda tx: read_pins(tx, caller.organization_id, key))
    return await asyncio.to_thread(_tool_list, known, offer, pins)


def _tool_list(known: Reached, offer: McpOffer, pins: Mapping[str, str]) -> McpToolList:
    return known.without_secrets(McpToolList(_infos(known, offer.tools, pins), offer.faults))


async def asked(answer: Awaitable[T]) -> T:
    """Wait for what a server answers. Raises ModelError (502) if it cannot be asked."""
    try:
        return await answer
    except ToolError as error:
        fault = fault_of(error)
        hint = f" {fault.hint}" if fault.hint else ""
        raise ModelError(f"{fault.message}{hint}", code=_CODES.get(type(error), error.code)) from error


_CODES: dict[type[ToolError], str] = {McpLost: "mcp_server_unreachable"}
"""The code of the response where it is not the error's own: nothing is lost when tools are listed."""


def _infos(known: Reached, tools: tuple[McpTool, ...], pins: Mapping[str, str]) -> tuple[McpToolInfo, ...]:
    """The tools with what models get of them. Takes up to a second for large schemas."""
    budget = SchemaBudget()
    return tuple(_info(known, tool, pins, budget) for tool in tools)


def _info(known: Reached, tool: McpTool, pins: Mapping[str, str], budget: SchemaBudget) -> McpToolInfo:
    definition = definition_of(tool)
    return McpToolInfo(
        name=tool_name_of(known.slug, tool.name),
        original_name=tool.name,
        description=tool.description,
        mode=mode_of(known.rules, tool.name, tool.destructive),
        input_schema=tool.input_schema,
        annotations=McpToolHints(tool.readonly, tool.destructive, tool.idempotent, tool.open_world),
        title=tool.title,
        label=known.labels.get(tool.name),
        definition=definition,
        changed=pins.get(tool.name, definition) != definition,
        warnings=adapt(tool.input_schema, budget).notes,
    )


async def check_connection(app: App, caller: Caller, server_id: McpServerId) -> McpCheck:
    """Ask a server for its tools. What is wrong with it is part of the result, not an error."""
    known = await reached(app, caller, server_id)
    notes: tuple[str, ...] = ()
    if known.left_out:
        names = ", ".join(known.left_out)
        notes = (f"the headers {names} stand for secrets of sessions, so the check is made without them",)
    started = time.monotonic()
    try:
        if isinstance(known.endpoint, McpEndpoint):
            await check_urls({"url": known.endpoint.url}, known.endpoint.rules.private)
        offer = await app.mcp.hosts().offer(known.endpoint, timeout=SECONDS)
    except (InvalidInput, ToolError) as error:
        fault = _with_credential(known, fault_of(error))
        return known.without_secrets(McpCheck(False, _millis(started), notes=notes, error=fault))
    notes = (*notes, *_unknown_names(known.rules, offer))
    return known.without_secrets(_checked(offer, _millis(started), notes))


def _with_credential(known: Reached, fault: McpFault) -> McpFault:
    """The fault, with other advice if a credential was sent: then it is that one which is wrong."""
    if fault.code != "sign_in_required":
        return fault
    if known.signs_in:
        return replace(fault, hint=_SIGN_IN)
    sent = known.endpoint.headers if isinstance(known.endpoint, McpEndpoint) else ()
    if any(is_credential(name) for name, _ in sent):
        return replace(fault, hint="The server does not accept the stored credential: set it again.")
    return fault


def _unknown_names(rules: McpRules, offer: McpOffer) -> Iterator[str]:
    """Say which tools the settings name that the server does not have."""
    known = {tool.name for tool in offer.tools} | {"*"}
    named = {
        "allowed_tools": rules.allowed_tools or (),
        "denied_tools": rules.denied_tools,
        "approval": rules.approval,
        "effect_key_argument": rules.effect_key_argument,
    }
    for field, names in named.items():
        unknown = sorted(set(names) - known)
        if unknown:
            some = ", ".join(unknown[:_NAMED]) + (", ..." if len(unknown) > _NAMED else "")
            yield f"`{field}` names tools that the server does not have: {some}"


def _millis(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _checked(offer: McpOffer, millis: int, notes: tuple[str, ...]) -> McpCheck:
    return McpCheck(
        True,
        millis,
        offer.era,
        offer.protocol,
        offer.server_name,
        offer.server_version,
        len(offer.tools),
        offer.faults,
        notes,
    )


# --- what is wrong --------------------------------------------------------------

_SIGN_IN = (
    "Sign in: `perdure mcp sign-in SERVER`, or POST /v1/user/connections/{provider}/sign-in. `acts_as` "
    "must say whose sign-in is used."
)
_HINTS: dict[CheckCode, str | None] = {
    "name_not_found": "Check the spelling of the host in `url`.",
    "address_refused": None,
    "connection_refused": "Is the server running, and is its port the one in `url`?",
    "tls_failed": "Check the certificate, or use http if the server does not speak TLS.",
    "sign_in_required": "Set `api_key`, or a header with the credential, or `auth_mode` to `o_auth`.",
    "access_refused": "The credential is known, but may not do this: use one with more rights.",
    "wrong_path": "Check the path in `url`: it often ends in /mcp.",
    "not_mcp": "Check that `url` is the address of an MCP endpoint with the streamable HTTP transport.",
    "too_slow": "Try again. If it stays slow, look at the server's load and at proxies on the way.",
    "refused": None,
    "not_started": "The operator can correct its entry in the file that PERDURE_MCP_SERVERS names.",
    "unreachable": None,
}
_STATUS = re.compile(r"\bstatus (404|405|410)\b")
_COMMAND = re.compile(r"cannot be started|ended before it answered")
_TIME = re.compile(r"\b(timed? ?out|seconds|too slow)\b", re.IGNORECASE)
_FOREIGN = re.compile(r"cannot be read|\bspeaks? no\b|\bnot speak\b")


def fault_of(error: PerdureError) -> McpFault:
    """Say what is wrong with a server, from the error that asking it raised."""
    code = _code_of(error)
    return McpFault(code, error.message.removeprefix("`url`: "), _HINTS[code])


def _code_of(error: PerdureError) -> CheckCode:
    if isinstance(error, InvalidInput):
        return "address_refused"
    if isinstance(error, McpUnauthorized):
        return "sign_in_required" if error.status == 401 else "access_refused"
    if isinstance(error, McpRefused):
        return "refused"
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return "name_not_found"
        if isinstance(cause, ConnectionRefusedError):
            return "connection_refused"
        if isinstance(cause, ssl.SSLError):
            return "tls_failed"
        if isinstance(cause, TimeoutError):
            return "too_slow"
    return _by_words(error.message)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return
        yield cause
        inner = getattr(cause, "os_error", None)  # what the HTTP client wraps
        if isinstance(inner, BaseException):
            yield inner
        cause = cause.__cause__ or cause.__context__


def _by_words(message: str) -> CheckCode:
    text = message.lower()
    if "not a public host" in text or "private" in text:
        return "address_refused"
    if "certificate" in text or "tls" in text or "ssl" in text:
        return "tls_failed"
    if "refused" in text and "connect" in text:
        return "connection_refused"
    if _COMMAND.search(message):
        return "not_started"
    if _STATUS.search(message):
        return "wrong_path"
    if _FOREIGN.search(message):
        return "not_mcp"
    return "too_slow" if _TIME.search(message) else "unreachable"
