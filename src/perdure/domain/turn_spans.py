"""The spans of a turn, as a fold of its events.

`invoke_agent` is the whole turn. Its children are `chat` for each model call and `execute_tool` for each tool
call; what the turn waits for, retries and fallbacks are events of these. Ids come from the ids of turns and
executions, so whoever exports a turn again exports the same spans.

Spans have ids, names, codes and numbers. Texts are exported only with `content`; they come from the log,
which has no secrets.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import msgspec
from msgspec import Struct

from perdure.domain import span_names as names
from perdure.domain.errors import UnreadableEvent
from perdure.domain.events import (
    BudgetPausedData,
    ContextCompactedData,
    Event,
    GuardrailHitData,
    HookDecidedData,
    InputMessageData,
    LlmGenerationData,
    ReasonFallbackData,
    SessionHandedOffData,
    ToolCallRequestedData,
    ToolCompletedData,
    ToolParkedData,
    ToolResumedData,
    ToolStartedData,
    ToolStepData,
    ToolVerifiedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnParkedData,
    TurnResumedData,
    TurnSealedData,
    TurnStartedData,
)
from perdure.domain.ids import ToolCallId, TurnId, span_of
from perdure.domain.messages import ContentPart, JsonValue, Message, TextPart, Usage, text_of
from perdure.domain.times import Micros
from perdure.domain.tools import APPROVE
from perdure.domain.trace_context import TraceContext, trace_of_turn

SpanValue = str | int | float | bool | tuple[str, ...]
"""A value of an attribute."""

MAX_EVENTS = 128
"""The most events of a span, OpenTelemetry's own limit; further ones are counted."""
MAX_CONTENT = 32 * 1024
"""Characters of a content attribute."""
MAX_MESSAGES = 100
"""The most messages before a turn's start whose trace contexts are remembered, the last ones."""

_SAID = (
    "parked_kind", "until", "error_code", "budget_id", "strategy_used", "guardrail_id", "stage", "action",
    "hook", "decision", "to_agent_id",
)  # fmt: skip
"""The fields of events about a turn that its span says: ids, codes and names."""

TRACED = tuple(
    data.kind
    for data in (
        InputMessageData, TurnStartedData, TurnParkedData, TurnResumedData, TurnCompletedData,
        TurnFailedData, TurnCancelledData, TurnSealedData, LlmGenerationData, ReasonFallbackData,
        ContextCompactedData, GuardrailHitData, HookDecidedData, BudgetPausedData, SessionHandedOffData,
        ToolCallRequestedData, ToolStartedData, ToolParkedData, ToolResumedData, ToolStepData,
        ToolVerifiedData, ToolCompletedData,
    )
)  # fmt: skip
"""The kinds of events that spans are made of."""


class SpanEvent(Struct, frozen=True):
    """Something that happened at an instant of a span."""

    name: str
    at: Micros
    attributes: dict[str, SpanValue] = {}


class Span(Struct):
    """A span. `error`: the kind of error that it failed with; `outgoing`: it is a call to another system."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    start: Micros
    end: Micros = 0
    outgoing: bool = False
    tracestate: str | None = None
    error: str | None = None
    attributes: dict[str, SpanValue] = msgspec.field(default_factory=dict)
    events: list[SpanEvent] = msgspec.field(default_factory=list)
    dropped_events: int = 0

    def add(self, event: SpanEvent) -> None:
        """Add an event, as far as there is room."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(event)
        else:
            self.dropped_events += 1


class TracedSession(Struct, frozen=True):
    """What spans say about their session: attributes of all of them, and its agent's name."""

    attributes: dict[str, SpanValue]
    agent_id: str | None = None
    agent_name: str | None = None


class TurnSpans:
    """The spans of one turn.

    Args:
        content: whether they have texts: messages, arguments and results.
    """

    def __init__(self, turn_id: TurnId, session: TracedSession, *, content: bool) -> None:
        self._turn_id = turn_id
        self._session = session
        self._content = content
        self._root: Span | None = None
        self._open: dict[ToolCallId, Span] = {}
        self._arrived: dict[str, tuple[TraceContext | None, str]] = {}
        self.parent: TraceContext | None = None
        """The span outside of the turn that the turn is a child of, once the turn has begun."""

    def add(self, event: Event) -> list[Span]:
        """Add the next event of the log; return the spans that end with it. Others' events are left out."""
        fold = _FOLDS.get(event.type)
        if fold is None:
            return []
        try:
            if event.type != InputMessageData.kind and event.context_struct().turn_id != self._turn_id:
                return []
            return fold(self, event)
        except UnreadableEvent:  # a damaged event costs its own span only
            return []

    def _span(self, root: Span, event: Event, name: str, operation: str, start: Micros) -> Span:
        span_id = event.context_struct().span_id or span_of(event.id)
        attributes: dict[str, SpanValue] = {names.OPERATION: operation, **self._session.attributes}
        span = Span(root.trace_id, span_id, root.span_id, name, start, tracestate=root.tracestate)
        span.attributes = attributes
        return span

    def message(self, event: Event) -> list[Span]:
        data = event.read(InputMessageData)
        if self._root is None:
            text = _input_json(data.message) if self._content else ""
            self._arrived[data.message.id] = (data.trace, text)
            if len(self._arrived) > MAX_MESSAGES:
                del self._arrived[next(iter(self._arrived))]
        elif event.context_struct().turn_id == self._turn_id:
            self._note(event, "message.received", {"message.id": data.message.id})
        return []

    def started(self, event: Event) -> list[Span]:
        data = event.read(TurnStartedData)
        self.parent, text = self._arrived.get(data.input_message_id, (None, ""))
        self._arrived.clear()
        session, speaker = self._session, data.speaker
        agent = session.agent_name if speaker is None else speaker.agent_name
        root = Span(
            trace_of_turn(self._turn_id, self.parent),
            span_of(self._turn_id),
            None if self.parent is None else self.parent.span_id,
            names.INVOKE_AGENT if agent is None else f"{names.INVOKE_AGENT} {agent}",
            event.ts,
            tracestate=None if self.parent is None else self.parent.tracestate,
        )
        root.attributes = {
            names.OPERATION: names.INVOKE_AGENT,
            **session.attributes,
            names.TURN: self._turn_id,
        }
        _put(root, names.AGENT_ID, session.agent_id if speaker is None else speaker.agent_id)
        _put(root, names.AGENT_NAME, agent)
        _put(root, names.AGENT_VERSION, None if speaker is None else speaker.agent_version_id)
        _put(root, names.INPUT_MESSAGES, text or None)
        self._root = root
        return []

    def generation(self, event: Event) -> list[Span]:
        root = self._root
        if root is None:
            return []
        data = event.read(LlmGenerationData)
        about = data.metadata
        start = event.ts - 1000 * (about.duration_ms or 0)
        span = self._span(root, event, f"{names.CHAT} {about.model}", names.CHAT, start)
        span.end, span.outgoing = event.ts, True
        span.error = None if about.success else "model_error"
        provider = None if about.provider is None else names.provider_name(about.provider)
        for place in (span, root):
            _put(place, names.PROVIDER, provider)
        _put(span, names.REQUEST_MODEL, about.model)
        _put(span, names.RESPONSE_ID, about.response_id)
        _put(span, names.FINISH_REASONS, about.finish_reasons)
        _put(span, names.FIRST_TOKEN, about.time_to_first_token_ms)
        _put(span, names.AGENT_ID, about.agent_id)
        _put(span, names.CHECK, about.check_id)
        _put_usage(span, about.usage)
        if about.retry is not None:
            span.attributes[names.ATTEMPTS] = about.retry.attempts
            waited: dict[str, SpanValue] = {
                "attempts": about.retry.attempts,
                "wait_ms": about.retry.total_wait_ms,
            }
            span.add(SpanEvent("model.retried", event.ts, waited))
        if self._content:
            said = _output_json(data)
            _put(span, names.OUTPUT_MESSAGES, said)
            if data.output.text and about.check_id is None:
                _put(root, names.OUTPUT_MESSAGES, said)
        return [span]

    def tool_started(self, event: Event) -> list[Span]:
        data = event.read(ToolStartedData)
        call = data.tool_call
        self._begin(event, call.id, call.name, call.arguments)
        return []

    def requested(self, event: Event) -> list[Span]:
        for call in event.read(ToolCallRequestedData).tool_calls:
            if call.name == APPROVE:
                self._note(event, "approval.requested", {"tool_call.id": call.id})
            else:
                self._begin(event, call.id, call.name, call.arguments, client=True)
        return []

    def _begin(
        self, event: Event, call_id: ToolCallId, name: str, arguments: JsonValue, *, client: bool = False
    ) -> Span | None:
        root = self._root
        if root is None or call_id in self._open:  # one that a crash interrupted goes on
            return self._open.get(call_id)
        span = self._span(root, event, f"{names.EXECUTE_TOOL} {name}", names.EXECUTE_TOOL, event.ts)
        if (exec_id := event.context_struct().exec_id) is not None:
            span.span_id = span_of(exec_id, call_id)
        span.attributes |= {names.TOOL_NAME: name, names.TOOL_CALL_ID: call_id}
        span.attributes[names.TOOL_TYPE] = "function" if client else "extension"
        if self._content and arguments is not None:
            span.attributes[names.TOOL_ARGUMENTS] = _json(arguments)
        self._open[call_id] = span
        return span

    def tool_completed(self, event: Event) -> list[Span]:
        data = event.read(ToolCompletedData)
        if data.tool_name == APPROVE:
            decided = "" if data.decided is None else data.decided.decision
            self._note(event, "approval.decided", {"decision": decided})
            return []
        span = self._begin(event, data.tool_call_id, data.tool_name, None)
        if span is None:
            return []
        del self._open[data.tool_call_id]
        span.start = min(
            span.start, event.ts - (0 if span.start < event.ts else 1000 * (data.duration_ms or 0))
        )
        span.end = event.ts
        span.error = None if data.success else data.status
        span.attributes[names.TOOL_STATUS] = data.status
        if self._content:
            result = data.error if data.result is None else _content_json(data.result)
            _put(span, names.TOOL_RESULT, None if result is None else result[:MAX_CONTENT])
        return [span]

    def ended(self, event: Event) -> list[Span]:
        root, self._root = self._root, None
        if root is None:  # it was cancelled before it began
            return []
        root.end = event.ts
        root.attributes[names.TURN_STATUS] = event.type.partition(".")[2]
        data = event.decoded()
        _put_usage(root, getattr(data, "usage", None))
        _put(root, names.MODEL_CALLS, getattr(data, "iterations", None))
        match data:
            case TurnFailedData(error_code=code):
                root.error = code or "internal"
            case TurnSealedData(reason=reason):
                root.error = reason
        for span in self._open.values():  # nothing came of these
            span.end, span.error = event.ts, "cancelled"
        ended = [*self._open.values(), root]
        self._open.clear()
        return ended

    def tool_event(self, event: Event) -> list[Span]:
        data = event.decoded()
        said: dict[str, SpanValue] = {}
        for field in ("parked_kind", "name", "status", "outcome", "timeout_ms"):
            value = getattr(data, field, None)
            if isinstance(value, str | int):
                said["kind" if field == "parked_kind" else field] = value
        span = self._open.get(getattr(data, "tool_call_id", ToolCallId("")))
        self._note(event, event.type, said, span)
        return []

    def turn_event(self, event: Event) -> list[Span]:
        data = event.decoded()
        said: dict[str, SpanValue] = {}
        for field in _SAID:
            value = getattr(data, field, None)
            if isinstance(value, str):
                said["kind" if field == "parked_kind" else field] = value
        match data:
            case ReasonFallbackData(from_=before, to=after):
                said |= {"from": before.model, "to": after.model}
        self._note(event, event.type, said)
        return []

    def _note(
        self, event: Event, name: str, attributes: dict[str, SpanValue], span: Span | None = None
    ) -> None:
        place = span or self._root
        if place is not None:
            place.add(SpanEvent(name, event.ts, attributes))


def _put(span: Span, name: str, value: SpanValue | None) -> None:
    if value is not None:
        span.attributes[name] = value


def _put_usage(span: Span, usage: Usage | None) -> None:
    if usage is None:
        return
    _put(span, names.INPUT_TOKENS, usage.input_tokens)
    _put(span, names.OUTPUT_TOKENS, usage.output_tokens)
    _put(span, names.CACHE_READ_TOKENS, usage.cache_read_tokens)
    _put(span, names.CACHE_WRITE_TOKENS, usage.cache_creation_tokens)
    _put(span, names.COST, usage.estimated_cost_usd)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()[:MAX_CONTENT]


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "content": text[:MAX_CONTENT]}


def _input_json(message: Message) -> str:
    return _json([{"role": "user", "parts": [_part(text_of(message.content))]}])


def _output_json(data: LlmGenerationData) -> str:
    output, reasons = data.output, data.metadata.finish_reasons
    parts: list[object] = [_part(output.text)] if output.text else []
    parts += [
        {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
        for call in output.tool_calls
    ]
    said = {"role": "assistant", "parts": parts, "finish_reason": reasons[0] if reasons else "error"}
    return _json([said])


def _content_json(content: tuple[ContentPart, ...]) -> str:
    """The texts of a result; images and files are left out."""
    return _json([part.text[:MAX_CONTENT] for part in content if isinstance(part, TextPart)])


_FOLDS: MappingProxyType[str, Callable[[TurnSpans, Event], list[Span]]] = MappingProxyType(
    {
        InputMessageData.kind: TurnSpans.message,
        TurnStartedData.kind: TurnSpans.started,
        LlmGenerationData.kind: TurnSpans.generation,
        ToolStartedData.kind: TurnSpans.tool_started,
        ToolCallRequestedData.kind: TurnSpans.requested,
        ToolCompletedData.kind: TurnSpans.tool_completed,
        **dict.fromkeys(
            (ToolParkedData.kind, ToolResumedData.kind, ToolStepData.kind, ToolVerifiedData.kind),
            TurnSpans.tool_event,
        ),
        **dict.fromkeys(
            (
                TurnParkedData.kind,
                TurnResumedData.kind,
                ReasonFallbackData.kind,
                ContextCompactedData.kind,
                GuardrailHitData.kind,
                HookDecidedData.kind,
                BudgetPausedData.kind,
                SessionHandedOffData.kind,
            ),
            TurnSpans.turn_event,
        ),
        **dict.fromkeys(
            (TurnCompletedData.kind, TurnFailedData.kind, TurnCancelledData.kind, TurnSealedData.kind),
            TurnSpans.ended,
        ),
    }
)
