"""The port of capabilities and tools.

A capability consists of data and pure functions of its configuration; a tool of a description and a coroutine
function. The author must declare correctly what the tool does (`ToolHints`), because approval and recovery
(promise P5) depend on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

from msgspec import Struct

from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.defaults import (
    any_member,
    later,
    no_behaviour,
    no_checks,
    no_files,
    no_gate,
    no_hooks,
    no_instructions,
    no_mounts,
    no_prompt,
    no_tools,
    no_watch,
)
from perdure.domain.data_flow import Flow
from perdure.domain.decisions import Approvers
from perdure.domain.effects import IDEMPOTENCY_KEY, StepRunner, Verified, no_steps, part_key
from perdure.domain.errors import ToolError
from perdure.domain.event_data import EventData
from perdure.domain.events import FileWrittenData
from perdure.domain.guardrail_checks import AnyCheck
from perdure.domain.guards import GuardedFiles
from perdure.domain.ids import ExecId, ModelId, OrgId, SessionId, ToolCallId, TurnId, UserId, WorkspaceId
from perdure.domain.input_requests import ActedAs, AskedInput
from perdure.domain.memories import MemoryMount, Mounts
from perdure.domain.messages import Controls, ImagePart, JsonObject
from perdure.domain.network import NetworkRules
from perdure.domain.parked import ParkedKind
from perdure.domain.policy_hooks import Hook
from perdure.domain.questions import AskedQuestion
from perdure.domain.redaction import Redactor
from perdure.domain.sessions import InitialFile
from perdure.domain.speakers import AgentAt
from perdure.domain.times import Micros
from perdure.domain.tools import ToolHints
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow

READ_ONLY = ToolHints(readonly=True, idempotent=True)
REPEATABLE = ToolHints(readonly=False, idempotent=True)
"""Changes something, and is idempotent."""
ONCE = ToolHints(readonly=False, idempotent=False)

TOOL_TIMEOUT = 60.0
"""Default timeout of a tool, in seconds (wire contract)."""

_FIRST_DEADLINE = 1_000_000_000_000_000
"""The year 2001, in microseconds: what is less was meant as a duration, or in other units."""

TOOL_OUTPUT = 64 * 1024
"""Characters of a tool's output that are kept (wire contract)."""


class Callback(Struct, frozen=True):
    """A URL that is called once with the result of a tool call: `POST`, JSON or text, no login.

    Attributes:
        url: the URL. Whoever knows it can give the result, so treat it as a secret.
        deadline: until when it is accepted, in microseconds since 1970.
    """

    url: str
    deadline: Micros


class Later(Struct, frozen=True):
    """What a tool returns when its result comes later: the call is parked, without a job or a coroutine.

    It goes into the log, so what could not be read from there is refused at once, where the author sees it.

    Attributes:
        kind: whom the call waits for.
        deadline: until when, in microseconds since 1970, as in `Callback.deadline`. The call then fails. It
            waits no longer than its callbacks are open.
        message: what it waits for, for people.
        requests: what a person is asked for; they are stored already.
        questions: with `question`: what the agent asks.

    Raises:
        ValueError, TypeError: one of them is not what it should be.
    """

    kind: ParkedKind
    deadline: Micros
    message: str | None = None
    requests: tuple[AskedInput, ...] = ()
    questions: tuple[AskedQuestion, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(ParkedKind):
            raise ValueError(f'Later(...) has the kind {self.kind!r}: it must be "callback"')
        if isinstance(self.deadline, bool) or not isinstance(self.deadline, int | float):
            raise TypeError(f"Later(...) has the deadline {self.deadline!r}: use that of the callback")
        if not self.deadline >= _FIRST_DEADLINE:  # nor is NaN
            raise ValueError(
                f"Later(...) has the deadline {self.deadline}, which is no time in microseconds since 1970: "
                "use that of the callback"
            )
        if not isinstance(self.message, str | None):
            raise TypeError(f"Later(...) has the message {self.message!r}: it must be a text")


def note_nothing(*noted: object) -> None:
    """Note nothing: the call is not one of a session's turn."""


async def no_callback(seconds: float) -> Callback:
    """Refuse a callback: the call is not one of a session's turn."""
    raise ToolError("callbacks are not available here")


class Log(Protocol):
    """Appends events of a call to its session's log, and changes rows in the same transaction."""

    async def __call__(
        self, data: Sequence[EventData], also: Callable[[Tx], Awaitable[None]], later: Later | None = None
    ) -> None:
        """Append. With `later`, which the tool returns then, the call is parked by the same append."""
        ...


async def no_log(
    data: Sequence[EventData], also: Callable[[Tx], Awaitable[None]], later: Later | None = None
) -> None:
    """Refuse to append: the call is not one of a session's turn."""
    raise ToolError("this tool works only in the turn of a session")


async def any_agent(agent: AgentAt) -> None:
    """Check nothing: the call is not one of a session's turn."""


class ToolContext(Struct, frozen=True):
    """The context of one tool call.

    It carries no services: a tool that needs the database, for example, is bound to it when it is created.

    Attributes:
        workspace_id: the workspace that holds the session's files.
        now: the current time, in microseconds since 1970.
        progress: shows a line to followers while the tool runs; it is not logged.
        output: streams a piece of output (`stdout` or `stderr`) to followers; it is not logged.
        redactor: redacts the session's secrets. Use it for text that becomes readable outside the log (such
            as a title), and before truncating text: half a secret is not recognized later. The tool's
            result is redacted in any case.
        network: the hosts that the session's tools may reach.
        callback: opens a callback for a number of seconds. Give its URL to whoever will have the result,
            then return `Later("callback", callback.deadline)`. The result may come before that.
        effect_key: identifies the call's effect towards other services: it is in the log before the call
            runs, stays the same if the call runs again after a crash, and no other call has it.
        step: runs a part of the tool, and does not repeat it after a crash: `await context.step("a", work)`.
        exec_id, tool_name: the execution that the call is of, and the name that the model called.
        act_as: notes whose sign-in the call uses.
        provided_by: notes the id and the name of the call's capability, for a tool that several share.
        controls: the options of the message that the turn is for.
        log: appends events to the session's log, and changes rows in the same transaction, which may run
            twice. It fails if the turn was cancelled or the call has ended. Only for tools of this package.
        agent: the agent whose call it is; None if it is not one of a session's turn.
        check_agent: checks that another agent can continue the turn. Raises PerdureError.
        heard_from: notes a host or server whose text is in the result, if it is not the one of the arguments.
        guarded: files of the session that the call must not change: that needs an approval of its own.
        memories, owner_id: the memories in the session's files, and the session's owner.
        model_id: the model that the session calls; None if it is a fallback, or not known.
        in_background: whether the call runs as a task, beside the turn. Its steps are not recorded then, it
            has no callbacks, and what it sends to `output` is not shown.
        session_row: the session's row, if nobody has run the call before, so that it has had no effect yet.
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
    callback: Callable[[float], Awaitable[Callback]] = no_callback
    effect_key: str = ""
    step: StepRunner = no_steps
    exec_id: ExecId = ExecId("")
    tool_name: str = ""
    act_as: Callable[[ActedAs], None] = note_nothing
    provided_by: Callable[[str, str], None] = note_nothing
    controls: Controls | None = None
    log: Log = no_log
    agent: AgentAt | None = None
    check_agent: Callable[[AgentAt], Awaitable[None]] = any_agent
    heard_from: Callable[[str], None] = note_nothing
    guarded: GuardedFiles | None = None
    memories: tuple[MemoryMount, ...] = ()
    owner_id: UserId = UserId("")
    model_id: ModelId | None = None
    in_background: bool = False
    session_row: SessionRow | None = None

    @property
    def organization_id(self) -> OrgId:
        """`org_id`, under the name that use cases expect of a `Scope`."""
        return self.org_id

    def own_workspace(self, session_id: SessionId) -> WorkspaceId | None:
        """The workspace of the context's own session; None for any other session."""
        return self.workspace_id if session_id == self.session_id else None

    def own_memories(self, session_id: SessionId) -> Mounts | None:
        """The memories in the files of the context's own session; None without any."""
        if session_id != self.session_id or not self.memories:
            return None
        of, agent = self.owner_id, None if self.agent is None else self.agent.agent_id
        return Mounts(self.memories, of, agent, of, self.heard_from, in_turn=True, session_id=session_id)

    def effect(self, name: str) -> str:
        """The key of one of several effects of the call; `name` tells them apart."""
        return part_key(self.effect_key, name)

    def effect_headers(self, name: str | None = None) -> dict[str, str]:
        """The header with the key, for a request that has an effect: of the call, or of one of several."""
        return {IDEMPOTENCY_KEY: self.effect_key if name is None else self.effect(name)}


class ToolOutcome(Struct, frozen=True):
    """A tool's result.

    Attributes:
        value: what the model receives: text or any JSON value.
        files: the files that the tool changed.
        loads: the names of deferred tools that the model is offered from now on.
        images: images that follow the value; a blank text as the value is left out then. They are checked
            already (`clean_image`), and are in the log as they are.
    """

    value: Any
    files: tuple[FileWrittenData, ...] = ()
    loads: tuple[str, ...] = ()
    images: tuple[ImagePart, ...] = ()


ToolRun = Callable[[ToolContext, JsonObject], Awaitable[ToolOutcome | Later]]
Verify = Callable[[ToolContext, JsonObject], Awaitable[Verified]]


class DiscoveryContext(Struct, frozen=True):
    """The context of one discovery: the session that it may read.

    Attributes:
        workspace_id: the workspace that holds the session's files.
        now: the current time, in microseconds.
        redactor: redacts the session's secrets. Use it before truncating text: half a secret is not
            recognized later. The returned prompt is redacted in any case.
        network: the hosts that the session's tools may reach.
        secrets: the session's secrets by name, for requests to other servers. They must not get into the
            result or the key of the discovery.
        owner_id: whose session it is.
    """

    org_id: OrgId
    session_id: SessionId
    workspace_id: WorkspaceId
    now: Callable[[], Micros]
    redactor: Redactor
    locale: str | None = None
    network: NetworkRules = NetworkRules()
    secrets: Mapping[str, str] = {}
    owner_id: UserId = UserId("")

    @property
    def organization_id(self) -> OrgId:
        """`org_id`, under the name that use cases expect of a `Scope`."""
        return self.org_id

    def own_workspace(self, session_id: SessionId) -> WorkspaceId | None:
        """The workspace of the context's own session; None for any other session."""
        return self.workspace_id if session_id == self.session_id else None

    def own_memories(self, session_id: SessionId) -> Mounts | None:
        """None: what is found is no text of a memory."""
        return None


DISCOVERY_TIMEOUT = 10.0
"""Timeout of one capability's discovery, in seconds, if it reads more than the database."""

DISCOVERY_AGE = 60.0
"""The least number of seconds for which a discovery that has a key is used again."""

DISCOVERED_PROMPT = 64 * 1024
"""Characters of a discovered prompt that are kept; the rest is truncated."""

MAX_PROMPT = 4 * DISCOVERED_PROMPT
"""Characters of a discovered prompt above which the discovery fails: all of it is searched for secrets."""


class Tool(Struct, frozen=True):
    """A tool that runs on the server.

    Attributes:
        parameters: a JSON Schema of an object; arguments that violate it never reach `run`.
        run: runs the tool. The model sees the message of a `ToolError` and of a use case's error
            (`InvalidInput`, `NotFound`, `Conflict` ...); any other exception becomes an error result without
            details.
        timeout: seconds.
        spill: whether an output over the limit is saved to a file. False for tools that read stored data,
            which the model can read again.
        secret_arguments: arguments whose values are secrets: only the tool receives them.
        queue: calls in one answer to tools of the same queue run one after another, in order; all others run
            concurrently.
        writes: the argument with the path of the file that the tool changes.
        approval: whether each call needs approval, whatever the policies say.
        verify: finds out whether a call took effect, by its `effect_key`. It is asked after a crash, if the
            call must not simply run again, and after a timeout. It changes nothing and has 10 seconds.
        resumable: all effects of the tool are in its steps, so that it may run again after a crash. A tool is
            also resumed if it is not, once it has begun a step.
        origin: what `Capability.restore` needs to know of a discovered tool besides its other fields.
        definition: the digest of what a person approves. A standing approval that was given to another
            definition does not apply. None for a tool whose definition does not change.
        changed: whether its definition is not the one that was accepted. Approval requests say so.
        deferred: the model is not offered the tool before it has found it with `tool_search`.
        flow: what its calls exchange with the world outside. Without it, a tool with the hint `open_world`
            does both, and others do not. Tools of MCP servers always do.
        reads_files: whether its results can contain text of the session's files.
        persistent: whether its calls change what later turns do, as a schedule does.
        yields: whether a client-side tool of the same name takes its place, instead of being refused.
        background: where the capability `background_tools` is active, the model may have a call run in the
            background: the tool receives no argument for that, and its result comes later as a message.
        starts_with: says for which arguments a call only changes what it appends with `ToolContext.log`, and
            does so within milliseconds. The start of such a call may be in the same append.
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
    writes: str | None = None
    approval: bool = False
    verify: Verify | None = None
    resumable: bool = False
    origin: JsonObject | None = None
    definition: str | None = None
    changed: bool = False
    deferred: bool = False
    background: bool = False
    flow: Flow | None = None
    reads_files: bool = False
    persistent: bool = False
    yields: bool = False
    starts_with: Callable[[JsonObject], bool] | None = None


class Discovered(Struct, frozen=True):
    """The result of a capability's discovery.

    Attributes:
        prompt: text for the system prompt; empty for none. It should rarely change if there are tools,
            because it is stored with them. The first 65,536 characters are used; the discovery fails if it
            has more than 262,144.
        tools: additional tools, in any order. A tool whose name is already taken is left out. The discovery
            fails if there are more than 5,000, or if they hold more than about 2 MB.
        name: the capability's name for people, if it is not known before. The first 200 characters are used.
        fault: why nothing was found; only the server sets it.
    """

    prompt: str = ""
    tools: tuple[Tool, ...] = ()
    name: str | None = None
    fault: str = ""


Discover = Callable[[Any, DiscoveryContext], Awaitable[Discovered]]


DiscoveryKey = Callable[[Any, DiscoveryContext], str | None]
Restore = Callable[[Any, Tool], Tool]


class Capability(Struct, frozen=True):
    """Something that a session can do.

    Attributes:
        features: what clients can rely on while it is active (`file_system`, `schedules` ...).
        dependencies: ids of capabilities that this one activates as well.
        aliases: other ids of this capability.
        config_schema: a JSON Schema of its configuration; None when it takes none.
        read: reads a configuration, of which it gets the path for errors, and raises InvalidInput if it is
            not valid. The schema is only for clients then: it may cost too much to validate with.
        tools, prompt: pure functions of the configuration.
        discover: a coroutine function for a prompt or tools that depend on more than the configuration. It
            runs before each model call, outside any transaction. It should be fast, and must not change
            anything.
        reads_database: whether `discover` reads nothing but the database, whose own time limits apply then. A
            discovery that fails for lack of the database interrupts the turn, which is resumed; any other one
            that fails leaves a note in the prompt.
        needs_database: whether `discover` reads the database, too. If it fails for lack of the database, the
            turn is interrupted and resumed, as with `reads_database`.
        discovery_key: names whatever the result of `discover` depends on, besides the organization and the
            configuration: the user of a remote server, for example. Sessions with the same key share one
            result for `discovery_age` seconds (at least 60), also if it failed. None, as a key or here: the
            result is not shared. The tools' functions must not use the `DiscoveryContext` then.
        restore: returns a stored tool with its function. A run that continues after a crash has the tools
            that the model was offered, which may have changed since. The tool that it receives has
            everything but functions. Without `restore`, the function of the tool that has the same name now
            is used.
        discovery_failure: what happens if `discover` fails or takes too long: `continue` (a note in the
            prompt says so) or `fail_turn`.
        files: read-only files that the session starts with; a pure function of the configuration.
        instructions: the paths of files whose text becomes instructions to the model. A policy may require
            approval for calls that change them.
        behave: changes how the turn's loop behaves.
        gate: whether calls of a tool, this capability's or another's, need approval. It is asked with the
            configuration of every layer, and each may require approval: a layer cannot loosen another's.
        approvers: who may approve calls, of any capability's tools. It is asked like `gate`, and whoever
            approves must be among those of every layer.
        checks: the guardrails' checks. All of those of every layer apply.
        hooks: the policy hooks of a layer's configuration. Those of every layer are asked, so that a layer
            can only add some.
        watches_data: whether calls that can send data out need approval once there is text from outside in
            the context. It is asked like `gate`.
        mounts: the memories in the session's files; a pure function of the configuration.
        merge: the configuration that two layers result in, the lower layer's first. A policy returns the
            tighter one.
    """

    id: str
    name: str
    description: str
    category: str
    features: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    config_schema: JsonObject | None = None
    read: Callable[[Any, str], object] | None = None
    tools: Callable[[Any], tuple[Tool, ...]] = no_tools
    prompt: Callable[[Any], str | None] = no_prompt
    discover: Discover | None = None
    reads_database: bool = False
    needs_database: bool = False
    discovery_key: DiscoveryKey | None = None
    discovery_age: float = DISCOVERY_AGE
    restore: Restore | None = None
    discovery_failure: Literal["continue", "fail_turn"] = "continue"
    files: Callable[[Any], tuple[InitialFile, ...]] = no_files
    instructions: Callable[[Any], tuple[str, ...]] = no_instructions
    gate: Callable[[Any, Tool], bool] = no_gate
    approvers: Callable[[Any], Approvers] = any_member
    watches_data: Callable[[Any], bool] = no_watch
    behave: Callable[[Any, Behaviour], Behaviour] = no_behaviour
    checks: Callable[[Any], tuple[AnyCheck, ...]] = no_checks
    hooks: Callable[[Any], tuple[Hook, ...]] = no_hooks
    mounts: Callable[[Any], tuple[MemoryMount, ...]] = no_mounts
    merge: Callable[[Any, Any], Any] = later

    @property
    def is_policy(self) -> bool:
        """Whether it decides which calls need approval, has others decide about calls, or checks texts."""
        return self.gate is not no_gate or self.hooks is not no_hooks or self.is_guardrail

    @property
    def is_guardrail(self) -> bool:
        """Whether it checks texts and calls."""
        return self.checks is not no_checks

    @property
    def has_instructions(self) -> bool:
        """Whether files have instructions for it."""
        return self.instructions is not no_instructions


def schema(properties: JsonObject, *required: str) -> JsonObject:
    """Create a JSON Schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
