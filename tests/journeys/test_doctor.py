"""`perdure doctor` on good and broken installations."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from perdure.cli.doctor_database import clock_finding
from tests.command import perdure
from tests.journeys.keyed import with_login
from tests.server import Server, post
from tests.sites import Site

Findings = dict[str, dict[str, Any]]


async def doctor(*options: str, status: int = 0, **environment: str) -> Findings:
    """What the command prints for programs, by check."""
    done = await perdure("doctor", "--json", *options, **environment)
    assert done.status == status, done.out + done.err
    return {line["check"]: line for line in map(json.loads, done.out.splitlines())}


@asynccontextmanager
async def proxy(server: Server, *, buffers: bool, date: str = "") -> AsyncIterator[str]:
    """A reverse proxy; one that buffers sends an answer once it has all of it."""

    async def forward(request: web.BaseRequest) -> web.StreamResponse:
        headers = {"date": date} if date else {}
        url = server.url + request.path_qs
        async with (
            httpx.AsyncClient(timeout=60) as http,
            http.stream(request.method, url, headers=_passed_on(request)) as answer,
        ):
            kind = {"content-type": answer.headers["content-type"], **headers}
            if buffers:
                return web.Response(body=await answer.aread(), status=answer.status_code, headers=kind)
            reply = web.StreamResponse(status=answer.status_code, headers=kind)
            await reply.prepare(request)
            async for chunk in answer.aiter_raw():
                await reply.write(chunk)
            return reply

    runner = web.ServerRunner(web.Server(forward), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _passed_on(request: web.BaseRequest) -> dict[str, str]:
    return {name: request.headers[name] for name in ("Authorization",) if name in request.headers}


async def test_a_good_installation_passes_while_its_server_runs(
    any_server: Server, http: httpx.AsyncClient
) -> None:
    await post(
        http, "/v1/providers?check=false", {"name": "K", "provider_type": "openai", "api_key": "sk-none"}
    )
    # The tests' PostgreSQL does not flush its disk, which the doctor must find.
    careless = {"setting fsync"} if any_server.database_url else set()
    said = await doctor(
        *("--url", any_server.url, "--data", str(any_server.data)),
        status=1 if careless else 0,
        PERDURE_DATABASE_URL=any_server.database_url,
    )
    assert {name for name, each in said.items() if each["status"] == "fail"} == careless
    for name in ("database", "database writes", "migrations", "keys", "sandbox", "server", "streaming"):
        assert said[name]["status"] == "ok", said[name]
    if any_server.database_url:
        assert said["notifications"]["status"] == said["clock"]["status"] == "ok"
    assert (await http.get("/health")).json()["status"] == "ok"


async def test_a_proxy_that_holds_streams_back_is_found_and_one_that_passes_them_on_is_not(
    server: Server,
) -> None:
    here = ("--data", str(server.data))
    async with proxy(server, buffers=False) as url:
        assert (await doctor("--url", url, *here))["streaming"]["status"] == "ok"
    async with proxy(server, buffers=True, date="Thu, 01 Jan 2026 00:00:00 GMT") as url:
        said = await doctor("--url", url, *here, status=1)
    assert said["streaming"]["status"] == "fail"
    assert "proxy_buffering off" in said["streaming"]["advice"]
    assert said["server"]["status"] == "ok"
    assert said["clock of the URL"]["status"] == "fail"
    assert "NTP" in said["clock of the URL"]["advice"]


async def test_broken_folders_databases_keys_and_settings_are_named_with_what_to_do(
    server: Server, tmp_path: Path
) -> None:
    await server.stop()
    good = server.data

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    no_key = copy("no-key")
    with closing(sqlite3.connect(good / "perdure.db")) as database:
        assert database.execute("SELECT count(*) FROM migrations").fetchone()[0] > 30
    (no_key / "perdure.db").write_bytes((good / "perdure.db").read_bytes()[:8192])
    said = await doctor("--data", str(no_key), status=1)
    assert said["database"]["status"] == "fail"
    assert "backup" in said["database"]["advice"]

    newer = copy("newer")
    with closing(sqlite3.connect(newer / "perdure.db")) as database:
        database.execute("INSERT INTO migrations (number, name, applied_at) VALUES (9999, 'x', 0)")
        database.commit()
    newer.chmod(0o755)
    said = await doctor("--data", str(newer), status=1)
    assert "9999" in said["migrations"]["detail"]
    assert said["data folder"]["status"] == "warn"
    assert "chmod 700" in said["data folder"]["advice"]

    said = await doctor("--data", str(copy("settings")), status=1, PERDURE_LOG_FORMAT="xml")
    assert "PERDURE_LOG_FORMAT" in said["settings"]["detail"]
    said = await doctor("--data", str(copy("code")), status=1, PERDURE_CODE_INTERPRETER="nowhere")
    assert said["code interpreter"]["status"] == "fail"
    said = await doctor(
        "--data", str(copy("pg")), status=1, PERDURE_DATABASE_URL="postgresql://me:sesame@127.0.0.1:1/x"
    )
    assert said["database"]["status"] == "fail"
    assert "sesame" not in str(said)
    said = await doctor("--data", str(tmp_path / "new"), "--url", "http://127.0.0.1:1", status=1)
    assert said["database"]["status"] == "ok"
    assert said["server"]["status"] == "fail"


async def test_a_missing_master_key_and_a_key_that_a_vendor_refuses_are_found(
    server: Server, site: Site
) -> None:
    site.answers["/v1/models"] = web.json_response({"error": {"message": "no"}}, status=401)
    async with httpx.AsyncClient(base_url=server.url) as http:
        fields = {
            "provider_type": "openai_completions",
            "base_url": site.url("/v1"),
            "api_key": "sk-wrong-key",
        }
        await post(http, "/v1/providers?check=false", {"name": "Mine", **fields})
        await post(http, "/v1/providers?check=false", {"name": "Played", "provider_type": "llmsim"})
    token = await with_login(server)
    options = ("--url", server.url, "--data", str(server.data), "--providers")
    said = await doctor(*options)
    assert said["streaming"]["status"] == said["providers"]["status"] == "skip"
    said = await doctor(*options, "--token", token, status=1)
    assert said["streaming"]["status"] == "ok"
    assert said["provider Mine"]["status"] == "fail"
    assert said["provider Played"]["status"] == "ok"
    await server.stop()
    (server.data / "master.key").unlink()
    said = await doctor("--data", str(server.data), status=1)
    assert said["keys"]["status"] == "fail"
    assert "PERDURE_MASTER_KEY" in said["keys"]["detail"]


async def test_people_read_it_in_lines_with_advice_below(tmp_path: Path) -> None:
    done = await perdure("doctor", "--data", str(tmp_path), "--url", "http://127.0.0.1:1")
    assert done.status == 1
    assert "fail  server: no server answers at http://127.0.0.1:1" in done.out
    assert "      Start it, or correct the URL." in done.out
    done = await perdure("doctor", "--providers")
    assert done.status == 2


@pytest.mark.parametrize(("other", "status"), [(100.0, "ok"), (97.0, "warn"), (200.0, "fail")])
def test_clocks_are_compared_without_the_time_that_the_question_took(other: float, status: str) -> None:
    assert clock_finding("clock", 99.5, other, 100.5, "another").status == status


def test_a_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    from perdure.cli import doctor_machine
    from perdure.settings import Settings

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    found = doctor_machine._files(Settings())
    assert found.status == "warn"
    assert "ulimit" in found.advice
