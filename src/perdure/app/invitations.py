"""Invitations: users who have an account join another organization with it only if they accept."""

from __future__ import annotations

import secrets

from perdure.app.context import App
from perdure.app.login import hash_token, makers_of
from perdure.domain.accounts import (
    AcceptInvitation,
    Caller,
    CreateInvitation,
    Invitation,
    ResolvedOrganization,
    require,
    require_own_token,
)
from perdure.domain.errors import Conflict, NotFound
from perdure.domain.ids import InvitationId
from perdure.domain.times import to_rfc3339
from perdure.domain.visible import check_labels
from perdure.store.accounts import get_organization, lock_organization, memberships_of, set_membership
from perdure.store.database import Tx
from perdure.store.invitations import (
    InvitationRow,
    add_invitation,
    delete_expired_invitations,
    delete_invitation,
    invitation_by_code,
    invitations_of,
)

CODE_PREFIX = "pdr_inv_"

VALID_FOR = 7 * 24 * 3600 * 1_000_000
"""Microseconds until an invitation expires."""

MAX_INVITATIONS = 100
"""Open invitations of an organization."""


def _to_invitation(row: InvitationRow, code: str | None = None) -> Invitation:
    return Invitation(
        row.id,
        row.role,
        row.created_by,
        to_rfc3339(row.created_at),
        to_rfc3339(row.expires_at),
        row.email,
        code,
    )


async def create_invitation(app: App, caller: Caller, body: CreateInvitation) -> Invitation:
    """Create an invitation to the organization, and return it with its code. The code is not stored.

    Admins only. Callers cannot grant a role above their own.

    Raises:
        Conflict: the organization has as many open invitations as are allowed.
    """
    require(caller, "admin")
    require(caller, body.role)
    check_labels(body, "email")
    now, code = app.now(), CODE_PREFIX + secrets.token_urlsafe(32)
    row = InvitationRow(
        app.new_id("invitation"),
        caller.organization_id,
        hash_token(code),
        body.email,
        body.role,
        caller.user_id,
        makers_of(caller),
        now,
        now + VALID_FOR,
    )

    async def work(tx: Tx) -> None:
        await lock_organization(tx, row.org_id)
        await delete_expired_invitations(tx, row.org_id, now)
        if len(await invitations_of(tx, row.org_id, now)) >= MAX_INVITATIONS:
            raise Conflict(
                f"an organization has at most {MAX_INVITATIONS} open invitations: withdraw one first",
                code="too_many_invitations",
            )
        await add_invitation(tx, row)

    await app.database.write(work)
    return _to_invitation(row, code)


async def all_invitations(app: App, caller: Caller) -> list[Invitation]:
    """List the organization's open invitations, newest first; admins only."""
    require(caller, "admin")
    rows = await app.database.read(lambda tx: invitations_of(tx, caller.organization_id, app.now()))
    return [_to_invitation(row) for row in rows]


async def withdraw_invitation(app: App, caller: Caller, invitation_id: InvitationId) -> None:
    """Withdraw an open invitation; admins only. Raises NotFound."""
    require(caller, "admin")
    if not await app.database.write(lambda tx: delete_invitation(tx, caller.organization_id, invitation_id)):
        raise NotFound("invitation")


async def accept_invitation(
    app: App, caller: Caller, invitation_id: InvitationId, body: AcceptInvitation
) -> ResolvedOrganization:
    """Make the caller a member of the organization that invites it. An invitation is accepted once.

    Raises:
        NotFound: the id or the code is wrong, or the invitation is over.
        Conflict: the caller is a member already.
    """
    now, digest = app.now(), hash_token(body.code)

    async def work(tx: Tx) -> ResolvedOrganization:
        row = await invitation_by_code(tx, invitation_id, digest, now)
        if row is not None:
            await lock_organization(tx, row.org_id)
            row = await invitation_by_code(tx, invitation_id, digest, now)  # it may be over by now
        organization = None if row is None else await get_organization(tx, row.org_id)
        if row is None or organization is None:
            raise NotFound("invitation")
        require_own_token(caller)
        if any(org_id == row.org_id for org_id, _ in await memberships_of(tx, caller.user_id)):
            raise Conflict(f"you are a member of {organization.name!r} already", code="already_member")
        await set_membership(tx, row.org_id, caller.user_id, row.role, now)
        await delete_invitation(tx, row.org_id, row.id)
        return ResolvedOrganization(organization.id, organization.name)

    return await app.database.write(work)
