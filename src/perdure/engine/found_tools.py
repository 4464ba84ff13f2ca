"""Stores the discovered tools that a model is offered, so that its turn can continue with them."""

from __future__ import annotations

from functools import partial

from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.turn import TurnState
from perdure.domain.turn_queries import offered_tools
from perdure.engine.outages import Also
from perdure.engine.run import Run
from perdure.store.tool_lists import keep_tool_list


def keep_found_tools(run: Run, agent: ResolvedAgent) -> Also | None:
    """What the append that starts a model call stores besides; None if no capability finds tools."""
    found = agent.found_tools
    if found is None or found.restored:
        return None
    now = run.engine.clock.now()
    return partial(keep_tool_list, org_id=run.row.org_id, session_id=run.row.id, tools=found.content, now=now)


def is_outdated(agent: ResolvedAgent, state: TurnState) -> bool:
    """Whether the agent has the tools of an earlier model call, and the next action is another one."""
    found = agent.found_tools
    return found is not None and found.restored and offered_tools(state) is None
