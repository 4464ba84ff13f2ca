"""Server-sent events, as model vendors stream them: bytes in, `data` payloads out.

Only `data` matters here: every vendor repeats the event's name inside it. A payload keeps the white space
around it (JSON does not mind). Fields end with LF or CRLF.
"""

from __future__ import annotations

from perdure.domain.errors import ModelError

MAX_LINE = 16 << 20
"""Bytes of one line: an image or a whole answer in one event fits, a stream without line ends does not."""

MAX_TOTAL = 64 << 20
"""Bytes of one answer, framing included: about ten times the longest answer of any model, streamed token by
token."""


class SseParser:
    """Feed it what arrives; it gives the payloads that are complete.

    Args:
        max_line: bytes of one line.
        max_total: bytes of the whole stream.
    """

    __slots__ = ("_data", "_left", "_max_line", "_tail", "_tail_size")

    def __init__(self, max_line: int = MAX_LINE, max_total: int = MAX_TOTAL) -> None:
        self._data: bytes | None = None
        self._tail: list[bytes] = []
        self._tail_size = 0
        self._max_line = max_line
        self._left = max_total

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that end in this chunk.

        Raises:
            ModelError: a line or the stream is over its bound (`provider_bad_response`, not transient).
        """
        self._left -= len(chunk)
        if self._left < 0:
            raise _too_long("answer")
        cut = chunk.rfind(b"\n")
        if cut < 0:
            self._keep(chunk)
            return []
        if self._tail:
            self._tail.append(chunk[:cut])
            lines = b"".join(self._tail).split(b"\n")
            self._tail.clear()
            self._tail_size = 0
        else:
            lines = chunk[:cut].split(b"\n")
        if cut + 1 < len(chunk):
            self._keep(chunk[cut + 1 :])
        return self._payloads(lines)

    def flush(self) -> list[bytes]:
        """What a stream that ended without a last line end still holds."""
        lines = [b"".join(self._tail), b""]
        self._tail.clear()
        self._tail_size = 0
        return self._payloads(lines)

    def _keep(self, piece: bytes) -> None:
        self._tail.append(piece)
        self._tail_size += len(piece)
        if self._tail_size > self._max_line:
            raise _too_long("line")

    def _payloads(self, lines: list[bytes]) -> list[bytes]:
        out: list[bytes] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                # One event may spread its data over several lines; the line ends belong to it.
                data = line[5:] if data is None else data + b"\n" + line[5:].removeprefix(b" ")
            elif data is not None and (not line or line == b"\r"):
                out.append(data)
                data = None
        self._data = data
        return out


def _too_long(what: str) -> ModelError:
    return ModelError(f"the provider's stream has a {what} beyond all bounds", code="provider_bad_response")
