"""Lists of the inbox. Items are read from the rows of the sessions that wait; nothing else stores them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from perdure.app.context import App
from perdure.app.inbox_items import (
    SEES_TO_BUDGETS,
    ItemView,
    Question,
    asked_by,
    for_identity,
    input_requests_for,
    question_at,
    view_of,
)
from perdure.domain.accounts import Caller
from perdure.domain.calls import Parked
from perdure.domain.decisions import Approvers
from perdure.domain.errors import Damaged, NotFound
from perdure.domain.ids import AgentId, OrgId, SessionId, ToolCallId, is_id
from perdure.domain.inbox import InboxCount, InboxItem, InboxItemId, InboxKind, ItemRef, item_id
from perdure.domain.input_requests import InputRequest
from perdure.domain.paging import Page, page_of
from perdure.domain.parked import CONSENT, ParkedCall
from perdure.domain.times import Micros
from perdure.domain.turn import Calling
from perdure.store.agents import agent_by_name
from perdure.store.database import Tx
from perdure.store.inbox import WaitingSession, names_of_agents, sign_in_identities, waiting_sessions
from perdure.store.parked_turns import read_turn
from perdure.store.rows import LIST_BYTES
from perdure.store.sessions import get_session

MAX_SESSIONS = 20_000
"""Sessions with parked calls that are looked at, those that were created first."""
PART = 1_000
"""Sessions that are read at a time."""


class InboxFilter(Struct, frozen=True):
    """The conditions for a list of items; None means any.

    Attributes:
        agent: the id or name of the session's agent.
        mine: only what the caller may decide.
    """

    kind: InboxKind | None = None
    session_id: SessionId | None = None
    agent: str | None = None
    tool_name: str | None = None
    mine: bool = False


class Waiting(Struct, frozen=True):
    """An item, as its session's row has it."""

    kind: InboxKind
    session: WaitingSession
    call: ParkedCall
    approvers: Approvers

    @property
    def id(self) -> InboxItemId:
        return item_id(self.session.id, self.call.asked_at, self.call.index)

    @property
    def ref(self) -> ItemRef:
        return ItemRef(self.session.id, self.call.asked_at, self.call.index)

    def for_caller(self, caller: Caller) -> bool:
        """Whether the caller may decide."""
        return self.approvers.include(caller, self.session.owner_id)

    def fits(self, filters: InboxFilter, agent_id: AgentId | None, caller: Caller) -> bool:
        """Whether the item matches. `agent_id` is the agent that the filters name."""
        return (
            self.session.reader_id in (None, caller.user_id)
            and (filters.kind is None or self.kind == filters.kind)
            and (filters.session_id is None or self.session.id == filters.session_id)
            and (filters.agent is None or self.session.agent_id == agent_id)
            and (filters.tool_name is None or self.call.tool_name == filters.tool_name)
            and (not filters.mine or self.for_caller(caller))
        )


async def list_inbox(
    app: App, caller: Caller, filters: InboxFilter, offset: int, limit: int
) -> Page[InboxItem]:
    """List what waits for people, the next deadline first. A page ends after `LIST_BYTES` of events."""

    async def work(tx: Tx) -> tuple[list[InboxItem], int]:
        found = await matching(app, tx, caller, filters)
        items, _ = await views(app, tx, caller, found[offset : offset + limit])
        return items, len(found)

    items, total = await app.database.read(work, long=True)
    return page_of(items, total, offset, limit)


async def count_inbox(app: App, caller: Caller, filters: InboxFilter) -> InboxCount:
    """Count what waits for people."""
    found = await app.database.read(lambda tx: matching(app, tx, caller, filters), long=True)
    return counted(caller, found)


def counted(caller: Caller, found: Sequence[Waiting]) -> InboxCount:
    """Count these items."""
    mine = sum(each.for_caller(caller) for each in found)
    return InboxCount(len(found), mine, dict(sorted(Counter(each.kind for each in found).items())))


async def agent_named(tx: Tx, org_id: OrgId, filters: InboxFilter) -> AgentId | None:
    """Return the id of the agent that the filters name; None if they name none, or there is none."""
    if filters.agent is None or is_id(filters.agent, "agent"):
        return None if filters.agent is None else AgentId(filters.agent)
    row = await agent_by_name(tx, org_id, filters.agent)
    return None if row is None else row.id


async def matching(app: App, tx: Tx, caller: Caller, filters: InboxFilter) -> list[Waiting]:
    """Return the items that match, the next deadline first."""
    org_id = caller.organization_id
    agent_id = await agent_named(tx, org_id, filters)
    if filters.agent is not None and agent_id is None:
        return []
    found = await waiting_items(app, tx, org_id, filters.session_id, agent_id)
    return [each for each in found if each.fits(filters, agent_id, caller)]


async def waiting_items(
    app: App,
    tx: Tx,
    org_id: OrgId,
    session_id: SessionId | None = None,
    agent_id: AgentId | None = None,
) -> list[Waiting]:
    """Return the items of an organization, the next deadline first."""
    now = app.now()
    found: list[tuple[WaitingSession, ParkedCall, InboxKind]] = []
    after, looked_at = "", 0
    while looked_at < MAX_SESSIONS:
        part = await waiting_sessions(tx, org_id, after, PART, session_id, agent_id)
        for session in part:
            for call in session.calls():
                kind = _kind_of(session, call, now)
                if kind is not None:
                    found.append((session, call, kind))
        looked_at += len(part)
        if len(part) < PART:
            break
        after = part[-1].id
    signs = any(kind == "sign_in" for _, _, kind in found)
    asked = await sign_in_identities(tx, org_id, session_id=session_id) if signs else {}
    items = []
    for session, call, kind in found:
        known = call if call.asked_at else await _asked(app, tx, org_id, session, call)
        if known is not None:
            items.append(Waiting(kind, session, known, _approvers(session, known, asked)))
    # Sessions come in the order of their ids, and sorting keeps the order of equal ones.
    items.sort(key=lambda each: each.call.until)
    return items


def _kind_of(session: WaitingSession, call: ParkedCall, now: Micros) -> InboxKind | None:
    """What a parked call asks people for; None if it asks for nothing that somebody could decide now."""
    if call.until <= now:
        return None
    match call.kind:
        case "approval":
            return "approval" if session.status == "waiting_for_tool_results" else None
        case "sign_in" | "input" | "question":
            return call.kind
        case "budget":
            return "budget" if session.status == "paused" else None
    return None


async def _asked(
    app: App, tx: Tx, org_id: OrgId, session: WaitingSession, call: ParkedCall
) -> ParkedCall | None:
    """Complete a call that an older release parked, from the log. Return None if that is not possible."""
    try:
        state = await read_turn(tx, await get_session(tx, org_id, session.id), app.turns)
    except Damaged:
        return None
    for each in state.calls if isinstance(state, Calling) else ():
        status = each.status
        if each.id == call.tool_call_id and isinstance(status, Parked):
            return replace(call, asked_at=status.asked_at, index=status.index, approvers=status.approvers)
    return None


def _approvers(
    session: WaitingSession, call: ParkedCall, asked: dict[tuple[SessionId, ToolCallId], str]
) -> Approvers:
    if call.kind == "budget":
        return SEES_TO_BUDGETS
    if call.kind != "sign_in":
        return call.approvers
    identity = asked.get((session.id, call.tool_call_id))
    return Approvers(owner=True) if identity is None else for_identity(identity)


async def views(app: App, tx: Tx, caller: Caller, found: Sequence[Waiting]) -> tuple[list[InboxItem], int]:
    """Return items as clients see them, and how many of `found` they stand for.

    That is at least one, and no more after `LIST_BYTES` of events. Items of sessions that were deleted
    meanwhile, or whose logs cannot be read, are left out.
    """
    org_id, size, count = caller.organization_id, 0, 0
    ids = {each.session.agent_id for each in found if each.session.agent_id is not None}
    names = await names_of_agents(tx, org_id, ids)
    items: list[InboxItem] = []
    for each in found:
        count += 1
        try:
            question = await question_at(tx, each.ref)
            requests = () if question is None else await _requests(app, tx, org_id, each, question)
            asker = await asked_by(tx, org_id, each.ref, each.session.agent_id)
        except Damaged:
            continue
        if question is None:
            continue
        session, may = each.session, each.for_caller(caller)
        agent = names.get(session.agent_id) if session.agent_id else None
        view = ItemView(session.id, session.title, session.agent_id, agent, each.approvers, asker)
        items.append(view_of(each.ref, question, view, you_may_decide=may, requests=requests, listed=True))
        size += question.size
        if size > LIST_BYTES:
            break
    return items, count


async def _requests(
    app: App, tx: Tx, org_id: OrgId, item: Waiting, question: Question
) -> tuple[InputRequest, ...]:
    if item.kind not in CONSENT:
        return ()
    try:
        row = await get_session(tx, org_id, item.session.id)
    except NotFound:
        return ()
    return await input_requests_for(app, tx, row, question)
