"""Who is calling; and what a fresh installation begins with."""

from __future__ import annotations

import hashlib
import secrets

from perdure.app.services import App
from perdure.domain.accounts import Caller
from perdure.domain.agents import HarnessConfig
from perdure.domain.errors import InvalidInput, Unauthenticated
from perdure.domain.ids import check_id
from perdure.domain.times import Micros
from perdure.domain.tools import CapabilityRef
from perdure.store.accounts import (
    OrganizationRow,
    TokenRow,
    UserRow,
    add_membership,
    add_organization,
    add_token,
    add_user,
    any_token,
    first_organization,
    memberships_of,
    owner_of,
    token_by_hash,
)
from perdure.store.agents import HarnessRow, add_harness
from perdure.store.database import Tx
from perdure.store.rows import to_json

TOKEN_PREFIX = "pdr_pat_"  # noqa: S105 (how tokens begin, not one)

GENERIC_CAPABILITIES = ("session_file_system", "session", "current_time", "stateless_todo_list")
"""What the built-in harness `generic` turns on."""


def hash_token(token: str) -> str:
    """What is kept of a token. It has 256 random bits, so a plain hash gives nothing away."""
    return hashlib.sha256(token.encode()).hexdigest()


async def bootstrap(app: App) -> Caller:
    """Make the first organization, its owner and the built-in harnesses, if there is none; the owner."""
    now = app.now()

    async def work(tx: Tx) -> Caller:
        if tx.dialect == "postgres":
            await tx.run("SELECT pg_advisory_xact_lock(1885700964)")
        found = await first_organization(tx)
        if found is None:
            return await _found(app, tx, now)
        owner = await owner_of(tx, found.id)
        return Caller(found.id, owner or "", "owner")

    return await app.database.write(work)


async def _found(app: App, tx: Tx, now: Micros) -> Caller:
    org_id, user_id = app.new_id("org"), app.new_id("user")
    await add_organization(tx, OrganizationRow(org_id, "Default", None, None, now, now))
    await add_user(tx, UserRow(user_id, "Owner", "owner@localhost", now))
    await add_membership(tx, org_id, user_id, "owner", now)
    await app.vault.add_org(tx, org_id, now)
    await add_built_in_harnesses(app, tx, org_id, now)
    return Caller(org_id, user_id, "owner")


async def add_built_in_harnesses(app: App, tx: Tx, org_id: str, now: Micros) -> None:
    """`base` (nothing) and `generic` (the default), read-only, in every organization."""
    for name, display, description, capabilities in (
        ("base", "Base", "Nothing but the model.", ()),
        ("generic", "Generic", "Files, a to-do list, the time and the session itself.", GENERIC_CAPABILITIES),
    ):
        config = HarnessConfig(capabilities=tuple(CapabilityRef(ref) for ref in capabilities))
        row = HarnessRow(
            app.new_id("harness"), org_id, name, display, description, None, None, None, "[]", to_json(config), 1, "active", now, now,
            None,
        )  # fmt: skip
        await add_harness(tx, row)


async def create_token(app: App, caller: Caller, name: str, expires_at: Micros | None = None) -> str:
    """A new access token of the caller, in the clear: it is shown now and never again."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    row = TokenRow(app.new_id("token"), hash_token(token), caller.user_id, name, token[-4:], app.now(), expires_at, None, None)
    await app.database.write(lambda tx: add_token(tx, row))
    return token


async def login_required(app: App) -> bool:
    """Whether requests need credentials: from the first token on."""
    return await app.database.read(any_token)


async def authenticate(app: App, authorization: str | None, organization: str | None) -> Caller:
    """Who calls with this `Authorization` (a token, with or without `Bearer`) and `X-Org-Id`.

    Raises:
        Unauthenticated: no token, or one that is unknown, expired or revoked: the same answer for each.
        InvalidInput: the user belongs to several organizations and the header does not say which.
    """
    token = (authorization or "").removeprefix("Bearer ").strip()
    if not token.startswith(TOKEN_PREFIX) or len(token) > 200:
        raise Unauthenticated("give a valid access token in the Authorization header")
    now = app.now()

    async def work(tx: Tx) -> Caller:
        row = await token_by_hash(tx, hash_token(token))
        if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
            raise Unauthenticated("give a valid access token in the Authorization header")
        memberships = await memberships_of(tx, row.user_id)
        if organization is not None:
            check_id(organization, "org", "X-Org-Id")
            memberships = [each for each in memberships if each[0] == organization]
        elif len(memberships) > 1:
            raise InvalidInput(
                "you belong to several organizations: say which in the X-Org-Id header", code="organization_required"
            )
        if not memberships:
            raise Unauthenticated("this token gives no access to that organization")
        org_id, role = memberships[0]
        return Caller(org_id, row.user_id, role)

    return await app.database.read(work)
