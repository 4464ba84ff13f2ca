"""Routes of connections: the sign-ins of users and organizations at MCP servers."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import connections as use
from perdure.domain.connections import Connection, SignInLink, SignInProvider
from perdure.domain.ids import OrgId
from perdure.domain.paging import Listing


@route("GET", "/v1/user/connections", "connections")
async def list_connections(call: Call) -> Listing[Connection]:
    """List the caller's connections.

    First the sign-ins that tool calls wait for (`pending`), then those that are stored. Tokens are never
    shown.
    """
    return Listing(tuple(await use.connections_of(call.app, use.own_identity(call.caller))))


@route("GET", "/v1/user/connections/providers", "connections")
async def list_connection_providers(call: Call) -> Listing[SignInProvider]:
    """List the servers at which people sign in.

    The registered MCP servers of the organization whose `auth_mode` is `o_auth`.
    """
    return Listing(tuple(await use.list_providers(call.app, call.caller)))


@route(
    "POST",
    "/v1/user/connections/{provider}/sign-in",
    "connections",
    errors=(404, 409, 429),
    body_example=None,
)
async def sign_in(call: Call, provider: str) -> SignInLink:
    """Begin a sign-in.

    The response has the URL of a page to open in a browser within ten minutes. After the sign-in, all calls
    that wait for it go on. The sign-in becomes the caller's: do not give the URL to others. 409 if the server
    needs no sign-in, or if its OAuth metadata cannot be trusted; the error says why.
    """
    return await use.link(call.app, use.own_identity(call.caller), provider)


@route("DELETE", "/v1/user/connections/{provider}", "connections", errors=(404,))
async def delete_connection(call: Call, provider: str) -> None:
    """Remove a connection.

    The tokens are deleted, and revoked if the authorization server supports that. The next call that needs
    them waits for a new sign-in.
    """
    await use.remove(call.app, use.own_identity(call.caller), provider)


@route("GET", "/v1/orgs/{org}/organization-connections", "connections", errors=(403, 404))
async def list_organization_connections(call: Call, org: OrgId) -> Listing[Connection]:
    """List an organization's own connections.

    They are used by servers with `acts_as: service`. Requires the role `admin`.
    """
    identity = await use.service_identity(call.app, call.caller, org)
    return Listing(tuple(await use.connections_of(call.app, identity)))


@route(
    "POST",
    "/v1/orgs/{org}/organization-connections/{provider}/sign-in",
    "connections",
    errors=(403, 404, 409, 429),
)
async def sign_in_organization(call: Call, org: OrgId, provider: str) -> SignInLink:
    """Begin a sign-in of an organization.

    All members' sessions use it at servers with `acts_as: service` or `user_or_service`. Requires the role
    `admin`.
    """
    return await use.link(call.app, await use.service_identity(call.app, call.caller, org), provider)


@route("DELETE", "/v1/orgs/{org}/organization-connections/{provider}", "connections", errors=(403, 404))
async def delete_organization_connection(call: Call, org: OrgId, provider: str) -> None:
    """Remove an organization's own connection.

    The tokens are deleted, and revoked if the authorization server supports that. Requires the role `admin`.
    """
    await use.remove(call.app, await use.service_identity(call.app, call.caller, org), provider)


ROUTES = (
    list_connections,
    list_connection_providers,
    sign_in,
    delete_connection,
    list_organization_connections,
    sign_in_organization,
    delete_organization_connection,
)
