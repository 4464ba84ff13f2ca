"""Answers: read a session's latest one, wait for the next, and list what waits for approval."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from perdure.app.context import App
from perdure.app.feed import Frame, Want, open_follower
from perdure.app.inbox_items import shown
from perdure.app.input_requests import input_requests_of
from perdure.app.login import may_continue
from perdure.app.questions import questions_of
from perdure.app.session_lists import page_of_sessions
from perdure.domain.accounts import Caller
from perdure.domain.errors import Damaged, NotFound, Unauthenticated
from perdure.domain.events import (
    ENDED_TURN,
    Event,
    OutputMessageCompletedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnSealedData,
)
from perdure.domain.ids import SessionId, TurnId
from perdure.domain.messages import text_of
from perdure.domain.parked import ASKED
from perdure.domain.session_answers import (
    MAX_ANSWER,
    OpenApproval,
    SessionAnswer,
    TurnProblem,
    open_input_of,
)
from perdure.domain.times import to_rfc3339
from perdure.domain.turn import parked_calls
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds
from perdure.store.parked_turns import read_turn
from perdure.store.session_lists import SessionFilter
from perdure.store.sessions import IN_TURN, SessionRow, get_session

PARKS, ACTED = "tool.parked", "act.completed"
PARKS_TURN = "turn.parked"

ENDS = frozenset({"session.idled", "tool.call_requested"})
"""Events after which waiting for the turn is of no use: it has ended, or waits for people or clients."""

STEPS = frozenset({"tool.started", "tool.completed", "tool.progress"})
"""Events that say what a turn does meanwhile."""

MAX_WAITING = 50
"""Sessions whose open approvals are listed at a time."""
MAX_OPEN = 50
"""Open approvals that are listed at a time."""


async def read_answer(app: App, caller: Caller, session_id: SessionId) -> SessionAnswer:
    """Read where a session is, and the answer of its latest turn. Raises NotFound."""

    async def work(tx: Tx) -> SessionAnswer:
        row = await get_session(tx, caller.organization_id, session_id)
        answer, problem = await _outcome_of(tx, row)
        return SessionAnswer(
            row.id,
            row.status,
            None if answer is None else answer[:MAX_ANSWER],
            answer is not None and len(answer) > MAX_ANSWER,
            problem,
            await _approvals_of(app, tx, row),
            tuple(map(open_input_of, (await input_requests_of(app, tx, row))[:MAX_OPEN])),
            await questions_of(tx, row),
            tuple(call.on_wire() for call in row.parked_calls()),
        )

    return await app.database.read(work, long=True)


async def wait_for_answer(
    app: App,
    caller: Caller,
    session_id: SessionId,
    seconds: float,
    stop: asyncio.Event,
    *,
    after: int | None = None,
    see: Callable[[Frame], None] | None = None,
) -> SessionAnswer:
    """Wait until a session's turn has ended or waits for somebody, and read where the session is then.

    The turn goes on whatever becomes of this.

    Args:
        seconds: how long to wait at most.
        stop: set when waiting is of no use any more.
        after: the sequence of the message whose turn it is; None for the turn that runs, if one does.
        see: called with each event of `STEPS`.

    Raises:
        NotFound: the session does not exist, or was deleted meanwhile.
        Unauthenticated: the caller's access ended meanwhile.
    """
    if seconds > 0 and after is None:
        after = await _running_after(app, caller, session_id)
    if seconds > 0 and after is not None:
        await _wait(app, caller, session_id, after, seconds, stop, see)
        if not await may_continue(app, caller):
            raise Unauthenticated("the access token was revoked or has expired: send a valid one")
    return await read_answer(app, caller, session_id)


async def _running_after(app: App, caller: Caller, session_id: SessionId) -> int | None:
    """Return the end of a session's log if a turn runs in it, else None."""
    row = await app.database.read(lambda tx: get_session(tx, caller.organization_id, session_id))
    return row.head if row.status == "active" else None


async def _wait(
    app: App,
    caller: Caller,
    session_id: SessionId,
    after: int,
    seconds: float,
    stop: asyncio.Event,
    see: Callable[[Frame], None] | None,
) -> None:
    pauses, parked = {PARKS, ACTED, PARKS_TURN}, False
    want = Want(ENDS | pauses if see is None else ENDS | pauses | STEPS)
    until = time.monotonic() + seconds
    follower = await open_follower(app, caller, session_id, after, want)
    stopping = asyncio.create_task(stop.wait())
    stopping.add_done_callback(lambda _: follower.hurry())
    try:
        while not follower.gone and not stop.is_set() and (left := until - time.monotonic()) > 0:
            for frame in await follower.frames(left):
                if frame.type in ENDS:
                    return
                parked = parked or frame.type == PARKS
                pauses_now = frame.type == PARKS_TURN or (frame.type == ACTED and parked)
                if pauses_now and await _waits(app, caller, session_id):
                    return
                if see is not None and frame.type in STEPS:
                    see(frame)
    finally:
        stopping.cancel()
        follower.close()


async def _waits(app: App, caller: Caller, session_id: SessionId) -> bool:
    return waits_for_people(
        await app.database.read(lambda tx: get_session(tx, caller.organization_id, session_id))
    )


def waits_for_people(row: SessionRow) -> bool:
    """Whether a session waits for a person or a client, or for somebody who sees to a budget."""
    if row.status == "paused":
        return True
    return row.status == "waiting_for_tool_results" and any(call.kind in ASKED for call in row.parked_calls())


async def list_approvals(app: App, caller: Caller, session_id: SessionId | None) -> list[OpenApproval]:
    """List the tool calls that wait for approval, in one session or in all (the newest `MAX_WAITING`).

    Raises NotFound.
    """
    if session_id is not None:
        return list(await _open_in(app, caller, session_id))
    filters = SessionFilter(statuses=("waiting_for_tool_results",))
    page = await page_of_sessions(app, caller, filters, 0, MAX_WAITING)
    found: list[OpenApproval] = []
    for session in page.data:
        if len(found) < MAX_OPEN and any(call.kind == "approval" for call in session.parked_on):
            try:
                found += await _open_in(app, caller, session.id)
            except (Damaged, NotFound):  # it cannot be read, or was deleted meanwhile: the others can
                continue
    return found[:MAX_OPEN]


async def _open_in(app: App, caller: Caller, session_id: SessionId) -> tuple[OpenApproval, ...]:
    async def work(tx: Tx) -> tuple[OpenApproval, ...]:
        return await _approvals_of(app, tx, await get_session(tx, caller.organization_id, session_id))

    return await app.database.read(work, long=True)


async def _approvals_of(app: App, tx: Tx, row: SessionRow) -> tuple[OpenApproval, ...]:
    until = {call.tool_call_id: call.until for call in row.parked_calls() if call.kind == "approval"}
    if not until:
        return ()
    calls = parked_calls(await read_turn(tx, row, app.turns), "approval")
    return tuple(
        OpenApproval(row.id, call.id, call.name, shown(call.arguments)[0], to_rfc3339(until[call.id]))
        for call in calls[:MAX_OPEN]
        if call.id in until
    )


async def _outcome_of(tx: Tx, row: SessionRow) -> tuple[str | None, TurnProblem | None]:
    """Return the newest text of the latest turn, and why it failed if it did."""
    turn_id, problem = row.turn_id, None
    if row.status not in IN_TURN:
        ended, _ = await events_of_kinds(tx, row.id, tuple(ENDED_TURN), before=row.head, limit=1)
        if not ended:
            return None, None
        turn_id, problem = end_of_turn(ended[0])
    if turn_id is None or problem is not None:
        return None, problem
    kinds = (OutputMessageCompletedData.kind,)
    newest, _ = await events_of_kinds(tx, row.id, kinds, before=row.head, limit=1)
    if not newest or newest[0].context_struct().turn_id != turn_id:
        return None, None
    return text_of(newest[0].read(OutputMessageCompletedData).message.content) or None, None


def end_of_turn(event: Event) -> tuple[TurnId | None, TurnProblem | None]:
    """Return the turn that an event ended, and why it failed if it did."""
    match event.decoded():
        case TurnCompletedData(turn_id=turn_id):
            return turn_id, None
        case TurnFailedData(turn_id=turn_id, error=error, error_code=code):
            return turn_id, TurnProblem(code or "turn_failed", error)
        case TurnCancelledData(turn_id=turn_id, reason=reason):
            return turn_id, TurnProblem("turn_cancelled", reason or "the turn was cancelled")
        case TurnSealedData(turn_id=turn_id, reason=reason, detail=detail):
            return turn_id, TurnProblem("turn_sealed", detail or reason)
    return None, None
