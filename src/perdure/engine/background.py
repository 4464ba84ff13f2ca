"""Begins tasks of tools: the turn goes on, and a worker runs the tool in the background.

The task, its row, its job and the result of the call are one append. So nothing has begun before that, and a
crash in between begins it once.
"""

from __future__ import annotations

from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.background import ToolTask, asks, shown
from perdure.domain.calls import CallState, key_of
from perdure.domain.errors import ToolError
from perdure.domain.events import TaskCreatedData, ToolCompletedData
from perdure.domain.messages import JsonObject, JsonValue, TextPart
from perdure.domain.tasks import MAX_TIME_LIMIT, TIME_LIMIT, SessionTask, check_open
from perdure.domain.times import to_rfc3339
from perdure.domain.turn import Calling
from perdure.domain.turn_queries import agent_ahead
from perdure.engine.run import Run
from perdure.store.database import Tx
from perdure.store.queue import Job
from perdure.store.rows import to_json
from perdure.store.tasks import TaskRow, add_task, count_unfinished

REDACTED = (
    "The arguments contain a secret, and those of a call in the background would have to be stored. Make the "
    "call without `run_in_background`."
)


def begins_task(bound: BoundTool | None, arguments: JsonValue) -> bool:
    """Whether a call of this tool only begins a task."""
    return bound is not None and bound.background and asks(arguments)


async def begin_task(
    run: Run, agent: ResolvedAgent, bound: BoundTool, state: Calling, call: CallState, arguments: JsonObject
) -> None:
    """Begin a task with a call, and complete the call.

    Raises:
        ToolError: an argument is a secret, or the call has ended.
        Conflict: too many tasks of the session have not ended.
        Fenced: the turn was cancelled.
    """
    if run.arguments_of(call) != call.arguments:
        raise ToolError(REDACTED)
    engine = run.engine
    row = _task_row(run, agent, bound, state, call, arguments)

    async def also(tx: Tx) -> None:
        check_open(await count_unfinished(tx, row.session_id))
        await add_task(tx, row)
        await engine.queue.enqueue(tx, Job(row.org_id, row.session_id, task_id=row.id))

    result = {"task_id": row.id, "state": "running"}
    completed = ToolCompletedData(
        call.id,
        call.name,
        True,
        "success",
        (TextPart(to_json(result)),),
        display_name=bound.tool.display_name,
        capability_id=bound.capability_id,
        capability_name=bound.capability_name,
    )
    created = TaskCreatedData(row.struct())
    if not await run.log_at_once(call.id, created, completed, progress=True, also=also):
        raise ToolError("the call has ended")


def _task_row(
    run: Run, agent: ResolvedAgent, bound: BoundTool, state: Calling, call: CallState, arguments: JsonObject
) -> TaskRow:
    now, row, rules = run.engine.clock.now(), run.row, agent.behaviour.background
    seconds = min(max(bound.tool.timeout, rules.time_limit if rules else 0.0), MAX_TIME_LIMIT)
    key, found = key_of(row.id, call), agent.found_tools
    spec = ToolTask(
        call.name,
        shown(arguments),
        key,
        seconds,
        call.id,
        state.exec_id,
        call.announced_at,
        bool(bound.tool.hints.readonly),
        None if found is None else found.digest,
        agent_ahead(state, row.own_agent()),
    )
    # Until a worker begins, it only has to be taken up in time.
    deadline = now + round(max(TIME_LIMIT, seconds) * 1_000_000)
    task = SessionTask(
        run.engine.new_id("task"),
        row.id,
        "background_tool",
        call.name,
        "queued",
        to_rfc3339(now),
        to_rfc3339(now),
        spec=spec.spec(),
        deadline=to_rfc3339(deadline),
    )
    return TaskRow(
        id=task.id,
        org_id=row.org_id,
        session_id=row.id,
        root_session_id=row.root_session_id or row.id,
        kind=task.kind,
        state=task.state,
        effect_key=key,
        turn_id=state.turn.id,
        child_session_id=None,
        heard=0,
        attempt=0,
        wish=None,
        deadline=deadline,
        created_at=now,
        finished_at=None,
        task=to_json(task),
    )
