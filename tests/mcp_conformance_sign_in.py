"""The conformance client's sign-ins: parts of `perdure.net.oauth`, in the order in which sign-ins use them.

The person is a request that follows no redirect. Nothing is stored.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx
from msgspec.structs import replace

from perdure.domain.errors import ToolError
from perdure.domain.mcp import McpContent, McpInputRequired, McpTool, McpUnauthorized
from perdure.domain.network import NetworkRules
from perdure.domain.oauth import (
    Authority,
    Challenge,
    Grant,
    OAuthClient,
    SignInFailed,
    authorize_url,
    check_answer_issuer,
    parse_challenge,
    registered_client,
    scopes_to_ask,
    words,
)
from perdure.net.mcp.endpoints import McpEndpoint
from perdure.net.mcp.hosts import McpHosts
from perdure.net.oauth import Code, client_credentials, discover, exchange, place_of, register

RULES = NetworkRules(private=True)
REDIRECT = "http://127.0.0.1:9300/v1/oauth/callback"
DOCUMENT = "https://conformance-test.local/client-metadata.json"
ATTEMPTS = 3
T = TypeVar("T")


class SignIn:
    """The sign-ins of one scenario."""

    def __init__(self, url: str, scenario: str, context: dict[str, Any]) -> None:
        self.url, self.scenario, self.context = url, scenario, context
        self.hosts = McpHosts()
        self.grant: Grant | None = None
        self.clients: dict[str, OAuthClient] = {}

    def endpoint(self) -> McpEndpoint:
        token = () if self.grant is None else (("Authorization", f"Bearer {self.grant.access_token}"),)
        return McpEndpoint(self.url, token, rules=RULES, identity="" if self.grant is None else "me")

    async def authorized(self, send: Callable[[McpEndpoint], Awaitable[T]]) -> T:
        """Send a request; sign in if the server wants that."""
        for _ in range(ATTEMPTS):
            try:
                return await send(self.endpoint())
            except McpUnauthorized as error:
                challenge = parse_challenge(error.challenge)
                more = error.status == 403 and challenge.error == "insufficient_scope"
                if error.status == 403 and not more:
                    raise
                held = self.grant.scope if more and self.grant is not None else ()
                if more and not set(words(challenge.scope)) - set(held):
                    raise
                self.grant = await self.sign_in(challenge, held)
        return await send(self.endpoint())

    async def sign_in(self, challenge: Challenge, held: tuple[str, ...]) -> Grant:
        place = await place_of(self.url, RULES)
        authority = await discover(place, challenge, only=self.context.get("issuer"))
        wanted = (*held, *words(challenge.scope)) if challenge.scope else ()
        scopes = scopes_to_ask(authority, wanted, held)
        client = await self.client(authority, scopes)
        if "client-credentials" in self.scenario:
            return await client_credentials(place, authority, client, scopes, 0)
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(64)
        url = authorize_url(
            authority, client, redirect_uri=REDIRECT, state=state, verifier=verifier, scopes=scopes
        )
        async with httpx.AsyncClient() as person:
            answer = await person.get(url)
        back = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
        assert back["state"] == state
        announced = authority.metadata.authorization_response_iss_parameter_supported is True
        check_answer_issuer(back.get("iss"), authority.metadata.issuer, announced=announced)
        return await exchange(place, authority, client, Code(back["code"], verifier, REDIRECT, scopes), 0)

    async def client(self, authority: Authority, scopes: tuple[str, ...]) -> OAuthClient:
        metadata = authority.metadata
        if "client_id" in self.context:
            secret = self.context.get("client_secret")
            return registered_client(self.context["client_id"], secret, metadata, REDIRECT)
        if metadata.client_id_metadata_document_supported is True:
            return OAuthClient(DOCUMENT, redirect_uri=REDIRECT)
        if metadata.issuer not in self.clients:
            place = await place_of(self.url, RULES)
            self.clients[metadata.issuer] = await register(place, metadata, REDIRECT, scopes)
        return self.clients[metadata.issuer]


async def signed_in(run: SignIn) -> None:
    """List the tools, and call the first one twice. What is refused is an error of the scenario's server."""
    try:
        offer = await run.authorized(lambda endpoint: run.hosts.offer(endpoint, timeout=20))
        tool = next(iter(offer.tools), McpTool("test-tool"))

        async def call(endpoint: McpEndpoint) -> McpContent | McpInputRequired:
            return await run.hosts.call(
                endpoint, scope="one", tool=replace(tool), arguments={}, meta={}, extra_headers={},
                timeout=20, idempotent=True, progress=print,
            )  # fmt: skip

        for _ in range(2):
            await run.authorized(call)
    except (SignInFailed, ToolError) as error:
        print(f"refused: {error}")
        raise SystemExit(1) from None
    finally:
        await run.hosts.close()
