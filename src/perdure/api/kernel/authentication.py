"""Authenticates requests, by access token or, without a login, by the Host and Origin headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from perdure.api.kernel.asgi import Headers, header_text
from perdure.api.kernel.rate_limit import RateLimit
from perdure.app.context import App
from perdure.app.login import authenticate, owner_in, token_in
from perdure.domain.accounts import Caller
from perdure.domain.errors import Forbidden
from perdure.domain.hosts import host_name, is_loopback

Authenticate = Callable[[Headers, bool], Awaitable[Caller]]
"""Returns the caller that a request's headers name.

The flag says that the route needs no particular organization.
"""


def by_token(app: App, limit: RateLimit) -> Authenticate:
    """Authenticate callers by their access tokens, and limit each token's rate of requests."""

    async def caller_of(headers: Headers, anywhere: bool) -> Caller:
        authorization = header_text(headers, b"authorization")
        organization = header_text(headers, b"x-org-id")
        caller = await authenticate(app, authorization, organization, anywhere=anywhere)
        # Count by token: the same token can be written in several forms of the header.
        limit.take(token_in(authorization))
        return caller

    return caller_of


def as_owner(app: App, owner: Caller) -> Authenticate:
    """Treat every program on this machine as the owner: for a server on loopback without a login."""

    async def caller_of(headers: Headers, _anywhere: bool) -> Caller:
        check_local(headers)
        organization = header_text(headers, b"x-org-id")
        if organization is None or organization == owner.organization_id:
            return owner
        return await owner_in(app, owner, organization)

    return caller_of


def check_local(headers: Headers) -> None:
    """Refuse requests that web pages from other hosts make in the user's browser.

    Raises:
        Forbidden: the Host or Origin header names another host.
    """
    # DNS rebinding: a page can point its own host name at this machine. Its requests then carry that name.
    if not is_loopback(host_name(header_text(headers, b"host") or "")):
        raise Forbidden(
            "a server without a login accepts requests only under localhost or a loopback address: "
            "use one, or create an access token with `perdure keys create`",
            code="host_not_allowed",
        )
    # Cross-site request forgery: a page can send a request here without reading the response. Browsers then
    # send the page's origin.
    origin = header_text(headers, b"origin")
    if origin is not None and not is_loopback(host_name(origin.partition("://")[2])):
        raise Forbidden(
            "a server without a login refuses requests from web pages of other hosts: serve the page from "
            "localhost, or create an access token with `perdure keys create`",
            code="origin_not_allowed",
        )
