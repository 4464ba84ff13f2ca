"""Server-sent events, from bytes to frames.

The text/event-stream format of the HTML standard (section 9.2.6).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from perdure.client.errors import BadAnswer

MAX_FRAME = 64 * 1024 * 1024
"""The most bytes of one frame: far over the largest event, and a bound on the memory that a broken server can
take."""


class Frame(Struct, frozen=True):
    """One event of the stream.

    `retry` is the server's wish for the wait before a reconnection, in milliseconds.
    """

    event: str
    data: bytes
    id: str | None = None
    retry: int | None = None


class SseParser:
    """Takes the stream in pieces of any size and hands out the frames that they complete.

    One parser a connection.

    Comments are dropped. Memory is bounded by `max_frame` bytes.
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._rest: list[bytes] = []
        self._size = 0
        self._first = True
        self._event = ""
        self._data: list[bytes] = []
        self._id: str | None = None
        self._retry: int | None = None

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that end in this piece.

        Raises:
            BadAnswer: a frame is over the limit.
        """
        self._size += len(chunk)
        if self._size > self._max_frame:
            raise BadAnswer(f"a frame of the event stream is over {self._max_frame} bytes")
        if b"\n" not in chunk and b"\r" not in chunk:
            self._rest.append(chunk)
            return
        lines = b"".join([*self._rest, chunk]).splitlines(keepends=True)
        # A carriage return at the very end may be half of a line's end.
        self._rest = [lines.pop()] if not lines[-1].endswith(b"\n") else []
        if self._first and lines:
            self._first = False
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        for line in lines:
            text = line.rstrip(b"\r\n")
            if text:
                self._field(text)
            elif (frame := self._take()) is not None:
                yield frame
        self._size = sum(map(len, self._rest)) + sum(map(len, self._data))

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self._retry = int(value)

    def _take(self) -> Frame | None:
        frame = (
            Frame(self._event or "message", b"\n".join(self._data), self._id, self._retry)
            if self._data
            else None
        )
        self._event, self._data, self._id, self._retry = "", [], None, None
        return frame
