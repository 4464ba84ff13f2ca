"""Items of the inbox: what their sessions' logs say about them, and how clients see them."""

from __future__ import annotations

from msgspec import Struct

from perdure.app.context import App
from perdure.app.input_requests import input_requests_of
from perdure.domain.connections import SERVICE
from perdure.domain.data_flow import AskReason
from perdure.domain.decisions import ANYBODY, Approvers
from perdure.domain.events import (
    ReasonStartedData,
    ToolCallRequestedData,
    ToolCallSummary,
    ToolParkedData,
    TurnParkedData,
)
from perdure.domain.ids import AgentId, BudgetId, OrgId, SessionId, ToolCallId, UserId
from perdure.domain.inbox import (
    MAX_SHOWN,
    InboxItem,
    InboxItemId,
    InboxKind,
    InboxLinks,
    InboxOutcome,
    ItemRef,
    item_id,
)
from perdure.domain.input_requests import InputRequest
from perdure.domain.messages import JsonValue
from perdure.domain.parked import CONSENT, deadline_of
from perdure.domain.questions import AskedQuestion, summary_of
from perdure.domain.speakers import Speaker
from perdure.domain.times import Micros, from_rfc3339, to_rfc3339
from perdure.domain.tools import APPROVE, call_of_question
from perdure.store.database import Tx
from perdure.store.events import events_after, events_of_kinds
from perdure.store.inbox import names_of_agents, sign_in_identities
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow

SEES_TO_BUDGETS = Approvers(role="admin")
"""Who may make a budget have money again."""


class Question(Struct, frozen=True):
    """What an item's event says.

    Attributes:
        size: the bytes of the event.
    """

    kind: InboxKind
    call_id: ToolCallId
    tool_name: str
    summary: str
    since: Micros
    until: Micros
    size: int
    display_name: str | None = None
    arguments: JsonValue = None
    approvers: Approvers = ANYBODY
    reasons: tuple[AskReason, ...] = ()
    budget_id: BudgetId | None = None
    questions: tuple[AskedQuestion, ...] = ()


class ItemView(Struct, frozen=True):
    """What an item has from its session."""

    session_id: SessionId
    title: str | None
    agent_id: AgentId | None
    agent: str | None
    approvers: Approvers
    asked_by: Speaker | None = None


async def asked_by(tx: Tx, org_id: OrgId, ref: ItemRef, own: AgentId | None) -> Speaker | None:
    """Return the agent that an item's question comes from; None if it is the session's own."""
    kinds = (ReasonStartedData.kind,)
    calls, _ = await events_of_kinds(tx, ref.session_id, kinds, before=ref.sequence, limit=1)
    agent_id = calls[0].read(ReasonStartedData).agent_id if calls else None
    if agent_id is None or agent_id == own:
        return None
    return Speaker(agent_id, (await names_of_agents(tx, org_id, {agent_id})).get(agent_id, ""))


async def question_at(tx: Tx, ref: ItemRef) -> Question | None:
    """Read the question that an item is; None if the log has no such question."""
    found = await events_after(tx, ref.session_id, ref.sequence - 1, limit=1)
    if not found or found[0].sequence != ref.sequence:
        return None
    event = found[0]
    match event.decoded():
        case ToolCallRequestedData() as data:
            return _approval(data, ref.index, event.ts, len(event.data))
        case ToolParkedData(parked_kind=("sign_in" | "input") as kind) as data if ref.index == 0:
            server = data.input_requests[0].server if data.input_requests else data.tool_name
            asks = f"Sign in at {server}." if kind == "sign_in" else f"{server} asks for input."
            until = deadline_of(event.ts, data.timeout_ms)
            return Question(
                *(kind, data.tool_call_id, data.tool_name, asks, event.ts, until, len(event.data)),
                display_name=data.display_name,
            )
        case ToolParkedData(parked_kind="question") as data if ref.index == 0:
            until = deadline_of(event.ts, data.timeout_ms)
            return Question(
                *("question", data.tool_call_id, data.tool_name, summary_of(data.questions)),
                *(event.ts, until, len(event.data)),
                display_name=data.display_name,
                questions=data.questions,
            )
        case TurnParkedData(parked_kind="budget") as data if ref.index == 0:
            return Question(
                *("budget", ToolCallId(""), "", data.error, event.ts),
                *(from_rfc3339(data.until), len(event.data)),
                approvers=SEES_TO_BUDGETS,
                budget_id=data.budget_id,
            )
    return None


def _approval(data: ToolCallRequestedData, index: int, ts: Micros, size: int) -> Question | None:
    if index >= len(data.tool_calls) or data.tool_calls[index].name != APPROVE:
        return None
    call, summaries = data.tool_calls[index], data.tool_summaries or ()
    about = call.arguments if isinstance(call.arguments, dict) else {}
    name = str(about.get("tool_name"))
    summary = summaries[index] if index < len(summaries) else ToolCallSummary(call.id, APPROVE)
    return Question(
        "approval",
        call_of_question(call.id),
        name,
        summary.narration or f"May {name} run?",
        ts,
        deadline_of(ts, data.timeout_ms),
        size,
        summary.display_name,
        about.get("arguments"),
        data.approvers or ANYBODY,
        summary.reasons,
    )


def for_identity(identity: str) -> Approvers:
    """Return who may sign in as this identity: the user, or, for the organization's own, an admin."""
    return Approvers(role="admin") if identity == SERVICE else Approvers(users=(UserId(identity),))


async def approvers_of(tx: Tx, org_id: OrgId, session_id: SessionId, question: Question) -> Approvers:
    """Return who may decide."""
    if question.kind != "sign_in":
        return question.approvers
    asked = await sign_in_identities(tx, org_id, session_id=session_id)
    identity = asked.get((session_id, question.call_id))
    return Approvers(owner=True) if identity is None else for_identity(identity)


async def input_requests_for(
    app: App, tx: Tx, row: SessionRow, question: Question
) -> tuple[InputRequest, ...]:
    """Return what the tool's server asks for; nothing if it does not ask."""
    if question.kind not in CONSENT:
        return ()
    found = await input_requests_of(app, tx, row)
    return tuple(each for each in found if each.tool_call_id == question.call_id)


def view_of(
    ref: ItemRef,
    question: Question,
    view: ItemView,
    *,
    you_may_decide: bool,
    requests: tuple[InputRequest, ...] = (),
    outcome: InboxOutcome | None = None,
    listed: bool = False,
) -> InboxItem:
    """Build an item as clients see it; `listed`: with long arguments cut."""
    identity = item_id(ref.session_id, ref.sequence, ref.index)
    arguments, truncated = shown(question.arguments) if listed else (question.arguments, False)
    return InboxItem(
        identity,
        question.kind,
        view.session_id,
        question.tool_name,
        question.call_id,
        question.summary,
        view.approvers,
        you_may_decide,
        to_rfc3339(question.since),
        to_rfc3339(question.until),
        _links(identity, view.session_id, requests, question.budget_id),
        view.title,
        view.agent_id,
        view.agent,
        view.asked_by,
        question.display_name,
        arguments,
        truncated,
        input_requests=requests,
        questions=question.questions,
        budget_id=question.budget_id,
        outcome=outcome,
        reasons=question.reasons,
    )


def _links(
    identity: InboxItemId,
    session_id: SessionId,
    requests: tuple[InputRequest, ...],
    budget_id: BudgetId | None,
) -> InboxLinks:
    own, session = f"/v1/inbox/{identity}", f"/v1/sessions/{session_id}"
    decide = f"{session}/input-requests/{requests[0].id}" if requests else f"{own}/decision"
    if budget_id is not None:
        decide = f"/v1/budgets/{budget_id}/top-up"
    return InboxLinks(own, decide, session)


def shown(arguments: JsonValue) -> tuple[JsonValue, bool]:
    """The arguments as lists show them: of long ones the start of their JSON; and whether they are cut."""
    text = to_json(arguments)
    return (arguments, False) if len(text) <= MAX_SHOWN else (text[:MAX_SHOWN], True)
