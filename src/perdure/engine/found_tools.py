"""Stores the discovered tools that a model is offered, so that its turn can continue with them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.events import NewEvent
from perdure.domain.turn import TurnState
from perdure.domain.turn_queries import offered_tools
from perdure.engine.run import Run
from perdure.engine.settlements import Money
from perdure.store.tool_lists import keep_tool_list


async def commit_with_tools(
    run: Run, agent: ResolvedAgent, opening: Sequence[NewEvent], money: Money | None = None
) -> bool:
    """Append the events that start a model call, and store the tools that it is offered.

    A list that this process has stored for the session's model call before is there already: the append is
    then a single statement, which PostgreSQL commits by itself.

    Args:
        money: what the model call holds.

    Returns:
        As `Run.commit`, which also says what it raises.
    """
    found = agent.found_tools
    if found is None or found.restored:
        return await run.commit(opening, money=money)
    digest = found.content.hash
    if run.conversation.kept_tools == digest:
        done = await run.commit(opening, money=money)
    else:
        row, now = run.row, run.engine.clock.now()
        keep = partial(keep_tool_list, org_id=row.org_id, session_id=row.id, tools=found.content, now=now)
        done = await run.commit(opening, also=keep, money=money)
    if done:
        run.conversation.kept_tools = digest
    return done


def is_outdated(agent: ResolvedAgent, state: TurnState) -> bool:
    """Whether the agent has the tools of an earlier model call, and the next action is another one."""
    found = agent.found_tools
    return found is not None and found.restored and offered_tools(state) is None
