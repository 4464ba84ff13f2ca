"""Following a session: a stream is only a cursor into the log, so a cut connection costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import httpx
import msgspec
from msgspec import Struct

from perdure.client.errors import ApiError, BadAnswer, Unreachable
from perdure.client.transport import CUT, FIRST_WAIT, MOST_WAIT, Transport, is_busy
from perdure.domain.backoff import backoff
from perdure.domain.events import ENDED_TURN, LIVE_TYPES, InputMessageData, WireEvent
from perdure.domain.ids import sequence_of
from perdure.domain.sse import Frame, SseParser, StreamTooLong

IDLE_TIMEOUT = 45.0
"""Seconds without a byte until a connection counts as dead: one and a half heartbeats of the wire
contract."""

PATIENCE = 300.0
"""Seconds without any answer until a follower gives up."""

_EVENT = msgspec.json.Decoder(WireEvent)


class _Disconnecting(Struct):
    retry_ms: int = 100


class _Position:
    """Where a follower stands in the log, and how the connection fares."""

    def __init__(self, since_id: str | None) -> None:
        self.since_id = since_id
        self._sequence = 0 if since_id is None else sequence_of(since_id)
        self._failures = 0
        self._first_wait = FIRST_WAIT
        self._told_wait: float | None = None

    def take(self, frame: Frame) -> WireEvent | None:
        """The event that a frame brings, if it brings a new one.

        Only logged events move the position: a live one may run ahead of the log.
        """
        if frame.retry is not None:
            self._first_wait = max(0.01, frame.retry / 1000)
        if frame.event == "connected":
            return None
        self._failures = 0
        if frame.event == "disconnecting":
            self._told_wait = _retry_of(frame)
            return None
        try:
            event = _EVENT.decode(frame.data)
        except msgspec.DecodeError as error:
            raise BadAnswer(f"a frame of the event stream is not an event: {error}") from error
        if event.type not in LIVE_TYPES and event.sequence is not None:
            if event.sequence <= self._sequence:
                return None
            self._sequence, self.since_id = event.sequence, event.id
        return event

    def wait(self) -> float:
        """Seconds until the next connection."""
        if self._told_wait is not None:
            wait, self._told_wait = self._told_wait, None
            return wait
        self._failures += 1
        return backoff(self._failures, first=self._first_wait, most=MOST_WAIT)


def _retry_of(frame: Frame) -> float:
    try:
        told = msgspec.json.decode(frame.data, type=_Disconnecting)
    except msgspec.DecodeError:
        told = _Disconnecting()
    return min(max(told.retry_ms, 0), 60_000) / 1000


async def follow(
    transport: Transport,
    path: str,
    since_id: str | None,
    types: Sequence[str],
    exclude: Sequence[str],
    *,
    idle_timeout: float,
    patience: float,
) -> AsyncGenerator[WireEvent, None]:
    """Every logged event after `since_id`, once and in order, and the live ones between them, for ever.

    Raises:
        ApiError: the server refuses (404 once the session is deleted).
        Unreachable: nobody answered for `patience` seconds.
    """
    clock = asyncio.get_running_loop().time
    position = _Position(since_id)
    filters = [("types", kind) for kind in types] + [("exclude", kind) for kind in exclude]
    heard = clock()
    while True:
        trouble: Exception | None = None
        try:
            parser = SseParser()
            async with transport.stream(
                path, [("since_id", position.since_id), *filters], idle_timeout=idle_timeout
            ) as pieces:
                async for piece in pieces:
                    heard = clock()
                    for frame in frames_of(parser, piece):
                        event = position.take(frame)
                        if event is not None:
                            yield event
                            heard = clock()
        except httpx.TransportError as error:
            if not isinstance(error, CUT):
                raise transport.unreachable(error) from error
            trouble = error
        except ApiError as error:
            if not is_busy(error):
                raise
            trouble = error
        if clock() - heard > patience:
            reason = trouble or Unreachable("the stream ends at once")
            raise transport.unreachable(reason) from trouble
        await asyncio.sleep(position.wait())


def frames_of(parser: SseParser, piece: bytes) -> list[Frame]:
    """Return the events that end in this piece of the stream.

    Raises:
        BadAnswer: the stream has an event that no Perdure server sends.
    """
    try:
        return parser.feed(piece)
    except StreamTooLong as error:
        raise BadAnswer(f"the event stream cannot be read: {error}") from error


class TurnWatch:
    """Tells when the turn that a message started, or steered, is over. Pure.

    A turn covers the message once a model call began after it; a cancel covers everything that was asked
    before it. A turn that ended before it saw the message leaves it to the next one.
    """

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self._asked = False
        self._seen = False

    def take(self, event: WireEvent) -> bool:
        """Note the event; whether it belongs to the time after the message."""
        if event.type == InputMessageData.kind:
            data = msgspec.json.decode(event.data, type=InputMessageData)
            self._asked = self._asked or data.message.id == self._message_id
        elif event.type == "reason.started" or (
            event.type == "turn.started" and event.context.input_message_id == self._message_id
        ):
            self._seen = self._asked
        return self._asked

    def is_last(self, event: WireEvent) -> bool:
        """Whether this event, already taken, ends what the message asked for."""
        if not self._asked:
            return False
        return event.type in ENDED_TURN and (self._seen or event.type == "turn.cancelled")
