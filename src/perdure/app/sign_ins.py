"""Sign-ins at MCP servers: begin one, and finish it.

A sign-in belongs to an identity: a user, or the organization's service. Only the user gets the link to begin,
through a request with the user's own access token. The page behind it says for whom the sign-in is, and marks
the browser; the answer is accepted from this browser only. So nobody can sign in for another user, or have
another person sign in for oneself without that person reading so.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets

import msgspec
from msgspec import Struct

from perdure.app.context import App
from perdure.app.grants import keep_grant, outgoing, revoke_quietly
from perdure.app.input_requests import resume_signed_in
from perdure.app.oauth_clients import authority_of, by_hand, client_at, redirect_uri_of
from perdure.domain.callbacks import hash_of_token, is_signed, sign_token
from perdure.domain.connections import (
    INLINE,
    MAX_CONNECTIONS,
    MAX_SIGN_INS,
    SIGN_IN_SECONDS,
    STATE_PREFIX,
    TOKEN_PREFIX,
    Attempt,
    Identity,
    SignInServer,
)
from perdure.domain.errors import Conflict, Forbidden, Gone, NotFound, RateLimited
from perdure.domain.ids import InputRequestId, McpServerId, OrgId, UserId, is_id
from perdure.domain.mcp_servers import MCP_REF
from perdure.domain.oauth import (
    Challenge,
    Grant,
    SignInFailed,
    authorize_url,
    check_answer_issuer,
    error_code,
    scopes_to_ask,
)
from perdure.domain.times import Micros
from perdure.net.oauth import Code, exchange, place_of
from perdure.store.accounts import get_user, lock_organization, memberships_of
from perdure.store.connections import (
    SignInRow,
    add_sign_in,
    count_connections,
    count_sign_ins,
    find_connection,
    find_sign_in,
    sign_in_by_state,
    take_sign_in,
)
from perdure.store.database import Tx
from perdure.store.input_requests import InputRequestRow, any_input_request, open_input
from perdure.store.mcp_servers import get_mcp_server
from perdure.store.rows import from_json, to_json

log = logging.getLogger("perdure.sign_in")

_ATTEMPT = msgspec.json.Decoder(Attempt)


class Wanted(Struct, frozen=True):
    """A sign-in that somebody wants: whose, where, and what the server asked for."""

    identity: Identity
    server: SignInServer
    challenge: Challenge = Challenge()
    held: tuple[str, ...] = ()


class StartPage(Struct, frozen=True):
    """What the page says at which a sign-in begins. `person` is for whom it is."""

    server: str
    url: str
    person: str


class Began(Struct, frozen=True):
    """Where a browser goes now, and the cookie that marks it."""

    url: str
    cookie: str
    value: str


async def prepare(app: App, wanted: Wanted) -> tuple[str, Attempt]:
    """Find out where to sign in, and store what the answer is checked against.

    Returns:
        The token of the page to begin at, and the attempt.
    """
    now, identity = app.now(), wanted.identity
    await app.database.read(lambda tx: _check_count(tx, identity, now))
    redirect_uri = redirect_uri_of(app)
    given = await app.database.read(lambda tx: by_hand(app, tx, identity.org_id, wanted.server.key))
    try:
        place = await place_of(wanted.server.url, outgoing(app))
        authority = await authority_of(app, identity.org_id, place, given, wanted.challenge)
        challenged = (wanted.challenge.scope or "").split()
        scopes = scopes_to_ask(authority, challenged, wanted.held, given.client.scopes or ())
        client = await client_at(app, place, identity.org_id, given, authority, scopes)
    except SignInFailed as error:
        raise Conflict(error.message, code="sign_in_failed") from None
    state = sign_token(app.callback_key, secrets.token_urlsafe(32), STATE_PREFIX)
    token = sign_token(app.callback_key, secrets.token_urlsafe(32), TOKEN_PREFIX)
    verifier = secrets.token_urlsafe(64)
    url = authorize_url(
        authority, client, redirect_uri=redirect_uri, state=state, verifier=verifier, scopes=scopes
    )
    attempt = Attempt(wanted.server, authority, client, verifier, redirect_uri, scopes, url)

    async def store(tx: Tx) -> None:
        await lock_organization(tx, identity.org_id)
        await _check_count(tx, identity, now)
        row = SignInRow(
            hash_of_token(token),
            hash_of_token(state),
            identity.org_id,
            identity.identity,
            wanted.server.key,
            b"",
            now,
            now + SIGN_IN_SECONDS * 1_000_000,
        )
        sealed = await app.vault.seal(tx, row.org_id, to_json(attempt), row.binding)
        await add_sign_in(tx, msgspec.structs.replace(row, sealed=sealed))
        await given.bind(tx, authority.metadata.issuer)

    await app.database.write(store)
    return token, attempt


async def _check_count(tx: Tx, identity: Identity, now: Micros) -> None:
    """Raise RateLimited if too many sign-ins of an identity are under way."""
    count = await count_sign_ins(tx, identity.org_id, identity.identity, now)
    if count >= MAX_SIGN_INS:
        raise RateLimited(f"{count} sign-ins have begun: finish one, or wait ten minutes", retry_after=60.0)


async def wanted_by(app: App, tx: Tx, row: InputRequestRow) -> Wanted:
    """The sign-in that a parked call waits for."""
    stored = await open_input(app.vault, tx, row)
    challenge = Challenge(stored.resource_metadata, " ".join(stored.scopes) or None)
    server = SignInServer(row.server_key, stored.server, stored.server_url)
    return Wanted(Identity(row.org_id, row.identity), server, challenge)


async def check_url(tx: Tx, org_id: OrgId, server: SignInServer, *, lock: bool = False) -> None:
    """Check that a registered server is still where the sign-in is for. Raises NotFound, Conflict."""
    if server.key.startswith(INLINE):
        return
    row = await get_mcp_server(tx, org_id, McpServerId(server.key), lock=lock)
    if row.url != server.url or row.status != "active":
        raise Conflict(
            f"the MCP server {row.name!r} has changed since the call: make the call again",
            code="sign_in_outdated",
        )


async def start_page(app: App, token: str, *, open_server: bool) -> StartPage:
    """Return what the page says at which a sign-in begins.

    Args:
        open_server: whether the server has no login, so that a parked call's page needs no other proof.

    Raises:
        Gone: the link is too old, or was never valid.
        Forbidden: a parked call's page cannot tell who opens it.
    """

    async def work(tx: Tx) -> StartPage:
        if is_signed(app.callback_key, token, TOKEN_PREFIX):
            row = await find_sign_in(tx, hash_of_token(token), app.now())
            if row is None:
                raise _gone()
            attempt = await _open_attempt(app, tx, row)
            return await _page(tx, Identity(row.org_id, row.identity), attempt.server)
        if not is_id(token, "input"):
            raise _gone()
        if not open_server:  # before a look into the database: nobody learns from here what exists
            raise Forbidden(
                "only the user for whom it is can begin this sign-in: run `perdure mcp sign-in SERVER`, or "
                "POST /v1/user/connections/{provider}/sign-in with your access token, and open that URL",
                code="sign_in_needs_token",
            )
        wanted = await _parked(app, tx, token)
        return await _page(tx, wanted.identity, wanted.server)

    return await app.database.read(work)


async def _parked(app: App, tx: Tx, token: str) -> Wanted:
    row = await any_input_request(tx, InputRequestId(token))
    if row is None or row.kind != "sign_in" or row.status != "open" or row.deadline <= app.now():
        raise _gone()
    wanted = await wanted_by(app, tx, row)
    await check_url(tx, row.org_id, wanted.server)
    return wanted


async def _page(tx: Tx, identity: Identity, server: SignInServer) -> StartPage:
    user_id = identity.user_id
    if user_id is None:
        return StartPage(server.name, server.url, "the organization")
    user = await get_user(tx, user_id)
    return StartPage(server.name, server.url, f"{user.name} ({user.email})")


async def begin(app: App, token: str, *, open_server: bool) -> Began:
    """Send a browser to the authorization server. Raises as `start_page` and `prepare` do."""
    await start_page(app, token, open_server=open_server)
    if is_signed(app.callback_key, token, TOKEN_PREFIX):
        attempt = await app.database.read(lambda tx: _attempt_of(app, tx, token))
        return Began(attempt.url, *_mark(app, token))
    wanted = await app.database.read(lambda tx: _parked(app, tx, token))
    fresh, attempt = await prepare(app, wanted)
    return Began(attempt.url, *_mark(app, fresh))


async def _attempt_of(app: App, tx: Tx, token: str) -> Attempt:
    row = await find_sign_in(tx, hash_of_token(token), app.now())
    if row is None:
        raise _gone()
    return await _open_attempt(app, tx, row)


async def _open_attempt(app: App, tx: Tx, row: SignInRow) -> Attempt:
    return from_json(_ATTEMPT, await app.vault.open(tx, row.org_id, row.sealed, row.binding), "the sign-in")


def _mark(app: App, token: str) -> tuple[str, str]:
    """The name and the value of the cookie that marks the browser which began a sign-in."""
    return _mark_of(app, hash_of_token(token))


def _mark_of(app: App, digest: str) -> tuple[str, str]:
    value = hmac.digest(app.callback_key, f"browser {digest}".encode(), "sha256").hex()
    return f"perdure_sign_in_{hashlib.sha256(digest.encode()).hexdigest()[:16]}", value


class Answer(Struct, frozen=True):
    """What comes back from an authorization server, in the URL of a browser."""

    state: str = ""
    code: str | None = None
    iss: str | None = None
    error: str | None = None


async def finish(app: App, answer: Answer, cookies: dict[str, str]) -> str:
    """Store the tokens of a sign-in, and resume the calls that wait for it; return the server's name.

    Raises:
        Gone: the state is unknown, was used or is too old.
        Forbidden: another browser began this sign-in.
        Conflict: the authorization server refused, or its answer cannot be trusted.
    """
    if not is_signed(app.callback_key, answer.state, STATE_PREFIX):
        raise _gone()

    async def take(tx: Tx) -> tuple[SignInRow, Attempt]:
        row = await sign_in_by_state(tx, hash_of_token(answer.state), app.now())
        if row is None:
            raise _gone()
        name, value = _mark_of(app, row.hash)
        if not hmac.compare_digest(cookies.get(name, "").encode(), value.encode()):
            raise Forbidden(
                "this sign-in was begun in another browser: begin it in this one", code="other_browser"
            )
        attempt = await _open_attempt(app, tx, row)
        if not await take_sign_in(tx, row):
            raise _gone()
        return row, attempt

    row, attempt = await app.database.write(take)
    asked_at = app.now()
    try:
        grant = await _exchanged(app, attempt, answer, asked_at)
    except SignInFailed as error:
        raise Conflict(error.message, code="sign_in_failed") from None
    identity = Identity(row.org_id, row.identity)
    try:
        await app.database.write(lambda tx: _store(app, tx, identity, attempt.server, grant))
    except (NotFound, Conflict):
        await revoke_quietly(app, attempt.server, grant)  # nobody has a use for it
        raise
    app.registry.discoveries.forget(row.org_id, f"{MCP_REF}{row.server_key}")  # it may list more tools now
    await resume_signed_in(app)
    return attempt.server.name


async def _exchanged(app: App, attempt: Attempt, answer: Answer, now: Micros) -> Grant:
    metadata = attempt.authority.metadata
    announced = metadata.authorization_response_iss_parameter_supported is True
    check_answer_issuer(answer.iss, metadata.issuer, announced=announced)
    if answer.error is not None:
        error = error_code(answer.error)
        raise SignInFailed(f"the authorization server answered with the error {error!r}", error=error)
    if not answer.code:
        raise SignInFailed("the authorization server's answer has no code")
    place = await place_of(attempt.server.url, outgoing(app))
    code = Code(answer.code, attempt.verifier, attempt.redirect_uri, attempt.scopes)
    return await exchange(place, attempt.authority, attempt.client, code, now)


async def _store(app: App, tx: Tx, identity: Identity, server: SignInServer, grant: Grant) -> None:
    """Store tokens.

    Raises:
        NotFound, Conflict: the server is gone or has changed, the user has left the organization, or has too
            many sign-ins.
    """
    await lock_organization(tx, identity.org_id)  # whoever leaves it does so before or after this
    await check_url(tx, identity.org_id, server, lock=True)
    user_id = identity.user_id
    if user_id is not None and not await _is_member(tx, identity.org_id, user_id):
        raise Conflict("the user has left the organization", code="sign_in_outdated")
    before = await find_connection(tx, identity.org_id, identity.identity, server.key, lock=True)
    if before is None and await count_connections(tx, identity.org_id, identity.identity) >= MAX_CONNECTIONS:
        raise Conflict(
            f"{MAX_CONNECTIONS} sign-ins are stored, the maximum: remove some first", code="sign_in_failed"
        )
    await keep_grant(app, tx, identity.org_id, identity.identity, server, grant, before)


async def _is_member(tx: Tx, org_id: OrgId, user_id: UserId) -> bool:
    return any(each == org_id for each, _ in await memberships_of(tx, user_id))


def _gone() -> Gone:
    return Gone("this sign-in is over: it was used, is too old, or never existed. Begin a new one")
