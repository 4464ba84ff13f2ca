"""Calls whose start is appended with what they do, because all that they do is what they append.

A call may only run once its start is in the log (promise P5), so that nobody runs it again without knowing
that it may have had an effect. If its whole effect is in the append that has its start, there is no state in
which one is there without the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.calls import CallState
from perdure.domain.events import NewEvent
from perdure.domain.ids import ToolCallId
from perdure.domain.steps import Started
from perdure.domain.turn import Calling
from perdure.engine.guarded import guard_of
from perdure.engine.hooks import reviews
from perdure.engine.joined_appends import Opening
from perdure.engine.run import Run
from perdure.engine.tool_calls import end_batch, run_call


def join_starts(run: Run, agent: ResolvedAgent, calls: Sequence[CallState]) -> bool:
    """Whether the start of these calls can be in the append of what they do.

    Nothing may take long before that append, which also has the model's answer: no guardrail or hook is asked
    about the calls. And no other runner may be at work on the session, as before a claim.
    """
    alone = run.claimed and guard_of(run, agent) is None
    return alone and all(_joins(run, agent, call) for call in calls)


def _joins(run: Run, agent: ResolvedAgent, call: CallState) -> bool:
    bound, arguments = agent.bound.get(call.name), run.arguments_of(call)
    if bound is None or bound.tool.starts_with is None or not isinstance(arguments, dict):
        return False
    fresh = not isinstance(call.status, Started) and not call.edited
    return fresh and bound.tool.starts_with(arguments) and not reviews(agent, call.name)


async def run_with_start(
    run: Run, agent: ResolvedAgent, opening: list[NewEvent], calls: Sequence[CallState]
) -> None:
    """Run calls; the first one that appends something appends their start, too.

    `run.unlogged` then has what is left to append. If the log has moved meanwhile, none of the calls has
    begun, and the next action has to be decided again.
    """
    ids = [call.id for call in calls]
    held = Opening(opening, {*ids})
    state = run.hold(held)
    if not isinstance(state, Calling):
        raise AssertionError(f"calls start in the phase {type(state).__name__}")  # noqa: TRY004
    run.announced.update(ids)
    begun = [call for call in state.calls if call.id in ids]
    for call in begun:
        task = run.tools[call.id] = asyncio.create_task(run_call(run, agent, state, call, None))
        task.add_done_callback(partial(_note, held, call.id))
    events: list[NewEvent] = []
    for call in begun:
        events += await asyncio.shield(run.tools[call.id])
    run.tools.clear()
    match held.fate:
        case "logged":
            run.unlogged = await end_batch(run, run.phase(Calling), events)
        case "held":  # none of them has appended anything
            held.fate = "dropped"
            run.unlogged = [*run.unlogged, *opening, *await end_batch(run, state, events)]
        case "dropped":
            run.announced.difference_update(ids)


def _note(held: Opening, call_id: ToolCallId, task: asyncio.Task[list[NewEvent]]) -> None:
    held.note(call_id)
