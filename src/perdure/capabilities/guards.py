"""Guards of the files whose text becomes the agent's instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from perdure.capabilities.port import Tool
from perdure.capabilities.registry import Active
from perdure.domain.guards import Guard


def guards_of(tools: Sequence[Tool], active: Sequence[Active]) -> Mapping[str, Guard]:
    """Return the guards of tools that need no approval otherwise.

    A change of instructions counts as destructive, even if the tool is not: it decides what the agent does
    from then on, and, in a shared workspace, what the agents of others do.
    """
    paths = frozenset(path for each in active for path in each.instructions())
    if not paths:
        return {}
    writers = ((tool, tool.writes) for tool in tools)
    return {
        tool.name: Guard(argument, paths)
        for tool, argument in writers
        if argument is not None and any(each.gates(_destructive(tool)) for each in active)
    }


def _destructive(tool: Tool) -> Tool:
    return msgspec.structs.replace(tool, hints=msgspec.structs.replace(tool.hints, destructive=True))
