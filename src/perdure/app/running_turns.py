"""What runs in a session, and how it is stopped."""

from __future__ import annotations

from perdure.app.context import Services
from perdure.domain.errors import Conflict, UnreadableEvent
from perdure.domain.events import (
    InputMessageData,
    NewEvent,
    OutputMessageCompletedData,
    SessionIdledData,
    TurnCancelledData,
)
from perdure.domain.ids import TurnId
from perdure.domain.messages import Message, TextPart
from perdure.domain.parked import AwaitedKind
from perdure.domain.pending import after_cancel, first_of
from perdure.domain.spans import message_context
from perdure.domain.times import Micros, to_rfc3339
from perdure.store.callbacks import remove_callbacks_of_turn
from perdure.store.database import Tx
from perdure.store.input_requests import remove_requests_of_turn
from perdure.store.parked_turns import read_turn
from perdure.store.queue import Begun, Job
from perdure.store.sessions import SessionRow
from perdure.store.tasks import remove_waits_of_turn

CANCELLED = "[The user asked to cancel this turn.]"


async def see_to_runner(
    app: Services, tx: Tx, row: SessionRow, *, is_new: bool, begun: Begun | None = None
) -> None:
    """Enqueue a job for what was appended, unless a runner will see it.

    A queue that knows all jobs knows that the runner is gone if there is none. With another one, whoever
    takes the job leaves a turn at work to its runner; if that is gone, the sweep finds out.

    Args:
        is_new: nobody runs the session.
        begun: is filled in before the commit, if the session is new.
    """
    if is_new:
        await app.queue.enqueue(tx, Job(row.org_id, row.id, begun=begun))
    elif not await app.queue.has_live_job(tx, row.id):
        await app.queue.enqueue(tx, Job(row.org_id, row.id, again=app.queue.knows_all_jobs))


async def stop_turn(
    app: Services, tx: Tx, row: SessionRow, reason: str, now: Micros, request_text: str = CANCELLED
) -> tuple[list[NewEvent], bool]:
    """The events that cancel the turn, and whether messages are left that wait for turns of their own.

    Between two turns, the next one is cancelled.
    """
    if row.turn_id is not None:
        await remove_callbacks_of_turn(tx, row.id, row.turn_id)
        await remove_requests_of_turn(tx, row.id, row.turn_id)
        await remove_waits_of_turn(tx, row.id, row.turn_id)
    try:
        pending = (await read_turn(tx, row, app.turns)).pending
    except UnreadableEvent:
        pending = ()  # such a session can still be stopped, but not continued
    turn_id = row.turn_id
    if turn_id is None and pending:
        turn_id = first_of(pending).turn_id
    turn_id = turn_id or app.new_id("turn")
    left = bool(after_cancel(pending, turn_id))
    tx.after_commit(lambda: app.metrics.turns.add("cancelled", ""))
    return cancel_events(app, turn_id, reason, now, request_text, idle=not left), left


def cancel_events(
    app: Services, turn_id: TurnId, reason: str, now: Micros, request_text: str, *, idle: bool = True
) -> list[NewEvent]:
    """Return the events of a cancel: the turn's end, a notice from each side, and `session.idled`.

    Args:
        request_text: the notice from the user's side, for the model: why the turn ends.
        idle: whether the session is idle then. If not, messages that wait for their own turns are left.
    """
    context = message_context(turn_id, None)
    notice = {"cancel_notice": True}
    request = Message(
        app.new_id("message"),
        "user",
        (TextPart(request_text),),
        to_rfc3339(now),
        metadata=notice,
    )
    reply = Message(
        app.new_id("message"),
        "agent",
        (TextPart("The turn was cancelled."),),
        to_rfc3339(now),
        "final_answer",
        metadata=notice,
    )
    events = [
        NewEvent(TurnCancelledData(turn_id, reason), context, now),
        NewEvent(InputMessageData(request), context, now),
        NewEvent(OutputMessageCompletedData(reply), context, now),
    ]
    return [*events, NewEvent(SessionIdledData(turn_id), context, now)] if idle else events


_WAITED_FOR: dict[AwaitedKind, str] = {
    "approval": "an approval",
    "budget": "a budget",
    "callback": "a callback",
    "child": "tasks that it has begun",
    "client": "the results of a client",
    "input": "the answer to a question",
    "active_turns": "other turns to end, as the limit of active turns is reached",
    "rate_limit": "the end of its model's rate limit",
    "reservation": "money that other model calls hold",
    "question": "an answer to the agent's questions",
    "sign_in": "a sign-in",
    "tokens_per_minute": "the next minute, as the limit of tokens per minute is reached",
}


def refuse_busy(row: SessionRow) -> Conflict:
    """The error for a message that must not arrive in the middle of a turn."""
    turn = "a turn" if row.turn_id is None else f"the turn {row.turn_id}"
    kinds = sorted({call.kind for call in row.parked_calls()})
    waits = " and ".join(_WAITED_FOR[kind] for kind in kinds)
    what = f"{turn} waits for {waits}" if waits else f"{turn} is running"
    return Conflict(
        f"the session is busy: {what}. Send the message when it has ended, or with another "
        "`controls.when_busy` (steer, queue or interrupt)",
        code="session_busy",
    )
