"""Access tokens: create, list, revoke, and authenticate requests by them."""

from __future__ import annotations

import hashlib
import secrets

from perdure.app.context import App
from perdure.domain.accounts import Caller, CreateToken, Token, UserRole
from perdure.domain.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from perdure.domain.ids import OrgId, TokenId, UserId, check_id
from perdure.domain.times import Micros, from_rfc3339, maybe_rfc3339, to_rfc3339
from perdure.store.accounts import (
    TokenRow,
    add_token,
    any_token,
    count_tokens,
    forget_tokens,
    is_current,
    lock_user,
    memberships_of,
    revoke_token,
    token_by_hash,
    tokens_of,
    touch_token,
)
from perdure.store.database import Tx

TOKEN_PREFIX = "pdr_pat_"  # noqa: S105 (a prefix, not a token)

USED_EVERY = 60_000_000
"""The precision of `last_used_at`, in microseconds: a token's use is written at most once in this time."""

MAX_TOKENS = 100
"""Working access tokens of a user: its own, and in each organization those that others created for it."""

_REFUSED = "send a valid access token: Authorization: Bearer pdr_pat_..."


def hash_token(token: str) -> str:
    """Hash a token for storage. Tokens have 256 random bits, so a fast hash without salt is safe."""
    return hashlib.sha256(token.encode()).hexdigest()


def to_token(row: TokenRow, secret: str | None = None) -> Token:
    """Convert a row to the resource.

    Args:
        secret: the token itself, known only when it has just been created.
    """
    return Token(
        row.id,
        row.name,
        row.hint,
        to_rfc3339(row.created_at),
        secret,
        maybe_rfc3339(row.expires_at),
        maybe_rfc3339(row.last_used_at),
        maybe_rfc3339(row.revoked_at),
        row.org_id,
        row.created_by,
    )


async def create_token(app: App, caller: Caller, body: CreateToken, creator: UserId | None = None) -> Token:
    """Create an access token of the caller, and return it with its secret. The secret is not stored.

    If the caller's own token is bound to one organization, the new one is bound to it too.

    Args:
        creator: who creates it, if not the caller.

    Raises:
        InvalidInput: `expires_at` is malformed or in the past.
        Conflict: the user has as many tokens as are allowed.
    """
    expires: Micros | None = None
    if body.expires_at is not None:
        try:
            expires = from_rfc3339(body.expires_at)
        except ValueError:
            raise InvalidInput(
                "`expires_at` must be an RFC 3339 time with an offset", field="expires_at"
            ) from None
        if expires <= app.now():
            raise InvalidInput("`expires_at` must be in the future", field="expires_at")
    secret, now = TOKEN_PREFIX + secrets.token_urlsafe(32), app.now()
    row = TokenRow(
        app.new_id("token"),
        hash_token(secret),
        caller.user_id,
        body.name,
        secret[-4:],
        now,
        expires,
        None,
        None,
        bound_to(caller),
        creator or caller.user_id,
        makers_of(caller) if creator is None else caller.makers,
    )

    async def work(tx: Tx) -> None:
        await lock_user(tx, row.user_id)
        if await count_tokens(tx, row.user_id, row.org_id, now) >= MAX_TOKENS:
            raise Conflict(
                f"a user has at most {MAX_TOKENS} access tokens: revoke one first", code="too_many_tokens"
            )
        await forget_tokens(tx, row.user_id, row.org_id, now, keep=MAX_TOKENS)
        await add_token(tx, row)

    await app.database.write(work)
    return to_token(row, secret)


def makers_of(caller: Caller) -> str:
    """Return the ids of all users who may know a token or an invitation that the caller creates.

    Those are the caller and all who may know the caller's own token: they could have created it too.
    """
    return " ".join(sorted({caller.user_id, *caller.makers.split()}))


async def list_tokens(app: App, caller: Caller) -> list[Token]:
    """List the caller's tokens, newest first, including revoked ones."""
    rows = await app.database.read(lambda tx: tokens_of(tx, caller.user_id, bound_to(caller)))
    return [to_token(row) for row in rows]


def bound_to(caller: Caller) -> OrgId | None:
    """Return the organization that the caller's token is bound to; None if it works in all of the user's."""
    return caller.organization_id if caller.bound else None


async def end_token(app: App, caller: Caller, token_id: TokenId) -> None:
    """Revoke one of the caller's tokens. It stops working at once. Raises NotFound."""
    now = app.now()
    if not await app.database.write(
        lambda tx: revoke_token(tx, caller.user_id, token_id, now, bound_to(caller))
    ):
        raise NotFound("token")


async def login_required(app: App) -> bool:
    """Return whether requests need credentials: true as soon as any token exists."""
    return await app.database.read(any_token)


def token_in(authorization: str | None) -> str:
    """Return the token in an `Authorization` header, or an empty string if it has none.

    The token may come with `Bearer`, in any case, or alone.
    """
    first, *rest = (authorization or "").split() or [""]
    if not rest:
        return first
    return rest[0] if first.lower() == "bearer" and len(rest) == 1 else ""


async def authenticate(
    app: App, authorization: str | None, organization: str | None, *, anywhere: bool = False
) -> Caller:
    """Return the caller that a request's headers authenticate.

    Args:
        authorization: the `Authorization` header.
        organization: the `X-Org-Id` header.
        anywhere: whether any of the user's organizations will do if the header names none.

    Raises:
        Unauthenticated: the token is missing, unknown, expired or revoked; the message is the same for each.
        InvalidInput: the user belongs to several organizations and the header names none.
    """
    token = token_in(authorization)
    if not token.startswith(TOKEN_PREFIX) or len(token) > 200:
        raise Unauthenticated(_REFUSED)
    now = app.now()

    async def work(tx: Tx) -> tuple[Caller, TokenRow]:
        row = await token_by_hash(tx, hash_token(token))
        if (
            row is None
            or row.revoked_at is not None
            or (row.expires_at is not None and row.expires_at <= now)
        ):
            raise Unauthenticated(_REFUSED)
        org_id, role = await membership_in(tx, row.user_id, organization, only=row.org_id, anywhere=anywhere)
        caller = Caller(org_id, row.user_id, role, row.org_id is not None, row.makers or "", row.id)
        return caller, row

    caller, row = await app.database.read(work)
    if row.last_used_at is None or now - row.last_used_at >= USED_EVERY:
        await app.database.write(lambda tx: touch_token(tx, row.id, now))
    return caller


async def owner_in(app: App, owner: Caller, organization: str) -> Caller:
    """Return the owner of a server without a login as a caller in another organization.

    Raises:
        Unauthenticated: the owner does not belong to the organization.
    """
    org_id, role = await app.database.read(lambda tx: membership_in(tx, owner.user_id, organization))
    return Caller(org_id, owner.user_id, role)


async def may_continue(app: App, caller: Caller) -> bool:
    """Return whether the caller's token and membership still stand, for answers that take long."""
    token_id = caller.token_id
    if token_id is None:
        return True
    now = app.now()
    return await app.database.read(lambda tx: is_current(tx, token_id, caller.organization_id, now))


async def membership_in(
    tx: Tx, user_id: UserId, organization: str | None, only: OrgId | None = None, *, anywhere: bool = False
) -> tuple[OrgId, UserRole]:
    """Return the organization in which a user makes a request, and the user's role there.

    Args:
        organization: the `X-Org-Id` header; may be left out if the user belongs to only one organization.
        only: the organization that the user's token is bound to; None if it is not bound.
        anywhere: whether any of the user's organizations will do if the header names none.

    Raises:
        Unauthenticated: the user does not belong to the organization.
        InvalidInput: the user belongs to several organizations and the header names none.
    """
    memberships = [each for each in await memberships_of(tx, user_id) if only in (None, each[0])]
    if organization is not None:
        check_id(organization, "org", "X-Org-Id")
        memberships = [each for each in memberships if each[0] == organization]
    elif len(memberships) > 1 and not anywhere:
        raise InvalidInput(
            "you belong to several organizations: name one in the X-Org-Id header",
            code="organization_required",
        )
    if not memberships:
        raise Unauthenticated("the access token's user is not a member of the organization: check X-Org-Id")
    return memberships[0]
