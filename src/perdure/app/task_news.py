"""What happens to a task reaches the session that began it, once.

A sub-agent's session notes in each append that its parent has to hear of it (`sessions.news`). `deliver`
reads what there is to hear, and applies it to the task under the parent's lock. So no two sessions are locked
at once, and a delivery that is repeated changes nothing: a task that has ended does not change any more, and
reports count up to a sequence that the task remembers. A note that the task knows of is cleared by the sweep.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.at_head import tell_followers, write_at_head
from perdure.app.context import Services
from perdure.app.guarded import checked_report, session_guard
from perdure.app.messages import append_message
from perdure.app.participants import speaker_of_turn
from perdure.app.running_turns import see_to_runner
from perdure.app.storage import redactor_with
from perdure.app.task_answers import Answer, answer_text, result_of_wait
from perdure.app.task_reports import Report, read_news
from perdure.capabilities.guarding import Guard
from perdure.domain.calls import CallState, Parked
from perdure.domain.data_flow import with_sources
from perdure.domain.errors import NotFound
from perdure.domain.events import (
    EventContext,
    NewEvent,
    TaskMessageReceivedData,
    TaskUpdatedData,
    ToolCompletedData,
)
from perdure.domain.ids import SessionId, TaskId, ToolCallId, TurnId
from perdure.domain.messages import Message, TextPart
from perdure.domain.redaction import Redactor, redact_events, redact_struct
from perdure.domain.spans import tool_context
from perdure.domain.steps import Started
from perdure.domain.tasks import (
    ENDED,
    MAX_ARTIFACTS,
    MAX_SUMMARY,
    PARENT_TASK,
    SessionTask,
    text_of_message,
)
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.turn import Calling, TurnState, fold
from perdure.store.database import Tx
from perdure.store.parked_turns import read_turn
from perdure.store.queue import Begun
from perdure.store.sessions import SessionRow, append, get_session
from perdure.store.task_hearing import TaskChanges, read_hearing
from perdure.store.tasks import (
    TaskRow,
    WaitRow,
    add_task_message,
    find_task,
    tasks_named,
    told_news,
)

ATTEMPTS = 20
"""How often a delivery reads the news again that another delivery overtakes."""


async def deliver(app: Services, child_id: SessionId) -> None:
    """Tell a session's parent what it has not heard of, if there is anything. Idempotent."""
    known = app.known.at_rest(child_id)
    log = () if known is None else app.known.take_log(child_id)
    for _ in range(ATTEMPTS):
        news = await app.database.read(partial(read_news, child_id=child_id, known=known, log=log))
        known = None
        if news is None:
            return
        applied = False if news.tell is None else await _settled(app, *news.tell)
        if applied:
            return  # the task remembers that: nobody waits until the note is cleared, too
        if applied is False:
            await clear_note(app, child_id, news.sequence)
            return


async def clear_note(app: Services, child_id: SessionId, sequence: int) -> None:
    """Clear a session's note for its parent, if there is no newer one."""
    await app.database.write(lambda tx: told_news(tx, child_id, sequence), single=True)


async def settle(app: Services, task_id: TaskId, report: Report) -> bool:
    """Apply what was heard of a task; return whether it changed anything.

    If the session waits for the task, its call gets the result. Otherwise the session receives a message, as
    the task's policy says: it steers a running turn, and starts one in a session at rest.
    """
    task = await app.database.read(lambda tx: find_task(tx, task_id))
    return task is not None and bool(await _settled(app, task, report))


async def _settled(app: Services, task: TaskRow, report: Report) -> bool | None:
    """As `settle`; None if the parent has heard more than when the report was read: read it again.

    Args:
        task: the task as it was read at some time.
    """
    told = _Told(task, report)
    outcome = await app.hearing.work_on(task.session_id, told, partial(_hear, app))
    if isinstance(outcome, Guard):  # it checks the report outside of any transaction
        told = _Told(task, await checked_report(outcome, task, report), checked=True)
        outcome = await app.hearing.work_on(task.session_id, told, partial(_hear, app))
    return None if isinstance(outcome, Guard) else outcome


class _Told(Struct, frozen=True):
    """A report of a task.

    Attributes:
        task: the task as it was read at some time.
        checked: whether the guardrails of the session that hears of it have checked the report.
    """

    task: TaskRow
    report: Report
    checked: bool = False


class _Hearing(Struct):
    """What a session hears in one transaction.

    Attributes:
        row: the session as it was locked.
        tasks: its tasks that it hears of, as they are after these events.
        waits: its calls that still wait, and for which tasks.
        changed, over: the tasks that have changed, and the calls that wait no more.
        guards: its guardrails, by the turns that began the tasks, as far as they were read.
        state: its turn; None if it was not read.
        events: the events to append.
        ended: whether a call ends with them.
        wakes: the messages that follow: texts, and the tasks that they are about.
    """

    row: SessionRow
    now: Micros
    redactor: Redactor
    tasks: dict[TaskId, TaskRow]
    waits: list[tuple[WaitRow, tuple[TaskId, ...]]]
    changed: dict[TaskId, TaskRow] = {}
    over: list[WaitRow] = []
    guards: dict[TurnId, Guard | None] = {}
    state: TurnState | None = None
    events: list[NewEvent] = []
    ended: bool = False
    wakes: list[tuple[str, TaskRow, SessionTask]] = []

    def put(self, row: TaskRow) -> None:
        """Change a task."""
        self.tasks[row.id] = self.changed[row.id] = row

    def end(self, wait: WaitRow) -> None:
        """Note that a call does not wait any more."""
        self.over.append(wait)
        self.waits = [each for each in self.waits if each[0] is not wait]


async def _hear(app: Services, told: list[_Told]) -> list[bool | Guard | None]:
    """Apply reports to the tasks of one session, in one transaction.

    Returns:
        What `_settled` does of each report, or the guardrails that have to check it first.
    """
    first = told[0].task

    async def work(tx: Tx) -> list[bool | Guard | None]:
        try:
            row = await get_session(tx, first.org_id, first.session_id, lock=True)
        except NotFound:
            return [False] * len(told)  # nobody is left to hear of it
        # What a sub-agent says may be a secret of this session: the rows of tasks are read back like the log.
        read = await read_hearing(tx, app.vault, row, list({each.task.id for each in told}))
        waits = [(wait, wait.task_ids()) for wait in read.waits]
        hearing = _Hearing(row, app.now(), redactor_with(app, row, read.secrets), read.tasks, waits)
        heard = [await _heard(app, tx, hearing, each) for each in told]
        await _append(app, tx, hearing)
        return heard

    return await write_at_head(app, work)


async def _heard(app: Services, tx: Tx, hearing: _Hearing, told: _Told) -> bool | Guard | None:
    report, task_row = told.report, hearing.tasks.get(told.task.id)
    if task_row is None or task_row.finished_at is not None:
        return False
    if report.attempt is not None and report.attempt != task_row.attempt:
        return False  # another attempt has begun since
    if report.since is not None and report.since != task_row.heard:
        return None  # another delivery was faster
    if report.says_something and not told.checked:
        guard = await _guard_of(app, tx, hearing, task_row)
        if guard is not None:
            return guard
    return await _apply(app, tx, hearing, task_row, report)


async def _guard_of(app: Services, tx: Tx, hearing: _Hearing, task: TaskRow) -> Guard | None:
    """The guardrails of the session that hears of a task."""
    row, guards = hearing.row, hearing.guards
    if task.turn_id not in guards:
        speaker = await speaker_of_turn(tx, row, task.turn_id)  # the agent that hears of it
        heard_by = row if speaker is None else row.under(speaker.at())
        guards[task.turn_id] = await session_guard(app, tx, heard_by)
    return guards[task.turn_id]


async def _apply(app: Services, tx: Tx, hearing: _Hearing, task_row: TaskRow, report: Report) -> bool:
    """Apply a report to its task; `hearing` gets the events."""
    now, before = hearing.now, task_row.struct()
    report = redact_struct(report, hearing.redactor)
    task = _changed(before, report, now)
    heard = max(task_row.heard, report.heard)
    if task is before and not report.messages:
        if heard != task_row.heard:
            hearing.put(replace(task_row, heard=heard))
        return False
    new_row = replace(task_row.changed(task, now), heard=heard, wish=None if task.ended else task_row.wish)
    hearing.put(new_row)
    events = hearing.events
    for message in report.messages:
        await add_task_message(tx, task_row.org_id, message)
        events.append(NewEvent(TaskMessageReceivedData(task.id, message), EventContext(), now))
    events += [NewEvent(each, EventContext(), now) for each in (*report.files, *report.found)]
    if task is not before:
        events.append(NewEvent(TaskUpdatedData(task), EventContext(), now))
    ends, awaited = await _ends_of_waits(app, tx, hearing, new_row, report) if task.ended else ([], False)
    events += ends
    hearing.ended = hearing.ended or bool(ends)
    text = _wake_text(before, task, report, awaited=awaited)
    if text is not None:
        hearing.wakes.append((text, task_row, task))
    return True


async def _append(app: Services, tx: Tx, hearing: _Hearing) -> None:
    """Append, and see to it that somebody continues the turn if the last call that it waits for has ended."""
    changes = TaskChanges(list(hearing.changed.values()), hearing.over)
    if not hearing.events:
        await changes.run(tx)
        return
    row, now, ended = hearing.row, hearing.now, hearing.ended
    # The results of calls also have what other sub-agents have said.
    events = redact_events(hearing.events, hearing.redactor)
    waits = bool(row.resting) and bool(_still_parked(row, events))
    continues = ended and not waits
    rests = bool(row.resting) and not continues
    after, stored = await append(tx, row, events, now=now, progress=ended, rests=rests, further=changes)
    if continues and (row.resting or after.status == "active"):
        begun = Begun()
        begun.fill_in(after, stored)
        await see_to_runner(app, tx, row, is_new=bool(row.resting), begun=begun)
    tell_followers(app, tx, after, stored)
    if hearing.state is not None:
        state = fold(events, hearing.state)  # the next end, or the runner, needs only what is new
        tx.after_commit(lambda: app.turns.put(row.id, state))
    for number, (text, task_row, task) in enumerate(hearing.wakes):
        if number:
            after = await get_session(tx, row.org_id, row.id)
        content, metadata = (TextPart(text),), {PARENT_TASK: task.id}
        wake = Message(app.new_id("message"), "user", content, to_rfc3339(now), metadata=metadata)
        speaker = await speaker_of_turn(tx, after, task_row.turn_id)
        await append_message(
            *(app, tx, after, wake, now), origin="task", addressed=speaker, external=task.external
        )


def _still_parked(row: SessionRow, events: list[NewEvent]) -> set[ToolCallId]:
    """The calls that a session at rest still waits for after these events."""
    ended = {event.data.tool_call_id for event in events if isinstance(event.data, ToolCompletedData)}
    return {call.tool_call_id for call in row.parked_calls()} - ended


def _changed(task: SessionTask, report: Report, now: Micros) -> SessionTask:
    """The task after a report; the same object if it says nothing new."""
    artifacts = (*task.artifacts, *report.artifacts)[:MAX_ARTIFACTS]
    stops = task.cancel_requested_at is not None and report.state not in ENDED
    new = replace(
        task,
        state=report.state,
        state_detail=task.state_detail if stops else report.detail,  # why it is to end
        error=report.error,
        input_request=report.input_request,
        artifacts=artifacts,
        progress=report.progress or task.progress,
        summary=report.answer[:MAX_SUMMARY] or None,
        output=report.output,
        result_path=report.result_path,
        external=with_sources(task.external, report.external),
        withheld=report.withheld,
        started_at=task.started_at or (to_rfc3339(report.started_at) if report.started_at else None),
    )
    if new == task:
        return task
    ts = to_rfc3339(now)
    return replace(new, updated_at=ts, heartbeat_at=ts, finished_at=ts if new.ended else None)


async def _ends_of_waits(
    app: Services, tx: Tx, hearing: _Hearing, ended: TaskRow, report: Report
) -> tuple[list[NewEvent], bool]:
    """The results of calls that waited for the task, and whether any call waits or waited for it."""
    row, now = hearing.row, hearing.now
    waits = [wait for wait, ids in hearing.waits if ended.id in ids]
    if not waits:
        return [], False
    if hearing.state is None:
        hearing.state = await read_turn(tx, row, app.turns)
    state = hearing.state
    events: list[NewEvent] = []
    awaited = False
    for wait in waits:
        call = _open_call(state, wait)
        if call is None or not isinstance(state, Calling):
            hearing.end(wait)  # the turn went on
            continue
        awaited = True
        alone = wait.task_ids() == (ended.id,)
        rows = [ended] if alone else await tasks_named(tx, row.id, wait.task_ids())
        rows = [hearing.tasks.get(each.id, each) for each in rows]
        done = [each for each in rows if each.finished_at is not None]
        if not done or (wait.need == "all" and len(done) < len(rows)):
            continue
        hearing.end(wait)
        result = await result_of_wait(tx, wait, rows, Answer(report.answer, report.output))
        data = ToolCompletedData(
            call.id,
            call.name,
            result.error is None,
            result.status,
            None if result.text is None else (TextPart(result.text),),
            result.error,
        )
        events.append(NewEvent(data, tool_context(state, call.id), now))
    return events, awaited


def _open_call(state: TurnState, wait: WaitRow) -> CallState | None:
    """The call that waits for tasks, or still runs; None if nothing waits any more."""
    if not isinstance(state, Calling) or state.exec_id != wait.exec_id:
        return None
    call = next((call for call in state.calls if call.id == wait.tool_call_id), None)
    if call is None:
        return None
    waits = isinstance(call.status, Parked) and call.status.kind == "child"
    return call if waits or isinstance(call.status, Started) else None


def _wake_text(before: SessionTask, task: SessionTask, report: Report, *, awaited: bool) -> str | None:
    """The message to the session; None if its policy, or nothing new, says that it receives none.

    Args:
        awaited: a call has the end as its result.
    """
    if task.wake_policy == "silent" or (task.ended and task.cancel_requested_by == "turn"):
        return None
    name = f"task {task.display_name!r} ({task.id})"
    parts: list[str] = []
    if task.wake_policy == "on_activity":
        parts += _activity(name, before, task, report)
    if task.ended and not awaited:
        parts.append(_end(name, task, report))
    return "\n\n".join(parts) or None


def _activity(name: str, before: SessionTask, task: SessionTask, report: Report) -> Iterator[str]:
    """What a task has said, and that somebody must decide. All of it is as long as an answer at most."""
    said = "\n\n".join(map(text_of_message, report.messages))
    if report.messages:
        yield f"[A message from the {name}:]\n{answer_text(said, None)}"
    if task.input_request is not None and task.input_request != before.input_request:
        yield f"[The {name} waits for a person: {task.input_request.prompt}]"


def _end(name: str, task: SessionTask, report: Report) -> str:
    if task.error is not None:
        verb = "was canceled" if task.state == "canceled" else "failed"
        return f"[The {name} {verb}: {task.error.message}]"
    return f"[The answer of the {name}, which has succeeded:]\n{answer_text(report.answer, report.output)}"
