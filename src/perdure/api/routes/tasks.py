"""Routes of tasks: of a session, and of all sessions of the organization."""

from __future__ import annotations

from typing import Annotated, TypeVar, get_args

from msgspec import Meta, Struct
from msgspec.structs import replace

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.sessions import Choices, parse_time, separated
from perdure.app import tasks as use
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import SessionId, TaskId, check_id, id_schema
from perdure.domain.tasks import (
    PostTaskMessage,
    SessionTask,
    SessionTaskDetail,
    TaskKind,
    TaskMessage,
    TaskState,
)
from perdure.domain.times import Timestamp
from perdure.store.task_lists import TaskFilter

T = TypeVar("T")
STATES: tuple[TaskState, ...] = get_args(TaskState)
KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
Limit = Annotated[int, Meta(description="The maximum number of items to return.", ge=1, le=1000)]


class FilterTasks(Struct, frozen=True):
    """Query parameters that say which tasks are meant."""

    state: Annotated[
        Choices,
        Meta(description="Return only tasks in this state. Several: repeat it, or separate by commas."),
    ] = ()
    kind: Annotated[
        Choices,
        Meta(
            description=(
                "Return only tasks of this kind: `subagent` or `background_tool`. Several: repeat it, or "
                "separate by commas."
            )
        ),
    ] = ()
    before: Annotated[
        Annotated[str, id_schema("task")] | None,
        Meta(
            description=(
                "Return only tasks that were created before this one: the last of the page before. The pages "
                "end with an empty list."
            )
        ),
    ] = None


class ListTasks(FilterTasks, frozen=True):
    """Query parameters of the list of a session's tasks."""

    limit: Limit = 1000


class ListOrgTasks(FilterTasks, frozen=True):
    """Query parameters of the list of an organization's tasks."""

    created_after: Annotated[
        Timestamp | None, Meta(description="Return only tasks created after this time.")
    ] = None
    root_session_id: Annotated[
        Annotated[str, id_schema("session")] | None,
        Meta(description="Return only tasks of the session at the top of a tree, and of all below it."),
    ] = None
    limit: Limit = 100


class ReadTask(Struct, frozen=True):
    """Query parameters of a task: which of its messages come with it."""

    after_id: Annotated[
        Annotated[str, id_schema("message")] | None,
        Meta(description="Return only messages after the one with this id."),
    ] = None
    limit: Annotated[int, Meta(description="The maximum number of messages to return.", ge=1, le=1000)] = 100


def _filters(query: FilterTasks) -> TaskFilter:
    return TaskFilter(
        states=tuple(_among(STATES, each, "state") for each in separated(query.state)),
        kinds=tuple(_among(KINDS, each, "kind") for each in separated(query.kind)),
        before=None if query.before is None else check_id(query.before, "task", "before"),
    )


def _among(choices: tuple[T, ...], text: str, field: str) -> T:
    for choice in choices:
        if text == choice:
            return choice
    known = ", ".join(map(str, choices))
    raise InvalidInput(f"`{field}` must be one of {known}, not {text[:40]!r}", field=field)


@route("GET", "/v1/sessions/{session_id}/tasks", "tasks", errors=(404,))
async def list_tasks(call: Call, session_id: SessionId, query: ListTasks) -> tuple[SessionTask, ...]:
    """List a session's tasks, newest first.

    The tasks that the session itself has begun, until 30 days after their ends. The list ends after about
    4 MB, too: continue with `before`.
    """
    filters = replace(_filters(query), session_id=session_id)
    return await use.list_tasks(call.app, call.caller, filters, query.limit)


@route("GET", "/v1/sessions/{session_id}/tasks/{task_id}", "tasks", errors=(404,))
async def get_task(call: Call, session_id: SessionId, task_id: TaskId, query: ReadTask) -> SessionTaskDetail:
    """Get a task, with the messages to and from it.

    The messages come in the order in which the session's log has them. `after_id` continues with those after
    a message: until none comes, or later, to see new ones.
    """
    after = None if query.after_id is None else check_id(query.after_id, "message", "after_id")
    return await use.read_task(call.app, call.caller, session_id, task_id, after, query.limit)


@route("POST", "/v1/sessions/{session_id}/tasks/{task_id}/cancel", "tasks", errors=(404,))
async def cancel_task(call: Call, session_id: SessionId, task_id: TaskId) -> SessionTask:
    """Cancel a task, and all tasks below it.

    Asks the task to stop: `cancel_requested_at`. It has stopped once its state is `canceled`, which the
    answer usually has already. Its session is told as of any other end. Idempotent: a task that has ended
    stays as it is.
    """
    return await use.cancel_task(call.app, call.caller, session_id, task_id)


@route(
    "POST",
    "/v1/sessions/{session_id}/tasks/{task_id}/messages",
    "tasks",
    errors=(404,),
    body_example={"text": "Look at the year 2025 as well."},
)
async def post_task_message(
    call: Call, session_id: SessionId, task_id: TaskId, body: PostTaskMessage
) -> TaskMessage:
    """Send a message to a task.

    Tasks of sub-agents read no messages of users: 400 `task_reads_no_messages`, which names the sub-agent's
    session. A message to that session does what is wanted here. Tools that run in the background read none,
    either.
    """
    return await use.post_task_message(call.app, call.caller, session_id, task_id, body)


@route("GET", "/v1/tasks", "tasks")
async def list_org_tasks(call: Call, query: ListOrgTasks) -> tuple[SessionTask, ...]:
    """List the tasks of all sessions of the organization, newest first.

    A task must match all filters. Tasks are listed until 30 days after their ends. The list ends after about
    4 MB, too: continue with `before`.
    """
    root = query.root_session_id
    filters = replace(
        _filters(query),
        root_id=None if root is None else check_id(root, "session", "root_session_id"),
        created_after=parse_time(query.created_after, "created_after"),
    )
    return await use.list_tasks(call.app, call.caller, filters, query.limit)


ROUTES = (list_tasks, get_task, cancel_task, post_task_message, list_org_tasks)
