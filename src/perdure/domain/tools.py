"""Tool definitions that clients write, and references to capabilities."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from perdure.domain.messages import JsonObject

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$(?!\n)", examples=["look_up_order"])]
"""What the model vendors accept as a function's name."""

ToolPolicy = Literal["auto", "requires_approval"]


class ToolHints(Struct, frozen=True, omit_defaults=True):
    """What a tool does to the world; approval and recovery go by it."""

    readonly: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None
    long_running: bool | None = None


class BuiltinTool(Struct, frozen=True, tag_field="type", tag="builtin", omit_defaults=True):
    """A tool that runs on the server, through the tool registry."""

    name: ToolName
    description: Annotated[str, Meta(max_length=8000)]
    parameters: JsonObject
    display_name: Annotated[str, Meta(max_length=200)] | None = None
    policy: ToolPolicy = "auto"
    category: Annotated[str, Meta(max_length=100)] | None = None
    hints: ToolHints | None = None


class ClientSideTool(Struct, frozen=True, tag_field="type", tag="client_side", omit_defaults=True):
    """A tool that the caller runs: the session parks until the results come in."""

    name: ToolName
    description: Annotated[str, Meta(max_length=8000)]
    parameters: JsonObject
    display_name: Annotated[str, Meta(max_length=200)] | None = None
    category: Annotated[str, Meta(max_length=100)] | None = None
    hints: ToolHints | None = None


ToolDefinition = BuiltinTool | ClientSideTool
Tools = Annotated[tuple[ToolDefinition, ...], Meta(max_length=128)]
"""128: what the model vendors accept in one call."""


class CapabilityRef(Struct, frozen=True, omit_defaults=True):
    """A capability that a harness, an agent or a session turns on."""

    ref: Annotated[str, Meta(min_length=1, max_length=100, examples=["session_file_system"])]
    config: Any = None


Capabilities = Annotated[tuple[CapabilityRef, ...], Meta(max_length=50)]


class ToolCallResult(Struct, frozen=True, omit_defaults=True):
    """A caller's answer to one client-side call: a result, or an error in words."""

    tool_call_id: Annotated[str, Meta(min_length=1, max_length=200)]
    result: Any = None
    error: Annotated[str, Meta(max_length=100_000)] | None = None


class SubmitToolResults(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/tool-results`."""

    tool_results: Annotated[tuple[ToolCallResult, ...], Meta(min_length=1, max_length=128)]


APPROVE = "approve_tool_call"
"""The name under which a caller is asked whether a tool call may run (wire contract); no tool may have it."""

APPROVAL_PREFIX = "approve_"
"""The id of the question about a call is the call's id behind this."""

Decision = Literal["allow", "allow_always", "reject", "reject_always"]
"""`..._always` also decides every later call of that tool in the session."""


class ApprovalDecision(Struct, frozen=True):
    """Somebody's word on one call. `tool_call_id` is the call's id, or that of the question about it."""

    tool_call_id: Annotated[str, Meta(min_length=1, max_length=200)]
    decision: Decision


class SubmitApprovals(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/tool-approvals`.

    Decisions on some or all of the open questions.
    """

    decisions: Annotated[tuple[ApprovalDecision, ...], Meta(min_length=1, max_length=128)]


class SubmittedToolResults(Struct, frozen=True):
    """How many results were taken, and the session's status afterwards."""

    accepted: int
    status: str
