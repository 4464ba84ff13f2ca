"""Parse answers from Responses events."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.messages import JsonObject, Usage
from perdure.llm.answers import Answer, CallInProgress, count, cut_off, decoded
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.failures import in_stream


class _Event(Struct, gc=False):
    type: str = ""
    delta: Any = None
    item: Any = None
    item_id: str | None = None
    output_index: int | None = None
    summary_index: int | None = None
    response: Any = None
    error: Any = None
    code: Any = None
    message: str | None = None


_EVENT = msgspec.json.Decoder(_Event)
_INCOMPLETE = {"max_output_tokens": "length", "content_filter": "content_filter"}


class ResponsesAnswer(Answer):
    """An answer that arrives in Responses events."""

    __slots__ = ("_by_item", "_done", "_parts", "_secrets", "_text_came")

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(on_delta)
        self._secrets = secrets
        self._by_item: dict[str | int, CallInProgress] = {}
        self._parts: set[tuple[str | int | None, int | None]] = set()
        self._text_came = False
        self._done = False

    def feed(self, payload: bytes) -> bool:
        """Parse one payload; return True after the event that ends the response."""
        if len(payload) < 12 and payload.strip() == b"[DONE]":
            return True
        event = decoded(_EVENT, payload)
        kind = event.type
        if kind in {"response.output_text.delta", "response.refusal.delta"}:
            if event.delta and isinstance(event.delta, str):
                self.add_text(event.delta)
                self._text_came = True
        elif kind == "response.function_call_arguments.delta":
            call = self._call_of(event.item_id, event.output_index)
            if call is not None and isinstance(event.delta, str):
                call.arguments.append(event.delta)
        elif kind in {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}:
            if event.delta and isinstance(event.delta, str):
                self._add_thinking(event)
        elif kind == "response.output_item.added":
            self._begin(event)
        elif kind == "response.output_item.done":
            self._end(event)
        elif kind in {"response.completed", "response.incomplete", "response.failed"}:
            return self._finish(event)
        elif kind == "response.created":
            self._describe(event.response)
        elif kind == "error" or event.error:
            raise in_stream(event.error or {"code": event.code, "message": event.message}, self._secrets)
        return self._done

    def _add_thinking(self, event: _Event) -> None:
        part = (event.item_id or event.output_index, event.summary_index)
        if self.thinking_started and part not in self._parts:
            self.add_thinking("\n\n")
        self._parts.add(part)
        self.add_thinking(str(event.delta))

    def _call_of(self, *keys: object) -> CallInProgress | None:
        return next(
            (self._by_item[key] for key in keys if isinstance(key, str | int) and key in self._by_item), None
        )

    def _begin(self, event: _Event) -> None:
        item = event.item
        if isinstance(item, dict) and item.get("type") == "function_call":
            self._begin_call(event, item)
        self._text_came = False

    def _begin_call(self, event: _Event, item: JsonObject) -> CallInProgress:
        call = CallInProgress(_text(item.get("call_id") or item.get("id")), _text(item.get("name")))
        self.calls.append(call)
        for key in (item.get("id"), item.get("call_id"), event.output_index):
            if isinstance(key, str | int):
                self._by_item[key] = call
        return call

    def _end(self, event: _Event) -> None:
        """Take from a finished item what its deltas did not bring: the item repeats its whole content."""
        item = event.item
        if not isinstance(item, dict):
            return
        kind = item.get("type")
        if kind == "reasoning":
            # Without one of these, the item only refers to the vendor's store, which holds nothing of ours.
            if item.get("encrypted_content") or item.get("content"):
                self.add_reasoning(item)
        elif kind == "function_call":
            call = self._call_of(item.get("id"), item.get("call_id"), event.output_index) or self._begin_call(
                event, item
            )
            if isinstance(item.get("arguments"), str):
                call.arguments = [item["arguments"]]
        elif kind == "message" and not self._text_came:
            parts = item.get("content")
            for part in parts if isinstance(parts, list) else []:
                text = part.get("text") or part.get("refusal") if isinstance(part, dict) else None
                if text and isinstance(text, str):
                    self.add_text(text)

    def _describe(self, response: object) -> None:
        if isinstance(response, dict):
            self.response_id = _text(response.get("id")) or self.response_id
            self.model = _text(response.get("model")) or self.model

    def _finish(self, event: _Event) -> bool:
        response = event.response if isinstance(event.response, dict) else {}
        self._describe(response)
        self.usage = _usage(response.get("usage"))
        if event.type == "response.failed" or response.get("status") == "failed":
            raise in_stream(response.get("error") or {"code": "server_error"}, self._secrets)
        details = response.get("incomplete_details")
        if event.type == "response.incomplete" or isinstance(details, dict):
            reason = str(details.get("reason") or "") if isinstance(details, dict) else ""
            self.finish_reason = _INCOMPLETE.get(reason, reason or "length")
        else:
            self.finish_reason = "stop"
        self._done = True
        return True

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early."""
        if not self._done:
            raise cut_off()
        return self.response(request.model, request.messages)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    read, written = count(value.get("input_tokens")), count(value.get("output_tokens"))
    if read is None and written is None:
        return None
    details = value.get("input_tokens_details")
    details = details if isinstance(details, dict) else {}
    return Usage(
        read or 0,
        written or 0,
        count(details.get("cached_tokens")),
        count(details.get("cache_write_tokens")),
    )
