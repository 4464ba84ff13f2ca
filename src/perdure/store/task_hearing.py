"""What a session reads and changes when it hears of its tasks, each in one statement on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.domain.ids import TaskId
from perdure.store.crypto import Vault
from perdure.store.database import Param, Part, Tx
from perdure.store.rows import among, columns
from perdure.store.sessions import SessionRow
from perdure.store.storage import SECRETS, opened_secrets
from perdure.store.tasks import TaskRow, WaitRow, put_task, remove_waits


class Heard(Struct, frozen=True):
    """What a session reads to hear of tasks: they, its calls that wait, and its secrets by name."""

    tasks: dict[TaskId, TaskRow]
    waits: list[WaitRow]
    secrets: dict[str, str]


# Rows of different shapes, as in `call_reads.py`.
_TASK, _WAIT = len(TaskRow.__struct_fields__), len(WaitRow.__struct_fields__)
_TYPES = (*["TEXT"] * (_WAIT - 1), "BIGINT", "TEXT", "BYTEA")
_SECRET_ROWS = SECRETS.format(first=f"'secret'{', NULL' * (_TASK + _WAIT)}, ", more="")
_READ = (
    f"SELECT 'task', {columns(TaskRow)}, {', '.join(f'CAST(NULL AS {kind})' for kind in _TYPES)}"
    " FROM tasks WHERE {those}"
    f" UNION ALL SELECT 'wait'{', NULL' * _TASK}, {columns(WaitRow)}, NULL, NULL"
    " FROM task_waits WHERE session_id = ?"
    f" UNION ALL {_SECRET_ROWS}"
)


async def read_hearing(tx: Tx, vault: Vault, session: SessionRow, task_ids: Sequence[TaskId]) -> Heard:
    """Read what a session needs to hear of these tasks."""
    those, ids = among(tx.dialect, "id", "TEXT", task_ids)
    found = await tx.all(_READ.format(those=those), ids, session.id, session.id, session.org_id)
    tasks = [TaskRow(*row[1 : 1 + _TASK]) for row in found if row[0] == "task"]
    waits = [WaitRow(*row[1 + _TASK : 1 + _TASK + _WAIT]) for row in found if row[0] == "wait"]
    secrets = [row[1 + _TASK + _WAIT :] for row in found if row[0] == "secret"]
    return Heard(
        {row.id: row for row in tasks},
        waits,
        await opened_secrets(tx, vault, session.org_id, session.id, secrets),
    )


class TaskChanges(Struct, frozen=True):
    """What an append changes of tasks, and which calls wait no more: see `Tx.append`."""

    tasks: Sequence[TaskRow]
    waits: Sequence[WaitRow]

    def part(self) -> Part:
        """Return it as a part of the append's statement."""
        args: list[Param] = [[getattr(row, name) for row in self.tasks] for name in _CHANGED]
        args += [[getattr(row, name) for row in self.waits] for name in _ENDED]
        return Part(_CHANGE, args)

    async def run(self, tx: Tx) -> None:
        """Do it in statements of its own."""
        for task in self.tasks:
            await put_task(tx, task)
        for wait in self.waits:
            await remove_waits(tx, wait.session_id, wait.exec_id, (wait.tool_call_id,))


_CHANGED = {
    "id": "TEXT",
    "org_id": "TEXT",
    "state": "TEXT",
    "heard": "INT",
    "attempt": "INT",
    "wish": "TEXT",
    "deadline": "BIGINT",
    "finished_at": "BIGINT",
    "task": "TEXT",
}
"""The columns that change of a task, after those that name it, with their types."""
_ENDED = ("session_id", "exec_id", "tool_call_id")
_CHANGE = f"""changed AS (
  UPDATE tasks SET {", ".join(f"{name} = new.{name}" for name in list(_CHANGED)[2:])}
  FROM moved, unnest({", ".join(f"CAST(? AS {kind}[])" for kind in _CHANGED.values())})
    AS new ({", ".join(_CHANGED)})
  WHERE tasks.id = new.id AND tasks.org_id = new.org_id
), ended AS (
  DELETE FROM task_waits USING moved, unnest({", ".join("CAST(? AS TEXT[])" for _ in _ENDED)})
    AS over ({", ".join(_ENDED)})
  WHERE {" AND ".join(f"task_waits.{name} = over.{name}" for name in _ENDED)}
)"""
