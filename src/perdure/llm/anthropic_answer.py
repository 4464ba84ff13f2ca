"""Parse answers from Anthropic's stream events, or from a whole message.

Content blocks are told apart by their index: gateways let blocks alternate, leave out their start, or give
every block the same index.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, Usage
from perdure.llm.answer_values import (
    count,
    finish_of,
    name_in,
    number_in,
    text_in,
    written,
)
from perdure.llm.answers import Answer, check_parts
from perdure.llm.calls_in_progress import CallInProgress
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.failures import is_blank
from perdure.llm.wire import Reasoning


class _Event(Struct, gc=False):
    type: Any = None
    index: Any = None
    delta: Any = None
    content_block: Any = None
    message: Any = None
    usage: Any = None
    error: Any = None
    stop_reason: Any = None


class _PlainDelta(Struct, gc=False, forbid_unknown_fields=True):
    type: Any = None
    text: str = ""
    partial_json: str = ""
    thinking: str = ""


class _Plain(Struct, gc=False):
    """What nearly every event is: a piece of a block."""

    type: Literal["content_block_delta"]
    index: int
    delta: _PlainDelta
    error: None = None


_INPUT_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class _Block:
    """A content block, and the position at which it began."""

    __slots__ = ("call", "calls", "chars", "kind", "signature", "start", "thought")

    def __init__(self, kind: str, chars: int, calls: int) -> None:
        self.kind = kind
        self.start: JsonObject | None = None
        self.call: CallInProgress | None = None
        self.thought: list[str] = []
        self.signature: list[str] = []
        self.chars = chars
        self.calls = calls

    def repeats(self, start: JsonObject) -> bool:
        """Whether this is the start of the same tool call, sent again before any piece."""
        return start.get("type") == "tool_use" and start == self.start and not (
            self.call is None or self.call.arguments
        )  # fmt: skip


class MessagesAnswer(Answer):
    """An answer that arrives block by block."""

    __slots__ = ("_blocks", "_by_index", "_counts", "_early", "_latest")
    decoder = msgspec.json.Decoder(_Event)
    plain_decoder = msgspec.json.Decoder(_Plain)

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(on_delta, secrets)
        self._blocks: list[_Block] = []
        self._by_index: dict[int, _Block] = {}
        self._latest: dict[str, _Block] = {}
        """By their kinds: the blocks that began last."""
        self._counts: dict[str, int] = {}
        self._early: object = None

    def take_plain(self, piece: _Plain) -> bool:
        """Take a piece of a block of the same kind."""
        block, delta = self._by_index.get(piece.index), piece.delta
        if block is None:
            return False
        if delta.text and block.kind == "text":
            self.add_text(delta.text)
        elif delta.text:
            return False
        elif delta.partial_json and block.call is not None:
            block.call.add(delta.partial_json)
        elif delta.thinking and not delta.partial_json and block.kind == "thinking":
            self._think(block, delta.thinking)
        else:
            return False
        return True

    def take(self, event: _Event, name: str) -> bool:
        """Take one event; returns whether it is one of the protocol's."""
        kind = event.type if isinstance(event.type, str) and event.type else name
        if kind == "error" or not is_blank(event.error):
            return False
        if kind == "content_block_delta":
            self._add(number_in(event.index), event.delta)
        elif kind == "content_block_start":
            self._begin(number_in(event.index), event.content_block)
        elif kind == "message_start":
            if isinstance(event.message, dict):
                self._describe(event.message)
                self._early = event.message.get("content")
        elif kind == "message_delta":
            delta = event.delta if isinstance(event.delta, dict) else {}
            self._stop(delta.get("stop_reason") or event.stop_reason)
            self._add_counts(event.usage or delta.get("usage"))
        elif kind == "message_stop":
            self.end()
        else:
            return kind in {"content_block_stop", "ping"}
        return True

    def take_odd(self, event: JsonObject) -> None:
        """Take a whole message in place of a stream."""
        if event.get("type") == "message" or isinstance(event.get("content"), list):
            self._describe(event)
            self._add_whole(event.get("content"))
            self.end()

    # --- blocks ----------------------------------------------------------------

    def _begin(self, index: int | None, start: object) -> None:
        start = start if isinstance(start, dict) else {}
        kind = name_in(start.get("type")) or "text"
        block = self._by_index.get(index) if index is not None else None
        if block is None or block.kind != kind or not (block.start is None or block.repeats(start)):
            block = self._new(kind, index)
        block.start = start
        if kind == "tool_use":
            call = self._call_in(block, index)
            call.id = call.id or ToolCallId(name_in(start.get("id")))
            call.name = call.name or name_in(start.get("name"))
            call.initial = written(start["input"]) if start.get("input") else ""
        elif kind == "text" and start.get("text"):
            self.add_text(text_in(start["text"]))
        elif kind == "thinking":
            self._think(block, text_in(start.get("thinking")))
            block.signature.append(name_in(start.get("signature")))

    def _new(self, kind: str, index: int | None) -> _Block:
        check_parts(len(self._blocks))
        block = self._latest[kind] = _Block(kind, self.chars, len(self.calls))
        self._blocks.append(block)
        if index is not None:
            self._by_index[index] = block
        return block

    def _call_in(self, block: _Block, index: int | None) -> CallInProgress:
        if block.call is None:
            block.call = self.begin_call(CallInProgress(None, None, index))
        return block.call

    def _add(self, index: int | None, delta: object) -> None:
        if isinstance(delta, str):
            delta = {"text": delta}
        if not isinstance(delta, dict):
            return
        if delta.get("text"):
            self._block_of(index, "text")
            self.add_text(text_in(delta["text"]))
        elif delta.get("partial_json"):
            block = self._block_of(index, "tool_use")
            if block.kind == "tool_use":
                self._call_in(block, index).add(delta["partial_json"])
        elif delta.get("thinking"):
            self._think(self._block_of(index, "thinking"), text_in(delta["thinking"]))
        elif delta.get("signature"):
            self._block_of(index, "thinking").signature.append(name_in(delta["signature"]))

    def _block_of(self, index: int | None, kind: str) -> _Block:
        """Return the block that a piece belongs to, whose start may be missing or still to come."""
        block = self._by_index.get(index) if index is not None else None
        if block is None and index is None and self._blocks:
            block = self._blocks[-1]
        # Blocks of the vendor's own tools (`server_tool_use`) get pieces of JSON too.
        if block is None or not block.kind.endswith(kind):
            wrong = index is None or block is not None
            same = self._latest.get(kind)
            block = (same if wrong else None) or self._new(kind, index)
        return block

    def _think(self, block: _Block, piece: str) -> None:
        if not piece:
            return
        if not block.thought and self.thinking_started:
            self.add_thinking("\n\n")
        block.thought.append(piece)
        self.add_thinking(piece)

    # --- the whole -------------------------------------------------------------

    def _describe(self, message: JsonObject) -> None:
        self.response_id = name_in(message.get("id")) or self.response_id
        self.model = name_in(message.get("model")) or self.model
        self._stop(message.get("stop_reason"))
        self._add_counts(message.get("usage"))

    def _stop(self, reason: object) -> None:
        self.finish_reason = finish_of(reason) or self.finish_reason

    def _add_whole(self, content: object) -> None:
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        for block in content if isinstance(content, list) else []:
            if isinstance(block, dict):
                self._begin(None, block)

    def _add_counts(self, usage: object) -> None:
        """Store the counts, which are running totals: a later one replaces an earlier one unless it is 0."""
        if not isinstance(usage, dict):
            return
        counts = {name: count(usage.get(name)) for name in (*_INPUT_COUNTS, "output_tokens")}
        known = any(counts[name] for name in _INPUT_COUNTS)
        for name, tokens in counts.items():
            replaces = tokens or name not in self._counts or (known and name in _INPUT_COUNTS)
            if tokens is not None and replaces:
                self._counts[name] = tokens

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early, or with an error."""
        if not self.done and self.finish_reason is None:
            raise self.cut_off()
        if not self._blocks:
            self._add_whole(self._early)
        counts = self._counts
        if counts:
            read, made = counts.get("cache_read_input_tokens"), counts.get("cache_creation_input_tokens")
            input_tokens = counts.get("input_tokens", 0) + (read or 0) + (made or 0)
            self.usage = Usage(input_tokens, counts.get("output_tokens", 0), read, made)
        self.reasoning = [kept for kept in map(_reasoning, self._blocks) if kept is not None]
        self.order_calls()
        signatures = [
            name_in(block.item["signature"]) for block in self.reasoning if "signature" in block.item
        ]
        return self.response(request.model, request.messages, signatures[0] if len(signatures) == 1 else None)


def _reasoning(block: _Block) -> Reasoning | None:
    """Return the block to send back. The vendor rejects a thinking block without its signature."""
    if block.kind == "redacted_thinking":
        return Reasoning(block.start or {}, block.chars, block.calls)
    signature = "".join(block.signature)
    if block.kind != "thinking" or not signature:
        return None
    start = block.start or {"type": "thinking"}
    item = {**start, "thinking": "".join(block.thought), "signature": signature}
    return Reasoning(item, block.chars, block.calls)
