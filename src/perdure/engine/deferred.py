"""Tool calls whose results come later: their callbacks, and the events that park them or go on without."""

from __future__ import annotations

import secrets

from msgspec.structs import replace

from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.port import Callback, Later
from perdure.domain.callbacks import (
    MAX_MESSAGE,
    MAX_SECONDS,
    check_open,
    check_seconds,
    hash_of_token,
    sign_token,
)
from perdure.domain.calls import CallState, Parked
from perdure.domain.errors import Fenced, ToolError
from perdure.domain.events import NewEvent, ToolCompletedData, ToolParkedData
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, TextPart, storable
from perdure.domain.parked import CONSENT
from perdure.domain.questions import fallback
from perdure.domain.spans import tool_context
from perdure.domain.steps import Started
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.turn import Calling
from perdure.engine.joined_appends import status_of
from perdure.engine.outages import Also, outlast
from perdure.engine.run import Run
from perdure.store.callbacks import (
    CallbackRow,
    add_callback,
    callbacks_of_call,
    list_callbacks,
    move_to_background,
    remove_stale_callbacks,
)
from perdure.store.database import Tx
from perdure.store.input_requests import open_input, remove_requests_of_call, requests_of_call
from perdure.store.questions import questions_at
from perdure.store.sessions import get_session
from perdure.store.tasks import WaitRow, remove_waits, tasks_named, wait_of_call


class Callbacks:
    """The callbacks of one attempt of a tool call.

    Attributes:
        over: the attempt has ended, so that nothing may be opened any more.
    """

    def __init__(self, run: Run, state: Calling, call: CallState) -> None:
        self.over = False
        self._run = run
        self._state = state
        self._call = call
        self._deadline: Micros | None = None
        self._opened = 0

    async def open(self, seconds: float) -> Callback:
        """Open a callback. It is stored before its URL is known, so that no answer can come too early.

        Raises:
            InvalidInput: the time is too short or too long, or the session has too many open callbacks.
            ToolError: the call has ended.
            Fenced, NotFound: the session was cancelled, deleted or claimed by another runner.
        """
        run, state, call = self._run, self._state, self._call
        token = sign_token(run.engine.callback_key, secrets.token_urlsafe(32))
        now = run.engine.clock.now()
        row = CallbackRow(
            id=run.engine.new_id("callback"),
            org_id=run.row.org_id,
            session_id=run.row.id,
            hash=hash_of_token(token),
            turn_id=state.turn.id,
            exec_id=state.exec_id,
            tool_call_id=call.id,
            tool_name=call.name,
            in_background=0,
            created_at=now,
            deadline=now + round(check_seconds(seconds) * 1_000_000),
        )
        epoch = run.row.epoch

        async def work(tx: Tx) -> None:
            current = await get_session(tx, row.org_id, row.session_id, lock=True)
            if current.epoch != epoch:
                raise Fenced
            # Under the session's lock: the next calls of the turn cannot have callbacks yet, which those of
            # an older one are taken for stale by.
            self._check_running()
            await remove_stale_callbacks(tx, row.session_id, row.exec_id)
            check_open(len(await list_callbacks(tx, row.session_id, now)))
            await add_callback(tx, row)

        self._check_running()
        # Whoever has the token can give the result: it must not get into the log, whatever the tool returns.
        run.redactor.learn({row.id: token})
        await run.engine.database.write(work)
        self._deadline = max(self._deadline or 0, row.deadline)
        self._opened += 1
        return Callback(f"{run.engine.public.url}/v1/callbacks/{token}", row.deadline)

    def _check_running(self) -> None:
        status = status_of(self._run.state, self._call.id)
        if self.over or not isinstance(status, Started):
            raise ToolError("the call has ended: it cannot open a callback")

    async def checked(self, later: Later) -> Later:
        """Return what the tool returned; the call waits no longer than an answer can come.

        Raises:
            ToolError: nothing could ever give the result.
        """
        if (later.kind in CONSENT and later.requests) or (later.kind == "question" and later.questions):
            return later
        if later.kind == "child" and await _waits(self._run, self._state, self._call) is not None:
            return later
        if later.kind != "callback":
            raise ToolError(f"A tool cannot defer its result to the kind {later.kind!r:.100}.")
        latest = self._deadline
        if latest is None or self._opened > 1:
            # An attempt before this one may have opened it, in a step that is not repeated. The last one of
            # several may have been cancelled.
            before = await promised(self._run, self._state, self._call)
            latest = latest if before is None else before.deadline
        if latest is None:
            raise ToolError("The tool deferred its result without opening a callback.")
        return replace(later, deadline=min(later.deadline, latest))


async def _waits(run: Run, state: Calling, call: CallState) -> WaitRow | None:
    """What the call waits for, if it waits for tasks."""
    session_id = run.row.id

    async def body(tx: Tx) -> WaitRow | None:
        return await wait_of_call(tx, session_id, state.exec_id, call.id)

    return await outlast(run.engine, session_id, lambda: run.engine.database.read(body))


async def promised(run: Run, state: Calling, call: CallState) -> Later | None:
    """Return how to park a call that has opened a callback or asked a person; None without an open one.

    Somebody may have the URL, and the result may still come. A call that has asked a person had no effect.
    """
    session_id, now = run.row.id, run.engine.clock.now()

    async def body(tx: Tx) -> Later | None:
        rows = await callbacks_of_call(tx, session_id, state.exec_id, call.id)
        if rows and rows[0].deadline > now:
            return Later("callback", rows[0].deadline)
        asked = await requests_of_call(tx, session_id, state.exec_id, call.id)
        asked = [row for row in asked if row.status == "open" and row.deadline > now]
        if not asked:
            return None
        vault, public = run.engine.vault, run.engine.public.url
        requests = tuple([(await open_input(vault, tx, row)).asked(row.id, public) for row in asked])
        return Later(asked[0].kind, asked[0].deadline, requests[0].message or None, requests)

    return await outlast(run.engine, session_id, lambda: run.engine.database.read(body))


def in_background(run: Run, state: Calling, calls: tuple[CallState, ...], *, withdrawn: bool) -> Also | None:
    """Return what notes that the turn goes on without these calls; None if nothing is noted about them."""
    ids = tuple(call.id for call in calls if is_callback(call)) if withdrawn else ()
    asked = tuple(call.id for call in calls if _is_asked(call)) if withdrawn else ()
    waiting = tuple(call.id for call in calls if waits_for_tasks(call))
    if not ids and not asked and not waiting:
        return None
    session_id, exec_id = run.row.id, state.exec_id

    async def also(tx: Tx) -> None:
        await move_to_background(tx, session_id, exec_id, ids)
        await remove_waits(tx, session_id, exec_id, waiting)
        for call_id in asked:
            await remove_requests_of_call(tx, session_id, exec_id, call_id)

    return also


def _is_asked(call: CallState) -> bool:
    """Whether the call is parked until a person signs in or answers."""
    return isinstance(call.status, Parked) and call.status.kind in CONSENT


def is_callback(call: CallState) -> bool:
    """Whether the call is parked until its callback is called."""
    return isinstance(call.status, Parked) and call.status.kind == "callback"


def waits_for_tasks(call: CallState) -> bool:
    """Whether the call is parked until tasks of the session end."""
    return isinstance(call.status, Parked) and call.status.kind == "child"


async def ended_tasks(run: Run, state: Calling, calls: tuple[CallState, ...]) -> dict[ToolCallId, str]:
    """Read which tasks have ended of those that calls wait for: nobody else tells the session of them."""
    waiting = [call for call in calls if waits_for_tasks(call)]
    if not waiting:
        return {}
    session_id = run.row.id

    async def body(tx: Tx) -> dict[ToolCallId, str]:
        found = {}
        for call in waiting:
            wait = await wait_of_call(tx, session_id, state.exec_id, call.id)
            rows = [] if wait is None else await tasks_named(tx, session_id, wait.task_ids())
            ended = [
                f"{row.struct().display_name!r} ({row.id})" for row in rows if row.finished_at is not None
            ]
            if ended:
                found[call.id] = ", ".join(ended)
        return found

    return await outlast(run.engine, session_id, lambda: run.engine.database.read(body))


async def unanswered(run: Run, calls: tuple[CallState, ...]) -> dict[ToolCallId, JsonObject]:
    """Read what the model gets for questions that nobody has answered in time, by call."""
    asked = {call.id: call.status for call in calls if isinstance(call.status, Parked)}
    asked = {call_id: status for call_id, status in asked.items() if status.kind == "question"}
    if not asked:
        return {}
    session_id = run.row.id

    async def body(tx: Tx) -> dict[ToolCallId, JsonObject]:
        return {
            call_id: fallback(await questions_at(tx, session_id, status.asked_at))
            for call_id, status in asked.items()
        }

    return await outlast(run.engine, session_id, lambda: run.engine.database.read(body))


def wait_ended(call: CallState, why: str, ended: str | None) -> ToolCompletedData:
    """The result of a call that waits no more for tasks, which go on.

    Args:
        ended: those of them that have ended.
    """
    first = "" if ended is None else f" These have ended, and `get_task` shows their answers: {ended}."
    text = (
        f"{why}{first} The {'other ' if ended else ''}tasks that this call waited for go on. Their answers "
        "come as messages; `list_tasks` shows where they are."
    )
    return ToolCompletedData(call.id, call.name, True, "success", (TextPart(text),))


def continued(call: CallState) -> ToolCompletedData:
    """The result of a call that continues in the background, because a message arrived."""
    if not isinstance(call.status, Parked):
        raise TypeError(f"the call {call.id} is not parked")
    text = (
        "This call continues in the background, because a message arrived. Its result is not known yet: it "
        f"comes as a message, at the latest {to_rfc3339(call.status.until)}."
    )
    return ToolCompletedData(call.id, call.name, True, "success", (TextPart(text),))


def parked_call(run: Run, bound: BoundTool | None, state: Calling, call: CallState, later: Later) -> NewEvent:
    """The event that parks a call."""
    now = run.engine.clock.now()
    message = None if later.message is None else run.redactor.text(storable(later.message))[:MAX_MESSAGE]
    left = round(min(max(later.deadline - now, 0), MAX_SECONDS * 1_000_000))
    data = ToolParkedData(
        call.id,
        call.name,
        later.kind,
        left // 1000,
        message,
        bound.tool.display_name if bound else None,
        later.requests[0].url if later.kind == "sign_in" else None,
        later.requests,
        later.questions,
    )
    return NewEvent(data, tool_context(state, call.id), now)
