"""Reads of logs: filtered lists, counts, and the messages of past model calls."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from msgspec import Struct

from perdure.app.context import App, Scope, Services
from perdure.app.damaged import presentable
from perdure.app.searches import search
from perdure.domain.accounts import Caller
from perdure.domain.derived_messages import as_read_by
from perdure.domain.errors import InvalidInput, Unavailable, UnreadableEvent
from perdure.domain.event_pages import EventsSummary, KindCount
from perdure.domain.events import Event, LlmGenerationData, PromptRef
from perdure.domain.history import HISTORY_TYPES, Conversation
from perdure.domain.ids import EventId, SessionId, is_live_event_id, sequence_of
from perdure.domain.messages import Message
from perdure.domain.times import to_rfc3339
from perdure.store.database import Tx
from perdure.store.events import (
    BATCH,
    EventFilter,
    count_kinds,
    events_after,
    events_within,
    id_of_event,
    list_events,
)
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow, get_session

NO_LIMIT = 1 << 60
KEPT = 2 * BATCH
"""Bytes of a page that is kept in memory while it is read from its other end. A larger one is read twice."""
PAGE_BYTES = 16 * 1024 * 1024
"""Bytes of events after which a page ends. A page of usual events has its limit before."""


class Cursor(Struct, frozen=True):
    """A place in a log: the id of an event, from this field of a request."""

    event_id: EventId
    field: str


async def sequence_of_cursor(tx: Tx, row: SessionRow, cursor: Cursor) -> int:
    """Return the sequence of the event that a cursor names.

    Raises:
        InvalidInput: the session has no such event. The client would wait for ever for a log that it has
            never seen: the id is another session's, or the log was restored from a backup.
    """
    sequence = sequence_of(cursor.event_id)
    if sequence <= row.head and (
        is_live_event_id(cursor.event_id, row.id)
        or await id_of_event(tx, row.id, sequence) == cursor.event_id
    ):
        return sequence
    raise InvalidInput(
        f"`{cursor.field}`: the session {row.id} has no event {cursor.event_id}. The id is another "
        "session's, or this one was restored from a backup: read its events from the start, and go on",
        code="unknown_cursor",
        field=cursor.field,
    )


class EventReader:
    """Reads a page of a log batch by batch, so that a page of any size takes little memory.

    Args:
        since: the place in the log after which to begin.
        limit: the most events.
        size: the bytes after which the page ends, whatever its limit.

    Attributes:
        more: whether the page ended because of its size or the time limit. The next page begins after the
            last event.
    """

    def __init__(
        self,
        app: Services,
        scope: Scope,
        session_id: SessionId,
        filters: EventFilter,
        limit: int,
        *,
        since: Cursor | None = None,
        newest_first: bool = False,
        size: int = PAGE_BYTES,
    ) -> None:
        self._app, self._scope, self._session_id = app, scope, session_id
        self._filters, self._since, self._newest_first = filters, since, newest_first
        self._left, self._room = limit, size
        self.more = False

    async def batches(self) -> AsyncIterator[list[Event]]:
        """Yield the page's events.

        Raises:
            NotFound: the session does not exist.
            InvalidInput: the cursor is not of this session's log.
        """
        begun = False
        while self._left:
            try:
                batch, more = await self._next()
            except Unavailable as error:
                if not begun or error.code != "read_timeout":
                    raise
                self.more = True  # what was found is an answer; the client continues after it
                return
            if not batch:
                return
            last, size, count = batch[-1].sequence, sum(len(event.data) for event in batch), len(batch)
            yield batch
            if not more:
                return
            begun, batch = True, []  # the events may be large, and the next are about to be read
            self._left -= count
            self._room -= size
            if self._room <= 0:
                self.more = True
                return
            bound = {"before": last} if self._newest_first else {"after": last}
            self._filters = msgspec.structs.replace(self._filters, **bound)

    async def oldest_first(self) -> AsyncIterator[list[Event]]:
        """Yield a page that is read newest first, oldest first. Raises the errors of `batches`."""
        given, kept, size, first, count = self._filters, list[Event](), 0, 0, 0
        async for batch in self.batches():
            first, count = batch[-1].sequence, count + len(batch)
            size += sum(len(event.data) for event in batch)
            kept = kept + batch if size <= KEPT else []
            batch.clear()
        if size <= KEPT:
            if kept:
                yield kept[::-1]
            return
        bounded = msgspec.structs.replace(given, after=first - 1)
        again = EventReader(self._app, self._scope, self._session_id, bounded, count, size=NO_LIMIT)
        async for batch in again.batches():
            yield batch
        if again.more:
            raise Unavailable("the page could not be read in time: ask for fewer events", code="read_timeout")

    async def all(self) -> list[Event]:
        """Read the whole page. Raises the errors of `batches`."""
        return [event async for batch in self.batches() for event in batch]

    async def _next(self) -> tuple[list[Event], bool]:
        filters = self._filters
        if filters.text is not None or filters.tags:
            return await search(self._app, self._scope, self._batch)
        heavy = self._left > 100 or "llm.generation" in filters.types or not filters.types
        return await self._app.database.read(self._batch, long=heavy)

    async def _batch(self, tx: Tx) -> tuple[list[Event], bool]:
        row = await get_session(tx, self._scope.organization_id, self._session_id)
        filters = self._filters
        if self._since is not None:
            after = max(await sequence_of_cursor(tx, row, self._since), filters.after or 0)
            filters = msgspec.structs.replace(filters, after=after)
        events, more = await list_events(
            tx, row.id, filters, self._left, size=BATCH, newest_first=self._newest_first
        )
        batch: list[Event] = []
        size = 0
        for event in map(presentable, events):
            if size > BATCH:
                return batch, True
            batch.append(await fill_prompt(tx, event) if event.type == "llm.generation" else event)
            size += len(batch[-1].data)
        return batch, more


async def events_around(
    app: Services,
    scope: Scope,
    session_id: SessionId,
    around: Cursor | int,
    window: int,
    filters: EventFilter,
) -> AsyncIterator[list[Event]]:
    """Yield an event, by its id or sequence, and up to `window` matching events on each side.

    Oldest first. Each side ends after `PAGE_BYTES` / 2.

    Raises:
        NotFound: the session does not exist.
        InvalidInput: the event is not of this session's log.
    """

    async def place(tx: Tx) -> int:
        row = await get_session(tx, scope.organization_id, session_id)
        return around if isinstance(around, int) else await sequence_of_cursor(tx, row, around)

    sequence = await app.database.read(place)
    older, newer = [
        EventReader(
            app,
            scope,
            session_id,
            msgspec.structs.replace(filters, **bound),
            limit,
            newest_first="before" in bound,
            size=PAGE_BYTES // 2,
        )
        for bound, limit in (({"before": sequence + 1}, window + 1), ({"after": sequence}, window))
    ]
    async for batch in older.oldest_first():
        yield batch
    async for batch in newer.batches():
        yield batch


async def summary_of_events(app: App, caller: Caller, session_id: SessionId) -> EventsSummary:
    """Count a log's events by type, and return the times of the first and the last."""

    async def work(tx: Tx) -> EventsSummary:
        row = await get_session(tx, caller.organization_id, session_id)
        kinds = await count_kinds(tx, row.id)
        counts = {kind: count for kind, count, _, _ in kinds}
        return EventsSummary(
            total=sum(counts.values()),
            turn_count=counts.get("turn.started", 0),
            error_count=counts.get("turn.failed", 0),
            by_type=tuple(KindCount(kind, count) for kind, count, _, _ in kinds),
            first_ts=to_rfc3339(min(k[2] for k in kinds)) if kinds else None,
            last_ts=to_rfc3339(max(k[3] for k in kinds)) if kinds else None,
        )

    return await app.database.read(work, long=True)


async def fill_prompt(tx: Tx, event: Event) -> Event:
    """Add the messages that the model got to an `llm.generation` event, rebuilt from the log (promise P7).

    If an event is damaged, there are none.
    """
    messages: list[Message] = []
    try:
        data = event.read(LlmGenerationData)
        if data.messages is not None:
            return event
        if data.prompt is not None:
            messages = await prompt_messages(tx, event.session_id, data.prompt)
    except UnreadableEvent:
        return event
    filled = msgspec.structs.replace(data, prompt=None, messages=tuple(messages))
    return msgspec.structs.replace(event, data=to_json(filled), _wire=None)


async def prompt_messages(tx: Tx, session_id: SessionId, prompt: PromptRef) -> list[Message]:
    """Rebuild the messages that a model call got."""
    conversation = await conversation_of(tx, session_id, prompt)
    if prompt.results is not None:
        conversation.fit_results(prompt.results)
    if prompt.before is not None:
        return conversation.messages_before(prompt.before)
    return as_read_by(conversation.prompt(NO_LIMIT)[0], prompt.reader)


async def conversation_of(tx: Tx, session_id: SessionId, prompt: PromptRef) -> Conversation:
    """Build the conversation from the part of a log that a prompt refers to."""
    conversation = Conversation()
    if prompt.summary is not None:
        for event in await events_after(tx, session_id, prompt.summary - 1, limit=1):
            conversation.feed(event, event.sequence)
    cursor = prompt.after
    while cursor < prompt.through:
        page, more = await events_within(tx, session_id, cursor, until=prompt.through, kinds=HISTORY_TYPES)
        for event in page:
            conversation.feed(event, event.sequence)
            cursor = event.sequence
        if not more:
            break
    return conversation
