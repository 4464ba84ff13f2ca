"""The end of a batch of tool calls, whoever appends it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from perdure.domain.calls import Batch, Done, Parked
from perdure.domain.events import ActCompletedData, NewEvent, ToolCompletedData, ToolParkedData
from perdure.domain.spans import act_context
from perdure.domain.steps import Started
from perdure.domain.times import Micros
from perdure.domain.turn import Calling, fold
from perdure.domain.turn_queries import only_waits


def act_completed(
    state: Calling, batch: Batch, events: Sequence[NewEvent], duration_ms: int, now: Micros
) -> NewEvent:
    """The event that ends a batch.

    Args:
        state: the state before `events`, which are the batch's last outcomes.
        duration_ms: how long the batch took.
    """
    outcomes = [event.data.success for event in events if isinstance(event.data, ToolCompletedData)]
    parked = any(isinstance(event.data, ToolParkedData) for event in events)
    earlier = [call.status for call in state.calls if call.id in batch.calls]
    outcomes += [not status.failed for status in earlier if isinstance(status, Done)]
    parked = parked or any(isinstance(status, Parked) for status in earlier)
    data = ActCompletedData(not parked, outcomes.count(True), outcomes.count(False), duration_ms)
    return NewEvent(data, act_context(state), now)


def is_last_to_park(
    state: Calling, batch: Batch, events: Sequence[NewEvent], running: Collection[str]
) -> bool:
    """Whether a batch has nothing left to do once these events park calls of it.

    Args:
        running: the calls whose tools have not returned.
    """
    parked = {event.data.tool_call_id for event in events if isinstance(event.data, ToolParkedData)}
    left = {call.id for call in state.calls if call.id in batch.calls and isinstance(call.status, Started)}
    # The tool of a call that has parked itself has nothing left to do, although it may not have returned.
    done = parked | {call.id for call in state.calls if isinstance(call.status, Parked)}
    return bool(parked) and left <= parked and set[str](running) <= set[str](done)


def rests_after(events: Sequence[NewEvent], state: Calling) -> bool:
    """Whether a turn only waits for parked calls after these events, and no message has arrived meanwhile."""
    ahead = fold(events, state)
    return isinstance(ahead, Calling) and not ahead.pending and only_waits(ahead)
