"""Messages between the processes on one PostgreSQL, by LISTEN and NOTIFY.

Each process has one connection for this, and the messages are called frames.

A NOTIFY inside a writing transaction serializes commits, so frames are never sent there: they are collected
for up to `GATHER_SECONDS` and sent on this connection. Frames may be lost (a broken connection, a full
buffer); receivers are told when that may have happened.
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
from perdure.domain.ids import SessionId, TaskId, TurnId
from perdure.store.postgres.database import PostgresDatabase
from perdure.store.postgres.lost import is_connection_error

CHANNEL = "perdure_1"
"""Ends with the number of the frames' format, so that during an upgrade processes of different versions do
not receive frames that they cannot decode."""
PAYLOAD_LIMIT = 7_900
"""The most bytes of one NOTIFY; PostgreSQL allows fewer than 8,000."""
TEXT_LIMIT = 1_200
"""The most characters of text in one frame, each at most six bytes as JSON."""
BATCH = 20
"""Pending frames that are sent at once, without waiting for `GATHER_SECONDS`."""
GATHER_SECONDS = 0.015
"""How long frames are collected after the last NOTIFY; the first frame after a pause is sent at once."""
PENDING_LIMIT = 5_000
"""The most frames that wait for the connection; beyond it, live text is dropped, and followers request it."""
PING_SECONDS = 15.0
"""How often an idle connection is checked, because a network partition breaks it without an error."""
REPLY_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
MOST_PAUSE_SECONDS = 5.0
"""First and longest pause between attempts to connect."""


class Woke(Struct, array_like=True, tag="q", frozen=True):
    """The queue has a new job."""


class Grown(Struct, array_like=True, tag="a", frozen=True):
    """A log has grown to `head`; `done` means that the session's live text has ended."""

    session_id: SessionId
    head: int
    done: bool


class Said(Struct, array_like=True, tag="l", frozen=True):
    """A delta of live text.

    Attributes:
        start: the number of the text; a text that starts anew gets another number.
        more: whether the rest of a long delta follows at once.
        turn_id: set, like the fields after it, only in the first delta and in an answer to `Missing`.
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
    """A request to the process that runs the session to send the live text from `offset` on again."""

    session_id: SessionId
    kind: str
    key: str
    offset: int


class Halt(Struct, array_like=True, tag="s", frozen=True):
    """Runners of this session with an older epoch must stop, or only the tool of a task.

    Older releases do not send `gone` and `task_id`.
    """

    session_id: SessionId
    epoch: int
    gone: bool = False
    task_id: TaskId | None = None


Frame = Woke | Grown | Said | Missing | Halt


class _Packet(Struct, array_like=True):
    sender: str
    number: int
    frames: list[Frame]


_DECODER = msgspec.json.Decoder(_Packet)
_NOTIFY = f"SELECT pg_notify('{CHANNEL}', payload) FROM unnest($1::text[]) AS payload"

log = logging.getLogger("perdure.store")


def pieces(frame: Said) -> Iterable[Said]:
    """Split a frame whose text is too long into several, in order."""
    if len(frame.text) <= TEXT_LIMIT:
        yield frame
        return
    yield msgspec.structs.replace(frame, text=frame.text[:TEXT_LIMIT], more=True)
    where = (frame.session_id, frame.kind, frame.key, frame.sequence)
    for begin in range(TEXT_LIMIT, len(frame.text), TEXT_LIMIT):
        text, more = frame.text[begin : begin + TEXT_LIMIT], begin + TEXT_LIMIT < len(frame.text)
        yield Said(*where, frame.offset + begin, text, frame.start, more)


class Notifier:
    """This process's LISTEN/NOTIFY connection. Create it with `open_notifier`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._sender = secrets.token_hex(6)
        self._own = f'["{self._sender}"'
        self._number = 0
        self._pending: deque[Frame] = deque()
        self._resting = False
        self._wake_up: asyncio.Future[None] | None = None
        self._connected = False
        self._closing = False
        self._frame_callbacks: list[Callable[[list[Frame]], None]] = []
        self._loss_callbacks: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def on_frames(self, call: Callable[[list[Frame]], None]) -> None:
        """Register a function to be called with the frames of other processes, in order."""
        self._frame_callbacks.append(call)

    def on_loss(self, call: Callable[[], None]) -> None:
        """Register a function to be called when frames may have been lost, after a reconnect."""
        self._loss_callbacks.append(call)

    def send(self, frame: Frame) -> None:
        """Queue a frame for the other processes; returns at once."""
        if self._closing:
            return
        self._pending.append(frame)
        if len(self._pending) > PENDING_LIMIT:
            self._drop_live_text()
        if not self._resting or len(self._pending) >= BATCH:
            self._wake()

    async def start(self) -> None:
        """Connect, and reconnect whenever the connection is lost, until `close`.

        Raises:
            Unavailable: no server answers.
        """
        connection = await self._listen()
        self._task = asyncio.create_task(self._run(connection), name="perdure-notify")

    async def close(self) -> None:
        """Send the pending frames if connected, then close the connection."""
        self._closing = True
        self._wake()
        if self._task is not None:
            if self._connected:
                await asyncio.wait({self._task}, timeout=REPLY_SECONDS)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=REPLY_SECONDS)

    async def _run(self, connection: Any) -> None:
        while True:
            self._connected = True
            try:
                await self._send_until_lost(connection)
            except Exception as error:
                if not is_connection_error(error) and not isinstance(error, TimeoutError):
                    log.exception("the connection for notifications failed")
            finally:
                self._connected = False
                connection.terminate()
            if self._closing:
                return
            log.warning("lost the connection for notifications; reconnecting")
            reconnected = await self._reconnect()
            if reconnected is None:
                return
            connection = reconnected
            for call in self._loss_callbacks:
                call()

    async def _listen(self) -> Any:
        connection = await self._database.connect()
        try:
            connection.add_termination_listener(lambda _: self._wake())
            await connection.add_listener(CHANNEL, self._on_notification)
        except Exception as error:
            connection.terminate()
            raise Unavailable("the connection to the database was lost") from error
        return connection

    async def _reconnect(self) -> Any:
        failures = 0
        while not self._closing:
            with contextlib.suppress(Unavailable):
                return await self._listen()
            failures += 1
            await asyncio.sleep(backoff(failures, first=FIRST_PAUSE_SECONDS, most=MOST_PAUSE_SECONDS))
        return None

    async def _send_until_lost(self, connection: Any) -> None:
        """Send pending frames until the connection is lost or the notifier closes."""
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
                self._pending.extendleft(reversed(frames))  # sent again on the next connection
            raise

    async def _wait(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Wait until `done()` or `_wake`, up to `seconds`; return whether `done()`."""
        if done():
            return True
        loop = asyncio.get_running_loop()
        self._wake_up = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._wake_up
        finally:
            timer.cancel()
            self._wake_up = None
        return done()

    def _wake(self) -> None:
        if self._wake_up is not None and not self._wake_up.done():
            self._wake_up.set_result(None)

    def _pack(self, frames: Iterable[Frame]) -> list[str]:
        """Encode frames as payloads within PostgreSQL's limit."""
        packets: list[str] = []
        texts: list[str] = []
        size = 0
        for text in map(_encode, frames):
            length = len(text.encode()) + 1
            if length > PAYLOAD_LIMIT - 64:
                continue  # an extremely long name or context; the log has whatever the bus loses
            if texts and size + length > PAYLOAD_LIMIT - 64:
                packets.append(self._packet(texts))
                texts, size = [], 0
            texts.append(text)
            size += length
        if texts:
            packets.append(self._packet(texts))
        return packets

    def _packet(self, texts: list[str]) -> str:
        # The number makes each payload unique: PostgreSQL delivers equal payloads of a transaction once.
        self._number += 1
        return f"{self._own},{self._number},[{','.join(texts)}]]"

    def _drop_live_text(self) -> None:
        """Drop pending frames to make room: all live text, and all but the last frame about each log."""
        latest: dict[tuple[str, ...], Frame] = {}
        for frame in self._pending:
            if isinstance(frame, Grown | Halt):
                latest[type(frame).__name__, frame.session_id] = frame
            elif isinstance(frame, Woke):
                latest["Woke",] = frame
        self._pending = deque(latest.values())
        while len(self._pending) > PENDING_LIMIT // 2:
            self._pending.popleft()

    def _on_notification(self, _connection: Any, _process: int, _channel: str, payload: str) -> None:
        if payload.startswith(self._own):
            return
        try:
            frames = _DECODER.decode(payload).frames
        except msgspec.MsgspecError:
            log.warning("ignored a notification that this version cannot decode")
            return
        for call in self._frame_callbacks:
            call(frames)


def _encode(frame: Frame) -> str:
    try:
        return msgspec.json.encode(frame).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot encode
        texts = {
            name: value for name in frame.__struct_fields__ if isinstance(value := getattr(frame, name), str)
        }
        cleaned = {name: value.encode("utf-8", "replace").decode() for name, value in texts.items()}
        return msgspec.json.encode(msgspec.structs.replace(frame, **cleaned)).decode()


async def open_notifier(database: PostgresDatabase) -> Notifier:
    """Create a notifier and connect it.

    Raises:
        Unavailable: no server answers.
    """
    notifier = Notifier(database)
    await notifier.start()
    return notifier
