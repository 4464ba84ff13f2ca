"""An MCP server with its authorization server, which verify everything that they receive.

What is wrong with a request is in `faults`, so that a test sees it even if the client hides it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from aiohttp import web

Json = dict[str, Any]
BODY_LIMIT = 1_000_000


@dataclass
class Lies:
    """How the servers misbehave. By default, they do not.

    Attributes:
        resource, issuer: what the metadata say instead of the truth.
        iss: the issuer in the answer: None leaves it out, "" is the true one.
        announces_iss: whether the metadata announce it.
        methods: the announced methods of PKCE; None leaves them out.
        endpoints: what replaces endpoints in the metadata.
        registration: whether clients may register themselves.
        documents: whether client documents are accepted.
        secret: the method of authentication that registered clients get with a secret; secret_until: when
            the secret ends, by the server's clock.
        rotates: whether each refresh gives another refresh token; using an old one revokes everything.
        lifetime: seconds for which access tokens are valid; claimed: what the answer says.
        refreshes: whether refresh tokens are given.
        header: whether a 401 names the resource's metadata.
        at_root: whether the resource's metadata are at the root only.
        lists_openly: whether tools are listed without a sign-in.
        down: whether the token endpoint answers with 503.
        old: whether the resource has no metadata (2025-03-26), so that its origin grants access.
        auth_methods, grants: the announced methods of authentication, and types of grants.
        repeats: whether the description of the tool repeats the credentials of the request.
        answer: what replaces fields in answers with tokens.
    """

    resource: str | None = None
    issuer: str | None = None
    iss: str | None = ""
    announces_iss: bool = True
    methods: tuple[str, ...] | None = ("S256",)
    endpoints: Json = field(default_factory=dict)
    registration: bool = True
    documents: bool = False
    secret: str | None = None
    secret_until: int = 0
    rotates: bool = True
    lifetime: int = 3600
    claimed: Any = None
    refreshes: bool = True
    header: bool = True
    at_root: bool = False
    lists_openly: bool = True
    down: bool = False
    scopes: tuple[str, ...] = ("crm:read",)
    path: str = ""
    old: bool = False
    auth_methods: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    repeats: bool = False
    answer: Json = field(default_factory=dict)


@dataclass
class Tokens:
    """A grant: the current access and refresh tokens, and all earlier refresh tokens."""

    client_id: str
    scope: str
    person: str
    access: str = ""
    refresh: str = ""
    until: float = 0.0
    old: set[str] = field(default_factory=set)
    revoked: bool = False


class OAuthServer:
    """Both servers, on one port. `person` is who is signed in at the authorization server's pages."""

    def __init__(self) -> None:
        self.lies = Lies()
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.person = "ada"
        self.port = 0
        self.clients: dict[str, Json] = {}
        self.codes: dict[str, Json] = {}
        self.grants: list[Tokens] = []
        self.calls: list[Json] = []
        self.wants: str | None = None
        self.refreshed = 0
        self.before_answer: Any = None
        self.tool: Any = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def mcp(self) -> str:
        return f"{self.base}/mcp"

    @property
    def issuer(self) -> str:
        return f"{self.base}{self.lies.path}"

    def fault(self, what: str) -> None:
        self.faults.append(what)

    # --- metadata

    async def resource_metadata(self, request: web.Request) -> web.Response:
        if self.lies.old:
            return web.Response(status=404)
        if self.lies.at_root and request.path != "/.well-known/oauth-protected-resource":
            return web.Response(status=404)
        if request.headers.get("Authorization"):
            self.fault("a request for metadata has credentials")
        body: Json = {
            "resource": self.lies.resource or self.mcp,
            "authorization_servers": [self.issuer],
            "scopes_supported": list(self.lies.scopes),
        }
        return web.json_response(body)

    async def server_metadata(self, request: web.Request) -> web.Response:
        body: Json = {
            "issuer": self.lies.issuer or self.issuer,
            "authorization_endpoint": f"{self.base}/authorize?tenant=1",
            "token_endpoint": f"{self.base}/token",
            "revocation_endpoint": f"{self.base}/revoke",
            "response_types_supported": ["code"],
            "scopes_supported": ["offline_access"],
            "authorization_response_iss_parameter_supported": self.lies.announces_iss,
            "client_id_metadata_document_supported": self.lies.documents,
        }
        if self.lies.methods is not None:
            body["code_challenge_methods_supported"] = list(self.lies.methods)
        if self.lies.auth_methods:
            body["token_endpoint_auth_methods_supported"] = list(self.lies.auth_methods)
        if self.lies.grants:
            body["grant_types_supported"] = list(self.lies.grants)
        if self.lies.registration:
            body["registration_endpoint"] = f"{self.base}/register"
        return web.json_response({**body, **self.lies.endpoints})

    # --- clients

    async def register(self, request: web.Request) -> web.Response:
        body = await request.json()
        redirects = body.get("redirect_uris")
        if body.get("token_endpoint_auth_method") != "none" or body.get("response_types") != ["code"]:
            self.fault(f"a registration with {body}")
        if body.get("application_type") not in ("native", "web") or len(redirects or ()) != 1:
            self.fault(f"a registration with {body}")
        if set(body.get("grant_types", ())) != {"authorization_code", "refresh_token"}:
            self.fault(f"a registration for {body.get('grant_types')}")
        client: Json = {"client_id": f"client {len(self.clients)}:%", "redirect_uris": redirects}
        if self.lies.secret is not None:
            client |= {
                "client_secret": f"s3cret:{secrets.token_urlsafe(8)}%",
                "token_endpoint_auth_method": self.lies.secret,
                "client_secret_expires_at": self.lies.secret_until,
            }
        self.clients[client["client_id"]] = client
        return web.json_response(client, status=201)

    def add_client(self, client_id: str, secret: str | None, method: str, redirect: str) -> None:
        """Register a client by hand."""
        client: Json = {"client_id": client_id, "redirect_uris": [redirect]}
        if secret is not None:
            client |= {"client_secret": secret, "token_endpoint_auth_method": method}
        self.clients[client_id] = client

    # --- authorization

    async def authorize(self, request: web.Request) -> web.Response:
        pairs = parse_qsl(request.query_string)
        query = dict(pairs)
        if len(query) != len(pairs) or query.get("tenant") != "1":
            self.fault("the authorization request lost or repeated parameters")
        client = self.clients.get(query.get("client_id", ""))
        redirect = query.get("redirect_uri", "")
        if client is None and self.lies.documents:
            client = {"redirect_uris": [redirect]}
        if client is None or redirect not in client["redirect_uris"]:
            self.fault("an unknown client, or another redirect URI than the registered one")
            return web.Response(status=400)
        if query.get("response_type") != "code" or query.get("code_challenge_method") != "S256":
            self.fault("no code, or no S256")
        if len(query.get("code_challenge", "")) != 43 or len(query.get("state", "")) < 22:
            self.fault("a short challenge or state")
        if query.get("resource") != (self.lies.resource or self.mcp):
            self.fault(f"the resource {query.get('resource')!r}")
        code = secrets.token_urlsafe(24)
        self.codes[code] = {**query, "person": self.person}
        answer = {"code": code, "state": query["state"]}
        if self.lies.iss is not None:
            answer["iss"] = self.lies.iss or self.issuer
        raise web.HTTPFound(f"{redirect}?{urlencode(answer)}")

    # --- tokens

    def _client(self, request: web.Request, form: Json) -> str | None:
        header = request.headers.get("Authorization", "")
        if header.startswith("Basic "):
            name, _, secret = base64.b64decode(header[6:]).decode().partition(":")
            client_id, method = unquote(name), "client_secret_basic"
            given = unquote(secret)
            if "client_secret" in form or "client_id" in form:
                self.fault("two ways to authenticate")
        else:
            client_id, given = form.get("client_id", ""), form.get("client_secret")
            method = "none" if given is None else "client_secret_post"
        client = self.clients.get(client_id, {} if self.lies.documents else None)
        if client is None or given != client.get("client_secret"):
            self.fault("a wrong client secret")
            return None
        if method != client.get("token_endpoint_auth_method", "none"):
            self.fault(f"authenticated by {method}")
        return client_id

    async def token(self, request: web.Request) -> web.Response:
        if self.lies.down:
            return web.Response(status=503)
        if request.content_type != "application/x-www-form-urlencoded" or request.query_string:
            self.fault("a token request that is no form, or has a query")
        form = dict(parse_qsl(await request.text()))
        client_id = self._client(request, form)
        if client_id is None:
            return _error("invalid_client", 401)
        if form.get("resource") != (self.lies.resource or self.mcp):
            self.fault(f"a token for the resource {form.get('resource')!r}")
            return _error("invalid_target")
        if form.get("grant_type") == "authorization_code":
            return await self._exchange(client_id, form)
        if form.get("grant_type") == "refresh_token":
            return await self._refresh(client_id, form)
        if form.get("grant_type") == "client_credentials" and "client_credentials" in self.lies.grants:
            if "client_secret" not in self.clients[client_id]:
                self.fault("client credentials of a public client")
            grant = Tokens(client_id, form.get("scope", ""), "nobody")
            self.grants.append(grant)
            return await self._issued(grant)
        return _error("unsupported_grant_type")

    async def _exchange(self, client_id: str, form: Json) -> web.Response:
        code = self.codes.pop(form.get("code", ""), None)
        if code is None:
            self.fault("an unknown code, or a second use of one")
            return _error("invalid_grant")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if challenge != code["code_challenge"] or not 43 <= len(form["code_verifier"]) <= 128:
            self.fault("the verifier does not fit the challenge")
            return _error("invalid_grant")
        if form.get("redirect_uri") != code["redirect_uri"] or client_id != code["client_id"]:
            self.fault("another redirect URI or client than the code's")
            return _error("invalid_grant")
        grant = Tokens(client_id, code.get("scope", ""), code["person"])
        self.grants.append(grant)
        return await self._issued(grant)

    async def _refresh(self, client_id: str, form: Json) -> web.Response:
        given = form.get("refresh_token", "")
        for grant in self.grants:
            if given in grant.old:
                self.fault("an old refresh token was used again")
                grant.revoked = True
                return _error("invalid_grant")
            if given == grant.refresh and not grant.revoked and grant.client_id == client_id:
                self.refreshed += 1
                return await self._issued(grant)
        return _error("invalid_grant")

    async def _issued(self, grant: Tokens) -> web.Response:
        grant.access = f"at-{secrets.token_urlsafe(24)}"
        grant.until = time.time() + self.lies.lifetime
        if self.lies.refreshes and (self.lies.rotates or not grant.refresh):
            if grant.refresh:
                grant.old.add(grant.refresh)
            grant.refresh = f"rt-{secrets.token_urlsafe(24)}"
        body: Json = {
            "access_token": grant.access,
            "token_type": "bearer",
            "expires_in": self.lies.lifetime if self.lies.claimed is None else self.lies.claimed,
            "scope": grant.scope,
        }
        if (self.lies.refreshes and self.lies.rotates) or (self.lies.refreshes and not grant.old):
            body["refresh_token"] = grant.refresh
        if self.before_answer is not None:
            await self.before_answer()
        return web.json_response({**body, **self.lies.answer})

    async def revoke(self, request: web.Request) -> web.Response:
        form = dict(parse_qsl(await request.text()))
        for grant in self.grants:
            if form.get("token") in (grant.refresh, grant.access):
                grant.revoked = True
        return web.Response()

    # --- the MCP server (2025-11-25, answers as JSON)

    def _holder(self, request: web.Request) -> Tokens | None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer":
            return None
        return next(
            (
                each
                for each in self.grants
                if each.access == token and not each.revoked and each.until > time.time()
            ),
            None,
        )

    def _refused(self, status: int, error: str, scope: str | None = None) -> web.Response:
        parts = [f'error="{error}"', 'error_description="try scope=fake, please"']
        if scope:
            parts.append(f'scope="{scope}"')
        if self.lies.header:
            parts.append(f'resource_metadata="{self.base}/.well-known/oauth-protected-resource/mcp"')
        return web.Response(
            status=status, headers={"WWW-Authenticate": f"Basic realm=x, Bearer {', '.join(parts)}"}
        )

    async def post(self, request: web.Request) -> web.Response:
        body = await request.json()
        method, key = body.get("method"), body.get("id")
        if "access_token" in request.query_string:
            self.fault("a token in the query")
        holder = self._holder(request)
        if holder is None and (not self.lies.lists_openly or method == "tools/call"):
            return self._refused(401, "invalid_token")
        if key is None:
            return web.Response(status=202)
        if method == "initialize":
            result: Json = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "crm", "version": "1"},
            }
        elif method == "tools/list":
            said = {"description": f"You sent {request.headers.get('Authorization')}."}
            result = {"tools": [{**_TOOL, **(said if self.lies.repeats else {})}]}
        elif method == "tools/call" and holder is not None:
            if self.wants is not None and self.wants not in holder.scope.split():
                return self._refused(403, "insufficient_scope", self.wants)
            self.calls.append({"person": holder.person, **body["params"]})
            if self.tool is not None:
                answer: web.Response = await self.tool(self, key, body["params"], holder)
                return answer
            text = f"{holder.person} found it with {holder.access}"
            result = {"content": [{"type": "text", "text": text}]}
        else:
            error = {"code": -32601, "message": "no such method"}
            return web.json_response({"jsonrpc": "2.0", "id": key, "error": error})
        return web.json_response({"jsonrpc": "2.0", "id": key, "result": result})

    @property
    def secrets(self) -> set[str]:
        """Everything that must be in no log."""
        found = {each.get("client_secret") for each in self.clients.values()} | set(self.codes)
        for grant in self.grants:
            found |= {grant.access, grant.refresh, *grant.old}
        return {each for each in found if each}


_TOOL = {
    "name": "find",
    "description": "Find a customer.",
    "inputSchema": {"type": "object", "properties": {"who": {"type": "string"}}},
}


def _error(code: str, status: int = 400) -> web.Response:
    return web.json_response({"error": code, "error_description": "no <b>way</b>"}, status=status)


@contextlib.asynccontextmanager
async def oauth_server() -> AsyncIterator[OAuthServer]:
    """Both servers on this machine."""
    server = OAuthServer()

    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:
        server.asked.append(request.path)
        answer: web.StreamResponse = await handler(request)
        return answer

    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[note])
    known = "/.well-known"
    app.router.add_get(f"{known}/oauth-protected-resource", server.resource_metadata)
    app.router.add_get(f"{known}/oauth-protected-resource/mcp", server.resource_metadata)
    app.router.add_get(f"{known}/oauth-authorization-server", server.server_metadata)
    app.router.add_get("/tenant/.well-known/openid-configuration", server.server_metadata)
    app.router.add_post("/register", server.register)
    app.router.add_get("/authorize", server.authorize)
    app.router.add_post("/token", server.token)
    app.router.add_post("/revoke", server.revoke)
    app.router.add_post("/mcp", server.post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = urlsplit(f"//{runner.addresses[0][0]}:{runner.addresses[0][1]}").port or 0
    try:
        yield server
    finally:
        await runner.cleanup()
