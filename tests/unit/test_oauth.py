"""OAuth: what is parsed, compared and built, and requests to an authorization server that verifies all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import pytest_asyncio
from msgspec.structs import replace

from perdure.domain.network import NetworkRules
from perdure.domain.oauth import (
    Authority,
    Challenge,
    Grant,
    OAuthClient,
    ServerMetadata,
    SignInFailed,
    authorize_url,
    challenge_of,
    check_answer_issuer,
    check_resource,
    expiry_of,
    parse_challenge,
    parse_token_answer,
    resource_metadata_urls,
    scopes_to_ask,
    server_metadata_urls,
)
from perdure.net.oauth import Code, Place, discover, exchange, place_of, refresh, register, revoke
from tests.oauth_server import OAuthServer, oauth_server

REDIRECT = "http://127.0.0.1:9300/v1/oauth/callback"
INSIDE = NetworkRules(private=True)
VERIFIER = "v" * 50


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Challenge()),
        ("Bearer", Challenge()),
        ('Bearer resource_metadata="https://a/x"', Challenge("https://a/x")),
        ('bearer  SCOPE = "a b" , error=invalid_token', Challenge(None, "a b", "invalid_token")),
        ('Basic realm="Bearer scope=x", Bearer scope="y"', Challenge(None, "y")),
        ('Negotiate abc==, Bearer scope="y"', Challenge(None, "y")),
        ('Bearer error_description="use scope=\\"z\\" now", scope=a', Challenge(None, "a")),
        ('Bearer scope="a", Basic realm="r", Bearer scope="b"', Challenge(None, "a")),
        ('Bearer scope="a", scope="b"', Challenge(None, "a")),
        ('Bearer x_scope="no"', Challenge()),
        ("Basic realm=x, Digest realm=y, nonce=z", Challenge()),
        ("é, , ,Bearer", Challenge()),
        ('Bearer scope="unterminated', Challenge()),
    ],
)
def test_challenges_are_parsed_as_the_standard_says(header: str, expected: Challenge) -> None:
    assert parse_challenge(header) == expected


def test_a_hostile_challenge_costs_little_time() -> None:
    for header in ('Bearer a="' * 50_000, "Bearer " * 50_000, "a=" * 50_000, ', Bearer x="\\' * 20_000):
        parse_challenge(header)


def test_metadata_is_looked_for_where_the_standards_say() -> None:
    known = "https://h:8/.well-known/oauth-protected-resource"
    assert resource_metadata_urls("https://h:8/public/mcp", None) == (f"{known}/public/mcp", known)
    assert resource_metadata_urls("https://h:8/", None) == (known,)
    assert resource_metadata_urls("https://h:8/m?t=1", "https://x/y") == (
        "https://x/y",
        f"{known}/m?t=1",
        f"{known}/m",
        known,
    )
    assert server_metadata_urls("https://a/t1/") == (
        "https://a/.well-known/oauth-authorization-server/t1",
        "https://a/.well-known/openid-configuration/t1",
        "https://a/t1/.well-known/openid-configuration",
    )
    assert server_metadata_urls("https://[::1]:3") == (
        "https://[::1]:3/.well-known/oauth-authorization-server",
        "https://[::1]:3/.well-known/openid-configuration",
    )


@pytest.mark.parametrize(
    ("published", "right"),
    [
        ("https://h/api/mcp", True),
        ("https://H:443/api", True),
        ("https://h", True),
        ("https://h/", True),
        ("https://h/ap", False),
        ("https://h/api/mcp/more", False),
        ("http://h/api/mcp", False),
        ("https://h:444/api/mcp", False),
        ("https://evil/api/mcp", False),
        ("https://h/api#x", False),
        ("https://h@evil/api", False),
        ("https://u@h/api", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_metadata_of_another_resource_is_refused(published: str, right: bool) -> None:
    if right:
        check_resource(published, "https://h/api/mcp")
    else:
        with pytest.raises(SignInFailed):
            check_resource(published, "https://h/api/mcp")


@pytest.mark.parametrize(
    ("answered", "announced", "right"),
    [
        ("https://a", True, True),
        (None, True, False),
        ("https://a/", True, False),
        ("https://b", False, False),
        (None, False, True),
        ("https://é", False, False),
    ],
)
def test_the_issuer_of_an_answer_is_compared_letter_for_letter(
    answered: str | None, announced: bool, right: bool
) -> None:
    if right:
        check_answer_issuer(answered, "https://a", announced=announced)
    else:
        with pytest.raises(SignInFailed):
            check_answer_issuer(answered, "https://a", announced=announced)


METADATA = ServerMetadata("https://a", "https://a/auth?x=1", "https://a/token")


def test_the_authorization_request_has_everything_and_keeps_the_query() -> None:
    authority = Authority("https://h/mcp", METADATA)
    url = authorize_url(
        authority, OAuthClient("c"), redirect_uri=REDIRECT, state="s", verifier=VERIFIER, scopes=("a", "b")
    )
    fields = parse_qs(urlsplit(url).query)
    assert {name: value[0] for name, value in fields.items()} == {
        "x": "1",
        "response_type": "code",
        "client_id": "c",
        "redirect_uri": REDIRECT,
        "state": "s",
        "code_challenge": challenge_of(VERIFIER),
        "code_challenge_method": "S256",
        "resource": "https://h/mcp",
        "scope": "a b",
    }


def test_a_step_up_keeps_what_was_granted_and_offline_access_comes_from_the_authority_only() -> None:
    authority = Authority("r", METADATA, ("all", "of"))
    assert scopes_to_ask(authority, ()) == ("all", "of")
    assert scopes_to_ask(authority, ("new",), ("old",)) == ("old", "new")
    assert scopes_to_ask(Authority("r", METADATA), ()) == ()
    offline = ServerMetadata("i", "a", "t", scopes_supported=("offline_access",))
    assert scopes_to_ask(Authority("r", offline, ("x",)), ()) == ("x", "offline_access")
    assert scopes_to_ask(Authority("r", offline), ()) == ()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, b'{"error":"invalid_grant","error_description":"<x>"}', "invalid_grant"),
        (200, b'{"error":"bad_verification_code"}', "bad_verification_code"),
        (200, b"error=access_denied&x=1", "access_denied"),
        (200, b'{"access_token":"t"}', ""),
        (200, b'{"access_token":"t","token_type":"mac"}', ""),
        (200, b'{"access_token":"t\\nx: y","token_type":"Bearer"}', ""),
        (200, b'{"token_type":"Bearer"}', ""),
        (200, b"<html>", ""),
        (500, b"", ""),
        (200, b"[" * 100_000, ""),
    ],
)
def test_answers_without_a_token_that_can_be_used_are_errors(status: int, body: bytes, error: str) -> None:
    with pytest.raises(SignInFailed) as failed:
        parse_token_answer(status, body)
    assert failed.value.error == error
    assert failed.value.transient is (status == 500)


def test_numbers_may_be_texts() -> None:
    answer = parse_token_answer(
        200, b'{"access_token":"t","token_type":"bEaReR","expires_in":"3600","scope":null}'
    )
    assert expiry_of(answer, 1) == 3_600_000_001
    for odd in (-5, "soon", "1e999", [1], None):
        assert expiry_of(replace(answer, expires_in=odd), 1) is None
    assert expiry_of(replace(answer, expires_in=1e308), 0) == 10 * 365 * 24 * 3600 * 1_000_000


@pytest_asyncio.fixture
async def server() -> AsyncIterator[OAuthServer]:
    async with oauth_server() as opened:
        yield opened


async def signed_in_at(server: OAuthServer, place: Place) -> tuple[Grant, Authority]:
    authority = await discover(place, Challenge())
    client = await register(place, authority.metadata, REDIRECT, authority.scopes)
    scopes = scopes_to_ask(authority, ())
    url = authorize_url(
        authority, client, redirect_uri=REDIRECT, state="s" * 30, verifier=VERIFIER, scopes=scopes
    )
    async with httpx.AsyncClient() as http:
        answer = await http.get(url)
    back = {name: value[0] for name, value in parse_qs(urlsplit(answer.headers["location"]).query).items()}
    check_answer_issuer(back.get("iss"), authority.metadata.issuer, announced=True)
    code = Code(back["code"], VERIFIER, REDIRECT, scopes)
    return await exchange(place, authority, client, code, 1_000_000), authority


@pytest.mark.parametrize("secret", [None, "client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("path", ["", "/tenant"])
async def test_a_sign_in_from_discovery_to_rotation(
    server: OAuthServer, secret: str | None, path: str
) -> None:
    server.lies.secret, server.lies.path = secret, path
    place = await place_of(server.mcp, INSIDE)
    grant, _ = await signed_in_at(server, place)
    assert (grant.scope, grant.expires_at) == (("crm:read", "offline_access"), 3_601_000_000)
    fresh = await refresh(place, grant, 5_000_000)
    assert fresh.access_token != grant.access_token
    assert fresh.refresh_token not in (None, grant.refresh_token)
    with pytest.raises(SignInFailed) as failed:
        await refresh(place, grant, 6_000_000)
    assert failed.value.error == "invalid_grant"
    assert server.faults == ["an old refresh token was used again"]
    await revoke(place, fresh)
    assert server.grants[0].revoked


async def test_a_refresh_without_a_new_refresh_token_keeps_the_old_one(server: OAuthServer) -> None:
    server.lies.rotates = False
    place = await place_of(server.mcp, INSIDE)
    grant, _ = await signed_in_at(server, place)
    server.lies.refreshes = False
    fresh = await refresh(place, grant, 5_000_000)
    assert fresh.refresh_token == grant.refresh_token
    assert server.faults == []


LIES: tuple[tuple[str, Any, bool], ...] = (
    ("resource", "https://evil.example.com/mcp", False),
    ("issuer", "https://evil.example.com", True),
    ("methods", None, True),
    ("methods", ("plain",), True),
    ("endpoints", {"token_endpoint": "http://169.254.169.254/token"}, True),
    ("endpoints", {"authorization_endpoint": "javascript:alert(1)"}, True),
    ("endpoints", {"authorization_endpoint": "file:///etc/passwd"}, True),
    ("endpoints", {"token_endpoint": 7}, True),
    ("endpoints", {"token_endpoint": "https://u:p@a.example/x"}, True),
)


@pytest.mark.parametrize(("name", "value", "contacted"), LIES)
async def test_lying_metadata_ends_the_sign_in(
    server: OAuthServer, name: str, value: Any, contacted: bool
) -> None:
    setattr(server.lies, name, value)
    with pytest.raises(SignInFailed):
        await discover(await place_of(server.mcp, INSIDE), Challenge())
    asked = "/.well-known/oauth-authorization-server" in server.asked
    assert asked is contacted, "a mismatch of the resource ends it before any contact"
    assert "/register" not in server.asked


async def test_a_public_server_leads_nobody_into_a_private_network(server: OAuthServer) -> None:
    public = Place("https://mcp.example.com/mcp", INSIDE, local=False)
    for url in (
        f"{server.base}/x",
        "https://10.0.0.1/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://localhost/x",
    ):
        with pytest.raises(SignInFailed):
            await discover(public, Challenge(url))
    assert server.asked == []
    with pytest.raises(SignInFailed, match="not a public host"):
        await place_of(server.mcp, NetworkRules())


async def test_the_root_has_the_metadata_if_the_path_has_none(server: OAuthServer) -> None:
    server.lies.at_root = True
    found = await discover(await place_of(server.mcp, INSIDE), Challenge())
    assert found.metadata.issuer == server.issuer
    assert server.asked[:2] == [
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-protected-resource",
    ]
