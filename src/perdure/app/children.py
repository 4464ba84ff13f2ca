"""Sub-agents: sessions that a session begins, each for one task."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.task_answers import SPAWN
from perdure.capabilities.port import ToolContext
from perdure.domain.errors import Conflict, InvalidInput
from perdure.domain.events import (
    EventContext,
    InputMessageData,
    NewEvent,
    SessionStartedData,
    TaskCreatedData,
)
from perdure.domain.ids import SessionId
from perdure.domain.messages import Controls, JsonObject, Message, TextPart
from perdure.domain.outputs import OutputSchema
from perdure.domain.sessions import SessionConfig
from perdure.domain.spans import message_context
from perdure.domain.tasks import (
    MAX_DEPTH,
    MAX_OPEN,
    SOURCE,
    SessionTask,
    TaskLinks,
    TaskMode,
    WakePolicy,
)
from perdure.domain.times import Micros, to_rfc3339
from perdure.store.database import Tx
from perdure.store.queue import Job
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow, add_session, append, get_session
from perdure.store.tasks import (
    TaskRow,
    WaitRow,
    add_task,
    add_wait,
    count_unfinished,
    task_by_key,
)


class Spawn(Struct, frozen=True):
    """A sub-agent to begin.

    Attributes:
        instructions: its first message.
        time_limit: seconds.
        files: whether it works on the parent's files, on a copy of them, or on its own.
    """

    name: str
    instructions: str
    mode: TaskMode
    time_limit: float
    wake_policy: WakePolicy = "on_terminal"
    files: Literal["shared", "fork", "none"] = "shared"
    agent: str | None = None
    blueprint: str | None = None
    output_schema: OutputSchema | None = None
    spec: JsonObject = {}


async def spawn(app: Services, context: ToolContext, what: Spawn) -> TaskRow:
    """Begin a sub-agent, in one transaction with the event of its task. Idempotent by the call's effect key.

    Returns:
        The task; the same one if the call is repeated.

    Raises:
        Conflict: too many tasks have not ended, or the tree is too deep.
        Fenced: the turn was cancelled, so nothing was begun.
    """
    before = await app.database.read(lambda tx: task_by_key(tx, context.session_id, context.effect_key))
    if before is not None:
        return before
    parent = await app.database.read(lambda tx: get_session(tx, context.org_id, context.session_id))
    if parent.depth >= MAX_DEPTH:
        raise Conflict(
            f"this session is {MAX_DEPTH} levels below the first one and cannot begin sub-agents: do the "
            "work yourself",
            code="too_deep",
        )
    now = app.now()
    child = _child_of(app, context, parent, what, now)
    row = _task_row(app, context, parent, child, what, now)
    child = replace(child, task_id=row.id)
    message = Message(app.new_id("message"), "user", (TextPart(what.instructions),), to_rfc3339(now))
    if what.output_schema is not None:
        message = replace(message, controls=Controls(output_schema=what.output_schema))

    async def also(tx: Tx) -> None:
        if await count_unfinished(tx, parent.id) >= MAX_OPEN:
            raise Conflict(
                f"{MAX_OPEN} tasks of this session have not ended: wait for some of them, or cancel them",
                code="too_many_tasks",
            )
        await add_task(tx, row)
        await _begin(app, tx, parent, child, message, what, now)
        if what.mode == "foreground":
            await add_wait(tx, _wait_of(context, row))

    await context.log((TaskCreatedData(row.struct()),), also)
    return row


async def _begin(
    app: Services, tx: Tx, parent: SessionRow, child: SessionRow, message: Message, what: Spawn, now: Micros
) -> None:
    """Create the child's session with its first message and its job."""
    await add_session(tx, child)
    started = SessionStartedData(child.harness_id, child.agent_id, child.model_id)
    context = message_context(app.new_id("turn"), message.id)
    events = [
        NewEvent(started, EventContext(), now),
        NewEvent(InputMessageData(message), context, now),
    ]
    await append(tx, child, events, now=now)
    await app.queue.enqueue(tx, Job(child.org_id, child.id))


def _wait_of(context: ToolContext, row: TaskRow) -> WaitRow:
    if row.deadline is None:
        raise InvalidInput("a sub-agent that is waited for has a time limit")
    return WaitRow(
        context.session_id,
        context.org_id,
        context.turn_id,
        context.exec_id,
        context.tool_call_id,
        SPAWN,
        "all",
        to_json([row.id]),
        row.deadline,
    )


def _task_row(
    app: Services, context: ToolContext, parent: SessionRow, child: SessionRow, what: Spawn, now: Micros
) -> TaskRow:
    deadline = now + round(what.time_limit * 1_000_000)
    task = SessionTask(
        app.new_id("task"),
        parent.id,
        "subagent",
        what.name,
        "queued",
        to_rfc3339(now),
        to_rfc3339(now),
        what.wake_policy,
        what.mode,
        what.spec,
        TaskLinks(child.id),
        attempt=1,
        deadline=to_rfc3339(deadline),
    )
    return TaskRow(
        id=task.id,
        org_id=parent.org_id,
        session_id=parent.id,
        root_session_id=parent.root_session_id or parent.id,
        kind="subagent",
        state=task.state,
        effect_key=context.effect_key,
        turn_id=context.turn_id,
        child_session_id=child.id,
        heard=0,
        attempt=1,
        wish=None,
        deadline=deadline,
        created_at=now,
        finished_at=None,
        task=to_json(task),
    )


def _child_of(
    app: Services, context: ToolContext, parent: SessionRow, what: Spawn, now: Micros
) -> SessionRow:
    """The child's session: the parent's agent, model and settings, but not its secrets."""
    config = replace(parent.config_struct(), initial_files=(), hints=None, output_schema=None)
    return replace(
        parent,
        id=_new_session(app),
        title=what.name,
        tags="[]",
        config=to_json(config) if config != SessionConfig() else "{}",
        forked_from_id=None,
        forked_from_sequence=None,
        created_at=now,
        updated_at=now - 1,
        epoch=0,
        recoveries=0,
        claimed_head=-1,
        head=0,
        status="started",
        turn_id=None,
        turn_after=0,
        wake_at=None,
        preview=None,
        output_preview=None,
        usage=None,
        started_at=None,
        finished_at=None,
        workspace_id=parent.workspace() if what.files == "shared" else None,
        archived_at=None,
        source=SOURCE,
        parent_session_id=parent.id,
        metadata="{}",
        parked=None,
        resting=0,
        queued=None,
        loaded_tools=None,
        root_session_id=parent.root_session_id or parent.id,
        depth=parent.depth + 1,
        ended=None,
        news=None,
    )


def _new_session(app: Services) -> SessionId:
    return app.new_id("session")
