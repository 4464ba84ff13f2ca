"""Turns that run, wait or were sealed, in the rows of their sessions."""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from perdure.domain.errors import Damaged
from perdure.domain.events import Event, TurnSealedData
from perdure.domain.ids import AgentId, OrgId, SessionId, TurnId
from perdure.domain.parked import ParkedCall
from perdure.domain.queued import Queue
from perdure.domain.sessions import Status
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds
from perdure.store.rows import from_json
from perdure.store.sessions import BUSY

MOST = 2_000
"""The most sessions that one list looks at."""
MOST_COUNTED = 10_000
"""The most sealed turns that are counted."""
_SEALED = "finished_at IS NOT NULL AND deleted_at IS NULL AND status = 'idle'"


class BusySession(Struct, frozen=True):
    """A session with a turn. `begun`: whether a process has taken the turn."""

    id: SessionId
    agent_id: AgentId | None
    status: Status
    turn_id: TurnId | None
    recoveries: int
    resting: int
    turn_slot: int
    parked: str | None
    queued: str | None
    begun: int

    def parked_calls(self) -> tuple[ParkedCall, ...]:
        return _read(_PARKED, self.parked) or ()

    def queued_messages(self) -> Queue:
        return _read(_QUEUED, self.queued) or ()


T = TypeVar("T")
_PARKED = msgspec.json.Decoder(tuple[ParkedCall, ...])
_QUEUED = msgspec.json.Decoder(Queue)


def _read(decoder: msgspec.json.Decoder[T], text: str | None) -> T | None:
    try:
        return None if text is None else from_json(decoder, text, "")
    except Damaged:
        return None  # operators have to see such a session, too


_BEGUN = (
    "(recoveries > 0 OR EXISTS (SELECT 1 FROM events e WHERE e.session_id = sessions.id"
    " AND e.sequence > sessions.turn_after"
    " AND e.type = 'turn.started' AND e.turn_id = sessions.turn_id))"
)
_BUSY_COLUMNS = ", ".join(BusySession.__struct_fields__[:-1])
_NARROWED = {
    "running": "status = 'active' AND resting = 0",
    "parked": f"{BUSY} AND parked IS NOT NULL",
    "pending": f"{BUSY} AND (queued IS NOT NULL OR NOT {_BEGUN})",
    "any": BUSY,
}


async def busy_sessions(
    tx: Tx, org_id: OrgId, which: Literal["running", "parked", "pending", "any"], least: int = 0
) -> list[BusySession]:
    """Return the organization's sessions with a turn, the oldest sessions first.

    Args:
        least: the least number of recoveries.
    """
    stuck = f" AND recoveries >= {least}" if least else ""
    rows = await tx.all(
        f"SELECT {_BUSY_COLUMNS}, {_BEGUN} FROM sessions"
        f" WHERE org_id = ? AND {_NARROWED[which]} AND deleted_at IS NULL"
        f"{stuck} ORDER BY created_at, id LIMIT {MOST}",
        org_id,
    )
    return [BusySession(*row) for row in rows]


async def has_begun(tx: Tx, session_id: SessionId) -> bool:
    """Return whether a process has taken the session's turn."""
    found = await tx.one(f"SELECT 1 FROM sessions WHERE id = ? AND {_BEGUN}", session_id)
    return found is not None


class SealedSession(Struct, frozen=True):
    """A session whose last turn was sealed. `turn_after`: the sequence with which it became idle."""

    id: SessionId
    agent_id: AgentId | None
    finished_at: Micros
    turn_after: int


async def sealed_sessions(tx: Tx, org_id: OrgId) -> list[SealedSession]:
    """Return the organization's sessions whose last turn was sealed, newest first."""
    rows = await tx.all(
        "SELECT id, agent_id, finished_at, turn_after FROM sessions"
        f" WHERE org_id = ? AND {_SEALED} ORDER BY finished_at DESC, id LIMIT {MOST}",
        org_id,
    )
    return [SealedSession(*row) for row in rows]


async def seal_of(tx: Tx, session_id: SessionId, turn_after: int) -> Event | None:
    """Return the seal of a session's last turn, after which the session became idle."""
    found, _ = await events_of_kinds(tx, session_id, (TurnSealedData.kind,), before=turn_after, limit=1)
    return found[0] if found else None


async def count_sealed(tx: Tx) -> int:
    """Count the sealed turns of all organizations."""
    row = await tx.one(
        f"SELECT COUNT(*) FROM (SELECT 1 FROM sessions WHERE {_SEALED} LIMIT {MOST_COUNTED}) AS sealed"
    )
    return int(row[0]) if row else 0


async def give_attempts(tx: Tx, session_id: SessionId) -> None:
    """Count a session's recoveries anew."""
    await tx.run("UPDATE sessions SET recoveries = 0 WHERE id = ? AND deleted_at IS NULL", session_id)
