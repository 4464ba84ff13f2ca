"""What calls need approval for beyond their tools: changes of instructions, and data that goes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from perdure.capabilities.bound_tools import BoundTool, Standing
from perdure.capabilities.port import Tool, ToolContext, ToolOutcome
from perdure.capabilities.registry import Active
from perdure.domain.data_flow import MAX_SOURCE, NO_OUTLETS, Flow, Outlet, host_of
from perdure.domain.guards import SKILLS, Guard, GuardedFiles
from perdure.domain.mcp_servers import is_mcp
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.network import NetworkRules
from perdure.domain.tools import ClientSideTool, ToolHints


async def _never(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    raise NotImplementedError


_PERSISTENT = Tool("", "", {}, _never, ToolHints(destructive=True), persistent=True)


def guarded_files(active: Sequence[Active]) -> GuardedFiles | None:
    """Return the files whose text becomes instructions, and memories, if a policy asks before they change.

    A change of them decides what the agent does from then on, and, in a shared workspace or memory, what the
    agents of others do.
    """
    if not any(each.gates(_PERSISTENT) for each in active):
        return None
    memories = tuple(mount.folder for each in active for mount in each.mounts() if mount.mode == "read_write")
    paths = frozenset(path for each in active for path in each.instructions())
    return GuardedFiles(paths, (SKILLS, *memories))


def guards_of(tools: Iterable[Tool], files: GuardedFiles | None, standing: Standing) -> Mapping[str, Guard]:
    """Return the guards of the tools that change a file which an argument names."""
    if files is None:
        return {}
    return {
        tool.name: Guard(tool.writes, files)
        for tool in tools
        if tool.writes is not None and not standing.settles(tool, "persistent_change")
    }


def persistent_of(tools: Iterable[Tool], active: Sequence[Active], standing: Standing) -> frozenset[str]:
    """Return the tools whose every call is asked about, because it changes what later turns do."""
    return frozenset(
        tool.name
        for tool in tools
        if tool.persistent
        and any(each.gates(tool) for each in active)
        and not standing.settles(tool, "persistent_change")
    )


def outlets_of(
    bound: Mapping[str, BoundTool],
    client: Mapping[str, ClientSideTool],
    active: Sequence[Active],
    standing: Standing,
    network: NetworkRules,
) -> Mapping[str, Outlet]:
    """Return where calls can send data, by tool, if a policy asks about that."""
    if not any(each.watches_data() for each in active):
        return NO_OUTLETS
    found: dict[str, Outlet] = {}
    for name, each in bound.items():
        flow = flow_of(each, network)
        if flow is not None and flow.sends and not standing.settles(each.tool, "exfiltration"):
            found[name] = Outlet(_place_of(each, network), flow.argument)
    for name, tool in client.items():
        if _reaches_out(tool) and not standing.settles(tool, "exfiltration"):
            found[name] = Outlet(f"the client's tool {name}")
    return found


def _reaches_out(tool: ClientSideTool) -> bool:
    return tool.hints is not None and bool(tool.hints.open_world)


def flow_of(bound: BoundTool, network: NetworkRules) -> Flow | None:
    """What a tool's calls exchange with the world outside in a session with these rules; None for nothing."""
    tool = bound.tool
    if is_mcp(bound.capability_id):
        # As the protocol has it, a tool that does not say so may reach anything.
        return Flow(sends=not tool.hints.readonly or tool.hints.open_world is not False)
    flow = tool.flow
    if flow is None:
        return Flow() if tool.hints.open_world else None
    if flow.where == "named_hosts" and not network.named():
        return None
    if flow.where == "any_host" and (network.allowed or network.blocked):
        return None
    return flow


def source_of(bound: BoundTool, network: NetworkRules, arguments: JsonValue) -> str | None:
    """Where the text in the result of a call comes from, as far as the call says; None if from nowhere."""
    flow = flow_of(bound, network)
    if flow is None or not flow.reads:
        return None
    url = arguments.get(flow.argument) if flow.argument and isinstance(arguments, dict) else None
    host = host_of(url) if isinstance(url, str) else None
    return (host or _place_of(bound, network))[:MAX_SOURCE]


def source_of_client(tool: ClientSideTool) -> str | None:
    """Where a client's result comes from; None if its tool does not say that it reaches outside."""
    return f"the client's tool {tool.name}" if _reaches_out(tool) else None


def _place_of(bound: BoundTool, network: NetworkRules) -> str:
    if is_mcp(bound.capability_id):
        return f"the MCP server {bound.capability_name}"
    if bound.tool.flow is not None and bound.tool.flow.where == "named_hosts":
        hosts = network.named()
        more = f" and {len(hosts) - 3} other hosts" if len(hosts) > 3 else ""
        return f"{', '.join(hosts[:3])}{more}, with {bound.tool.name}"
    return f"the network, with {bound.tool.name}"
