"""The data of events about tool calls and their effects."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from perdure.domain.data_flow import AskReason, External
from perdure.domain.decisions import AnsweredBy, Approvers, Decided
from perdure.domain.event_data import EventData
from perdure.domain.events.fields import ERROR, TOOL_CALLS, TOOL_DISPLAY_NAME, TOOL_NAME, TURN_ID
from perdure.domain.ids import (
    ToolCallId,
    TurnId,
)
from perdure.domain.input_requests import ActedAs, AskedInput
from perdure.domain.messages import ContentPart, JsonValue
from perdure.domain.parked import PARKED_KIND, ParkedKind
from perdure.domain.questions import AskedQuestion

_TOOL_CALL_ID = Meta(description="The tool call's id, as the model wrote it.")
_ABOUT = Meta(description="The id of the tool call that the event is about.")
_EFFECT_KEY = Meta(
    description=(
        "The key of the call's effect: the same after a crash, another one for each call. Pass it on to "
        "services that recognize repeated requests."
    )
)


class ToolCall(Struct, frozen=True, omit_defaults=True):
    id: Annotated[ToolCallId, _TOOL_CALL_ID]
    name: Annotated[str, TOOL_NAME]
    arguments: Annotated[
        JsonValue,
        Meta(description="The arguments that the model wrote: an object, unless the model made a mistake."),
    ]
    effect_key: Annotated[str | None, _EFFECT_KEY] = None


class ToolCallSummary(Struct, frozen=True, omit_defaults=True):
    id: Annotated[ToolCallId, _TOOL_CALL_ID]
    name: Annotated[str, TOOL_NAME]
    display_name: Annotated[str | None, TOOL_DISPLAY_NAME] = None
    narration: Annotated[str | None, Meta(description="The purpose of the call, for people.")] = None
    reasons: Annotated[
        tuple[AskReason, ...],
        Meta(description="With a request for approval: why it is asked, beyond that the tool needs it."),
    ] = ()
    external: Annotated[
        External | None,
        Meta(description="With a client's call: its result is text from outside, as the tool declares."),
    ] = None


class ActStartedData(EventData, frozen=True, omit_defaults=True):
    """A batch of tool calls begins, all from one answer of the model."""

    kind = "act.started"
    tool_calls: Annotated[tuple[ToolCallSummary, ...], TOOL_CALLS]
    headline: Annotated[str | None, Meta(description="The purpose of the tool calls, for people.")] = None


class ActCompletedData(EventData, frozen=True, omit_defaults=True):
    """The batch is over: each of its calls has a result, or is parked (`tool.parked`)."""

    kind = "act.completed"
    completed: Annotated[
        bool, Meta(description="Whether every call has a result. False: the results of parked calls follow.")
    ]
    success_count: Annotated[int, Meta(description="The number of calls that succeeded.")]
    error_count: Annotated[int, Meta(description="The number of calls that failed.")]
    duration_ms: Annotated[int | None, Meta(description="How long the batch took, in milliseconds.")] = None


class ToolStartedData(EventData, frozen=True, omit_defaults=True):
    """The server is about to run a tool. This event is in the log before the tool starts."""

    kind = "tool.started"
    tool_call: Annotated[ToolCall, Meta(description="The tool call.")]
    display_name: Annotated[str | None, TOOL_DISPLAY_NAME] = None
    replayable: Annotated[
        bool,
        Meta(
            description=(
                "Whether the call may run again after a crash, because the tool is read-only or idempotent, "
                "or because the call only begins a task."
            )
        ),
    ] = False
    effect_key: Annotated[str | None, _EFFECT_KEY] = None
    resumable: Annotated[
        bool,
        Meta(description="Whether all effects of the tool are in its steps, so that it may continue."),
    ] = False


ToolStatus = Literal["success", "error", "timeout", "cancelled", "interrupted", "rejected"]


class ToolCompletedData(EventData, frozen=True, omit_defaults=True):
    """A tool call has its result or its error, which the model receives.

    The answer to a request for approval is also such an event.
    """

    kind = "tool.completed"
    tool_call_id: Annotated[ToolCallId, _ABOUT]
    tool_name: Annotated[str, TOOL_NAME]
    success: Annotated[bool, Meta(description="Whether the call succeeded.")]
    status: Annotated[
        ToolStatus,
        Meta(
            description=(
                "How the call ended. `interrupted`: the server "
                "crashed during the call and did not run it again."
            )
        ),
    ]
    result: Annotated[
        tuple[ContentPart, ...] | None, Meta(description="The result that the model receives.")
    ] = None
    error: Annotated[str | None, ERROR] = None
    duration_ms: Annotated[int | None, Meta(description="How long the call took, in milliseconds.")] = None
    display_name: Annotated[str | None, TOOL_DISPLAY_NAME] = None
    capability_id: Annotated[str | None, Meta(description="The capability that provides the tool.")] = None
    capability_name: Annotated[str | None, Meta(description="The capability's name, for people.")] = None
    outcome_unknown: Annotated[
        bool,
        Meta(description="Nobody knows whether the call took effect; the error tells the model so."),
    ] = False
    acted_as: Annotated[
        ActedAs | None,
        Meta(description="Whose sign-in the call used at the tool's server; absent if it used none."),
    ] = None
    decided: Annotated[
        Decided | None,
        Meta(description="With the answer to a request for approval: the decision, and whose it is."),
    ] = None
    answered: Annotated[
        AnsweredBy | None, Meta(description="With answers to the agent's questions: whose they are.")
    ] = None
    external: Annotated[
        External | None,
        Meta(description="Where the result comes from, if it contains text from outside."),
    ] = None


class ToolStepData(EventData, frozen=True, omit_defaults=True):
    """A step of a running tool starts or ends. The start is in the log before the step runs."""

    kind = "tool.step"
    tool_call_id: Annotated[ToolCallId, _ABOUT]
    tool_name: Annotated[str, TOOL_NAME]
    name: Annotated[str, Meta(description="The step's name, unique within the call.")]
    status: Annotated[
        Literal["started", "completed", "failed"],
        Meta(description="`completed`: the step has a result. `failed`: the tool reported an error."),
    ]
    effect_key: Annotated[str | None, Meta(description="The key of the step's effect.")] = None
    repeatable: Annotated[
        bool,
        Meta(
            description=(
                "Whether the step may start again after a crash in the middle of it, because it is "
                "idempotent or the tool can find out its outcome."
            )
        ),
    ] = False
    result: Annotated[JsonValue, Meta(description="The result, which the tool gets again after a crash.")] = (
        None
    )
    error: Annotated[str | None, ERROR] = None
    redacted: Annotated[
        bool,
        Meta(description="The result contained a secret, which is blanked here. It cannot be used again."),
    ] = False
    duration_ms: Annotated[int | None, Meta(description="How long the step took, in milliseconds.")] = None


class ToolVerifiedData(EventData, frozen=True, omit_defaults=True):
    """After a crash, the server asked the tool whether the interrupted call had taken effect."""

    kind = "tool.verified"
    tool_call_id: Annotated[ToolCallId, _ABOUT]
    tool_name: Annotated[str, TOOL_NAME]
    outcome: Annotated[
        Literal["done", "not_done", "unknown"],
        Meta(
            description=(
                "`done`: the result follows. `not_done`: the call is made now, with the same key. `unknown`: "
                "the model is told so."
            )
        ),
    ]
    effect_key: Annotated[str, _EFFECT_KEY]


class ToolParkedData(EventData, frozen=True, omit_defaults=True):
    """A tool deferred its result, which comes later and from outside. `tool.completed` ends the wait.

    It comes again, with the time that is left, when the callback that was open for longest is cancelled.
    """

    kind = "tool.parked"
    tool_call_id: Annotated[ToolCallId, _ABOUT]
    tool_name: Annotated[str, TOOL_NAME]
    parked_kind: Annotated[ParkedKind, PARKED_KIND] = field(name="kind")
    timeout_ms: Annotated[
        int, Meta(description="How long the session waits for the result, in milliseconds.")
    ]
    message: Annotated[str | None, Meta(description="What the call waits for, for people.")] = None
    display_name: Annotated[str | None, TOOL_DISPLAY_NAME] = None
    sign_in_url: Annotated[
        str | None,
        Meta(description="With `sign_in`: the page of this server at which the session's owner signs in."),
    ] = None
    input_requests: Annotated[
        tuple[AskedInput, ...], Meta(description="With `sign_in` and `input`: what is asked for.")
    ] = ()
    questions: Annotated[
        tuple[AskedQuestion, ...], Meta(description="With `question`: what the agent asks.")
    ] = ()


class ToolResumedData(EventData, frozen=True):
    """A call has what it waited for: somebody signed in or answered. It is made now, with the same key."""

    kind = "tool.resumed"
    tool_call_id: Annotated[ToolCallId, _ABOUT]
    tool_name: Annotated[str, TOOL_NAME]
    parked_kind: Annotated[ParkedKind, PARKED_KIND] = field(name="kind")


class ToolProgressData(EventData, frozen=True, omit_defaults=True):
    """A running tool reports its progress. Live only: it is not in the log."""

    kind = "tool.progress"
    tool_call_id: Annotated[ToolCallId, _ABOUT]
    tool_name: Annotated[str, TOOL_NAME]
    message: Annotated[str, Meta(description="What the tool says about its progress.")]
    display_name: Annotated[str | None, TOOL_DISPLAY_NAME] = None


class ToolOutputDeltaData(EventData, frozen=True):
    """A new piece of a running tool's output. Live only: it is not in the log."""

    kind = "tool.output.delta"
    tool_call_id: Annotated[ToolCallId, _ABOUT]
    tool_name: Annotated[str, TOOL_NAME]
    delta: Annotated[str, Meta(description="The new piece of output.")]
    stream: Annotated[
        Literal["stdout", "stderr"], Meta(description="The stream that the output was written to.")
    ]


class ToolCallRequestedData(EventData, frozen=True, omit_defaults=True):
    """The session waits for a client to run these calls, or to approve them (`approve_tool_call`)."""

    kind = "tool.call_requested"
    tool_calls: Annotated[tuple[ToolCall, ...], TOOL_CALLS]
    tool_summaries: Annotated[
        tuple[ToolCallSummary, ...] | None, Meta(description="The tool calls, described for people.")
    ] = None
    timeout_ms: Annotated[
        int, Meta(description="How long the session waits for an answer, in milliseconds.")
    ] = 300_000
    approvers: Annotated[
        Approvers | None, Meta(description="Who may approve the calls; absent: every member may.")
    ] = None


class ToolCallRepairedData(EventData, frozen=True):
    """The server repaired a mistake in a tool call. `outcome` says which part."""

    kind = "tool.call_repaired"
    tool_call_id: Annotated[ToolCallId, _ABOUT]
    tool_name: Annotated[str, TOOL_NAME]
    turn_id: Annotated[TurnId, TURN_ID]
    outcome: Annotated[
        str, Meta(description="What was repaired: `name`, `arguments` or `name_and_arguments`.")
    ]


class ToolsLoadedData(EventData, frozen=True):
    """A tool call loaded deferred tools: the model is offered them from now on, in this and later turns."""

    kind = "tools.loaded"
    tool_call_id: Annotated[ToolCallId, _ABOUT]
    tool_names: Annotated[tuple[str, ...], Meta(description="The names of the tools, best match first.")]


class FileWrittenData(EventData, frozen=True):
    """A tool wrote a file of the session."""

    kind = "file.written"
    path: Annotated[str, Meta(description="The absolute path of the file.")]
    operation: Annotated[str, Meta(description="What was done to the file.")]
    created: Annotated[bool, Meta(description="Whether the file is new.")]
    size_bytes: Annotated[int, Meta(description="The file's size afterwards, in bytes.")]
