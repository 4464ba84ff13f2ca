"""Who sends a request, and whether it may come from where it comes from."""

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
"""Who sends these headers; and whether it does not matter in which organization."""


def by_token(app: App, limit: RateLimit) -> Authenticate:
    """Let in whoever sends an access token, as often as the limit allows."""

    async def caller_of(headers: Headers, anywhere: bool) -> Caller:
        authorization = header_text(headers, b"authorization")
        organization = header_text(headers, b"x-org-id")
        caller = await authenticate(app, authorization, organization, anywhere=anywhere)
        limit.take(token_in(authorization))  # and not the header, which can be written in many ways
        return caller

    return caller_of


def as_owner(app: App, owner: Caller) -> Authenticate:
    """Let in every program of this machine, as the owner: for a server on loopback that has no login."""

    async def caller_of(headers: Headers, _anywhere: bool) -> Caller:
        check_local(headers)
        organization = header_text(headers, b"x-org-id")
        if organization is None or organization == owner.organization_id:
            return owner
        return await owner_in(app, owner, organization)

    return caller_of


def check_local(headers: Headers) -> None:
    """Keep the web pages in the user's browser out. Raises Forbidden."""
    # A page that had its own name point to this machine would come under that name.
    if not is_loopback(host_name(header_text(headers, b"host") or "")):
        raise Forbidden("without a login this server answers only to localhost", code="host_not_allowed")
    # And a page needs no such name for a request whose answer it does not have to see: browsers say where
    # such a request comes from.
    origin = header_text(headers, b"origin")
    if origin is not None and not is_loopback(host_name(origin.partition("://")[2])):
        raise Forbidden(
            "without a login this server takes no requests of web pages from elsewhere",
            code="origin_not_allowed",
        )
