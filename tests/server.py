"""A real Perdure server as a process of its own, for journeys and crash tests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

import httpx

from tests.fork_server import ROOT, Forked, fork_server

START_LIMIT = 30.0

NO_KEYS = {"OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": ""}
"""A developer's own keys are no business of the tests: a server would set up the vendors' models."""


MEASURED = "COVERAGE_PROCESS_CONFIG"
"""The environment variable that lets a process measure its coverage. That makes it half as fast."""


class Server:
    """`perdure serve` on a data folder; it can be killed and started again on the same data.

    Coverage is measured on SQLite only: a server on PostgreSQL runs the same code, and tests/conformance
    measures what is different.

    Attributes:
        url: where it listens; it keeps its port over restarts.
        data: its data folder.
    """

    def __init__(
        self, data: Path, *, database_url: str = "", environment: dict[str, str] | None = None, port: int = 0
    ) -> None:
        self.data = data
        self.url = ""
        self._port = port
        self._environment = {"PERDURE_DATABASE_URL": database_url, **(environment or {})}
        self._process: asyncio.subprocess.Process | Forked | None = None
        self.log = data / "server.log"
        self.command = "serve"
        """The command that runs the server: `serve`, `api` or `worker`."""
        self.module = "perdure"
        """The module with the command; releases up to 0.1.0 had it elsewhere."""
        self.options: tuple[str, ...] = ()
        """Further options of the command."""
        self.program: tuple[str, ...] = ()
        """A Python file to start instead of the command, perhaps with a fault, and its first arguments."""

    @property
    def database_url(self) -> str:
        return self._environment["PERDURE_DATABASE_URL"]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._process = await self._started()
        assert self._process.stdout is not None
        line = (await asyncio.wait_for(self._process.stdout.readline(), START_LIMIT)).decode()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server did not start: {line!r}\n{self.log.read_text()[-2000:]}")
        self.url = line.split()[-1]
        self._port = int(self.url.rsplit(":", 1)[1])

    async def _started(self) -> asyncio.subprocess.Process | Forked:
        arguments = (self.command, "--port", str(self._port), "--data", str(self.data), *self.options)
        environment = {**os.environ, **NO_KEYS, "PYTHONPATH": ROOT, **self._environment}
        if environment["PERDURE_DATABASE_URL"]:
            environment.pop(MEASURED, None)
        with self.log.open("ab") as log:
            if environment["PYTHONPATH"] == ROOT:
                program, *first = self.program or ("",)
                return await fork_server().start(
                    (*first, *arguments), environment, program=program, stderr=log.fileno()
                )
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", self.module, *arguments),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
            )

    def send(self, number: int) -> None:
        """Send the process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """End the process, at once unless told otherwise, and wait until it is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    async def stop(self) -> int:
        """Ask it to stop; its exit status."""
        await self.kill(signal.SIGTERM)
        assert self._process is not None
        assert self._process.returncode is not None
        return self._process.returncode

    async def ended(self) -> int:
        """Wait until the process ends by itself; return its exit status."""
        assert self._process is not None
        return await self._process.wait()

    async def restart(self, number: int = signal.SIGKILL) -> None:
        await self.kill(number)
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            # The gentle way first: only so is the process's coverage written.
            await asyncio.wait_for(self.kill(signal.SIGTERM), 15)
        except TimeoutError:
            await self.kill()


async def use_simulated_model(http: httpx.AsyncClient) -> str:
    """Register the simulated model as the organization's default; its id."""
    provider = await post(http, "/v1/providers", {"name": "Simulated", "provider_type": "llmsim"})
    model = await post(
        http, f"/v1/providers/{provider['id']}/models", {"model_id": "simulated", "display_name": "Simulated"}
    )
    return str(model["id"])


async def post(http: httpx.AsyncClient, path: str, body: Any, status: int = 201) -> Any:
    """POST JSON and expect a status; the answer's JSON."""
    answer = await http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()
