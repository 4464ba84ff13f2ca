"""Authenticates requests, by access token or, without a login, by the Host and Origin headers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import lru_cache

from perdure.api.kernel.asgi import OLD_HTTP, Headers, header_text
from perdure.app.context import App
from perdure.app.login import authenticate, owner_in
from perdure.app.rate_limit import RateLimit
from perdure.domain.accounts import Caller
from perdure.domain.errors import Forbidden
from perdure.domain.hosts import host_name, is_loopback, same_origin

Authenticate = Callable[[Headers, bool], Awaitable[Caller]]
"""Returns the caller that a request's headers name.

The flag says that the route needs no particular organization.
"""


def by_token(app: App, limit: RateLimit) -> Authenticate:
    """Authenticate callers by their access tokens, and limit each user's rate of requests."""

    async def caller_of(headers: Headers, anywhere: bool) -> Caller:
        authorization = header_text(headers, b"authorization")
        organization = header_text(headers, b"x-org-id")
        caller = await authenticate(app, authorization, organization, anywhere=anywhere)
        # All tokens of a user count together, in all organizations, because users can create both. Tokens
        # that others created count in their organization only: it must not use up the user's rate elsewhere.
        limit.take(f"{caller.user_id} {caller.organization_id}" if caller.bound else caller.user_id)
        app.meter.take_request(caller.organization_id, caller.user_id, app.now())
        return caller

    return caller_of


def as_owner(app: App, owner: Caller) -> Authenticate:
    """Treat every program on this machine as the owner: for a server on loopback without a login."""

    async def caller_of(headers: Headers, _anywhere: bool) -> Caller:
        check_local(headers)
        organization = header_text(headers, b"x-org-id")
        caller = owner
        if organization is not None and organization != owner.organization_id:
            caller = await owner_in(app, owner, organization)
        app.meter.take_request(caller.organization_id, caller.user_id, app.now())
        return caller

    return caller_of


_SITES = frozenset({b"same-origin", b"none"})
"""The values of Sec-Fetch-Site for requests of this server's own pages, and for addresses that users type."""

_FORWARDED = re.compile(
    rb"""
    # What they say about the client, the connection or the request that they forward, in any spelling
    (forward | client[-_]?ip | real[-_]?(ip|port) | remote[-_]?(addr|ip|host|user) | ^http[-_]x[-_]
    | original[-_] | originating | connecting[-_]?ip | ^x[-_](host|scheme|ssl|ip|user[-_]ip|proxy|nginx|cdn)
    | rewrite[-_]url | ^via$ | bluecoat[-_]via | ^cdn[-_]loop$ | ^max[-_]forwards$ | ^proxy[-_]client)
    # Those of well-known proxies, clouds and tunnels
    | ^(cf|fastly|akamai|incap|ali[-_]cdn|tailscale|ngrok|wl[-_]proxy)[-_]
    | ^x[-_](envoy|azure|appengine|amzn[-_]trace|arr|varnish|squid|traefik|vercel|nf|sucuri)([-_]|$)
    """,
    re.VERBOSE,
)


@lru_cache(maxsize=256)  # called for every header, nearly always with the same names
def is_of_proxy(name: bytes) -> bool:
    """Return whether proxies add a header of this name to the requests that they forward."""
    return _FORWARDED.search(name) is not None


def check_local(headers: Headers) -> None:
    """Refuse requests that do not come from a program of this machine, or from this server's own pages.

    Raises:
        Forbidden: the Host header names another host, a proxy forwarded the request, or a web page of another
            origin made it.
    """
    # DNS rebinding: a page can point its own host name at this machine. Its requests then carry that name.
    host = header_text(headers, b"host") or ""
    if not is_loopback(host_name(host)):
        raise Forbidden(
            "a server without a login accepts requests only under localhost or a loopback address: "
            "use one, or create an access token with `perdure keys create`",
            code="host_not_allowed",
        )
    # Many proxies replace the Host header with the address that they forward to, which is this machine's.
    # By default, nginx adds nothing else, but speaks HTTP/1.0, which no client of today does.
    forwarded = next(filter(is_of_proxy, headers), None)
    if forwarded is not None or OLD_HTTP in headers:
        sign = "HTTP/1.0" if forwarded is None else f"the header {forwarded.decode('latin-1')}"
        raise Forbidden(
            f"a server without a login refuses requests that a proxy forwarded ({sign} tells): connect "
            "directly, or create an access token with `perdure keys create`",
            code="proxy_not_allowed",
        )
    # Cross-site request forgery: a page can send a request here without reading the response. Browsers then
    # send the page's origin, or at least what the page has to do with this server. A page that another
    # program of this machine serves is another origin, too: its port differs.
    origin, site = header_text(headers, b"origin"), headers.get(b"sec-fetch-site")
    if (origin is not None and not same_origin(origin, host)) or (site is not None and site not in _SITES):
        raise Forbidden(
            "a server without a login refuses requests from web pages of other origins, also of other ports: "
            "create an access token with `perdure keys create`",
            code="origin_not_allowed",
        )
