"""Build a `ModelResponse` from a stream: the parts that all protocols share.

Servers differ in many details from the protocol that they claim to speak. What can be understood is
understood; what cannot is an error that quotes the server. Nothing is dropped silently.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from perdure.domain.errors import ModelError
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, Message, ToolCallPart, Usage
from perdure.domain.sse import SseParser
from perdure.domain.tool_arguments import ArgumentsBudget
from perdure.llm.answer_json import deeply, parsed_arguments
from perdure.llm.answer_values import has_half, paired, sound
from perdure.llm.calls_in_progress import CallInProgress
from perdure.llm.driver import DeltaKind, ModelRequest, ModelResponse, OnDelta
from perdure.llm.event_costs import check_cost
from perdure.llm.failures import bad_response, error_in, in_stream, spoken
from perdure.llm.wire import Reasoning, packed

if TYPE_CHECKING:
    from perdure.llm.aws_events import AwsEventParser

Made = TypeVar("Made")

_END = b"[DONE]"
_DONE = frozenset({"[done]", "done", "[end]", "[finish]"})
_END_NAMES = frozenset({"done", "end", "finish", "close", "complete"})
"""The names of events that are an end mark, whatever their data."""
_MAX_LINES = 1_000
"""Lines of an event that are taken for events which no blank line separates."""
_ALIVE = re.compile(
    r"\W*(ping|pong|keep.?alive|heart.?beat|processing|waiting|connected|open|start|ok|noop|undefined)\W*",
    re.IGNORECASE,
)


MAX_PARTS = 50_000
"""Calls, blocks and items of an answer: of thousands of calls, the first are made. A hostile server sends a
million small ones, and each takes memory until the answer ends."""
LONG = 256 << 10
"""Bytes of an answer above which its end is made in a thread."""


class Answer:
    """Accumulates an answer. Protocols feed it; it emits deltas and, at the end, the response.

    Args:
        on_delta: called with every piece of text.
        secrets: values that must not appear in an error.

    Attributes:
        done: whether the server has said that the answer ends here.
        fed: the bytes of its events.
        result_tool: the name of the result tool, if it was offered.
    """

    __slots__ = (
        "_held",
        "_on_delta",
        "_secrets",
        "_shown",
        "_strange",
        "_text",
        "_thinking",
        "calls",
        "chars",
        "done",
        "fed",
        "finish_reason",
        "model",
        "reasoning",
        "response_id",
        "result_tool",
        "usage",
    )
    framing: ClassVar[type[SseParser | AwsEventParser]] = SseParser
    decoder: ClassVar[msgspec.json.Decoder[Any]]
    plain_decoder: ClassVar[msgspec.json.Decoder[Any]]

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        self._on_delta = on_delta
        self._secrets = secrets
        self.result_tool: str | None = None
        self._shown: CallInProgress | None = None
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._held: dict[DeltaKind, str] = {}
        self._strange = ""
        self.calls: list[CallInProgress] = []
        self.chars = self.fed = 0
        self.done = False
        self.reasoning: list[Reasoning] = []
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.response_id: str | None = None
        self.model: str | None = None

    # --- what the server sends -------------------------------------------------

    def feed(self, payload: bytes, name: str = "message") -> bool:
        """Parse one SSE payload, or a whole JSON body.

        Args:
            payload: the data of the event.
            name: the name of the event.

        Returns:
            Whether the answer is complete, so that reading can stop.

        Raises:
            ModelError: the server reported an error, or violated its protocol.
        """
        self.fed += len(payload)
        if payload == _END:
            self.end()
            return self.done
        check_cost(payload, "an event of the provider's answer", secrets=self._secrets)
        try:
            plain = self.plain_decoder.decode(payload)
        except (ValueError, RecursionError):
            return self._feed_any(payload, name)
        if name == "error" or not self.take_plain(plain):
            return self._feed_any(payload, name)
        return self.done

    async def feed_long(self, payload: bytes, name: str = "message") -> None:
        """As `feed`, in a thread. What is to be shown of it is shown afterwards, in the event loop.

        Nothing else may be fed meanwhile.
        """
        await self._aside(lambda: self.feed(payload, name))

    async def finish(self, request: ModelRequest) -> ModelResponse:
        """As `finished`, in a thread if the answer is long. Raises: ModelError."""
        if self.fed <= LONG:
            return self.finished(request)
        return await self._aside(lambda: self.finished(request))

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early, or with an error."""
        raise NotImplementedError

    async def _aside(self, work: Callable[[], Made]) -> Made:
        made: Made | None = None
        shown: list[tuple[DeltaKind, str]] = []
        show, failed = self._on_delta, None
        self._on_delta = lambda kind, piece: shown.append((kind, piece))
        try:
            made = await asyncio.to_thread(work)
        except ModelError as error:
            failed = error
        finally:
            self._on_delta = show
        for kind, piece in shown:
            show(kind, piece)
        if failed is not None:
            raise failed
        return cast("Made", made)

    def _feed_any(self, payload: bytes, name: str) -> bool:
        try:
            known = self.take(self.decoder.decode(payload), name)
        except (ValueError, RecursionError):
            self._feed_odd(payload, name)
        else:
            if not known:
                self._refuse(payload, name)
        return self.done

    def take_plain(self, piece: Any) -> bool:
        """Take what nearly every event is, in exactly the protocol's types: more of what has begun.

        Returns:
            Whether it was taken; anything else is left to `take`, which would do the same with this.
        """
        raise NotImplementedError

    def take(self, event: Any, name: str) -> bool:
        """Take one event; returns whether it is one of the protocol's.

        Raises:
            ModelError: the server reported an error.
        """
        raise NotImplementedError

    def end(self) -> None:
        """Take the stream's end mark (`[DONE]`). One that comes before any answer is ignored."""
        self.done = self.done or self.complete or not self.empty

    @property
    def complete(self) -> bool:
        """Whether the whole answer has arrived, even if the connection breaks now."""
        return self.done or self.finish_reason not in {None, "error"}

    def _refuse(self, payload: bytes, name: str) -> None:
        """Raise if an unknown event reports an error."""
        with contextlib.suppress(ValueError, RecursionError):  # other unknown events do not matter
            self._take_unknown(_loaded(payload.decode("utf-8", "replace")), name)

    def _take_unknown(self, value: object, name: str) -> None:
        error = error_in(value, name)
        if error is not None:
            raise in_stream(error, self._secrets)
        if name.lower() in _END_NAMES:
            self.end()
        if isinstance(value, dict):
            self.take_odd(value)
            # Signs of life are flat, and a list of choices may be empty: neither is another protocol.
            speaks = "delta" in value or any(
                isinstance(part, dict | list) and part for part in value.values()
            )
            if self.empty and speaks and value.get("choices") != []:
                self._strange = self._strange or json.dumps(value)[:2_000]

    def take_odd(self, event: JsonObject) -> None:
        """Take an event that is not one of the protocol's and no error. The default ignores it."""

    def _feed_odd(self, payload: bytes, name: str) -> None:
        """Take a payload that is not exactly one JSON object."""
        text = payload.decode("utf-8", "replace").strip()
        for _ in range(2):  # proxies have framed the stream again
            text = text.removeprefix("data:").lstrip()
        if not text or (len(text) < 40 and _ALIVE.fullmatch(text)):
            return
        try:
            self._take_value(_loaded(text), text, name)
        except (ValueError, RecursionError):
            self._take_lines(text, name)

    def _take_value(self, value: object, text: str, name: str) -> None:
        if isinstance(value, dict):
            if not self.take(msgspec.convert(value, self.decoder.type), name):
                self._take_unknown(value, name)
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for item in value:
                self._take_value(item, text, name)
        elif isinstance(value, str) and value.strip().lower() in _DONE:
            self.end()
        elif value is not None:
            raise spoken(text, name, self._secrets)

    def _take_lines(self, text: str, name: str) -> None:
        """Take several events that no blank line separates, or words in place of an event."""
        if text.lower() in _DONE:
            self.end()
            return
        if text.count("\n") > _MAX_LINES:
            raise spoken(text, name, self._secrets)
        lines = [line for line in text.splitlines() if line and not line.isspace()]
        try:
            values = [None if line.strip().lower() in _DONE else _loaded(line) for line in lines]
        except (ValueError, RecursionError):
            values = []
        if len(values) < 2:
            raise spoken(text, name, self._secrets)
        for value, line in zip(values, lines, strict=True):
            if line.strip().lower() in _DONE:
                self.end()
            else:
                self._take_value(value, line, name)

    # --- what it makes of it ---------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether nothing has arrived yet."""
        return not (self._text or self._thinking or self.calls)

    @property
    def thinking_started(self) -> bool:
        return bool(self._thinking)

    def text(self) -> str:
        """Return the text so far."""
        return "".join(self._text)

    def add_text(self, piece: str) -> None:
        """Append a piece of the answer's text."""
        if self._held or "\x00" in piece or (not piece.isascii() and has_half(piece)):
            piece = self._joined("text", piece)
        if piece:
            self._text.append(piece)
            self.chars += len(piece)
            self._on_delta("text", piece)

    def add_thinking(self, piece: str) -> None:
        """Append a piece of readable reasoning."""
        if self._held or "\x00" in piece or (not piece.isascii() and has_half(piece)):
            piece = self._joined("thinking", piece)
        if piece:
            self._thinking.append(piece)
            self._on_delta("thinking", piece)

    def _joined(self, kind: DeltaKind, piece: str) -> str:
        """Join the halves of a character that two pieces split; hold back a first half at the end."""
        if kind in self._held:
            piece = self._held.pop(kind) + piece
        if "\ud800" <= piece[-1:] <= "\udbff":
            self._held[kind], piece = piece[-1], piece[:-1]
        return sound(piece)

    def continuation(self, whole: str) -> str | None:
        """What a text adds to the answer's text, which it repeats; None if it does not.

        It costs no more than the text is long: the answer's text may be long, and asked for with each event.
        """
        if len(whole) < self.chars or not whole.startswith(self.text()):
            return None
        return whole[self.chars :]

    def begin_call(self, call: CallInProgress) -> CallInProgress:
        """Add a tool call, whose arguments are shown as they arrive if it is one of the result tool.

        Raises:
            ModelError: there are too many.
        """
        check_parts(len(self.calls))
        self.calls.append(call)
        if self.result_tool is not None:
            call.watch = self._show_result
        return call

    def _show_result(self, call: CallInProgress, piece: str) -> None:
        if call.name != self.result_tool:
            return
        self._shown = self._shown or call
        if call is self._shown:
            self._on_delta("result", sound(piece))

    def packed_reasoning(self, model: str) -> tuple[JsonObject, ...]:
        """Return the reasoning blocks in the form in which a message stores them."""
        items = [replace(block, item=deeply(paired, block.item)) for block in self.reasoning]
        return packed(model, items)

    def response(self, model: str, history: Iterable[Message], signature: str | None = None) -> ModelResponse:
        """Build the finished response.

        Args:
            model: the model that was called; its reasoning is sent back to this model only.
            history: the messages that were sent. Their call ids are in use; a reused id is replaced.
            signature: the signature over the thinking, if there is exactly one.

        Raises:
            ModelError: the server ended the answer with an error.
        """
        if self.finish_reason == "error":
            raise in_stream("the provider ended the answer with an error", self._secrets)
        if self.finish_reason == "context_length":
            if not self.calls and not self.text().strip():
                raise ModelError("the conversation fills the model's context", code="context_length_exceeded")
            self.finish_reason = "length"
        self.add_text(sound(self._held.pop("text", "")))
        self.add_thinking(sound(self._held.pop("thinking", "")))
        finish = self.finish_reason or "stop"
        calls = _finished(self.calls, history, truncated=finish == "length")
        return ModelResponse(
            text=self.text(),
            tool_calls=calls,
            thinking="".join(self._thinking) if self._thinking else None,
            thinking_signature=signature,
            reasoning_items=self.packed_reasoning(model),
            usage=self.usage,
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            response_id=self.response_id,
            model=self.model,
        )

    def cut_off(self) -> ModelError:
        """Build the error for a stream that ended too early, or that is one of another protocol."""
        if self.empty and self._strange:
            return spoken(self._strange, "", self._secrets)
        return bad_response("the provider's stream ended before the answer was complete", transient=True)

    def order_calls(self) -> None:
        """Drop calls of which nothing is known, and order the others by their numbers, if all have one."""
        self.calls = [call for call in self.calls if call.name or call.id or call.has_arguments]
        numbers = {call.index for call in self.calls}
        if None not in numbers and len(numbers) == len(self.calls):
            self.calls.sort(key=lambda call: call.index or 0)


def check_parts(count: int) -> None:
    """Raise ModelError if an answer has so many calls, blocks or items that it can have no more."""
    if count >= MAX_PARTS:
        raise bad_response(f"the provider's answer has more than {MAX_PARTS} parts", transient=False)


def _loaded(text: str) -> object:
    """Decode JSON leniently: NaN, Infinity, control characters and halves of surrogate pairs are accepted.

    Raises:
        ValueError: the text is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, strict=False)


def _finished(
    calls: list[CallInProgress], history: Iterable[Message], *, truncated: bool
) -> tuple[ToolCallPart, ...]:
    if not calls:
        return ()
    taken = {
        part.id
        for message in history
        if message.role == "agent"
        for part in message.content
        if type(part) is ToolCallPart
    }
    out: list[ToolCallPart] = []
    budget, looked_at = ArgumentsBudget(), ArgumentsBudget()
    for call in calls:
        if not call.id or call.id in taken:
            call.id = ToolCallId(f"call_{uuid4().hex[:24]}")
        taken.add(call.id)
        text = call.text(looked_at)
        # A call without arguments in a truncated answer was cut before the first of them.
        arguments = "" if truncated and not text else budget.refusal(text) or parsed_arguments(text)
        out.append(ToolCallPart(call.id, call.name, arguments))
    return tuple(out)
