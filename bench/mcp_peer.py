"""An MCP server of fifty tools that answer at once, on one loopback port.

It shares its core with the client and the model, so it must use very little CPU: its answers are ready but
for the id of the request.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import Struct

TOOLS = 50

_SAID = "Does something with what the server holds, and returns how that went and what it is now. " * 2
_SCHEMA = {
    "type": "object",
    "properties": {
        name: {"type": "string", "description": f"The {name} of what the tool is to work on."}
        for name in ("project", "title", "body", "assignee", "label")
    },
    "required": ["project"],
}
_RESULTS: dict[str, dict[str, Any]] = {
    "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}},
    "tools/list": {
        "tools": [
            {"name": f"tool_{number}", "description": _SAID, "inputSchema": _SCHEMA}
            for number in range(TOOLS)
        ]
    },
    "tools/call": {"content": [{"type": "text", "text": "Done."}]},
}
_READY = {
    method: msgspec.json.encode({"resultType": "complete", **result}) for method, result in _RESULTS.items()
}


class _Request(Struct):
    method: str
    id: int | None = None


_DECODER = msgspec.json.Decoder(_Request)


class _ClientConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass

    def _step(self) -> bool:
        """Answer one request from the buffer; return whether there was one."""
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        at = head.lower().find(b"content-length:")
        size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) < size:
            return False
        self._buffer = rest[size:]
        request = _DECODER.decode(rest[:size])
        result = _READY.get(request.method)
        if request.id is None or result is None:
            self._transport.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
            return True
        body = b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (request.id, result)
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        return True


async def main() -> None:
    """Serve until killed; print `listening on http://...` once ready."""
    server = await asyncio.get_running_loop().create_server(_ClientConnection, "127.0.0.1", 0)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
