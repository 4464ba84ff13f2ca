"""Statistics over the sessions of an agent or a harness."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET

from perdure.domain.ids import AgentId, HarnessId, OrgId
from perdure.domain.resources import ResourceStats
from perdure.domain.times import maybe_rfc3339
from perdure.store.database import Row, Tx
from perdure.store.rows import json_number

Column = Literal["agent_id", "harness_id"]
"""The column of `sessions` that refers to the agent or the harness."""


async def session_counts(
    tx: Tx, org_id: OrgId, column: Column, ids: tuple[AgentId, ...] | tuple[HarnessId, ...]
) -> dict[str, int]:
    """Return the number of sessions of each agent or harness, by id; those without sessions are missing."""
    if not ids:
        return {}
    marks = ", ".join("?" * len(ids))
    rows = await tx.all(
        f"SELECT {column}, COUNT(*) FROM sessions WHERE org_id = ? AND deleted_at IS NULL"
        f" AND {column} IN ({marks}) GROUP BY {column}",
        org_id,
        *ids,
    )
    return {row[0]: row[1] for row in rows}


_OWN_SESSIONS = "FROM sessions WHERE org_id = ? AND deleted_at IS NULL AND {column} = ?"
_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens")
_COSTS = ("estimated_cost_usd", "actual_cost_usd")


async def resource_stats(
    tx: Tx, org_id: OrgId, column: Column, resource_id: AgentId | HarnessId
) -> ResourceStats:
    """Sum up the sessions of one agent or harness. A long read: it visits each of its sessions."""
    own_sessions = _OWN_SESSIONS.format(column=column)
    sums = [
        f"CAST(COALESCE(SUM({json_number(tx.dialect, 'usage', name, 'BIGINT')}), 0) AS BIGINT)"
        for name in _TOKENS
    ]
    # Without a known cost these are NULL: a cost of nothing is something else.
    sums += [f"SUM({json_number(tx.dialect, 'usage', name, 'DOUBLE PRECISION')})" for name in _COSTS]
    # A session's cost is the actual one if known, else the estimate.
    estimated, actual = (json_number(tx.dialect, "usage", name, "DOUBLE PRECISION") for name in _COSTS)
    found = await tx.one(
        "SELECT COUNT(*), MIN(created_at), MAX(created_at), COUNT(started_at),"
        " CAST(COALESCE(SUM(CASE WHEN started_at IS NOT NULL"
        " THEN COALESCE(finished_at, updated_at) - started_at END), 0) AS BIGINT),"
        f" {', '.join(sums)}, SUM(COALESCE({actual}, {estimated})) {own_sessions}",
        org_id,
        resource_id,
    )
    by_status = await tx.all(f"SELECT status, COUNT(*) {own_sessions} GROUP BY status", org_id, resource_id)
    # `ts >= 0` is always true; it makes SQLite use the index on turns instead of reading all events.
    turns = await tx.one(
        "SELECT COUNT(*), MAX(ts) FROM events WHERE type = 'turn.started' AND ts >= 0"
        f" AND session_id IN (SELECT id {own_sessions})",
        org_id,
        resource_id,
    )
    if found is None or turns is None:
        raise AssertionError("an aggregate always has one row")
    return _stats(found, {row[0]: row[1] for row in by_status}, turns)


def _stats(sessions: Row, by_status: dict[str, int], turns: Row) -> ResourceStats:
    total, first, last, started, duration, *sums = sessions
    tokens: list[int] = [int(number) for number in sums[:4]]
    estimated, actual, cost = (UNSET if number is None else float(number) for number in sums[4:])
    milliseconds = max(0, int(duration)) // 1000
    states: dict[str, Any] = {f"{name}_session_count": by_status.get(name, 0) for name in _STATES}
    return ResourceStats(
        session_count=total,
        **states,
        execution_count=turns[0],
        total_input_tokens=tokens[0],
        total_output_tokens=tokens[1],
        total_cache_read_tokens=tokens[2],
        total_cache_creation_tokens=tokens[3],
        total_cost_usd=cost,
        total_estimated_cost_usd=estimated,
        total_actual_cost_usd=actual,
        total_session_duration_ms=milliseconds,
        avg_session_duration_ms=milliseconds // started if started else None,
        first_session_at=maybe_rfc3339(first),
        last_session_at=maybe_rfc3339(last),
        last_execution_at=maybe_rfc3339(turns[1]),
    )


_STATES = ("started", "active", "idle", "waiting_for_tool_results")
