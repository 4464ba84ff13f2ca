"""Parse server-sent events: the text/event-stream format of the HTML standard (section 9.2.6).

The model drivers and the client use it.
"""

from __future__ import annotations

from msgspec import Struct

MAX_EVENT = 64 << 20
"""Default limit of one event in bytes: far more than the largest that a Perdure server sends."""

MAX_LINES = 10_000
"""Lines of data in one event: the HTML standard joins them, and senders use one, or a few."""

_CR = ord("\r")  # bytes find a number much faster than bytes


class Frame(Struct, frozen=True, gc=False):
    """One event of the stream.

    Attributes:
        event: the event's name; `message` if the stream names none.
        retry: the milliseconds that clients should wait before they reconnect.
    """

    event: str
    data: bytes
    id: str | None = None
    retry: int | None = None


class StreamTooLong(ValueError):
    """An event, or the whole stream, is longer than the reader accepts.

    Attributes:
        part: what is too long: `event` or `stream`.
        limit: the limit.
    """

    def __init__(self, part: str, limit: int, unit: str = "bytes") -> None:
        super().__init__(f"the {part} is longer than {limit} {unit}")
        self.part = part
        self.limit = limit


class SseParser:
    """Parses one connection's stream, which arrives in pieces of any size.

    Drops comments, and events without data.

    Args:
        max_event: maximum bytes of one event; it bounds the memory that a broken server can use up.
        max_stream: maximum bytes of the whole stream, framing included; None for an endless stream.
    """

    __slots__ = (
        "_at_start",
        "_data",
        "_ended_with_cr",
        "_id",
        "_last_name",
        "_max_event",
        "_max_stream",
        "_name",
        "_name_line",
        "_named",
        "_read",
        "_retry",
        "_tail",
        "_unfinished",
    )

    def __init__(self, max_event: int = MAX_EVENT, max_stream: int | None = None) -> None:
        self._max_event = max_event
        self._max_stream = max_stream
        self._read = 0
        self._at_start = True
        self._ended_with_cr = False
        # The unfinished line, the unfinished event, and their approximate size in bytes.
        self._tail: list[bytes] = []
        self._data: list[bytes] = []
        self._unfinished = 0
        self._named = False
        self._name = "message"
        # Most events have the same name as the one before.
        self._name_line, self._last_name = b"event: message", self._name
        self._id: str | None = None
        self._retry: int | None = None

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the events that end in this piece.

        Raises:
            StreamTooLong: an event or the stream is longer than its limit.
        """
        size = len(chunk)
        self._read += size
        if self._max_stream is not None and self._read > self._max_stream:
            raise StreamTooLong("stream", self._max_stream)
        if self._ended_with_cr and chunk:
            # The previous piece ended with a CR, either half of a CRLF or a line end of its own.
            self._ended_with_cr = False
            chunk = chunk.removeprefix(b"\n")
        frames: list[Frame] = []
        if _CR in chunk:
            self._ended_with_cr = chunk.endswith(b"\r")
            lines = chunk.splitlines()
            rest = b"" if chunk.endswith((b"\r", b"\n")) else lines.pop()
        else:
            lines = chunk.split(b"\n")
            rest = lines.pop()
        if lines:
            if self._tail:
                lines[0] = b"".join([*self._tail, lines[0]])
                self._tail.clear()
            frames = self._frames(lines)
        if rest:
            self._tail.append(rest)
        if rest or self._data:
            self._check_event(0 if frames else self._unfinished + size)
        else:
            self._unfinished = 0
        return frames

    def flush(self) -> list[Frame]:
        """Return the last event of a stream that ended without a line end."""
        lines = [b"".join(self._tail), b""]
        self._tail.clear()
        return self._frames(lines)

    def _check_event(self, size: int) -> None:
        self._unfinished = size or sum(map(len, self._tail)) + sum(map(len, self._data))
        if self._unfinished > self._max_event:
            raise StreamTooLong("event", self._max_event)
        if len(self._data) > MAX_LINES:
            raise StreamTooLong("event", MAX_LINES, "lines")

    def _frames(self, lines: list[bytes]) -> list[Frame]:
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        frames: list[Frame] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data: "):
                data.append(line[6:])
            elif not line:
                if data:
                    payload = data.pop()
                    if data:
                        payload = b"\n".join((*data, payload))
                        data.clear()
                    frames.append(Frame(self._name, payload, self._id, self._retry))
                if self._named:
                    self._named, self._name, self._id, self._retry = False, "message", None, None
            else:
                self._named = True
                if line == self._name_line:
                    self._name = self._last_name
                else:
                    self._field(line)
        return frames

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._name = value.decode("utf-8", "replace") or "message"
            self._name_line, self._last_name = line, self._name
        elif name == b"data":
            self._data.append(value)
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self._retry = int(value)
