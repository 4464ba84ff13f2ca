"""The conversation that a model is shown: a fold over the log.

A message enters the conversation at the first model call that can see it, not where it happens to stand in
the log: one that came while the model was answering follows that answer. Results follow their calls, in the
order of the calls; a call whose result never came gets one that says so, since the vendors refuse a call
without a result.

A `context.compacted` event puts a summary in the place of the older part. Nothing is removed from the log by
it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import ClassVar

import msgspec
from msgspec import Struct

from perdure.domain.compaction import ContextCompactedData, summary_message
from perdure.domain.events import (
    AnyEvent,
    Event,
    InputMessageData,
    OutputMessageCompletedData,
    ReasonCompletedData,
    ReasonStartedData,
    ToolCompletedData,
    is_cancel_notice,
)
from perdure.domain.ids import EventId, MessageId
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

HISTORY_TYPES = (
    InputMessageData.kind,
    ReasonStartedData.kind,
    ReasonCompletedData.kind,
    OutputMessageCompletedData.kind,
    ToolCompletedData.kind,
    ContextCompactedData.kind,
)
"""The kinds of event that the conversation is made of."""

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English text with the vendors' tokenizers; used only to bound what is sent."""

MESSAGE_OVERHEAD = 8
"""Tokens that a message costs beyond its text: roles and separators."""

IMAGE_TOKENS = 1_000
"""About what the vendors charge for one image of ordinary size."""


class Entry(Struct, frozen=True, gc=False):
    """A message of the conversation.

    Attributes:
        begin: the sequence after which the log has to be folded for this message to be the first; results
            have that of the message that called for them. It never goes down from one entry to the next.
        tokens: about how many it takes.
    """

    message: Message
    begin: int
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
                size += (
                    len(part.result)
                    if isinstance(part.result, str)
                    else len(msgspec.json.encode(part.result))
                )
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
        """The budget that made it forget messages the last time; None while it holds all that it was made
        with."""
        self.ceilings: dict[str, int] = {}
        """By model: budgets that turned out to be needed, because a longer prompt was refused."""
        self.has_files = False
        """Whether a message that came refers to an uploaded file."""
        self.summary: Message | None = None
        """What stands in the place of the messages that were compacted."""
        self.summary_at: int | None = None
        """The sequence of the event that brought the summary."""
        self._entries: list[Entry] = []
        self._tokens = 0
        self._waiting: list[tuple[Message, int]] = []
        self._calls: tuple[ToolCallPart, ...] = ()
        self._results: dict[str, Message] = {}
        self._reasoning = False
        self._begin = 0

    def feed(self, event: AnyEvent, sequence: int, event_id: EventId | None = None) -> None:
        """Take in the next event of the log (kinds that do not matter may be left out).

        Args:
            event_id: the id that a new event got when it was appended.
        """
        self.head = sequence
        handler = self._handlers.get(event.type)
        if handler is not None:
            handler(self, event, sequence, event_id)

    def prompt(self, budget: int) -> tuple[list[Message], int]:
        """The newest messages within about `budget` tokens, and where in the log they begin.

        That is the sequence after which the log gives them; 0 when all are there.

        A summary comes first; it is not part of what that sequence gives. Where the window begins moves
        rarely, and then by a quarter of the budget, so that vendors' prompt caches stay warm.
        """
        if self._tokens > budget:
            self._drop(budget)
        after = self._entries[0].begin if (self.cut or self.summary) and self._entries else 0
        return [*self._head(), *(entry.message for entry in self._entries)], after

    def upcoming(self) -> list[Message]:
        """What the next model call would be shown, were there no bound.

        Also results and messages that came since the last one.
        """
        return [
            *self._head(),
            *(entry.message for entry in self._entries),
            *self._results.values(),
            *self._waiting_messages(),
        ]

    def messages_before(self, begin: int) -> list[Message]:
        """The messages that stand before the one that begins there, the summary first."""
        return [*self._head(), *(entry.message for entry in self._entries if entry.begin < begin)]

    def tokens(self) -> int:
        """About how many tokens the conversation takes, as far as it is held here."""
        return self._tokens

    def waiting_tokens(self) -> int:
        """About how many tokens the next model call adds.

        Messages and results that came since the last one.
        """
        return sum(map(estimate_tokens, (*self._waiting_messages(), *self._results.values())))

    def count(self) -> int:
        """How many messages the next model call sees, as far as they are held here."""
        return len(self._entries) + len(self._waiting) + len(self._results) + (self.summary is not None)

    def split(self, keep: int) -> tuple[list[Entry], int] | None:
        """The older part, to be summed up, and the sequence after which the log gives the rest.

        The rest begins with a message of the user or the agent, so that no result loses its call.

        Args:
            keep: tokens that the rest may take; the newest step stays whatever it takes.

        Returns:
            None when there is nothing to part with.
        """
        size, at = 0, 0
        for index in range(len(self._entries) - 1, 0, -1):
            entry = self._entries[index]
            size += entry.tokens
            if entry.message.role == "tool_result":
                continue
            if at and size > keep:
                break
            at = index
        return (self._entries[:at], self._entries[at].begin) if at else None

    def weight(self) -> int:
        """About how many bytes of memory it takes (measured.

        0.6 KB for itself, 0.5 KB for each message beside its text).
        """
        return 600 + 450 * len(self._entries) + CHARACTERS_PER_TOKEN * self._tokens

    def _drop(self, budget: int) -> None:
        """Forget the oldest: up to the first user message that leaves a quarter of the budget free.

        The last one always stays.
        """
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

    def _add(self, message: Message, begin: int) -> None:
        tokens = estimate_tokens(message)
        self._entries.append(Entry(message, begin, tokens))
        self._tokens += tokens
        self.has_files = self.has_files or any(isinstance(part, ImageFilePart) for part in message.content)

    def _input_message(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        message = event.read(InputMessageData).message
        if is_cancel_notice(message, event):
            self._reasoning = False  # the model call that was going on, if any, will never answer
        self._waiting.append((message, sequence))

    def _reason_started(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        self._flush(event.ts)
        self._reasoning = True
        self._begin = sequence - 1

    def _reason_completed(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        self._reasoning = False

    def _output_completed(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        data = event.read(OutputMessageCompletedData)
        if data.error_code is not None:
            return
        if not self._reasoning:
            if event.context_struct().exec_id is not None:
                return  # the call began before what is held here, and so did its answer
            self._flush(event.ts)
            self._begin = sequence - 1
        self._add(data.message, self._begin)
        self._calls = tool_calls_of(data.message)

    def _tool_completed(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        data = event.read(ToolCompletedData)
        identity = event.id if isinstance(event, Event) else event_id
        self._results[data.tool_call_id] = result_message(data, event.ts, identity)

    def _compacted(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        data = event.read(ContextCompactedData)
        if data.after is None or data.summary is None or sequence < (self.summary_at or 0):
            return  # there was no summary to be had, or a newer one is known
        after = data.after
        self._entries = [entry for entry in self._entries if entry.begin >= after]
        self.summary, self.summary_at = summary_message(data.summary, sequence, event.ts), sequence
        self._tokens = estimate_tokens(self.summary) + sum(entry.tokens for entry in self._entries)
        self.cut = False
        self.cut_to = None

    _handlers: ClassVar[dict[str, Callable[[Conversation, AnyEvent, int, EventId | None], None]]] = {
        InputMessageData.kind: _input_message,
        ReasonStartedData.kind: _reason_started,
        ReasonCompletedData.kind: _reason_completed,
        OutputMessageCompletedData.kind: _output_completed,
        ToolCompletedData.kind: _tool_completed,
        ContextCompactedData.kind: _compacted,
    }
    """By kind: takes in an event of that kind, with its sequence and, where it is new, the id that it got."""

    def _flush(self, now: Micros) -> None:
        for call in self._calls:
            self._add(self._results.get(call.id) or missing_result(call, now), self._begin)
        self._calls = ()
        self._results.clear()
        for message, sequence in self._waiting:
            self._add(message, sequence - 1)
        self._waiting.clear()

    def _head(self) -> list[Message]:
        return [] if self.summary is None else [self.summary]

    def _waiting_messages(self) -> tuple[Message, ...]:
        return tuple(message for message, _ in self._waiting)


def result_message(data: ToolCompletedData, ts: Micros, event_id: EventId | None = None) -> Message:
    """The tool_result message of a completed call; the same call gives the same id."""
    result: object = None
    if data.result is not None:
        result = _result_value(data.result)
    content = (ToolResultPart(data.tool_call_id, result, data.error),)
    identity = (
        event_id[6:]
        if event_id
        else blake2b(f"{data.tool_call_id}/{ts}".encode(), digest_size=16).hexdigest()
    )
    return Message(MessageId(f"message_{identity}"), "tool_result", content, to_rfc3339(ts))


def _result_value(parts: tuple[ContentPart, ...]) -> object:
    if all(isinstance(part, TextPart) for part in parts):
        return text_of(parts)
    return msgspec.to_builtins(parts)


def missing_result(call: ToolCallPart, ts: Micros) -> Message:
    """The result of a call that never had one."""
    identity = blake2b(f"{call.id}/missing".encode(), digest_size=16).hexdigest()
    error = "This call did not finish: the turn ended before its result came."
    content = (ToolResultPart(call.id, None, error),)
    return Message(MessageId(f"message_{identity}"), "tool_result", content, to_rfc3339(ts))
