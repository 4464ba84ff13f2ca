"""Parse answers from ConverseStream's events, or from a whole answer of Converse."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.messages import JsonObject, Usage
from perdure.llm.answer_values import count, finish_of, name_in, number_in, text_in, written
from perdure.llm.answers import Answer, check_parts
from perdure.llm.aws_events import AwsEventParser
from perdure.llm.calls_in_progress import CallInProgress
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.failures import is_blank
from perdure.llm.wire import Reasoning


class _Event(Struct, gc=False, rename="camel"):
    content_block_index: Any = None
    start: Any = None
    delta: Any = None
    stop_reason: Any = None
    usage: Any = None
    error: Any = None


class _PlainDelta(Struct, gc=False, forbid_unknown_fields=True):
    text: str


class _Plain(Struct, gc=False, rename="camel"):
    """What nearly every event is: a piece of text."""

    content_block_index: int
    delta: _PlainDelta
    error: None = None


_KNOWN = frozenset({"messageStart", "contentBlockStop", "ping"})


class _Block:
    """A content block, and the position at which it began."""

    __slots__ = ("call", "calls", "chars", "hidden", "signature", "thought")

    def __init__(self, chars: int, calls: int) -> None:
        self.call: CallInProgress | None = None
        self.thought: list[str] = []
        self.signature: list[str] = []
        self.hidden: list[str] = []
        self.chars = chars
        self.calls = calls

    def reasoning(self) -> Reasoning | None:
        """Return the block to send back, if it is signed or encrypted reasoning."""
        if self.hidden:
            item: JsonObject = {"redactedContent": _joined(self.hidden)}
        elif self.signature:
            item = {"reasoningText": {"text": "".join(self.thought), "signature": "".join(self.signature)}}
        else:
            return None
        return Reasoning({"reasoningContent": item}, self.chars, self.calls)


def _joined(pieces: list[str]) -> str:
    """Join pieces of bytes, each in base64."""
    if len(pieces) == 1:
        return pieces[0]
    try:
        return base64.b64encode(b"".join(map(base64.b64decode, pieces))).decode()
    except (ValueError, binascii.Error):
        return "".join(pieces)


class ConverseAnswer(Answer):
    """An answer that arrives block by block, in an AWS event stream."""

    __slots__ = ("_blocks", "_last")
    framing = AwsEventParser
    decoder = msgspec.json.Decoder(_Event)
    plain_decoder = msgspec.json.Decoder(_Plain)

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(on_delta, secrets)
        self._blocks: dict[int, _Block] = {}
        self._last = 0

    def take_plain(self, piece: _Plain) -> bool:
        """Take a piece of text."""
        self._block(piece.content_block_index)
        self.add_text(piece.delta.text)
        return True

    def take(self, event: _Event, name: str) -> bool:
        """Take one event; returns whether it is one of the protocol's."""
        if name == "error" or not is_blank(event.error):
            return False
        if name == "contentBlockStart":
            self._begin(self._block(event.content_block_index), event.start)
        elif name == "contentBlockDelta":
            self._add(self._block(event.content_block_index), event.delta)
        elif name == "messageStop":
            self.finish_reason = finish_of(event.stop_reason) or self.finish_reason
        elif name == "metadata":
            self._count(event.usage)
            self.end()
        else:
            return name in _KNOWN
        return True

    def take_odd(self, event: JsonObject) -> None:
        """Take a whole answer in place of a stream."""
        output = event.get("output")
        message = output.get("message") if isinstance(output, dict) else None
        if not isinstance(message, dict):
            return
        content = message.get("content")
        for index, block in enumerate(content if isinstance(content, list) else []):
            if isinstance(block, dict):
                self._add_whole(self._block(index), block)
        self.finish_reason = finish_of(event.get("stopReason")) or self.finish_reason
        self._count(event.get("usage"))
        self.end()

    def _block(self, index: object) -> _Block:
        number = number_in(index)
        number = self._last if number is None else number
        self._last = max(self._last, number)
        block = self._blocks.get(number)
        if block is None:
            check_parts(len(self._blocks))
            block = self._blocks[number] = _Block(self.chars, len(self.calls))
        return block

    def _begin(self, block: _Block, start: object) -> None:
        use = start.get("toolUse") if isinstance(start, dict) else None
        if isinstance(use, dict) and block.call is None:
            call = CallInProgress(name_in(use.get("toolUseId")), name_in(use.get("name")))
            block.call = self.begin_call(call)

    def _add(self, block: _Block, delta: object) -> None:
        if not isinstance(delta, dict):
            return
        use, thought = delta.get("toolUse"), delta.get("reasoningContent")
        if isinstance(use, dict):
            if block.call is None:
                block.call = self.begin_call(CallInProgress(None, None))
            block.call.add(written(use.get("input")))
        elif isinstance(thought, dict):
            self._think(block, text_in(thought.get("text")), thought)
        else:
            self.add_text(text_in(delta.get("text")))

    def _add_whole(self, block: _Block, whole: JsonObject) -> None:
        thought = whole.get("reasoningContent")
        if isinstance(thought, dict):
            inner = thought.get("reasoningText")
            inner = inner if isinstance(inner, dict) else {}
            self._think(block, text_in(inner.get("text")), {**thought, **inner})
            return
        self._begin(block, whole)
        self._add(block, whole)

    def _think(self, block: _Block, text: str, thought: JsonObject) -> None:
        if text:
            if not block.thought and self.thinking_started:
                self.add_thinking("\n\n")
            block.thought.append(text)
            self.add_thinking(text)
        for name, pieces in (("signature", block.signature), ("redactedContent", block.hidden)):
            if thought.get(name):
                pieces.append(name_in(thought[name]))

    def _count(self, usage: object) -> None:
        """Store the counts. The vendor counts the cached part of the prompt apart from the rest."""
        if not isinstance(usage, dict):
            return
        names = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
        given, made, read, kept = (count(usage.get(name)) for name in names)
        if given is not None or made is not None:
            self.usage = Usage((given or 0) + (read or 0) + (kept or 0), made or 0, read, kept)

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early, or with an error."""
        if self.finish_reason is None:
            raise self.cut_off()
        blocks = (block.reasoning() for block in self._blocks.values())
        self.reasoning = [kept for kept in blocks if kept is not None]
        self.order_calls()
        return self.response(request.model, request.messages)
