"""Rows of the agents and users that were added to sessions."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.events.agents import ParticipantKind
from perdure.domain.ids import AgentId, AgentVersionId, OrgId, ParticipantId, SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import columns, insert, values
from perdure.store.sessions import SessionRow


class ParticipantRow(Struct, frozen=True):
    """A participant; `subject` is the id of the agent or user. Rows stay when somebody leaves."""

    session_id: SessionId
    subject: str
    org_id: OrgId
    id: ParticipantId
    kind: ParticipantKind
    agent_version_id: AgentVersionId | None
    joined_at: Micros
    left_at: Micros | None = None

    @property
    def agent_id(self) -> AgentId | None:
        """The agent, if it is one."""
        return AgentId(self.subject) if self.kind == "agent" else None

    @property
    def user_id(self) -> UserId | None:
        """The user, if it is one."""
        return UserId(self.subject) if self.kind == "user" else None


_COLUMNS = columns(ParticipantRow)
_SAVE = (
    f"{insert('participants', ParticipantRow)} ON CONFLICT (session_id, subject) DO UPDATE SET"
    " agent_version_id = excluded.agent_version_id, joined_at = excluded.joined_at,"
    " left_at = excluded.left_at"
)


async def list_participants(tx: Tx, session: SessionRow) -> list[ParticipantRow]:
    """Return all that were added to a session, also those that have left, in the order of joining."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM participants WHERE session_id = ? AND org_id = ? ORDER BY joined_at, id",
        session.id,
        session.org_id,
    )
    return [ParticipantRow(*row) for row in rows]


async def save_participant(tx: Tx, row: ParticipantRow) -> None:
    """Insert a participant, or replace its row; it keeps its id."""
    await tx.run(_SAVE, *values(row))
