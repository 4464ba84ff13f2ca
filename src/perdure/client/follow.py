"""Follow a session. A stream is only a cursor into the log, so a lost connection loses no events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import httpx
import msgspec
from msgspec import Struct

from perdure.client.errors import ApiError, BadAnswer, Unreachable
from perdure.client.transport import CUT, FIRST_WAIT, MOST_WAIT, Transport, is_busy
from perdure.domain.backoff import backoff
from perdure.domain.events import LIVE_TYPES, WireEvent
from perdure.domain.ids import sequence_of
from perdure.domain.sse import Frame, SseParser, StreamTooLong

IDLE_TIMEOUT = 45.0
"""Seconds without a byte after which a connection counts as dead: one and a half heartbeat intervals."""

PATIENCE = 300.0
"""Seconds without any answer after which a follower gives up."""

_EVENT = msgspec.json.Decoder(WireEvent)


class _Disconnecting(Struct):
    retry_ms: int = 100


class _Position:
    """A follower's position in the log, and its back-off between connections."""

    def __init__(self, since_id: str | None) -> None:
        self.since_id = since_id
        self._sequence = 0 if since_id is None else sequence_of(since_id)
        self._failures = 0
        self._first_wait = FIRST_WAIT
        self._requested_wait: float | None = None

    def take(self, frame: Frame) -> WireEvent | None:
        """Return the frame's event if it is a new one, and move the position.

        Only logged events move the position: a live event may run ahead of the log.
        """
        if frame.retry is not None:
            self._first_wait = max(0.01, frame.retry / 1000)
        if frame.event == "connected":
            return None
        self._failures = 0
        if frame.event == "disconnecting":
            self._requested_wait = _retry_of(frame)
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
        """Return the seconds to wait before the next connection."""
        if self._requested_wait is not None:
            wait, self._requested_wait = self._requested_wait, None
            return wait
        self._failures += 1
        return backoff(self._failures, first=self._first_wait, most=MOST_WAIT)


def _retry_of(frame: Frame) -> float:
    try:
        notice = msgspec.json.decode(frame.data, type=_Disconnecting)
    except msgspec.DecodeError:
        notice = _Disconnecting()
    return min(max(notice.retry_ms, 0), 60_000) / 1000


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
    """Yield every logged event after `since_id` once and in order, with live events in between, endlessly.

    Raises:
        ApiError: the server refused the request (404 once the session is deleted).
        Unreachable: no server answered for `patience` seconds.
    """
    clock = asyncio.get_running_loop().time
    position = _Position(since_id)
    filters = [("types", kind) for kind in types] + [("exclude", kind) for kind in exclude]
    last_heard = clock()
    while True:
        failure: Exception | None = None
        try:
            parser = SseParser()
            async with transport.stream(
                path, [("since_id", position.since_id), *filters], idle_timeout=idle_timeout
            ) as pieces:
                async for piece in pieces:
                    last_heard = clock()
                    for frame in frames_of(parser, piece):
                        event = position.take(frame)
                        if event is not None:
                            yield event
                            last_heard = clock()
        except httpx.TransportError as error:
            if not isinstance(error, CUT):
                raise transport.unreachable(error) from error
            failure = error
        except ApiError as error:
            if not is_busy(error):
                raise
            failure = error
        if clock() - last_heard > patience:
            reason = failure or Unreachable("the server ends the stream at once")
            raise transport.unreachable(reason) from failure
        await asyncio.sleep(position.wait())


def frames_of(parser: SseParser, piece: bytes) -> list[Frame]:
    """Parse the frames that end in this piece of the stream.

    Raises:
        BadAnswer: a frame is longer than a Perdure server sends.
    """
    try:
        return parser.feed(piece)
    except StreamTooLong as error:
        raise BadAnswer(f"the event stream cannot be read: {error}") from error
