"""`perdure run`: one agent, one message, one answer."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer

from perdure.cli.runs import read_message, read_schema
from perdure.client import Client
from perdure.domain.tools import CapabilityRef
from tests.command import perdure, script
from tests.journeys.people import fresh
from tests.server import Server
from tests.talk import Json, call

ROME: Json = {"city": "Rome", "degrees": 21}
SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
}


async def test_an_agent_runs_on_files_and_answers_a_value(sqlite_server: Server, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "notes.txt").write_text("It is warm in Rome.")
    (tmp_path / "photo.bin").write_bytes(b"\x89PNG\0")
    name = fresh("reader")
    async with Client(sqlite_server.url) as client:
        files = (CapabilityRef("session_file_system"),)
        await client.create_agent(name=name, system_prompt="Read.", capabilities=files)
        reads = script({"tool_calls": [call("read_file", path="/in/a.txt")]}, {"text": json.dumps(ROME)})
        options = ["--agent", name, "--schema", f"{tmp_path}/schema.json", "--title", name]
        options += ["--file", f"{tmp_path}/notes.txt:/in/a.txt", "--file", f"{tmp_path}/photo.bin"]
        done = await perdure("run", "-", *options, url=sqlite_server.url, given=reads)
        assert (done.status, json.loads(done.out)) == (0, ROME), done.err
        (session,) = (await client.list_sessions(search=name)).data
        assert session.id in done.err
        assert await client.read_file(session.id, "/photo.bin") == b"\x89PNG\0"
    plain = await perdure("run", script({"text": "Sure."}), url=sqlite_server.url)
    assert (plain.status, plain.out) == (0, "Sure.\n")


async def test_a_run_that_fails_or_waits_says_so_by_its_status(sqlite_server: Server) -> None:
    name = fresh("careful")
    async with Client(sqlite_server.url) as client:
        careful = (CapabilityRef("tool_approval", {"mode": "normal"}),)
        await client.create_agent(name=name, system_prompt="Take care.", capabilities=careful)
    fails = script({"fail": {"code": "provider_auth", "message": "no"}})
    failed = await perdure("run", fails, url=sqlite_server.url)
    assert (failed.status, failed.out) == (1, "")
    assert "provider_auth" in failed.err
    unknown = await perdure("run", "Hello.", "--model", "nobody", url=sqlite_server.url)
    assert (unknown.status, "no model is called 'nobody'" in unknown.err) == (1, True)
    danger = script({"tool_calls": [call("bash", "call_1", command="true")]}, {"text": "Done."})
    waits = await perdure("run", danger, "--agent", name, url=sqlite_server.url)
    assert (waits.status, waits.out) == (3, "")
    assert "bash waits (approval)" in waits.err
    assert "perdure chat session_" in waits.err
    whole = await perdure("run", danger, "--agent", name, "--json", url=sqlite_server.url)
    assert (whole.status, json.loads(whole.out)["status"], whole.err) == (3, "waiting", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--schema", "/nowhere.json"],
        ["--schema", "/proc/self/status"],
        ["--var", "x"],
        ["--var", "=x"],
        ["--file", "/nowhere.txt"],
    ],
    ids=" ".join,
)
async def test_wrong_options_start_nothing(arguments: list[str]) -> None:
    done = await perdure("run", "Hello.", *arguments)
    assert (done.status, done.out) == (2, "")
    assert arguments[0] in done.err


def test_what_is_no_text_or_no_schema_is_a_wrong_parameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(typer.BadParameter, match="deep"):
        read_schema(tmp_path / "deep.json")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), "utf-8"))
    for text in ("\udcff", "-"):
        with pytest.raises(typer.BadParameter, match="UTF-8"):
            read_message(text)
