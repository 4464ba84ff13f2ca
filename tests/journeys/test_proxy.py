"""The example for nginx, in front of a real server: live streams pass on at once, and uploads do too."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port, until_open
from tests.server import Server, use_simulated_model
from tests.talk import new_talk, script

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "proxy" / "nginx.conf"


def configuration(folder: Path, port: int, upstream: str) -> str:
    """The example without a certificate, for a process that runs in the foreground."""
    example = EXAMPLE.read_text().replace("127.0.0.1:9000", upstream.removeprefix("http://"))
    example = re.sub(r"listen 443 ssl;\n    http2 on;", f"listen 127.0.0.1:{port};", example)
    example = re.sub(r"    ssl_certificate.*\n", "", example)
    paths = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\n    access_log off;\n{paths}{example}}}\n"
    )


@contextlib.asynccontextmanager
async def nginx(folder: Path, upstream: str) -> AsyncIterator[str]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    port, file = free_port(), folder / "nginx.conf"
    file.write_text(configuration(folder, port, upstream))
    process = await asyncio.create_subprocess_exec(program, "-p", str(folder), "-c", str(file))
    try:
        await until_open(port, process, log=folder / "error.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=30)


async def test_streams_and_uploads_pass_through_the_example_for_nginx(
    postgres_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=postgres_url)
    async with server, nginx(tmp_path, server.url) as url, client(url) as http, client(server.url) as direct:
        await use_simulated_model(http)
        talk = await new_talk(http)
        async with talk.follow() as stream:
            await talk.say(script({"text": "One word after the other.", "delay_ms": 300}))
            seen = await stream.until("output.message.delta")
            # The turn takes longer than a second; its first word is here before it ends.
            status = (await direct.get(talk.path())).json()["status"]
            assert status == "active"
            seen += await stream.until("session.idled")
        assert sum(each.live for each in seen) > 2
        content = bytes(range(256)) * 4096 * 12
        put = await http.put(
            talk.path("/fs/large.bin"), content=content, headers={"Content-Type": "application/x-large"}
        )
        assert put.status_code in (200, 201), put.text
        part = await http.get(talk.path("/fs/_/download/large.bin"), headers={"Range": "bytes=256-511"})
        assert (part.status_code, part.content) == (206, bytes(range(256)))
        # When the process is gone, the proxy says so.
        await server.kill()
        assert (await http.get("/health")).status_code == 502
