"""The bus between processes on one PostgreSQL: a `LocalBus` in each, and a `Notifier` between them.

Live text travels in pieces that name their offset. A process keeps the text of a message only while somebody
there listens to that session; when a piece does not join on to what it has (it began to listen in the middle,
or pieces were lost), it asks for what it lacks, and the process whose runner speaks says it again. So that
whoever joins need not wait for that, the speaker also keeps a row in `drafts` for each message that takes
longer than a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
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
"""How long an answer to `Missing` is waited for before it is asked again."""
DRAFT_SECONDS = 1.0
"""How often a message's row is brought up to date; a message that is complete sooner never has one."""
FRESH_SECONDS = 5.0
"""How often the row of a message that does not grow is touched, to show that its speaker lives."""
STALE_SECONDS = 15.0
"""The age at which a row is taken for a dead speaker's."""
PURGE_SECONDS = 60.0
"""The age at which a row is removed, whoever wrote it, and how often each process looks for such rows."""

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_KEEP = (
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
_READ = (
    "SELECT kind, key, drafts.turn_id, sequence, start, name, context, text FROM drafts"
    " JOIN sessions ON sessions.id = drafts.session_id AND sessions.status = 'active'"
    f" WHERE session_id = $1 AND drafts.updated_at > {_NOW} - $2 ORDER BY drafts.updated_at"
)

log = logging.getLogger("perdure.store")


class _Heard(Struct):
    """What is known here of a message that a runner in another process speaks."""

    start: int
    turn_id: TurnId
    name: str
    context: str
    sequence: int
    text: str = ""
    told: int = 0
    """How much of the text the followers here have been handed."""
    at: float = 0.0

    def live(self, session_id: SessionId, kind: str, key: str, offset: int, text: str) -> Live:
        """The signal that a piece of it is, for the followers here."""
        where = (session_id, self.turn_id, key, cast("LiveKind", kind), self.sequence)
        return Live(*where, offset, text, self.text, self.name, self.context)


class _Kept(Struct):
    """What a message's row holds."""

    length: int
    at: float


class PostgresBus(LocalBus):
    """The bus of the scale-out database. The notifier is the caller's: close it after this."""

    def __init__(self, database: PostgresDatabase, notifier: Notifier) -> None:
        super().__init__()
        self._database = database
        self._notifier = notifier
        # Each by session, then by place (see `_place`).
        self._starts: dict[SessionId, dict[str, int]] = {}
        self._heard: dict[SessionId, dict[str, _Heard]] = {}
        self._asked: dict[SessionId, dict[str, float]] = {}
        self._kept: dict[SessionId, dict[str, _Kept]] = {}
        self._numbers = itertools.count(time.time_ns() // 1_000_000)
        self._over: set[SessionId] = set()
        self._purged = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._keeping: asyncio.Task[None] | None = None
        self._closed = False
        notifier.on_frames(self._receive)
        notifier.on_loss(self.lose)

    # --- what this process says ---------------------------------------------

    def publish(self, signal: Signal) -> None:
        super().publish(signal)
        if isinstance(signal, Stop):
            self._notifier.send(Halt(signal.session_id, signal.epoch))
        elif isinstance(signal, Appended):
            done = completes(signal)
            self._notifier.send(Grown(signal.session_id, signal.head, done))
            if done:
                self._forget(signal.session_id)
        elif signal.kind not in DRAFTED:
            self._say(signal, signal.offset, signal.text, 0, whole=True)
        else:
            starts, place = self._starts.setdefault(signal.session_id, {}), _place(signal.kind, signal.key)
            first = signal.offset == 0 or place not in starts
            if first:
                starts[place] = next(self._numbers)
            self._say(signal, signal.offset, signal.text, starts[place], whole=first)
            self._tick_in(DRAFT_SECONDS)

    def _say(self, live: Live, offset: int, text: str, start: int, *, whole: bool) -> None:
        frame = Said(live.session_id, live.kind, live.key, live.sequence, offset, text, start)
        if whole:
            frame = msgspec.structs.replace(frame, turn_id=live.turn_id, name=live.name, context=live.context)
        for piece in pieces(frame):
            self._notifier.send(piece)

    # --- what other processes say -------------------------------------------

    def _receive(self, frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, Said):
                if frame.session_id in self._ears:
                    self._hear(frame)
            elif isinstance(frame, Grown):
                if frame.done:
                    self._drafts.pop(frame.session_id, None)
                    self._forget(frame.session_id)
                self.deliver(Appended(frame.session_id, frame.head))
            elif isinstance(frame, Halt):
                super().publish(Stop(frame.session_id, frame.epoch))
            elif isinstance(frame, Missing):
                self._answer(frame)

    def _hear(self, frame: Said) -> None:
        where = (frame.session_id, frame.kind, frame.key)
        begun = _Heard(frame.start, frame.turn_id, frame.name, frame.context, frame.sequence)
        if frame.kind not in DRAFTED:
            self.deliver(begun.live(*where, frame.offset, frame.text))
            return
        texts, place = self._heard.setdefault(frame.session_id, {}), _place(frame.kind, frame.key)
        heard = texts.get(place)
        if heard is None or heard.start != frame.start:
            if frame.offset > 0 or not frame.turn_id:
                self._ask(frame, 0)
                return
            heard = texts[place] = begun
        have = len(heard.text)
        if frame.offset > have:
            self._ask(frame, have)
            return
        heard.text += frame.text[have - frame.offset :]
        heard.sequence, heard.at = frame.sequence, time.monotonic()
        if heard.told < len(heard.text) and not frame.more:
            told, heard.told = heard.told, len(heard.text)
            self.deliver(heard.live(*where, told, heard.text[told:]))

    def _ask(self, frame: Said, have: int) -> None:
        asked, place = self._asked.setdefault(frame.session_id, {}), _place(frame.kind, frame.key)
        now = time.monotonic()
        if now - asked.get(place, -ASK_SECONDS) >= ASK_SECONDS:
            asked[place] = now
            self._notifier.send(Missing(frame.session_id, frame.kind, frame.key, have))

    def _answer(self, frame: Missing) -> None:
        place = _place(frame.kind, frame.key)
        live = self._drafts.get(frame.session_id, {}).get(place)
        start = self._starts.get(frame.session_id, {}).get(place)
        if live is not None and start is not None:
            self._say(live, frame.offset, live.accumulated[frame.offset :], start, whole=True)

    def unsubscribe(self, subscription: Subscription) -> None:
        super().unsubscribe(subscription)
        if subscription.session_id not in self._ears:
            self._heard.pop(subscription.session_id, None)
            self._asked.pop(subscription.session_id, None)

    # --- drafts -------------------------------------------------------------

    async def drafts(self, session_id: SessionId) -> list[Live]:
        mine = await super().drafts(session_id)
        if mine:
            return mine
        rows: list[Row] = []
        with contextlib.suppress(Unavailable):  # the log will tell the whole story
            rows = await self._database.read(
                lambda tx: tx.all(_READ, session_id, int(STALE_SECONDS * 1_000_000))
            )
        found = {
            _place(kind, key): _Heard(start, turn_id, name, context, sequence, text, len(text))
            for kind, key, turn_id, sequence, start, name, context, text in rows
        }
        silent = time.monotonic() - STALE_SECONDS
        for place, heard in self._heard.get(session_id, {}).items():
            row = found.get(place)
            if (
                heard.at > silent
                if row is None
                else (row.start, len(row.text)) <= (heard.start, len(heard.text))
            ):
                found[place] = heard
        if found and session_id in self._ears:
            self._heard[session_id] = found  # the pieces that come next join on to it
        places = ((place.partition("/"), heard) for place, heard in found.items())
        return [heard.live(session_id, kind, key, 0, heard.text) for (kind, _, key), heard in places]

    def _forget(self, session_id: SessionId) -> None:
        """Nothing is being said in this session any more."""
        self._starts.pop(session_id, None)
        self._heard.pop(session_id, None)
        self._asked.pop(session_id, None)
        if self._kept.pop(session_id, None) is not None:
            self._over.add(session_id)
            self._tick_in(0.0)

    def _tick_in(self, seconds: float) -> None:
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None:
            # Remembered here: a timer of uvloop that is due at once does not tell.
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer, self._timer_due = loop.call_later(seconds, self._tick), due

    def _tick(self) -> None:
        self._timer = None
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.ensure_future(self._keep())
        elif self._over:
            self._tick_in(DRAFT_SECONDS / 10)

    async def _keep(self) -> None:
        """Bring the rows up to date, in one transaction for all the messages of this process."""
        over, self._over = list(self._over), set()
        due = self._due()
        purge = time.monotonic() - self._purged > PURGE_SECONDS
        if over or due:
            try:
                await self._database.write(lambda tx: _write(tx, over, due, purge))
            except Unavailable:
                self._over.update(over)
            except Exception:
                log.exception("the drafts of %d sessions could not be written", len(due))
            else:
                self._purged = time.monotonic() if purge else self._purged
        if self._drafts or self._over:
            self._tick_in(DRAFT_SECONDS)

    def _due(self) -> list[tuple[Live, int]]:
        due: list[tuple[Live, int]] = []
        now = time.monotonic()
        for session_id, lives in self._drafts.items():
            kept = self._kept.setdefault(session_id, {})
            for place, live in lives.items():
                row, length = kept.get(place), len(live.accumulated)
                if row is None or row.length != length or now - row.at > FRESH_SECONDS:
                    kept[place] = _Kept(length, now)
                    due.append((live, self._starts.get(session_id, {}).get(place, 0)))
        return due

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._keeping is not None:
            await asyncio.wait({self._keeping})
        over = [*self._over, *self._kept]
        if over:
            with contextlib.suppress(Unavailable):
                await self._database.write(lambda tx: _write(tx, over, [], purge=False))
        await super().close()


def _place(kind: str, key: str) -> str:
    """Where a `LocalBus` keeps a message's text among its session's."""
    return f"{kind}/{key}"


async def _write(tx: Tx, over: list[SessionId], due: list[tuple[Live, int]], purge: bool) -> None:
    if over:
        await tx.run("DELETE FROM drafts WHERE session_id = ANY($1::text[])", over)
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
        await tx.run(_KEEP, *map(list, zip(*rows, strict=True)))
    if purge:
        await tx.run(f"DELETE FROM drafts WHERE updated_at < {_NOW} - $1", int(PURGE_SECONDS * 1_000_000))


def _storable(live: Live) -> str:
    """The text without what PostgreSQL cannot hold, character for character, so that offsets stay right."""
    return live.accumulated.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
