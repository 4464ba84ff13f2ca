"""The tools that run on the server: those of capabilities, of definitions and of discovery, and decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import msgspec
from msgspec import Struct

from perdure.capabilities.behaviour import BackgroundRules
from perdure.capabilities.port import Discovered, Later, Tool, ToolContext, ToolOutcome, ToolRun, Verify
from perdure.capabilities.registry import Active, Registry
from perdure.domain.background import with_flag, without_flag
from perdure.domain.data_flow import ReasonCode
from perdure.domain.decisions import StandingDecision
from perdure.domain.effects import Verified
from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonObject
from perdure.domain.tools import BuiltinTool, ClientSideTool, ToolDefinition


class BoundTool(Struct, frozen=True):
    """A tool that runs on the server, its capability, and whether its calls may run.

    Attributes:
        gated: whether each call needs approval.
        rejected: whether every call is rejected.
        background: whether its calls may run in the background. Its parameters have the one that asks for
            it then, which `tool.run` and `tool.verify` do not pass on.
    """

    tool: Tool
    capability_id: str
    capability_name: str
    gated: bool = False
    rejected: bool = False
    background: bool = False


class Standing(Struct, frozen=True):
    """Standing decisions by tool."""

    decisions: Mapping[str, StandingDecision]

    def of(self, tool: Tool | ClientSideTool) -> str | None:
        """The decision that applies to a tool as it is defined now. A rejection also applies to others."""
        found = self.decisions.get(tool.name)
        if found is None or found.decision == "reject_always":
            return None if found is None else found.decision
        definition = tool.definition if isinstance(tool, Tool) else None
        return found.decision if found.definition == definition else None

    def settles(self, tool: Tool | ClientSideTool, reason: ReasonCode) -> bool:
        """Whether calls of a tool are decided also if there is this reason to ask about them."""
        decision = self.of(tool)
        if decision is None:
            return False
        return decision == "reject_always" or reason in self.decisions[tool.name].covers


def add_definitions(
    definitions: Sequence[ToolDefinition], bound: dict[str, BoundTool], registry: Registry
) -> dict[str, ClientSideTool]:
    """Add the server-side tools that layers define to `bound`; returns the client-side ones."""
    client: dict[str, ClientSideTool] = {}
    defined: set[str] = set()
    for definition in definitions:
        name = definition.name
        own = isinstance(definition, ClientSideTool)
        if own and name in bound and bound[name].tool.yields:
            del bound[name]
        if name in defined or (own and name in bound):
            raise InvalidInput(f"two tools are named {name!r}", code="duplicate_tool", field="tools")
        defined.add(name)
        if isinstance(definition, BuiltinTool):
            gated = definition.policy == "requires_approval"
            registered = registry.tool(name)
            if name in bound:  # as its capability configured it: a definition can only tighten that
                bound[name] = msgspec.structs.replace(bound[name], gated=gated)
            elif registered is not None:
                capability, tool = registered
                bound[name] = BoundTool(tool, capability.id, capability.name, gated)
        else:
            client[name] = definition
    return client


def add_discovered(
    active: tuple[Active, ...],
    discovered: Mapping[str, Discovered],
    bound: dict[str, BoundTool],
    client: Mapping[str, ClientSideTool],
) -> set[str]:
    """Add the discovered tools, sorted by name, so that the prompt does not depend on the discovery's order.

    They never replace another tool, or have almost the name of one of another capability: a remote server
    must not take over a tool's name, or pass for it.

    Returns:
        The names of those that were added.
    """
    added: set[str] = set()
    taken = {_folded(name) for name in (*bound, *client)}
    for each in active:
        result = discovered.get(each.capability.id)
        if result is None:
            continue
        own = [tool for tool in result.tools if _folded(tool.name) not in taken]
        for tool in sorted(own, key=lambda tool: tool.name):
            if tool.name not in bound:
                label = result.name or each.capability.name
                bound[tool.name] = BoundTool(tool, each.capability.id, label)
                added.add(tool.name)
        taken.update(_folded(tool.name) for tool in own)
    return added


def _folded(name: str) -> str:
    """A tool's name as models and people easily confuse it with others."""
    return name.lower().replace("-", "_")


def gated_ones(bound: Mapping[str, BoundTool], names: Iterable[str]) -> dict[str, BoundTool]:
    """Those of these tools that there are, with calls that need approval."""
    return {name: msgspec.structs.replace(bound[name], gated=True) for name in names if name in bound}


def decided(bound: BoundTool, active: tuple[Active, ...], standing: str | None) -> BoundTool:
    """Apply a standing decision, or the tool's own wish and the capabilities' gates, to a tool."""
    if standing is not None:
        return msgspec.structs.replace(bound, gated=False, rejected=standing == "reject_always")
    if bound.tool.approval or any(each.gates(bound.tool) for each in active):
        return msgspec.structs.replace(bound, gated=True)
    return bound


def in_background(bound: BoundTool, rules: BackgroundRules | None) -> BoundTool:
    """The tool with the parameter that asks for the background, if its calls may run there."""
    tool = bound.tool
    if rules is None or not (tool.background or tool.name in rules.tools):
        return bound
    parameters = with_flag(tool.parameters)
    if parameters is None:
        return bound
    flagged = msgspec.structs.replace(
        tool,
        parameters=parameters,
        run=partial(_run, tool.run),
        verify=None if tool.verify is None else partial(_verify, tool.verify),
    )
    return msgspec.structs.replace(bound, tool=flagged, background=True)


async def _run(run: ToolRun, context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
    return await run(context, without_flag(arguments))


async def _verify(verify: Verify, context: ToolContext, arguments: JsonObject) -> Verified:
    return await verify(context, without_flag(arguments))
