"""Loads deferred tools: the model is offered them from its next call on."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.calls import CallState
from perdure.domain.events import NewEvent, ToolsLoadedData
from perdure.domain.loaded_tools import MAX_LOADED, with_loaded
from perdure.engine.tool_output import RawOutput


def loaded_by(agent: ResolvedAgent, call: CallState, output: RawOutput | None) -> ToolsLoadedData | None:
    """What a call loads: what its tool found, and the called tool itself if the model was not offered it.

    A model can know a deferred tool's name without having searched it: from the user, from instructions, or
    from a turn before the tool was deferred.
    """
    found = () if output is None else output.loads
    names = tuple(name for name in dict.fromkeys((call.name, *found)) if name in agent.hidden)
    return ToolsLoadedData(call.id, names[:MAX_LOADED]) if names else None


def loaded_after(loaded: tuple[str, ...], events: Iterable[NewEvent]) -> tuple[str, ...]:
    """The loaded tools once these events are in the log."""
    for event in events:
        data = event.get(ToolsLoadedData)
        if data is not None:
            loaded = with_loaded(loaded, data.tool_names)
    return loaded
