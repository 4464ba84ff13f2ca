"""What a waiting client is told about a turn: one line for each step of it, at a bounded rate."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec
from msgspec import Struct

from perdure.app.feed import Frame
from perdure.domain.tools import APPROVE
from perdure.doors.mcp.requests import RequestId

MAX_LINES = 8
"""Lines that wait to be sent; older ones are dropped."""
MAX_LINE = 300
"""Characters of a line."""


class _Call(Struct, frozen=True):
    name: str


class _Data(Struct, frozen=True):
    tool_name: str = ""
    tool_call: _Call = _Call("")
    status: str = ""
    message: str = ""


class _Event(Struct, frozen=True):
    data: _Data


_EVENT = msgspec.json.Decoder(_Event)


class Progress:
    """The lines of one call. `ready` is set while some wait to be sent."""

    def __init__(self, token: RequestId) -> None:
        self._token = token
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._count = 0
        self.ready = asyncio.Event()

    def see(self, frame: Frame) -> None:
        """Add the line of an event, if it has one."""
        data = _EVENT.decode(frame.data).data
        if data.tool_name == APPROVE:
            return
        match frame.type:
            case "tool.started":
                line = f"{data.tool_call.name}: started"
            case "tool.completed":
                line = f"{data.tool_name}: {data.status}"
            case _:
                line = f"{data.tool_name}: {data.message}"
        self._lines.append(line[:MAX_LINE])
        self.ready.set()

    def take(self) -> list[bytes]:
        """Take the waiting lines, as notifications."""
        lines, found = list(self._lines), []
        self._lines.clear()
        self.ready.clear()
        for line in lines:
            self._count += 1
            params = {"progressToken": self._token, "progress": self._count, "message": line}
            found.append(
                msgspec.json.encode({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
            )
        return found
