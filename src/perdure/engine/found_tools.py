"""Stores the discovered tools that a model is offered, so that its turn can continue with them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.events import NewEvent
from perdure.domain.turn import TurnState
from perdure.domain.turn_queries import offered_tools
from perdure.engine.outages import Also, both
from perdure.engine.run import Run
from perdure.store.tool_lists import keep_tool_list


async def commit_with_tools(
    run: Run, agent: ResolvedAgent, opening: Sequence[NewEvent], also: Also | None = None
) -> bool:
    """Append the events that start a model call, and store the tools that it is offered.

    A list that this process has stored for the session's model call before is there already: the append is
    then a single statement, which PostgreSQL commits by itself.

    Args:
        also: what the same transaction changes besides.

    Returns:
        As `Run.commit`.
    """
    found = agent.found_tools
    if found is None or found.restored:
        return await run.commit(opening, also=also)
    digest = found.content.hash
    if run.conversation.kept_tools == digest:
        done = await run.commit(opening, also=also)
    else:
        row, now = run.row, run.engine.clock.now()
        keep = partial(keep_tool_list, org_id=row.org_id, session_id=row.id, tools=found.content, now=now)
        done = await run.commit(opening, also=both(keep, also))
    if done:
        run.conversation.kept_tools = digest
    return done


def is_outdated(agent: ResolvedAgent, state: TurnState) -> bool:
    """Whether the agent has the tools of an earlier model call, and the next action is another one."""
    found = agent.found_tools
    return found is not None and found.restored and offered_tools(state) is None
