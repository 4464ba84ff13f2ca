"""Lists of tasks, of a session or of an organization."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId, TaskId, UserId, millis_of
from perdure.domain.tasks import ENDED, TaskKind, TaskState
from perdure.domain.times import Micros
from perdure.store.confidential import open_to
from perdure.store.database import Tx, Value
from perdure.store.rows import LIST_BYTES, columns
from perdure.store.tasks import TaskRow

_COLUMNS = columns(TaskRow)


class TaskFilter(Struct, frozen=True):
    """The conditions for a list of tasks; None and an empty tuple mean any.

    Attributes:
        reader_id: who reads: without tasks of sessions that are closed to this user.
        before: only tasks that were created before this one. It need not exist any more.
    """

    session_id: SessionId | None = None
    root_id: SessionId | None = None
    states: tuple[TaskState, ...] = ()
    kinds: tuple[TaskKind, ...] = ()
    created_after: Micros | None = None
    before: TaskId | None = None
    reader_id: UserId | None = None


async def list_tasks(tx: Tx, org_id: OrgId, filters: TaskFilter, limit: int) -> list[TaskRow]:
    """Return the newest tasks that match, newest first. They hold at most `LIST_BYTES` together.

    Tasks of sessions that are deleted are left out: a sweep removes them.
    """
    parts = ["org_id = ? AND (wish IS NULL OR wish <> 'delete')"]
    args: list[Value] = [org_id]
    plain: list[tuple[str, Value]] = [
        ("session_id = ?", filters.session_id),
        ("root_session_id = ?", filters.root_id),
        ("created_at > ?", filters.created_after),
    ]
    for sql, value in plain:
        if value is not None:
            parts.append(sql)
            args.append(value)
    for column, choices in (("state", filters.states), ("kind", filters.kinds)):
        if choices:
            parts.append(f"{column} IN ({', '.join('?' * len(choices))})")
            args += choices
    if filters.states and ENDED.isdisjoint(filters.states):
        parts.append("finished_at IS NULL")  # of which an index has the tasks, which are few
    if filters.reader_id is not None:
        parts.append(open_to("tasks", "session_id"))
        args.append(filters.reader_id)
    if filters.before is not None:
        created_at = await _created_at(tx, org_id, filters.before)
        parts.append("(created_at < ? OR (created_at = ? AND id < ?))")
        args += [created_at, created_at, filters.before]
    rows, _ = await tx.within(
        LIST_BYTES,
        ("task",),
        f"SELECT {_COLUMNS} FROM tasks WHERE {' AND '.join(parts)} ORDER BY created_at DESC, id DESC LIMIT ?",
        *args,
        limit,
    )
    return [TaskRow(*row) for row in rows]


async def _created_at(tx: Tx, org_id: OrgId, task_id: TaskId) -> Micros:
    """When a task was created; of one that is gone, about when: its id says so."""
    found = await tx.one("SELECT created_at FROM tasks WHERE id = ? AND org_id = ?", task_id, org_id)
    return millis_of(task_id) * 1_000 if found is None else found[0]
