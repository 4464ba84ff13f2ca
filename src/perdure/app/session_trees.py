"""The tree of sessions below a session, for those who follow it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from msgspec.structs import replace

from perdure.app.context import App
from perdure.domain.accounts import Caller
from perdure.domain.ids import SessionId
from perdure.domain.messages import Usage
from perdure.domain.session_trees import MAX_NODES, MAX_TEXT, SessionNode, SessionTree
from perdure.domain.tasks import SessionTask, TaskError
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.store.database import Tx
from perdure.store.session_trees import NodeRow, sessions_below, tasks_of_nodes
from perdure.store.sessions import SessionRow, get_session


async def read_tree(app: App, caller: Caller, session_id: SessionId) -> SessionTree:
    """Read a session with the sessions below it. Raises NotFound."""
    org_id = caller.organization_id

    async def work(tx: Tx) -> SessionTree:
        top = await get_session(tx, org_id, session_id)
        below, more = await sessions_below(tx, org_id, session_id, MAX_NODES - 1)
        rows = [_row_of(top), *below]
        tasks = await tasks_of_nodes(tx, org_id, [row.task_id for row in rows if row.task_id is not None])
        nodes = tuple(
            _node(row, None if row.task_id is None else tasks.get(row.task_id)) for row in _ordered(rows)
        )
        return SessionTree(top.root_session_id or top.id, nodes, more, _sum(nodes))

    return await app.database.read(work, long=True)


def _row_of(row: SessionRow) -> NodeRow:
    return NodeRow(*(getattr(row, name) for name in NodeRow.__struct_fields__))


def _ordered(rows: list[NodeRow]) -> Iterator[NodeRow]:
    """The first row, then each row after its parent, and the oldest of several children first."""
    children: defaultdict[SessionId | None, list[NodeRow]] = defaultdict(list)
    for row in rows[1:]:
        children[row.parent_session_id].append(row)
    left = rows[:1]
    while left:
        row = left.pop()
        yield row
        left += sorted(children[row.id], key=lambda each: (each.created_at, each.id), reverse=True)


def _node(row: NodeRow, task: SessionTask | None) -> SessionNode:
    """What is shown of a session; `task` is None if it has none, or the task is not known any more."""
    answer = (task.summary if task is not None else None) or row.output_preview
    node = SessionNode(
        row.id,
        row.depth,
        row.status,
        to_rfc3339(row.created_at),
        parent_session_id=row.parent_session_id,
        task_id=row.task_id,
        name=row.title,
        agent_id=row.agent_id,
        usage=row.usage_struct(),
        answer=None if answer is None else answer[:MAX_TEXT],
        started_at=maybe_rfc3339(row.started_at),
    )
    if task is None:
        return node
    asked = task.input_request
    return replace(
        node,
        name=task.display_name,
        state=task.state,
        error=_short(task.error),
        waits_for=None if asked is None else asked.prompt[:MAX_TEXT],
        progress=task.progress,
        started_at=task.started_at or node.started_at,
        finished_at=task.finished_at,
    )


def _short(error: TaskError | None) -> TaskError | None:
    return None if error is None else TaskError(error.kind, error.message[:MAX_TEXT])


def _sum(nodes: tuple[SessionNode, ...]) -> Usage | None:
    total: Usage | None = None
    for node in nodes:
        total = total if node.usage is None else node.usage.plus(total)
    return total
