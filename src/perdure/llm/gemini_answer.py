"""Parse answers from Gemini's stream: each event is a piece of the whole response."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from perdure.domain.messages import JsonObject, Usage
from perdure.llm.answer_values import count, finish_of, name_in, text_in, written
from perdure.llm.answers import Answer, check_parts
from perdure.llm.calls_in_progress import CallInProgress
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.failures import bad_response, is_blank, redacted
from perdure.llm.gemini_wire import SIGNATURE
from perdure.llm.wire import Reasoning


class _Event(Struct, gc=False, rename="camel"):
    candidates: Any = None
    prompt_feedback: Any = None
    usage_metadata: Any = None
    model_version: Any = None
    response_id: Any = None
    error: Any = None


class _PlainPart(Struct, gc=False, forbid_unknown_fields=True):
    text: str
    thought: bool = False


class _PlainContent(Struct, gc=False):
    parts: tuple[_PlainPart]


class _PlainCandidate(Struct, gc=False, rename="camel"):
    content: _PlainContent
    index: Literal[0] = 0
    finish_reason: None = None


class _Plain(Struct, gc=False, rename="camel"):
    """What nearly every event is: a piece of text, with the usage so far."""

    candidates: tuple[_PlainCandidate]
    usage_metadata: Any = None
    model_version: Any = None
    response_id: Any = None
    prompt_feedback: None = None
    error: None = None


_GARBLED = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
    }
)
"""Why an answer ended that cannot be used, and that may be better next time."""


class GeminiAnswer(Answer):
    """An answer that arrives as pieces of a response."""

    __slots__ = ("_signed",)
    decoder = msgspec.json.Decoder(_Event)
    plain_decoder = msgspec.json.Decoder(_Plain)

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(on_delta, secrets)
        self._signed: dict[int, str] = {}
        """By the number of the call: its signature."""

    def take_plain(self, piece: _Plain) -> bool:
        """Take a piece of text or of readable reasoning."""
        part = piece.candidates[0].content.parts[0]
        if part.thought:
            self.add_thinking(part.text)
        else:
            self.add_text(part.text)
        self._describe(piece)
        return True

    def take(self, event: _Event, name: str) -> bool:
        """Take one event; returns whether it is one of the protocol's."""
        if name == "error" or not is_blank(event.error):
            return False
        self._describe(event)
        feedback = event.prompt_feedback
        if isinstance(feedback, dict) and feedback.get("blockReason"):
            self.finish_reason = "content_filter"
        candidates = event.candidates if isinstance(event.candidates, list) else []
        chosen = next((each for each in candidates if isinstance(each, dict)), None)
        if chosen is not None and not chosen.get("index"):
            self._add(chosen)
        if self.finish_reason is not None and event.usage_metadata:
            self.end()
        return chosen is not None or isinstance(feedback, dict) or isinstance(event.usage_metadata, dict)

    def _describe(self, event: _Event | _Plain) -> None:
        self.response_id = name_in(event.response_id) or self.response_id
        self.model = name_in(event.model_version) or self.model
        if isinstance(event.usage_metadata, dict):
            self.usage = _usage(event.usage_metadata) or self.usage

    def _add(self, candidate: JsonObject) -> None:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else []:
            if isinstance(part, dict):
                self._add_part(part)
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason in _GARBLED:
            said = redacted(text_in(candidate.get("finishMessage"))[:300], self._secrets)
            raise bad_response(f"the model's answer cannot be used: {reason} {said}".strip(), transient=True)
        self.finish_reason = finish_of(reason) or self.finish_reason

    def _add_part(self, part: JsonObject) -> None:
        """Add a part. A signature is kept with its place, to be sent back on the same part."""
        signature = part.get(SIGNATURE)
        signed = isinstance(signature, str) and bool(signature)
        call = part.get("functionCall")
        if isinstance(call, dict):
            self._add_call(call)
            if signed:
                self._signed[len(self.calls) - 1] = str(signature)
            return
        text = text_in(part.get("text"))
        if part.get("thought"):
            self.add_thinking(text)
            if signed:
                self._keep({"part": part})
            return
        before = self.chars
        self.add_text(text)
        if signed:
            self._keep({"chars": self.chars - before, SIGNATURE: signature})

    def _keep(self, item: JsonObject) -> None:
        check_parts(len(self.reasoning))
        self.reasoning.append(Reasoning(item, self.chars, len(self.calls)))

    def _add_call(self, call: JsonObject) -> None:
        begun = self.begin_call(CallInProgress(name_in(call.get("id")), name_in(call.get("name"))))
        if call.get("args") is not None:
            begun.add(written(call["args"]))

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early, or with an error."""
        if self.finish_reason is None and (not self.done or self.empty):
            raise self.cut_off()
        signed = [self._signed.get(number) for number in range(len(self.calls))]
        response = self.response(request.model, request.messages)
        if not any(signed):
            return response
        self.reasoning += [
            Reasoning({"tool_call_id": part.id, SIGNATURE: signature})
            for part, signature in zip(response.tool_calls, signed, strict=True)
            if signature
        ]
        return msgspec.structs.replace(response, reasoning_items=self.packed_reasoning(request.model))


def _usage(value: JsonObject) -> Usage | None:
    """Return the counts: those of thoughts are output, and those of cached contents part of the prompt."""
    names = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
    prompt, tools, answer, thoughts = (count(value.get(name)) for name in names)
    if prompt is None and answer is None:
        return None
    given, made = (prompt or 0) + (tools or 0), (answer or 0) + (thoughts or 0)
    return Usage(given, made, count(value.get("cachedContentTokenCount")), None)
