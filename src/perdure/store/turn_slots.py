"""Which turns count as active, and which of them wait because as many are active as may be.

A turn is active from its first model call on, and again from the first one after it rested. It is not while
it rests: while a client, a person, a child or a callback has to answer. The session's row says so, in the
append that begins the call or ends the turn, so that nothing else has to be written.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.domain.events import NewEvent, ReasonStartedData, TurnParkedData
from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.domain.limits import LimitsPair, Reached
from perdure.domain.sessions import Status
from perdure.store.database import Tx

ACTIVE, ORGANIZATION_FULL, USER_FULL = 1, 2, 3
"""Values of `turn_slot`: the turn is active, or waits for others of its organization or its user to end."""
_CLASS = 0x7065726C
"""Tells the advisory locks of organizations' turns from others."""
AT_ONCE = 200
"""The most turns that one transaction lets go on."""


def slot_after(slot: int, events: Sequence[NewEvent], status: Status, *, rests: bool) -> int:
    """Return a session's `turn_slot` after an append. `status`: the session's, after it."""
    if status != "active":
        return 0
    for event in events:
        kind = event.data.kind
        if kind == ReasonStartedData.kind:
            slot = ACTIVE
        elif kind == TurnParkedData.kind:
            data = event.read(TurnParkedData)
            full = USER_FULL if data.scope == "user" else ORGANIZATION_FULL
            slot = full if data.parked_kind == "active_turns" else 0
    return 0 if rests and slot == ACTIVE else slot


class UserTurns(Struct):
    """How many turns of a user are active, and how many wait for others to end: of all, or of the user."""

    active: int = 0
    for_all: int = 0
    for_own: int = 0


class OrgTurns(Struct):
    """How many turns of an organization are active, and how many wait for others to end."""

    users: dict[UserId, UserTurns] = {}
    active: int = 0
    for_all: int = 0
    for_own: int = 0

    @property
    def waiting(self) -> int:
        return self.for_all + self.for_own

    def of(self, owner_id: UserId) -> UserTurns:
        """The turns of one user."""
        return self.users.get(owner_id) or UserTurns()

    def add(self, owner_id: UserId, slot: int, count: int) -> None:
        """Add turns with this `turn_slot`."""
        own = self.users.setdefault(owner_id, UserTurns())
        for each in (self, own):
            if slot == ACTIVE:
                each.active += count
            elif slot == ORGANIZATION_FULL:
                each.for_all += count
            else:
                each.for_own += count


async def turn_counts(tx: Tx, org_id: OrgId | None = None) -> dict[OrgId, OrgTurns]:
    """Count the active and the waiting turns, of one organization or of all that have some."""
    narrowed = "" if org_id is None else " AND org_id = ?"
    rows = await tx.all(
        "SELECT org_id, owner_id, turn_slot, COUNT(*) FROM sessions WHERE turn_slot > 0"
        f" AND deleted_at IS NULL{narrowed} GROUP BY org_id, owner_id, turn_slot",
        *(() if org_id is None else (org_id,)),
    )
    found: dict[OrgId, OrgTurns] = {}
    for each, owner_id, slot, count in rows:
        found.setdefault(each, OrgTurns()).add(owner_id, slot, count)
    return found


async def lock_turns(tx: Tx, org_id: OrgId) -> OrgTurns:
    """Let no other transaction decide on the organization's turns until the commit; count them."""
    if tx.dialect == "postgres":
        await tx.run(f"SELECT pg_advisory_xact_lock({_CLASS}, hashtext(?))", org_id)
    return (await turn_counts(tx, org_id)).get(org_id) or OrgTurns()


async def take_slot(tx: Tx, session_id: SessionId, epoch: int, head: int) -> bool:
    """Count the session's turn as active; returns False if the session has changed since it was read."""
    done = await tx.run(
        f"UPDATE sessions SET turn_slot = {ACTIVE} WHERE id = ? AND epoch = ? AND head = ?"
        " AND deleted_at IS NULL",
        session_id,
        epoch,
        head,
    )
    return done == 1


async def waiting_turns(
    tx: Tx, org_id: OrgId, slot: int, owner_id: UserId | None, limit: int
) -> list[tuple[SessionId, UserId]]:
    """Return the sessions whose turns wait, as (session, owner), those that began to wait first."""
    narrowed = "" if owner_id is None else " AND owner_id = ?"
    rows = await tx.all(
        f"SELECT id, owner_id FROM sessions WHERE org_id = ? AND turn_slot = ?{narrowed} AND turn_slot > 0"
        " AND deleted_at IS NULL ORDER BY wake_at, id LIMIT ?",
        org_id,
        slot,
        *(() if owner_id is None else (owner_id,)),
        limit,
    )
    return [(row[0], row[1]) for row in rows]


async def move_turn(tx: Tx, session_id: SessionId, before: int, after: int) -> bool:
    """Let a waiting turn go on, or wait for something else; returns False if it does not wait any more."""
    resting = "resting = 0, " if after == ACTIVE else ""
    done = await tx.run(
        f"UPDATE sessions SET {resting}turn_slot = ? WHERE id = ? AND turn_slot = ? AND status = 'active'"
        " AND deleted_at IS NULL",
        after,
        session_id,
        before,
    )
    return done == 1


def full(
    turns: OrgTurns, owner_id: UserId, most: LimitsPair, pending: Sequence[UserId] = ()
) -> Reached | None:
    """Return the limit that one more turn of a user would pass; None if there is room.

    Those who wait for the same come first.

    Args:
        pending: the owners of turns that are active, and not counted in `turns` yet.
    """
    limit = most.organization.active_turns
    active = turns.active + len(pending)
    if limit is not None and active + turns.for_all >= limit:
        return Reached("active_turns", "organization", limit, max(turns.active, min(active, limit)))
    limit = most.user.active_turns
    if limit is None:
        return None
    own = turns.of(owner_id)
    active = own.active + pending.count(owner_id)
    if active + own.for_own < limit:
        return None
    return Reached("active_turns", "user", limit, max(own.active, min(active, limit)))
