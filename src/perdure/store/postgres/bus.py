"""The bus between processes on one PostgreSQL: a `LocalBus` in each, connected by a `Notifier`.

Live text travels in deltas with offsets. A process keeps the text of a message only while it has a subscriber
to that session. If a delta does not continue the text that the process has (it subscribed in the middle, or
deltas were lost), the process requests the missing text, and the process that runs the session sends it
again. So that new followers need not wait for this, the running process also maintains a row in `drafts` for
each message that takes longer than `DRAFT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from typing import cast

import msgspec
from msgspec import Struct

from perdure.domain.errors import Unavailable
from perdure.domain.ids import SessionId, TurnId
from perdure.store.bus import (
    DRAFTED,
    Appended,
    Live,
    LiveKind,
    LocalBus,
    Signal,
    Stop,
    Subscription,
    completes,
)
from perdure.store.database import Row, Tx
from perdure.store.postgres.database import PostgresDatabase
from perdure.store.postgres.notify import Frame, Grown, Halt, Missing, Notifier, Said, pieces

ASK_SECONDS = 0.5
"""How long to wait for an answer to `Missing` before sending it again."""
DRAFT_SECONDS = 1.0
"""How often a message's row is updated; a message that is complete sooner never gets one."""
FRESH_SECONDS = 5.0
"""How often the row of a message that does not grow is updated, to show that its process is alive."""
STALE_SECONDS = 15.0
"""The age at which a row is ignored, because the process that wrote it must have died."""
CLOSE_SECONDS = 5.0
"""How long `close` waits for an update of the rows that is in progress."""
PURGE_SECONDS = 60.0
"""The age at which any process removes a row, and how often each process looks for such rows."""

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_UPSERT_DRAFTS = (
    "INSERT INTO drafts (session_id, org_id, kind, key, turn_id, sequence, start, name, context, text,"
    " updated_at)"
    " SELECT said.session_id, sessions.org_id, kind, key, said.turn_id, sequence, start, name, context, text,"
    f" {_NOW}"
    " FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[],"
    " $8::text[],"
    " $9::text[]) AS said (session_id, kind, key, turn_id, sequence, start, name, context, text)"
    " JOIN sessions ON sessions.id = said.session_id AND sessions.deleted_at IS NULL"
    " ON CONFLICT (session_id, kind, key) DO UPDATE"
    " SET turn_id = excluded.turn_id, sequence = excluded.sequence,"
    " start = excluded.start, name = excluded.name, context = excluded.context, text = excluded.text,"
    " updated_at = excluded.updated_at"
)
_READ_DRAFTS = (
    "SELECT kind, key, drafts.turn_id, sequence, start, name, context, text FROM drafts"
    " JOIN sessions ON sessions.id = drafts.session_id AND sessions.status = 'active'"
    f" WHERE session_id = $1 AND drafts.updated_at > {_NOW} - $2 ORDER BY drafts.updated_at"
)

log = logging.getLogger("perdure.store")


class _RemoteText(Struct):
    """The live text, as known here, of a message that another process writes."""

    start: int
    turn_id: TurnId
    name: str
    context: str
    sequence: int
    text: str = ""
    delivered: int = 0
    """How many characters of the text the followers in this process have received."""
    at: float = 0.0

    def live(self, session_id: SessionId, kind: str, key: str, offset: int, text: str) -> Live:
        """Return the signal of a delta of this text, for the followers in this process."""
        where = (session_id, self.turn_id, key, cast("LiveKind", kind), self.sequence)
        return Live(*where, offset, text, self.text, self.name, self.context)


class _Draft(Struct):
    """The state of a message's row: the characters of text in it, and when it was written."""

    length: int
    at: float


class PostgresBus(LocalBus):
    """The bus for PostgreSQL. The caller owns the notifier, and closes it after this bus."""

    def __init__(self, database: PostgresDatabase, notifier: Notifier) -> None:
        super().__init__()
        self._database = database
        self._notifier = notifier
        # By session, then by message (see `_text_key`).
        self._starts: dict[SessionId, dict[str, int]] = {}
        self._remote_texts: dict[SessionId, dict[str, _RemoteText]] = {}
        self._asked: dict[SessionId, dict[str, float]] = {}
        self._written_drafts: dict[SessionId, dict[str, _Draft]] = {}
        self._start_numbers = itertools.count(time.time_ns() // 1_000_000)
        self._ended: set[SessionId] = set()
        self._grown: list[Callable[[SessionId, int], None]] = []
        self._purged = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._draft_task: asyncio.Task[None] | None = None
        self._closed = False
        notifier.on_frames(self._receive)
        notifier.on_loss(self.lose)

    def on_grown(self, call: Callable[[SessionId, int], None]) -> None:
        self._grown.append(call)

    # --- outgoing ------------------------------------------------------------

    def publish(self, signal: Signal) -> None:
        super().publish(signal)
        if isinstance(signal, Stop):
            self._notifier.send(Halt(signal.session_id, signal.epoch, signal.gone, signal.task_id))
        elif isinstance(signal, Appended):
            done = completes(signal)
            self._notifier.send(Grown(signal.session_id, signal.head, done))
            if done:
                self._forget(signal.session_id)
        elif signal.kind not in DRAFTED:
            self._send_text(signal, signal.offset, signal.text, 0, whole=True)
        else:
            starts, text_key = (
                self._starts.setdefault(signal.session_id, {}),
                _text_key(signal.kind, signal.key),
            )
            first = signal.offset == 0 or text_key not in starts
            if first:
                starts[text_key] = next(self._start_numbers)
            self._send_text(signal, signal.offset, signal.text, starts[text_key], whole=first)
            self._tick_in(DRAFT_SECONDS)

    def _send_text(self, live: Live, offset: int, text: str, start: int, *, whole: bool) -> None:
        frame = Said(live.session_id, live.kind, live.key, live.sequence, offset, text, start)
        if whole:
            frame = msgspec.structs.replace(frame, turn_id=live.turn_id, name=live.name, context=live.context)
        for piece in pieces(frame):
            self._notifier.send(piece)

    # --- incoming ------------------------------------------------------------

    def _receive(self, frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, Said):
                if self.wants_live(frame.session_id):
                    self._receive_text(frame)
            elif isinstance(frame, Grown):
                if frame.done:
                    self._drafts.pop(frame.session_id, None)
                    self._forget(frame.session_id)
                for grown in self._grown:
                    grown(frame.session_id, frame.head)
                self.deliver(Appended(frame.session_id, frame.head))
            elif isinstance(frame, Halt):
                super().publish(Stop(frame.session_id, frame.epoch, frame.gone, frame.task_id))
            elif isinstance(frame, Missing):
                self._resend(frame)

    def _receive_text(self, frame: Said) -> None:
        where = (frame.session_id, frame.kind, frame.key)
        begun = _RemoteText(frame.start, frame.turn_id, frame.name, frame.context, frame.sequence)
        if frame.kind not in DRAFTED:
            self.deliver(begun.live(*where, frame.offset, frame.text))
            return
        texts, text_key = (
            self._remote_texts.setdefault(frame.session_id, {}),
            _text_key(frame.kind, frame.key),
        )
        remote = texts.get(text_key)
        if remote is None or remote.start != frame.start:
            if frame.offset > 0 or not frame.turn_id:
                self._request(frame, 0)
                return
            remote = texts[text_key] = begun
        have = len(remote.text)
        if frame.offset > have:
            self._request(frame, have)
            return
        remote.text += frame.text[have - frame.offset :]
        remote.sequence, remote.at = frame.sequence, time.monotonic()
        if remote.delivered < len(remote.text) and not frame.more:
            delivered, remote.delivered = remote.delivered, len(remote.text)
            self.deliver(remote.live(*where, delivered, remote.text[delivered:]))

    def _request(self, frame: Said, have: int) -> None:
        asked, text_key = self._asked.setdefault(frame.session_id, {}), _text_key(frame.kind, frame.key)
        now = time.monotonic()
        if now - asked.get(text_key, -ASK_SECONDS) >= ASK_SECONDS:
            asked[text_key] = now
            self._notifier.send(Missing(frame.session_id, frame.kind, frame.key, have))

    def _resend(self, frame: Missing) -> None:
        text_key = _text_key(frame.kind, frame.key)
        live = self._drafts.get(frame.session_id, {}).get(text_key)
        start = self._starts.get(frame.session_id, {}).get(text_key)
        if live is not None and start is not None:
            self._send_text(live, frame.offset, live.accumulated[frame.offset :], start, whole=True)

    def unsubscribe(self, subscription: Subscription) -> None:
        super().unsubscribe(subscription)
        if not self.wants_live(subscription.session_id):
            self._remote_texts.pop(subscription.session_id, None)
            self._asked.pop(subscription.session_id, None)

    # --- drafts -------------------------------------------------------------

    def discard(self, session_id: SessionId) -> None:
        super().discard(session_id)
        self._forget(session_id)

    async def drafts(self, session_id: SessionId) -> list[Live]:
        local = await super().drafts(session_id)
        if local:
            return local
        rows: list[Row] = []
        with contextlib.suppress(Unavailable):  # a follower gets the complete messages from the log
            rows = await self._database.read(
                lambda tx: tx.all(_READ_DRAFTS, session_id, int(STALE_SECONDS * 1_000_000))
            )
        found = {
            _text_key(kind, key): _RemoteText(start, turn_id, name, context, sequence, text, len(text))
            for kind, key, turn_id, sequence, start, name, context, text in rows
        }
        silent = time.monotonic() - STALE_SECONDS
        for text_key, remote in self._remote_texts.get(session_id, {}).items():
            row = found.get(text_key)
            if (
                remote.at > silent
                if row is None
                else (row.start, len(row.text)) <= (remote.start, len(remote.text))
            ):
                found[text_key] = remote
        if found and session_id in self._subscriptions:
            self._remote_texts[session_id] = found  # later deltas continue these texts
        texts_by_key = ((text_key.partition("/"), remote) for text_key, remote in found.items())
        return [remote.live(session_id, kind, key, 0, remote.text) for (kind, _, key), remote in texts_by_key]

    def _forget(self, session_id: SessionId) -> None:
        """Discard a session's live text, which has ended."""
        self._starts.pop(session_id, None)
        self._remote_texts.pop(session_id, None)
        self._asked.pop(session_id, None)
        if self._written_drafts.pop(session_id, None) is not None:
            self._ended.add(session_id)
            self._tick_in(0.0)

    def _tick_in(self, seconds: float) -> None:
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None:
            # The due time is drafts here because a uvloop timer that is due at once does not report it.
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer, self._timer_due = loop.call_later(seconds, self._tick), due

    def _tick(self) -> None:
        self._timer = None
        if self._draft_task is None or self._draft_task.done():
            self._draft_task = asyncio.ensure_future(self._update_drafts())
        elif self._ended:
            self._tick_in(DRAFT_SECONDS / 10)

    async def _update_drafts(self) -> None:
        """Update the rows of all this process's messages in one transaction."""
        ended, self._ended = list(self._ended), set()
        due = self._due()
        purge = time.monotonic() - self._purged > PURGE_SECONDS
        if ended or due:
            try:
                await self._database.write(lambda tx: _write(tx, ended, due, purge))
            except Unavailable:
                self._ended.update(ended)
            except Exception:
                log.exception("the drafts of %d sessions could not be written", len(due))
            else:
                self._purged = time.monotonic() if purge else self._purged
        if self._drafts or self._ended:
            self._tick_in(DRAFT_SECONDS)

    def _due(self) -> list[tuple[Live, int]]:
        due: list[tuple[Live, int]] = []
        now = time.monotonic()
        for session_id, lives in self._drafts.items():
            drafts = self._written_drafts.setdefault(session_id, {})
            for text_key, live in lives.items():
                row, length = drafts.get(text_key), len(live.accumulated)
                if row is None or row.length != length or now - row.at > FRESH_SECONDS:
                    drafts[text_key] = _Draft(length, now)
                    due.append((live, self._starts.get(session_id, {}).get(text_key, 0)))
        return due

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._draft_task is not None:
            await asyncio.wait({self._draft_task}, timeout=CLOSE_SECONDS)
        ended = [*self._ended, *self._written_drafts]
        if ended:
            with contextlib.suppress(Unavailable):
                await self._database.write(lambda tx: _write(tx, ended, [], purge=False))
        await super().close()


def _text_key(kind: str, key: str) -> str:
    """Return the key under which a `LocalBus` keeps a message's text."""
    return f"{kind}/{key}"


async def _write(tx: Tx, ended: list[SessionId], due: list[tuple[Live, int]], purge: bool) -> None:
    if ended:
        await tx.run("DELETE FROM drafts WHERE session_id = ANY($1::text[])", ended)
    if due:
        rows = [
            (
                it.session_id,
                it.kind,
                it.key,
                it.turn_id,
                it.sequence,
                start,
                it.name,
                it.context,
                _storable(it),
            )
            for it, start in due
        ]
        await tx.run(_UPSERT_DRAFTS, *map(list, zip(*rows, strict=True)))
    if purge:
        await tx.run(f"DELETE FROM drafts WHERE updated_at < {_NOW} - $1", int(PURGE_SECONDS * 1_000_000))


def _storable(live: Live) -> str:
    """Replace the characters that PostgreSQL cannot store, one for one, so that offsets stay valid."""
    return live.accumulated.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
