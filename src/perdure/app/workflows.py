"""Turns of an organization's sessions, for its administrators: what runs, waits or was sealed."""

from __future__ import annotations

from typing import Literal

from msgspec import Raw

from perdure.app.confidential import check_reader, check_row
from perdure.app.context import App
from perdure.app.events import EventReader
from perdure.app.session_ends import cancel_turn
from perdure.domain.accounts import Caller, require
from perdure.domain.cancels import CancelledTurn
from perdure.domain.errors import Conflict, NotFound, UnreadableEvent
from perdure.domain.events import (
    Event,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnSealedData,
)
from perdure.domain.ids import AgentId, SessionId, TurnId, WorkerId, millis_of
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.workflows import (
    TurnRef,
    Workflow,
    WorkflowError,
    WorkflowEvent,
    WorkflowEvents,
    Workflows,
    WorkflowStatus,
    parse_workflow_id,
    workflow_id,
)
from perdure.store.database import Tx
from perdure.store.events import EventFilter, list_events
from perdure.store.processes import all_processes
from perdure.store.sessions import IN_TURN, SessionRow, get_session
from perdure.store.turn_slots import ORGANIZATION_FULL, USER_FULL
from perdure.store.workflows import (
    BusySession,
    SealedSession,
    busy_sessions,
    has_begun,
    seal_of,
    sealed_sessions,
)

Listed = Literal["running", "parked", "pending", "failed"]
"""Statuses of turns that can be listed. The others have ended well, and are in their sessions' logs only."""

ENDS = (TurnCompletedData.kind, TurnFailedData.kind, TurnCancelledData.kind, TurnSealedData.kind)
EVENTS_BYTES = 4 * 1024 * 1024
"""Bytes of events after which an answer ends."""

Runners = dict[SessionId, WorkerId]


async def all_workflows(
    app: App, caller: Caller, status: Listed | None, offset: int, limit: int
) -> Workflows:
    """List turns that run, wait or were sealed, the oldest first; admins only. Raises Forbidden."""
    require(caller, "admin")
    org_id = caller.organization_id

    async def work(tx: Tx) -> tuple[list[BusySession], list[SealedSession], Runners]:
        sealed = await sealed_sessions(tx, org_id) if status in (None, "failed") else []
        busy = [] if status == "failed" else await busy_sessions(tx, org_id, status or "any")
        return busy, sealed, await runners(tx)

    busy, sealed, ran_by = await app.database.read(work, long=True)
    now = app.now()
    found: list[Workflow | SealedSession] = []
    for row in busy:
        turns = workflows_of(row, ran_by, now, begun=bool(row.begun))
        found += [each for each in turns if status in (None, each.status)]
    found += sealed
    page = sorted(found, key=_began)[offset : offset + limit]
    listed = await app.database.read(lambda tx: _complete(tx, page))
    return Workflows(tuple(listed), len(found))


def _began(each: Workflow | SealedSession) -> str:
    return to_rfc3339(each.finished_at) if isinstance(each, SealedSession) else each.created_at


async def _complete(tx: Tx, page: list[Workflow | SealedSession]) -> list[Workflow]:
    found = []
    for each in page:
        if isinstance(each, Workflow):
            found.append(each)
        elif (event := await seal_of(tx, each.id, each.turn_after)) is not None:
            ended = _ended(each.id, each.agent_id, event)
            found += [] if ended is None else [ended]
    return found


async def runners(tx: Tx) -> Runners:
    """Return which process runs which session, as far as they have reported it."""
    rows = [row for row in await all_processes(tx) if row.state != "stopped" and row.sessions != "[]"]
    return {session_id: row.process.id for row in rows for session_id in row.session_ids()}


def workflows_of(
    row: BusySession | SessionRow, ran_by: Runners, now: Micros, *, begun: bool
) -> list[Workflow]:
    """Return the turns of a session that run or wait.

    Args:
        begun: whether a process has taken the turn.
    """
    queued, found = row.queued_messages(), []
    if row.turn_id is not None or not queued:
        waits = row.turn_slot in (ORGANIZATION_FULL, USER_FULL)
        runs = row.status == "active" and not row.resting and not waits
        status: WorkflowStatus = "parked" if not runs else "running" if begun else "pending"
        found.append(_live(row, row.turn_id, status, ran_by, now))
    return found + [_live(row, each.turn_id, "pending", {}, now, waits=True) for each in queued]


def _live(
    row: BusySession | SessionRow,
    turn_id: TurnId | None,
    status: WorkflowStatus,
    ran_by: Runners,
    now: Micros,
    *,
    waits: bool = False,
) -> Workflow:
    """The turn of a session. `waits`: for the turns before it."""
    began = now if turn_id is None else _time_of(turn_id)
    return Workflow(
        id=workflow_id(row.id, turn_id),
        workflow_type="turn",
        status=status,
        input=TurnRef(row.id, turn_id, row.agent_id),
        created_at=to_rfc3339(began),
        age_seconds=max(0, now - began) // 1_000_000,
        recoveries=0 if waits else row.recoveries,
        parked_on=() if waits else tuple(each.on_wire() for each in row.parked_calls()),
        worker_id=ran_by.get(row.id),
    )


def _time_of(turn_id: TurnId) -> Micros:
    """When the turn's message came: its id was made then."""
    return millis_of(turn_id) * 1_000


def _ended(session_id: SessionId, agent_id: AgentId | None, event: Event) -> Workflow | None:
    """The turn that this event has ended; None if the event is damaged."""
    try:
        data = event.decoded()
    except UnreadableEvent:
        return None
    status: WorkflowStatus = "failed"
    error: WorkflowError | None = None
    recoveries = 0
    match data:
        case TurnCompletedData(turn_id=turn_id):
            status = "completed"
        case TurnCancelledData(turn_id=turn_id):
            status = "cancelled"
        case TurnFailedData(turn_id=turn_id):
            error = WorkflowError(data.error_code or "failed", data.error)
        case TurnSealedData(turn_id=turn_id):
            error = WorkflowError(data.reason, data.detail or data.reason)
            recoveries = data.recoveries or 0
        case _:
            raise TypeError(f"a {event.type} event ends no turn")
    began = _time_of(turn_id)
    return Workflow(
        id=workflow_id(session_id, turn_id),
        workflow_type="turn",
        status=status,
        input=TurnRef(session_id, turn_id, agent_id),
        created_at=to_rfc3339(began),
        age_seconds=max(0, event.ts - began) // 1_000_000,
        recoveries=recoveries,
        completed_at=to_rfc3339(event.ts),
        error=error,
    )


async def read_workflow(app: App, caller: Caller, identifier: str) -> Workflow:
    """Return any turn by its id; admins only. Raises Forbidden, NotFound."""
    require(caller, "admin")
    session_id, turn_id = parse_workflow_id(identifier)

    async def work(tx: Tx) -> Workflow:
        row = await get_session(tx, caller.organization_id, session_id)
        await check_row(tx, caller, row)
        if row.status in IN_TURN:
            begun = await has_begun(tx, row.id)
            for each in workflows_of(row, await runners(tx), app.now(), begun=begun):
                if each.id == identifier:
                    return each
        ended = None
        if turn_id is not None:
            filters = EventFilter(types=ENDS, turn_id=turn_id)
            last, _ = await list_events(tx, session_id, filters, 1, size=EVENTS_BYTES, newest_first=True)
            ended = _ended(row.id, row.agent_id, last[0]) if last else None
        if ended is None:
            raise NotFound("turn", code="workflow_not_found")
        return ended

    return await app.database.read(work, long=True)


async def events_of_workflow(
    app: App, caller: Caller, identifier: str, after: int | None, limit: int
) -> WorkflowEvents:
    """Return the events of a turn, oldest first; admins only. Raises Forbidden, NotFound."""
    require(caller, "admin")
    session_id, turn_id = parse_workflow_id(identifier)
    if turn_id is None:
        raise NotFound("turn", code="workflow_not_found")
    await check_reader(app, caller, session_id)
    filters = EventFilter(turn_id=turn_id, after=after)
    reader = EventReader(app, caller, session_id, filters, limit, size=EVENTS_BYTES)
    found = tuple(
        WorkflowEvent(
            id=each.sequence,
            workflow_id=identifier,
            sequence_num=each.sequence,
            event_type=each.type,
            event_data=Raw(each.data.encode()),
            created_at=to_rfc3339(each.ts),
        )
        for each in await reader.all()
    )
    return WorkflowEvents(found, len(found), reader.more or len(found) == limit)


async def cancel_workflow(app: App, caller: Caller, identifier: str) -> CancelledTurn:
    """Cancel a turn that runs or is parked, and all tasks of its session; admins only.

    Raises:
        Conflict: `turn_not_running`: it has ended, or has not begun.
        Forbidden, NotFound.
    """
    require(caller, "admin")
    session_id, turn_id = parse_workflow_id(identifier)

    def check(row: SessionRow) -> None:
        if row.status not in IN_TURN or row.turn_id != turn_id:
            raise Conflict(
                f"the turn {identifier} has ended, or has not begun: only a turn that runs or is parked can "
                "be cancelled",
                code="turn_not_running",
            )

    return await cancel_turn(app, caller, session_id, check)
