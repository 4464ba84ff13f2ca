"""The log of a session: read it, follow it, decode its events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

import msgspec

from perdure.client import routes
from perdure.client.event_cursor import EventCursor
from perdure.client.follow import IDLE_TIMEOUT, PATIENCE, follow
from perdure.client.routes import Caller, path_of
from perdure.domain.event_pages import EventPage, EventsSummary
from perdure.domain.events import EVENT_DATA, LIVE_TYPES, WireEvent, decode_data

_EVENTS = "/v1/sessions/{}/events"


class EventMethods(Caller):
    """The client's methods about events."""

    get_events_summary = routes.reads(
        f"{_EVENTS}/summary", EventsSummary, "Count the events of a session by type."
    )

    async def list_events(
        self,
        session_id: str,
        *,
        since_id: str | None = None,
        types: Iterable[str] = (),
        exclude: Iterable[str] = (),
        after_sequence: int | None = None,
        before_sequence: int | None = None,
        turn_id: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> tuple[WireEvent, ...]:
        """List a part of the session's log, oldest first unless `newest_first` is set.

        Args:
            session_id: the session's id.
            since_id: only events after the one with this id. Cannot be combined with `after_sequence` or
                `before_sequence`.
            types: only events of these types.
            exclude: only events of other types.
            after_sequence: only events with a higher sequence.
            before_sequence: only events with a lower sequence.
            turn_id: only events of this turn.
            newest_first: reverse the order.
            limit: how many events to return, 1 to 1000.
        """
        fixed = [
            ("since_id", since_id),
            *(("types", kind) for kind in types),
            *(("exclude", kind) for kind in exclude),
            ("turn_id", turn_id),
            ("order_desc", "true" if newest_first else None),
        ]
        path = path_of(_EVENTS, session_id)
        cursor = EventCursor(after_sequence, before_sequence, newest_first, limit)
        while not cursor.done:
            cursor.add(await self.call("GET", path, EventPage, params=[*fixed, *cursor.params()]))
        return cursor.events()

    async def iterate_events(
        self,
        session_id: str,
        *,
        types: Iterable[str] = (),
        exclude: Iterable[str] = (),
        after_sequence: int = 0,
        turn_id: str | None = None,
    ) -> AsyncGenerator[WireEvent, None]:
        """Iterate over the session's log as it is now, oldest first, page by page.

        Args:
            session_id: the session's id.
            types: only events of these types.
            exclude: only events of other types.
            after_sequence: only events with a higher sequence.
            turn_id: only events of this turn.
        """
        kinds, others = tuple(types), tuple(exclude)
        while True:
            page = await self.list_events(
                session_id,
                types=kinds,
                exclude=others,
                after_sequence=after_sequence,
                turn_id=turn_id,
                limit=1000,
            )
            for event in page:
                yield event
            if len(page) < 1000:
                return
            after_sequence = page[-1].sequence or 0

    async def last_event_id(self, session_id: str) -> str | None:
        """Return the id of the log's last event. Pass it to `follow` as `since_id` to get only new events."""
        events = await self.list_events(session_id, newest_first=True, limit=1)
        return events[0].id if events else None

    def follow(
        self,
        session_id: str,
        since_id: str | None = None,
        types: Sequence[str] = (),
        exclude: Sequence[str] = (),
        *,
        idle_timeout: float = IDLE_TIMEOUT,
        patience: float = PATIENCE,
    ) -> AsyncGenerator[WireEvent, None]:
        """Yield the session's events after `since_id` (by default all), then new ones as they happen.

        This never ends. It reconnects automatically and resumes at its position: no logged event is lost or
        repeated. Live events (`output.message.delta` ...) may be lost or repeated around a reconnection; each
        contains the whole text so far.

        Args:
            session_id: the session's id.
            since_id: the id of the last event that the caller has seen.
            types: only events of these types.
            exclude: only events of other types.
            idle_timeout: seconds without a byte after which a connection counts as dead.
            patience: seconds without any answer after which this raises `Unreachable`.
        """
        path = path_of("/v1/sessions/{}/sse", session_id)
        return follow(
            self.transport, path, since_id, types, exclude, idle_timeout=idle_timeout, patience=patience
        )


def data_of(event: WireEvent) -> Any:
    """Decode an event's data into its struct from `perdure.domain.events`; plain JSON for an unknown type."""
    raw = bytes(event.data)
    return decode_data(event.type, raw) if event.type in EVENT_DATA else msgspec.json.decode(raw)


def is_live(event: WireEvent) -> bool:
    """Whether the event is live only, which means that it is not in the log."""
    return event.type in LIVE_TYPES
