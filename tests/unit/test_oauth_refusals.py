"""What authorization servers answer that ends a sign-in, and what each answer means."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from perdure.domain.network import NetworkRules
from perdure.domain.oauth import Authority, Challenge, Grant, OAuthClient, ServerMetadata, SignInFailed
from perdure.net.oauth import (
    MAX_BODY,
    Place,
    check_endpoint,
    client_credentials,
    discover,
    place_of,
    refresh,
    register,
    revoke,
)
from tests.sites import INSIDE, Names, Site

RESOURCE = "/.well-known/oauth-protected-resource"
SERVER = "/.well-known/oauth-authorization-server"
REDIRECT = "http://127.0.0.1:9300/v1/oauth/callback"


def answering(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=body if isinstance(body, bytes) else json.dumps(body).encode(), status=status)


class Company:
    """An MCP server without a path at a site, which is its own authorization server."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.url = f"http://127.0.0.1:{site.port}"
        self.place = Place(f"{self.url}/", INSIDE, local=True)
        self.metadata: dict[str, Any] = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "registration_endpoint": f"{self.url}/register",
            "code_challenge_methods_supported": ["S256"],
        }
        self.says(RESOURCE, {"resource": self.url, "authorization_servers": [self.url]})
        self.says(SERVER, self.metadata)

    def says(self, path: str, body: Any, status: int = 200) -> None:
        self.site.answers[path] = answering(body, status)

    def known(self, **more: Any) -> ServerMetadata:
        urls = (f"{self.url}/{name}" for name in ("authorize", "token"))
        return ServerMetadata(self.url, *urls, **more)


@pytest.fixture
def company(site: Site) -> Company:
    return Company(site)


# --- where a server is ---------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "local"),
    [(["10.0.0.1"], True), (["10.0.0.1", "fd00::1"], True), (["93.184.216.34"], False)],
)
async def test_a_name_is_local_if_its_address_is_private(addresses: list[str], local: bool) -> None:
    names = Names(crm_example=addresses)
    assert (await place_of("https://crm.example/mcp", INSIDE, names)).local is local
    assert names.asked == ["crm.example"]


async def test_a_name_that_cannot_be_resolved_is_not_local() -> None:
    assert not (await place_of("https://crm.example/mcp", INSIDE, Names())).local
    names = Names(crm_example=["10.0.0.1"])
    assert not (await place_of("https://crm.example/mcp", NetworkRules(), names)).local
    assert names.asked == [], "without private networks nobody has to know"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://a.example/to ken", "it has characters that no URL has"),
        ("https://a.example/\u00a0x", "it has characters that no URL has"),
        ("https://a.example/token#x", "an https URL without a fragment"),
        ("http://a.example/token", "an https URL without a fragment"),
        ("https://[", "cannot be used for a sign-in"),
    ],
)
def test_a_url_of_a_public_server_must_be_a_plain_https_url(url: str, said: str) -> None:
    public = Place("https://mcp.example.com/mcp", NetworkRules(), local=False)
    with pytest.raises(SignInFailed, match=said):
        check_endpoint(public, url)
    assert check_endpoint(public, "https://a.example/token") == "https://a.example/token"


# --- metadata ------------------------------------------------------------------


async def test_the_resource_must_name_an_authorization_server_that_has_metadata(company: Company) -> None:
    company.says(RESOURCE, {"resource": company.url})
    with pytest.raises(SignInFailed, match="names no authorization server") as failed:
        await discover(company.place, Challenge())
    assert not failed.value.transient
    company.says(RESOURCE, {"resource": company.url, "authorization_servers": [company.url]})
    company.says(SERVER, {}, 404)
    company.says("/.well-known/openid-configuration", b"\xff{")
    with pytest.raises(SignInFailed, match="has no metadata"):
        await discover(company.place, Challenge())


async def test_a_page_for_browsers_in_place_of_ascii_is_refused(company: Company) -> None:
    company.says(SERVER, {**company.metadata, "authorization_endpoint": f"{company.url}/é"})
    with pytest.raises(SignInFailed, match="not a URL in ASCII"):
        await discover(company.place, Challenge())


async def test_an_issuer_that_is_known_is_preferred_and_another_one_than_the_clients_refused(
    company: Company,
) -> None:
    issuers = ["https://elsewhere.example", company.url]
    company.says(
        RESOURCE, {"resource": company.url, "authorization_servers": issuers, "scopes_supported": ["a"]}
    )
    found = await discover(company.place, Challenge(), prefer=(company.url,))
    assert (found.metadata.issuer, found.scopes) == (company.url, ("a",))
    with pytest.raises(SignInFailed, match="set `oauth_issuer`"):
        await discover(company.place, Challenge(), only=company.url)
    assert company.site.asked == [RESOURCE, SERVER, RESOURCE]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_that_is_busy_can_be_asked_again(company: Company, status: int) -> None:
    company.says(RESOURCE, {}, status)
    with pytest.raises(SignInFailed, match=f"answered with the status {status}") as failed:
        await discover(company.place, Challenge())
    assert failed.value.transient


async def test_a_resource_whose_metadata_cannot_be_read_is_not_an_old_server(company: Company) -> None:
    company.says(RESOURCE, b"<html>", 403)
    with pytest.raises(SignInFailed, match="does not say where to sign in"):
        await discover(company.place, Challenge())
    assert company.site.asked == [RESOURCE]


@pytest.mark.parametrize("slash", ["", "/"])
async def test_an_old_server_grants_access_at_its_origin(company: Company, slash: str) -> None:
    company.says(RESOURCE, {}, 404)
    company.says(SERVER, {**company.metadata, "issuer": f"{company.url}{slash}"})
    found = await discover(company.place, Challenge())
    assert (found.resource, found.metadata.issuer) == (company.place.url, f"{company.url}{slash}")
    with pytest.raises(SignInFailed, match=r"`oauth_client_id` belongs to 'https://a.example'"):
        await discover(company.place, Challenge(), only="https://a.example")
    company.says(SERVER, {**company.metadata, "issuer": "https://evil.example"})
    with pytest.raises(SignInFailed):
        await discover(company.place, Challenge())


async def test_an_old_server_without_metadata_has_its_endpoints_at_the_usual_paths(company: Company) -> None:
    company.says(RESOURCE, {}, 405)
    company.says(SERVER, {}, 404)
    found = await discover(company.place, Challenge())
    assert found.metadata.token_endpoint == f"{company.url}/token"
    company.says("/register", {}, 404)
    with pytest.raises(SignInFailed, match="does not say where to sign in"):
        await register(company.place, found.metadata, REDIRECT, ())


# --- registration --------------------------------------------------------------


async def test_a_server_without_registration_lets_nobody_register(company: Company) -> None:
    with pytest.raises(SignInFailed, match="lets no client register itself"):
        await register(company.place, company.known(), REDIRECT, ())
    assert company.site.asked == []


@pytest.mark.parametrize(
    ("status", "body", "said", "transient"),
    [
        (400, {"error": "invalid_redirect_uri"}, "status 400, error 'invalid_redirect_uri'", False),
        (400, {}, r"\(status 400\)", False),
        (403, b"<html>", r"\(status 403\)", False),
        (404, {}, r"\(status 404\)", False),
        (429, {}, r"\(status 429\)", True),
        (500, b"", r"\(status 500\)", True),
        (201, b"<html>", "the answer to the registration cannot be read", False),
        (200, {"client_id": ""}, "registered a client with the method", False),
    ],
)
async def test_a_registration_that_is_refused_says_why(
    company: Company, status: int, body: Any, said: str, transient: bool
) -> None:
    company.says("/register", body, status)
    metadata = company.known(registration_endpoint=f"{company.url}/register", scopes_supported=("a",))
    with pytest.raises(SignInFailed, match=said) as failed:
        await register(company.place, metadata, REDIRECT, ("a",))
    assert failed.value.transient is transient


# --- tokens --------------------------------------------------------------------


async def test_a_server_gets_a_token_for_itself_without_a_person(company: Company) -> None:
    forms: list[dict[str, str]] = []

    async def token(request: web.Request) -> web.Response:
        forms.append({name: str(value) for name, value in (await request.post()).items()})
        return answering({"access_token": "t", "token_type": "bearer", "refresh_token": "r"})

    company.site.answers["/token"] = token
    authority = Authority(company.url, company.known())
    client = OAuthClient("c", "s", "client_secret_post")
    first = await client_credentials(company.place, authority, client, ("a", "b"), 7)
    second = await client_credentials(company.place, authority, client, (), 7)
    assert (first.access_token, first.refresh_token, first.scope) == ("t", None, ("a", "b"))
    assert second.scope == ()
    assert [each.get("scope") for each in forms] == ["a b", None]
    assert forms[0]["grant_type"] == "client_credentials"


async def test_tokens_are_revoked_only_where_somebody_wants_to_know(company: Company) -> None:
    grant = Grant("t", None, None, (), company.url, company.url, f"{company.url}/token", OAuthClient("c"))
    await revoke(company.place, grant)
    assert company.site.asked == []


async def test_an_answer_that_is_too_long_or_does_not_come_ends_the_request(company: Company) -> None:
    company.says("/token", b" " * (MAX_BODY + 1))
    grant = Grant("t", "r", None, (), company.url, company.url, f"{company.url}/token", OAuthClient("c"))
    with pytest.raises(SignInFailed, match=f"more than {MAX_BODY} bytes") as failed:
        await refresh(company.place, grant, 0)
    assert not failed.value.transient

    async def drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    company.site.answers["/token"] = drop
    with pytest.raises(SignInFailed, match="cannot be reached") as failed:
        await refresh(company.place, grant, 0)
    assert failed.value.transient
    assert "refresh" not in failed.value.message
