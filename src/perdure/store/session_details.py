"""What a session's resource shows, in one statement: each is a round trip on PostgreSQL."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.errors import NotFound
from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.store.agents import AgentRow
from perdure.store.database import Tx
from perdure.store.harnesses import HarnessRow
from perdure.store.rows import columns
from perdure.store.sessions import SessionRow

_PARTS: tuple[tuple[str, type[Struct]], ...] = (("s", SessionRow), ("h", HarnessRow), ("a", AgentRow))
_READ = (
    f"SELECT {', '.join(columns(row, alias=alias) for alias, row in _PARTS)},"
    " EXISTS (SELECT 1 FROM pins WHERE pins.user_id = ? AND pins.session_id = s.id),"
    " (SELECT COUNT(*) FROM schedules WHERE schedules.enabled = 1 AND schedules.session_id = s.id),"
    " (SELECT user_id FROM confidential_sessions c WHERE c.session_id = COALESCE(s.root_session_id, s.id))"
    " FROM sessions s LEFT JOIN harnesses h ON h.id = s.harness_id AND h.org_id = s.org_id"
    " LEFT JOIN agents a ON a.id = s.agent_id AND a.org_id = s.org_id"
    " WHERE s.id = ? AND s.org_id = ? AND s.deleted_at IS NULL"
)
_LOCK = {"sqlite": "", "postgres": " FOR UPDATE OF s"}
_HARNESS = len(SessionRow.__struct_fields__)
_AGENT = _HARNESS + len(HarnessRow.__struct_fields__)


class SessionDetails(Struct, frozen=True):
    """A session, and what else its resource shows.

    Attributes:
        harness, agent: its own, the agent as it is now, whatever version the session runs; None if missing.
        pinned: whether the user has pinned it.
        schedules: the number of its enabled schedules.
        reader_id: the only user who reads it; None if everybody in its organization does.
    """

    row: SessionRow
    harness: HarnessRow | None
    agent: AgentRow | None
    pinned: bool
    schedules: int
    reader_id: UserId | None


async def get_session_details(
    tx: Tx, org_id: OrgId, session_id: SessionId, user_id: UserId, *, lock: bool = False
) -> SessionDetails:
    """Read the organization's session, as a user sees it. Raises NotFound as `get_session`.

    Args:
        lock: whether to lock its row until the commit.
    """
    found = await tx.one(_READ + (_LOCK[tx.dialect] if lock else ""), user_id, session_id, org_id)
    if found is None:
        raise NotFound("session")
    harness, agent, (pinned, schedules, reader) = found[_HARNESS:_AGENT], found[_AGENT:-3], found[-3:]
    return SessionDetails(
        SessionRow(*found[:_HARNESS]),
        None if harness[0] is None else HarnessRow(*harness),
        None if agent[0] is None else AgentRow(*agent),
        bool(pinned),
        schedules,
        UserId(reader) if reader else None,
    )
