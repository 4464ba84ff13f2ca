"""Work on what a model wrote happens in processes of their own, which may run out of memory, hang or crash.

That ends one call.

A process does one job at a time and is used again. It has none of our environment, files or connections; what
it may use is bounded by the system (`sandbox_child.py`), and here by time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec

from perdure.domain.errors import ToolError
from perdure.sandbox.child import HEADER, MODULE, Frame, Gave, Job, Refused, Shown
from perdure.sandbox.room import Room

T = TypeVar("T")

log = logging.getLogger("perdure.sandbox")

AT_ONCE = 32
"""Jobs that run at the same time; others wait for one of them to end."""

SHARES = (24, 4)
"""How many of them may be of one organization, and of one session: a job that does nothing but wait keeps its
place, too."""

ROOM = 256 << 20
"""Bytes of files and databases that are with processes at once, or on their way: the server itself holds them
up to three times."""

PIECE = 1 << 20
"""Bytes that are handed to a pipe, or taken from it, at once: the event loop does nothing else meanwhile."""

KEPT = 2
"""Processes that wait long for work: starting one takes a tenth of a second, and waiting takes 40 MB."""

IDLE_SECONDS, SPARE_SECONDS = 120.0, 5.0
"""How long they wait, and how long others do: while there is work for more of them, none is started anew for
each job."""

GRACE = 5.0
"""Seconds beyond a job's own limit after which its process is killed."""

_PASSED_ON = ("LD_LIBRARY_PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR")
"""What a process gets of our environment. There are keys of vendors in it, of the database, and the master
key."""

_CALM = {"MALLOC_ARENA_MAX": "2", "TOKIO_WORKER_THREADS": "2"}
"""Threads and their heaps take addresses, which are bounded, one for each of the machine's cores if nobody
says otherwise."""

NO_PROCESS = "There is no process to run it in at the moment. Nothing was done: try again later."
STOPPED = "It was stopped: it took more memory than it may have, was nested too deep, or hung."

_ANSWER: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


class Sandbox:
    """The processes of one server. Nothing runs before the first job."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._room = Room(ROOM)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._idle: list[_Child] = []
        self._leaving: set[asyncio.Future[None]] = set()
        """The ends of processes that were killed and may not be gone yet."""
        self._closed = False

    @contextlib.asynccontextmanager
    async def place(self, whose: tuple[str, ...], size: int) -> AsyncIterator[None]:
        """A place for one job after the other, and room for what they work on: get it before you read that.

        Args:
            whose: the organization and the session for which it is; without, it has no share but all.
            size: bytes that the jobs work on, about.
        """
        async with contextlib.AsyncExitStack() as held:
            # A session's own first: who waits for those keeps nobody else from a place.
            for share in [self._share(owner, count) for owner, count in zip(whose, SHARES, strict=False)][
                ::-1
            ]:
                await held.enter_async_context(share)
            await held.enter_async_context(self._places)
            await held.enter_async_context(self._room.hold(size))
            yield

    async def run(
        self, job: Job, kind: type[T], seconds: float, show: Callable[[str, str], None] | None = None
    ) -> T:
        """Do a job in a process of its own. The caller has a `place`.

        Args:
            kind: what comes back.
            seconds: how long the job takes at most by its own account; it is killed somewhat later.
            show: gets the output while it comes in, with the stream's name.

        Raises:
            ToolError: the job refused, its process did not survive it, or there is none.
        """
        gave = None
        while gave is None:
            gave = await self._attempt(await self._take(), job, seconds, show)
        if isinstance(gave, Refused):
            raise ToolError(gave.message)
        return msgspec.msgpack.decode(gave.value, type=kind)

    def _share(self, owner: str, count: int) -> asyncio.Semaphore:
        """Whose places are counted while somebody has one, or waits."""
        return self._shares.setdefault(owner, asyncio.Semaphore(count))

    async def close(self) -> None:
        """End every process that waits, and see out those that were killed.

        One that works is ended when its caller is.
        """
        self._closed = True
        for child in self._idle:
            self._end(child)
        self._idle.clear()
        await asyncio.gather(*self._leaving)

    def _end(self, child: _Child) -> None:
        child.end()
        leaving = asyncio.ensure_future(child.gone())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _attempt(
        self, child: _Child, job: Job, seconds: float, show: Callable[[str, str], None] | None
    ) -> Gave | Refused | None:
        """Do the job in this process.

        None when the process was gone before it had the job, though it had waited for one.
        """
        fit = False
        try:
            async with asyncio.timeout(seconds + GRACE):
                gave = await child.do(job, show)
            fit = not gave.retire
            return gave
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            if child.waited and not child.begun:
                return None
            raise ToolError(STOPPED) from None
        finally:
            self._give_back(child, fit=fit)

    async def _take(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.rouse():
                return child
        return _Child(await _start())

    def _give_back(self, child: _Child, *, fit: bool) -> None:
        if not fit or self._closed:
            self._end(child)
            return
        seconds = IDLE_SECONDS if len(self._idle) < KEPT else SPARE_SECONDS

        def leave() -> None:
            self._idle.remove(child)
            self._end(child)

        self._idle.append(child)
        child.rest(seconds, leave)


async def _start() -> Process:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _CALM
    # It finds what we have found, from another folder, however we were told of it.
    environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
    try:
        # What it complains about may quote what it works on.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            MODULE,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:  # too many processes, or open files
        log.warning("no process can be started: %s", error.strerror)
        raise ToolError(NO_PROCESS) from None


def _sizes(length: int) -> list[int]:
    return [min(PIECE, length - at) for at in range(0, length, PIECE)]


class _Child:
    """One process, and the two pipes to it.

    Attributes:
        waited: whether it has waited since its last job.
        begun: whether it has the job that it was given.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.waited = self.begun = False
        self._timer: asyncio.TimerHandle | None = None

    async def do(self, job: Job, show: Callable[[str, str], None] | None) -> Gave | Refused:
        """Send a job and read what comes back."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("a child has pipes")
        self.begun = False
        frame = msgspec.msgpack.encode(job)
        stdin.write(HEADER.pack(len(frame)))
        for at in range(0, len(frame), PIECE):
            stdin.write(frame[at : at + PIECE])
            await stdin.drain()
        del frame
        while True:
            (length,) = HEADER.unpack(await stdout.readexactly(HEADER.size))
            answer = _ANSWER.decode(b"".join([await stdout.readexactly(size) for size in _sizes(length)]))
            self.begun = True
            if isinstance(answer, Gave | Refused):
                return answer
            if isinstance(answer, Shown) and show is not None:
                show(answer.stream, answer.text)

    def rest(self, seconds: float, leave: Callable[[], None]) -> None:
        """Wait for work, but no longer than this."""
        self.waited = True
        self._timer = asyncio.get_running_loop().call_later(seconds, leave)

    def rouse(self) -> bool:
        """Whether it is still there, and may be given work."""
        if self._timer is not None:
            self._timer.cancel()
        return self._process.returncode is None

    def end(self) -> None:
        """Kill it, whatever it does."""
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def gone(self) -> None:
        """Wait for its end, and close the pipes to it."""
        await self._process.wait()
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is not None and not stdin.is_closing():
            stdin.transport.abort()
        if stdout is not None:
            await stdout.read()
