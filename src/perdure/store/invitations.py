"""Rows of open invitations."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.accounts import UserRole
from perdure.domain.ids import InvitationId, OrgId, UserId
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import columns, insert, values


class InvitationRow(Struct, frozen=True):
    """An open invitation.

    `hash` is the SHA-256 of its code, `email` a note about who should accept it, and `makers` the ids of all
    users who may know it.
    """

    id: InvitationId
    org_id: OrgId
    hash: str
    email: str | None
    role: UserRole
    created_by: UserId
    makers: str
    created_at: Micros
    expires_at: Micros


_COLUMNS = columns(InvitationRow)


async def add_invitation(tx: Tx, row: InvitationRow) -> None:
    await tx.run(insert("invitations", InvitationRow), *values(row))


async def invitations_of(tx: Tx, org_id: OrgId, now: Micros) -> list[InvitationRow]:
    """Return the organization's invitations that have not expired, newest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM invitations WHERE org_id = ? AND expires_at > ?"
        " ORDER BY created_at DESC, id DESC",
        org_id,
        now,
    )
    return [InvitationRow(*row) for row in rows]


async def invitation_by_code(
    tx: Tx, invitation_id: InvitationId, digest: str, now: Micros
) -> InvitationRow | None:
    """Return an invitation that has not expired, by its id and the hash of its code."""
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM invitations WHERE id = ? AND hash = ? AND expires_at > ?",
        invitation_id,
        digest,
        now,
    )
    return None if found is None else InvitationRow(*found)


async def delete_invitation(tx: Tx, org_id: OrgId, invitation_id: InvitationId) -> bool:
    """Delete an invitation. Returns whether the organization had it."""
    deleted = await tx.run("DELETE FROM invitations WHERE org_id = ? AND id = ?", org_id, invitation_id)
    return deleted == 1


async def delete_expired_invitations(tx: Tx, org_id: OrgId, now: Micros) -> None:
    await tx.run("DELETE FROM invitations WHERE org_id = ? AND expires_at <= ?", org_id, now)


async def delete_invitations_of(tx: Tx, org_id: OrgId, user_id: UserId) -> None:
    """Delete the organization's invitations that a user may know."""
    await tx.run("DELETE FROM invitations WHERE org_id = ? AND makers LIKE ?", org_id, f"%{user_id}%")
