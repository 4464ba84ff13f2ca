"""Starts `perdure` quickly: a process that has imported everything forks one process for each start.

An interpreter's start and its imports cost ten times as much as the server's own start. What is forked is a
process like any other: it has its own arguments, environment and output, it can be killed, and it ends with
a status. Each test process has one fork server, started at its first use.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import inspect
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
_IMPORTED = (
    "anyio._backends._asyncio",
    "certifi",
    "httpcore",
    "httpx",
    "jsonschema_rs",
    "rich.console",
    "rich.table",
    "uvloop",
    "perdure.cli.main",
    "perdure.cli.chat",
    "perdure.cli.files",
    "perdure.cli.schedules",
    "perdure.cli.sessions",
    "perdure.cli.storage",
    "perdure.client",
    "perdure.routing",
    "perdure.wiring",
    "perdure.server",
    "perdure.store.postgres.bus",
    "perdure.store.postgres.queue",
    "asyncpg",
    "pgqueuer.adapters.drivers.asyncpg",
    "pgqueuer.adapters.persistence.queries",
    "pgqueuer.core.qm",
    "pgqueuer.core.tm",
)
"""What a server imports until it has run a turn, on either database, and what the other commands import."""

_LENGTH = struct.Struct("!I")
_OURS = ("COVERAGE_", "PERDURE_")
"""Prefixes of variables that are for the processes that are forked, not for the fork server."""


class Forked:
    """A process that the fork server started; as much of `asyncio.subprocess.Process` as tests need."""

    def __init__(self, pid: int, status: _Pipe, stdout: _Pipe | None) -> None:
        self.pid = pid
        self.stdout = None if stdout is None else stdout.reader
        self._pipes = [status] if stdout is None else [status, stdout]
        self._ended = asyncio.create_task(self._wait(status.reader))

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal that ended it, or None while it runs."""
        return self._ended.result() if self._ended.done() else None

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def _wait(self, status: asyncio.StreamReader) -> int:
        line = await status.readline()
        for pipe in self._pipes:
            pipe.transport.close()
        return int(line)


class _Pipe:
    """The reading end of a pipe, in the running loop."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self.reader = reader
        self.transport = transport

    @classmethod
    async def open(cls, number: int) -> _Pipe:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(number, "rb")
        )
        return cls(reader, transport)


class ForkServer:
    """The test process's side. `process` has imported all that `perdure serve` needs."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            env={**kept, "PYTHONPATH": ROOT},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    async def start(
        self,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        program: str = "",
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int,
    ) -> Forked:
        """Start `perdure` with these arguments, in exactly this environment.

        Args:
            program: a Python file to run instead, such as one that starts `perdure` with a fault.
            stdin: where it reads; without, there is nothing to read.
            stdout: where it prints; without, into a pipe.
        """
        out, out_end = os.pipe() if stdout is None else (-1, os.dup(stdout))
        in_end = os.open(os.devnull, os.O_RDONLY) if stdin is None else os.dup(stdin)
        status, status_end = os.pipe()
        fields = {"program": program, "arguments": arguments, "environment": dict(environment)}
        request = json.dumps({**fields, "folder": str(Path.cwd())}).encode()
        ends = [in_end, out_end, stderr, status_end]
        socket.send_fds(self._control, [_LENGTH.pack(len(request))], ends)
        self._control.sendall(request)
        for end in (in_end, out_end, status_end):
            os.close(end)
        pipe = await _Pipe.open(status)
        line = await pipe.reader.readline()
        assert line, "the fork server is gone"
        return Forked(int(line), pipe, await _Pipe.open(out) if stdout is None else None)

    def close(self) -> None:
        """End the fork server; what it started lives on."""
        self._control.close()
        self._process.wait()


@functools.cache
def fork_server() -> ForkServer:
    """This test process's fork server."""
    return ForkServer()


@contextlib.contextmanager
def closing_fork_server() -> Iterator[None]:
    """Ends the fork server, if there is one by then."""
    yield
    if fork_server.cache_info().currsize:
        fork_server().close()


class _Job:
    """A process to be started: its arguments and where its output goes."""

    def __init__(self, control: socket.socket, head: bytes, descriptors: list[int]) -> None:
        (length,) = _LENGTH.unpack(head)
        body = b""
        while len(body) < length:
            body += control.recv(length - len(body))
        request = json.loads(body)
        self._program: str = request["program"]
        self._arguments: list[str] = request["arguments"]
        self._environment: dict[str, str] = request["environment"]
        self._folder: str = request["folder"]
        *self._standard, self.status = descriptors

    def close_standard(self) -> None:
        """Close what is the child's standard input, output and error."""
        for descriptor in self._standard:
            os.close(descriptor)

    def become(self) -> None:
        """In the child: have what a fresh process would have."""
        for number, descriptor in enumerate(self._standard):
            os.dup2(descriptor, number)
        self.close_standard()
        os.close(self.status)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        os.chdir(self._folder)
        os.environ.clear()
        os.environ.update(self._environment)
        time.tzset()
        command = sys.modules["__main__"] = importlib.import_module("perdure.__main__")
        sys.argv[:] = [self._program or str(command.__file__), *self._arguments]

    def run(self) -> None:
        """In the child: run the command, or the program instead."""
        if self._program:
            runpy.run_path(self._program, run_name="__main__")
        else:
            sys.modules["__main__"].main()


def _serve(control: socket.socket) -> _Job | None:
    """Fork for every request. Returns the job in each child; nothing once the test process is gone."""
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    running: dict[int, int] = {}
    with selectors.DefaultSelector() as selector, woken, wake, control:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if woken in ready:
                woken.recv(4096)
                _report(running)
            if control not in ready:
                continue
            head, descriptors, _, _ = socket.recv_fds(control, _LENGTH.size, 4)
            if not head:
                return None
            job = _Job(control, head, descriptors)
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                for status in running.values():
                    os.close(status)
                return job
            job.close_standard()
            running[pid] = job.status
            os.write(job.status, f"{pid}\n".encode())


def _report(running: dict[int, int]) -> None:
    """Tell of every child that has ended how it ended."""
    while running:
        pid, waited = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        status = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(status, f"{os.waitstatus_to_exitcode(waited)}\n".encode())
        os.close(status)


def _compute_types() -> None:
    """Make the decoders of all routes once: msgspec remembers what it computes about each type."""
    from perdure.api.kernel.router import Router
    from perdure.routing import ThisProcess, all_routes
    from perdure.settings import Settings

    Router(all_routes(Settings(), ThisProcess()))


def _main() -> None:
    import coverage

    from perdure.domain import ids

    for name in _IMPORTED:
        importlib.import_module(name)
    _compute_types()
    inspect.stack()  # remembers the files of all modules; coverage asks for them in each process that starts

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests to answer
    gc.collect()
    gc.freeze()
    job = _serve(socket.socket(fileno=int(sys.argv[1])))
    if job is None:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job.become()
    ids._noise.__self__.seed()  # type: ignore[attr-defined] # else all would make the same ids
    coverage.process_startup()
    job.run()


if __name__ == "__main__":
    _main()
