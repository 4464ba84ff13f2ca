"""The port of capabilities and tools.

A capability is data and pure functions of its configuration; a tool is a description and a coroutine
function. Whoever writes one says honestly what the tool does to the world (`ToolHints`): approval goes by it,
and so does recovery (promise P5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from perdure.domain.compaction import Compaction
from perdure.domain.events import FileWrittenData
from perdure.domain.ids import OrgId, SessionId, ToolCallId, TurnId, WorkspaceId
from perdure.domain.messages import JsonObject
from perdure.domain.network import NetworkRules
from perdure.domain.redaction import Redactor
from perdure.domain.sessions import InitialFile
from perdure.domain.times import Micros
from perdure.domain.tools import ToolHints

READ_ONLY = ToolHints(readonly=True, idempotent=True)
REPEATABLE = ToolHints(readonly=False, idempotent=True)
"""Changes something, but doing it twice comes to the same as once."""
ONCE = ToolHints(readonly=False, idempotent=False)

TOOL_TIMEOUT = 60.0
"""Seconds that a tool may take unless it says otherwise (wire contract)."""

TOOL_OUTPUT = 64 * 1024
"""Characters of a tool's output that are kept (wire contract)."""


class ToolContext(Struct, frozen=True):
    """What a tool may know: one call, of one session of one organization.

    What a tool needs to do its work, such as a database, it is bound to when it is made.

    Attributes:
        workspace_id: where the session's files are.
        now: the present, in microseconds.
        progress: shows a line to followers while the tool runs; it is not logged.
        output: streams a piece of output (`stdout` or `stderr`) to followers; it is not logged.
        redactor: blanks the session's secrets, for what a tool makes readable outside the log (a title), and
            for what it cuts: half a secret would not be found any more. What it gives back is blanked anyhow.
        network: the hosts that the session's tools may reach.
    """

    org_id: OrgId
    session_id: SessionId
    workspace_id: WorkspaceId
    turn_id: TurnId
    tool_call_id: ToolCallId
    now: Callable[[], Micros]
    progress: Callable[[str], None]
    output: Callable[[str, str], None]
    redactor: Redactor
    locale: str | None = None
    network: NetworkRules = NetworkRules()

    @property
    def organization_id(self) -> OrgId:
        """`org_id`, under the name by which a use case asks whoever calls it for their organization."""
        return self.org_id


class ToolOutcome(Struct, frozen=True):
    """What a tool gives back: a value for the model (text, or anything JSON can hold), and what it wrote."""

    value: Any
    files: tuple[FileWrittenData, ...] = ()


ToolRun = Callable[[ToolContext, JsonObject], Awaitable[ToolOutcome]]


class DiscoveryContext(Struct, frozen=True):
    """What discovery may look at: one session of one organization.

    Attributes:
        workspace_id: where the session's files are.
        now: the present, in microseconds.
        redactor: blanks the session's secrets, for a text that is cut: half a secret would not be found any
            more. The prompt that discovery returns is blanked anyway.
    """

    org_id: OrgId
    session_id: SessionId
    workspace_id: WorkspaceId
    now: Callable[[], Micros]
    redactor: Redactor
    locale: str | None = None

    @property
    def organization_id(self) -> OrgId:
        """`org_id`, under the name by which a use case asks whoever calls it for their organization."""
        return self.org_id


DISCOVERY_TIMEOUT = 10.0
"""Seconds that the discovery of one capability may take."""

DISCOVERED_PROMPT = 64 * 1024
"""Characters of a discovered prompt that are kept."""


class Tool(Struct, frozen=True):
    """A tool that runs on the server.

    Attributes:
        parameters: a JSON Schema of an object; arguments that break it never reach `run`.
        run: does it. It raises `ToolError` for what the model should know; the errors of use cases
            (`InvalidInput`, `NotFound`, `Conflict` ...) tell the model their message in the same way, and
            anything else becomes an error result without details.
        timeout: seconds.
        spill: whether an output over the limit is kept in a file; not for tools that read what is kept
            already.
        secret_arguments: arguments whose values are secrets: they reach the tool, and nothing else.
        queue: calls of one answer to tools of the same queue run one after another, in their order; all
            others side by side.
    """

    name: str
    description: str
    parameters: JsonObject
    run: ToolRun
    hints: ToolHints = ONCE
    display_name: str | None = None
    timeout: float = TOOL_TIMEOUT
    spill: bool = True
    secret_arguments: tuple[str, ...] = ()
    queue: str | None = None


class Discovered(Struct, frozen=True):
    """What a capability found when it looked at the session.

    Attributes:
        prompt: what it says to the model; empty for nothing.
        tools: more tools. One whose name another tool has already is left out.
    """

    prompt: str = ""
    tools: tuple[Tool, ...] = ()


Discover = Callable[[Any, DiscoveryContext], Awaitable[Discovered]]


def no_tools(config: Any) -> tuple[Tool, ...]:
    """For capabilities without tools."""
    return ()


def no_prompt(config: Any) -> str | None:
    """For capabilities that say nothing to the model."""
    return None


def no_files(config: Any) -> tuple[InitialFile, ...]:
    """For capabilities that bring no files."""
    return ()


def no_gate(config: Any, tool: Tool) -> bool:
    """For capabilities that hold no tool back."""
    return False


class Behaviour(Struct, frozen=True):
    """How the loop behaves; None leaves it to what it does by itself.

    Attributes:
        loop_limit: repetitions of the same calls before the agent is told; 0 for never.
        output_limit: characters of a tool's output that the model is shown; None for as many as are kept.
        output_head: share of them that comes from its beginning, the rest from its end.
        compaction: when the history is summed up; None for never: then its oldest part is left out.
    """

    prompt_caching: bool | None = None
    parallel_tool_calls: bool | None = None
    loop_limit: int = 0
    repair_tool_calls: bool = False
    output_limit: int | None = None
    output_head: float = 0.5
    compaction: Compaction | None = None


def no_behaviour(config: Any, behaviour: Behaviour) -> Behaviour:
    """For capabilities that leave the loop as it is."""
    return behaviour


class Capability(Struct, frozen=True):
    """Something a session can do.

    Attributes:
        features: what clients can rely on when it is active (`file_system`, `schedules` ...).
        dependencies: ids of capabilities that come along.
        aliases: other ids that mean this one.
        config_schema: a JSON Schema of its configuration; None when it takes none.
        tools, prompt: pure functions of the configuration.
        discover: a coroutine function for what depends on more than the configuration: a prompt, or tools. It
            runs before each model call, outside any transaction, so it should be quick, and it must change
            nothing.
        files: files that a session with it begins with, read-only; a pure function of the configuration as
            well.
        behave: changes how the loop behaves.
        gate: whether calls of a tool, this capability's or another's, wait for somebody's leave.
    """

    id: str
    name: str
    description: str
    category: str
    features: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    config_schema: JsonObject | None = None
    tools: Callable[[Any], tuple[Tool, ...]] = no_tools
    prompt: Callable[[Any], str | None] = no_prompt
    discover: Discover | None = None
    files: Callable[[Any], tuple[InitialFile, ...]] = no_files
    gate: Callable[[Any, Tool], bool] = no_gate
    behave: Callable[[Any, Behaviour], Behaviour] = no_behaviour


def schema(properties: JsonObject, *required: str) -> JsonObject:
    """A JSON Schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
