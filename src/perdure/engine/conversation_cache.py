"""Conversations kept at hand between turns.

A log only grows, so a conversation folded up to some sequence is right for ever: nothing has to be
invalidated, only what came since is read. Dropping one costs a read, never correctness.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from perdure.domain.compaction import ContextCompactedData
from perdure.domain.events import Event
from perdure.domain.history import HISTORY_TYPES, Conversation
from perdure.domain.ids import SessionId
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds, last_compaction

PAGE = 500
"""Events read at a time."""


class Histories:
    """The most recently used conversations, bounded by about how much memory they take together.

    Args:
        budget: bytes, as `Conversation.weight` estimates them: 64 MB are some 40,000 short conversations.
    """

    def __init__(self, budget: int = 64_000_000) -> None:
        self._budget = budget
        self._held: OrderedDict[str, tuple[Conversation, int]] = OrderedDict()
        self._total = 0

    def take(self, session_id: SessionId) -> Conversation | None:
        """The conversation held for this session; it leaves the store, so that one runner has it alone."""
        found = self._held.pop(session_id, None)
        if found is None:
            return None
        self._total -= found[1]
        return found[0]

    def keep(self, session_id: SessionId, conversation: Conversation) -> None:
        """Hold a conversation for the next turn."""
        self.take(session_id)
        weight = conversation.weight()
        self._held[session_id] = (conversation, weight)
        self._total += weight
        while self._total > self._budget and self._held:
            _, (_, dropped) = self._held.popitem(last=False)
            self._total -= dropped


async def read_conversation(
    tx: Tx,
    session_id: SessionId,
    through: int,
    budget: int,
    held: Conversation | None = None,
    known: Sequence[Event] = (),
) -> Conversation:
    """The conversation up to a sequence.

    What is held, brought up to date, or else the newest of it within the budget.

    Args:
        budget: about how many tokens have to be there, if the log has them.
        known: the newest events of the log up to that sequence, as far as they have been read; none has been
            left out.
    """
    if held is not None and held.head <= through:
        missed = (
            known
            if known and known[0].sequence <= held.head + 1
            else await _missed(tx, session_id, held.head, through)
        )
        for event in missed:
            if event.sequence > held.head:
                held.feed(event, event.sequence)
        held.head = through
        return held
    newest: list[Event] = []
    before, size, cut = through, 0, False
    summary, begin = await _summary(tx, session_id, through)
    while True:
        page = await events_of_kinds(tx, session_id, HISTORY_TYPES, before=before, after=begin, limit=PAGE)
        newest.extend(page)
        size += sum(len(event.data) for event in page)
        if len(page) < PAGE:
            break
        if size > budget * 6:  # JSON of a message is longer than its text: 6 characters a token is ample
            cut = True
            break
        before = page[-1].sequence - 1
    events = newest[::-1]
    if cut:
        first = next((i for i, event in enumerate(events) if event.type == "input.message"), 0)
        events = events[first:]
    conversation = Conversation(cut=cut)
    for event in events if summary is None else (summary, *events):
        conversation.feed(event, event.sequence)
    conversation.head = through
    return conversation


async def _summary(tx: Tx, session_id: SessionId, through: int) -> tuple[Event | None, int]:
    """The event with the summary that the conversation begins with, and where in the log it goes on."""
    found = await last_compaction(tx, session_id, through)
    data = None if found is None else found.read(ContextCompactedData)
    return (None, 0) if data is None or data.after is None else (found, data.after)


async def _missed(tx: Tx, session_id: SessionId, after: int, through: int) -> list[Event]:
    missed: list[Event] = []
    before = through
    while before > after:
        page = await events_of_kinds(tx, session_id, HISTORY_TYPES, before=before, after=after, limit=PAGE)
        missed.extend(page)
        if len(page) < PAGE:
            break
        before = page[-1].sequence - 1
    return missed[::-1]
