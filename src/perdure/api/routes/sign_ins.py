"""Pages at which people sign in at MCP servers. They need no login: a browser has none.

The pages have no scripts and no tokens. What a person types into the address bar, or follows as a link, shows
a page; only the page's own form begins a sign-in.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from perdure.api.kernel.authentication import check_local
from perdure.api.kernel.call import Call, Reply
from perdure.api.kernel.pages import SENDS_NO_REFERRER, SENDS_OWN_ORIGIN, page
from perdure.api.kernel.problems import problem_of
from perdure.api.kernel.route import route
from perdure.app import sign_ins as use
from perdure.app.login import login_required
from perdure.app.oauth_clients import client_document
from perdure.domain.connections import SIGN_IN_SECONDS, ClientDocument
from perdure.domain.errors import Forbidden, NotFound, PerdureError
from perdure.domain.markup import escape


class Callback(Struct, frozen=True):
    """Query parameters of an authorization server's answer."""

    state: Annotated[str, Meta(description="The value that began the sign-in.", max_length=200)] = ""
    code: Annotated[
        Annotated[str, Meta(max_length=8192)] | None, Meta(description="The authorization code.")
    ] = None
    iss: Annotated[
        Annotated[str, Meta(max_length=2048)] | None, Meta(description="The issuer of the answer.")
    ] = None
    error: Annotated[
        Annotated[str, Meta(max_length=200)] | None, Meta(description="Why the sign-in failed.")
    ] = None
    error_description: Annotated[
        Annotated[str, Meta(max_length=8192)] | None, Meta(description="Ignored: it is not shown.")
    ] = None


@route(
    "GET", "/v1/oauth/start/{token}", "connections", errors=(400, 403, 410), public=True, content="text/html"
)
async def start_sign_in(call: Call, token: str) -> Reply:
    """Show the page at which a sign-in begins.

    It says for whom the sign-in is, and at which server. On a server without a login, the URLs in events lead
    here directly; otherwise only those that `POST /v1/user/connections/{provider}/sign-in` returns do.
    """
    try:
        start = await use.start_page(call.app, token, open_server=await _is_open(call))
    except PerdureError as error:
        return _failed(error, call)
    host = urlsplit(start.url).netloc
    body = (
        f"<h1>Sign in at {escape(start.server)}</h1>"
        f"<p>An agent's tool needs access to <b>{escape(host)}</b>. "
        f"The sign-in will be stored for <b>{escape(start.person)}</b>, whose agents then act with it.</p>"
        "<p>Continue only if that is you, and if you asked for this.</p>"
        '<form method="post"><button>Continue</button></form>'
    )
    return page(body, 200, SENDS_OWN_ORIGIN)


@route(
    "POST", "/v1/oauth/start/{token}", "connections", status=303, errors=(400, 403, 409, 410, 429),
    public=True, content="text/html",
)  # fmt: skip
async def begin_sign_in(call: Call, token: str) -> Reply:
    """Send the browser to the authorization server.

    The page's form does this. The answer is accepted from the same browser only, which gets a cookie.
    """
    try:
        _check_own_page(call)
        began = await use.begin(call.app, token, open_server=await _is_open(call))
    except PerdureError as error:
        return _failed(error, call)
    secure = "; Secure" if call.app.public.url.startswith("https:") else ""
    cookie = (
        f"{began.cookie}={began.value}; Path=/; Max-Age={SIGN_IN_SECONDS}; HttpOnly; SameSite=Lax{secure}"
    )
    headers = ((b"location", began.url.encode()), (b"set-cookie", cookie.encode()), *SENDS_NO_REFERRER)
    return Reply(b"", 303, b"text/html; charset=utf-8", headers)


@route(
    "GET", "/v1/oauth/callback", "connections", errors=(400, 403, 409, 410), public=True, content="text/html"
)
async def finish_sign_in(call: Call, query: Callback) -> Reply:
    """Take the answer of an authorization server.

    Stores the tokens, and resumes all calls that wait for the sign-in, even days later. The page says whether
    it worked.
    """
    answer = use.Answer(query.state, query.code, query.iss, query.error)
    try:
        server = await use.finish(call.app, answer, _cookies(call))
    except PerdureError as error:
        return _failed(error, call)
    body = f"<h1>Signed in at {escape(server)}</h1><p>The agent goes on. You can close this page.</p>"
    return page(body, 200, SENDS_NO_REFERRER)


@route("GET", "/.well-known/oauth-client", "connections", errors=(404,), public=True)
async def read_oauth_client(call: Call) -> ClientDocument:
    """Get this server's OAuth client document.

    For authorization servers that read such documents instead of registering clients. 404 unless the server's
    public URL begins with `https`.
    """
    document = client_document(call.app)
    if document is None:
        raise NotFound("client document: it needs an https PERDURE_PUBLIC_URL", code="route_not_found")
    return document


async def _is_open(call: Call) -> bool:
    """Whether the request comes from this machine, to a server that has no login."""
    if await login_required(call.app):
        return False
    host = call.header(b"host")
    check_local({} if host is None else {b"host": host.encode()})
    return True


def _check_own_page(call: Call) -> None:
    """Refuse a form of another site: it could begin a sign-in in the browser of somebody else."""
    site, origin = call.header(b"sec-fetch-site"), call.header(b"origin")
    host = call.header(b"host") or ""
    own = site in ("same-origin", "none") if site is not None else origin is None or _host_of(origin) == host
    if not own:
        raise Forbidden("open this page by its own address", code="origin_not_allowed")


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _cookies(call: Call) -> dict[str, str]:
    try:
        return {name: each.value for name, each in SimpleCookie(call.header(b"cookie") or "").items()}
    except CookieError:
        return {}


def _failed(error: PerdureError, call: Call) -> Reply:
    problem = problem_of(error, "/v1/oauth")
    body = (
        f"<h1>The sign-in did not work</h1><p>{escape(problem.detail)}</p><p>Code: {escape(error.code)}</p>"
    )
    return page(body, problem.status, SENDS_NO_REFERRER)


ROUTES = (start_sign_in, begin_sign_in, finish_sign_in, read_oauth_client)
