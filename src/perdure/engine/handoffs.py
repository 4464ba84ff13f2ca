"""What a running tool call may do to its session: append events at once, and name another agent for it."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.layers import load_layers
from perdure.capabilities.port import Later
from perdure.capabilities.resolve import resolve
from perdure.domain.calls import CallState
from perdure.domain.errors import ToolError
from perdure.domain.event_data import EventData
from perdure.domain.speakers import AgentAt
from perdure.domain.turn import Calling
from perdure.domain.turn_queries import next_controls
from perdure.domain.variables import missing_message
from perdure.engine.deferred import parked_call
from perdure.engine.outages import Also
from perdure.engine.run import Run


async def log_for(
    run: Run,
    bound: BoundTool,
    state: Calling,
    call: CallState,
    data: Sequence[EventData],
    also: Also,
    later: Later | None = None,
    *,
    loads: bool,
) -> None:
    """Append events of a running call and change rows, in one transaction. Raises ToolError: it has ended.

    Args:
        later: parks the call with these events.
        loads: whether the call also loads tools. This is logged when its tool has returned, so that the call
            is only parked then.
    """
    if later is not None and not loads:
        data = (*data, parked_call(run, bound, state, call, later).data)
    if not await run.log_at_once(call.id, *data, progress=True, also=also):
        raise ToolError("the call has ended, so nothing was changed")


async def check_agent(run: Run, agent: AgentAt) -> None:
    """Check that the turn can continue under an agent, before it does.

    Raises:
        NotFound: the agent does not exist.
        InvalidInput: its tools do not go with the session's.
        ToolError: a variable of its prompt has no value.
    """
    controls = next_controls(run.state)
    values = controls.variables if controls else None
    session = run.row.under(agent)
    layers = await run.engine.database.read(lambda tx: load_layers(tx, session, values))
    missing = resolve(layers.layers, run.engine.registry).missing
    if missing:
        raise ToolError(f"the agent cannot continue the session: there is {missing_message(missing)}")
