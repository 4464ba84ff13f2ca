"""Following a session: a cursor on its log, and the live text that is being written at its end."""

from __future__ import annotations

from functools import partial

import msgspec
from msgspec import Struct

from perdure.app.context import App
from perdure.app.events import fill_prompt
from perdure.domain.errors import NotFound
from perdure.domain.events import (
    LIVE_TYPES,
    Event,
    OutputMessageDeltaData,
    ReasonThinkingDeltaData,
    ToolOutputDeltaData,
    ToolProgressData,
)
from perdure.domain.ids import MessageId, OrgId, SessionId, ToolCallId, new_event_id
from perdure.domain.times import to_rfc3339
from perdure.store.bus import DRAFTED, Appended, Live
from perdure.store.database import Tx
from perdure.store.events import events_after, events_of_kinds
from perdure.store.rows import to_json
from perdure.store.sessions import look_session

POLL_EVERY = 5.0
"""Seconds after which a follower looks at the log although no wake-up came: wake-ups may be lost."""

PAGE = 500
"""Events read at a time."""

FILL = 256 * 1024
"""Bytes after which a batch is full; the rest stays in the log. This bounds what a follower who reads slowly
holds in memory."""

_ENDINGS = ("output.message.completed", "reason.completed", "session.idled")
"""With each of these, what was being said is in the log, or never will be."""

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
    """Which kinds of event a follower wants; empty `types` means all."""

    types: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()

    def __contains__(self, kind: str) -> bool:
        return (not self.types or kind in self.types) and kind not in self.exclude


class Follower:
    """A cursor: what is in the log after `after`, then what comes, without a gap or a repeat at the seam.

    Args:
        said: a sequence up to which all that was being said has ended; live text that began before it is
            stale.
    """

    def __init__(self, app: App, session_id: SessionId, after: int, said: int, want: Want) -> None:
        self._app = app
        self._session_id = session_id
        self._cursor = after
        self._said = said
        self._want = want
        self._live = any(kind in want for kind in LIVE_TYPES)
        self._sent: dict[str, int] = {}
        self._ear = app.bus.subscribe(session_id)
        self._behind = True
        self._joined = False
        self.gone = False

    @property
    def behind(self) -> bool:
        """Whether more is known to have happened than was told."""
        return self._behind or self._ear.lost or bool(self._ear.signals)

    def hurry(self) -> None:
        """Look at the log once more, now."""
        self._ear.lose()

    def close(self) -> None:
        """Stop listening."""
        self._app.bus.unsubscribe(self._ear)

    async def frames(self, timeout: float) -> list[Frame]:
        """The next frames, waiting for at most `timeout` seconds.

        An empty list is a sign that nothing happened.
        """
        if self._behind:
            found = await self._read()
            return found + await self._join()
        if not await self._ear.wait(min(timeout, POLL_EVERY)):
            self._behind = True  # no wake-up came: look at the log all the same, the next time
            return []
        signals, self._behind = self._ear.drain()
        found = []
        for signal in signals:
            if self._behind:  # the log tells the rest, and the drafts what is being said at its end
                self._joined = False
                break
            found += await self._take(signal)
        return found

    async def _read(self) -> list[Frame]:
        cursor, session_id = self._cursor, self._session_id

        async def body(tx: Tx) -> tuple[bool, list[Event]]:
            events = await events_after(tx, session_id, cursor, limit=PAGE)
            if (
                events and events[-1].type != "session.idled"
            ):  # a session is deleted at rest: its turn is ended first
                return True, events
            row = await look_session(tx, session_id)
            return row is not None and row.deleted_at is None, events

        alive, events = await self._app.database.read(body)
        self._behind = len(events) == PAGE
        found = await self._logged(events)
        self.gone = not alive and not self._behind
        return found

    async def _join(self) -> list[Frame]:
        """At the end of the log, once unless signals were missed: what is being written right now."""
        if self._joined or self._behind or not self._live:
            return []
        self._joined = True
        drafts = await self._app.bus.drafts(self._session_id)
        # Whatever was heard up to now is part of the drafts.
        heard = [
            signal
            for signal in self._ear.signals
            if not (isinstance(signal, Live) and signal.kind in DRAFTED)
        ]
        self._ear.signals.clear()
        self._ear.signals.extend(heard)
        return [frame for live in drafts for frame in self._delta(live)]

    async def _take(self, signal: Appended | Live) -> list[Frame]:
        if isinstance(signal, Live):
            return self._delta(signal) if self._live else []
        if signal.head <= self._cursor:
            self._behind = self._behind or signal.head == 0  # the session was deleted
            return []
        events = signal.events
        if not events or events[0].sequence > self._cursor + 1:
            self._behind = True
            return await self._read()
        return await self._logged([event for event in events if event.sequence > self._cursor])

    async def _logged(self, events: list[Event] | tuple[Event, ...]) -> list[Frame]:
        found: list[Frame] = []
        size = 0
        for event in events:
            if size > FILL:
                self._behind = True
                break
            self._cursor = event.sequence
            if event.type in _ENDINGS:
                self._said = event.sequence
                self._sent.clear()
            if event.type not in self._want:
                continue
            shown = event
            if event.type == "llm.generation":
                filled = partial(fill_prompt, event=event)
                shown = await self._app.database.read(filled, long=True)
            found.append(Frame(shown.id, shown.type, shown.wire()))
            size += len(found[-1].data)
        return found

    def _delta(self, live: Live) -> list[Frame]:
        kind = _LIVE_TYPE[live.kind]
        if kind not in self._want or (live.sequence < self._said and live.kind in DRAFTED):
            return []
        key = f"{live.kind}/{live.key}"
        sent = 0 if live.offset == 0 and len(live.text) == len(live.accumulated) else self._sent.get(key, 0)
        whole = len(live.accumulated)
        if live.kind in DRAFTED:
            if whole <= sent:
                return []
            self._sent[key] = whole
        # Nearly every follower is where the runner is, so one wire form serves them all.
        if live.frames is None:
            live.frames = {}
        shared = f"{sent}/{self._cursor}"
        data = live.frames.get(shared)
        if data is None:
            data = live.frames[shared] = _wire(live, kind, sent, self._cursor, self._app.now())
        return [Frame(data[7:45].decode(), kind, data)]


def _wire(live: Live, kind: str, sent: int, after: int, now: int) -> bytes:
    """The wire form; its id is a cursor: that of the last event which the follower has seen."""
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
    return (
        f'{{"id":"{new_event_id(after, now // 1000)}","type":"{kind}","ts":"{to_rfc3339(now)}",'
        f'"session_id":"{live.session_id}","context":{live.context},"data":{to_json(data)}}}'
    ).encode()


async def open_follower(app: App, org_id: OrgId, session_id: SessionId, after: int, want: Want) -> Follower:
    """A follower of the organization's session. Raises NotFound."""

    async def body(tx: Tx) -> int:
        row = await look_session(tx, session_id)
        if row is None or row.org_id != org_id or row.deleted_at is not None:
            raise NotFound("session")
        ended = await events_of_kinds(tx, session_id, _ENDINGS, before=after, limit=1) if after else []
        return ended[0].sequence if ended else 0

    said = await app.database.read(body)
    return Follower(app, session_id, after, said, want)
