"""A local command that speaks MCP: one JSON message in each line of its standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

from perdure.domain.mcp_wire import Incoming, Malformed, RpcId
from perdure.net.mcp.cleaning import Cleaner
from perdure.net.mcp.endpoints import McpStdioEndpoint
from perdure.net.mcp.guard import Guard
from perdure.net.mcp.http import MAX_ANSWER, Broken, decoded

MAX_WAITING = 16 << 20
"""Bytes that may wait for a command that does not read its input."""
MAX_QUEUED = 1_000
"""Messages that wait for one request's reader; what exceeds it is dropped, except the response."""
LOG_LINES = 20
"""Lines of error output that are logged in a minute; the rest is dropped."""
GRACE = 1.0
"""Seconds that a command gets to end, after its input has ended, and again after SIGTERM."""

_LOG_LINE = 500
_PIECE = 64 << 10
_MINUTE = 60.0
_MANY_LINES = 100
_PAUSE = 0.1
_PASSED_ON = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")

log = logging.getLogger(__name__)


class Waiting:
    """What has arrived for one request and is not read yet. It ends with None."""

    def __init__(self) -> None:
        self._held: deque[Incoming | None] = deque()
        self._ready = asyncio.Event()

    def put(self, message: Incoming | None) -> None:
        """Add a message; None: nothing will follow."""
        if len(self._held) < MAX_QUEUED or message is None or message.is_response:
            self._held.append(message)
            self._ready.set()

    async def messages(self) -> AsyncGenerator[Incoming, None]:
        """Give the messages as they arrive."""
        while True:
            while not self._held:
                self._ready.clear()
                await self._ready.wait()
            message = self._held.popleft()
            if message is None:
                return
            yield message


class Running:
    """A process and its pipes.

    Attributes:
        answered: whether it has sent a response.
        heard: when it has sent a line, of a monotonic clock.
        checks: how often it was found silent since then.
        fault: why it is over; None while it runs.
    """

    def __init__(
        self,
        endpoint: McpStdioEndpoint,
        process: Process,
        guard: Guard,
        stray: Callable[[Incoming], Awaitable[None]],
    ) -> None:
        self._endpoint = endpoint
        self._process = process
        self._guard = guard
        self._stray = stray
        self._waiting: dict[RpcId, Waiting] = {}
        self.clean = Cleaner((value for _, value in endpoint.env), "in a variable")
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._log())]
        self.answered = False
        self.heard = time.monotonic()
        self.checks = 0
        self.fault: str | None = None

    @classmethod
    async def start(
        cls, endpoint: McpStdioEndpoint, guard: Guard, stray: Callable[[Incoming], Awaitable[None]]
    ) -> Running:
        """Start the command, in a process group of its own.

        Args:
            guard: ends it if this process is killed.
            stray: takes notifications that belong to no request.

        Raises:
            Broken: it cannot be started.
        """
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                endpoint.command,
                *endpoint.args,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=environment | dict(endpoint.env),
                cwd=endpoint.cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise Broken(f"{endpoint.name} cannot be started: {said}", sent=False) from None
        running = cls(endpoint, process, guard, stray)
        await guard.watch(process.pid)
        return running

    # --- what is sent

    async def send(self, body: bytes) -> None:
        """Write a message. Raises Broken: nothing was sent."""
        stdin = self._process.stdin
        if self.fault is not None or stdin is None or stdin.is_closing():
            raise Broken(f"{self._endpoint.name} has ended: {self.fault or 'it was stopped'}", sent=False)
        if stdin.transport.get_write_buffer_size() > MAX_WAITING:
            raise Broken(f"{self._endpoint.name} does not read what it is sent", sent=False)
        stdin.write(body + b"\n")
        with contextlib.suppress(ConnectionError):  # reported by the end of its output
            await stdin.drain()

    async def send_if_possible(self, body: bytes) -> None:
        """Write a message that makes no difference if the process has ended."""
        with contextlib.suppress(Broken):
            await self.send(body)

    @contextlib.contextmanager
    def waiting(self, key: RpcId) -> Iterator[Waiting]:
        """Collect what arrives for a request; what arrives later is dropped."""
        waiting = self._waiting[key] = Waiting()
        try:
            yield waiting
        finally:
            self._waiting.pop(key, None)

    @property
    def is_busy(self) -> bool:
        """Whether requests wait for their responses."""
        return bool(self._waiting)

    # --- what arrives

    async def _read(self) -> None:
        fault = "it closed its output"
        try:
            fault = await self._lines() or fault
        except Malformed as error:
            fault = f"it sent what is not a message: {self.clean(str(error))}"
        except OSError as error:
            fault = error.strerror or fault
        finally:
            self.fault = fault
            for waiting in self._waiting.values():
                waiting.put(None)
            self._kill(signal.SIGKILL)
            self._guard.release(self._process.pid)

    async def _lines(self) -> str:
        """Read lines until the output ends; returns why it is not read further, if it has not ended."""
        stdout = self._process.stdout
        held = bytearray()
        while stdout is not None and (piece := await stdout.read(_PIECE)):
            if piece.count(b"\n") > _MANY_LINES:  # it could keep this process busy for ever
                await asyncio.sleep(_PAUSE)
            start = 0
            while (end := piece.find(b"\n", start)) >= 0:
                held += piece[start:end]
                start = end + 1
                line, held = bytes(held), bytearray()
                await self._line(line)
            held += piece[start:]
            if len(held) > MAX_ANSWER:
                return f"it sent a line of more than {MAX_ANSWER} bytes"
        return ""

    async def _line(self, line: bytes) -> None:
        self.heard, self.checks = time.monotonic(), 0
        if not line.strip():
            return
        if line.lstrip()[:1] not in (b"{", b"["):
            return  # some commands print their logs among the messages
        try:
            messages = await decoded(line)
        except Malformed:
            log.info("mcp command %s sent a line that is not a message", self._endpoint.name)
            return
        for message in messages:
            await self._deliver(message)

    async def _deliver(self, message: Incoming) -> None:
        if message.is_response:
            self.answered = True
            if message.id is not None and message.id in self._waiting:
                self._waiting[message.id].put(message)
            return
        token = message.params.get("progressToken")
        if message.method == "notifications/progress":
            if isinstance(token, int | str) and token in self._waiting:
                self._waiting[token].put(message)
        elif message.is_request and self._waiting:
            next(iter(self._waiting.values())).put(message)  # nothing says which request it is about
        else:
            await self._stray(message)

    async def _log(self) -> None:
        """Log the first lines of each minute's error output, and drop the rest."""
        stderr = self._process.stderr
        tail, began, count = b"", time.monotonic(), 0
        while stderr is not None and (piece := await stderr.read(_PIECE)):
            if len(piece) >= _PIECE // 2:
                await asyncio.sleep(_PAUSE / 20)
            *lines, tail = (tail + piece).split(b"\n")
            tail = tail[:_LOG_LINE]
            if time.monotonic() - began > _MINUTE:
                began, count = time.monotonic(), 0
            for line in lines[: max(LOG_LINES - count, 0)]:
                count += 1
                said = self.clean(line[: _LOG_LINE * 4].decode("utf-8", "replace")).strip()
                log.info("mcp command %s: %s", self._endpoint.name, said)

    # --- its end

    async def end(self) -> None:
        """End the process with its whole group: close its input, then SIGTERM, then SIGKILL."""
        self.fault = self.fault or "it was stopped"
        stdin = self._process.stdin
        if stdin is not None:
            stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await asyncio.wait(self._tasks)
                    break
            self._kill(number)
        self._kill(signal.SIGKILL)  # what its children have left
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await asyncio.wait(self._tasks)
                await self._process.wait()
        for task in self._tasks:
            task.cancel()

    def give_up(self, fault: str) -> None:
        """Kill the process: it is of no use any more."""
        self.fault = self.fault or fault
        self._kill(signal.SIGKILL)

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
