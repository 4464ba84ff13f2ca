"""`run_python` through the model loop: files, conflicts, cancels, kills, and a server where it is off."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.adversarial.attack import refused, use, works
from tests.code_places import descendants, is_running
from tests.postgres_server import PostgresServer
from tests.server import Server, use_simulated_model
from tests.sites import Site
from tests.talk import Json, Talk, call, new_talk, script, when

CODE = [{"ref": "code_interpreter"}]
HANGS = "import os, time\nos.fork()\nprint('here', flush=True)\ntime.sleep(100)"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(params=["sqlite", "postgres"])
async def remote(
    request: pytest.FixtureRequest, tmp_path: Path, site: Site, postgres_server: PostgresServer
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose code runs at `site`, on each of the databases."""
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    settings = {"PERDURE_CODE_INTERPRETER": site.url("/run"), "PERDURE_CODE_TOKEN": "sesame"}
    async with (
        Server(tmp_path / "data", database_url=url, environment=settings) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        yield http


async def test_a_service_gets_the_files_and_its_changes_become_the_sessions(
    remote: httpx.AsyncClient, site: Site
) -> None:
    talk = await new_talk(remote, capabilities=CODE)
    await works(talk, "write_file", path="/kept.txt", content="kept")
    await works(talk, "write_file", path="/gone.txt", content="gone")
    await works(talk, "write_file", path="/others.txt", content="before")
    seen: list[tuple[Any, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((dict(request.headers), await request.json()))
        changed = await remote.put(talk.path("/fs/others.txt"), json={"content": "of another writer"})
        assert changed.status_code == 200, changed.text
        names = ("/new/result.txt", "/others.txt", "/../etc", "relative", "/_/x", "/a\u202eb", "/nul\0", "")
        files = [{"path": name, "content": b64("of the code")} for name in names]
        return web.json_response(
            {
                "exit_code": 3,
                "stdout": "out\n\0",
                "stderr": "err\n",
                "files": files,
                "removed": ["/gone.txt", "/no", "/nul\0", "../x"],
            }
        )

    site.answers["/run"] = answer
    data = await use(talk, "run_python", code="print('ö')", timeout=7)
    result = json.loads(data["result"][0]["text"])
    assert (result["exit_code"], result["stdout"], result["stderr"]) == (3, "out\n\0", "err\n")
    assert [note for note in result["notes"] if "/others.txt was not written" in note and "meanwhile" in note]
    assert len([note for note in result["notes"] if "path is not valid" in note]) == 6

    (headers, body) = seen[0]
    assert headers["Authorization"] == "Bearer sesame"
    keys = [each["data"].get("effect_key") for each in await talk.events() if each["type"] == "tool.started"]
    assert headers["Idempotency-Key"] == keys[3]
    assert (body["code"], body["timeout_seconds"]) == ("print('ö')", 7)
    assert {"path": "/kept.txt", "content": b64("kept")} in body["files"]
    assert body["limits"]["output_bytes"] == 262_144

    written = [each["data"] for each in await talk.events() if each["type"] == "file.written"][-2:]
    assert {(each["path"], each["operation"]) for each in written} == {
        ("/gone.txt", "delete"),
        ("/new/result.txt", "write"),
    }
    assert "of the code" in (await works(talk, "read_file", path="/new/result.txt"))["content"]
    assert "of another writer" in (await works(talk, "read_file", path="/others.txt"))["content"]


@pytest.fixture
async def local(bubblewrap: None, tmp_path: Path) -> AsyncIterator[Server]:
    """A server whose code runs under bubblewrap."""
    settings = {"PERDURE_CODE_INTERPRETER": "bubblewrap", "PERDURE_DRAIN_SECONDS": "0.5"}
    async with Server(tmp_path / "data", environment=settings) as server:
        async with httpx.AsyncClient(base_url=server.url) as http:
            await use_simulated_model(http)
        yield server


async def hanging(http: httpx.AsyncClient, server: Server) -> tuple[Talk, set[int]]:
    """A session whose code hangs, and the processes of the code."""
    talk = await new_talk(http, capabilities=CODE)
    async with talk.follow() as stream:
        steps = [{"tool_calls": [call("run_python", code=HANGS, timeout=100)]}, {"text": "Done."}]
        await talk.say(script(*steps))
        await stream.until("tool.output.delta")
    return talk, descendants(server.pid, "bwrap")


async def gone(processes: set[int]) -> bool:
    return not any(is_running(pid) for pid in processes)


async def test_code_works_on_the_files_and_ends_with_its_turn_or_its_server(local: Server) -> None:
    async with httpx.AsyncClient(base_url=local.url, timeout=30) as http:
        talk = await new_talk(http, capabilities=CODE)
        await works(talk, "write_file", path="/data.csv", content="a,1\nb,2\n")
        code = (
            "import csv\ntotal = sum(int(row[1]) for row in csv.reader(open('data.csv')))\n"
            "print(total)\nopen('total.txt', 'w').write(str(total))"
        )
        assert await works(talk, "run_python", code=code) == {"exit_code": 0, "stdout": "3\n"}
        assert "3" in (await works(talk, "read_file", path="/total.txt"))["content"]

        talk, processes = await hanging(http, local)
        assert len(processes) >= 3
        await talk.cancel()
        await when(lambda: gone(processes))

        talk, processes = await hanging(http, local)
        await local.kill()
        await when(lambda: gone(processes))
        await local.start()
        await talk.logged_until("session.idled")
        ended = [each["data"] for each in await talk.events() if each["type"] == "tool.completed"]
        assert [each["status"] for each in ended] == ["interrupted"]  # it does not run twice

        _, processes = await hanging(http, local)
        await local.stop()
        assert await gone(processes)


async def test_where_it_is_off_the_list_and_the_error_say_who_can_turn_it_on(api: httpx.AsyncClient) -> None:
    listed: Json = (await api.get("/v1/capabilities/code_interpreter")).json()
    assert "its operator has to set PERDURE_CODE_INTERPRETER" in listed["description"]
    talk = await new_talk(api, capabilities=CODE)
    assert "its operator has to set PERDURE_CODE_INTERPRETER" in await refused(talk, "run_python", code="1")


@pytest.mark.parametrize(
    "command", ["python3 -c 'print(1)'", "python x.py", "pip install numpy", "node -e 1"]
)
async def test_the_shell_says_where_python_is(api: httpx.AsyncClient, command: str) -> None:
    answer = await works(await new_talk(api), "bash", command=command)
    assert answer["exit_code"] == 127
    assert "run_python" in answer["stderr"]
    assert "code_interpreter" in answer["stderr"]
