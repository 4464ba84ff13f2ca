"""Appends of calls that run side by side: those that change rows as well share a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct, field

from perdure.domain.calls import CallStatus
from perdure.domain.event_data import EventData
from perdure.domain.events import NewEvent
from perdure.domain.ids import ToolCallId
from perdure.domain.turn import Calling, TurnState
from perdure.engine.outages import Also
from perdure.store.additions import Additions
from perdure.store.database import Tx


def status_of(state: TurnState, call_id: ToolCallId) -> CallStatus | None:
    """The status of a call of the turn's last answer; None if there is no such call."""
    calls = state.calls if isinstance(state, Calling) else ()
    return next((call.status for call in calls if call.id == call_id), None)


class Entry(Struct, eq=False):
    """What a call appends.

    Attributes:
        progress: whether it shows that the turn gets on.
        also: what the same transaction changes besides the log.
        alone: whether it shares no transaction, because one with others has failed.
        logged: whether it is in the log; None until that is known. It is not if the call has ended.
    """

    call_id: ToolCallId
    data: tuple[EventData, ...]
    progress: bool
    also: Also | None
    alone: bool = False
    logged: bool | None = None


class Opening(Struct, eq=False):
    """The start of calls, which the first of them appends with its own events.

    Attributes:
        calls: those of them that have neither come to append anything nor ended.
        fate: what has become of it. It is dropped if the log has moved: it is decided again whether the calls
            begin.
    """

    events: list[NewEvent]
    calls: set[ToolCallId]
    fate: Literal["held", "logged", "dropped"] = "held"
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, call_id: ToolCallId) -> None:
        """Note that a call has come to append something, or has ended."""
        self.calls.discard(call_id)
        if not self.calls:
            self.complete.set()

    async def wait(self, call_id: ToolCallId) -> None:
        """Wait until each call has come as far as this one, so that all of them share the append."""
        self.note(call_id)
        await self.complete.wait()


def joining(first: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries that are appended together with the first one, in the order in which they came.

    An agent that begins 25 others at once needs two transactions for them, not 25.
    """
    if not _joins(first):
        return [first]
    return [entry for entry in entries if entry.logged is None and _joins(entry)]


def _joins(entry: Entry) -> bool:
    return entry.also is not None and entry.progress and not entry.alone


def also_of(entries: Sequence[Entry]) -> Also | None:
    """Return what the transaction of these entries changes besides the log."""
    changes = [entry.also for entry in entries if entry.also is not None]
    if len(changes) <= 1:
        return changes[0] if changes else None
    kinds = {each.rows_of if isinstance(each, Additions) else None for each in changes}
    if len(kinds) == 1 and None not in kinds:
        alike = [each for each in changes if isinstance(each, Additions)]
        return Additions(alike[0].rows_of, tuple(item for each in alike for item in each.items))

    async def also(tx: Tx) -> None:
        for change in changes:
            await change(tx)

    return also
