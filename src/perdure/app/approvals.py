"""Approvals: a person's decisions on tool calls that need approval."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.at_head import write_at_head
from perdure.app.context import App
from perdure.app.edited_arguments import Edit, check_edits, offered_content
from perdure.app.storage import without_secrets
from perdure.capabilities.tool_lists import read_list
from perdure.domain.accounts import RANK, Caller
from perdure.domain.calls import CallState, Parked
from perdure.domain.data_flow import ReasonCode
from perdure.domain.decisions import ANYBODY, Decided, Decision, StandingDecision
from perdure.domain.errors import Conflict, Forbidden, InvalidInput
from perdure.domain.events import Event, NewEvent, SessionActivatedData, ToolCompletedData
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.inbox import Decider
from perdure.domain.messages import JsonObject, TextPart
from perdure.domain.spans import tool_context, turn_context
from perdure.domain.times import Micros
from perdure.domain.tools import (
    APPROVE,
    ApprovalDecision,
    SubmitApprovals,
    SubmittedToolResults,
    question_id,
)
from perdure.domain.turn import Calling, parked_calls
from perdure.store.bus import Appended
from perdure.store.database import Tx
from perdure.store.parked_turns import read_turn
from perdure.store.queue import Job
from perdure.store.sessions import SessionRow, append, get_session
from perdure.store.standing_approvals import set_standing_approval, standing_approvals

REJECTED = "The user rejected this call."


class Verdict(Struct, frozen=True):
    """A decision on a waiting call."""

    call: CallState
    decided: Decided


def decided_by(
    decider: Decider, decision: Decision, arguments: JsonObject | None, reason: str | None
) -> Decided:
    """Return a decision with what is known of the decider."""
    return Decided(
        decision,
        decider.via,
        decider.user_id,
        reason or None,
        arguments,
        decider.address,
        decider.user_agent,
        decider.shown,
        decider.link,
    )


async def submit_approvals(
    app: App, decider: Decider, session_id: SessionId, body: SubmitApprovals
) -> SubmittedToolResults:
    """Record decisions on some or all pending approvals; the last decision resumes the turn.

    Raises:
        NotFound: the session does not exist.
        Forbidden: the caller is not among those who may approve the calls, or a decision is for always, and
            the caller neither owns the session nor is an admin.
        Conflict: the session has no pending approval, or its deadline has passed.
        InvalidInput: a decision names an unknown call, or one call is decided twice, or edited arguments do
            not fit the tool's schema.
    """
    caller = decider.caller
    for index, each in enumerate(body.decisions):
        check_edited(each.decision, each.arguments, f"decisions[{index}].arguments")
    if any(each.arguments is not None for each in body.decisions):
        await _check_edits(app, caller.organization_id, session_id, body.decisions)
    now = app.now()

    async def work(tx: Tx) -> tuple[SessionRow, tuple[Event, ...], int]:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        state = await read_turn(tx, row, app.turns)
        open_calls = parked_calls(state, "approval")
        if row.status != "waiting_for_tool_results" or not open_calls or not isinstance(state, Calling):
            raise Conflict("the session has no pending approval", code="not_waiting_for_approval")
        if all(is_overdue(call, now) for call in open_calls):  # they were asked in one event
            raise Conflict(
                "the deadline of the session's approvals has passed, so the calls are refused",
                code="not_waiting_for_approval",
            )
        verdicts = _match_decisions(decider, open_calls, body.decisions)
        after, stored = await decide_calls(app, tx, row, state, caller, verdicts, now)
        return after, stored, len(verdicts)

    row, stored, count = await write_at_head(app, work)
    app.bus.publish(Appended(row.id, row.head, stored))
    return SubmittedToolResults(count, row.status)


async def decide_calls(
    app: App,
    tx: Tx,
    row: SessionRow,
    state: Calling,
    caller: Caller,
    verdicts: Sequence[Verdict],
    now: Micros,
) -> tuple[SessionRow, tuple[Event, ...]]:
    """Append decisions on waiting calls of a locked session; the last one resumes the turn.

    Raises:
        Forbidden: the caller may not decide so.
        InvalidInput: edited arguments contain a secret of the session.
    """
    for verdict in verdicts:
        _check_may_decide(caller, row, verdict)
    if any(verdict.decided.decision.endswith("_always") for verdict in verdicts):
        await _keep_standing(tx, row, state, verdicts)
    events = [event for verdict in verdicts for event in _decision_events(state, verdict, now)]
    if any(verdict.decided.reason or verdict.decided.arguments for verdict in verdicts):
        events = await _redacted(app, tx, row, events)
    if len(verdicts) == len(parked_calls(state, "approval")):
        data = SessionActivatedData(state.turn.id, state.turn.message_id)
        events.append(NewEvent(data, turn_context(state.turn), now))
        await app.queue.enqueue(tx, Job(row.org_id, row.id))
    return await append(tx, row, events, now=now)


async def _keep_standing(tx: Tx, row: SessionRow, state: Calling, verdicts: Sequence[Verdict]) -> None:
    """Store the decisions that are for always, each for the reasons that the person was asked for.

    A decision also covers what an earlier one of the same kind did, unless the tool has changed since.
    """
    known = await standing_approvals(tx, row.id)
    for verdict in verdicts:
        call, decision = verdict.call, verdict.decided.decision
        if not decision.endswith("_always"):
            continue
        before, definition = known.get(call.name), await _definition_of(tx, row, state, call)
        same = before is not None and (before.decision, before.definition) == (decision, definition)
        covers = dict.fromkeys((*(before.covers if before is not None and same else ()), *_reasons(call)))
        known[call.name] = StandingDecision(decision, definition, tuple(covers))
        await set_standing_approval(tx, row, call.name, known[call.name])


def _reasons(call: CallState) -> tuple[ReasonCode, ...]:
    return call.status.reasons if isinstance(call.status, Parked) else ()


async def _redacted(app: App, tx: Tx, row: SessionRow, events: list[NewEvent]) -> list[NewEvent]:
    """Redact reasons. Edited arguments run as the log has them, so a secret in them is refused."""
    logged = await without_secrets(app, tx, row, events)
    for before, after in zip(events, logged, strict=True):
        if _edited_by(before) != _edited_by(after):
            raise InvalidInput(
                "`arguments` contain a secret of the session, which must not be in the log: remove it",
                code="secret_in_arguments",
                field="arguments",
            )
    return logged


def _edited_by(event: NewEvent) -> JsonObject | None:
    data = event.get(ToolCompletedData)
    return None if data is None or data.decided is None else data.decided.arguments


async def _definition_of(tx: Tx, row: SessionRow, state: Calling, call: CallState) -> str | None:
    """The digest of the definition of a tool that the model was offered; None if the tool has none."""
    content = await offered_content(tx, row, state)
    found = (None if content is None else read_list(content.data)) or {}
    tools = (tool for each in found.values() if each is not None for tool in each.tools)
    return next((tool.definition for tool in tools if tool.name == call.name), None)


def _check_may_decide(caller: Caller, row: SessionRow, verdict: Verdict) -> None:
    """Check that the caller may decide as it does.

    Every member may decide one call, unless the session's policies say who may. A decision for always
    replaces the policies of the session, so it needs the session's owner or an admin as well.
    """
    status, decision = verdict.call.status, verdict.decided.decision
    approvers = status.approvers if isinstance(status, Parked) else ANYBODY
    if not approvers.include(caller, row.owner_id):
        raise Forbidden(
            f"you may not decide on this call of {verdict.call.name}: only {approvers} may",
            code="not_an_approver",
        )
    if caller.user_id == row.owner_id or RANK[caller.role] >= RANK["admin"]:
        return
    if decision.endswith("_always"):
        raise Forbidden(
            f"`{decision}` requires the session's owner or an admin: decide this call alone with "
            f"`{decision.removesuffix('_always')}`",
            code="session_owner_required",
        )


def is_overdue(call: CallState, now: Micros) -> bool:
    """Whether the deadline of a waiting call has passed, so that nobody may decide any more."""
    return isinstance(call.status, Parked) and call.status.until <= now


def check_edited(decision: Decision, arguments: JsonObject | None, field: str) -> None:
    """Check that a decision may have arguments. Raises InvalidInput."""
    if arguments is not None and not decision.startswith("allow"):
        raise InvalidInput(f"`{field}`: a call that is rejected has none: leave them out", field=field)


async def _check_edits(
    app: App, org_id: OrgId, session_id: SessionId, decisions: tuple[ApprovalDecision, ...]
) -> None:
    """Check edited arguments of calls that wait now; the transaction finds out about others."""

    async def work(tx: Tx) -> dict[str, CallState]:
        state = await read_turn(tx, await get_session(tx, org_id, session_id), app.turns)
        return _by_id(parked_calls(state, "approval"))

    by_id = await app.database.read(work)
    await check_edits(
        app,
        org_id,
        session_id,
        [
            Edit(by_id[each.tool_call_id].name, each.arguments, f"decisions[{index}].arguments")
            for index, each in enumerate(decisions)
            if each.arguments is not None and each.tool_call_id in by_id
        ],
    )


def _by_id(calls: Sequence[CallState]) -> dict[str, CallState]:
    by_id: dict[str, CallState] = {call.id: call for call in calls}
    return by_id | {question_id(call.id): call for call in calls}


def _match_decisions(
    decider: Decider, calls: tuple[CallState, ...], decisions: tuple[ApprovalDecision, ...]
) -> list[Verdict]:
    """Match decisions to calls; returns the decided calls in the order of the calls.

    A standing decision covers every open call of the same tool.
    """
    explicit: dict[str, Decided] = {}
    by_id = _by_id(calls)
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
        explicit[call.id] = decided_by(decider, each.decision, each.arguments, each.reason)
    return with_standing(calls, explicit)


def with_standing(calls: Sequence[CallState], explicit: dict[str, Decided]) -> list[Verdict]:
    """Return decisions by call id with those that follow: one for always covers all calls of its tool.

    One that allows them does not cover a call that is asked about for another reason.
    """
    standing = [
        (call, replace(explicit[call.id], arguments=None))
        for call in calls
        if call.id in explicit and explicit[call.id].decision.endswith("_always")
    ]

    def follows(call: CallState) -> Decided | None:
        found = (
            decided
            for other, decided in standing
            if other.name == call.name
            and (decided.decision == "reject_always" or set(_reasons(call)) <= set(_reasons(other)))
        )
        return next(found, None)

    decided = ((call, explicit.get(call.id) or follows(call)) for call in calls)
    return [Verdict(call, decision) for call, decision in decided if decision is not None]


def _decision_events(state: Calling, verdict: Verdict, now: Micros) -> list[NewEvent]:
    call, decided = verdict.call, verdict.decided
    context = tool_context(state, call.id)
    allowed = decided.decision.startswith("allow")
    why = f"{REJECTED} The reason: {decided.reason}" if decided.reason else REJECTED
    answer = ToolCompletedData(
        question_id(call.id),
        APPROVE,
        allowed,
        "success" if allowed else "rejected",
        (TextPart(decided.decision),) if allowed else None,
        None if allowed else why,
        decided=decided,
    )
    events = [NewEvent(answer, context, now)]
    if not allowed:
        rejected = ToolCompletedData(call.id, call.name, False, "rejected", error=why)
        events.append(NewEvent(rejected, context, now))
    return events
