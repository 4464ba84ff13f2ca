"""Requests to authorization servers, whose URLs come from the servers that want a sign-in.

Every URL is checked and bounded: HTTPS, except on this machine or a private network if the MCP server itself
is there; no redirects; 256 KB; 10 seconds. A public server can therefore lead nobody into a private network.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import ClientError
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from msgspec.structs import replace
from yarl import URL

from perdure.domain.errors import ToolError
from perdure.domain.network import NetworkRules
from perdure.domain.oauth import (
    Authority,
    Challenge,
    Grant,
    OAuthClient,
    Registered,
    ResourceMetadata,
    ServerMetadata,
    SignInFailed,
    TokenAnswer,
    check_issuer,
    check_pkce,
    check_resource,
    client_of,
    error_code,
    expiry_of,
    old_server,
    parse_token_answer,
    registration_of,
    resource_metadata_urls,
    server_metadata_urls,
    shown,
    token_request,
    words,
)
from perdure.domain.times import Micros
from perdure.net.addresses import SystemResolver, is_public_address, plain_address
from perdure.net.web_client import checked_url, guarded_session, read_body, reason_of

MAX_BODY = 256 * 1024
TIME_LIMIT = 10.0
"""Seconds for one request."""
_HEADERS = {"User-Agent": "perdure", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
_RESOURCE = msgspec.json.Decoder(ResourceMetadata)
_SERVER = msgspec.json.Decoder(ServerMetadata)
_REGISTERED = msgspec.json.Decoder(Registered, strict=False)

_ABSENT = frozenset({404, 405, 410})
"""Statuses that say that nothing is there."""
_NOWHERE = (
    "{} does not say where to sign in: it has no OAuth metadata (RFC 9728). Check its URL; if it takes an "
    "API key, set `api_key` and the `auth_mode` `api_key`"
)

T = TypeVar("T")


class Place(Struct, frozen=True):
    """Where an MCP server is, and what may be reached for its sake.

    Attributes:
        local: whether it is on this machine or in a private network, so that its authorization server may be
            there, too, and without HTTPS.
    """

    url: str
    rules: NetworkRules
    local: bool


async def place_of(url: str, rules: NetworkRules, resolver: AbstractResolver | None = None) -> Place:
    """Find out where an MCP server is.

    Args:
        rules: what the session, or the server's operator, lets tools reach.

    Raises:
        SignInFailed: the URL may not be used.
    """
    try:
        host = checked_url(url, rules).raw_host or ""
    except ToolError as error:
        raise SignInFailed(error.message) from None
    local = bool(rules.private) and await _is_local(host, resolver or SystemResolver())
    return Place(url, rules, local)


async def _is_local(host: str, resolver: AbstractResolver) -> bool:
    address = plain_address(host)
    if address is not None:
        return not is_public_address(address)
    try:
        found = await resolver.resolve(host, 0, socket.AF_UNSPEC)
    except (OSError, UnicodeError):
        return False
    return bool(found) and not any(is_public_address(each["host"]) for each in found)


def check_endpoint(place: Place, url: str) -> str:
    """Check a URL that a server named, before it is used or shown. Raises SignInFailed."""
    rules = place.rules if place.local else replace(place.rules, private=False)
    try:
        checked_url(url, rules)
        parts = urlsplit(url)
    except (ToolError, ValueError) as error:
        raise SignInFailed(f"{shown(url)} cannot be used for a sign-in: {error}") from None
    if any(not char.isprintable() or char.isspace() for char in url):
        raise SignInFailed(f"{shown(url)} cannot be used for a sign-in: it has characters that no URL has")
    if parts.fragment or (parts.scheme != "https" and not place.local):
        raise SignInFailed(
            f"{shown(url)} cannot be used for a sign-in: it must be an https URL without a fragment"
        )
    return url


async def discover(
    place: Place, challenge: Challenge, prefer: tuple[str, ...] = (), only: str | None = None
) -> Authority:
    """Find out who grants access to a server, and check that its metadata tells the truth.

    Args:
        prefer: issuers to choose if the server names them: this server is registered there.
        only: the issuer that a client which somebody registered belongs to. No other one is asked.

    Raises:
        SignInFailed: there is no metadata, or it contradicts itself; `transient` if it could not be read.
    """
    urls = resource_metadata_urls(place.url, challenge.resource_metadata)
    seen: list[int] = []
    resource = await _first(place, urls, _RESOURCE.decode, seen)
    if resource is None:
        return await _old_authority(place, seen, only)
    check_resource(resource.resource, place.url)
    issuers = resource.authorization_servers
    if not issuers:
        raise SignInFailed(f"{shown(place.url)} names no authorization server in its metadata")
    issuer = next((each for each in prefer if each in issuers), issuers[0])
    _check_only(issuer, only)
    metadata = await _first(place, server_metadata_urls(check_endpoint(place, issuer)), _SERVER.decode)
    if metadata is None:
        raise SignInFailed(f"the authorization server {shown(issuer)} has no metadata (RFC 8414)")
    check_issuer(metadata, issuer)
    check_pkce(metadata)
    _check_endpoints(place, metadata)
    return Authority(resource.resource, metadata, words(" ".join(resource.scopes_supported or ())))


def _check_endpoints(place: Place, metadata: ServerMetadata) -> None:
    if not metadata.authorization_endpoint.isascii():  # it is sent to browsers in a header
        raise SignInFailed(f"{shown(metadata.authorization_endpoint)} is not a URL in ASCII")
    for url in (metadata.authorization_endpoint, metadata.token_endpoint):
        check_endpoint(place, url)


def _check_only(issuer: str, only: str | None) -> None:
    if only is not None and issuer != only:
        raise SignInFailed(
            f"the server names the authorization server {shown(issuer)}, but `oauth_client_id` belongs to "
            f"{shown(only)}: if that is right, set `oauth_issuer`, and send `oauth_client_secret` again"
        )


async def _old_authority(place: Place, statuses: list[int], only: str | None) -> Authority:
    """Find out how a server of the revision 2025-03-26 grants access: its own origin does.

    Only if it clearly has no metadata of a protected resource: a document that cannot be read is not absent.

    Args:
        statuses: those of the requests for this metadata.
    """
    if any(status not in _ABSENT for status in statuses):
        raise SignInFailed(_NOWHERE.format(shown(place.url)))
    default = old_server(place.url)
    origin = default.issuer
    metadata = await _first(place, server_metadata_urls(origin)[:1], _SERVER.decode)
    if metadata is None:
        _check_only(origin, only)
        _check_endpoints(place, default)
        return Authority(place.url, default)
    if metadata.issuer != f"{origin}/":
        check_issuer(metadata, origin)
    _check_only(metadata.issuer, only)
    check_pkce(metadata)
    _check_endpoints(place, metadata)
    return Authority(place.url, metadata)


async def _first(
    place: Place, urls: tuple[str, ...], decode: Callable[[bytes], T], seen: list[int] | None = None
) -> T | None:
    """The first document that can be decoded; None if no URL has one. `seen` gets the statuses."""
    for url in urls:
        status, body = await _send(place, "GET", url)
        if seen is not None:
            seen.append(status)
        if status >= 500 or status == 429:
            raise SignInFailed(f"{shown(url)} answered with the status {status}", transient=True)
        if status != 200:
            continue
        try:
            return decode(body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
    return None


async def register(
    place: Place, metadata: ServerMetadata, redirect_uri: str, scopes: tuple[str, ...]
) -> OAuthClient:
    """Register this server as a client (RFC 7591).

    Raises:
        SignInFailed: the authorization server refuses, or does not offer it.
    """
    if metadata.registration_endpoint is None:
        raise SignInFailed(
            f"the authorization server {shown(metadata.issuer)} lets no client register itself, and does not "
            "accept client documents of this server either (they need an https PERDURE_PUBLIC_URL)"
        )
    body = msgspec.json.encode(registration_of(redirect_uri, "Perdure", scopes))
    status, answer = await _send(
        place, "POST", metadata.registration_endpoint, {"Content-Type": "application/json"}, body
    )
    if status in _ABSENT and metadata == old_server(place.url):
        raise SignInFailed(_NOWHERE.format(shown(place.url)))
    if status not in (200, 201):
        raise SignInFailed(
            f"the authorization server {shown(metadata.issuer)} refused to register this server (status "
            f"{status}{_error_in(answer)})",
            transient=status >= 500 or status == 429,
        )
    try:
        registered = _REGISTERED.decode(answer)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise SignInFailed("the answer to the registration cannot be read") from None
    return client_of(registered, metadata, redirect_uri)


def _error_in(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=TokenAnswer, strict=False).error
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""
    return f", error {error_code(error)!r}" if error else ""


class Code(Struct, frozen=True):
    """An authorization code, and all that its exchange needs. It is used once."""

    code: str
    verifier: str
    redirect_uri: str
    scopes: tuple[str, ...]


async def exchange(place: Place, authority: Authority, client: OAuthClient, code: Code, now: Micros) -> Grant:
    """Exchange a code for tokens. Raises SignInFailed."""
    fields = {
        "grant_type": "authorization_code",
        "code": code.code,
        "redirect_uri": code.redirect_uri,
        "code_verifier": code.verifier,
        "resource": authority.resource,
    }
    answer = await _ask_for_token(place, authority.metadata.token_endpoint, client, fields)
    return _granted(answer, authority, client, code.scopes, now)


async def refresh(place: Place, grant: Grant, now: Micros) -> Grant:
    """Get a new access token. The new refresh token, if there is one, replaces the old one.

    Raises:
        SignInFailed: with `error` `invalid_grant`, the grant was revoked.
    """
    fields = {
        "grant_type": "refresh_token",
        "refresh_token": grant.refresh_token or "",
        "resource": grant.resource,
    }
    answer = await _ask_for_token(place, grant.token_endpoint, grant.client, fields)
    return replace(
        grant,
        access_token=answer.access_token or "",
        refresh_token=answer.refresh_token or grant.refresh_token,
        expires_at=expiry_of(answer, now),
        scope=answer.scopes or grant.scope,
    )


async def client_credentials(
    place: Place, authority: Authority, client: OAuthClient, scopes: tuple[str, ...], now: Micros
) -> Grant:
    """Get a token for this server itself, without a person. Raises SignInFailed."""
    fields = {"grant_type": "client_credentials", "resource": authority.resource}
    if scopes:
        fields["scope"] = " ".join(scopes)
    metadata = authority.metadata
    answer = await _ask_for_token(place, metadata.token_endpoint, client, fields)
    return _granted(replace(answer, refresh_token=None), authority, client, scopes, now)


def _granted(
    answer: TokenAnswer, authority: Authority, client: OAuthClient, scopes: tuple[str, ...], now: Micros
) -> Grant:
    metadata = authority.metadata
    return Grant(
        answer.access_token or "",
        answer.refresh_token or None,
        expiry_of(answer, now),
        answer.scopes or scopes,
        metadata.issuer,
        authority.resource,
        metadata.token_endpoint,
        client,
        metadata.revocation_endpoint,
    )


async def revoke(place: Place, grant: Grant) -> None:
    """Tell the authorization server that the tokens are not needed any more, if it wants to know.

    Raises:
        SignInFailed: it cannot be told.
    """
    token = grant.refresh_token or grant.access_token
    if grant.revocation_endpoint is not None:
        headers, form = token_request(grant.client, {"token": token})
        await _send(place, "POST", grant.revocation_endpoint, headers, form.encode())


async def _ask_for_token(place: Place, url: str, client: OAuthClient, fields: dict[str, str]) -> TokenAnswer:
    headers, form = token_request(client, fields)
    return parse_token_answer(*await _send(place, "POST", url, headers, form.encode()))


async def _send(
    place: Place, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, bytes]:
    """Send a request without following redirects; returns the status and at most `MAX_BODY` bytes.

    Raises:
        SignInFailed: the URL is refused, or no answer came. The message has nothing of the request's body.
    """
    check_endpoint(place, url)
    rules = place.rules if place.local else replace(place.rules, private=False)
    try:
        async with (
            guarded_session(rules, TIME_LIMIT, _HEADERS, line_size=16_384) as session,
            session.request(
                method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
            ) as response,
        ):
            content, more = await read_body(response, MAX_BODY)
            if more:
                raise SignInFailed(f"{shown(url)} answered with more than {MAX_BODY} bytes")
            return response.status, content
    except TimeoutError:
        raise SignInFailed(
            f"{shown(url)} did not answer within {TIME_LIMIT:g} seconds", transient=True
        ) from None
    except ClientError as error:
        raise SignInFailed(f"{shown(url)} cannot be reached: {reason_of(error)}", transient=True) from None
