"""The answers of tasks, for the model that began them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from perdure.domain.errors import UnreadableEvent
from perdure.domain.events import (
    ENDED_TURN,
    Event,
    OutputMessageCompletedData,
    ToolStatus,
    TurnCompletedData,
)
from perdure.domain.ids import SessionId
from perdure.domain.messages import JsonObject, text_of
from perdure.domain.tasks import MAX_ANSWER
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds
from perdure.store.rows import to_json
from perdure.store.sessions import look_session
from perdure.store.tasks import TaskRow, WaitRow

SPAWN, WAIT = "spawn_agent", "wait_tasks"
"""The tools whose calls wait for tasks."""


class WaitResult(Struct, frozen=True):
    """The result of a call that waited for tasks: a text or an error."""

    text: str | None = None
    error: str | None = None
    status: ToolStatus = "success"


class Answer(Struct, frozen=True):
    """What a sub-agent has answered."""

    text: str = ""
    output: Any = None


IN_SESSION = "are in the sub-agent's session"


def answer_text(text: str, output: object, limit: int = MAX_ANSWER, rest: str = IN_SESSION) -> str:
    """The answer as the parent's model reads it: the typed one, if there is one.

    Args:
        rest: where the rest of a longer one is.
    """
    whole = output if isinstance(output, str) else text if output is None else to_json(output)
    if len(whole) <= limit:
        return whole or "(no text)"
    return f"{whole[:limit]}\n[{len(whole) - limit} more characters {rest}.]"


async def answer_of(tx: Tx, row: TaskRow) -> Answer:
    """Read the whole answer of a task that has succeeded; empty if it is gone."""
    task = row.struct()
    own = row.child_session_id is None or task.withheld  # what the task said is not for this session
    child = None if own or row.child_session_id is None else await look_session(tx, row.child_session_id)
    if child is None or child.ended is None:
        return Answer(task.summary or "", task.output)
    return await answer_at(tx, row, child.ended)


async def answer_at(tx: Tx, row: TaskRow, ended: int) -> Answer:
    """Read what the turn that ended at a sequence of the child's log has answered."""
    child_id = row.child_session_id
    return Answer() if child_id is None else answer_in(await end_at(tx, child_id, ended))


_END = (OutputMessageCompletedData.kind, *sorted(ENDED_TURN))


async def end_at(tx: Tx, session_id: SessionId, ended: int, log: Sequence[Event] = ()) -> list[Event]:
    """Read how the turn ended that was over at a sequence of a log: its end and its last message.

    Args:
        log: the whole log, if it is known.
    """
    if log:
        return [event for event in reversed(log[:ended]) if event.type in _END][:2]
    events, _ = await events_of_kinds(tx, session_id, _END, before=ended, limit=2)
    return events


def answer_in(end: list[Event]) -> Answer:
    """The answer of a turn, from what `end_at` has read."""
    text, output = "", None
    for event in end:
        try:
            data = event.decoded()
        except UnreadableEvent:
            continue
        if isinstance(data, TurnCompletedData):
            output = data.output
        if isinstance(data, OutputMessageCompletedData):
            text = text or text_of(data.message.content)
    return Answer(text, output)


async def result_of_wait(tx: Tx, wait: WaitRow, rows: list[TaskRow], newest: Answer) -> WaitResult:
    """The result of a call whose tasks have ended, all of them or as many as it needs.

    Args:
        newest: the answer of the task that has ended now.
    """
    if wait.tool_name == SPAWN and len(rows) == 1:
        return _result_of_spawn(rows[0], newest)
    share = MAX_ANSWER // max(1, len(rows))
    return WaitResult(to_json([await described(tx, row, share) for row in rows]))


def _result_of_spawn(row: TaskRow, answer: Answer) -> WaitResult:
    task = row.struct()
    if task.error is None:
        return WaitResult(answer_text(answer.text, answer.output))
    if task.state == "canceled":
        return WaitResult(error=f"The sub-agent was canceled: {task.error.message}", status="cancelled")
    status: ToolStatus = "timeout" if task.error.kind == "time_limit" else "error"
    return WaitResult(error=f"The sub-agent failed ({task.error.kind}): {task.error.message}", status=status)


async def described(tx: Tx, row: TaskRow, limit: int = MAX_ANSWER) -> JsonObject:
    """A task, with its answer, as the model that began it sees it."""
    task = row.struct()
    shown: JsonObject = {"task_id": task.id, "name": task.display_name, "state": task.state}
    if task.state == "succeeded":
        answer = await answer_of(tx, row)
        fits = answer.output is not None and len(to_json(answer.output)) <= limit
        if fits:
            shown["output"] = answer.output
        else:
            rest = IN_SESSION if row.child_session_id is not None else "are left out: `get_task` has more"
            shown["answer"] = answer_text(answer.text, answer.output, limit, rest)
    if task.result_path is not None:
        shown["result_path"] = task.result_path
    if task.error is not None:
        shown["error"] = task.error.message
    if task.progress is not None:
        shown["progress"] = task.progress
    if task.input_request is not None:
        shown["waits_for"] = task.input_request.prompt
    if task.artifacts:
        shown["artifacts"] = task.artifacts
    return shown
