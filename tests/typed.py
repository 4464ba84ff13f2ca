"""A person at a terminal, for commands that run within the test's own process."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import TypeVar

from perdure.client import Client
from tests.server import Server

CTRL_C = "\x03"
Typed = str | Callable[[], object]
T = TypeVar("T")


class Keyboard:
    """What a person types, line by line, then Ctrl-D. A function is called before the next line is typed."""

    def __init__(self, *lines: Typed) -> None:
        self._lines = list(lines)

    def isatty(self) -> bool:
        return True

    def readline(self, _size: int = -1) -> str:
        while self._lines:
            line = self._lines.pop(0)
            if not isinstance(line, str):
                line()
            elif line == CTRL_C:
                raise KeyboardInterrupt
            else:
                return f"{line}\n"
        return ""


class Display(io.StringIO):
    """A terminal that shows text, and neither moves the cursor nor has colours: with `TERM=dumb`."""

    def isatty(self) -> bool:
        return True


def reach(server: Server, use: Callable[[Client], Awaitable[T]]) -> T:
    """Use a client for a moment, outside of any event loop."""

    async def work() -> T:
        async with Client(server.url) as client:
            return await use(client)

    return asyncio.run(work())
