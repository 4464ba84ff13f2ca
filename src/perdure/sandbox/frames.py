"""Jobs and results of the sandbox's processes in pieces: 100 MB of files at once would block the loop."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Protocol, Self, runtime_checkable

import msgspec
from msgspec import Struct

PIECE = 1 << 20
"""Bytes written to or read from a pipe at once: the event loop is blocked meanwhile."""

_FEW, _SOME = 16, 1 << 16
LONG = 1 << 16
"""Bytes of a content that is not copied into a larger message, nor out of one."""


@runtime_checkable
class Apart(Protocol):
    """A result whose long contents travel by themselves."""

    def apart(self) -> tuple[Self, dict[str, bytes]]:
        """Return the result without its long contents, and these, by name."""
        ...

    def whole(self, contents: dict[str, bytes]) -> Self:
        """Return the result with these contents."""
        ...


async def encoded(job: Struct) -> list[bytes]:
    """Return a job in msgpack, in pieces of about `PIECE` bytes. Others run in between.

    A long value of a dict is a piece by itself, and is not copied.
    """
    encode = msgspec.msgpack.encode
    config = job.__struct_config__
    fields: dict[str, Any] = msgspec.structs.asdict(job)
    if config.tag_field is not None:
        fields = {config.tag_field: config.tag, **fields}
    pieces: list[bytes] = []
    waiting = [_map_of(len(fields))]
    size = 0
    for name, value in fields.items():
        waiting.append(encode(name))
        if not isinstance(value, dict):
            waiting.append(encode(value))
            continue
        waiting.append(_map_of(len(value)))
        for key, content in value.items():
            waiting.append(encode(key))
            if isinstance(content, bytes) and len(content) >= LONG:
                waiting.append(struct.pack("!BI", 0xC6, len(content)))
                pieces += (b"".join(waiting), content)
                waiting, size = [], 0
                continue
            item = encode(content)
            waiting.append(item)
            size += len(item)
            if size > PIECE:
                pieces.append(b"".join(waiting))
                waiting, size = [], 0
                await asyncio.sleep(0)
    return [*pieces, b"".join(waiting)]


def _map_of(count: int) -> bytes:
    """The beginning of a map with so many entries."""
    if count < _FEW:
        return struct.pack("!B", 0x80 | count)
    return struct.pack("!BH", 0xDE, count) if count < _SOME else struct.pack("!BI", 0xDF, count)
