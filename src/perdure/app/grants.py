"""The tokens of MCP servers: found, refreshed and stored. They leave this module only inside a `Held`."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import msgspec
from msgspec import Struct

from perdure.app.context import Services
from perdure.app.oauth_clients import by_hand, current_client
from perdure.domain.connections import SignInServer
from perdure.domain.ids import OrgId
from perdure.domain.mcp import McpUnreachable
from perdure.domain.network import NetworkRules
from perdure.domain.oauth import Grant, SignInFailed
from perdure.domain.times import Micros
from perdure.net.oauth import place_of, refresh, revoke
from perdure.store.connections import (
    ConnectionRow,
    begin_refresh,
    end_refresh,
    find_connection,
    give_up_refresh,
    put_connection,
    remove_client,
    remove_connection,
)
from perdure.store.database import Tx
from perdure.store.rows import from_json, to_json

log = logging.getLogger("perdure.sign_in")

EARLY = 60_000_000
"""Microseconds before its end at which a token is refreshed: clocks differ, and requests take time."""
LEASE = 30_000_000
"""Microseconds for which one process alone may refresh. It is longer than a refresh can take."""
PATIENCE = 40.0
"""Seconds to wait for another process that refreshes, or died while it did."""
PAUSE = 0.1

LOST = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})
"""Errors of a refresh after which only a new sign-in helps."""

_GRANT = msgspec.json.Decoder(Grant)


def outgoing(services: Services) -> NetworkRules:
    """What requests to authorization servers may reach."""
    return NetworkRules(private=services.private_addresses)


class Held(Struct, frozen=True):
    """Tokens that can be used now.

    Attributes:
        version: changes with every refresh and every sign-in.
        signed_in_at: when the person signed in.
    """

    grant: Grant
    version: int
    signed_in_at: Micros


async def usable_grant(
    services: Services, org_id: OrgId, identity: str, server_key: str, url: str, stale: int | None = None
) -> Held | None:
    """Return the tokens of an identity at a server, refreshed if they end soon; None without any.

    One process refreshes at a time: most servers revoke everything if an old refresh token is used twice.

    Args:
        url: where they would be sent: None if they were given for another URL.
        stale: the version of a token that the server refused.

    Raises:
        McpUnreachable: they have ended, and the authorization server cannot be reached.
    """
    key, clock = (org_id, identity, server_key), asyncio.get_running_loop().time
    until, first = clock() + PATIENCE, None
    while True:
        found = await _read(services, *key)
        if found is None or found[0].url != url:
            return None
        row, grant = found
        held = Held(grant, row.version, row.signed_in_at)
        now = services.now()
        refused = row.version == stale
        left = None if grant.expires_at is None else grant.expires_at - now
        first = row.version if first is None else first
        if not refused and (left is None or left > _early(row) or row.version != first):
            return held
        if grant.refresh_token is None:
            if not refused and left is not None and left > 0:
                return held
            await services.database.write(partial(_remove, row))
            return None
        try:
            await services.refreshes.run(key, partial(_refresh, services, row, grant))
        except SignInFailed as error:
            if not refused and left is not None and left > 0:
                return held  # it is good for a little while
            raise McpUnreachable(f"The sign-in at {row.server_name} cannot be renewed: {error}") from None
        current = await _read(services, *key)
        if current is not None and current[0].version == row.version:
            if clock() > until:
                raise McpUnreachable(f"The sign-in at {row.server_name} is being renewed for too long.")
            await asyncio.sleep(PAUSE)  # another process does it


def _early(row: ConnectionRow) -> Micros:
    """How long before its end a token is refreshed: less if it is a short-lived one."""
    return EARLY if row.expires_at is None else min(EARLY, max(row.expires_at - row.updated_at, 0) // 2)


async def _read(
    services: Services, org_id: OrgId, identity: str, server_key: str
) -> tuple[ConnectionRow, Grant] | None:
    async def body(tx: Tx) -> tuple[ConnectionRow, Grant] | None:
        row = await find_connection(tx, org_id, identity, server_key)
        return None if row is None else (row, await open_grant(services, tx, row))

    return await services.database.read(body)


async def open_grant(services: Services, tx: Tx, row: ConnectionRow) -> Grant:
    """Decrypt a connection's tokens."""
    text = await services.vault.open(tx, row.org_id, row.sealed, row.binding)
    return from_json(_GRANT, text, f"the sign-in at {row.server_name}")


async def keep_grant(
    services: Services,
    tx: Tx,
    org_id: OrgId,
    identity: str,
    server: SignInServer,
    grant: Grant,
    before: ConnectionRow | None,
) -> Held:
    """Seal and store the tokens of a new sign-in, in place of the connection that was there `before`."""
    now = services.now()
    row = ConnectionRow(
        org_id,
        identity,
        server.key,
        server.name,
        server.url,
        grant.issuer,
        " ".join(grant.scope),
        b"",
        1 if before is None else before.version + 1,
        0,
        now,
        grant.expires_at,
        now if before is None else before.created_at,
        now,
    )
    sealed = await services.vault.seal(tx, org_id, to_json(grant), row.binding)
    await put_connection(tx, msgspec.structs.replace(row, sealed=sealed))
    return Held(grant, row.version, row.signed_in_at)


async def _refresh(services: Services, row: ConnectionRow, grant: Grant) -> None:
    """Refresh these tokens and store the new ones, unless another process does.

    A crash after the authorization server has answered, before its answer is stored, loses the new tokens.
    The old refresh token is then tried once more when `LEASE` is over. If the server does not accept it, the
    call waits for a new sign-in.

    Raises:
        SignInFailed: the authorization server cannot be reached; nothing has changed.
    """
    now, database = services.now(), services.database
    if not await database.write(lambda tx: begin_refresh(tx, row, now + LEASE, now)):
        return
    try:
        place = await place_of(row.url, outgoing(services))
        given = await database.read(lambda tx: by_hand(services, tx, row.org_id, row.server_key))
        client = current_client(given, grant.client, grant.issuer)
        fresh = await refresh(place, msgspec.structs.replace(grant, client=client), now)
    except SignInFailed as error:
        if error.error in LOST:
            log.info("the sign-in of %s at %s was revoked (%s)", row.identity, row.server_name, error.error)
            await database.write(partial(_forget, row, grant, error.error))
            return
        await database.write(lambda tx: give_up_refresh(tx, row))
        raise

    async def store(tx: Tx) -> bool:
        sealed = await services.vault.seal(tx, row.org_id, to_json(fresh), row.binding)
        return await end_refresh(tx, row, sealed, " ".join(fresh.scope), fresh.expires_at, services.now())

    if not await database.write(store):  # it was removed meanwhile, and so are these
        await revoke_quietly(services, SignInServer(row.server_key, row.server_name, row.url), fresh)


async def revoke_quietly(services: Services, server: SignInServer, grant: Grant) -> None:
    """Revoke tokens that nobody has a use for. If the authorization server cannot be told, it is logged."""
    try:
        await revoke(await place_of(server.url, outgoing(services)), grant)
    except SignInFailed as error:
        log.info("the tokens at %s could not be revoked: %s", server.name, error.message)


async def _remove(row: ConnectionRow, tx: Tx) -> None:
    await remove_connection(tx, row.org_id, row.identity, row.server_key, row.version)


async def _forget(row: ConnectionRow, grant: Grant, error: str, tx: Tx) -> None:
    await _remove(row, tx)
    if error == "invalid_client":
        await remove_client(tx, row.org_id, grant.issuer, grant.client.redirect_uri)
