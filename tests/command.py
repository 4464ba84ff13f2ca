"""Run the `perdure` command in a separate process, with and without a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from asyncio.subprocess import Process
from typing import Any

from perdure.client import Client
from tests.fork_server import ROOT, Forked, fork_server

PERDURE = (sys.executable, "-m", "perdure")
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; "
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Makes standard input the controlling terminal of this process, then executes the command that follows."""
LIMIT = 30.0
"""Timeout for every step in seconds, also on a busy machine."""


class Done:
    """The status and the output of a finished command."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status = status
        self.out = out.decode()
        self.err = err.decode()


def environment(url: str = "", **more: str) -> dict[str, str]:
    """Return this process's environment without Perdure settings and vendors' keys."""
    kept = {
        name: value for name, value in os.environ.items() if not re.match("PERDURE_|OPENAI_|ANTHROPIC_", name)
    }
    return {**kept, "PERDURE_URL": url, "TERM": "xterm-256color", "COLUMNS": "100", **more}


async def perdure(*arguments: str, url: str = "", given: str = "", limit: float = LIMIT, **more: str) -> Done:
    """Run the command to its end, without a terminal."""
    stdin, end = os.pipe()
    with os.fdopen(end, "wb") as typed:
        typed.write(given.encode())  # less than a pipe holds
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process: Process | Forked
        if any(name.startswith("PYTHON") for name in more):  # what only an interpreter's start can heed
            process = await asyncio.create_subprocess_exec(
                *PERDURE, *arguments, stdin=stdin, stdout=out, stderr=err, env=environment(url, **more)
            )
        else:
            process = await fork_server().start(
                arguments,
                {**environment(url, **more), "PYTHONPATH": ROOT},
                stdin=stdin,
                stdout=out.fileno(),
                stderr=err.fileno(),
            )
        os.close(stdin)
        status = await asyncio.wait_for(process.wait(), limit)
        for stream in (out, err):
            stream.seek(0)
        return Done(status, out.read(), err.read())


def script(*steps: dict[str, Any], words: str = "Please.") -> str:
    return f"{words} [[sim {json.dumps(steps)}]]"


async def use_simulated_model(client: Client) -> None:
    """Register the simulated model as the default."""
    provider = await client.create_provider(name="Simulated", provider_type="llmsim")
    await client.create_model(provider.id, model_id="simulated", display_name="The simulated one")


class Terminal:
    """A user at a terminal, who types and sees the output without colours and cursor movements."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))

        # The child itself takes the terminal, because code between fork and exec is unsafe in a process with
        # threads.
        self.process = subprocess.Popen(
            (sys.executable, "-IS", "-c", TAKE_TERMINAL, *arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
        )
        os.close(slave)
        self._raw = ""
        self._taken = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    async def see(self, part: str) -> str:
        """Wait until the text is printed; return the output up to it since the last call."""
        deadline = time.monotonic() + LIMIT
        while (found := self.whole.find(part, self._taken)) < 0:
            assert await asyncio.to_thread(self._read), f"the program ended without {part!r}: {self.whole}"
            assert time.monotonic() < deadline, f"never saw {part!r}: {self.whole}"
        before, self._taken = self._taken, found + len(part)
        return self.whole[before : self._taken]

    @property
    def whole(self) -> str:
        """The whole output."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\x01\x02]", "", self._raw)

    def _read(self) -> bool:
        """Read the available output; return whether there may be more."""
        if not select.select([self._master], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self._raw += data.decode(errors="replace")
        return bool(data)

    async def end(self) -> int:
        """Read all output; return the exit status."""
        deadline = time.monotonic() + LIMIT
        while await asyncio.to_thread(self._read):
            assert time.monotonic() < deadline, f"the program never ended: {self.whole}"
        return await asyncio.to_thread(self.process.wait, LIMIT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # only so is the process's coverage written
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        os.close(self._master)
