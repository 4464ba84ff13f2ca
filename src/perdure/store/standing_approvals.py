"""Rows of standing approvals: decisions that apply to every later call of a tool in a session."""

from __future__ import annotations

from perdure.domain.ids import SessionId
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow


async def standing_approvals(tx: Tx, session_id: SessionId) -> dict[str, str]:
    """Return the session's standing decisions, each for every call of a tool, by the tool's name."""
    rows = await tx.all("SELECT tool_name, decision FROM standing_approvals WHERE session_id = ?", session_id)
    return {row[0]: row[1] for row in rows}


async def set_standing_approval(tx: Tx, row: SessionRow, tool_name: str, decision: str) -> None:
    """Apply a decision to every later call of a tool in the session; replaces an earlier decision."""
    await tx.run(
        "INSERT INTO standing_approvals (session_id, tool_name, org_id, decision) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (session_id, tool_name) DO UPDATE SET decision = excluded.decision",
        row.id,
        tool_name,
        row.org_id,
        decision,
    )
