"""Real servers whose storage fails: requests get a 503, `/health` names the cause, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from perdure.store.locks import Lock
from tests.conformance.places import wire_to
from tests.server import Server, post, use_simulated_model
from tests.stub_model import use_model_at
from tests.talk import PATIENCE

WORDS = "word " * 100_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB, for tests that run as root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Use up all space."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


@asynccontextmanager
async def held_model() -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event, list[int]]]:
    """A model server whose long answer waits for the test.

    Yields its base URL, an event for a received call, one that releases the answer, and the calls.
    """
    asked, released, calls = asyncio.Event(), asyncio.Event(), []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        calls.append(1)
        asked.set()
        await released.wait()
        chunks = [
            {"choices": [{"index": 0, "delta": {"content": WORDS}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        writer.write("".join([*lines, "data: [DONE]\n\n"]).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", asked, released, calls


async def until(http: httpx.AsyncClient, path: str, what: Any) -> Any:
    """Poll until the answer is as wanted; return it."""
    async with asyncio.timeout(PATIENCE):
        while not what(answer := await http.get(path)):
            await asyncio.sleep(0.05)
        return answer


MESSAGE = {"message": {"role": "user", "content": [{"type": "text", "text": "Tell me everything."}]}}


async def test_on_a_full_disk_a_paid_answer_is_kept_until_it_can_be_logged(small_disk: Path) -> None:
    async with (
        held_model() as (url, asked, released, calls),
        Server(small_disk / "data", environment={"PERDURE_PRIVATE_ADDRESSES": "true"}) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_model_at(http, url)
        session = await post(http, "/v1/sessions", {})
        await post(http, f"/v1/sessions/{session['id']}/messages", MESSAGE)
        await asyncio.wait_for(asked.wait(), PATIENCE)
        assert (await http.get("/health")).status_code == 200
        filler = fill(small_disk)
        released.set()
        sick = await until(http, "/health", lambda answer: answer.status_code == 503)
        assert sick.json()["status"] == "degraded"
        assert (sick.json()["database"], sick.json()["cause"]) == ("unavailable", "disk_full")
        path = f"/v1/sessions/{session['id']}/fs/large.txt"
        refusal = await _refused(http, "POST", path, {"content": "line\n" * 1_200_000})
        assert (refusal["outcome"], refusal["retryable"]) == ("unchanged", True)
        assert "Nothing was changed" in refusal["detail"]
        await until(http, f"/v1/sessions/{session['id']}", lambda answer: answer.json()["status"] == "active")
        filler.unlink()
        await until(http, "/health", lambda answer: answer.status_code == 200)
        done = await until(http, f"/v1/sessions/{session['id']}", lambda a: a.json()["status"] == "idle")
        assert done.status_code == 200
        messages = (await http.get(f"/v1/sessions/{session['id']}/messages")).json()["data"]
        assert [message["role"] for message in messages] == ["user", "agent"]
        assert len(calls) == 1
        assert "Traceback" not in server.log.read_text()


async def _refused(http: httpx.AsyncClient, method: str, path: str, body: Any) -> Any:
    answer = await http.request(method, path, json=body)
    assert answer.status_code == 503, answer.text
    return answer.json()


async def test_a_read_only_postgresql_is_named_by_health_and_by_each_write(
    postgres_url: str, tmp_path: Path
) -> None:
    admin = await asyncpg.connect(postgres_url)
    name = await admin.fetchval("SELECT current_database()")
    async with (
        Server(tmp_path, database_url=postgres_url) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        session = await post(http, "/v1/sessions", {})
        await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        sick = await until(http, "/health", lambda answer: answer.json().get("cause") == "read_only")
        assert sick.status_code == 503
        for method, path, body in (
            ("POST", "/v1/sessions", {}),
            ("PATCH", f"/v1/sessions/{session['id']}", {"title": "New"}),
            ("POST", f"/v1/sessions/{session['id']}/messages", MESSAGE),
            ("DELETE", f"/v1/sessions/{session['id']}", None),
        ):
            refusal = await _refused(http, method, path, body)
            assert (refusal["code"], refusal["outcome"]) == ("unavailable", "unchanged")
        assert (await http.get(f"/v1/sessions/{session['id']}")).status_code == 200
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        await until(http, "/health", lambda answer: answer.status_code == 200)
        await post(http, f"/v1/sessions/{session['id']}/messages", MESSAGE)
        await until(http, f"/v1/sessions/{session['id']}", lambda a: a.json()["status"] == "idle")
        assert "Traceback" not in server.log.read_text()
    await admin.close()


async def test_sigterm_ends_a_server_whose_postgresql_is_frozen(postgres_url: str, tmp_path: Path) -> None:
    async with wire_to(postgres_url) as wire:
        server = Server(tmp_path, database_url=wire.url, environment={"PERDURE_DRAIN_SECONDS": "0.5"})
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
            session = await post(http, "/v1/sessions", {})
            async with http.stream("GET", f"/v1/sessions/{session['id']}/sse") as stream:
                assert stream.status_code == 200
                wire.freeze()
                sick = await http.get("/health")
                assert (sick.status_code, sick.json()["cause"]) == (503, "not_responding")
                began = time.monotonic()
                await server.stop()
        assert time.monotonic() - began < 25
        wire.thaw()


async def test_sigterm_ends_a_server_that_waits_for_a_frozen_postgresql_at_its_start(
    postgres_url: str, tmp_path: Path
) -> None:
    async with wire_to(postgres_url) as wire:
        wire.freeze()
        server = Server(tmp_path, database_url=wire.url)
        starting = asyncio.create_task(server.start())
        async with asyncio.timeout(PATIENCE):
            while not wire.pumps:
                await asyncio.sleep(0.01)
        assert await asyncio.wait_for(server.stop(), 3) == 128 + 15
        with pytest.raises(RuntimeError, match="did not start"):
            await starting


STUCK = """
import time
from perdure.api.routes import system
from perdure.cli.main import main

async def stuck(self, *_):
    while True:
        {}

system.DatabaseHealth.fault = stuck
main()
"""


@pytest.mark.parametrize("how", ["pass", pytest.param("time.sleep(600)", marks=pytest.mark.soak)])
async def test_sigterm_ends_a_server_whose_event_loop_is_blocked(how: str, tmp_path: Path) -> None:
    server = Server(tmp_path, environment={"PERDURE_DRAIN_SECONDS": "0"})
    program = tmp_path / "stuck.py"
    program.write_text(STUCK.format(how))
    server.program = (str(program),)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        asking = asyncio.create_task(http.get("/health"))
        done, _ = await asyncio.wait({asking}, timeout=0.5)
        assert not done
        assert await asyncio.wait_for(server.stop(), 25) == 1
        asking.cancel()
    assert "did not stop within 10 seconds" in server.log.read_text()


QUITTING = """
import asyncio
from perdure import stopping
from perdure.api.routes import system
from perdure.cli.main import main

tasks = []

async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def quits():
    raise SystemExit(3)

async def fault(self, *_):
    tasks.append(asyncio.create_task(stubborn()))
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(quits()))

stopping.CLOSE_SECONDS = 0.5
system.DatabaseHealth.fault = fault
main()
"""


async def test_a_server_whose_event_loop_was_stopped_does_not_live_on(tmp_path: Path) -> None:
    """Foreign code calls `sys.exit`, and leaves a task that ignores its cancellation."""
    server = Server(tmp_path, environment={"PERDURE_DRAIN_SECONDS": "0"})
    program = tmp_path / "quitting.py"
    program.write_text(QUITTING)
    server.program = (str(program),)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        with suppress(httpx.HTTPError):
            await http.get("/health")
        assert await asyncio.wait_for(server.ended(), 25) == 1
    assert "did not stop within 0.5 seconds" in server.log.read_text()


async def test_sigterm_ends_a_server_that_waits_for_another_ones_migration(
    empty_postgres_url: str, tmp_path: Path
) -> None:
    other = await asyncpg.connect(empty_postgres_url)
    async with other.transaction():
        await other.execute(f"SELECT pg_advisory_xact_lock({Lock.MIGRATE:d})")
        server = Server(tmp_path, database_url=empty_postgres_url)
        starting = asyncio.create_task(server.start())
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(PATIENCE):
            while not await other.fetchval(waiting):
                await asyncio.sleep(0.01)
        assert await asyncio.wait_for(server.stop(), 3) == 128 + 15
        with pytest.raises(RuntimeError, match="did not start"):
            await starting
    await other.close()
