"""Followers of sessions: a cursor on the log, and the live text after its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct

from perdure.app.context import App
from perdure.app.damaged import presentable
from perdure.app.events import Cursor, fill_prompt, sequence_of_cursor
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.events import (
    LIVE_TYPES,
    Event,
    OutputMessageDeltaData,
    ReasonThinkingDeltaData,
    ToolOutputDeltaData,
    ToolProgressData,
)
from perdure.domain.ids import MessageId, SessionId, ToolCallId, UserId, live_event_id
from perdure.domain.times import to_rfc3339
from perdure.store.bus import DRAFTED, Appended, Live
from perdure.store.confidential import reader_of
from perdure.store.database import Tx
from perdure.store.events import events_of_kinds, events_within
from perdure.store.rows import to_json
from perdure.store.sessions import look_session

POLL_EVERY = 5.0
"""Seconds after which a follower reads the log without a wake-up, because wake-ups may be lost."""

PAGE = 500
"""The most events read at a time."""

FILL = 256 * 1024
"""Bytes after which a batch is full; the rest stays in the log. This bounds the memory of a slow follower."""

_ENDINGS = ("output.message.completed", "reason.completed", "session.idled")
"""The events that end live text: it is then in the log, or never will be."""

_LIVE_TYPE = {
    "text": "output.message.delta",
    "thinking": "reason.thinking.delta",
    "progress": "tool.progress",
    "stdout": "tool.output.delta",
    "stderr": "tool.output.delta",
}


class Frame(Struct, frozen=True):
    """One event for a follower. `data` is its wire JSON."""

    id: str
    type: str
    data: bytes


class Want(Struct, frozen=True):
    """The types of event that a follower wants; empty `types` means all."""

    types: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()

    def __contains__(self, kind: str) -> bool:
        return (not self.types or kind in self.types) and kind not in self.exclude


def _now() -> float:
    return asyncio.get_running_loop().time()


class Follower:
    """A cursor on a session: the events after `after`, then new ones, without a gap or a repetition.

    Args:
        after: the sequence of the last event that the client has seen.
        text_ended: the sequence of the last event that ended live text; live text from before it is stale.
        want: the types of event that the client wants.
        guest: the user who follows another one's session: it may be closed to them at any time.
    """

    def __init__(
        self,
        app: App,
        session_id: SessionId,
        after: int,
        text_ended: int,
        want: Want,
        guest: UserId | None = None,
    ) -> None:
        self._app = app
        self._session_id = session_id
        self._cursor = after
        self._text_ended = text_ended
        self._want = want
        self._guest = guest
        self._live = any(kind in want for kind in LIVE_TYPES)
        self._sent: dict[str, int] = {}
        self._subscription = app.bus.subscribe(session_id, live=self._live)
        self._must_read = True
        self._joined = False
        self._look_at = _now() + POLL_EVERY
        self.gone = False

    @property
    def behind(self) -> bool:
        """Whether the follower knows of events that it has not returned yet."""
        return self._must_read or self._subscription.lost or bool(self._subscription.signals)

    def hurry(self) -> None:
        """Read the log again at once."""
        self._subscription.lose()

    def close(self) -> None:
        """End the subscription."""
        self._app.bus.unsubscribe(self._subscription)

    async def frames(self, timeout: float) -> list[Frame]:
        """Return the next frames, after waiting up to `timeout` seconds; an empty list if none came."""
        if self._must_read:
            if await self._is_closed():
                return []
            frames = await self._read()
            return frames + await self._join()
        if not await self._subscription.wait(max(0, min(timeout, self._look_at - _now()))):
            if _now() >= self._look_at:
                self._must_read = await self._has_changed()  # a wake-up may have been lost
                self._look_at = _now() + POLL_EVERY
            return []
        signals, self._must_read = self._subscription.drain()
        if await self._is_closed():
            return []
        frames = []
        for signal in signals:
            if self._must_read:  # signals were lost: read the log, then the live text from the drafts
                self._joined = False
                break
            frames += await self._take(signal)
        return frames

    async def _is_closed(self) -> bool:
        """Whether the session has been closed to the guest: what has come since is not for them."""
        if self._guest is None:
            return False
        session_id = self._session_id
        reader = await self._app.database.read(lambda tx: reader_of(tx, session_id))
        self.gone = reader is not None and reader != self._guest
        return self.gone

    async def _has_changed(self) -> bool:
        """Whether the log has grown or the session was deleted, which nearly always a wake-up tells."""
        cursor = self._cursor
        return await self._app.looks.head(self._app.database, self._session_id) != cursor

    async def _read(self) -> list[Frame]:
        cursor, session_id = self._cursor, self._session_id

        async def body(tx: Tx) -> tuple[bool, list[Event], bool]:
            events, more = await events_within(tx, session_id, cursor, size=FILL, limit=PAGE)
            # Deleting a session ends its turn first, so only an idle one can have been deleted.
            if events and events[-1].type != "session.idled":
                return True, events, more
            row = await look_session(tx, session_id)
            return row is not None and row.deleted_at is None, events, more

        alive, events, self._must_read = await self._app.database.read(body)
        frames = await self._logged([presentable(event) for event in events])
        self.gone = not alive and not self._must_read
        return frames

    async def _join(self) -> list[Frame]:
        """Return the live text once the log is read to its end; again only after lost signals."""
        if self._joined or self._must_read or not self._live:
            return []
        self._joined = True
        drafts = await self._app.bus.drafts(self._session_id)
        # The drafts already contain the deltas that have arrived so far.
        others = [
            signal
            for signal in self._subscription.signals
            if not (isinstance(signal, Live) and signal.kind in DRAFTED)
        ]
        self._subscription.signals.clear()
        self._subscription.signals.extend(others)
        return [frame for live in drafts for frame in self._delta(live)]

    async def _take(self, signal: Appended | Live) -> list[Frame]:
        if isinstance(signal, Live):
            return self._delta(signal) if self._live else []
        if signal.head <= self._cursor:
            self._must_read = self._must_read or signal.head == 0  # the session was deleted
            return []
        events = signal.events
        if not events or events[0].sequence > self._cursor + 1:
            self._must_read = True
            return await self._read()
        return await self._logged([event for event in events if event.sequence > self._cursor])

    async def _logged(self, events: list[Event] | tuple[Event, ...]) -> list[Frame]:
        frames: list[Frame] = []
        size = 0
        for event in events:
            if size > FILL:
                self._must_read = True
                break
            self._cursor = event.sequence
            if event.type in _ENDINGS:
                self._text_ended = event.sequence
                self._sent.clear()
            if event.type not in self._want:
                continue
            filled_event = event
            if event.type == "llm.generation":
                filled = partial(fill_prompt, event=event)
                filled_event = await self._app.database.read(filled, long=True)
            frames.append(Frame(filled_event.id, filled_event.type, filled_event.wire()))
            size += len(frames[-1].data)
        return frames

    def _delta(self, live: Live) -> list[Frame]:
        kind = _LIVE_TYPE[live.kind]
        if kind not in self._want or (live.sequence < self._text_ended and live.kind in DRAFTED):
            return []
        key = f"{live.kind}/{live.key}"
        sent = 0 if live.offset == 0 and len(live.text) == len(live.accumulated) else self._sent.get(key, 0)
        whole = len(live.accumulated)
        if live.kind in DRAFTED:
            if whole <= sent:
                return []
            self._sent[key] = whole
        # Nearly all followers have seen the same text, so they share one encoded frame.
        if live.frames is None:
            live.frames = {}
        shared = f"{sent}/{self._cursor}"
        data = live.frames.get(shared)
        if data is None:
            data = live.frames[shared] = _wire(live, kind, sent, self._cursor, self._app.now())
        return [Frame(data[7:45].decode(), kind, data)]


def _wire(live: Live, kind: str, sent: int, after: int, now: int) -> bytes:
    """Encode a delta. Its id is a cursor for resuming after the last event that the follower has seen."""
    data: msgspec.Struct
    match live.kind:
        case "text":
            data = OutputMessageDeltaData(
                live.turn_id, live.accumulated[sent:], live.accumulated, MessageId(live.key)
            )
        case "thinking":
            data = ReasonThinkingDeltaData(
                live.turn_id, live.accumulated[sent:], live.accumulated, MessageId(live.key)
            )
        case "progress":
            data = ToolProgressData(ToolCallId(live.key), live.name, live.text)
        case "stdout" | "stderr":
            data = ToolOutputDeltaData(ToolCallId(live.key), live.name, live.text, live.kind)
    identity = live_event_id(live.session_id, after, now // 1000)
    return (
        f'{{"id":"{identity}","type":"{kind}","ts":"{to_rfc3339(now)}",'
        f'"session_id":"{live.session_id}","context":{live.context},"data":{to_json(data)}}}'
    ).encode()


async def open_follower(
    app: App, caller: Caller, session_id: SessionId, after: int, want: Want, cursors: Sequence[Cursor] = ()
) -> Follower:
    """Open a follower of the organization's session after a sequence and the latest of these cursors.

    Raises:
        NotFound: the session does not exist.
        InvalidInput: a cursor is not of this session's log, or beyond its end.
    """

    async def body(tx: Tx) -> tuple[int, int, UserId]:
        row = await look_session(tx, session_id)
        if row is None or row.org_id != caller.organization_id or row.deleted_at is not None:
            raise NotFound("session")
        if after > row.head:
            raise InvalidInput(
                f"`after_sequence` is {after}, but the session has only {row.head} events: "
                "follow again from its last event, or from the start",
                code="unknown_cursor",
                field="after_sequence",
            )
        known = [await sequence_of_cursor(tx, row, cursor) for cursor in cursors]
        begin = max(after, *known, 0)
        ended: list[Event] = []
        if begin:
            ended, _ = await events_of_kinds(tx, session_id, _ENDINGS, before=begin, limit=1)
        return begin, ended[0].sequence if ended else 0, row.owner_id

    begin, text_ended, owner_id = await app.database.read(body)
    guest = None if caller.user_id == owner_id else caller.user_id
    return Follower(app, session_id, begin, text_ended, want, guest)
