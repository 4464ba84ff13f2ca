"""The limit of open sessions: of an organization, and of each of its users."""

from __future__ import annotations

from perdure.app.context import Services
from perdure.domain.ids import OrgId, UserId
from perdure.domain.limits import LimitName, Reached
from perdure.domain.parked import LimitScope
from perdure.domain.times import Micros
from perdure.store.database import NotSingle, Tx
from perdure.store.limits import lock_sessions, open_sessions, open_sessions_of

NEAR = 100
"""How many transactions like it may be open before one of them could pass the limit: so close to it, each
waits for the others."""
LATER: Micros = 60_000_000
_NAME: LimitName = "open_sessions"


async def sessions_of(tx: Tx, org_id: OrgId, user_id: UserId | None) -> int:
    """Return the number of open sessions, of the organization or of one of its users."""
    if user_id is None:
        return await open_sessions(tx, org_id)
    return await open_sessions_of(tx, org_id, user_id)


async def room_for_session(
    app: Services, tx: Tx, org_id: OrgId, owner_id: UserId, more: int = 1, known: int | None = None
) -> Reached | None:
    """Return the limit that one or more open sessions more would pass; None if there is room.

    Call it before the sessions are counted. Near a limit, sessions are opened one after the other.

    Args:
        known: the number of the organization's open sessions, as it was read in this transaction.

    Raises:
        NotSingle: a limit is near, and the transaction is a single statement.
    """
    most = app.meter.limits(org_id)
    scopes: tuple[tuple[LimitScope, int | None, UserId | None], ...] = (
        ("organization", most.organization.open_sessions, None),
        ("user", most.user.open_sessions, owner_id),
    )
    locked = False
    for scope, limit, user_id in scopes:
        if limit is None:
            continue
        if locked or known is None or user_id is not None:
            used = await sessions_of(tx, org_id, user_id)
        else:
            used = known
        if used >= limit - NEAR * more and not locked and tx.dialect != "sqlite":
            if tx.single:
                raise NotSingle
            await lock_sessions(tx, org_id)
            locked, used = True, await sessions_of(tx, org_id, user_id)
        if used + more > limit:
            return Reached(_NAME, scope, limit, used, LATER)
    return None


async def check_room_for_session(app: Services, tx: Tx, org_id: OrgId, owner_id: UserId) -> None:
    """Check that one more session may be open.

    Raises:
        RateLimited: `open_sessions_limit`.
    """
    reached = await room_for_session(app, tx, org_id, owner_id)
    if reached is not None:
        raise reached.refusal("archive or delete some of them")
