"""Results that came from outside while this run had events of the same calls that were not logged yet."""

from __future__ import annotations

from perdure.domain.calls import Done
from perdure.domain.events import ActCompletedData, NewEvent, ToolCompletedData, ToolParkedData
from perdure.domain.turn import Calling, TurnState


def without_overtaken(events: list[NewEvent], state: TurnState) -> list[NewEvent]:
    """The events of a step without what the log has overtaken.

    A call has one result, the first: the own one of a call that is done by now is dropped. The end of its
    batch is then counted again. Files that it wrote stay.
    """
    if not isinstance(state, Calling):
        return events
    done = {call.id for call in state.calls if isinstance(call.status, Done)}
    kept = [event for event in events if _call_of(event) not in done]
    if len(kept) == len(events):
        return events
    return [event for event in kept if not isinstance(event.data, ActCompletedData)]


def _call_of(event: NewEvent) -> str | None:
    """The call whose status the event changes."""
    data = event.data
    return data.tool_call_id if isinstance(data, ToolCompletedData | ToolParkedData) else None
