"""What a sub-agent's session says about its task, for the session that began it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, to_builtins
from msgspec.structs import replace

from perdure.app.task_answers import answer_in, end_at
from perdure.domain.data_flow import External
from perdure.domain.errors import UnreadableEvent
from perdure.domain.event_data import EventData
from perdure.domain.events import (
    ENDED_TURN,
    Event,
    FileWrittenData,
    TaskReportedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnSealedData,
)
from perdure.domain.ids import SessionId
from perdure.domain.messages import JsonValue
from perdure.domain.parked import ASKED, ParkedCall
from perdure.domain.questions import summary_of
from perdure.domain.tasks import (
    TaskArtifact,
    TaskError,
    TaskInputRequest,
    TaskMessage,
    TaskProgress,
    TaskState,
)
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.events import events_within
from perdure.store.questions import questions_at
from perdure.store.sessions import SessionRow, look_session
from perdure.store.tasks import TaskRow, find_task

SESSION_DELETED = "the session was deleted"
"""Why a deletion cancels a turn."""
DELETED = TaskError("deleted", "The sub-agent's session was deleted.")


class Report(Struct, frozen=True):
    """What is heard of a task.

    Attributes:
        state: the state that it is in now.
        since, heard: the sequences, in the child's log, after which and up to which this is all. Without
            `since`, it is not read from a log.
        attempt: the attempt that it is about; None if only one can be.
        answer: with `succeeded`: the whole answer.
        result_path: the file with the whole answer, if it is cut.
        files: what a tool has written, for the log of the session itself.
        found: what policy hooks have decided about its result, and what guardrails have found in it, for that
            log, too.
        external: where text from outside that reaches the session with it came from.
        withheld: whether it is not what the task has said: a guardrail has changed it.
    """

    state: TaskState
    since: int | None = None
    heard: int = 0
    attempt: int | None = None
    detail: str | None = None
    answer: str = ""
    output: JsonValue = None
    error: TaskError | None = None
    input_request: TaskInputRequest | None = None
    started_at: Micros | None = None
    messages: tuple[TaskMessage, ...] = ()
    progress: TaskProgress | None = None
    artifacts: tuple[TaskArtifact, ...] = ()
    result_path: str | None = None
    files: tuple[FileWrittenData, ...] = ()
    external: tuple[External, ...] = ()
    found: tuple[EventData, ...] = ()
    withheld: bool = False

    @property
    def says_something(self) -> bool:
        """Whether it has words of the task, which guardrails check."""
        return bool(
            self.answer
            or self.output is not None
            or self.error
            or self.messages
            or self.progress
            or self.artifacts
            or self.input_request
        )


class News(Struct, frozen=True):
    """What a session has noted for its parent.

    Attributes:
        sequence: the event of its log that the note is about.
        tell: what is to be applied to which task, as this was read; None if the task knows it already, or if
            nobody is left to hear of it.
    """

    sequence: int
    tell: tuple[TaskRow, Report] | None


async def read_news(
    tx: Tx, child_id: SessionId, known: SessionRow | None = None, log: Sequence[Event] = ()
) -> News | None:
    """Read what a session has noted for its parent; None if there is nothing, or the session has none.

    Args:
        known: the session as its turn ended. What came later has a note of its own.
        log: the session's whole log up to there, if it is known.
    """
    row = known or await look_session(tx, child_id)
    if row is None or row.news is None or row.task_id is None:
        return None
    task = await find_task(tx, row.task_id)
    if task is None or task.knows(row.news):
        return News(row.news, None)
    return News(row.news, (task, await read_report(tx, row, task, log if row is known else ())))


async def read_report(tx: Tx, row: SessionRow, task: TaskRow, log: Sequence[Event] = ()) -> Report:
    """Read where a session is with its task. `log`: its whole log, if it is known."""
    log = log if len(log) == row.head else ()
    messages, progress, artifacts = await _reports(tx, row, task.heard, log)
    report = Report(
        "queued" if row.started_at is None else "running",
        since=task.heard,
        heard=row.head,
        started_at=row.started_at,
        messages=messages,
        progress=progress,
        artifacts=artifacts,
        external=row.external_sources(),
    )
    return await _with_state(tx, row, task, report, log)


async def _with_state(tx: Tx, row: SessionRow, task: TaskRow, report: Report, log: Sequence[Event]) -> Report:
    if row.ended is not None:
        return _ended(await end_at(tx, row.id, row.ended, log), task, report)
    if row.deleted_at is not None:
        return replace(report, state="canceled", error=DELETED)
    asked = next((call for call in row.parked_calls() if call.kind in ASKED), None)
    if row.status == "waiting_for_tool_results" and asked is not None:
        return replace(report, state="awaiting_input", input_request=await _asked(tx, row, asked))
    if row.status == "paused":
        return _stopped(report, row)
    return report


def _stopped(report: Report, row: SessionRow) -> Report:
    """The report of a session that a budget has stopped: somebody has to see to its money."""
    budget = next((call.budget_id for call in row.parked_calls() if call.kind == "budget"), None)
    name = "A budget" if budget is None else f"The budget {budget}"
    prompt = f"{name} has no money for the next model call: raise its limit, or top it up."
    asked = TaskInputRequest(budget or "budget", prompt)
    return replace(report, state="awaiting_input", detail="budget", input_request=asked)


def _ended(found: list[Event], task: TaskRow, report: Report) -> Report:
    """The report of a session that is done. `found`: what `end_at` has read."""
    end = next((event for event in found if event.type in ENDED_TURN), None)
    data = None if end is None else _decoded(end)
    late = end is not None and task.struct().is_late(task.deadline, end.ts)
    match data:
        case TurnCompletedData():
            answer = answer_in(found)
            return replace(report, state="succeeded", answer=answer.text, output=answer.output)
        case TurnFailedData(error=error, error_code=code):
            return replace(report, state="failed", error=TaskError(code or "failed", error))
        case TurnSealedData(reason=reason, detail=detail):
            said = detail or "The sub-agent's turn was stopped for good."
            return replace(report, state="failed", error=TaskError(reason, said))
        case TurnCancelledData(reason=reason) if late:
            said = reason or "The time limit has passed."
            return replace(report, state="failed", error=TaskError("time_limit", said))
        case TurnCancelledData(reason=reason) if reason == SESSION_DELETED:
            return replace(report, state="canceled", error=DELETED)
        case TurnCancelledData(reason=reason):
            return replace(report, state="canceled", error=_canceled(reason))
    return replace(report, state="failed", error=TaskError("unreadable", "Its last turn cannot be read."))


def _canceled(reason: str | None) -> TaskError:
    return TaskError("canceled", reason or "It was canceled.")


def _decoded(event: Event) -> object:
    try:
        return event.decoded()
    except UnreadableEvent:
        return None


async def _asked(tx: Tx, row: SessionRow, call: ParkedCall) -> TaskInputRequest:
    if call.kind == "question":
        questions = await questions_at(tx, row.id, call.asked_at)
        prompt = f"The sub-agent asks: {summary_of(questions)}"
        return TaskInputRequest(call.tool_call_id, prompt, {"questions": to_builtins(questions)})
    prompts = {
        "approval": f"May {call.tool_name} run?",
        "client": f"A client has to run {call.tool_name}.",
        "sign_in": f"Somebody has to sign in for {call.tool_name}.",
        "input": f"{call.tool_name} asks for input.",
    }
    return TaskInputRequest(call.tool_call_id, prompts.get(call.kind, f"{call.tool_name} waits."))


async def _reports(
    tx: Tx, row: SessionRow, heard: int, log: Sequence[Event]
) -> tuple[tuple[TaskMessage, ...], TaskProgress | None, tuple[TaskArtifact, ...]]:
    """What the session has reported itself since this sequence."""
    messages: list[TaskMessage] = []
    artifacts: list[TaskArtifact] = []
    progress: TaskProgress | None = None
    after, more, kinds = heard, heard < row.head, (TaskReportedData.kind,)
    while more:
        if log:
            events, more = [event for event in log[heard:] if event.type in kinds], False
        else:
            events, more = await events_within(tx, row.id, after, until=row.head, kinds=kinds)
        for event in events:
            after, data = event.sequence, _decoded(event)
            if isinstance(data, TaskReportedData):
                messages += [] if data.message is None else [data.message]
                artifacts += data.artifacts
                progress = data.progress or progress
        more = more and bool(events)
    return tuple(messages), progress, tuple(artifacts)
