"""Parse answers from Chat Completions chunks.

A whole completion instead of a stream is one chunk whose choices have a `message` in place of the `delta`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, Usage
from perdure.llm.answer_values import (
    count,
    decoded,
    finish_of,
    first_count,
    merged,
    name_in,
    number_in,
    text_in,
    written,
)
from perdure.llm.answers import Answer, check_parts
from perdure.llm.calls_in_progress import CallInProgress
from perdure.llm.driver import ModelRequest, ModelResponse, OnDelta
from perdure.llm.failures import error_in, in_stream, is_blank
from perdure.llm.wire import Reasoning


class _Chunk(Struct, gc=False):
    choices: Any = None
    id: Any = None
    model: Any = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None
    finish_reason: Any = None


class _PlainFunction(Struct, gc=False, forbid_unknown_fields=True):
    arguments: str = ""
    name: None = None


class _PlainCall(Struct, gc=False, forbid_unknown_fields=True):
    index: int
    function: _PlainFunction
    id: None = None
    type: Any = None


class _PlainDelta(Struct, gc=False, forbid_unknown_fields=True):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[_PlainCall] | None = None
    role: Any = None
    refusal: None = None
    function_call: None = None


class _PlainChoice(Struct, gc=False, forbid_unknown_fields=True):
    delta: _PlainDelta
    index: int = 0
    finish_reason: str | None = None
    logprobs: Any = None


class _PlainChunk(Struct, gc=False):
    """What nearly every chunk is: a piece of one choice, its end, or the usage, and nothing else."""

    choices: list[_PlainChoice]
    id: Any = None
    model: Any = None
    usage: Any = None
    error: None = None
    x_groq: None = None
    finish_reason: None = None


class _Piece(Struct, frozen=True, gc=False):
    """A piece of a tool call, with as much of its identity as the server gives."""

    index: int | None
    id: str
    name: str
    arguments: object

    def text(self) -> str:
        """Return the arguments as text."""
        return written(self.arguments)


_IN_CALLS = ("function", "name", "id", "arguments")
_ARGUMENTS = ("arguments", "parameters", "input")
_TEXTS = ("content", "text")
_THINKING = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks")
_THOUGHTS = frozenset({"reasoning", "thinking", "reasoning_text", "summary_text"})
_JOINED = frozenset({"text", "summary", "thinking", "data"})
_BLANK = 1_000
"""Characters at the end of a piece of arguments that may be white space."""
_FINISHES = ("finish_reason", "finishReason", "stop_reason", "stopReason")


class ChatAnswer(Answer):
    """An answer that arrives in Chat Completions chunks.

    Args:
        on_delta: called with every piece of text.
        secrets: values that must not appear in an error.
        blocks: the field whose values are kept, to be sent back as they came; None for no such field.
    """

    __slots__ = ("_blocks", "_by_id", "_by_index", "_choice", "_field", "_messages", "_texts")
    decoder = msgspec.json.Decoder(_Chunk)
    plain_decoder = msgspec.json.Decoder(_PlainChunk)

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = (), blocks: str | None = None) -> None:
        super().__init__(on_delta, secrets)
        self._field = blocks
        self._blocks: list[JsonObject] = []
        self._texts: dict[str, list[str]] = {}
        """Pieces of the last block's texts: joined each time, a long text would be copied each time."""
        self._by_index: dict[int, CallInProgress] = {}
        self._by_id: dict[str, CallInProgress] = {}
        # The choice that has content; servers may send others, and leave the first one empty.
        self._choice: int | None = None
        self._messages = False

    def take_plain(self, piece: _PlainChunk) -> bool:
        """Take a piece of the choice that has content, of a call that is known, or the usage at the end."""
        choices = piece.choices
        if len(choices) == 1:
            choice = choices[0]
            delta = choice.delta
            if choice.index != self._choice and (self._choice is not None or delta.tool_calls is not None):
                return False
            if delta.tool_calls is not None and not self._take_call(delta, delta.tool_calls[0]):
                return False
            if delta.reasoning_content:
                self.add_thinking(delta.reasoning_content)
            if delta.content:
                self.add_text(delta.content)
            if self._choice is None and not self.empty:
                self._choice = choice.index
            if choice.finish_reason:
                self.finish_reason = finish_of(choice.finish_reason) or self.finish_reason
        elif choices or piece.usage is None:
            return False
        if piece.usage:
            self._add_usage(piece.usage)
        if self.response_id is None:
            self._identify(piece.id, piece.model)
        return True

    def _take_call(self, delta: _PlainDelta, piece: _PlainCall) -> bool:
        call = self._by_index.get(piece.index)
        if call is None or delta.content or delta.reasoning_content:
            return False
        call.add(piece.function.arguments)
        return True

    def take(self, event: _Chunk, name: str) -> bool:
        """Take one chunk; returns whether it is one."""
        if name == "error" or (event.error and not is_blank(event.error)):
            return False
        choices = event.choices if type(event.choices) is list else [event.choices]
        position = 0
        for choice in choices:
            if type(choice) is dict:
                self._add_choice(choice, position)
                position += 1
        if event.usage or event.x_groq:
            groq = event.x_groq.get("usage") if isinstance(event.x_groq, dict) else None
            self._add_usage(event.usage or groq)
        if self.response_id is None:
            self._identify(event.id, event.model)
        if event.finish_reason:
            self.finish_reason = self.finish_reason or finish_of(event.finish_reason)
        return position > 0 or event.usage is not None

    def _identify(self, identity: object, model: object) -> None:
        self.response_id = name_in(identity) or None
        self.model = name_in(model) or None

    def _add_choice(self, choice: JsonObject, position: int) -> None:
        index = choice.get("index")
        if type(index) is not int:
            index = number_in(index)
            index = position if index is None else index
        if self._choice is not None and self._choice != index:
            self.finish_reason = self.finish_reason or finish_of(choice.get("finish_reason"))
            return
        delta = choice.get("delta")
        if "error" in choice or "code" in choice:
            _raise_error(choice, self._secrets)
        if isinstance(delta, str):
            self.add_text(delta)
        elif delta and isinstance(delta, dict):
            self._add(delta)
        message = choice.get("message")
        if isinstance(message, dict):
            self._add_message(message)
        elif not delta:
            self._add(choice)
        if self._choice is None and not self.empty:
            self._choice = index
        if choice.get("usage"):
            self._add_usage(choice["usage"])
        self.finish_reason = _finish_in(choice) or _finish_in(delta) or self.finish_reason

    def _add(self, delta: JsonObject) -> None:
        content = delta.get("content")
        if len(delta) == 1 and type(content) is str:
            self.add_text(content)  # nearly every chunk
            return
        if delta.get("error") or delta.get("code"):
            _raise_error(delta, self._secrets)
        if self._field is not None and isinstance(delta.get(self._field), list):
            self._keep(delta[self._field])
        for key in _THINKING:
            if thinking := delta.get(key):
                self.add_thinking(text_in(thinking))
                break
        content = content or delta.get("text")
        if type(content) is str:
            self.add_text(content)
        elif content:
            self._add_parts(content)
        if delta.get("refusal"):
            self.add_text(text_in(delta["refusal"]))
        if delta.get("tool_calls") or delta.get("function_call"):
            self._add_calls(delta)

    def _keep(self, pieces: list[Any]) -> None:
        """Keep pieces of signed reasoning: texts of one block are joined, its other fields replaced."""
        for piece in pieces:
            if not isinstance(piece, dict):
                continue
            last = self._blocks[-1] if self._blocks else None
            if last is None or not _continues(last, piece):
                self._join()
                check_parts(len(self._blocks))
                self._blocks.append(dict(piece))
                continue
            for name, value in piece.items():
                if name in _JOINED and isinstance(value, str) and isinstance(last.get(name), str):
                    self._texts.setdefault(name, []).append(value)
                elif value is not None:
                    last[name] = value
                    self._texts.pop(name, None)

    def _join(self) -> None:
        """Put the pieces of texts into the last block."""
        for name, pieces in self._texts.items():
            self._blocks[-1][name] += "".join(pieces)
        self._texts = {}

    def _add_calls(self, delta: JsonObject) -> None:
        # The older field names one call. Servers that send both mean the same call.
        calls = decoded(delta.get("tool_calls")) or {"index": 0, "function": delta.get("function_call")}
        if isinstance(calls, dict) and not any(key in calls for key in _IN_CALLS):
            calls = list(calls.values())  # by their numbers
        for each in calls if isinstance(calls, list) else [calls]:
            call = decoded(each)
            if isinstance(call, dict) and any(call.get(key) for key in _IN_CALLS):
                self._add_call(call)

    def _add_message(self, message: JsonObject) -> None:
        """Add a message that stands in place of a delta, or repeats at the end what the deltas brought.

        Some servers send every piece as a message, others the whole text so far.
        """
        content, known = message.get("content"), self.chars
        text = content if isinstance(content, str) else ""
        first = self._messages
        more = self.continuation(text) if known else None
        if more is not None and (more or known > 8 or not first):
            message = {**message, "content": more}
        elif known and not first:
            message = {**message, "content": None}
        if self.thinking_started and not first:
            message = {key: value for key, value in message.items() if key not in _THINKING}
        if self.calls and not first:
            message = {**message, "tool_calls": None, "function_call": None}
        self._messages = first or self.empty
        self._add(message)

    def _add_parts(self, parts: object) -> None:
        """Add a list of parts, which Mistral's reasoning models send in place of the text."""
        for part in parts if isinstance(parts, list) else [parts]:
            thinks = isinstance(part, dict) and (
                part.get("thinking") or name_in(part.get("type")) in _THOUGHTS
            )
            if thinks:
                self.add_thinking(text_in(part))
            else:
                self.add_text(text_in(part))

    def take_odd(self, event: JsonObject) -> None:
        """Take an event without choices: servers with a protocol of their own put the message there."""
        if any(isinstance(event.get(key), dict) for key in ("message", "delta")) or any(
            isinstance(event.get(key), str) for key in _TEXTS
        ):
            ended = event.get("done") is True or event.get("stop") is True
            finish = event.get("finish_reason") or event.get("done_reason") or ("stop" if ended else None)
            self._add_choice({**event, "finish_reason": finish}, 0)
        elif event.get("done") is True:
            self.end()

    # --- tool calls ------------------------------------------------------------

    def _add_call(self, delta: JsonObject) -> None:
        function = decoded(delta.get("function"))
        function = function if isinstance(function, dict) else delta
        piece = _Piece(
            number_in(delta.get("index")),
            name_in(delta.get("id")),
            name_in(function.get("name")),
            next((function[key] for key in _ARGUMENTS if function.get(key) is not None), None),
        )
        call = self._call_of(piece)
        if call is None:
            call = self.begin_call(CallInProgress(piece.id, piece.name, piece.index))
            if piece.id:
                self._by_id[piece.id] = call
        else:
            call.id = call.id or ToolCallId(piece.id)
            call.name_it(piece.name)
        if piece.index is not None:
            call.index = piece.index if call.index is None else call.index
            self._by_index[piece.index] = call
        if piece.id:
            self._by_id.setdefault(piece.id, call)
        if piece.arguments:
            call.add(piece.arguments)
        if delta.get("extra_content") is not None:
            call.extra = delta["extra_content"]

    def _call_of(self, piece: _Piece) -> CallInProgress | None:
        """Return the call that a piece belongs to; None for a new one.

        Servers leave out the index, the id or both, repeat them with every piece, give every call index 0,
        or every piece an id of its own.
        """
        known = self._by_id.get(piece.id) if piece.id else None
        last = self.calls[-1] if self.calls else None
        if piece.index is None:
            call = known or last
        else:
            call = self._by_index.get(piece.index)
            if call is None:
                if piece.name:
                    return known if known is not None and known.index is None else None
                return known or (last if last is not None and last.index is None else None)
            if known is not None and call.id != piece.id:
                call = known
        return None if call is None or _begins(call, piece) else call

    # --- the end ---------------------------------------------------------------

    def _add_usage(self, usage: object) -> None:
        if isinstance(usage, dict):
            self.usage = merged(self.usage, _usage(usage))

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early, or with an error."""
        if self.finish_reason is None and (not self.done or self.empty):
            raise self.cut_off()
        self.order_calls()
        response = self.response(request.model, request.messages)
        extras = [
            Reasoning({"type": "extra_content", "tool_call_id": part.id, "extra_content": call.extra})
            for part, call in zip(response.tool_calls, self.calls, strict=True)
            if call.extra is not None
        ]
        self._join()
        extras += [Reasoning({"type": self._field, "block": block}) for block in self._blocks]
        if not extras:
            return response
        self.reasoning = extras
        return msgspec.structs.replace(response, reasoning_items=self.packed_reasoning(request.model))


def _continues(block: JsonObject, piece: JsonObject) -> bool:
    """Whether a piece of signed reasoning belongs to the block before it, which its signature ends."""
    same = all(block.get(name) == piece.get(name) for name in ("type", "index"))
    new_id = block.get("id") and piece.get("id") and block["id"] != piece["id"]
    return same and not new_id and not block.get("signature")


def _finish_in(place: object) -> str | None:
    """Return why the model stopped, wherever this choice or delta says it."""
    if not isinstance(place, dict):
        return None
    return next((reason for key in _FINISHES if (reason := finish_of(place.get(key)))), None)


def _begins(call: CallInProgress, piece: _Piece) -> bool:
    """Whether a piece begins another call, although its index or its place suggests this one."""
    if not piece.name or not call.name:
        return False
    new_id = bool(piece.id and call.id and piece.id != call.id)
    last = call.final or (call.arguments[-1] if call.arguments else "")
    last = last[-_BLANK:].rstrip()
    if not last:
        return new_id or (piece.index is None and not piece.name.startswith(call.name))
    if piece.name != call.name:
        return True
    if not last.endswith("}") or (last == "{}" and piece.id and piece.id == call.id):
        return False
    return new_id or (piece.text().lstrip().startswith("{") and not call.says(piece.text()))


def _raise_error(place: JsonObject, secrets: tuple[str, ...]) -> None:
    """Raise if a choice or its delta holds an error in place of an answer."""
    error = error_in(place, "") if place.get("error") or place.get("code") else None
    if error is not None:
        raise in_stream(error, secrets)


def _usage(value: JsonObject) -> Usage | None:
    prompt = first_count(value.get("prompt_tokens"), value.get("input_tokens"))
    completion = first_count(value.get("completion_tokens"), value.get("output_tokens"))
    if prompt is None and completion is None:
        return None
    details = value.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    cached = (
        details.get("cached_tokens"), value.get("prompt_cache_hit_tokens"), value.get("cached_tokens")
    )  # fmt: skip
    return Usage(prompt or 0, completion or 0, first_count(*cached), count(details.get("cache_write_tokens")))
