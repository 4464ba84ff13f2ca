"""The conversation that a model receives: a fold over the log.

A message enters the conversation at the first model call that can see it, which may be later than its
position in the log: a message that arrived while the model was answering follows that answer. One that waited
for its own turn enters at that turn's start, which contains it once more. Results follow their calls, in the
order of the calls. A call without a result gets an error, because vendors reject it otherwise.

A `context.compacted` event replaces the older part by a summary; the log keeps everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import ClassVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.compaction import ContextCompactedData, summary_message
from perdure.domain.decisions import Decided
from perdure.domain.derived_messages import correction_message, missing_result, result_message, with_text
from perdure.domain.events import (
    AnyEvent,
    Event,
    FileWrittenData,
    HistoryAdaptation,
    HookDecidedData,
    InputMessageData,
    OutputMessageCompletedData,
    OutputRejectedData,
    ReasonCompletedData,
    ReasonStartedData,
    ToolCompletedData,
    TurnStartedData,
    is_cancel_notice,
)
from perdure.domain.ids import EventId, ModelId
from perdure.domain.media import file_tokens, image_bytes, needs_reading
from perdure.domain.messages import (
    Message,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    tool_calls_of,
)
from perdure.domain.result_sizes import (
    LEAST_SHARE,
    RESULT_FILES,
    SLACK,
    cut_result,
    file_of,
    limits_of,
    share_for,
    text_of_result,
)
from perdure.domain.stored_files import IMAGE_TOKENS
from perdure.domain.times import Micros
from perdure.domain.tokens import text_tokens
from perdure.domain.tools import call_of_question

HISTORY_TYPES = (
    InputMessageData.kind,
    ReasonStartedData.kind,
    ReasonCompletedData.kind,
    OutputMessageCompletedData.kind,
    OutputRejectedData.kind,
    ToolCompletedData.kind,
    ContextCompactedData.kind,
    FileWrittenData.kind,
    TurnStartedData.kind,
    HookDecidedData.kind,
)
"""The kinds of events that the conversation is folded from."""

MESSAGE_OVERHEAD = 8
"""Tokens of a message beyond its text: the role and separators."""

BYTES_PER_TOKEN = 4
"""About how much memory a token of text takes."""

NO_SHARE = 1 << 60
"""The tokens of a tool result as long as no budget is known."""

MAX_REST = 64
"""The most messages for which no summary is tried after some have failed."""


class Entry(Struct, frozen=True, gc=False):
    """A message of the conversation.

    Attributes:
        begin: a conversation folded from the events after this sequence starts with this message. Results
            have the `begin` of the message with their calls. It never decreases from one entry to the next.
        tokens: the estimated number of tokens.
        whole, hidden: if `message` is a cut tool result, the message as it is in the log, and the tokens that
            were cut.
    """

    message: Message
    begin: int
    tokens: int
    whole: Message | None = None
    hidden: int = 0


def estimate_tokens(message: Message) -> int:
    """Estimate how many tokens a message takes in a prompt."""
    tokens = text_tokens(message.thinking) if message.thinking else 0
    for part in message.content:
        match part:
            case TextPart():
                tokens += text_tokens(part.text)
            case ToolCallPart():
                tokens += text_tokens(part.name) + _value_tokens(part.arguments)
            case ToolResultPart():
                tokens += _value_tokens(part.result) + text_tokens(part.error or "")
            case _:
                tokens += file_tokens(part)
    return tokens + MESSAGE_OVERHEAD


def _value_tokens(value: object) -> int:
    if isinstance(value, str):
        return text_tokens(value)
    if isinstance(value, list) and any(isinstance(item, dict) and "base64" in item for item in value):
        texts = [item.get("text") for item in value if isinstance(item, dict)]
        return sum(text_tokens(text) for text in texts if isinstance(text, str)) + IMAGE_TOKENS * len(value)
    return text_tokens(msgspec.json.encode(value).decode())


class Conversation:
    """The fold. It grows with the log; `prompt` returns what the next or current model call receives."""

    _files: frozenset[str] = frozenset()  # the paths of the files with whole results

    def __init__(self, head: int = 0, *, cut: bool = False) -> None:
        self.head = head
        self.cut = cut  # whether the log has older messages than this conversation
        self.cut_to: int | None = None
        """The budget for which messages were dropped last; None if none were dropped."""
        self.ceilings: dict[ModelId, int] = {}
        """By model: the budget in tokens, after the model has rejected a longer prompt."""
        self.adaptations: dict[ModelId, HistoryAdaptation] = {}
        """By model: what its server has accepted after it refused the history as it is."""
        self.measured: dict[str, tuple[int, int]] = {}
        """By model: the input tokens of its last answer by the vendor's count, and the estimate of the
        messages in it; since the last summary."""
        self.share: int | None = None
        """The tokens of a tool result in a prompt; None as long as no budget is known. The results of one
        answer get twice as many together."""
        self.failures = 0
        """The attempts to write a summary that failed since the last one that did not."""
        self.rest = 0
        """The messages that are still to come before a summary is tried again."""
        self.kept_tools: str | None = None  # the digest of the list that this process has stored last
        self.has_files = False  # whether a message has a file that cannot be sent as the log has it
        self.summary: Message | None = None
        """The message that replaces those that were compacted."""
        self.summary_at: int | None = None
        """The sequence of the event with the summary."""
        self._entries: list[Entry] = []
        self._tokens = 0
        self._hidden = 0
        """The tokens that were cut from tool results."""
        self._largest = 0
        """The share in tokens for which no result is cut."""
        self._waiting: list[tuple[Message, int]] = []
        self._calls: tuple[ToolCallPart, ...] = ()
        self._results: dict[str, Message] = {}
        self._notes: dict[str, Decided] = {}
        self._changed: dict[str, HookDecidedData] = {}
        """The decisions on calls that have no result yet, and what policy hooks have changed of them."""
        self._reasoning = False
        self._begin = 0

    def feed(self, event: AnyEvent, sequence: int, event_id: EventId | None = None) -> None:
        """Fold the next event of the log; kinds that are not in `HISTORY_TYPES` may be left out.

        Args:
            event: the event, stored or new.
            sequence: its sequence.
            event_id: for a new event, the id that it got when it was appended.
        """
        self.head = sequence
        handler = self._handlers.get(event.type)
        if handler is not None:
            handler(self, event, sequence, event_id)

    def prompt(self, budget: int) -> tuple[list[Message], int]:
        """The newest messages within about `budget` tokens, and the sequence after which the log has them.

        The sequence is 0 if these are all messages. A summary comes first; the sequence does not cover it.
        The start of the window moves rarely, and then by a quarter of the budget, so that the vendors' prompt
        caches stay warm.
        """
        if self._tokens > budget:
            self._drop_oldest(budget)
            while self._tokens > budget and self.share is not None and self.share > LEAST_SHARE:
                self.fit_results(self.share // 2)
        after = self._entries[0].begin if (self.cut or self.summary) and self._entries else 0
        return [*self._summary_messages(), *(entry.message for entry in self._entries)], after

    def newest(self, budget: int) -> tuple[list[Message], int] | None:
        """What `prompt` would return for this budget, without dropping anything; None if that is no less."""
        begin, _ = self._fitting(budget)
        entries = self._entries[begin:]
        messages = [*self._summary_messages(), *(entry.message for entry in entries)]
        return (messages, entries[0].begin) if begin else None

    def fit_results(self, share: int | None) -> None:
        """Cut the tool results in prompts to about `share` tokens each; None leaves them whole."""
        before, self.share = self.share, share
        if share == before or not (self._hidden or (share is not None and self._largest > share)):
            return
        entries, self._entries = self._entries, []
        self._tokens -= _sum_of(entries)
        self._hidden = self._largest = 0
        for (begin, role), step in groupby(entries, key=_step_of):
            if role == "tool_result":
                self._add_results([entry.whole or entry.message for entry in step], begin)
                continue
            same = list(step)
            self._entries += same
            self._tokens += _sum_of(same)

    def unseen(self) -> list[Message]:
        """The messages and results since the last model call."""
        return [*self._results.values(), *(message for message, _ in self._waiting)]

    def upcoming(self) -> list[Message]:
        """All messages for the next model call without a budget, with results and messages since the last."""
        return [
            *self._summary_messages(),
            *(entry.message for entry in self._entries),
            *self.unseen(),
        ]

    def messages_before(self, begin: int) -> list[Message]:
        """The messages before the one that begins after this sequence; the summary comes first."""
        return [*self._summary_messages(), *(entry.message for entry in self._entries if entry.begin < begin)]

    def tokens(self) -> int:
        """Estimate the tokens of the messages that this conversation has."""
        return self._tokens

    def waiting_tokens(self) -> int:
        """Estimate the tokens that the next model call adds: messages and results since the last call."""
        waiting = sum(estimate_tokens(message) for message, _ in self._waiting)
        return waiting + sum(map(self.result_tokens, self._results.values()))

    def long_results(self, share: int) -> list[tuple[ToolCallPart, Message]]:
        """The results since the last model call with a longer text that is in no file, and their calls."""
        return [
            (call, message)
            for call in self._calls
            if (message := self._results.get(call.id)) is not None
            and text_tokens(text_of_result(message)) > share + SLACK
            and file_of(message) not in self._files
        ]

    @property
    def has_long_results(self) -> bool:
        """Whether there are results that could be cut."""
        return self._largest > LEAST_SHARE

    @property
    def cut_results(self) -> int | None:
        """The tokens to which each tool result is cut; None if all are whole."""
        return self.share if self._hidden else None

    def result_tokens(self, message: Message) -> int:
        """Estimate the tokens of a tool result in a prompt."""
        return min(estimate_tokens(message), self.share or NO_SHARE)

    def count(self) -> int:
        """The number of messages for the next model call, among those that this conversation has."""
        return len(self._entries) + len(self._waiting) + len(self._results) + (self.summary is not None)

    def split(self, keep: int) -> tuple[list[Entry], int] | None:
        """Split off the older part, to be summarized.

        The rest begins with a message of the user or the agent, so that results stay with their calls.

        Args:
            keep: the maximum of tokens of the rest; the newest step stays, however long it is.

        Returns:
            The older part, and the sequence after which the log has the rest; None if nothing can be split
            off.
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
        """Estimate its memory in bytes: as measured, 600 for itself and 450 per message beyond the text."""
        large = [entry for entry in self._entries if entry.tokens + entry.hidden >= IMAGE_TOKENS]
        images = sum(image_bytes(entry.whole or entry.message) for entry in large)
        return 600 + 450 * len(self._entries) + BYTES_PER_TOKEN * (self._tokens + self._hidden) + images

    def _drop_oldest(self, budget: int) -> None:
        """Drop the oldest messages, up to the first user message that leaves a quarter of the budget free.

        The last user message always stays.
        """
        begin, left = self._fitting(budget)
        if begin:
            self._hidden -= _hidden_in(self._entries[:begin])
            del self._entries[:begin]
            self._tokens = left
            self.cut = True
            self.cut_to = budget

    def _fitting(self, budget: int) -> tuple[int, int]:
        """The first entry to keep for this budget, and the tokens of what is kept."""
        target = budget - budget // 4
        begin, left, total = 0, self._tokens, self._tokens
        for index, entry in enumerate(self._entries):
            if index and entry.message.role == "user":
                begin, left = index, total
                if total <= target:
                    break
            total -= entry.tokens
        return begin, left

    def _add(self, message: Message, begin: int) -> None:
        tokens = estimate_tokens(message)
        self._entries.append(Entry(message, begin, tokens))
        self._tokens += tokens
        self.has_files = self.has_files or any(map(needs_reading, message.content))

    def _add_results(self, results: list[Message], begin: int) -> None:
        """Add the results of one answer, cut to their shares."""
        sizes = [estimate_tokens(message) for message in results]
        self._largest = max(self._largest, share_for(sizes))
        limits = sizes if self.share is None else limits_of(sizes, self.share)
        for message, size, limit in zip(results, sizes, limits, strict=True):
            cut = cut_result(message, limit, self._files) if size > limit + SLACK else message
            tokens = size if cut is message else estimate_tokens(cut)
            self._entries.append(
                Entry(cut, begin, tokens, None if cut is message else message, size - tokens)
            )
            self._tokens += tokens
            self._hidden += size - tokens

    def _input_message(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        data = event.read(InputMessageData)
        if data.queued:
            return
        if is_cancel_notice(data.message, event):
            self._reasoning = False  # a running model call will never answer
        else:
            self.rest = max(self.rest - 1, 0)
        self._waiting.append((data.message, sequence))

    def _turn_started(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        message = event.read(TurnStartedData).message
        if message is not None:
            self.rest = max(self.rest - 1, 0)
            self._waiting.append((message, sequence))

    def _reason_started(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        self._flush(event.ts)
        self._reasoning = True
        self._begin = sequence - 1
        self.kept_tools = None  # whoever began this call sets it again

    def _reason_completed(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        self._reasoning = False
        # Every adapted call says so, so the events that are read always include the newest one.
        data = event.read(ReasonCompletedData)
        if data.success and data.adaptation is not None:
            self.adaptations[data.adaptation.model_id] = replace(data.adaptation, refusal=None)
            if data.adaptation.history_tokens is not None:
                self.ceilings[data.adaptation.model_id] = data.adaptation.history_tokens

    def _output_completed(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        data = event.read(OutputMessageCompletedData)
        if data.error_code is not None:
            return
        if not self._reasoning:
            if event.context_struct().exec_id is not None:
                return  # the call began before the first event of this conversation
            self._flush(event.ts)
            self._begin = sequence - 1
        elif data.usage is not None and sequence > (self.summary_at or 0) and data.metadata is not None:
            self.measured[data.metadata.model_id or ""] = (data.usage.input_tokens, self._tokens)
        self._add(data.message, self._begin)
        self._calls = tool_calls_of(data.message)

    def _output_rejected(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        self._waiting.append((correction_message(event.read(OutputRejectedData), event.ts), sequence))

    def _tool_completed(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        data = event.read(ToolCompletedData)
        identity = event.id if isinstance(event, Event) else event_id
        if data.decided is not None:
            self._notes[call_of_question(data.tool_call_id)] = data.decided
        decided = self._notes.pop(data.tool_call_id, None)
        changed = self._changed.pop(data.tool_call_id, None)
        self._results[data.tool_call_id] = result_message(data, event.ts, identity, decided, changed)

    def _hook_decided(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        data = event.read(HookDecidedData)
        if data.tool_call_id is not None and data.arguments is not None:
            self._changed[data.tool_call_id] = data
        self._waiting = [(with_text(message, data.messages), begin) for message, begin in self._waiting]

    def _file_written(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        path = event.read(FileWrittenData).path
        if path.startswith(RESULT_FILES):
            self._files |= {path}

    def _compacted(self, event: AnyEvent, sequence: int, event_id: EventId | None) -> None:
        data = event.read(ContextCompactedData)
        if sequence < (self.summary_at or 0):
            return  # a newer summary is known
        if data.after is None or data.summary is None:
            if data.was_limited:
                return
            self.failures += 1
            self.rest = min(1 << self.failures, MAX_REST)
            return
        self.failures = self.rest = 0
        self.measured.clear()
        after = data.after
        self._entries = [entry for entry in self._entries if entry.begin >= after]
        self.summary, self.summary_at = (
            summary_message(data.summary, sequence, event.ts, handed_off=data.handed_off),
            sequence,
        )
        self._tokens = estimate_tokens(self.summary) + _sum_of(self._entries)
        self._hidden = _hidden_in(self._entries)
        steps = groupby(self._entries, key=_step_of)
        self._largest = max((share_for(_sizes_of(step)) for _, step in steps), default=0)
        kept = [entry.whole or entry.message for entry in self._entries]
        self._files &= {file_of(message) for message in (*kept, *self._results.values())}
        self.cut = False
        self.cut_to = None

    _handlers: ClassVar[dict[str, Callable[[Conversation, AnyEvent, int, EventId | None], None]]] = {
        InputMessageData.kind: _input_message,
        ReasonStartedData.kind: _reason_started,
        ReasonCompletedData.kind: _reason_completed,
        OutputMessageCompletedData.kind: _output_completed,
        OutputRejectedData.kind: _output_rejected,
        ToolCompletedData.kind: _tool_completed,
        ContextCompactedData.kind: _compacted,
        FileWrittenData.kind: _file_written,
        TurnStartedData.kind: _turn_started,
        HookDecidedData.kind: _hook_decided,
    }
    """By kind: folds an event with its sequence and, if the event is new, the id that it got."""

    def _flush(self, now: Micros) -> None:
        if self._calls:
            results = [self._results.get(call.id) or missing_result(call, now) for call in self._calls]
            self._add_results(results, self._begin)
            self._calls = ()
        self._results.clear()
        self._notes.clear()
        self._changed.clear()
        for message, sequence in self._waiting:
            self._add(message, sequence - 1)
        self._waiting.clear()

    def _summary_messages(self) -> list[Message]:
        return [] if self.summary is None else [self.summary]


def _sum_of(entries: list[Entry]) -> int:
    """The tokens of these messages."""
    return sum(entry.tokens for entry in entries)


def _step_of(entry: Entry) -> tuple[int, Role]:
    """What the results of one answer have in common."""
    return entry.begin, entry.message.role


def _sizes_of(step: Iterable[Entry]) -> list[int]:
    """The sizes of these messages if they are tool results, whole."""
    return [entry.tokens + entry.hidden for entry in step if entry.message.role == "tool_result"]


def _hidden_in(entries: list[Entry]) -> int:
    """The tokens that were cut from these messages."""
    return sum(entry.hidden for entry in entries)
