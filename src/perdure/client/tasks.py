"""Tasks: what sessions have begun and do not do in their own turns. And trees of sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import aclosing

from perdure.client import routes
from perdure.client.events import EventMethods, data_of
from perdure.client.routes import path_of
from perdure.domain.session_trees import SessionTree
from perdure.domain.tasks import (
    PostTaskMessage,
    SessionTask,
    SessionTaskDetail,
    TaskKind,
    TaskMessage,
    TaskPart,
    TaskState,
)

_TASKS = "/v1/sessions/{}/tasks"
_TASK = f"{_TASKS}/{{}}"


class TaskMethods(EventMethods):
    """The client's methods about tasks."""

    get_session_tree = routes.reads(
        "/v1/sessions/{}/tree",
        SessionTree,
        "Return a session with the sessions below it: the sub-agents that it has begun, and theirs.",
    )

    async def list_tasks(
        self,
        session_id: str,
        *,
        state: TaskState | Iterable[TaskState] = (),
        kind: TaskKind | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> tuple[SessionTask, ...]:
        """List a session's tasks, newest first.

        Args:
            session_id: the session's id.
            state: only tasks in this state, or in one of these.
            kind: only tasks of this kind.
            before: only tasks that were created before the one with this id.
            limit: how many to return, 1 to 1000.
        """
        params = [*_states(state), ("kind", kind), ("before", before), ("limit", limit)]
        return await self.call("GET", path_of(_TASKS, session_id), tuple[SessionTask, ...], params=params)

    async def list_org_tasks(
        self,
        *,
        state: TaskState | Iterable[TaskState] = (),
        kind: TaskKind | None = None,
        created_after: str | None = None,
        root_session_id: str | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> tuple[SessionTask, ...]:
        """List the tasks of all sessions of the organization, newest first.

        Args:
            state: only tasks in this state, or in one of these.
            kind: only tasks of this kind.
            created_after: an RFC 3339 time.
            root_session_id: only tasks of this session, at the top of a tree, and of all below it.
            before: only tasks that were created before the one with this id.
            limit: how many to return, 1 to 1000; 100 if left out.
        """
        params = [
            *_states(state),
            ("kind", kind),
            ("created_after", created_after),
            ("root_session_id", root_session_id),
            ("before", before),
            ("limit", limit),
        ]
        return await self.call("GET", "/v1/tasks", tuple[SessionTask, ...], params=params)

    async def get_task(
        self, session_id: str, task_id: str, *, after_id: str | None = None, limit: int | None = None
    ) -> SessionTaskDetail:
        """Return a task with its messages.

        Args:
            session_id: the id of the session that has begun the task.
            task_id: the task's id.
            after_id: only messages after the one with this id.
            limit: how many messages to return, 1 to 1000; 100 if left out.
        """
        params = [("after_id", after_id), ("limit", limit)]
        return await self.call("GET", path_of(_TASK, session_id, task_id), SessionTaskDetail, params=params)

    async def cancel_task(self, session_id: str, task_id: str) -> SessionTask:
        """Cancel a task, and all tasks below it. Does nothing if it has ended."""
        return await self.call("POST", path_of(f"{_TASK}/cancel", session_id, task_id), SessionTask)

    async def post_task_message(
        self,
        session_id: str,
        task_id: str,
        content: str | Sequence[TaskPart],
        *,
        in_reply_to: str | None = None,
    ) -> TaskMessage:
        """Send a message to a task.

        The tasks of sub-agents read none (400 `task_reads_no_messages`): use `send_message` with the
        sub-agent's session, the task's `links.child_session_id`.
        """
        body = (
            PostTaskMessage(text=content, in_reply_to=in_reply_to)
            if isinstance(content, str)
            else PostTaskMessage(content=tuple(content), in_reply_to=in_reply_to)
        )
        path = path_of(f"{_TASK}/messages", session_id, task_id)
        return await self.call("POST", path, TaskMessage, body=body)

    async def wait_for_task(self, session_id: str, task_id: str) -> SessionTask:
        """Wait until a task has ended, and return it.

        This follows the session's stream, and survives a restart of the server.
        """
        since = await self.last_event_id(session_id)
        followed = self.follow(session_id, since, types=("task.updated",))
        async with aclosing(followed) as events:
            task = (await self.get_task(session_id, task_id, limit=1)).task
            while not task.ended:
                told: SessionTask = data_of(await anext(events)).task
                task = told if told.id == task_id else task
        return task


def _states(state: TaskState | Iterable[TaskState]) -> list[tuple[str, str | int | None]]:
    return [("state", each) for each in ((state,) if isinstance(state, str) else state)]
