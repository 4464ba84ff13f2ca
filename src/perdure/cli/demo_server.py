"""A real server in a separate process, for the demo to kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from perdure.cli.common import CommandFailed

START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0
"""Seconds; a stopping server lets its running turns continue for 10."""

_READY = "listening on "


class DemoServer:
    """`perdure serve` on loopback with its data and its log (`server.log`) in this folder."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._log = folder / "server.log"
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.port = 0
        self.url = ""

    @property
    def pid(self) -> int:
        """The process id; 0 while no server runs."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start the server, on the same port as before, and return when it is ready.

        Raises:
            CommandFailed: the server did not start; the message contains the end of its log.
        """
        with self._log.open("ab") as log:
            process = self._process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "perdure",
                    "serve",
                    "--port",
                    str(self.port),
                    "--data",
                    str(self._data),
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=PIPE,
                stderr=log,
                # The user's configuration is for the user's server, not for this one.
                env={name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")},
                start_new_session=True,  # so that only the demo receives Ctrl-C from the terminal
            )
        try:
            url = await asyncio.wait_for(_ready_url(process), START_TIMEOUT)
        except TimeoutError:
            url = None
        if url is None:
            await self.kill()
            raise CommandFailed(f"the server did not start:\n{self.log_end()}")
        self.url, self.port = url, int(url.rpartition(":")[2])
        self._reader = asyncio.create_task(_drain(process))

    async def kill(self) -> None:
        """Kill the server with SIGKILL, which gives it no time to clean up."""
        if self._process is not None:
            _send(self._process, signal.SIGKILL)
            await self._gone(self._process)

    async def stop(self) -> None:
        """Ask the server to stop; kill it if it does not stop in time."""
        process = self._process
        if process is None:
            return
        _send(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            _send(process, signal.SIGKILL)
        await self._gone(process)

    async def _gone(self, process: Process) -> None:
        await process.wait()
        if self._reader is not None:
            await self._reader
        self._process = self._reader = None

    def log_end(self) -> str:
        """Return the last lines of the server's log."""
        try:
            lines = self._log.read_text("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        return "\n".join(lines[-15:]) or "(the log is empty)"


def _send(process: Process, number: int) -> None:
    """Send a signal with `os.kill`: the process's methods would race the event loop for its exit status."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def _ready_url(process: Process) -> str | None:
    """Return the address that the server prints once it is ready; None if it exits before."""
    if process.stdout is not None:
        async for line in process.stdout:
            text = line.decode("utf-8", "replace").strip()
            if text.startswith(_READY):
                return text.removeprefix(_READY)
    return None


async def _drain(process: Process) -> None:
    """Read the output to its end, so that the server never blocks on a full pipe."""
    if process.stdout is not None:
        while await process.stdout.read(65_536):
            pass
