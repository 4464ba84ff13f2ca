"""Rows of organizations, users, memberships and access tokens."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.accounts import UserRole
from perdure.domain.errors import NotFound
from perdure.domain.ids import HarnessId, ModelId, OrgId, TokenId, UserId
from perdure.domain.times import Micros
from perdure.store.database import LOCK_ROW, Changes, Tx
from perdure.store.rows import assignments, columns, insert, like_pattern, values


class OrganizationRow(Struct, frozen=True):
    id: OrgId
    name: str
    default_model_id: ModelId | None
    default_harness_id: HarnessId | None
    onboarding_completed_at: Micros | None
    created_at: Micros
    updated_at: Micros


class UserRow(Struct, frozen=True):
    id: UserId
    name: str
    email: str
    created_at: Micros


class TokenRow(Struct, frozen=True):
    """An access token: `hash` is the SHA-256 of the secret, `hint` its last four characters.

    A token with an `org_id` is valid in that organization only.
    """

    id: TokenId
    hash: str
    user_id: UserId
    name: str
    hint: str
    created_at: Micros
    expires_at: Micros | None
    last_used_at: Micros | None
    revoked_at: Micros | None
    org_id: OrgId | None


_ORGANIZATION = columns(OrganizationRow)
_USER = columns(UserRow)
_TOKEN = columns(TokenRow)


async def add_organization(tx: Tx, row: OrganizationRow) -> None:
    await tx.run(insert("organizations", OrganizationRow), *values(row))


async def get_organization(tx: Tx, org_id: OrgId) -> OrganizationRow | None:
    found = await tx.one(f"SELECT {_ORGANIZATION} FROM organizations WHERE id = ?", org_id)
    return None if found is None else OrganizationRow(*found)


async def lock_organization(tx: Tx, org_id: OrgId) -> None:
    """Lock the organization's row until the commit, to serialize its rare changes."""
    await tx.one(f"SELECT id FROM organizations WHERE id = ?{LOCK_ROW[tx.dialect]}", org_id)


async def update_organization(tx: Tx, org_id: OrgId, changes: Changes) -> None:
    await tx.run(f"UPDATE organizations SET {assignments(changes)} WHERE id = ?", *changes.values(), org_id)


async def first_organization(tx: Tx) -> OrganizationRow | None:
    """Return the oldest organization, which every installation starts with; None before it exists."""
    found = await tx.one(f"SELECT {_ORGANIZATION} FROM organizations ORDER BY created_at, id LIMIT 1")
    return None if found is None else OrganizationRow(*found)


async def set_default_model(tx: Tx, org_id: OrgId, model_id: ModelId | None, now: Micros) -> None:
    await update_organization(tx, org_id, {"default_model_id": model_id, "updated_at": now})


async def add_user(tx: Tx, row: UserRow) -> None:
    await tx.run(insert("users", UserRow), *values(row))


async def get_user(tx: Tx, user_id: UserId) -> UserRow:
    """Return a user. Raises NotFound."""
    found = await tx.one(f"SELECT {_USER} FROM users WHERE id = ?", user_id)
    if found is None:
        raise NotFound("user")
    return UserRow(*found)


async def user_by_email(tx: Tx, email: str) -> UserRow | None:
    found = await tx.one(f"SELECT {_USER} FROM users WHERE LOWER(email) = LOWER(?)", email)
    return None if found is None else UserRow(*found)


async def rename_user(tx: Tx, user_id: UserId, name: str) -> None:
    await tx.run("UPDATE users SET name = ? WHERE id = ?", name, user_id)


async def delete_user(tx: Tx, user_id: UserId) -> None:
    """Delete a user with its memberships, tokens and pins. Its resources stay with the organization."""
    for table in ("memberships", "tokens", "pins"):
        await tx.run(f"DELETE FROM {table} WHERE user_id = ?", user_id)
    await tx.run("DELETE FROM users WHERE id = ?", user_id)


async def members_of(tx: Tx, org_id: OrgId, search: str | None) -> list[tuple[UserRow, UserRole]]:
    """Return the organization's users and their roles, oldest first, up to 1,000."""
    narrowed = (
        ""
        if search is None
        else " AND (LOWER(u.name) LIKE LOWER(?) ESCAPE '!' OR LOWER(u.email) LIKE LOWER(?) ESCAPE '!')"
    )
    args = [] if search is None else [like_pattern(search)] * 2
    rows = await tx.all(
        f"SELECT {columns(UserRow, alias='u')}, m.role FROM memberships m JOIN users u ON u.id = m.user_id"
        f" WHERE m.org_id = ?{narrowed} ORDER BY u.created_at, u.id LIMIT 1000",
        org_id,
        *args,
    )
    return [(UserRow(*row[:-1]), row[-1]) for row in rows]


async def set_membership(tx: Tx, org_id: OrgId, user_id: UserId, role: UserRole, now: Micros) -> None:
    """Add a user to the organization, or change its role there."""
    await tx.run(
        "INSERT INTO memberships (org_id, user_id, role, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role",
        org_id,
        user_id,
        role,
        now,
    )


async def end_membership(tx: Tx, org_id: OrgId, user_id: UserId, now: Micros) -> None:
    """Remove a user from the organization, with its pins there and the tokens bound to it.

    The user and the resources that it created stay.
    """
    await tx.run("DELETE FROM memberships WHERE org_id = ? AND user_id = ?", org_id, user_id)
    await tx.run("DELETE FROM pins WHERE org_id = ? AND user_id = ?", org_id, user_id)
    # Revoked, so that a later membership does not reactivate these tokens.
    await tx.run(
        "UPDATE tokens SET revoked_at = COALESCE(revoked_at, ?) WHERE user_id = ? AND org_id = ?",
        now,
        user_id,
        org_id,
    )


async def memberships_of(tx: Tx, user_id: UserId) -> list[tuple[OrgId, UserRole]]:
    """Return the user's organizations and its role in each, oldest membership first."""
    rows = await tx.all(
        "SELECT org_id, role FROM memberships WHERE user_id = ? ORDER BY created_at, org_id", user_id
    )
    return [(row[0], row[1]) for row in rows]


async def owners_of(tx: Tx, org_id: OrgId) -> list[UserId]:
    """Return the ids of the organization's owners, oldest membership first."""
    rows = await tx.all(
        "SELECT user_id FROM memberships WHERE org_id = ? AND role = 'owner' ORDER BY created_at, user_id",
        org_id,
    )
    return [row[0] for row in rows]


async def add_token(tx: Tx, row: TokenRow) -> None:
    await tx.run(insert("tokens", TokenRow), *values(row))


async def token_by_hash(tx: Tx, digest: str) -> TokenRow | None:
    found = await tx.one(f"SELECT {_TOKEN} FROM tokens WHERE hash = ?", digest)
    return None if found is None else TokenRow(*found)


async def tokens_of(tx: Tx, user_id: UserId, bound_to: OrgId | None = None) -> list[TokenRow]:
    """Return a user's tokens, newest first, up to 1,000; with `bound_to`, only those bound to it."""
    narrowed, args = ("", []) if bound_to is None else (" AND org_id = ?", [bound_to])
    rows = await tx.all(
        f"SELECT {_TOKEN} FROM tokens WHERE user_id = ?{narrowed} ORDER BY created_at DESC, id DESC"
        " LIMIT 1000",
        user_id,
        *args,
    )
    return [TokenRow(*row) for row in rows]


async def revoke_token(
    tx: Tx, user_id: UserId, token_id: TokenId, now: Micros, bound_to: OrgId | None = None
) -> bool:
    """Revoke a user's token; with `bound_to`, only if the token is bound to that organization.

    Returns:
        Whether such a token exists.
    """
    narrowed, args = ("", []) if bound_to is None else (" AND org_id = ?", [bound_to])
    touched = await tx.run(
        f"UPDATE tokens SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ? AND user_id = ?{narrowed}",
        now,
        token_id,
        user_id,
        *args,
    )
    return touched == 1


async def touch_token(tx: Tx, token_id: TokenId, now: Micros) -> None:
    """Record when a token was last used."""
    await tx.run("UPDATE tokens SET last_used_at = ? WHERE id = ?", now, token_id)


async def any_token(tx: Tx) -> bool:
    """Return whether any token exists: from the first one on, requests need credentials."""
    return await tx.one("SELECT 1 FROM tokens LIMIT 1") is not None


_TABLE_BY_PREFIX = {
    "session": "sessions",
    "agent": "agents",
    "harness": "harnesses",
    "provider": "providers",
    "model": "models",
}


async def organization_holding(tx: Tx, resource_id: str) -> OrgId | None:
    """Return the organization that a resource belongs to, by the prefix of its id; None if unknown."""
    table = _TABLE_BY_PREFIX.get(resource_id.rsplit("_", 1)[0])
    if table is None:
        return None
    found = await tx.one(f"SELECT org_id FROM {table} WHERE id = ?", resource_id)
    return None if found is None else found[0]
