"""Rows of standing approvals: decisions that apply to every later call of a tool in a session."""

from __future__ import annotations

from perdure.domain.ids import SessionId
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow


async def standing_approvals(tx: Tx, session_id: SessionId) -> tuple[dict[str, str], dict[str, str]]:
    """Return the session's standing decisions, each for every call of a tool, by the tool's name.

    The second result has the digest of the definition that a decision was given to, where the tool has one.
    """
    rows = await tx.all(
        "SELECT tool_name, decision, definition FROM standing_approvals WHERE session_id = ?", session_id
    )
    return {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows if row[2] is not None}


async def set_standing_approval(
    tx: Tx, row: SessionRow, tool_name: str, decision: str, definition: str | None = None
) -> None:
    """Apply a decision to every later call of a tool in the session; replaces an earlier decision.

    Args:
        definition: the digest of the tool's definition, if it has one: the decision is about that one only.
    """
    await tx.run(
        "INSERT INTO standing_approvals (session_id, tool_name, org_id, decision, definition)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT (session_id, tool_name)"
        " DO UPDATE SET decision = excluded.decision, definition = excluded.definition",
        row.id,
        tool_name,
        row.org_id,
        decision,
        definition,
    )
