"""This server as a client of authorization servers: registered by hand, by a document, or by itself."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from perdure.app.context import Services
from perdure.domain.connections import INLINE, ClientDocument
from perdure.domain.errors import NotFound
from perdure.domain.ids import McpServerId, OrgId
from perdure.domain.mcp_servers import McpClient
from perdure.domain.oauth import (
    Authority,
    Challenge,
    OAuthClient,
    SignInFailed,
    registered_client,
    shown,
)
from perdure.net.oauth import Place, discover, register
from perdure.store.connections import client_binding, find_client, issuers_of, put_client
from perdure.store.database import Tx
from perdure.store.mcp_servers import McpServerRow, bind_mcp_client, get_mcp_server, open_mcp_secrets
from perdure.store.rows import from_json, to_json

_CLIENT = msgspec.json.Decoder(OAuthClient)


class ByHand(Struct, frozen=True):
    """What an MCP server's registration says about this server as a client.

    Attributes:
        row: the MCP server; None for one that is not registered.
    """

    row: McpServerRow | None = None
    client: McpClient = McpClient()
    secret: str | None = None

    @property
    def issuer(self) -> str | None:
        """The only issuer that the client is used at; None if any will do."""
        return self.client.issuer if self.client.client_id is not None else None

    async def bind(self, tx: Tx, issuer: str) -> None:
        """Note which issuer the client belongs to, at its first use. It is used at no other afterwards."""
        if self.row is not None and self.client.client_id is not None and self.client.issuer is None:
            await bind_mcp_client(tx, self.row, issuer)


async def by_hand(
    services: Services, tx: Tx, org_id: OrgId, server_key: str, *, lock: bool = False
) -> ByHand:
    """Read what the registration of an MCP server says about this server as a client; `lock` locks it."""
    if server_key.startswith(INLINE):
        return ByHand()
    try:
        row = await get_mcp_server(tx, org_id, McpServerId(server_key), lock=lock)
    except NotFound:
        return ByHand()
    secrets = await open_mcp_secrets(services.vault, tx, row)
    return ByHand(row, row.client(), secrets.client_secret)


def redirect_uri_of(services: Services) -> str:
    """Where authorization servers send browsers back to."""
    return f"{services.public.url}/v1/oauth/callback"


async def authority_of(
    services: Services, org_id: OrgId, place: Place, given: ByHand, challenge: Challenge
) -> Authority:
    """Find out who grants access to a server.

    Raises:
        SignInFailed: nobody does, or another issuer than the one that the client belongs to.
    """
    if given.issuer is not None:
        prefer: tuple[str, ...] = (given.issuer,)
    else:
        known = await services.database.read(lambda tx: issuers_of(tx, org_id, redirect_uri_of(services)))
        prefer = tuple(known)
    return await discover(place, challenge, prefer, only=given.issuer)


async def client_at(
    services: Services,
    place: Place,
    org_id: OrgId,
    given: ByHand,
    authority: Authority,
    scopes: tuple[str, ...],
) -> OAuthClient:
    """This server as the issuer's client: as somebody registered it, by its document, or as it does itself.

    Raises:
        SignInFailed: the issuer does not know it, and does not want to.
    """
    issuer, redirect_uri = authority.metadata.issuer, redirect_uri_of(services)
    if given.client.client_id is not None:
        return registered_client(given.client.client_id, given.secret, authority.metadata, redirect_uri)
    if authority.metadata.client_id_metadata_document_supported is True:
        document = client_document(services)
        if document is not None:
            return OAuthClient(document.client_id, redirect_uri=redirect_uri)
    binding = client_binding(issuer, redirect_uri)

    async def read(tx: Tx) -> OAuthClient | None:
        sealed = await find_client(tx, org_id, issuer, redirect_uri)
        if sealed is None:
            return None
        return from_json(_CLIENT, await services.vault.open(tx, org_id, sealed, binding), "the OAuth client")

    known = await services.database.read(read)
    if known is not None and (known.secret_until == 0 or known.secret_until * 1_000_000 > services.now()):
        return known
    client = await register(place, authority.metadata, redirect_uri, scopes)

    async def store(tx: Tx) -> None:
        sealed = await services.vault.seal(tx, org_id, to_json(client), binding)
        await put_client(tx, org_id, issuer, redirect_uri, sealed, services.now())

    await services.database.write(store)
    return client


def current_client(given: ByHand, client: OAuthClient, issuer: str) -> OAuthClient:
    """Return a client that was stored with tokens, with the secret that it has by now.

    Raises:
        SignInFailed: the client belongs to another issuer by now.
    """
    if given.client.client_id is None or given.client.client_id != client.client_id:
        return client
    if given.issuer not in (None, issuer):
        raise SignInFailed(
            f"the tokens are of {shown(issuer)}, and the client belongs to {shown(given.issuer or '')} now",
            error="invalid_client",
        )
    method = client.method if client.method != "none" and given.secret else ""
    if given.secret is None:
        method = "none"
    return msgspec.structs.replace(client, client_secret=given.secret, method=method or "client_secret_basic")


def client_document(services: Services) -> ClientDocument | None:
    """This server's client document; None unless browsers reach it by HTTPS, as the standard requires."""
    url = services.public.url
    if urlsplit(url).scheme != "https":
        return None
    return ClientDocument(f"{url}/.well-known/oauth-client", "Perdure", (f"{url}/v1/oauth/callback",))
