"""Reads of the sessions that have parked calls."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.domain.errors import Damaged
from perdure.domain.ids import AgentId, OrgId, SessionId, ToolCallId, UserId
from perdure.domain.parked import ParkedCall
from perdure.domain.sessions import Status
from perdure.store.confidential import VISITED
from perdure.store.database import Tx, Value
from perdure.store.rows import columns, from_json


class WaitingSession(Struct, frozen=True):
    """A session with parked calls: what its inbox items depend on. `parked` is JSON."""

    id: SessionId
    owner_id: UserId
    agent_id: AgentId | None
    title: str | None
    status: Status
    parked: str
    reader_id: UserId | None
    """The only user who reads the session; None if everybody does."""

    def calls(self) -> tuple[ParkedCall, ...]:
        """The parked calls; none if they are damaged."""
        try:
            return from_json(_PARKED, self.parked, "")
        except Damaged:
            return ()


_PARKED = msgspec.json.Decoder(tuple[ParkedCall, ...])
_READER = (
    "(SELECT user_id FROM confidential_sessions c"
    f" WHERE c.session_id = COALESCE(sessions.root_session_id, sessions.id) AND c.user_id <> '{VISITED}')"
    " AS reader_id"
)
_COLUMNS = columns(WaitingSession).replace("reader_id", _READER)


async def waiting_sessions(
    tx: Tx,
    org_id: OrgId,
    after: str,
    limit: int,
    session_id: SessionId | None = None,
    agent_id: AgentId | None = None,
) -> list[WaitingSession]:
    """Return sessions with parked calls, oldest first.

    Args:
        after: the id of the last one before; empty for none.
        session_id, agent_id: only this session, or those of this agent.
    """
    where, args = "org_id = ? AND parked IS NOT NULL AND id > ?", list[Value]((org_id, after))
    for column, value in (("id", session_id), ("agent_id", agent_id)):
        if value is not None:
            where, args = f"{where} AND {column} = ?", [*args, value]
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM sessions WHERE {where} AND deleted_at IS NULL ORDER BY id LIMIT ?",
        *args,
        limit,
    )
    return [WaitingSession(*row) for row in rows]


async def state_of_waiting(tx: Tx, org_id: OrgId) -> tuple[int, int, int]:
    """Return three numbers of which one differs once an organization's waiting sessions have changed."""
    found = await tx.one(
        "SELECT COUNT(*), COALESCE(SUM(head), 0), COALESCE(MAX(updated_at), 0) FROM sessions"
        " WHERE org_id = ? AND parked IS NOT NULL",
        org_id,
    )
    return (0, 0, 0) if found is None else (int(found[0]), int(found[1]), int(found[2]))


async def sign_in_identities(
    tx: Tx, org_id: OrgId, *, session_id: SessionId | None = None, limit: int = 20_000
) -> dict[tuple[SessionId, ToolCallId], str]:
    """Return whose sign-in each waiting call asks for: a user's id, or `service`."""
    one = "" if session_id is None else " AND session_id = ?"
    rows = await tx.all(
        "SELECT session_id, tool_call_id, identity FROM input_requests"
        f" WHERE org_id = ? AND status = 'open' AND kind = 'sign_in'{one} LIMIT ?",
        *(org_id, limit) if session_id is None else (org_id, session_id, limit),
    )
    return {(row[0], row[1]): row[2] for row in rows}


async def names_of_agents(tx: Tx, org_id: OrgId, ids: set[AgentId]) -> dict[AgentId, str]:
    """Return the names of these agents."""
    if not ids:
        return {}
    marks = ", ".join("?" * len(ids))
    rows = await tx.all(f"SELECT id, name FROM agents WHERE org_id = ? AND id IN ({marks})", org_id, *ids)
    return {row[0]: row[1] for row in rows}
