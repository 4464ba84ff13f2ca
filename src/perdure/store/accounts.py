"""Rows of organizations, users, memberships and access tokens."""

from __future__ import annotations

import msgspec
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
    fallback_models: str = "[]"

    def fallback_ids(self) -> tuple[ModelId, ...]:
        return model_ids(self.fallback_models)


class UserRow(Struct, frozen=True):
    """A user; `org_id` is the organization that added it, None for an account that none added."""

    id: UserId
    name: str
    email: str
    created_at: Micros
    org_id: OrgId | None = None


class TokenRow(Struct, frozen=True):
    """An access token: `hash` is the SHA-256 of the secret, `hint` its last four characters.

    A token with an `org_id` is valid in that organization only. `created_by` is the user who made it, and
    `makers` are the ids of all users who may know it, separated by spaces; None if unknown.
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
    created_by: UserId | None
    makers: str | None


_MODEL_IDS = msgspec.json.Decoder(tuple[ModelId, ...])


def model_ids(text: str) -> tuple[ModelId, ...]:
    """Decode an organization's fallback models; none if they are damaged: turns do not depend on them."""
    try:
        return _MODEL_IDS.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return ()


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


async def lock_user(tx: Tx, user_id: UserId) -> None:
    """Lock the user's row until the commit, to serialize changes of its tokens."""
    await tx.one(f"SELECT id FROM users WHERE id = ?{LOCK_ROW[tx.dialect]}", user_id)


async def has_member(tx: Tx, org_id: OrgId, email: str) -> bool:
    """Return whether a member of the organization has this e-mail address."""
    found = await tx.one(
        "SELECT 1 FROM memberships m JOIN users u ON u.id = m.user_id"
        " WHERE m.org_id = ? AND LOWER(u.email) = LOWER(?)",
        org_id,
        email,
    )
    return found is not None


async def former_member(tx: Tx, org_id: OrgId, email: str) -> UserRow | None:
    """Return a user whom the organization added and removed again; None if there is none.

    Accounts that belong to other organizations or to none are never found (promise P8).
    """
    found = await tx.one(
        f"SELECT {_USER} FROM users WHERE org_id = ? AND LOWER(email) = LOWER(?)"
        " AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = users.id)"
        " ORDER BY created_at, id LIMIT 1",
        org_id,
        email,
    )
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


async def end_membership(
    tx: Tx, org_id: OrgId, user_id: UserId, now: Micros, *, handover: bool = False
) -> None:
    """Remove a user from the organization, with its pins there, the tokens bound to it, and those it made.

    The user and the resources that it created stay.

    Args:
        handover: as in `revoke_outranked`.
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
    await revoke_outranked(tx, org_id, user_id, now, handover=handover)


_RANK = "CASE {}.role WHEN 'owner' THEN 2 WHEN 'admin' THEN 1 ELSE 0 END"
_PAIRS = (
    "SELECT 1 FROM memberships m JOIN memberships u ON u.org_id = m.org_id AND u.user_id <> m.user_id"
    " WHERE m.org_id = tokens.org_id AND u.user_id = tokens.user_id"
)
_ROLES = f"{_RANK.format('m')} {{}} {_RANK.format('u')}"


async def revoke_outranked(
    tx: Tx, org_id: OrgId, user_id: UserId, now: Micros, *, handover: bool = False
) -> None:
    """Revoke the tokens of others that a user may no longer know, and those of the user that others may not.

    Call it after a change of the user's membership. Somebody may know another's token who is a member with at
    least the other's role. After a change of their own role it must be higher than the other's, as if they
    made the token now.

    Args:
        handover: whether owners keep theirs, because the user leaves on its own: nobody might be left to make
            new ones.
    """
    kept = (
        " AND NOT EXISTS (SELECT 1 FROM memberships o WHERE o.org_id = tokens.org_id"
        " AND o.user_id = tokens.user_id AND o.role = 'owner')"
        if handover
        else ""
    )
    await tx.run(
        "UPDATE tokens SET revoked_at = ? WHERE org_id = ? AND revoked_at IS NULL AND user_id <> ?"
        f" AND makers LIKE ?{kept}"
        f" AND NOT EXISTS ({_PAIRS} AND m.user_id = ? AND {_ROLES.format('>')})",
        now,
        org_id,
        user_id,
        f"%{user_id}%",
        user_id,
    )
    await tx.run(
        "UPDATE tokens SET revoked_at = ? WHERE org_id = ? AND revoked_at IS NULL AND user_id = ?"
        f" AND EXISTS ({_PAIRS} AND tokens.makers LIKE '%' || m.user_id || '%' AND {_ROLES.format('<')})",
        now,
        org_id,
        user_id,
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


async def count_tokens(tx: Tx, user_id: UserId, bound_to: OrgId | None, now: Micros) -> int:
    """Return the number of a user's tokens that work, of those bound to an organization or to none."""
    narrowed, args = _bound(bound_to)
    found = await tx.one(
        f"SELECT COUNT(*) FROM tokens WHERE user_id = ?{narrowed} AND revoked_at IS NULL"
        " AND (expires_at IS NULL OR expires_at > ?)",
        user_id,
        *args,
        now,
    )
    return 0 if found is None else int(found[0])


async def forget_tokens(tx: Tx, user_id: UserId, bound_to: OrgId | None, now: Micros, keep: int) -> None:
    """Delete the oldest of a user's tokens that no longer work, down to `keep` of them."""
    narrowed, args = _bound(bound_to)
    dead = (
        f"user_id = ?{narrowed} AND (revoked_at IS NOT NULL OR (expires_at IS NOT NULL AND expires_at <= ?))"
    )
    await tx.run(
        f"DELETE FROM tokens WHERE {dead} AND id NOT IN (SELECT id FROM tokens WHERE {dead}"
        f" ORDER BY created_at DESC, id DESC LIMIT {keep})",
        user_id,
        *args,
        now,
        user_id,
        *args,
        now,
    )


def _bound(bound_to: OrgId | None) -> tuple[str, list[OrgId]]:
    return (" AND org_id IS NULL", []) if bound_to is None else (" AND org_id = ?", [bound_to])


async def token_by_hash(tx: Tx, digest: str) -> TokenRow | None:
    found = await tx.one(f"SELECT {_TOKEN} FROM tokens WHERE hash = ?", digest)
    return None if found is None else TokenRow(*found)


async def is_current(tx: Tx, token_id: TokenId, org_id: OrgId, now: Micros) -> bool:
    """Return whether a token works and its user is a member of the organization."""
    found = await tx.one(
        "SELECT 1 FROM tokens t JOIN memberships m ON m.user_id = t.user_id AND m.org_id = ?"
        " WHERE t.id = ? AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > ?)",
        org_id,
        token_id,
        now,
    )
    return found is not None


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
    "mcp": "mcp_servers",
}


async def organization_holding(tx: Tx, resource_id: str) -> OrgId | None:
    """Return the organization that a resource belongs to, by the prefix of its id; None if unknown."""
    table = _TABLE_BY_PREFIX.get(resource_id.rsplit("_", 1)[0])
    if table is None:
        return None
    found = await tx.one(f"SELECT org_id FROM {table} WHERE id = ?", resource_id)
    return None if found is None else found[0]
