"""Encodes jobs for the sandbox's processes in pieces: one with 100 MB of files would block the event loop."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec
from msgspec import Struct

PIECE = 1 << 20
"""Bytes written to or read from a pipe at once: the event loop is blocked meanwhile."""

_FEW, _SOME = 16, 1 << 16


async def encoded(job: Struct) -> list[bytes]:
    """Return a job in msgpack, as pieces of about `PIECE` bytes, or of one value. Others run in between."""
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
            item = encode(content)
            waiting += (encode(key), item)
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
