"""Sub-agents: sessions that a session begins, each for one task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.child_sessions import Files, Planned, Wanted, plan_child
from perdure.app.context import Services
from perdure.app.file_copies import copy_ahead, give_copy
from perdure.app.initial_files import write_initial_files
from perdure.app.output_schemas import checked_output
from perdure.app.session_room import room_for_session
from perdure.app.task_answers import SPAWN
from perdure.capabilities.port import Later, ToolContext
from perdure.domain.errors import Conflict, InvalidInput, NotFound
from perdure.domain.events import (
    EventContext,
    InputMessageData,
    NewEvent,
    SessionStartedData,
    TaskCreatedData,
    ToolsLoadedData,
)
from perdure.domain.messages import Controls, JsonObject, Message, TextPart
from perdure.domain.outputs import OutputSchema
from perdure.domain.spans import message_context
from perdure.domain.subagents import Subagents
from perdure.domain.tasks import SessionTask, TaskLinks, TaskMode, WakePolicy, check_open
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.trace_context import TraceContext, current_trace
from perdure.store.additions import Additions
from perdure.store.database import Rows, Tx, merged
from perdure.store.queue import Begun, Job
from perdure.store.rows import to_json
from perdure.store.session_counts import counted
from perdure.store.sessions import BegunSession, SessionRow, get_session, lock_session, new_session
from perdure.store.tasks import (
    TaskRow,
    WaitRow,
    look_around,
    new_rows,
    task_by_key,
)
from perdure.store.workspaces import kept_workspace


class Spawn(Struct, frozen=True):
    """A sub-agent to begin.

    Attributes:
        instructions: its first message.
        time_limit: seconds.
        files: whether it works on the parent's files, on a copy of them, or on its own.
        agent: the id or name of its agent; None for the parent's.
        spec: what it was asked for with, for people.
        config: the configuration of the capability.
    """

    name: str
    instructions: str
    mode: TaskMode
    time_limit: float
    wake_policy: WakePolicy = "on_terminal"
    files: Files = "shared"
    agent: str | None = None
    blueprint: str | None = None
    output_schema: OutputSchema | None = None
    spec: JsonObject = {}
    config: Subagents = Subagents()


async def spawn(app: Services, context: ToolContext, what: Spawn, later: Later | None = None) -> TaskRow:
    """Begin a sub-agent, in one transaction with the event of its task. Idempotent by the call's effect key.

    Args:
        later: in the foreground: how the call is parked, in the same transaction.

    Returns:
        The task; the same one if the call is repeated.

    Raises:
        Conflict: too many tasks have not ended, or the tree is too deep.
        InvalidInput: there is no such agent or blueprint, or the schema of the answer is not valid.
        Fenced: the turn was cancelled, so nothing was begun.
    """
    controls = context.controls or Controls()
    wanted = Wanted(
        what.name, what.agent, what.blueprint, what.files, what.config, controls, context.model_id
    )

    async def plan(tx: Tx) -> TaskRow | tuple[SessionRow, Planned]:
        parent = context.session_row
        if parent is None:  # the call is repeated
            before = await task_by_key(tx, context.session_id, context.effect_key)
            if before is not None:
                return before
            parent = await get_session(tx, context.org_id, context.session_id)
        if context.agent is not None:
            parent = parent.under(context.agent)  # a participant's sub-agent is its own
        return parent, await plan_child(app, tx, parent, wanted)

    found = await app.database.read(plan)
    if isinstance(found, TaskRow):
        return found
    parent, planned = found
    schema = await checked_output(what.output_schema or _schema_of(what), None)
    now, trace = app.now(), current_trace()
    row = _task_row(app, context, parent, planned.row, what, now)
    planned = replace(planned, row=replace(planned.row, task_id=row.id))
    controls = replace(planned.controls, output_schema=schema)
    content, ts = (TextPart(what.instructions),), to_rfc3339(now)
    message = Message(
        *(app.new_id("message"), "user", content, ts), controls=None if controls == Controls() else controls
    )
    waits = (_wait_of(context, row),) if what.mode == "foreground" else ()
    child = _child(app, context, planned, message, now, trace)
    new = _New(app, parent, child, new_rows(row, *waits), what.config.max_open, what.files == "shared")
    begin = Additions(_rows_of, (new,))
    also = await _with_files(app, parent, planned, what.files, begin, now)
    await context.log((TaskCreatedData(row.struct()),), also, later)
    return row


async def _with_files(
    app: Services, parent: SessionRow, planned: Planned, files: Files, begin: Additions[_New], now: Micros
) -> Callable[[Tx], Awaitable[None]]:
    """What begins a sub-agent and gives it the files that it works on, as far as they are its own."""
    child, ahead = planned.row, None
    if files != "fork" and not any(planned.files):
        return begin
    if files == "fork":
        ahead = await copy_ahead(app, parent.org_id, parent.workspace(), child.workspace())

    async def also(tx: Tx) -> None:
        await begin(tx)
        if files == "fork":
            await give_copy(tx, child.org_id, parent.workspace(), child.workspace(), ahead, now)
        await write_initial_files(app, tx, child, planned.files, now)

    return also


def _schema_of(what: Spawn) -> OutputSchema | None:
    """The schema of the blueprint's answers."""
    blueprint = None if what.blueprint is None else what.config.blueprints.get(what.blueprint)
    return None if blueprint is None else blueprint.output_schema


class _New(Struct, frozen=True):
    """A sub-agent that the append of its task begins.

    Attributes:
        rows: those of the task.
        most: how many tasks of the parent may be open.
        shares: whether it works on the parent's files.
    """

    app: Services
    parent: SessionRow
    child: BegunSession
    rows: tuple[Rows, ...]
    most: int
    shares: bool


async def _rows_of(tx: Tx, news: Sequence[_New]) -> Sequence[Rows]:
    """The rows of sub-agents that one session begins in one append, which finds out if it has changed.

    Raises:
        Conflict: too many tasks of the session have not ended, or too many sessions are open.
        NotFound: the session's files are gone.
        NotSingle: as `room_for_session` and the queue.
    """
    app, parent = news[0].app, news[0].parent
    if not tx.single:
        # The session comes first, as for others that open sessions: `room_for_session` may lock more.
        await lock_session(tx, parent)
    around = await look_around(tx, parent)
    for number, new in enumerate(news):
        check_open(around.unfinished + number, new.most)
    scope = (parent.org_id, parent.owner_id)
    if reached := await room_for_session(app, tx, *scope, len(news), around.open_sessions):
        raise Conflict(f"{reached.message()}: archive or delete some", code="too_many_sessions")
    rows = [counted(tx.dialect, parent.org_id, len(news), parent.id)]
    if any(new.shares for new in news) and not around.has_workspace:
        # From now on, it does not depend on the parent's session whether the workspace exists.
        if parent.workspace_id is not None:
            raise NotFound("workspace")
        rows.append(kept_workspace(parent))
    for new in news:
        rows += [*new.child.rows(), *new.rows]
        begun = Begun()
        begun.fill_in(new.child.row, new.child.events)
        await app.queue.enqueue(tx, Job(parent.org_id, new.child.row.id, begun=begun))
    return merged(rows)


def _child(
    app: Services,
    context: ToolContext,
    planned: Planned,
    message: Message,
    now: Micros,
    trace: TraceContext | None,
) -> BegunSession:
    """The sub-agent's session with its first message."""
    child = planned.row
    # Its first message is the parent's, who may repeat what it has read.
    started = SessionStartedData(child.harness_id, child.agent_id, child.model_id, child.external_sources())
    events = [NewEvent(started, EventContext(), now)]
    if planned.loaded:
        loaded = ToolsLoadedData(context.tool_call_id, planned.loaded)
        events.append(NewEvent(loaded, EventContext(), now))
    about = message_context(app.new_id("turn"), message.id)
    events.append(NewEvent(InputMessageData(message, trace=trace), about, now))
    return new_session(child, events, now)


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
