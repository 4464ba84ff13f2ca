"""Parse answers from Chat Completions chunks."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import Usage
from perdure.llm.answers import Answer, CallInProgress, count, cut_off, decoded, without_nul
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.failures import in_stream
from perdure.llm.wire import Reasoning, dumps


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _CallDelta(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None


class _Delta(Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    id: str | None = None
    model: str | None = None
    usage: Any = None
    error: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_FINISH = {"function_call": "tool_calls", "eos": "stop", "max_tokens": "length"}


class ChatAnswer(Answer):
    """An answer that arrives in Chat Completions chunks."""

    __slots__ = ("_by_index", "_done", "_secrets")

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(on_delta)
        self._secrets = secrets
        self._by_index: dict[int, CallInProgress] = {}
        self._done = False

    def feed(self, payload: bytes) -> bool:
        """Parse one payload; return True after `[DONE]`."""
        if len(payload) < 12 and payload.strip() == b"[DONE]":
            self._done = True
            return True
        chunk = decoded(_CHUNK, payload)
        if chunk.error:
            raise in_stream(chunk.error, self._secrets)
        if chunk.choices:
            choice = chunk.choices[0]
            if choice.delta is not None:
                self._add(choice.delta)
            if choice.finish_reason:
                self.finish_reason = _FINISH.get(choice.finish_reason, choice.finish_reason)
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage) or self.usage
        if self.response_id is None:
            self.response_id = chunk.id
            self.model = chunk.model
        return False

    def _add(self, delta: _Delta) -> None:
        content = delta.content
        if content:
            if type(content) is str:
                self.add_text(content)
            else:
                self._add_parts(content)
        thinking = delta.reasoning_content or delta.reasoning
        if thinking and type(thinking) is str:
            self.add_thinking(thinking)
        if delta.refusal:
            self.add_text(delta.refusal)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._add_call(call)

    def _add_parts(self, parts: object) -> None:
        """Add a list of parts, which Mistral's reasoning models send in place of the text."""
        for part in parts if isinstance(parts, list) else []:
            if not isinstance(part, dict):
                continue
            inner = part.get("thinking")
            if isinstance(inner, list):
                inner = "".join(str(piece.get("text") or "") for piece in inner if isinstance(piece, dict))
            if inner and isinstance(inner, str):
                self.add_thinking(inner)
            elif part.get("text") and isinstance(part["text"], str):
                self.add_text(part["text"])

    def _add_call(self, delta: _CallDelta) -> None:
        function = delta.function or _Function()
        index = (
            delta.index if delta.index is not None else (len(self.calls) if delta.id else len(self.calls) - 1)
        )
        call = self._by_index.get(index)
        # Some servers give every call index 0 and its own id.
        if call is None or (delta.id and function.name and call.id and delta.id != call.id):
            call = CallInProgress(delta.id, function.name)
            self.calls.append(call)
            self._by_index[index] = call
        else:
            call.id = call.id or ToolCallId(without_nul(delta.id or ""))
            call.name = call.name or without_nul(function.name or "")
        if function.arguments:
            arguments = function.arguments
            call.arguments.append(arguments if isinstance(arguments, str) else dumps(arguments).decode())
        if delta.extra_content is not None:
            call.extra = delta.extra_content

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early."""
        if self.finish_reason is None and (not self._done or self.empty):
            raise cut_off()
        response = self.response(request.model, request.messages)
        extras = [
            Reasoning({"type": "extra_content", "tool_call_id": part.id, "extra_content": call.extra})
            for part, call in zip(response.tool_calls, self.calls, strict=True)
            if call.extra is not None
        ]
        if not extras:
            return response
        self.reasoning = extras
        return msgspec.structs.replace(response, reasoning_items=self.packed_reasoning(request.model))


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    prompt, completion = count(value.get("prompt_tokens")), count(value.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    details = value.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    cached = [details.get("cached_tokens"), value.get("prompt_cache_hit_tokens"), value.get("cached_tokens")]
    return Usage(
        prompt or 0,
        completion or 0,
        next((tokens for tokens in map(count, cached) if tokens is not None), None),
        count(details.get("cache_write_tokens")),
    )
