"""Rows of tasks, of calls that wait for them, and of their messages: projections of the sessions' logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.errors import NotFound
from perdure.domain.ids import ExecId, OrgId, SessionId, TaskId, ToolCallId, TurnId
from perdure.domain.tasks import SessionTask, TaskKind, TaskMessage, TaskState
from perdure.domain.times import Micros
from perdure.store.database import Purged, Rows, Tx, Value
from perdure.store.rows import LIST_BYTES, columns, from_json, insert, to_json, values
from perdure.store.sessions import SessionRow
from perdure.store.webhooks import remove_webhooks_of_tasks

Wish = Literal["cancel", "delete"]
Need = Literal["all", "any"]


class TaskRow(Struct, frozen=True):
    """A task.

    Attributes:
        effect_key: of the call that began it.
        turn_id: the turn that began it.
        heard: the sequence, in the child's log, up to which the parent has heard of it.
        wish: what is yet to be done to its child.
        deadline: the end of its time limit.
        task: the whole task, as JSON.
    """

    id: TaskId
    org_id: OrgId
    session_id: SessionId
    root_session_id: SessionId
    kind: TaskKind
    state: TaskState
    effect_key: str
    turn_id: TurnId
    child_session_id: SessionId | None
    heard: int
    attempt: int
    wish: Wish | None
    deadline: Micros | None
    created_at: Micros
    finished_at: Micros | None
    task: str

    def struct(self) -> SessionTask:
        """The task."""
        return from_json(_TASK, self.task, f"the task {self.id}")

    def knows(self, sequence: int) -> bool:
        """Whether the session has heard of an event of the child's log, or does not have to any more."""
        return self.finished_at is not None or self.heard >= sequence

    def changed(self, task: SessionTask, now: Micros) -> TaskRow:
        """The row after a change of the task."""
        finished = now if task.ended and self.finished_at is None else self.finished_at
        return replace(self, state=task.state, attempt=task.attempt, finished_at=finished, task=to_json(task))


class WaitRow(Struct, frozen=True):
    """A call that waits for tasks. `tasks`: their ids, as JSON."""

    session_id: SessionId
    org_id: OrgId
    turn_id: TurnId
    exec_id: ExecId
    tool_call_id: ToolCallId
    tool_name: str
    need: Need
    tasks: str
    deadline: Micros

    def task_ids(self) -> tuple[TaskId, ...]:
        """The tasks."""
        return from_json(_IDS, self.tasks, "a call that waits")


_TASK = msgspec.json.Decoder(SessionTask)
_MESSAGE = msgspec.json.Decoder(TaskMessage)
_IDS = msgspec.json.Decoder(tuple[TaskId, ...])
_COLUMNS = columns(TaskRow)
_WAIT = columns(WaitRow)
_INSERT_TASK, _INSERT_WAIT = f"INSERT INTO tasks ({_COLUMNS})", f"INSERT INTO task_waits ({_WAIT})"


def new_rows(task: TaskRow, *waits: WaitRow) -> tuple[Rows, ...]:
    """A new task, and the calls that wait for it, to be inserted with the session that works on it."""
    return Rows(_INSERT_TASK, [values(task)]), Rows(_INSERT_WAIT, [values(each) for each in waits])


async def add_task(tx: Tx, row: TaskRow) -> None:
    """Insert a new task."""
    await tx.run(insert("tasks", TaskRow), *values(row))


async def put_task(tx: Tx, row: TaskRow) -> None:
    """Store what changed of a task."""
    await tx.run(
        "UPDATE tasks SET state = ?, heard = ?, attempt = ?, wish = ?, deadline = ?, finished_at = ?,"
        " task = ? WHERE id = ? AND org_id = ?",
        row.state,
        row.heard,
        row.attempt,
        row.wish,
        row.deadline,
        row.finished_at,
        row.task,
        row.id,
        row.org_id,
    )


async def get_task(tx: Tx, org_id: OrgId, session_id: SessionId, task_id: TaskId) -> TaskRow:
    """Return a task of a session. Raises NotFound."""
    found = await find_task(tx, task_id)
    if found is None or found.org_id != org_id or found.session_id != session_id:
        raise NotFound("task")
    return found


async def find_task(tx: Tx, task_id: TaskId) -> TaskRow | None:
    """Return a task of any organization, for the server itself."""
    return await _one(tx, "id = ?", task_id)


async def task_by_key(tx: Tx, session_id: SessionId, effect_key: str) -> TaskRow | None:
    """Return the task that the call with this key began; None if it began none."""
    return await _one(tx, "session_id = ? AND effect_key = ?", session_id, effect_key)


async def open_tasks(tx: Tx, session_id: SessionId) -> list[TaskRow]:
    """Return a session's tasks that have not ended, oldest first."""
    return await _all(tx, "session_id = ? AND finished_at IS NULL ORDER BY created_at, id", session_id)


async def newest_tasks(tx: Tx, session_id: SessionId, limit: int) -> list[TaskRow]:
    """Return a session's newest tasks, oldest first."""
    return (await _all(tx, "session_id = ? ORDER BY created_at DESC, id DESC LIMIT ?", session_id, limit))[
        ::-1
    ]


async def tasks_named(tx: Tx, session_id: SessionId, ids: Sequence[TaskId]) -> list[TaskRow]:
    """Return those of these tasks that are the session's, in the order of `ids`."""
    marks = ", ".join("?" * len(ids))
    rows = await _all(tx, f"session_id = ? AND id IN ({marks})", session_id, *ids) if ids else []
    found = {row.id: row for row in rows}
    return [found[each] for each in ids if each in found]


async def count_unfinished(tx: Tx, session_id: SessionId) -> int:
    """Count a session's tasks that have not ended."""
    found = await tx.one(
        "SELECT COUNT(*) FROM tasks WHERE session_id = ? AND finished_at IS NULL", session_id
    )
    return 0 if found is None else found[0]


class Surroundings(Struct, frozen=True):
    """What a session begins a sub-agent in.

    Attributes:
        unfinished: the session's tasks that have not ended.
        open_sessions: the organization's sessions that are not archived.
        has_workspace: whether the session's workspace has a row.
    """

    unfinished: int
    open_sessions: int
    has_workspace: bool


async def look_around(tx: Tx, session: SessionRow) -> Surroundings:
    """Read what a session begins a sub-agent in, in one statement: it is a round trip on PostgreSQL."""
    found = await tx.one(
        "SELECT (SELECT COUNT(*) FROM tasks WHERE session_id = ? AND finished_at IS NULL),"
        " (SELECT CAST(COALESCE(SUM(sessions), 0) AS BIGINT) FROM session_totals WHERE org_id = ?),"
        " (SELECT COUNT(*) FROM workspaces WHERE id = ? AND org_id = ?)",
        *(session.id, session.org_id, session.workspace(), session.org_id),
    )
    return Surroundings(0, 0, False) if found is None else Surroundings(found[0], found[1], bool(found[2]))


async def wish_for(
    tx: Tx, session_id: SessionId, wish: Wish, *, only: Sequence[TaskId] | None = None
) -> list[TaskRow]:
    """Note what is to be done to the children of a session; return the tasks that this concerns.

    Args:
        wish: `cancel` concerns tasks that have not ended, `delete` all of them.
        only: of these tasks.
    """
    where: list[str] = ["session_id = ?"]
    args: list[Value] = [session_id]
    if wish == "cancel":
        where.append("finished_at IS NULL AND wish IS NULL")
    if only is not None:
        where.append(f"id IN ({', '.join('?' * len(only))})")
        args += only
    rows = await _all(tx, f"{' AND '.join(where)} ORDER BY created_at, id", *args)
    await tx.run_many("UPDATE tasks SET wish = ? WHERE id = ?", [(wish, row.id) for row in rows])
    return [replace(row, wish=wish) for row in rows]


async def wished_tasks(tx: Tx, limit: int) -> list[TaskRow]:
    """Return tasks whose children are to be cancelled or deleted."""
    return await _all(tx, "wish IS NOT NULL LIMIT ?", limit)


async def due_tasks(tx: Tx, now: Micros, limit: int) -> list[TaskRow]:
    """Return unfinished tasks whose time limit has passed, and which nobody has asked to stop."""
    return await _all(
        tx,
        "finished_at IS NULL AND deadline IS NOT NULL AND deadline <= ? AND wish IS NULL LIMIT ?",
        now,
        limit,
    )


async def background_tasks(tx: Tx, limit: int) -> list[TaskRow]:
    """Return the unfinished tasks of tools that nobody has asked to stop."""
    return await _all(
        tx,
        "finished_at IS NULL AND deadline IS NOT NULL AND kind = 'background_tool' AND wish IS NULL"
        " ORDER BY deadline LIMIT ?",
        limit,
    )


async def attempts_of(tx: Tx, task_ids: Sequence[TaskId]) -> dict[TaskId, int]:
    """Return the attempts of these tasks, without those that have ended or were asked to stop."""
    marks = ", ".join("?" * len(task_ids))
    rows = await tx.all(
        f"SELECT id, attempt FROM tasks WHERE finished_at IS NULL AND wish IS NULL AND id IN ({marks})",
        *task_ids,
    )
    return {row[0]: row[1] for row in rows}


async def remove_task(tx: Tx, org_id: OrgId, task_id: TaskId) -> None:
    """Remove a task with its messages and webhooks."""
    await remove_webhooks_of_tasks(tx, [(org_id, task_id)])
    await tx.run("DELETE FROM task_messages WHERE task_id = ?", task_id)
    await tx.run("DELETE FROM tasks WHERE id = ?", task_id)


async def purge_tasks(tx: Tx, before: Micros, batch: int = 200) -> Purged:
    """Remove a batch of tasks that ended before an instant, in microseconds."""
    found = await tx.all(
        "SELECT org_id, id FROM tasks WHERE finished_at < ? AND wish IS NULL LIMIT ?", before, batch
    )
    await remove_webhooks_of_tasks(tx, [(row[0], row[1]) for row in found])
    rows = [(row[1],) for row in found]
    await tx.run_many("DELETE FROM task_messages WHERE task_id = ?", rows)
    await tx.run_many("DELETE FROM tasks WHERE id = ?", rows)
    return Purged(len(rows), len(rows) == batch)


async def add_wait(tx: Tx, row: WaitRow) -> None:
    """Note that a call waits for tasks. Idempotent."""
    await tx.run(f"{insert('task_waits', WaitRow)} ON CONFLICT DO NOTHING", *values(row))


async def waits_of_session(tx: Tx, session_id: SessionId) -> list[WaitRow]:
    """Return the session's calls that wait for tasks."""
    rows = await tx.all(f"SELECT {_WAIT} FROM task_waits WHERE session_id = ?", session_id)
    return [WaitRow(*row) for row in rows]


async def wait_of_call(tx: Tx, session_id: SessionId, exec_id: ExecId, call_id: ToolCallId) -> WaitRow | None:
    """Return what a call waits for; None if it waits for no task."""
    found = await tx.one(
        f"SELECT {_WAIT} FROM task_waits WHERE session_id = ? AND exec_id = ? AND tool_call_id = ?",
        session_id,
        exec_id,
        call_id,
    )
    return None if found is None else WaitRow(*found)


async def remove_waits(
    tx: Tx, session_id: SessionId, exec_id: ExecId, call_ids: Iterable[ToolCallId]
) -> None:
    """Note that these calls do not wait any more."""
    await tx.run_many(
        "DELETE FROM task_waits WHERE session_id = ? AND exec_id = ? AND tool_call_id = ?",
        [(session_id, exec_id, each) for each in call_ids],
    )


async def remove_waits_of_turn(tx: Tx, session_id: SessionId, turn_id: TurnId) -> None:
    """Note that no call of a turn waits any more."""
    await tx.run("DELETE FROM task_waits WHERE session_id = ? AND turn_id = ?", session_id, turn_id)


async def add_task_message(tx: Tx, org_id: OrgId, message: TaskMessage) -> None:
    """Store a message of a task, after its others. The caller appends to the log of the task's session."""
    await tx.run(
        "INSERT INTO task_messages (id, org_id, task_id, place, message)"
        " SELECT ?, ?, ?, COALESCE(MAX(place), 0) + 1, ? FROM task_messages WHERE task_id = ?"
        " ON CONFLICT DO NOTHING",
        message.id,
        org_id,
        message.task_id,
        to_json(message),
        message.task_id,
    )


async def has_task_message(tx: Tx, task_id: TaskId, message_id: str) -> bool:
    """Whether a task has a message with this id."""
    sql = "SELECT 1 FROM task_messages WHERE id = ? AND task_id = ?"
    return await tx.one(sql, message_id, task_id) is not None


async def task_messages(tx: Tx, task_id: TaskId, after_id: str | None, limit: int) -> list[TaskMessage]:
    """Return a task's messages in the order of the log, after the one with this id.

    They hold at most `LIST_BYTES` together.

    Raises:
        NotFound: the task has no such message.
    """
    after = 0
    if after_id is not None:
        found = await tx.one(
            "SELECT place FROM task_messages WHERE task_id = ? AND id = ?", task_id, after_id
        )
        if found is None:
            raise NotFound("task message")
        after = found[0]
    rows, _ = await tx.within(
        LIST_BYTES,
        ("message",),
        "SELECT message FROM task_messages WHERE task_id = ? AND place > ? ORDER BY place LIMIT ?",
        task_id,
        after,
        limit,
    )
    return [from_json(_MESSAGE, text, f"a message of the task {task_id}") for (text,) in rows]


class Note(Struct, frozen=True):
    """A session's note for its parent. `known`: whether the parent knows of that event already."""

    session_id: SessionId
    news: int
    known: bool


async def sessions_with_news(tx: Tx, limit: int) -> list[Note]:
    """Return the notes of sessions for their parents."""
    rows = await tx.all(
        "SELECT s.id, s.news, t.finished_at IS NOT NULL OR COALESCE(t.heard, 0) >= s.news FROM sessions s"
        " LEFT JOIN tasks t ON t.id = s.task_id AND t.org_id = s.org_id WHERE s.news IS NOT NULL LIMIT ?",
        limit,
    )
    return [Note(row[0], row[1], bool(row[2])) for row in rows]


async def told_news(tx: Tx, session_id: SessionId, news: int) -> None:
    """Note that a session's parent has heard of everything up to this sequence."""
    await tx.run("UPDATE sessions SET news = NULL WHERE id = ? AND news = ?", session_id, news)


async def _one(tx: Tx, where: str, *args: Value) -> TaskRow | None:
    found = await tx.one(f"SELECT {_COLUMNS} FROM tasks WHERE {where}", *args)
    return None if found is None else TaskRow(*found)


async def _all(tx: Tx, where: str, *args: Value) -> list[TaskRow]:
    return [TaskRow(*row) for row in await tx.all(f"SELECT {_COLUMNS} FROM tasks WHERE {where}", *args)]
