"""Clients that stall, send too much or take all connections."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import pytest_asyncio

from perdure.api.kernel.connections import SPARE
from tests.server import Server, post, use_simulated_model

MOST = 40
SOON = 20.0
"""Seconds in which a busy machine notices what stalls."""
LARGE = 10_485_760


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server with little patience and few connections."""
    environment = {
        "PERDURE_REQUEST_TIMEOUT_SECONDS": "2",
        "PERDURE_WRITE_TIMEOUT_SECONDS": "2",
        "PERDURE_MAX_CONNECTIONS": str(MOST),
    }
    async with Server(tmp_path_factory.mktemp("strict") / "data", environment=environment) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as client:
            await use_simulated_model(client)
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        yield client


pytestmark = pytest.mark.asyncio(loop_scope="session")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(server: Server, first: bytes = b"") -> AsyncIterator[Streams]:
    """A connection on which these bytes were sent."""
    parts = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(first)
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()


async def ends(reader: asyncio.StreamReader) -> bytes:
    """What the server sends until it closes the connection."""
    data = b""
    async with asyncio.timeout(SOON):
        try:
            while chunk := await reader.read(65_536):
                data += chunk
        except ConnectionError:
            pass
    return data


async def drip(writer: asyncio.StreamWriter, drop: bytes) -> None:
    """Send a little ten times a second, until the connection is closed."""
    try:
        while not writer.is_closing():
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.1)
    except ConnectionError:
        return


GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
STALLED = {
    "nothing at all": b"",
    "an empty line": b"\r\n",
    "a part of the request line": b"GET /v1/ses",
    "a head without its end": GET + b"x-long: " + b"a" * 60_000,
    "a chunk size without its end": GET + b"transfer-encoding: chunked\r\n\r\n5",
    "a body that nobody reads": GET + b"content-length: 50000\r\n\r\nabc",
    "a refused body": b"POST /v1/nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000\r\n\r\nabc",
    "a second request without its end": GET + b"\r\nGET /hea",
}


@pytest.mark.parametrize("what", STALLED)
@pytest.mark.parametrize("drop", [b"", b"a"])
async def test_a_connection_that_stalls_is_closed(server: Server, what: str, drop: bytes) -> None:
    async with connected(server, STALLED[what]) as (reader, writer), asyncio.TaskGroup() as tasks:
        dripping = tasks.create_task(drip(writer, drop))
        await ends(reader)
        dripping.cancel()


async def test_a_client_that_does_not_read_is_cut_off_and_its_memory_is_free_again(
    server: Server, http: httpx.AsyncClient
) -> None:
    session = await post(http, "/v1/sessions", {})
    path = f"/v1/sessions/{session['id']}/fs/large.txt"
    await post(http, path, {"content": "x" * LARGE})
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    for each in (path, path.replace("/fs/", "/fs/_/download/")):
        request = f"GET {each} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        async with AsyncExitStack() as stack:
            readers = [(await stack.enter_async_context(connected(server, request)))[0] for _ in range(20)]
            for reader in readers:
                reader._transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(SOON):
                while len(_open(process)) > 2:
                    assert process.memory_info().rss - before < 120_000_000
                    assert (await http.get("/health")).status_code == 200


def _open(process: psutil.Process) -> list[object]:
    return [each for each in process.net_connections("tcp") if each.status == "ESTABLISHED"]


async def _once(server: Server, path: str) -> httpx.Response:
    """The answer on a new connection."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as late:
        return await late.get(path)


async def test_health_answers_when_all_connections_are_taken_and_the_log_says_so(
    server: Server, http: httpx.AsyncClient
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(MOST + SPARE * 2):
            await stack.enter_async_context(connected(server))
        assert (await _once(server, "/health")).status_code == 200
        refused = await _once(server, "/v1/sessions")
        assert refused.status_code == 503
        assert refused.json()["code"] == "too_many_connections"
        assert refused.headers["retry-after"]
    assert "connections are open, which is the limit" in server.log.read_text()
    async with asyncio.timeout(SOON):
        while (await _once(server, "/v1/sessions")).status_code != 200:
            pass


# --- refusals before the whole body was read ---------------------------------


def _with_urllib(url: str, body: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, body, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(json.loads(error.read())["status"])


def _with_httpx(url: str, body: bytes, headers: dict[str, str]) -> int:
    return httpx.post(url, content=body, headers={"content-type": "application/json", **headers}).status_code


def _in_chunks(url: str, body: bytes, headers: dict[str, str]) -> int:
    pieces = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
    headers = {"content-type": "application/json", **headers}
    return httpx.post(url, content=pieces, headers=headers).status_code


CLIENTS = {"urllib": _with_urllib, "httpx": _with_httpx, "chunks": _in_chunks}
REFUSED: dict[str, tuple[str, int, dict[str, str]]] = {
    "too large": ("/v1/sessions", 413, {}),
    "no such route": ("/v1/nothing", 404, {}),
    "no such method": ("/v1/sessions/stats", 405, {}),
    "compressed": ("/v1/sessions", 415, {"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("why", REFUSED)
async def test_every_client_sees_why_its_large_body_was_refused(
    server: Server, client: str, why: str
) -> None:
    path, status, headers = REFUSED[why]
    send: Callable[[str, bytes, dict[str, str]], int] = CLIENTS[client]
    body = b'{"title": "' + b"x" * 25_000_000 + b'"}'
    assert await asyncio.to_thread(send, server.url + path, body, headers) == status


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_sees_a_413_with_and_without_asking_first(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x" * 25_000_000)
    for expect in ("Expect: 100-continue", "Expect:"):
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "content-type: application/json"),
            *("-H", expect, "--data-binary", f"@{body}", f"{server.url}/v1/sessions"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await curl.communicate()
        assert (curl.returncode, out) == (0, b"413")


async def test_a_client_that_asks_first_gets_the_refusal_at_once(server: Server) -> None:
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 25000000\r\nexpect: 100-continue\r\n\r\n"
    )
    async with connected(server, head) as (reader, _):
        answer = await ends(reader)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


async def test_a_body_without_an_end_is_read_only_for_a_while(server: Server) -> None:
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    async with connected(server, head) as (reader, writer), asyncio.TaskGroup() as tasks:
        dripping = tasks.create_task(drip(writer, chunk * 40))
        assert (await ends(reader)).startswith(b"HTTP/1.1 413 ")
        async with asyncio.timeout(SOON):
            await dripping


async def test_a_connection_goes_on_after_a_refusal_of_a_body_that_was_read(http: httpx.AsyncClient) -> None:
    for _ in range(3):
        refused = await http.post("/v1/sessions", json={"title": 1})
        assert refused.status_code == 400
        assert refused.headers.get("connection") != "close"


@pytest.mark.parametrize("rest", [b"", b"G\x00T / HTTP/1.1\r\n\r\n", GET + b"x-long: " + b"a" * 70_000])
async def test_a_client_that_leaves_before_its_answers_is_no_error(server: Server, rest: bytes) -> None:
    before = len(server.log.read_text())
    request = b"GET /v1/sessions HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for count in (1, 2, 5, 50) * 3:
        async with connected(server, request * count + rest) as (reader, writer):
            if count > 1:
                await reader.read(1)  # the server is in the midst of its answers
            writer.transport.abort()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        assert (await client.get("/health")).status_code == 200
    assert "Traceback" not in server.log.read_text()[before:]
