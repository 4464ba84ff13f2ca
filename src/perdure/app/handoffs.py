"""Handoffs: the agent of a session passes it on to another agent."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.app.context import Services
from perdure.capabilities.port import ToolContext
from perdure.domain.compaction import ContextCompactedData
from perdure.domain.errors import ToolError
from perdure.domain.event_data import EventData
from perdure.domain.events import (
    InputMessageData,
    OutputMessageCompletedData,
    ReasonStartedData,
    SessionHandedOffData,
    ToolCompletedData,
)
from perdure.domain.events.agents import History
from perdure.domain.ids import OrgId
from perdure.domain.speakers import AgentAt
from perdure.store.agents import ListedAgent, agents_by_reference
from perdure.store.database import Tx
from perdure.store.events import count_events, events_of_kinds, last_compaction
from perdure.store.sessions import SessionRow, get_session

MAX_HANDOFFS = 10
"""Handoffs in one turn, so that two agents cannot pass it to each other for ever."""

_MESSAGES = (InputMessageData.kind, OutputMessageCompletedData.kind, ToolCompletedData.kind)


class HandOff(Struct, frozen=True):
    """What the agent asks for: the id or the name of the next agent, and what that one should know."""

    agent: str
    reason: str | None = None
    summary: str | None = None


class _Place(Struct, frozen=True):
    """Where a handoff happens.

    Attributes:
        earlier: the handoff that the same answer has made, if it has made one.
        begin: the sequence after which the log has the answer; before: the messages before it.
    """

    target: ListedAgent
    earlier: SessionHandedOffData | None
    count: int
    begin: int
    before: int


async def listed_agents(services: Services, org_id: OrgId, references: Sequence[str]) -> list[ListedAgent]:
    """Return the agents with these ids or names, sorted by name.

    Raises:
        ToolError: there is no such agent. One that was archived or deleted is returned.
    """
    found = await services.database.read(lambda tx: agents_by_reference(tx, org_id, references))
    missing = [name for name in references if name not in found]
    if missing:
        raise ToolError(
            f"the organization has no agent {', '.join(map(repr, missing))}: correct `agents` in the "
            "configuration of the capability"
        )
    return sorted({each.id: each for each in found.values()}.values(), key=lambda each: (each.name, each.id))


async def hand_off(
    services: Services, context: ToolContext, allowed: Sequence[str], history: History, wish: HandOff
) -> ListedAgent:
    """Let another agent continue the context's session; return it.

    Everything is one append. A call that runs again after a crash finds it in the log.

    Args:
        allowed: the ids or names of the agents that it may be handed to.
        history: whether the next agent sees the whole conversation, or `wish.summary` instead.

    Raises:
        ToolError: the session cannot be handed off so; the message says why.
    """
    place = await services.database.read(lambda tx: _find_place(tx, context, allowed, wish.agent))
    target, earlier, before = place.target, place.earlier, context.agent or AgentAt()
    if earlier is not None:
        if earlier.tool_call_id == context.tool_call_id:
            return target
        raise ToolError(f"this answer has handed the session off already, to {earlier.to_agent_name!r}")
    if target.id == before.agent_id:
        raise ToolError(f"you are {target.name!r}: continue, or name another agent")
    if place.count >= MAX_HANDOFFS:
        raise ToolError(f"a turn has at most {MAX_HANDOFFS} handoffs: finish it, and say what is left to do")
    if history == "summary" and not (wish.summary or "").strip():
        raise ToolError("`summary` is missing: the next agent knows nothing but what you write there")
    next_agent = AgentAt(target.id, target.default_version_id)
    await context.check_agent(next_agent)
    data = SessionHandedOffData(
        tool_call_id=context.tool_call_id,
        to_agent_id=target.id,
        to_agent_name=target.name,
        history=history,
        to_agent_version_id=target.default_version_id,
        from_agent_id=before.agent_id,
        from_agent_version_id=before.agent_version_id,
        reason=wish.reason,
    )
    events: list[EventData] = [data]
    if history == "summary":
        events.append(
            ContextCompactedData(
                "summary", place.before, 2, 0, summary=wish.summary, after=place.begin, handed_off=True
            )
        )

    async def still_there(tx: Tx) -> None:
        await _target(tx, context.org_id, allowed, wish.agent)

    await context.log(events, still_there)
    return target


async def _find_place(tx: Tx, context: ToolContext, allowed: Sequence[str], agent: str) -> _Place:
    row = await get_session(tx, context.org_id, context.session_id)
    kinds = (SessionHandedOffData.kind,)
    # A turn has few of them: all are in one page.
    events, _ = await events_of_kinds(tx, row.id, kinds, before=row.head, after=row.turn_after)
    own = [each for each in events if each.context_struct().turn_id == context.turn_id]
    same = next((each for each in own if each.context_struct().exec_id == context.exec_id), None)
    earlier = None if same is None else same.read(SessionHandedOffData)
    if earlier is not None and earlier.tool_call_id == context.tool_call_id:
        done = await agents_by_reference(tx, context.org_id, (earlier.to_agent_id,))
        return _Place(done[earlier.to_agent_id], earlier, len(own), 0, 0)
    target = await _target(tx, context.org_id, allowed, agent)
    begin, before = await _begin_of_answer(tx, row)
    return _Place(target, earlier, len(own), begin, before)


async def _target(tx: Tx, org_id: OrgId, allowed: Sequence[str], agent: str) -> ListedAgent:
    """Return the agent that the model names. Raises ToolError."""
    found = await agents_by_reference(tx, org_id, allowed)
    target = next((each for each in found.values() if agent in (each.id, each.name)), None)
    if target is None:
        names = ", ".join(sorted({each.name for each in found.values() if each.status == "active"}))
        raise ToolError(f"there is no agent {agent!r} to hand off to. There are: {names or 'none'}")
    if target.status != "active":
        raise ToolError(f"the agent {target.name!r} is {target.status}, so it cannot continue the session")
    return target


async def _begin_of_answer(tx: Tx, row: SessionRow) -> tuple[int, int]:
    """Return the sequence before the newest model call, and the number of messages that it got."""
    kinds = (ReasonStartedData.kind,)
    events, _ = await events_of_kinds(tx, row.id, kinds, before=row.head, limit=1)
    begin = events[0].sequence - 1 if events else row.head
    summary = await last_compaction(tx, row.id, begin)
    data = None if summary is None else summary.read(ContextCompactedData)
    after = 0 if data is None else data.after or 0
    return begin, await count_events(tx, row.id, _MESSAGES, after, begin) + (data is not None)
