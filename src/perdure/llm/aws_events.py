"""Parse AWS event streams (`application/vnd.amazon.eventstream`): binary messages with checksums.

A message is: its length and that of its headers (4 bytes each, big-endian), the checksum of these 8 bytes,
headers, payload, and the checksum of all before. Checksums are CRC-32.
"""

from __future__ import annotations

from zlib import crc32

import msgspec

from perdure.domain.sse import Frame, StreamTooLong
from perdure.llm.event_costs import check_cost
from perdure.llm.failures import bad_response

_PRELUDE = 12
_OVERHEAD = 16
MAX_HEADERS = 128 * 1024
"""Bytes of the headers of one message, as AWS limits them."""
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""By the type of a header: the bytes of its value, if all values have the same length."""
_BYTES, _TEXT = 6, 7


class AwsEventParser:
    """Parses one connection's stream, which arrives in pieces of any size.

    Exceptions and errors become events with the name `error`.

    Args:
        max_event: maximum bytes of one message.
        max_stream: maximum bytes of the whole stream.
    """

    __slots__ = ("_buffer", "_max_event", "_max_stream", "_size")

    def __init__(self, max_event: int, max_stream: int) -> None:
        self._max_event = max_event
        self._max_stream = max_stream
        self._buffer = bytearray()
        self._size = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the events that are complete with this piece.

        Raises:
            StreamTooLong: a message or the stream is too long.
            ModelError: a message is damaged.
        """
        self._size += len(chunk)
        if self._size > self._max_stream:
            raise StreamTooLong("stream", self._max_stream)
        buffer = self._buffer
        buffer += chunk
        frames: list[Frame] = []
        at = 0
        while len(buffer) - at >= _PRELUDE:
            length, headers = self._lengths(bytes(buffer[at : at + _PRELUDE]))
            if len(buffer) - at < length:
                break
            frames.append(_frame(bytes(buffer[at : at + length]), headers))
            at += length
        del buffer[:at]
        return frames

    def flush(self) -> list[Frame]:
        """Return what is left at the end of the stream: a message that is cut is none."""
        return []

    def _lengths(self, prelude: bytes) -> tuple[int, int]:
        length, headers = int.from_bytes(prelude[:4]), int.from_bytes(prelude[4:8])
        if crc32(prelude[:8]) != int.from_bytes(prelude[8:]):
            quoted = prelude.decode("latin-1").encode("unicode_escape").decode()
            raise bad_response(f"the provider's stream is no AWS event stream: {quoted}", transient=False)
        if length > self._max_event:
            raise StreamTooLong("event", self._max_event)
        if length < _OVERHEAD or headers > min(length - _OVERHEAD, MAX_HEADERS):
            raise bad_response("a message of the provider's stream has a wrong length", transient=False)
        return length, headers


def _frame(message: bytes, size: int) -> Frame:
    if crc32(message[:-4]) != int.from_bytes(message[-4:]):
        raise bad_response("a message of the provider's stream has a wrong checksum", transient=True)
    headers = _headers(message[_PRELUDE : _PRELUDE + size])
    payload = message[_PRELUDE + size : -4]
    kind = headers.get(":message-type", "event")
    if kind == "event":
        return Frame(headers.get(":event-type", "message"), payload)
    if kind == "exception":
        code, text = headers.get(":exception-type", "exception"), _message_in(payload)
    else:
        code, text = headers.get(":error-code", "error"), headers.get(":error-message", "")
    error = {"type": code, "message": f"{code}: {text}" if text else code}
    return Frame("error", msgspec.json.encode({"error": error}))


def _message_in(payload: bytes) -> str:
    try:
        check_cost(payload, "an exception of the provider's stream")
        value = msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        return payload[:2_000].decode("utf-8", "replace")
    text = (value.get("message") or value.get("Message")) if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""


def _headers(data: bytes) -> dict[str, str]:
    """Return the headers that are texts; the others are skipped."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        name, kind = data[at + 1 : end], data[end : end + 1]
        at = end + 1
        if kind and kind[0] in _SIZES:
            at += _SIZES[kind[0]]
        elif kind and kind[0] in {_BYTES, _TEXT}:
            size = int.from_bytes(data[at : at + 2])
            value = data[at + 2 : at + 2 + size]
            at += 2 + size
            if kind[0] == _TEXT:
                found[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        else:
            raise bad_response("a message of the provider's stream has a wrong header", transient=False)
    return found
