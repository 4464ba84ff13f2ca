"""Turns that were sealed or make no progress, and how administrators have them tried again."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.app.at_head import write_at_head
from perdure.app.context import App
from perdure.app.messages import append_message
from perdure.app.session_room import check_room_for_session
from perdure.app.workflows import ENDS, workflows_of
from perdure.domain.accounts import Caller, require
from perdure.domain.errors import Conflict, UnreadableEvent
from perdure.domain.events import Event, InputMessageData, TurnSealedData, TurnStartedData, is_cancel_notice
from perdure.domain.ids import SessionId
from perdure.domain.times import Micros, Timestamp, to_rfc3339
from perdure.domain.workflows import (
    STUCK_AFTER,
    DeadLetter,
    DeadLetters,
    DeadLetterState,
    Retried,
    TurnRef,
    Workflow,
    parse_workflow_id,
    workflow_id,
)
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds
from perdure.store.queue import Job
from perdure.store.session_archive import set_archived
from perdure.store.sessions import IN_TURN, SessionRow, get_session
from perdure.store.workflows import (
    SealedSession,
    busy_sessions,
    give_attempts,
    seal_of,
    sealed_sessions,
)


async def all_dead_letters(app: App, caller: Caller, offset: int, limit: int) -> DeadLetters:
    """List turns that were sealed, and those that are stuck; admins only. Raises Forbidden."""
    require(caller, "admin")
    org_id = caller.organization_id

    async def work(tx: Tx) -> DeadLetters:
        sealed = await sealed_sessions(tx, org_id)
        stuck = await busy_sessions(tx, org_id, "running", STUCK_AFTER)
        found = sealed[offset : offset + limit]
        letters = [each for row in found if (each := await _sealed(tx, row)) is not None]
        start = max(0, offset - len(sealed))
        rows = stuck[start : start + limit - len(found)] if len(found) < limit else []
        letters += [_stuck(workflows_of(row, {}, app.now(), begun=bool(row.begun))[0]) for row in rows]
        return DeadLetters(tuple(letters), len(sealed) + len(stuck))

    return await app.database.read(work, long=True)


async def _sealed(tx: Tx, row: SealedSession) -> DeadLetter | None:
    event = await seal_of(tx, row.id, row.turn_after)
    try:
        data = None if event is None else event.get(TurnSealedData)
    except UnreadableEvent:
        data = None
    if data is None:
        return None
    return _letter(
        "sealed",
        TurnRef(row.id, data.turn_id, row.agent_id),
        attempts=data.recoveries or 0,
        error=data.detail or data.reason,
        at=to_rfc3339(row.finished_at),
    )


def _stuck(each: Workflow) -> DeadLetter:
    said = f"The turn was recovered {each.recoveries} times in a row without progress; it is tried again."
    return _letter("stuck", each.input, attempts=each.recoveries, error=said, at=each.created_at)


def _letter(state: DeadLetterState, turn: TurnRef, *, attempts: int, error: str, at: Timestamp) -> DeadLetter:
    identifier = workflow_id(turn.session_id, turn.turn_id)
    return DeadLetter(
        id=identifier,
        workflow_id=identifier,
        state=state,
        original_task_id=turn.turn_id or "",
        activity_id=turn.session_id,
        activity_type="turn",
        input=turn,
        attempts=attempts,
        last_error=error,
        error_history=(error,),
        dead_at=at,
    )


async def retry_dead_letter(app: App, caller: Caller, identifier: str) -> Retried:
    """Have a dead letter tried again; admins only.

    Of a sealed turn, the message with which it began is posted again: a new turn goes on from everything that
    is in the session's log, tool results of the sealed turn included. A stuck turn is not over: it is tried
    again, from the last event of its log, with as many attempts as a new one.

    Raises:
        Conflict: `turn_not_dead`: the turn was neither sealed nor is it stuck, or the session went on since;
            `nothing_to_retry`: the log has no message for it.
        Forbidden, NotFound.
    """
    require(caller, "admin")
    session_id, turn_id = parse_workflow_id(identifier)
    now = app.now()

    async def work(tx: Tx) -> Retried:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        if row.status in IN_TURN and row.turn_id == turn_id and row.recoveries >= STUCK_AFTER:
            return await _try_again(app, tx, row, identifier)
        seal = await seal_of(tx, row.id, row.turn_after) if _is_sealed(row) else None
        data = None if seal is None else seal.get(TurnSealedData)
        if seal is None or data is None or data.turn_id != turn_id:
            raise Conflict(
                f"the turn {identifier} was not sealed and is not stuck, or its session has gone on since",
                code="turn_not_dead",
            )
        return await _post_again(app, tx, row, seal, now)

    return await write_at_head(app, work)


def _is_sealed(row: SessionRow) -> bool:
    return row.status == "idle" and row.finished_at is not None


async def _try_again(app: App, tx: Tx, row: SessionRow, identifier: str) -> Retried:
    await give_attempts(tx, row.id)
    if not await app.queue.has_live_job(tx, row.id):
        await app.queue.enqueue(tx, Job(row.org_id, row.id, again=True))
    return Retried(identifier)


async def _post_again(app: App, tx: Tx, row: SessionRow, seal: Event, now: Micros) -> Retried:
    began = await _beginning(tx, row.id, seal.sequence - 1)
    if began is None:
        raise Conflict(
            "the log has no message with which the turn began: send one to the session",
            code="nothing_to_retry",
        )
    if row.archived_at is not None:
        await check_room_for_session(app, tx, row.org_id, row.owner_id)
        row = await set_archived(tx, row, now, archived=False)
    again = replace(
        began.message,
        id=app.new_id("message"),
        created_at=to_rfc3339(now),
        client_message_id=None,
        metadata={**(began.message.metadata or {}), "retry_of": str(began.message.id)},
    )
    message = await append_message(
        app, tx, row, again, now, addressed=began.addressed, external=began.external
    )
    after = await get_session(tx, row.org_id, row.id)
    return Retried(workflow_id(row.id, after.turn_id), message.id)


async def _beginning(tx: Tx, session_id: SessionId, before: int) -> InputMessageData | None:
    """Return the first message since the end of the turn before, or the one that waited for this turn."""
    found: InputMessageData | None = None
    kinds = (InputMessageData.kind, TurnStartedData.kind, *ENDS)
    events, _ = await events_of_kinds(tx, session_id, kinds, before=before)
    for event in events:
        if event.type in ENDS:
            break
        try:
            started = event.get(TurnStartedData)
            if started is not None and started.message is not None:
                return InputMessageData(started.message, addressed=started.speaker)
            said = event.get(InputMessageData)
        except UnreadableEvent:
            continue
        if said is not None and not said.queued and not is_cancel_notice(said.message, event):
            found = said
    return found
