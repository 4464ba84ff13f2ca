"""Runs code written by models in separate processes, which may run out of memory, hang or crash.

Such a failure ends one tool call only.

A process runs one job at a time and is reused. It inherits none of the server's environment, files or
connections. The operating system limits its resources (`child.py`); this module limits its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec

from perdure.domain.errors import ToolError
from perdure.domain.metrics import Metrics
from perdure.sandbox.child import HEADER, MODULE, Content, Done, Failed, Frame, Job, Output
from perdure.sandbox.confinement import TEMPORARY, temporary_folder
from perdure.sandbox.frames import PIECE, Apart, encoded
from perdure.sandbox.room import Room

T = TypeVar("T")

log = logging.getLogger("perdure.sandbox")

AT_ONCE = 32
"""Jobs that run at the same time; others wait for a free slot."""

SHARES = (24, 4)
"""The most slots of one organization, and of one session. A job that only waits occupies its slot as well."""

ROOM = 256 << 20
"""Bytes of files and databases that processes hold at once, or that are in transit: the server itself holds
them up to three times."""

KEPT = 2
"""Idle processes that are kept for IDLE_SECONDS: starting one takes 0.1 s, and keeping one takes 40 MB."""

IDLE_SECONDS, SPARE_SECONDS = 120.0, 5.0
"""Seconds until an idle process ends: one of the first KEPT, and any further one. The further ones are kept
briefly so that a busy server does not start a process for every job."""

GRACE = 5.0
"""Seconds beyond a job's own time limit after which its process is killed."""

_PASSED_ON = ("LD_LIBRARY_PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR")
"""The environment variables that a process inherits. The others may hold vendor keys, the database's password
or the master key."""

_FEW_THREADS = {"MALLOC_ARENA_MAX": "2", "TOKIO_WORKER_THREADS": "2"}
"""By default there is one thread and one heap for each core, and all of them take address space, which is
limited."""

NO_PROCESS = "No process could be started to run it. Nothing was done: try again later."
STOPPED = "It was stopped: it used more memory than is allowed, was nested too deeply, or hung."

_ANSWER: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


class Sandbox:
    """The sandbox processes of one server. The first job starts the first process."""

    def __init__(self, at_once: int = AT_ONCE, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._slots = asyncio.Semaphore(at_once)
        self._room = Room(ROOM)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._idle: list[_Child] = []
        self._exiting: set[asyncio.Future[None]] = set()
        """The ends of processes that were killed and may not be gone yet."""
        self._closed = False

    @contextlib.asynccontextmanager
    async def slot(
        self,
        owners: tuple[str, ...],
        size: int,
        shares: tuple[int, ...] = SHARES,
        *,
        background: bool = False,
    ) -> AsyncIterator[None]:
        """Hold a slot for jobs that run one after another, and room for their data.

        Acquire it before you load the data, so that waiting jobs hold none.

        Args:
            owners: the organization and the session that the jobs belong to; empty for no share limits.
            size: approximate bytes that the jobs work on.
            shares: the most slots of each owner. Jobs with other shares have to name other owners.
            background: whether the jobs run beside a turn. Such jobs leave a slot of each owner to turns,
                which would else wait behind all of them.
        """
        held_shares = []
        for owner, count in zip(owners, shares, strict=False):
            held_shares.append(self._share(owner, count))
            if background:
                held_shares.append(self._share(f"{owner} in the background", max(count - 1, 1)))
        began = time.perf_counter()
        async with contextlib.AsyncExitStack() as held:
            # The session's share comes first: a job that waits for it then blocks no other session.
            for share in reversed(held_shares):
                await held.enter_async_context(share)
            await held.enter_async_context(self._slots)
            await held.enter_async_context(self._room.hold(size))
            self._metrics.sandbox_wait.observe(time.perf_counter() - began)
            yield

    async def run(
        self, job: Job, kind: type[T], seconds: float, show: Callable[[str, str], None] | None = None
    ) -> T:
        """Run a job in a separate process. The caller holds a `slot`.

        Args:
            kind: the type of the result.
            seconds: the job's own time limit; its process is killed GRACE seconds later.
            show: receives the stream's name and the output while the job runs.

        Raises:
            ToolError: the job failed, its process died or was killed, or no process could be started.
        """
        answer, contents = None, dict[str, bytes]()
        while answer is None:
            answer = await self._attempt(await self._take(), job, seconds, show, contents)
        if isinstance(answer, Failed):
            raise ToolError(answer.message)
        result = msgspec.msgpack.decode(answer.value, type=kind)
        return result.whole(contents) if contents and isinstance(result, Apart) else result

    def _share(self, owner: str, count: int) -> asyncio.Semaphore:
        """The semaphore for an owner's slots. It exists only while a job holds it or waits for it."""
        return self._shares.setdefault(owner, asyncio.Semaphore(count))

    async def close(self) -> None:
        """End every idle process, and wait for the exit of those that were killed.

        A busy one ends when its caller is cancelled or done.
        """
        self._closed = True
        for child in self._idle:
            self._end(child)
        self._idle.clear()
        if self._exiting:
            # A process that waits for a failing disk cannot be killed.
            await asyncio.wait(set(self._exiting), timeout=GRACE)

    def _end(self, child: _Child) -> None:
        child.kill()
        exiting = asyncio.ensure_future(child.wait())
        self._exiting.add(exiting)
        exiting.add_done_callback(self._exiting.discard)

    async def _attempt(
        self,
        child: _Child,
        job: Job,
        seconds: float,
        show: Callable[[str, str], None] | None,
        contents: dict[str, bytes],
    ) -> Done | Failed | None:
        """Run the job in this process; `contents` gets the long contents of the result.

        Returns None if a reused process died before it received the job: the job can then be sent again.
        """
        reusable, began = False, time.perf_counter()
        self._metrics.sandbox_running.move(1)
        try:
            async with asyncio.timeout(seconds + GRACE):
                result = await child.run(job, show, contents)
            reusable = not result.retire
            return result
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            if child.reused and not child.started:
                return None
            self._metrics.sandbox_stopped.add()
            raise ToolError(STOPPED) from None
        finally:
            self._metrics.sandbox_running.move(-1)
            self._metrics.sandbox_seconds.observe(time.perf_counter() - began)
            self._give_back(child, reusable=reusable)

    async def _take(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.wake():
                return child
        return _Child(await _start())

    def _give_back(self, child: _Child, *, reusable: bool) -> None:
        if not reusable or self._closed:
            self._end(child)
            return
        seconds = IDLE_SECONDS if len(self._idle) < KEPT else SPARE_SECONDS

        def expire() -> None:
            self._idle.remove(child)
            self._end(child)

        self._idle.append(child)
        child.idle(seconds, expire)


async def _start() -> Process:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _FEW_THREADS
    if (folder := temporary_folder()) is not None:
        environment[TEMPORARY] = folder
    # The child imports the same modules as the server, although it runs in another folder.
    environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
    try:
        # Its error output is discarded, because it may quote the user's data.
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
        log.warning("cannot start a sandbox process: %s", error.strerror)
        raise ToolError(NO_PROCESS) from None


def _sizes(length: int) -> list[int]:
    return [min(PIECE, length - at) for at in range(0, length, PIECE)]


class _Child:
    """One process and the two pipes to it.

    Attributes:
        reused: whether the process has been idle after a job.
        started: whether the process has received its current job.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.reused = self.started = False
        self._timer: asyncio.TimerHandle | None = None

    async def run(
        self, job: Job, show: Callable[[str, str], None] | None, contents: dict[str, bytes]
    ) -> Done | Failed:
        """Send a job and read its output and its result; `contents` gets the result's long contents."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("a child has pipes")
        self.started = False
        pieces = await encoded(job)
        stdin.write(HEADER.pack(sum(map(len, pieces))))
        for piece in pieces:
            view = memoryview(piece)
            for at in range(0, len(piece), PIECE):
                stdin.write(view[at : at + PIECE])
                await stdin.drain()
        del pieces
        while True:
            (length,) = HEADER.unpack(await stdout.readexactly(HEADER.size))
            answer = _ANSWER.decode(b"".join([await stdout.readexactly(size) for size in _sizes(length)]))
            self.started = True
            if isinstance(answer, Done | Failed):
                return answer
            if isinstance(answer, Content):
                sizes = _sizes(answer.size)
                contents[answer.name] = b"".join([await stdout.readexactly(size) for size in sizes])
            elif isinstance(answer, Output) and show is not None:
                show(answer.stream, answer.text)

    def idle(self, seconds: float, expire: Callable[[], None]) -> None:
        """Wait for work; call `expire` after so many seconds without any."""
        self.reused = True
        self._timer = asyncio.get_running_loop().call_later(seconds, expire)

    def wake(self) -> bool:
        """Stop the idle timer; returns whether the process is still alive."""
        if self._timer is not None:
            self._timer.cancel()
        return self._process.returncode is None

    def kill(self) -> None:
        """Kill the process, whether it is busy or idle."""
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> None:
        """Wait until the killed process has exited, and close the pipes to it."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is not None and not stdin.is_closing():
            stdin.transport.abort()
        # Discard unread output before waiting for the exit: asyncio pauses a pipe with too much of it, and
        # reports the exit only after the pipes have ended.
        while stdout is not None and await stdout.read(PIECE):
            pass
        await self._process.wait()
