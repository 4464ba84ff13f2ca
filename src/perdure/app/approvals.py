"""Approvals: a person's decisions on tool calls that need approval."""

from __future__ import annotations

from perdure.app.context import App
from perdure.app.sessions import write_at_head
from perdure.capabilities.tool_lists import read_list
from perdure.domain.accounts import RANK, Caller
from perdure.domain.calls import CallState
from perdure.domain.decisions import Decision
from perdure.domain.errors import Conflict, Forbidden, InvalidInput
from perdure.domain.events import Event, NewEvent, SessionActivatedData, ToolCompletedData
from perdure.domain.ids import SessionId
from perdure.domain.messages import TextPart
from perdure.domain.spans import tool_context, turn_context
from perdure.domain.times import Micros
from perdure.domain.tools import (
    APPROVE,
    ApprovalDecision,
    SubmitApprovals,
    SubmittedToolResults,
    question_id,
)
from perdure.domain.turn import Calling, offered_tools, parked_calls
from perdure.store.bus import Appended
from perdure.store.database import Tx
from perdure.store.parked_turns import read_turn
from perdure.store.queue import Job
from perdure.store.sessions import SessionRow, append, get_session
from perdure.store.standing_approvals import set_standing_approval
from perdure.store.tool_lists import read_tool_list

REJECTED = "The user rejected this call."


async def submit_approvals(
    app: App, caller: Caller, session_id: SessionId, body: SubmitApprovals
) -> SubmittedToolResults:
    """Record decisions on some or all pending approvals; the last decision resumes the turn.

    Raises:
        NotFound: the session does not exist.
        Forbidden: a decision is for always, and the caller neither owns the session nor is an admin.
        Conflict: the session has no pending approval.
        InvalidInput: a decision names an unknown call, or one call is decided twice.
    """
    now = app.now()

    async def work(tx: Tx) -> tuple[SessionRow, tuple[Event, ...], int]:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        _check_may_decide(caller, row, body.decisions)
        state = await read_turn(tx, row, app.turns)
        open_calls = parked_calls(state, "approval")
        if row.status != "waiting_for_tool_results" or not open_calls or not isinstance(state, Calling):
            raise Conflict("the session has no pending approval", code="not_waiting_for_approval")
        decided = _match_decisions(open_calls, body.decisions)
        for call, decision in decided:
            if decision.endswith("_always"):
                definition = await _definition_of(tx, row, state, call)
                await set_standing_approval(tx, row, call.name, decision, definition)
        events = [
            event for call, decision in decided for event in _decision_events(state, call, decision, now)
        ]
        if len(decided) == len(open_calls):
            data = SessionActivatedData(state.turn.id, state.turn.message_id)
            events.append(NewEvent(data, turn_context(state.turn), now))
            await app.queue.enqueue(tx, Job(row.org_id, row.id))
        after, stored = await append(tx, row, events, now=now)
        return after, stored, len(decided)

    row, stored, count = await write_at_head(app, work)
    app.bus.publish(Appended(row.id, row.head, stored))
    return SubmittedToolResults(count, row.status)


async def _definition_of(tx: Tx, row: SessionRow, state: Calling, call: CallState) -> str | None:
    """The digest of the definition of a tool that the model was offered; None if the tool has none."""
    digest = offered_tools(state)
    content = None if digest is None else await read_tool_list(tx, row.org_id, row.id, digest)
    found = (None if content is None else read_list(content.data)) or {}
    tools = (tool for each in found.values() if each is not None for tool in each.tools)
    return next((tool.definition for tool in tools if tool.name == call.name), None)


def _check_may_decide(caller: Caller, row: SessionRow, decisions: tuple[ApprovalDecision, ...]) -> None:
    """Check that the caller may decide as it does.

    Every member may decide one call. A decision for always replaces the policies of the session, so it needs
    the session's owner or an admin.
    """
    if caller.user_id == row.owner_id or RANK[caller.role] >= RANK["admin"]:
        return
    standing = next((each.decision for each in decisions if each.decision.endswith("_always")), None)
    if standing is not None:
        raise Forbidden(
            f"`{standing}` requires the session's owner or an admin: decide this call alone with "
            f"`{standing.removesuffix('_always')}`",
            code="session_owner_required",
        )


def _match_decisions(
    calls: tuple[CallState, ...], decisions: tuple[ApprovalDecision, ...]
) -> list[tuple[CallState, Decision]]:
    """Match decisions to calls; returns the decided calls in the order of the calls.

    A standing decision covers every open call of the same tool.
    """
    explicit: dict[str, Decision] = {}
    by_id: dict[str, CallState] = {call.id: call for call in calls}
    by_id |= {question_id(call.id): call for call in calls}
    for index, each in enumerate(decisions):
        field = f"decisions[{index}].tool_call_id"
        call = by_id.get(each.tool_call_id)
        if call is None:
            raise InvalidInput(
                f"`{field}`: no pending approval with the id {each.tool_call_id!r}",
                code="unknown_tool_call",
                field=field,
            )
        if call.id in explicit:
            raise InvalidInput(
                f"`{field}`: the call {call.id!r} already has a decision in this request",
                code="repeated_tool_call",
                field=field,
            )
        explicit[call.id] = each.decision
    standing = {
        call.name: explicit[call.id] for call in calls if explicit.get(call.id, "").endswith("_always")
    }
    decided = ((call, explicit.get(call.id, standing.get(call.name))) for call in calls)
    return [(call, decision) for call, decision in decided if decision is not None]


def _decision_events(state: Calling, call: CallState, decision: Decision, now: Micros) -> list[NewEvent]:
    context = tool_context(state, call.id)
    allowed = decision.startswith("allow")
    answer = ToolCompletedData(
        question_id(call.id),
        APPROVE,
        allowed,
        "success" if allowed else "rejected",
        (TextPart(decision),) if allowed else None,
        None if allowed else REJECTED,
    )
    events = [NewEvent(answer, context, now)]
    if not allowed:
        rejected = ToolCompletedData(call.id, call.name, False, "rejected", error=REJECTED)
        events.append(NewEvent(rejected, context, now))
    return events
