"""Trees of sessions: what is below a session, level by level."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.domain.ids import AgentId, OrgId, SessionId, TaskId
from perdure.domain.messages import Usage
from perdure.domain.sessions import Status
from perdure.domain.tasks import SessionTask
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import among, columns, from_json, json_without


class NodeRow(Struct, frozen=True):
    """What a tree shows of a session."""

    id: SessionId
    parent_session_id: SessionId | None
    depth: int
    task_id: TaskId | None
    title: str | None
    agent_id: AgentId | None
    status: Status
    usage: str | None
    output_preview: str | None
    created_at: Micros
    started_at: Micros | None

    def usage_struct(self) -> Usage | None:
        """The session's usage so far."""
        return None if self.usage is None else from_json(_USAGE, self.usage, f"the session {self.id}")


_USAGE = msgspec.json.Decoder(Usage)
_TASK = msgspec.json.Decoder(SessionTask)
_COLUMNS = columns(NodeRow)
_LONG = ("spec", "output", "artifacts")
"""The members of a task that a tree leaves out: they may be long."""


async def sessions_below(
    tx: Tx, org_id: OrgId, session_id: SessionId, limit: int
) -> tuple[list[NodeRow], bool]:
    """Return the sessions below a session, the nearest levels first, and whether there are more than `limit`.

    Of the level with too many, the newest are returned.
    """
    found: list[NodeRow] = []
    level: list[SessionId] = [session_id]
    while level:
        chosen, parents = among(tx.dialect, "parent_session_id", "TEXT", level)
        rows = await tx.all(
            f"SELECT {_COLUMNS} FROM sessions WHERE {chosen} AND org_id = ? AND deleted_at IS NULL"
            " ORDER BY created_at DESC, id DESC LIMIT ?",
            parents,
            org_id,
            limit - len(found) + 1,
        )
        nodes = [NodeRow(*row) for row in rows]
        if len(found) + len(nodes) > limit:
            return [*found, *nodes[: limit - len(found)]], True
        found += nodes
        level = [node.id for node in nodes]
    return found, False


async def tasks_of_nodes(tx: Tx, org_id: OrgId, ids: Sequence[TaskId]) -> dict[TaskId, SessionTask]:
    """Return those of these tasks that are still known, without what may be long in them."""
    if not ids:
        return {}
    chosen, choices = among(tx.dialect, "id", "TEXT", ids)
    short = json_without(tx.dialect, "task", _LONG)
    rows = await tx.all(f"SELECT id, {short} FROM tasks WHERE {chosen} AND org_id = ?", choices, org_id)
    return {task_id: from_json(_TASK, text, f"the task {task_id}") for task_id, text in rows}
