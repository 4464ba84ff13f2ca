"""Parse answers from Anthropic's stream events."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.messages import JsonObject, Usage
from perdure.llm.answers import Answer, CallInProgress, count, cut_off, decoded
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.failures import in_stream
from perdure.llm.wire import dumps


class _Delta(Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(Struct, gc=False):
    type: str = ""
    index: int | None = None
    delta: _Delta | None = None
    content_block: Any = None
    message: Any = None
    usage: Any = None
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_STOP = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class MessagesAnswer(Answer):
    """An answer that arrives block by block."""

    __slots__ = ("_block", "_call", "_counts", "_done", "_secrets", "_signature", "_thought")

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(on_delta)
        self._secrets = secrets
        self._block: JsonObject | None = None
        self._call: CallInProgress | None = None
        self._thought: list[str] = []
        self._signature: list[str] = []
        self._counts: dict[str, int] = {}
        self._done = False

    def feed(self, payload: bytes) -> bool:
        """Parse one payload; return True after `message_stop`."""
        event = decoded(_EVENT, payload)
        kind = event.type
        if kind == "content_block_delta":
            if event.delta is not None:
                self._add(event.delta)
        elif kind == "content_block_start":
            self._begin(event.content_block)
        elif kind == "content_block_stop":
            self._end()
        elif kind == "message_start":
            self._start(event.message)
        elif kind == "message_delta":
            if event.delta is not None and event.delta.stop_reason:
                self.finish_reason = _STOP.get(event.delta.stop_reason, event.delta.stop_reason)
            self._add_counts(event.usage)
        elif kind == "message_stop":
            self._done = True
        elif kind == "error" or event.error:
            raise in_stream(event.error, self._secrets)
        return self._done

    def _add(self, delta: _Delta) -> None:
        if delta.text:
            self.add_text(delta.text)
        elif delta.partial_json:
            if self._call is not None:
                self._call.arguments.append(delta.partial_json)
        elif delta.thinking:
            self._think(delta.thinking)
        elif delta.signature:
            self._signature.append(delta.signature)

    def _think(self, piece: str) -> None:
        if not self._thought and self.thinking_started:
            self.add_thinking("\n\n")
        self._thought.append(piece)
        self.add_thinking(piece)

    def _start(self, message: object) -> None:
        if isinstance(message, dict):
            self.response_id = message["id"] if isinstance(message.get("id"), str) else None
            self.model = message["model"] if isinstance(message.get("model"), str) else None
            self._add_counts(message.get("usage"))

    def _begin(self, block: object) -> None:
        self._block = block if isinstance(block, dict) else {}
        kind = self._block.get("type")
        self._call = None
        self._thought = []
        self._signature = []
        if kind == "tool_use":
            self._call = CallInProgress(str(self._block.get("id") or ""), str(self._block.get("name") or ""))
            self.calls.append(self._call)
        elif kind == "text" and isinstance(self._block.get("text"), str) and self._block["text"]:
            self.add_text(self._block["text"])
        elif kind == "thinking":
            if isinstance(self._block.get("thinking"), str) and self._block["thinking"]:
                self._think(self._block["thinking"])
            if isinstance(self._block.get("signature"), str):
                self._signature = [self._block["signature"]]

    def _end(self) -> None:
        block, self._block = self._block, None
        if block is None:
            return
        kind = block.get("type")
        if kind == "thinking":
            signature = "".join(self._signature)
            # The vendor rejects a thinking block without its signature.
            if signature:
                self.add_reasoning({**block, "thinking": "".join(self._thought), "signature": signature})
        elif kind == "redacted_thinking":
            self.add_reasoning(block)
        elif self._call is not None and not self._call.arguments and isinstance(block.get("input"), dict):
            self._call.arguments.append(dumps(block["input"]).decode())
        self._call = None

    def _add_counts(self, usage: object) -> None:
        """Store the counts. A later count is a running total and replaces the earlier one."""
        if isinstance(usage, dict):
            for name in _COUNTS:
                tokens = count(usage.get(name))
                if tokens is not None:
                    self._counts[name] = tokens

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early."""
        if not self._done and self.finish_reason is None:
            raise cut_off()
        counts = self._counts
        if counts:
            read, written = counts.get("cache_read_input_tokens"), counts.get("cache_creation_input_tokens")
            input_tokens = counts.get("input_tokens", 0) + (read or 0) + (written or 0)
            self.usage = Usage(input_tokens, counts.get("output_tokens", 0), read, written)
        signatures = [block.item["signature"] for block in self.reasoning if "signature" in block.item]
        return self.response(request.model, request.messages, signatures[0] if len(signatures) == 1 else None)
