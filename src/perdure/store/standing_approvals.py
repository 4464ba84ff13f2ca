"""Rows of standing approvals: decisions that apply to every later call of a tool in a session."""

from __future__ import annotations

import msgspec

from perdure.domain.data_flow import ReasonCode
from perdure.domain.decisions import BEFORE, StandingDecision
from perdure.domain.ids import SessionId
from perdure.store.database import Row, Tx
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow

STANDING_APPROVALS = (
    "SELECT {first}tool_name, decision, definition, covers{more} FROM standing_approvals WHERE session_id = ?"
)
"""The statement for a session's standing decisions, with further columns before and after."""
_CODES = msgspec.json.Decoder(tuple[ReasonCode, ...])


async def standing_approvals(tx: Tx, session_id: SessionId) -> dict[str, StandingDecision]:
    """Return the session's standing decisions, each for every call of a tool, by the tool's name."""
    rows = await tx.all(STANDING_APPROVALS.format(first="", more=""), session_id)
    return dict(map(standing_decision, rows))


def standing_decision(row: Row) -> tuple[str, StandingDecision]:
    """Return a tool's name and the decision, of a row that begins with what `STANDING_APPROVALS` selects."""
    return row[0], StandingDecision(row[1], row[2], BEFORE if row[3] is None else _CODES.decode(row[3]))


async def set_standing_approval(tx: Tx, row: SessionRow, tool_name: str, decision: StandingDecision) -> None:
    """Apply a decision to every later call of a tool in the session; replaces an earlier decision."""
    await tx.run(
        "INSERT INTO standing_approvals (session_id, tool_name, org_id, decision, definition, covers)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (session_id, tool_name)"
        " DO UPDATE SET decision = excluded.decision, definition = excluded.definition,"
        " covers = excluded.covers",
        row.id,
        tool_name,
        row.org_id,
        decision.decision,
        decision.definition,
        to_json(decision.covers),
    )
