"""Tool definitions that clients write, and references to capabilities."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from perdure.domain.decisions import Decision, Edited, Reason
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, JsonValue

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$(?!\n)", examples=["look_up_order"])]
"""The function names that all model vendors accept."""

ToolPolicy = Literal["auto", "requires_approval"]


_TOOL_DESCRIPTION = Meta(description="When and how to use the tool, for the model.")
_PARAMETERS = Meta(description="The JSON Schema of the tool's arguments: an object.")
_TOOL_DISPLAY_NAME = Meta(description="The tool's name, for people.")
_CATEGORY = Meta(description="The group that the tool belongs to, for display.")
_TOOL_HINTS = Meta(description="How the tool behaves.")


class ToolHints(Struct, frozen=True, omit_defaults=True):
    """What effects a tool has. Approval and recovery depend on it."""

    readonly: Annotated[bool | None, Meta(description="The tool changes nothing.")] = None
    destructive: Annotated[bool | None, Meta(description="The tool may delete or overwrite something.")] = (
        None
    )
    idempotent: Annotated[
        bool | None,
        Meta(
            description=(
                "Running the tool twice has the same effect as once, so it may run again after a crash."
            )
        ),
    ] = None
    open_world: Annotated[bool | None, Meta(description="The tool reaches outside systems.")] = None
    long_running: Annotated[bool | None, Meta(description="The tool may take a long time.")] = None


class BuiltinTool(Struct, frozen=True, tag_field="type", tag="builtin", omit_defaults=True):
    """A tool that runs on the server, through the tool registry."""

    name: Annotated[ToolName, Meta(description="The tool's name in the server's registry.")]
    description: Annotated[str, Meta(max_length=8000), _TOOL_DESCRIPTION]
    parameters: Annotated[JsonObject, _PARAMETERS]
    display_name: Annotated[Annotated[str, Meta(max_length=200)] | None, _TOOL_DISPLAY_NAME] = None
    policy: Annotated[
        ToolPolicy, Meta(description="`requires_approval`: each call waits until a person approves it.")
    ] = "auto"
    category: Annotated[Annotated[str, Meta(max_length=100)] | None, _CATEGORY] = None
    hints: Annotated[ToolHints | None, _TOOL_HINTS] = None


class ClientSideTool(Struct, frozen=True, tag_field="type", tag="client_side", omit_defaults=True):
    """A tool that the client runs: the session waits until the client submits the results."""

    name: Annotated[ToolName, Meta(description="The name by which the model calls the tool.")]
    description: Annotated[str, Meta(max_length=8000), _TOOL_DESCRIPTION]
    parameters: Annotated[JsonObject, _PARAMETERS]
    display_name: Annotated[Annotated[str, Meta(max_length=200)] | None, _TOOL_DISPLAY_NAME] = None
    category: Annotated[Annotated[str, Meta(max_length=100)] | None, _CATEGORY] = None
    hints: Annotated[ToolHints | None, _TOOL_HINTS] = None


ToolDefinition = BuiltinTool | ClientSideTool
Tools = Annotated[tuple[ToolDefinition, ...], Meta(max_length=128)]
"""128: the number of tools that model vendors accept in one call."""


class CapabilityRef(Struct, frozen=True, omit_defaults=True):
    """A capability that a harness, an agent or a session turns on."""

    ref: Annotated[
        str,
        Meta(
            description="The capability's id.", min_length=1, max_length=100, examples=["session_file_system"]
        ),
    ]
    config: Annotated[Any, Meta(description="The capability's configuration, if it has one.")] = None


Capabilities = Annotated[tuple[CapabilityRef, ...], Meta(max_length=50)]


MAX_RESULT = 100 * 1024
"""The most bytes of one client-side tool result (wire contract: 100 KB)."""


class ToolCallResult(Struct, frozen=True, omit_defaults=True):
    """A client's answer to one client-side call: a result, or an error message."""

    tool_call_id: Annotated[
        str,
        Meta(description="The id of the tool call that this is the result of.", min_length=1),
    ]
    result: Annotated[
        Any,
        Meta(
            description="The result: any JSON value, at most 100 KB. Leave it out when there is an `error`."
        ),
    ] = None
    error: Annotated[
        Annotated[str, Meta(max_length=100_000)] | None,
        Meta(description="What went wrong, in words for the model."),
    ] = None


class SubmitToolResults(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/tool-results`."""

    tool_results: Annotated[
        tuple[ToolCallResult, ...],
        Meta(description="One result for each open call.", min_length=1, max_length=128),
    ]


APPROVE = "approve_tool_call"
"""The tool name in requests for approval (wire contract). No tool may have this name."""

APPROVAL_PREFIX = "approve_"
"""The id of a request for approval is this prefix and the id of the tool call."""


def question_id(call_id: ToolCallId) -> ToolCallId:
    """The id of the request for approval of this call."""
    return ToolCallId(f"{APPROVAL_PREFIX}{call_id}")


def call_of_question(question: ToolCallId) -> ToolCallId:
    """The id of the call that this request for approval is about."""
    return ToolCallId(question.removeprefix(APPROVAL_PREFIX))


class ApprovalQuestion(Struct, frozen=True):
    """The arguments of a question: the call that it is about."""

    tool_call_id: str
    tool_name: str
    arguments: JsonValue


class ApprovalDecision(Struct, frozen=True, omit_defaults=True):
    """A decision on one call. `tool_call_id` is the id of the call, or of the request for its approval."""

    tool_call_id: Annotated[
        str,
        Meta(
            description="The id of the tool call, or of the request for its approval.",
            min_length=1,
        ),
    ]
    decision: Annotated[
        Decision,
        Meta(
            description=(
                "The decision. `..._always` also applies to every later call of that tool in this session."
            )
        ),
    ]
    arguments: Annotated[JsonObject | None, Edited] = None
    reason: Annotated[Reason | None, Meta(description="Why, for the model.")] = None


class SubmitApprovals(Struct, frozen=True):
    """The body of `POST /v1/sessions/{session_id}/tool-approvals`."""

    decisions: Annotated[
        tuple[ApprovalDecision, ...],
        Meta(
            description="Decisions about some or all of the pending approvals.", min_length=1, max_length=128
        ),
    ]


class SubmittedToolResults(Struct, frozen=True):
    """The number of accepted results, and the session's status afterwards."""

    accepted: Annotated[int, Meta(description="The number of results that were accepted.", examples=[1])]
    status: Annotated[str, Meta(description="The session's status afterwards.", examples=["active"])]
