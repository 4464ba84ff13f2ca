"""A cache of conversations between turns.

A log only grows, so a conversation that was folded up to some sequence stays correct: no entry is ever
invalidated, and only later events have to be read. Evicting an entry costs a read, never correctness.
"""

from __future__ import annotations

from collections import OrderedDict

from perdure.domain.compaction import ContextCompactedData
from perdure.domain.events import Event, InputMessageData, TurnStartedData
from perdure.domain.history import HISTORY_TYPES, Conversation
from perdure.domain.ids import SessionId
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds, events_within, last_compaction

MOST = 64_000_000
"""Bytes of a conversation that are read, whatever its tokens: an image has few, but may have megabytes."""

_IMAGE = '"base64":"'


class ConversationCache:
    """The most recently used conversations, bounded by their estimated total size.

    Args:
        budget: bytes, as `Conversation.weight` estimates them. 64 MB hold about 40,000 short conversations.
    """

    def __init__(self, budget: int = 64_000_000) -> None:
        self._budget = budget
        self._entries: OrderedDict[str, tuple[Conversation, int]] = OrderedDict()
        self._total = 0

    def take(self, session_id: SessionId) -> Conversation | None:
        """Remove and return the session's conversation, so that only one runner changes it."""
        conversation, weight = self._entries.pop(session_id, (None, 0))
        self._total -= weight
        return conversation

    def discard(self, session_id: SessionId) -> None:
        """Remove the session's conversation."""
        self.take(session_id)

    def put(self, session_id: SessionId, conversation: Conversation) -> None:
        """Store a conversation for the next turn; evicts those used longest ago when over the budget."""
        self.take(session_id)
        conversation.fit_results(None)  # the next turn may have another model
        weight = conversation.weight()
        self._entries[session_id] = (conversation, weight)
        self._total += weight
        while self._total > self._budget and self._entries:
            _, (_, evicted) = self._entries.popitem(last=False)
            self._total -= evicted


async def read_conversation(
    tx: Tx,
    session_id: SessionId,
    through: int,
    budget: int,
    cached: Conversation | None = None,
) -> Conversation:
    """Read the conversation up to a sequence.

    Args:
        through: the sequence of the last event to include.
        budget: about how many tokens of the newest messages to read, if nothing is cached.
        cached: the conversation up to an earlier sequence; it is updated and returned.
    """
    if cached is not None and cached.head <= through:
        await _continue(tx, session_id, cached, through)
        return cached
    descending: list[Event] = []
    before, size, held, cut = through, 0, 0, False
    summary, begin = await _last_summary(tx, session_id, through)
    while True:
        page, more = await events_of_kinds(tx, session_id, HISTORY_TYPES, before=before, after=begin)
        descending.extend(page)
        held += sum(len(event.data) for event in page)
        size += sum(_text_size(event.data) for event in page)
        if not more:
            break
        # 6 characters of JSON per token are ample: a message's text is shorter.
        if size > budget * 6 or held > MOST:
            cut = True
            break
        before = page[-1].sequence - 1
    events = descending[::-1]
    if cut:
        first = next((i for i, event in enumerate(events) if _brings_message(event)), 0)
        events = events[first:]
    conversation = Conversation(cut=cut)
    for event in events if summary is None else (summary, *events):
        conversation.feed(event, event.sequence)
    conversation.head = through
    return conversation


def _brings_message(event: Event) -> bool:
    """Whether a user's message enters the conversation with this event."""
    if event.type == InputMessageData.kind:
        return not event.read(InputMessageData).queued
    return event.type == TurnStartedData.kind and event.read(TurnStartedData).message is not None


def _text_size(data: str) -> int:
    """The characters of an event, without those of images."""
    size, at = len(data), data.find(_IMAGE)
    while at >= 0:
        end = data.find('"', at + len(_IMAGE))
        size -= max(end, at) - at
        at = data.find(_IMAGE, max(end, at + 1))
    return size


async def _last_summary(tx: Tx, session_id: SessionId, through: int) -> tuple[Event | None, int]:
    """The event with the last summary, and the sequence after which the conversation continues."""
    compacted = await last_compaction(tx, session_id, through)
    data = None if compacted is None else compacted.read(ContextCompactedData)
    return (None, 0) if data is None or data.after is None else (compacted, data.after)


async def _continue(tx: Tx, session_id: SessionId, conversation: Conversation, through: int) -> None:
    """Add the events after the conversation and up to a sequence."""
    more = conversation.head < through
    while more:
        page, more = await events_within(
            tx, session_id, conversation.head, until=through, kinds=HISTORY_TYPES
        )
        for event in page:
            conversation.feed(event, event.sequence)
    conversation.head = through
