"""The conversation that a model is shown: a fold over the log.

A message enters the conversation at the first model call that can see it, not where it happens to stand in the log: one that
came while the model was answering follows that answer. Results follow their calls, in the order of the calls; a call whose
result never came gets one that says so, since the vendors refuse a call without a result.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from msgspec import Struct

from perdure.domain.events import Event, OutputMessageCompletedData, ToolCompletedData, is_cancel_notice
from perdure.domain.messages import (
    ContentPart,
    ImageFilePart,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    text_of,
    tool_calls_of,
)
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.turn import AnyEvent

HISTORY_TYPES = ("input.message", "reason.started", "reason.completed", "output.message.completed", "tool.completed")
"""The kinds of event that the conversation is made of."""

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English text with the vendors' tokenizers; used only to bound what is sent."""

MESSAGE_OVERHEAD = 8
"""Tokens that a message costs beyond its text: roles and separators."""

IMAGE_TOKENS = 1_000
"""About what the vendors charge for one image of ordinary size."""


class Entry(Struct, frozen=True, gc=False):
    """A message of the conversation, where it stands in the log, and about how many tokens it takes."""

    message: Message
    sequence: int
    tokens: int


def estimate_tokens(message: Message) -> int:
    """About how many tokens a message takes in a prompt."""
    size = len(message.thinking or "")
    images = 0
    for part in message.content:
        match part:
            case TextPart():
                size += len(part.text)
            case ToolCallPart():
                size += len(part.name) + len(msgspec.json.encode(part.arguments))
            case ToolResultPart():
                size += len(part.result) if isinstance(part.result, str) else len(msgspec.json.encode(part.result))
                size += len(part.error or "")
            case _:
                images += 1
    return size // CHARACTERS_PER_TOKEN + MESSAGE_OVERHEAD + images * IMAGE_TOKENS


class Conversation:
    """The fold. It grows with the log; `prompt` is what the next (or the present) model call sees."""

    def __init__(self, head: int = 0, *, cut: bool = False) -> None:
        self.head = head
        self.cut = cut
        """Whether there are older messages than the ones held here."""
        self.cut_to: int | None = None
        """The budget that made it forget messages the last time; None while it holds all that it was made with."""
        self.ceilings: dict[str, int] = {}
        """By model: budgets that turned out to be needed, because a longer prompt was refused."""
        self.has_files = False
        """Whether a message that came refers to an uploaded file."""
        self._entries: list[Entry] = []
        self._tokens = 0
        self._waiting: list[tuple[Message, int]] = []
        self._calls: tuple[ToolCallPart, ...] = ()
        self._results: dict[str, tuple[Message, int]] = {}
        self._reasoning = False

    def feed(self, event: AnyEvent, sequence: int, event_id: str | None = None) -> None:
        """Take in the next event of the log (kinds that do not matter may be left out).

        Args:
            event_id: the id that a new event got when it was appended.
        """
        self.head = sequence
        match event.type:
            case "input.message":
                message = event.decoded().message
                if is_cancel_notice(message, event):
                    self._reasoning = False  # the model call that was going on, if any, will never answer
                self._waiting.append((message, sequence))
            case "reason.started":
                self._flush(event.ts)
                self._reasoning = True
            case "reason.completed":
                self._reasoning = False
            case "output.message.completed":
                self._answer(event, sequence)
            case "tool.completed":
                message = result_message(event.decoded(), event.ts, event.id if isinstance(event, Event) else event_id)
                self._results[event.decoded().tool_call_id] = (message, sequence)

    def prompt(self, budget: int) -> tuple[list[Message], int]:
        """The newest messages within about `budget` tokens, and the sequence before the first of them (0: all are there).

        Where the window begins moves rarely, and then by a quarter of the budget, so that vendors' prompt caches stay warm.
        """
        if self._tokens > budget:
            self._drop(budget)
        after = self._entries[0].sequence - 1 if self.cut and self._entries else 0
        return [entry.message for entry in self._entries], after

    def tokens(self) -> int:
        """About how many tokens the conversation takes, as far as it is held here."""
        return self._tokens

    def weight(self) -> int:
        """About how many bytes of memory it takes (measured: 0.6 KB for itself, 0.5 KB for each message beside its text)."""
        return 600 + 450 * len(self._entries) + CHARACTERS_PER_TOKEN * self._tokens

    def _drop(self, budget: int) -> None:
        """Forget the oldest: up to the first user message that leaves a quarter of the budget free. The last one always stays."""
        target = budget - budget // 4
        begin, left, total = 0, self._tokens, self._tokens
        for index, entry in enumerate(self._entries):
            if index and entry.message.role == "user":
                begin, left = index, total
                if total <= target:
                    break
            total -= entry.tokens
        if begin:
            del self._entries[:begin]
            self._tokens = left
            self.cut = True
            self.cut_to = budget

    def _add(self, message: Message, sequence: int) -> None:
        tokens = estimate_tokens(message)
        self._entries.append(Entry(message, sequence, tokens))
        self._tokens += tokens
        self.has_files = self.has_files or any(isinstance(part, ImageFilePart) for part in message.content)

    def _answer(self, event: AnyEvent, sequence: int) -> None:
        data: OutputMessageCompletedData = event.decoded()
        if data.error_code is not None:
            return
        if not self._reasoning:
            if event.context_struct().exec_id is not None:
                return  # the call began before what is held here: this stands before the oldest message that is
            self._flush(event.ts)
        self._add(data.message, sequence)
        self._calls = tool_calls_of(data.message)

    def _flush(self, now: Micros) -> None:
        for call in self._calls:
            found = self._results.get(call.id)
            message, sequence = found if found is not None else (missing_result(call, now), self.head)
            self._add(message, sequence)
        self._calls = ()
        self._results.clear()
        for message, sequence in self._waiting:
            self._add(message, sequence)
        self._waiting.clear()


def result_message(data: ToolCompletedData, ts: Micros, event_id: str | None = None) -> Message:
    """The tool_result message of a completed call; the same call gives the same id."""
    result: object = None
    if data.result is not None:
        result = _result_value(data.result)
    content = (ToolResultPart(data.tool_call_id, result, data.error),)
    identity = event_id[6:] if event_id else blake2b(f"{data.tool_call_id}/{ts}".encode(), digest_size=16).hexdigest()
    return Message(f"message_{identity}", "tool_result", content, to_rfc3339(ts))


def _result_value(parts: tuple[ContentPart, ...]) -> object:
    if all(isinstance(part, TextPart) for part in parts):
        return text_of(parts)
    return msgspec.to_builtins(parts)


def missing_result(call: ToolCallPart, ts: Micros) -> Message:
    """The result of a call that never had one."""
    identity = blake2b(f"{call.id}/missing".encode(), digest_size=16).hexdigest()
    error = "This call did not finish: the turn ended before its result came."
    return Message(f"message_{identity}", "tool_result", (ToolResultPart(call.id, None, error),), to_rfc3339(ts))
