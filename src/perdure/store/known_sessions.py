"""The rows of sessions whose turns ended here most recently, for the messages that come next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from perdure.domain.events import Event
from perdure.domain.ids import OrgId, SessionId
from perdure.store.sessions import SessionRow

T = TypeVar("T")

MOST = 2_000
"""The most sessions of which a row is kept, and the most that are known to need a lock."""
MOST_LOGS, MOST_EVENTS, MOST_CHARACTERS = 200, 50, 20_000
"""The most sub-agents of which the log is kept, and what is short."""


class KnownSessions:
    """Sessions as this process knew them last.

    A row may be outdated at any time: use it only for an append with `plain=True`, which finds that out.
    """

    def __init__(self) -> None:
        self._rows: OrderedDict[SessionId, SessionRow] = OrderedDict()
        self._logs: OrderedDict[SessionId, tuple[Event, ...]] = OrderedDict()
        self._locked: OrderedDict[SessionId, None] = OrderedDict()

    def put(self, row: SessionRow) -> None:
        """Keep a session's row."""
        _keep(self._rows, row.id, row)

    def outdate(self, session_id: SessionId, head: int) -> None:
        """Drop the row of a session whose log has grown to `head`."""
        row = self._rows.get(session_id)
        if row is not None and row.head < head:
            del self._rows[session_id]

    def discard(self, session_id: SessionId) -> None:
        """Drop what is known of a session."""
        self._rows.pop(session_id, None)
        self._logs.pop(session_id, None)

    def take(self, org_id: OrgId, session_id: SessionId) -> SessionRow | None:
        """Remove and return the row of an organization's session."""
        row = self._rows.get(session_id)
        if row is None or row.org_id != org_id:
            return None
        return self._rows.pop(session_id)

    def at_rest(self, session_id: SessionId) -> SessionRow | None:
        """Return the row of a session as its last turn here ended."""
        return self._rows.get(session_id)

    def follow(self, session_id: SessionId, events: Sequence[Event]) -> None:
        """Keep what a sub-agent's log begins with, and what follows it, as long as it is short."""
        known = self._logs.pop(session_id, ()) if events and events[0].sequence > 1 else ()
        log = (*known, *events)
        if log and log[-1].sequence == len(log) <= MOST_EVENTS and sum(map(_size, log)) <= MOST_CHARACTERS:
            _keep(self._logs, session_id, log, MOST_LOGS)

    def take_log(self, session_id: SessionId) -> tuple[Event, ...]:
        """Remove and return the whole log of a sub-agent; nothing if it is not kept."""
        return self._logs.pop(session_id, ())

    def needs_lock(self, session_id: SessionId) -> None:
        """Note that the session has secrets or variables, so that its appends are not plain."""
        _keep(self._locked, session_id, None)

    def is_plain(self, session_id: SessionId) -> bool:
        """Whether nothing is known that speaks against a plain append."""
        return session_id not in self._locked


def _size(event: Event) -> int:
    return len(event.data)


def _keep(entries: OrderedDict[SessionId, T], session_id: SessionId, value: T, most: int = MOST) -> None:
    """Add an entry; the one that was added longest ago goes if there are too many."""
    entries[session_id] = value
    entries.move_to_end(session_id)
    if len(entries) > most:
        entries.popitem(last=False)
