"""One request of ours, and what a server sends until its response."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from perdure.domain.mcp import McpRefused
from perdure.domain.mcp_results import progress_line
from perdure.domain.mcp_wire import Incoming, Malformed, RpcError, RpcId, encoded
from perdure.domain.messages import JsonObject
from perdure.net.mcp.pools import Mark

PROGRESS_EVERY = 0.05
"""Seconds between two lines of progress that are passed on."""
MAX_ASKED = 100
"""Requests of a server that are answered while it works on one of ours."""

_DATA = 16 << 10


class TooManyRequests(Exception):
    """A server asks endlessly instead of answering."""


class Progress:
    """Passes a call's progress on, not more often than every `PROGRESS_EVERY` seconds."""

    def __init__(self, show: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._clock = clock
        self._last = float("-inf")

    def say(self, line: str) -> None:
        """Show a line of our own."""
        self._show(line)

    def take(self, params: JsonObject) -> None:
        """Show what a notification says, or drop it."""
        now = self._clock()
        if now - self._last < PROGRESS_EVERY:
            return
        if line := progress_line(params):
            self._last = now
            self._show(line)


class Round(Mark):
    """What becomes of the messages that arrive while a request waits for its response.

    Args:
        key: the request's id.
        clean: makes a server's text fit for an error.
        progress: takes the progress of this request; its token is the request's id.
        changed: called when the server says that its tools have changed.
        asked: answers a request of the server; without it, requests are ignored.
    """

    def __init__(
        self,
        key: RpcId,
        clean: Callable[[str], str],
        progress: Progress | None = None,
        changed: Callable[[], None] | None = None,
        asked: Callable[[Incoming], Awaitable[None]] | None = None,
    ) -> None:
        self.key = key
        self._clean = clean
        self._progress = progress
        self._changed = changed
        self._asked = asked
        self._count = 0

    async def response(self, messages: AsyncGenerator[Incoming, None]) -> JsonObject | None:
        """Read until the response, and return its result; None if the messages end before.

        Raises:
            McpRefused: the response is an error.
            TooManyRequests: the server asks endlessly.
        """
        async with contextlib.aclosing(messages):
            async for message in messages:
                if message.is_response:
                    if message.id == self.key and type(message.id) is type(self.key):
                        return self._result(message)
                else:
                    await self._take(message)
        return None

    def _result(self, message: Incoming) -> JsonObject:
        if message.error is not None:
            raise refused(message.error, self._clean)
        return message.result or {}

    async def _take(self, message: Incoming) -> None:
        if message.is_request:
            self._count += 1
            if self._count > MAX_ASKED:
                raise TooManyRequests
            if self._asked is not None:
                await self._asked(message)
        elif message.method == "notifications/progress":
            token = message.params.get("progressToken")
            if self._progress is not None and token == self.key and type(token) is type(self.key):
                self._progress.take(message.params)
        elif message.method == "notifications/tools/list_changed" and self._changed is not None:
            self._changed()


def refused(error: RpcError, clean: Callable[[str], str]) -> McpRefused:
    """The error for a response that is one."""
    said = clean(error.message if isinstance(error.message, str) else "") or "no reason"
    data = error.data
    try:
        data = data if len(encoded(data)) <= _DATA else None
    except Malformed:
        data = None
    return McpRefused(f"the MCP server answered with an error: {said} ({error.code})", error.code, data)
