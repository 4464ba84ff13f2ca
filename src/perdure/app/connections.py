"""The sign-ins of a user, or of an organization's service: list, begin and remove them."""

from __future__ import annotations

from typing import Literal

from perdure.app.accounts import own_organization
from perdure.app.context import App
from perdure.app.grants import open_grant, revoke_quietly
from perdure.app.input_requests import is_waited_for
from perdure.app.sign_ins import Wanted, check_url, prepare, wanted_by
from perdure.domain.accounts import Caller, require
from perdure.domain.connections import (
    INLINE,
    SERVICE,
    SIGN_IN_SECONDS,
    Connection,
    Identity,
    SignInLink,
    SignInProvider,
    SignInServer,
)
from perdure.domain.errors import Conflict, NotFound
from perdure.domain.ids import McpServerId, OrgId
from perdure.domain.input_requests import sign_in_page
from perdure.domain.oauth import Grant
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.store.connections import (
    ConnectionRow,
    find_connection,
    list_connections,
    remove_connection,
)
from perdure.store.database import Tx
from perdure.store.input_requests import open_input, sign_ins_asked
from perdure.store.mcp_servers import get_mcp_server, list_mcp_servers
from perdure.store.sessions import look_session


def own_identity(caller: Caller) -> Identity:
    """The caller's own sign-ins."""
    return Identity(caller.organization_id, caller.user_id)


async def service_identity(app: App, caller: Caller, org_id: OrgId) -> Identity:
    """The organization's own sign-ins. Raises NotFound, Forbidden: the caller is no member, or no admin."""
    _, role = await app.database.read(lambda tx: own_organization(tx, caller, org_id))
    require(Caller(org_id, caller.user_id, role), "admin")
    return Identity(org_id, SERVICE)


async def connections_of(app: App, identity: Identity) -> list[Connection]:
    """List the sign-ins of an identity: first those that calls wait for, then those that are stored."""
    now = app.now()

    async def work(tx: Tx) -> list[Connection]:
        stored = await list_connections(tx, identity.org_id, identity.identity)
        pending = await _pending(app, tx, identity, now)
        return [*pending, *(_to_connection(row) for row in stored)]

    return await app.database.read(work)


async def _pending(app: App, tx: Tx, identity: Identity, now: Micros) -> list[Connection]:
    found: dict[str, Connection] = {}
    there = {row.id for row in await list_mcp_servers(tx, identity.org_id)}
    for row in await sign_ins_asked(tx, identity.org_id, identity.identity, now):
        session = await look_session(tx, row.session_id)
        known = row.server_key.startswith(INLINE) or row.server_key in there
        if session is None or not known or not is_waited_for(session, row):
            continue
        stored, before = await open_input(app.vault, tx, row), found.get(row.server_key)
        sessions = (row.session_id,) if before is None else (*before.session_ids, row.session_id)
        found[row.server_key] = Connection(
            row.server_key,
            stored.server,
            stored.server_url,
            _kind(identity.identity),
            "pending",
            to_rfc3339(row.created_at) if before is None else before.created_at,
            expires_at=to_rfc3339(row.deadline),
            sign_in_url=sign_in_page(app.public.url, row.id),
            session_ids=tuple(dict.fromkeys(sessions)),
        )
    return list(found.values())


def _kind(identity: str) -> Literal["user", "service"]:
    return "service" if identity == SERVICE else "user"


def _to_connection(row: ConnectionRow) -> Connection:
    return Connection(
        row.server_key,
        row.server_name,
        row.url,
        _kind(row.identity),
        "connected",
        to_rfc3339(row.created_at),
        tuple(row.scope.split()),
        to_rfc3339(row.signed_in_at),
        maybe_rfc3339(row.expires_at),
    )


async def list_providers(app: App, caller: Caller, search: str | None = None) -> list[SignInProvider]:
    """List the organization's servers at which people sign in."""
    identity = own_identity(caller)

    async def work(tx: Tx) -> list[SignInProvider]:
        rows = await list_mcp_servers(tx, identity.org_id, search)
        stored = {
            row.server_key: row.url for row in await list_connections(tx, identity.org_id, identity.identity)
        }
        return [
            SignInProvider(
                row.id, row.name, row.url, row.rules_struct().acts_as, stored.get(row.id) == row.url
            )
            for row in rows
            if row.auth_mode == "o_auth" and row.status == "active"
        ]

    return await app.database.read(work)


async def remove(app: App, identity: Identity, provider: str) -> None:
    """Remove a sign-in, and tell the authorization server. Raises NotFound."""

    async def work(tx: Tx) -> tuple[ConnectionRow, Grant]:
        row = await find_connection(tx, identity.org_id, identity.identity, provider, lock=True)
        if row is None:
            raise NotFound("connection")
        grant = await open_grant(app, tx, row)
        await remove_connection(tx, identity.org_id, identity.identity, provider)
        return row, grant

    row, grant = await app.database.write(work)
    await revoke_quietly(app, SignInServer(row.server_key, row.server_name, row.url), grant)


async def link(app: App, identity: Identity, provider: str) -> SignInLink:
    """Make the link at which the caller signs in, for ten minutes.

    Raises:
        NotFound: there is no such server, or nothing waits for a sign-in at one that is not registered.
        Conflict: the server needs none, or its metadata cannot be trusted.
        RateLimited: too many sign-ins have begun.
    """
    wanted = await app.database.read(lambda tx: _wanted(app, tx, identity, provider))
    token, _ = await prepare(app, wanted)
    deadline = app.now() + SIGN_IN_SECONDS * 1_000_000
    return SignInLink(sign_in_page(app.public.url, token), to_rfc3339(deadline))


async def _wanted(app: App, tx: Tx, identity: Identity, provider: str) -> Wanted:
    held = await find_connection(tx, identity.org_id, identity.identity, provider)
    asked = await sign_ins_asked(tx, identity.org_id, identity.identity, app.now())
    latest = next((row for row in reversed(asked) if row.server_key == provider), None)
    if latest is not None:
        wanted = await wanted_by(app, tx, latest)
        await check_url(tx, identity.org_id, wanted.server)
        return wanted
    if provider.startswith(INLINE):
        raise NotFound("connection")
    row = await get_mcp_server(tx, identity.org_id, McpServerId(provider))
    if row.auth_mode != "o_auth" or row.status != "active":
        raise Conflict(f"nobody signs in at the MCP server {row.name!r}", code="sign_in_not_needed")
    server = SignInServer(row.id, row.name, row.url, row.rules_struct().acts_as)
    return Wanted(identity, server, held=() if held is None else tuple(held.scope.split()))
