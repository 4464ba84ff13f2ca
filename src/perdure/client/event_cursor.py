"""Reads a list of events of which the server's pages hold only a part, because of their size."""

from __future__ import annotations

from perdure.domain.event_pages import EventPage
from perdure.domain.events import WireEvent

USUAL = 100
"""The server's limit if none is given."""


class EventCursor:
    """The events read so far, and where the next page begins."""

    def __init__(self, after: int | None, before: int | None, newest_first: bool, limit: int | None) -> None:
        self._after, self._before, self._newest_first = after, before, newest_first
        self._backwards = newest_first or before is not None
        self._left = limit
        self._events: list[WireEvent] = []
        self.done = False

    def params(self) -> list[tuple[str, int | None]]:
        """Return the query parameters of the next page."""
        bounds: list[tuple[str, int | None]] = [("before_sequence", self._before), ("limit", self._left)]
        # The server takes one bound: going backwards, the later one, from the second page on.
        return bounds if self._backwards and self._events else [("after_sequence", self._after), *bounds]

    def add(self, page: EventPage) -> None:
        """Add a page."""
        in_order = page.data if self._newest_first or not self._backwards else page.data[::-1]
        after = self._after or 0
        self._events += [event for event in in_order if (event.sequence or 0) > after or not self._backwards]
        self._left = (USUAL if self._left is None else self._left) - len(page.data)
        self.done = not page.has_more or not page.data or self._left <= 0
        if page.data and self._backwards:
            self._before = in_order[-1].sequence
            self.done = self.done or (self._before or 0) <= after
        elif page.data:
            self._after = in_order[-1].sequence

    def events(self) -> tuple[WireEvent, ...]:
        """Return all events, in the order that was asked for."""
        reverse = self._backwards and not self._newest_first
        return tuple(self._events[::-1] if reverse else self._events)
