"""Data of events about tool calls, and about what tools do."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from perdure.domain.ids import (
    ToolCallId,
    TurnId,
)
from perdure.domain.messages import ContentPart


class ToolCall(Struct, frozen=True):
    id: ToolCallId
    name: str
    arguments: Any


class ToolCallSummary(Struct, frozen=True, omit_defaults=True):
    id: ToolCallId
    name: str
    display_name: str | None = None
    narration: str | None = None


class ActStartedData(Struct, frozen=True, omit_defaults=True):
    """A batch of tool calls of one answer begins."""

    tool_calls: tuple[ToolCallSummary, ...]
    headline: str | None = None


class ActCompletedData(Struct, frozen=True, omit_defaults=True):
    """All calls of the batch have their results."""

    completed: bool
    success_count: int
    error_count: int
    duration_ms: int | None = None


class ToolStartedData(Struct, frozen=True, omit_defaults=True):
    """A tool is about to run on the server. This is in the log before the tool begins."""

    tool_call: ToolCall
    display_name: str | None = None
    replayable: bool = False
    """Whether the tool may be run again after a crash (it is read-only or idempotent): promise P5."""


class ToolCompletedData(Struct, frozen=True, omit_defaults=True):
    """A tool call has its result, or the error that the model is told.

    Also the answer to a question for approval.
    """

    tool_call_id: ToolCallId
    tool_name: str
    success: bool
    status: Literal["success", "error", "timeout", "cancelled", "interrupted", "rejected"]
    result: tuple[ContentPart, ...] | None = None
    error: str | None = None
    duration_ms: int | None = None
    display_name: str | None = None
    capability_id: str | None = None
    capability_name: str | None = None


class ToolProgressData(Struct, frozen=True, omit_defaults=True):
    """What a running tool says about how far it is; only live."""

    tool_call_id: ToolCallId
    tool_name: str
    message: str
    display_name: str | None = None


class ToolOutputDeltaData(Struct, frozen=True):
    """A piece of a running tool's output; only live."""

    tool_call_id: ToolCallId
    tool_name: str
    delta: str
    stream: Literal["stdout", "stderr"]


class ToolCallRequestedData(Struct, frozen=True, omit_defaults=True):
    """The session waits for a client: to run these calls, or to allow them (`approve_tool_call`)."""

    tool_calls: tuple[ToolCall, ...]
    tool_summaries: tuple[ToolCallSummary, ...] | None = None
    timeout_ms: int = 300_000
    """How long an answer is waited for: 5 minutes for results (wire contract)."""


class ToolCallRepairedData(Struct, frozen=True):
    """A slip in a tool call that was mended; `outcome` says what: name, arguments or name_and_arguments."""

    tool_call_id: ToolCallId
    tool_name: str
    turn_id: TurnId
    outcome: str


class FileWrittenData(Struct, frozen=True):
    """A tool wrote a file of the session."""

    path: str
    operation: str
    created: bool
    size_bytes: int
