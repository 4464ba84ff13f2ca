"""Tokens of the organization's own client, without a person: OAuth's client credentials."""

from __future__ import annotations

import logging

from perdure.app.context import Services
from perdure.app.grants import Held, keep_grant, outgoing, usable_grant
from perdure.app.oauth_clients import ByHand, authority_of, by_hand, client_at
from perdure.domain.connections import SERVICE, SignInServer
from perdure.domain.ids import OrgId
from perdure.domain.mcp import McpUnreachable
from perdure.domain.oauth import Authority, Challenge, Grant, SignInFailed, scopes_to_ask
from perdure.net.oauth import client_credentials, place_of
from perdure.store.connections import find_connection
from perdure.store.database import Tx

log = logging.getLogger("perdure.sign_in")

GRANT_TYPE = "client_credentials"


async def sign_in_of(
    services: Services,
    org_id: OrgId,
    identities: tuple[str, ...],
    server: SignInServer,
    stale: int | None = None,
) -> tuple[str, Held] | None:
    """Return the tokens of the first of these identities that has some at a server, and whose they are.

    Args:
        stale: the version of a token that the server refused.

    Raises:
        McpUnreachable: they cannot be renewed now.
    """
    for identity in identities:
        held = await usable_grant(services, org_id, identity, server.key, server.url, stale)
        if held is not None:
            return identity, held
    held = await _service_grant(services, org_id, server) if SERVICE in identities else None
    return None if held is None else (SERVICE, held)


async def _service_grant(services: Services, org_id: OrgId, server: SignInServer) -> Held | None:
    """Get and store a token of the organization for a server whose client somebody registered.

    Returns:
        None if a person has to sign in: there is no such client, the server is not registered as acting as
        `service`, or its authorization server does not announce the grant type `client_credentials`, or
        refuses it.

    Raises:
        McpUnreachable: the authorization server cannot be reached.
    """
    given = await services.database.read(lambda tx: by_hand(services, tx, org_id, server.key))
    if given.row is None or given.client.client_id is None or given.secret is None:
        return None
    if given.row.url != server.url or given.row.status != "active":
        return None
    if given.row.rules_struct().acts_as != "service":  # sessions cannot choose this: it may be allowed much
        return None
    try:
        found = await _fetched(services, org_id, server, given)
    except SignInFailed as error:
        if error.transient:
            raise McpUnreachable(f"No token for {server.name} can be fetched: {error.message}") from None
        log.info("no token of the client of %s: %s", server.name, error.message)
        return None
    return None if found is None else await _stored(services, org_id, server, given, found)


async def _fetched(services: Services, org_id: OrgId, server: SignInServer, given: ByHand) -> Grant | None:
    place = await place_of(server.url, outgoing(services))
    authority = await authority_of(services, org_id, place, given, Challenge())
    if GRANT_TYPE not in (authority.metadata.grant_types_supported or ()):
        return None
    scopes = _scopes(authority, given)
    client = await client_at(services, place, org_id, given, authority, scopes)
    return await client_credentials(place, authority, client, scopes, services.now())


def _scopes(authority: Authority, given: ByHand) -> tuple[str, ...]:
    """The scopes to ask for. Nobody is offline."""
    wanted = scopes_to_ask(authority, (), (), given.client.scopes or ())
    return tuple(scope for scope in wanted if scope != "offline_access")


async def _stored(
    services: Services, org_id: OrgId, server: SignInServer, given: ByHand, grant: Grant
) -> Held | None:
    async def work(tx: Tx) -> Held | None:
        now_given = await by_hand(services, tx, org_id, server.key, lock=True)
        if (
            now_given.row is None
            or now_given.row.url != server.url
            or now_given.client.client_id != given.client.client_id
        ):
            return None
        before = await find_connection(tx, org_id, SERVICE, server.key, lock=True)
        held = await keep_grant(services, tx, org_id, SERVICE, server, grant, before)
        await given.bind(tx, grant.issuer)
        return held

    return await services.database.write(work)
