"""The wire between processes on one PostgreSQL.

One connection to LISTEN and NOTIFY, and the frames that travel on it.

A NOTIFY inside a transaction that writes makes commits wait for one another, so none is ever sent there: what
a process has to say is gathered for a moment and sent on this connection. Frames may be lost (a broken
connection, a full buffer); whoever hears them is told when that may have happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.backoff import backoff
from perdure.domain.errors import Unavailable
from perdure.domain.ids import SessionId, TurnId
from perdure.store.postgres.database import PostgresDatabase, is_connection_error

CHANNEL = "perdure_1"
"""The number is the format's: processes of another version, mid-upgrade, do not hear what they cannot
read."""
PAYLOAD_LIMIT = 7_900
"""Bytes of one NOTIFY; PostgreSQL allows fewer than 8,000."""
TEXT_LIMIT = 1_200
"""Characters of text in one frame: six bytes each at worst, as JSON."""
BATCH = 20
"""Frames that are worth a NOTIFY of their own."""
GATHER_SECONDS = 0.015
"""How long frames are gathered after the last NOTIFY; the first after a silence goes out at once."""
PENDING_LIMIT = 5_000
"""Frames that wait for the connection; beyond it, live text is dropped (followers ask for what they miss)."""
PING_SECONDS = 15.0
"""A silent connection is tried this often: a partition breaks it without a word."""
REPLY_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
MOST_PAUSE_SECONDS = 5.0
"""First and longest pause between attempts to connect."""


class Woke(Struct, array_like=True, tag="q", frozen=True):
    """There is a new job in the queue."""


class Grown(Struct, array_like=True, tag="a", frozen=True):
    """A log has grown to `head`; `done`: nothing is being said in that session any more."""

    session_id: SessionId
    head: int
    done: bool


class Said(Struct, array_like=True, tag="l", frozen=True):
    """A piece of live text.

    `start` numbers the text's beginning: another number, another text. `more`: the rest follows at once. The
    fields after it come with the first piece, and with an answer to `Missing`.
    """

    session_id: SessionId
    kind: str
    key: str
    sequence: int
    offset: int
    text: str
    start: int
    more: bool = False
    turn_id: TurnId = TurnId("")
    name: str = ""
    context: str = ""


class Missing(Struct, array_like=True, tag="w", frozen=True):
    """Somebody lacks the live text from `offset` on: whoever speaks it, say it again."""

    session_id: SessionId
    kind: str
    key: str
    offset: int


class Halt(Struct, array_like=True, tag="s", frozen=True):
    """Runners of this session with an older epoch are to stop."""

    session_id: SessionId
    epoch: int


Frame = Woke | Grown | Said | Missing | Halt


class _Packet(Struct, array_like=True):
    sender: str
    number: int
    frames: list[Frame]


_DECODER = msgspec.json.Decoder(_Packet)
_NOTIFY = f"SELECT pg_notify('{CHANNEL}', payload) FROM unnest($1::text[]) AS payload"

log = logging.getLogger("perdure.store")


def pieces(frame: Said) -> Iterable[Said]:
    """The frame itself, or several with its text in order where it is too long for one."""
    if len(frame.text) <= TEXT_LIMIT:
        yield frame
        return
    yield msgspec.structs.replace(frame, text=frame.text[:TEXT_LIMIT], more=True)
    where = (frame.session_id, frame.kind, frame.key, frame.sequence)
    for begin in range(TEXT_LIMIT, len(frame.text), TEXT_LIMIT):
        text, more = frame.text[begin : begin + TEXT_LIMIT], begin + TEXT_LIMIT < len(frame.text)
        yield Said(*where, frame.offset + begin, text, frame.start, more)


class Notifier:
    """This process's ear and voice. Make it with `open_notifier`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._sender = secrets.token_hex(6)
        self._own = f'["{self._sender}"'
        self._number = 0
        self._pending: deque[Frame] = deque()
        self._resting = False
        self._due: asyncio.Future[None] | None = None
        self._connected = False
        self._closing = False
        self._hearers: list[Callable[[list[Frame]], None]] = []
        self._losers: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def on_frames(self, call: Callable[[list[Frame]], None]) -> None:
        """Have the frames of other processes handed to this function, in their order."""
        self._hearers.append(call)

    def on_loss(self, call: Callable[[], None]) -> None:
        """Have this called whenever frames of others may have been missed: after a reconnect."""
        self._losers.append(call)

    def send(self, frame: Frame) -> None:
        """Send to the other processes; returns at once."""
        if self._closing:
            return
        self._pending.append(frame)
        if len(self._pending) > PENDING_LIMIT:
            self._shed()
        if not self._resting or len(self._pending) >= BATCH:
            self._hurry()

    async def start(self) -> None:
        """Connect, then keep the connection until `close`.

        Raises:
            Unavailable: there is no server that answers.
        """
        connection = await self._listen()
        self._task = asyncio.create_task(self._run(connection), name="perdure-notify")

    async def close(self) -> None:
        """Send what waits, if the connection lives, and let go of it."""
        self._closing = True
        self._hurry()
        if self._task is not None:
            if self._connected:
                await asyncio.wait({self._task}, timeout=REPLY_SECONDS)
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self, connection: Any) -> None:
        while True:
            self._connected = True
            try:
                await self._talk(connection)
            except Exception as error:
                if not is_connection_error(error) and not isinstance(error, TimeoutError):
                    log.exception("the notifier's connection is given up")
            finally:
                self._connected = False
                connection.terminate()
            if self._closing:
                return
            log.warning("lost the connection for notifications; connecting again")
            again = await self._reconnect()
            if again is None:
                return
            connection = again
            for call in self._losers:
                call()

    async def _listen(self) -> Any:
        connection = await self._database.connect()
        try:
            connection.add_termination_listener(lambda _: self._hurry())
            await connection.add_listener(CHANNEL, self._hear)
        except Exception as error:
            connection.terminate()
            raise Unavailable("the connection to the database broke") from error
        return connection

    async def _reconnect(self) -> Any:
        failures = 0
        while not self._closing:
            with contextlib.suppress(Unavailable):
                return await self._listen()
            failures += 1
            await asyncio.sleep(backoff(failures, first=FIRST_PAUSE_SECONDS, most=MOST_PAUSE_SECONDS))
        return None

    async def _talk(self, connection: Any) -> None:
        """Send what comes in, until the connection is lost or the notifier closes."""
        while not connection.is_closed():
            if not self._pending:
                if self._closing:
                    await connection.close(timeout=REPLY_SECONDS)
                    return
                if not await self._wait(PING_SECONDS, lambda: bool(self._pending) or self._closing):
                    await connection.execute("SELECT 1", timeout=REPLY_SECONDS)
                continue
            await self._send_pending(connection)
            self._resting = True
            await self._wait(GATHER_SECONDS, lambda: len(self._pending) >= BATCH or self._closing)
            self._resting = False

    async def _send_pending(self, connection: Any) -> None:
        frames, self._pending = self._pending, deque()
        try:
            await connection.execute(_NOTIFY, self._pack(frames), timeout=REPLY_SECONDS)
        except Exception as error:
            if is_connection_error(error) or isinstance(error, TimeoutError):
                self._pending.extendleft(reversed(frames))  # to be said on the next connection
            raise

    async def _wait(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Wait until `done`, at most so long; whether it is."""
        if done():
            return True
        loop = asyncio.get_running_loop()
        self._due = loop.create_future()
        timer = loop.call_later(seconds, self._hurry)
        try:
            await self._due
        finally:
            timer.cancel()
            self._due = None
        return done()

    def _hurry(self) -> None:
        if self._due is not None and not self._due.done():
            self._due.set_result(None)

    def _pack(self, frames: Iterable[Frame]) -> list[str]:
        """The frames as payloads within PostgreSQL's limit."""
        packets: list[str] = []
        texts: list[str] = []
        size = 0
        for text in map(_encode, frames):
            length = len(text.encode()) + 1
            if length > PAYLOAD_LIMIT - 64:
                continue  # an absurdly long name or context; what is lost on the bus is found in the log
            if texts and size + length > PAYLOAD_LIMIT - 64:
                packets.append(self._packet(texts))
                texts, size = [], 0
            texts.append(text)
            size += length
        if texts:
            packets.append(self._packet(texts))
        return packets

    def _packet(self, texts: list[str]) -> str:
        # The number makes each payload its own: of equal ones in a transaction PostgreSQL delivers one.
        self._number += 1
        return f"{self._own},{self._number},[{','.join(texts)}]]"

    def _shed(self) -> None:
        """Make room: without live text, and with only the last word on each log."""
        kept: dict[tuple[str, ...], Frame] = {}
        for frame in self._pending:
            if isinstance(frame, Grown | Halt):
                kept[type(frame).__name__, frame.session_id] = frame
            elif isinstance(frame, Woke):
                kept["Woke",] = frame
        self._pending = deque(kept.values())
        while len(self._pending) > PENDING_LIMIT // 2:
            self._pending.popleft()

    def _hear(self, _connection: Any, _process: int, _channel: str, payload: str) -> None:
        if payload.startswith(self._own):
            return
        try:
            frames = _DECODER.decode(payload).frames
        except msgspec.MsgspecError:
            log.warning("a notification that this version cannot read was ignored")
            return
        for call in self._hearers:
            call(frames)


def _encode(frame: Frame) -> str:
    try:
        return msgspec.json.encode(frame).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no wire carries
        halves = {
            name: value for name in frame.__struct_fields__ if isinstance(value := getattr(frame, name), str)
        }
        whole = {name: value.encode("utf-8", "replace").decode() for name, value in halves.items()}
        return msgspec.json.encode(msgspec.structs.replace(frame, **whole)).decode()


async def open_notifier(database: PostgresDatabase) -> Notifier:
    """A notifier that is connected.

    Raises:
        Unavailable: there is no server that answers.
    """
    notifier = Notifier(database)
    await notifier.start()
    return notifier
