"""Organizations, users, memberships and access tokens."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.accounts import UserRole
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import columns, insert, values


class OrganizationRow(Struct, frozen=True):
    id: str
    name: str
    default_model_id: str | None
    default_harness_id: str | None
    created_at: Micros
    updated_at: Micros


class UserRow(Struct, frozen=True):
    id: str
    name: str
    email: str
    created_at: Micros


class TokenRow(Struct, frozen=True):
    """An access token: `hash` is the SHA-256 of the secret, `hint` its last four characters."""

    id: str
    hash: str
    user_id: str
    name: str
    hint: str
    created_at: Micros
    expires_at: Micros | None
    last_used_at: Micros | None
    revoked_at: Micros | None


async def add_organization(tx: Tx, row: OrganizationRow) -> None:
    await tx.run(insert("organizations", OrganizationRow), *values(row))


async def get_organization(tx: Tx, org_id: str) -> OrganizationRow | None:
    found = await tx.one(f"SELECT {columns(OrganizationRow)} FROM organizations WHERE id = ?", org_id)
    return None if found is None else OrganizationRow(*found)


async def first_organization(tx: Tx) -> OrganizationRow | None:
    """The oldest organization: the one that a fresh installation begins with."""
    found = await tx.one(f"SELECT {columns(OrganizationRow)} FROM organizations ORDER BY created_at, id LIMIT 1")
    return None if found is None else OrganizationRow(*found)


async def set_default_model(tx: Tx, org_id: str, model_id: str | None, now: Micros) -> None:
    await tx.run("UPDATE organizations SET default_model_id = ?, updated_at = ? WHERE id = ?", model_id, now, org_id)


async def add_user(tx: Tx, row: UserRow) -> None:
    await tx.run(insert("users", UserRow), *values(row))


async def add_membership(tx: Tx, org_id: str, user_id: str, role: UserRole, now: Micros) -> None:
    await tx.run("INSERT INTO memberships (org_id, user_id, role, created_at) VALUES (?, ?, ?, ?)", org_id, user_id, role, now)


async def memberships_of(tx: Tx, user_id: str) -> list[tuple[str, UserRole]]:
    """The organizations that a user belongs to, oldest membership first, with the role in each."""
    rows = await tx.all("SELECT org_id, role FROM memberships WHERE user_id = ? ORDER BY created_at, org_id", user_id)
    return [(row[0], row[1]) for row in rows]


async def owner_of(tx: Tx, org_id: str) -> str | None:
    """The organization's oldest owner."""
    found = await tx.one(
        "SELECT user_id FROM memberships WHERE org_id = ? AND role = 'owner' ORDER BY created_at, user_id LIMIT 1", org_id
    )
    return None if found is None else found[0]


async def add_token(tx: Tx, row: TokenRow) -> None:
    await tx.run(insert("tokens", TokenRow), *values(row))


async def token_by_hash(tx: Tx, digest: str) -> TokenRow | None:
    found = await tx.one(f"SELECT {columns(TokenRow)} FROM tokens WHERE hash = ?", digest)
    return None if found is None else TokenRow(*found)


async def any_token(tx: Tx) -> bool:
    """Whether there is a token at all: from the first one on, requests need credentials."""
    return await tx.one("SELECT 1 FROM tokens LIMIT 1") is not None
