"""Consent: calls of MCP servers that wait until somebody signs in, or answers what the server asks.

A call that waits is parked, without a job or a coroutine; it has had no effect. When it has what it waited
for, it is made again, with the same key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.grants import Held
from perdure.app.service_tokens import sign_in_of
from perdure.capabilities.port import DiscoveryContext, Later, ToolContext
from perdure.domain.background import LATER
from perdure.domain.connections import SERVICE, SignInServer, identities_of
from perdure.domain.errors import ToolError
from perdure.domain.ids import InputRequestId, OrgId, UserId
from perdure.domain.input_requests import (
    MAX_ASKED,
    MAX_REQUESTS,
    WAIT,
    ActedAs,
    StoredInput,
    check_form,
    check_visited,
)
from perdure.domain.mcp import (
    McpAnswers,
    McpInputRequest,
    McpInputRequired,
    McpUnauthorized,
)
from perdure.domain.oauth import parse_challenge, words
from perdure.domain.times import Micros
from perdure.domain.visible import without_hidden
from perdure.net.mcp.endpoints import McpEndpoint, McpStdioEndpoint
from perdure.store.connections import find_connection
from perdure.store.database import Tx
from perdure.store.input_requests import (
    InputRequestRow,
    add_input_request,
    open_input,
    remove_requests_of_call,
    requests_of_call,
    seal_input,
)
from perdure.store.sessions import get_session

T = TypeVar("T")

MAX_ROUNDS = 10
"""How often in a row a call may ask."""
MAX_STATE = 64 * 1024
"""Characters of the state that a server gets back with the answers."""


class Authorization(Struct, frozen=True):
    """Under whose identity a call is made.

    Attributes:
        token: the access token; empty if nobody's sign-in is used.
        identity: what stays the same when the token changes: the server's key and the identity.
        acted_as: as the log says it.
        version: of the tokens, as `Held` has it.
        renewed: whether the token was refreshed because the server refused the one before.
        signed_in: the identity's name in the database; empty for none.
        scope: what was granted.
        signed_in_at: when that was.
    """

    token: str = ""
    identity: str = ""
    acted_as: ActedAs | None = None
    version: int | None = None
    renewed: bool = False
    signed_in: str = ""
    scope: tuple[str, ...] = ()
    signed_in_at: Micros = 0

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers to send."""
        return (("Authorization", f"Bearer {self.token}"),) if self.token else ()

    def on(self, endpoint: McpEndpoint | McpStdioEndpoint) -> McpEndpoint | McpStdioEndpoint:
        """Return where the server is reached, with these headers."""
        if isinstance(endpoint, McpStdioEndpoint) or not self.token:
            return endpoint
        kept = tuple(each for each in endpoint.headers if each[0].lower() != "authorization")
        return replace(endpoint, headers=(*kept, *self.headers), identity=self.identity)


async def authorization_for(
    services: Services, context: ToolContext, server: SignInServer, *, may_park: bool = True
) -> Authorization | Later:
    """Return what a call is authorized by, refreshed if it ends soon; or how the call waits for a sign-in.

    Args:
        may_park: whether the session's owner is asked in the session.

    Raises:
        ToolError: nobody has signed in, and nobody may be asked.
        McpUnreachable: the sign-in cannot be renewed now.
    """
    if server.acts_as == "none":
        return Authorization()
    found = await _authorization(services, context.org_id, await _owner(services, context), server)
    if found is None:
        return await _park_sign_in(services, context, server, "", may_park=may_park)
    _use(context, found)
    return found


async def authorization_of_discovery(
    services: Services, context: DiscoveryContext, server: SignInServer
) -> Authorization:
    """Return what the listing of a server's tools is authorized by. Many servers list them to everybody."""
    found = await _authorization(services, context.org_id, context.owner_id, server)
    return found or Authorization()


def asks_in_chat(config: object) -> bool:
    """Whether an attachment lets calls wait for a sign-in."""
    return not isinstance(config, dict) or config.get("connect_in_chat") != "never"


async def authorized(
    services: Services,
    context: ToolContext,
    server: SignInServer,
    used: Authorization,
    send: Callable[[Authorization], Awaitable[T]],
    *,
    may_park: bool = True,
) -> T | Later:
    """Send a call; if the server refuses the sign-in, once more with a new token, or park it.

    Raises as `send` and `after_challenge` do.
    """
    while True:
        try:
            return await send(used)
        except McpUnauthorized as error:
            then = await after_challenge(services, context, server, error, used, may_park=may_park)
        if isinstance(then, Later):
            return then
        used = then


async def after_challenge(
    services: Services,
    context: ToolContext,
    server: SignInServer,
    error: McpUnauthorized,
    used: Authorization,
    *,
    may_park: bool = True,
) -> Authorization | Later:
    """Return what the call is authorized by after the server refused it; or how it waits for a sign-in.

    A refused token is refreshed once. A server that wants more scopes gets them by a new sign-in only.

    Raises:
        ToolError: nobody can sign in for this call.
    """
    challenge = parse_challenge(error.challenge)
    more = error.status == 403 and challenge.error == "insufficient_scope"
    if server.acts_as == "none":
        raise ToolError(
            f"{error.message}. Calls use nobody's sign-in: set `acts_as` of the MCP server {server.name!r}."
        )
    if error.status == 403 and not more:
        raise error
    if more and not set(words(challenge.scope)) - set(used.scope):
        raise error  # it has them all: a sign-in would ask for the same again, and again
    if not more and used.version is not None and not used.renewed:
        owner = await _owner(services, context)
        fresh = await _authorization(services, context.org_id, owner, server, used)
        if fresh is not None:
            _use(context, fresh)
            return fresh
    given = used if more else replace(used, scope=())
    return await _park_sign_in(services, context, server, error.challenge, used=given, may_park=may_park)


def _use(context: ToolContext, found: Authorization) -> None:
    """Note whose sign-in is used, and keep the token out of the log, whatever the server answers."""
    if found.acted_as is not None:
        context.redactor.learn({f"sign-in at {found.identity}": found.token})
        context.act_as(found.acted_as)


async def _owner(services: Services, context: ToolContext) -> UserId:
    row = await services.database.read(lambda tx: get_session(tx, context.org_id, context.session_id))
    return row.owner_id


async def _authorization(
    services: Services,
    org_id: OrgId,
    owner: UserId,
    server: SignInServer,
    refused: Authorization | None = None,
) -> Authorization | None:
    identities = identities_of(server.acts_as, owner)
    if not identities:
        return Authorization()
    if refused is not None:
        identities = (refused.signed_in,)
    stale = None if refused is None else refused.version
    found = await sign_in_of(services, org_id, identities, server, stale)
    return None if found is None else _authorized(server, *found, renewed=refused is not None)


def _authorized(server: SignInServer, identity: str, held: Held, *, renewed: bool) -> Authorization:
    acted = ActedAs("service") if identity == SERVICE else ActedAs("user", UserId(identity))
    return Authorization(
        held.grant.access_token,
        f"{server.key}/{identity}",
        acted,
        held.version,
        renewed,
        identity,
        held.grant.scope,
        held.signed_in_at,
    )


async def _park_sign_in(
    services: Services,
    context: ToolContext,
    server: SignInServer,
    header: str,
    *,
    used: Authorization | None = None,
    may_park: bool = True,
) -> Later:
    """Store that a call needs a sign-in: another one than `used`, whose scopes are asked for again."""
    owner = await _owner(services, context)
    identity = (used.signed_in if used else "") or identities_of(server.acts_as, owner)[0]
    held = used.scope if used else ()
    whose = "the organization's admin" if identity == SERVICE else "the session's owner"
    if not may_park:
        raise ToolError(
            f"Nobody has signed in at the MCP server {server.name!r}. Ask the user to have {whose} sign in "
            "(`perdure mcp sign-in`), and then try again."
        )
    challenge = parse_challenge(header)
    stored = StoredInput(
        server.name,
        server.url,
        "sign_in",
        f"{server.name} needs a sign-in by {whose}.",
        resource_metadata=challenge.resource_metadata,
        scopes=words(" ".join((*held, *words(challenge.scope)))),
    )
    known_at = used.signed_in_at if used else 0
    return await _park(services, context, identity, server.key, [stored], known_at)


async def input_required(
    services: Services,
    context: ToolContext,
    server: SignInServer,
    required: McpInputRequired,
) -> Later:
    """Return how a call waits until a person has answered what its server asks.

    Raises:
        ToolError: the questions cannot be shown, or there are too many of them.
    """
    if len(required.requests) > MAX_REQUESTS:
        raise ToolError(f"The server asks more than {MAX_REQUESTS} questions at a time.")
    if required.state is not None and len(required.state) > MAX_STATE:
        raise ToolError(f"The server's state has more than {MAX_STATE} characters.")
    earlier = await _round(services, context)
    if earlier >= MAX_ROUNDS:
        raise ToolError(f"The server has asked {MAX_ROUNDS} times in a row, and still does not answer.")
    asked = [_asked(server, each, required.state, earlier + 1) for each in required.requests]
    return await _park(services, context, "", server.key, asked)


def _asked(server: SignInServer, request: McpInputRequest, state: str | None, number: int) -> StoredInput:
    form = request.mode == "form"
    return StoredInput(
        server.name,
        server.url,
        request.mode,
        without_hidden(request.message)[:MAX_ASKED],
        check_form(request.schema) if form else None,
        None if form else check_visited(request.url),
        request.key,
        state,
        again=not form and state is None,
        round=number,
    )


async def answers_for(services: Services, context: ToolContext) -> McpAnswers | None:
    """Return what people answered to a call that asked, for when it is made again; None for a first time."""

    async def body(tx: Tx) -> McpAnswers | None:
        rows = await requests_of_call(tx, context.session_id, context.exec_id, context.tool_call_id)
        given = [await open_input(services.vault, tx, row) for row in rows if row.status == "answered"]
        asked = [each for each in given if each.mode != "sign_in"]
        if not asked:
            return None
        return McpAnswers({each.key: each.answer for each in asked}, asked[0].state)

    return await services.database.read(body)


async def _round(services: Services, context: ToolContext) -> int:
    """How often in a row the call has asked."""

    async def body(tx: Tx) -> int:
        rows = await requests_of_call(tx, context.session_id, context.exec_id, context.tool_call_id)
        stored = [await open_input(services.vault, tx, row) for row in rows if row.kind == "input"]
        return max((each.round for each in stored), default=0)

    return await services.database.read(body)


async def _park(
    services: Services,
    context: ToolContext,
    identity: str,
    server_key: str,
    asked: list[StoredInput],
    known_at: Micros = 0,
) -> Later:
    """Store what a call asks for, in place of what it asked before; return how it is parked.

    Args:
        known_at: when the sign-in was made that does not suffice; 0 without one.

    Raises:
        ToolError: the turn has ended, or the call runs in the background.
    """
    if context.in_background:
        raise ToolError(LATER)
    now = services.now()
    kind: Literal["sign_in", "input"] = "sign_in" if asked[0].mode == "sign_in" else "input"
    asked = [replace(each, message=context.redactor.text(each.message)) for each in asked]
    ids = [InputRequestId(services.new_id("input")) for _ in asked]

    async def work(tx: Tx) -> None:
        session = await get_session(tx, context.org_id, context.session_id, lock=True)
        if session.turn_id != context.turn_id:
            raise ToolError("the call has ended: it cannot ask anything")
        call = (context.session_id, context.exec_id, context.tool_call_id)
        known = known_at
        if kind == "input":
            await remove_requests_of_call(tx, *call)
        else:
            found = await find_connection(tx, context.org_id, identity, server_key)
            if found is not None and found.url != asked[0].server_url:
                known = found.signed_in_at  # it is for another URL, and so of no use
        for request_id, stored in zip(ids, asked, strict=True):
            sealed = await seal_input(services.vault, tx, context.org_id, request_id, stored)
            row = InputRequestRow(
                request_id,
                context.org_id,
                context.session_id,
                context.turn_id,
                context.exec_id,
                context.tool_call_id,
                context.tool_name,
                kind,
                identity,
                server_key,
                "open",
                sealed,
                known,
                now,
                now + WAIT,
            )
            await add_input_request(tx, row)

    await services.database.write(work)
    requests = tuple(each.asked(id_, services.public.url) for id_, each in zip(ids, asked, strict=True))
    return Later(kind, now + WAIT, requests[0].message or None, requests)
