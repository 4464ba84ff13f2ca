"""OAuth 2.1 for clients of MCP servers: what is parsed, compared and built. Pure code.

The standards: RFC 9728 (metadata of the protected resource), RFC 8414 (metadata of the authorization server),
RFC 7636 (PKCE), RFC 8707 (resource indicators), RFC 7591 (registration), RFC 9207 (the issuer in the answer).
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from perdure.domain.errors import ToolError
from perdure.domain.messages import JsonValue
from perdure.domain.times import Micros

MAX_URL = 2_048
MAX_SCOPES = 100
"""Scopes that are asked for at most."""
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
MAX_CHALLENGE = 4_096
"""Characters of a WWW-Authenticate header that are read."""
_TIMES = 1_000_000


class SignInFailed(ToolError):
    """A step of a sign-in failed, or the server's metadata cannot be trusted.

    Args:
        error: the code of OAuth that the authorization server answered with; empty without one.
        transient: whether a later attempt may succeed: it could not be reached.
    """

    code = "sign_in_failed"

    def __init__(self, message: str, *, error: str = "", transient: bool = False) -> None:
        super().__init__(message)
        self.error = error
        self.transient = transient


class Challenge(Struct, frozen=True):
    """What a server's WWW-Authenticate header asks for."""

    resource_metadata: str | None = None
    scope: str | None = None
    error: str | None = None


class ResourceMetadata(Struct, frozen=True):
    """The metadata of a protected resource (RFC 9728)."""

    resource: str
    authorization_servers: tuple[str, ...] = ()
    scopes_supported: tuple[str, ...] | None = None


class ServerMetadata(Struct, frozen=True):
    """The metadata of an authorization server (RFC 8414)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    scopes_supported: tuple[str, ...] | None = None
    grant_types_supported: tuple[str, ...] | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    code_challenge_methods_supported: tuple[str, ...] | None = None
    client_id_metadata_document_supported: bool | None = None
    authorization_response_iss_parameter_supported: bool | None = None


class OAuthClient(Struct, frozen=True):
    """This server as a client of an authorization server.

    Attributes:
        method: how it authenticates: `none`, `client_secret_basic` or `client_secret_post`.
        secret_until: when the secret expires, in seconds since 1970; 0: never.
        redirect_uri: what it was registered with.
    """

    client_id: str
    client_secret: str | None = None
    method: str = "none"
    secret_until: int = 0
    redirect_uri: str = ""


class Registered(Struct, frozen=True):
    """The answer to a registration (RFC 7591)."""

    client_id: str
    client_secret: str | None = None
    client_secret_expires_at: int | None = None
    token_endpoint_auth_method: str | None = None


class TokenAnswer(Struct, frozen=True):
    """The answer of a token endpoint. Some servers give an error with the status 200."""

    access_token: str | None = None
    token_type: str | None = None
    expires_in: JsonValue = None
    refresh_token: str | None = None
    scope: JsonValue = None
    error: str | None = None

    @property
    def scopes(self) -> tuple[str, ...]:
        """What was granted; empty if the answer does not say it."""
        given = self.scope
        if isinstance(given, list):  # a common mistake
            given = " ".join(each for each in given if isinstance(each, str))
        return words(given if isinstance(given, str) else None)


class Authority(Struct, frozen=True, omit_defaults=True):
    """Who grants access to an MCP server: the validated outcome of discovery.

    Attributes:
        resource: the identifier that the server publishes, exactly as it spells it.
        scopes: those to ask for, unless a challenge names others.
    """

    resource: str
    metadata: ServerMetadata
    scopes: tuple[str, ...] = ()


class Grant(Struct, frozen=True):
    """Tokens, and whatever is needed to use and to refresh them. It is stored encrypted only.

    Attributes:
        expires_at: when the access token ends, in microseconds; None: unknown.
        scope: what was granted, as words.
    """

    access_token: str
    refresh_token: str | None
    expires_at: Micros | None
    scope: tuple[str, ...]
    issuer: str
    resource: str
    token_endpoint: str
    client: OAuthClient
    revocation_endpoint: str | None = None


# --- challenges --------------------------------------------------------------

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 (a pattern)
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|,|$)")
_TOKEN68 = re.compile(r"(?<![A-Za-z0-9._~+/-])[A-Za-z0-9._~+/-]++=*+\s*+(?=,|$)")


def parse_challenge(header: str) -> Challenge:
    """Return the `Bearer` challenge of WWW-Authenticate headers, joined by commas; empty without one."""
    text, position = header[:MAX_CHALLENGE], 0
    while (scheme := _SCHEME.match(text, position)) is not None:
        found, position = _parameters(text, scheme.end())
        if scheme[1].lower() == "bearer":
            return Challenge(found.get("resource_metadata"), found.get("scope"), found.get("error"))
    return Challenge()


def _parameters(text: str, position: int) -> tuple[dict[str, str], int]:
    """The parameters of one challenge, and where the next one begins."""
    found: dict[str, str] = {}
    if (alone := _TOKEN68.match(text, position)) is not None:
        return found, alone.end()
    while (pair := _PARAMETER.match(text, position)) is not None:
        value = pair[3] if pair[2] is None else re.sub(r"\\(.)", r"\1", pair[2])
        found.setdefault(pair[1].lower(), value)
        position = pair.end()
        if text[position : position + 1] != ",":
            break
        if _PARAMETER.match(text, position + 1) is None:
            break
        position += 1
    return found, position


# --- metadata ----------------------------------------------------------------


def resource_metadata_urls(server_url: str, named: str | None) -> tuple[str, ...]:
    """Return where a server's metadata may be, in the order of the specification."""
    parts = urlsplit(server_url)
    path = parts.path.rstrip("/")
    known = "/.well-known/oauth-protected-resource"
    urls = [] if named is None else [named]
    if path and parts.query:
        urls.append(urlunsplit((parts.scheme, parts.netloc, f"{known}{path}", parts.query, "")))
    if path:
        urls.append(urlunsplit((parts.scheme, parts.netloc, f"{known}{path}", "", "")))
    urls.append(urlunsplit((parts.scheme, parts.netloc, known, "", "")))
    return tuple(dict.fromkeys(urls))


def server_metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return where an authorization server's metadata may be, in the order of the specification."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    oauth, openid = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
    paths = (f"{oauth}{path}", f"{openid}{path}", f"{path}{openid}") if path else (oauth, openid)
    return tuple(urlunsplit((parts.scheme, parts.netloc, each, "", "")) for each in paths)


_Origin = tuple[str, str, int | None]
_PORTS = {"https": 443, "http": 80}


def origin_of(url: str) -> _Origin:
    """Return a URL's scheme, host and port. Raises ValueError: it has none that are valid."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(scheme)


def old_server(server_url: str) -> ServerMetadata:
    """Return where a server of 2025-03-26 grants access itself, if it has no metadata at all."""
    parts = urlsplit(server_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    return ServerMetadata(origin, f"{origin}/authorize", f"{origin}/token", f"{origin}/register")


def check_resource(published: str, server_url: str) -> None:
    """Check that metadata is about this server: the same origin, and its path or one above it.

    Raises:
        SignInFailed: it is about another server, so nothing in it may be used.
    """
    try:
        same = origin_of(published) == origin_of(server_url)
        parts = urlsplit(published)
    except ValueError:
        same, parts = False, urlsplit("")
    path = f"{urlsplit(server_url).path.rstrip('/')}/"
    if not same or parts.fragment or parts.username or not path.startswith(f"{parts.path.rstrip('/')}/"):
        raise SignInFailed(
            f"the server's metadata is about {shown(published)}, not about {shown(server_url)}: "
            "tell the server's operator"
        )


def check_issuer(metadata: ServerMetadata, issuer: str) -> None:
    """Check that metadata is of this issuer, letter for letter. Raises SignInFailed."""
    if metadata.issuer != issuer:
        raise SignInFailed(
            f"the authorization server's metadata names the issuer {shown(metadata.issuer)}, not "
            f"{shown(issuer)}: none of it is used"
        )


def check_pkce(metadata: ServerMetadata) -> None:
    """Check that the authorization server protects codes with S256. Raises SignInFailed."""
    if "S256" not in (metadata.code_challenge_methods_supported or ()):
        raise SignInFailed(
            f"the authorization server {shown(metadata.issuer)} does not announce PKCE with S256 "
            "(`code_challenge_methods_supported`), so a sign-in there is not safe"
        )


def error_code(text: str) -> str:
    """Return an error's code. What else a server writes in its place, such as a token, is not repeated."""
    return text if re.fullmatch(r"[a-z_]{1,40}", text) else "unknown"


def shown(text: str) -> str:
    """Quote a text of another server for an error message."""
    plain = "".join(char if char.isprintable() else "?" for char in text[:200])
    return repr(plain)


# --- PKCE, scopes, the authorization request -----------------------------------


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a PKCE verifier."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def words(scope: str | None) -> tuple[str, ...]:
    """Return the scopes of a list with spaces. Those that no request could name are left out."""
    found = dict.fromkeys(each for each in (scope or "").split() if _SCOPE.fullmatch(each))
    return tuple(found)[:MAX_SCOPES]


def scopes_to_ask(
    authority: Authority,
    challenged: Sequence[str],
    held: Sequence[str] = (),
    configured: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the scopes to ask for: those of the challenge, or else all that the server supports.

    Args:
        held: those that were granted before: a step up must not lose them.
        configured: those that the server's registration names, in place of all that it supports.
    """
    if challenged:
        wanted = dict.fromkeys((*configured, *held, *challenged))
    else:
        wanted = dict.fromkeys(configured or authority.scopes or held)
    if wanted and "offline_access" in (authority.metadata.scopes_supported or ()):
        wanted["offline_access"] = None
    return tuple(wanted)[:MAX_SCOPES]


def authorize_url(
    authority: Authority,
    client: OAuthClient,
    *,
    redirect_uri: str,
    state: str,
    verifier: str,
    scopes: Sequence[str],
) -> str:
    """Return the URL at which a person grants access."""
    fields = {
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
        "resource": authority.resource,
    }
    if scopes:
        fields["scope"] = " ".join(scopes)
    if "offline_access" in scopes:
        fields["prompt"] = "consent"
    parts = urlsplit(authority.metadata.authorization_endpoint)
    query = "&".join(filter(None, (parts.query, urlencode(fields))))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def check_answer_issuer(answered: str | None, issuer: str, *, announced: bool) -> None:
    """Check who answered an authorization request (RFC 9207). Raises SignInFailed."""
    if answered is None:
        if announced:
            raise SignInFailed("the answer does not name its issuer, although the server announces that")
    elif not hmac.compare_digest(answered.encode(), issuer.encode()):
        raise SignInFailed("the answer comes from another issuer than the one that was asked")


# --- clients -------------------------------------------------------------------


def registration_of(redirect_uri: str, name: str, scopes: Iterable[str]) -> dict[str, object]:
    """Return the request that registers this server as a client."""
    loopback = (urlsplit(redirect_uri).hostname or "") in ("localhost", "127.0.0.1", "::1")
    body: dict[str, object] = {
        "client_name": name,
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "native" if loopback else "web",
    }
    wanted = " ".join(scopes)
    return {**body, "scope": wanted} if wanted else body


def registered_client(
    client_id: str, secret: str | None, metadata: ServerMetadata, redirect_uri: str
) -> OAuthClient:
    """Return the client that somebody registered by hand."""
    return OAuthClient(client_id, secret, method_of(secret, metadata), redirect_uri=redirect_uri)


METHODS = ("none", "client_secret_basic", "client_secret_post")
"""How this client can authenticate at token endpoints."""


def client_of(registered: Registered, metadata: ServerMetadata, redirect_uri: str) -> OAuthClient:
    """Return the client that was registered. Raises SignInFailed: it cannot be used."""
    secret = registered.client_secret or None
    method = registered.token_endpoint_auth_method or method_of(secret, metadata)
    if method not in METHODS or (method != "none" and secret is None) or not registered.client_id:
        raise SignInFailed(
            f"the authorization server registered a client with the method {shown(method)}, which cannot be "
            f"used{'' if secret else ' without a secret'}"
        )
    until = registered.client_secret_expires_at or 0
    return OAuthClient(
        registered.client_id, secret if method != "none" else None, method, until, redirect_uri
    )


def method_of(secret: str | None, metadata: ServerMetadata) -> str:
    """Return how a client with this secret authenticates."""
    if secret is None:
        return "none"
    offered = metadata.token_endpoint_auth_methods_supported
    if offered is None or "client_secret_basic" in offered:
        return "client_secret_basic"
    return "client_secret_post" if "client_secret_post" in offered else "client_secret_basic"


def token_request(client: OAuthClient, fields: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return the headers and the form of a request to a token endpoint."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    form = dict(fields)
    if client.method == "client_secret_basic" and client.client_secret is not None:
        pair = f"{quote(client.client_id, safe='')}:{quote(client.client_secret, safe='')}"
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    else:
        form["client_id"] = client.client_id
        if client.method == "client_secret_post" and client.client_secret is not None:
            form["client_secret"] = client.client_secret
    return headers, urlencode(form)


# --- tokens --------------------------------------------------------------------

_ANSWER = msgspec.json.Decoder(TokenAnswer, strict=False)
_LONGEST = 10 * 365 * 24 * 3600


def parse_token_answer(status: int, body: bytes) -> TokenAnswer:
    """Return the tokens that an endpoint answered with.

    Raises:
        SignInFailed: it refused, with its error code, or its answer has no token that can be used.
    """
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pairs = dict(parse_qsl(body[:65_536].decode("utf-8", "replace")))
        answer = TokenAnswer(error=pairs.get("error"))  # some servers answer with a form
    if answer.error:
        error = error_code(answer.error)
        raise SignInFailed(f"the authorization server answered with the error {error!r}", error=error)
    if status != 200:
        transient = status >= 500 or status == 429
        raise SignInFailed(f"the token endpoint answered with the status {status}", transient=transient)
    if not answer.access_token or not _is_sendable(answer.access_token):
        raise SignInFailed("the token endpoint's answer has no access token that can be sent")
    if (answer.token_type or "").lower() != "bearer":
        raise SignInFailed("the token endpoint's answer has a token that is not of the type Bearer")
    return answer


def _is_sendable(token: str) -> bool:
    return len(token) <= 16_384 and re.fullmatch(r"[\x21-\x7e]+", token) is not None


def expiry_of(answer: TokenAnswer, asked_at: Micros) -> Micros | None:
    """Return when an access token ends, counted from before it was asked for; None if nobody knows.

    A number that makes no sense says nothing: the token is used until the server refuses it.
    """
    try:
        seconds = float(answer.expires_in) if isinstance(answer.expires_in, int | float | str) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return asked_at + int(min(seconds, _LONGEST)) * _TIMES
