"""The `perdure` command without a terminal, as scripts use it: real processes, a real server."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perdure import __version__
from perdure.client import Client, ClientSideTool
from tests.command import LIMIT, PERDURE, Terminal, environment, perdure, script, use_simulated_model
from tests.server import Server
from tests.unit.fake_server import FakeServer, answers

CLOCK = {"tool_calls": [{"name": "get_current_time", "arguments": {"timezone": "UTC"}}]}
WEATHER = ClientSideTool("weather", "The weather in a city.", {"type": "object"})


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        await use_simulated_model(made)
        yield made


# --- the command itself ---------------------------------------------------------


async def test_the_version_is_printed_by_command_and_by_option() -> None:
    for arguments in (["version"], ["--version"]):
        assert (await perdure(*arguments)).out == f"perdure {__version__}\n"


async def test_help_imports_nothing_slow() -> None:
    done = await perdure("--help", PYTHONPROFILEIMPORTTIME="1")
    imported = set(re.findall(r"\| +([\w.]+)$", done.err, re.MULTILINE))
    assert "typer" in imported
    assert not {"httpx", "uvicorn", "aiohttp", "cryptography", "perdure.client", "perdure.wiring"} & imported
    assert "serve" in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["sessions", "show"],
        ["sessions", "list", "--limit", "0"],
        ["serve", "--port", "70000"],
        ["sessions", "update", "session_1"],
        ["sessions", "update", "session_1", "--title", "x", "--clear-title"],
        ["sessions", "delete", "session_1"],
        ["chat", "session_1", "--agent", "x"],
        ["sessions", "list", "--url", "localhost:9000"],
    ],
    ids=" ".join,
)
async def test_wrong_usage_ends_with_status_2(arguments: list[str]) -> None:
    done = await perdure(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["sesions", "list"], "Did you mean 'sessions'"),
        (["sessions", "lst"], "Did you mean 'list'"),
        (["chta"], "Did you mean 'chat'"),
        (["fils", "list"], "Did you mean 'files'"),
        (["approvals", "lst"], "Did you mean 'list'"),
        (["keys", "create", "--nmae", "x"], "--name"),
        (["serve", "--prot", "1"], "--port"),
    ],
    ids=str,
)
async def test_a_misspelt_command_or_option_is_answered_with_what_was_meant(
    arguments: list[str], suggestion: str
) -> None:
    done = await perdure(*arguments)
    assert (done.status, done.out) == (2, "")
    assert suggestion in done.err
    assert "--help` shows the usage" in done.err


@pytest.mark.parametrize(
    "arguments", [["sessions", "list"], ["chat"], ["sessions", "tail", "session_1"]], ids=" ".join
)
async def test_an_unreachable_server_is_reported_with_what_to_do(
    arguments: list[str], unused_url: str
) -> None:
    done = await perdure(*arguments, url=unused_url)
    assert (done.status, done.out) == (1, "")
    first, second = done.err.splitlines()
    assert first.startswith(f"error: no answer from {unused_url}: ")
    assert "perdure serve" in second


async def test_another_program_at_the_url_is_recognized() -> None:
    async with FakeServer(answers(404, {})) as other:
        done = await perdure("sessions", "list", url=other.url)
    assert (done.status, done.out) == (1, "")
    assert "another program" in done.err


async def test_a_database_that_does_not_answer_is_named_without_its_password(
    unused_url: str, tmp_path: Path
) -> None:
    place = unused_url.removeprefix("http://")
    done = await perdure(
        "serve", "--data", str(tmp_path), "--database-url", f"postgresql://me:hidden@{place}/mine"
    )
    assert (done.status, done.out) == (1, "")
    assert done.err == f"error: cannot connect to the database at {place}: Connection refused\n"


@pytest.mark.parametrize(
    "url", ["sqlite:///mine.db", "localhost/mine", "postgresql+asyncpg://me:hidden@localhost/mine"]
)
async def test_an_unsupported_database_url_is_refused_with_an_example(url: str, tmp_path: Path) -> None:
    done = await perdure("serve", "--data", str(tmp_path), "--database-url", url)
    assert (done.status, done.out) == (1, "")
    assert "must look like postgresql://user:password@host:5432/database" in done.err
    assert "hidden" not in done.err


@pytest.fixture
def unused_url() -> Iterator[str]:
    """A URL where no server listens: the port is bound, but not served."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_the_traceback_is_printed_on_request(unused_url: str) -> None:
    done = await perdure("sessions", "list", url=unused_url, PERDURE_DEBUG="1")
    assert done.status == 1
    assert "Traceback" in done.err


# --- sessions -------------------------------------------------------------------


async def test_sessions_are_listed_shown_changed_and_deleted(client: Client, server: Server) -> None:
    assert (await perdure("sessions", "list", url=server.url)).out == "No sessions.\n"
    first = await client.create_session(title="Order [red]4711[/red]", tags=("support",))
    second = await client.create_session()
    listed = await perdure("sessions", "list", url=server.url)
    lines = listed.out.splitlines()
    assert [line.split()[0] for line in lines] == ["SESSION", second.id, first.id]
    assert "Order [red]4711[/red]" in lines[2]
    found = await perdure(
        "sessions",
        "list",
        "--search",
        "order",
        "--tag",
        "support",
        "--status",
        "started",
        "--json",
        url=server.url,
    )
    assert [json.loads(line)["id"] for line in found.out.splitlines()] == [first.id]

    changed = await perdure(
        "sessions", "update", first.id, "--clear-title", "--tag", "a b", "--tag", "c", url=server.url
    )
    assert changed.status == 0
    assert re.search("tags +a b, c", changed.out)
    renamed = await perdure(
        "sessions", "update", first.id, "--title", "New", "--clear-tags", "--json", url=server.url
    )
    assert (json.loads(renamed.out)["title"], json.loads(renamed.out)["tags"]) == ("New", [])

    await client.ask(first.id, script({"text": "Paris."}, words="Which city?"))
    shown = await perdure("sessions", "show", first.id, url=server.url)
    assert re.search("status +idle", shown.out)
    assert re.search(r"user  Which city\?", shown.out)
    assert "agent  Paris." in shown.out
    assert (
        json.loads((await perdure("sessions", "show", first.id, "--json", url=server.url)).out)["id"]
        == first.id
    )
    assert (await perdure("sessions", "cancel", first.id, url=server.url)).status == 0

    gone = await perdure("sessions", "delete", first.id, second.id, "--yes", url=server.url)
    assert gone.out.splitlines() == [f"deleted {first.id}", f"deleted {second.id}"]
    missing = await perdure("sessions", "show", first.id, url=server.url)
    assert (missing.status, missing.err) == (
        1,
        "error: no such session; `perdure sessions list` lists them.\n",
    )


async def test_a_list_in_a_pipe_has_one_line_for_each_entry_and_cuts_nothing(
    client: Client, server: Server
) -> None:
    title = "A title \N{CJK UNIFIED IDEOGRAPH-6F22} " * 30
    session = await client.create_session(title=title, tags=("a", "b\u2028c"))
    done = await perdure("sessions", "list", url=server.url, FORCE_COLOR="1")
    head, line = done.out.splitlines()
    assert head.split("\t") == ["SESSION", "STATUS", "UPDATED", "TITLE", "TAGS", "HELD"]
    shown = [session.id, "started", session.updated_at, title, "a, b\\u2028c", ""]
    assert line.split("\t") == shown
    terminal = Terminal(*PERDURE, "sessions", "list", **environment(server.url, NO_COLOR="1"))
    try:
        assert await terminal.end() == 0
        assert "\x1b[3" not in terminal._raw
        assert "more characters" in terminal.whole
    finally:
        terminal.close()


async def test_a_reader_that_leaves_ends_a_list_quietly(client: Client, server: Server) -> None:
    await client.create_session()
    listed = f"{shlex.join(PERDURE)} sessions list; echo status $? >&2"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"( {listed} ) | true", stderr=subprocess.PIPE, env=environment(server.url)
    )
    _, err = await process.communicate()
    assert err.decode() == "status 1\n"


class Tail:
    """A running `perdure sessions tail`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def until(self, part: str) -> str:
        assert self.process.stdout is not None
        while True:
            line = (await asyncio.wait_for(self.process.stdout.readline(), LIMIT)).decode()
            assert line, f"the tail ended before {part!r}: {self.lines}"
            self.lines.append(line.rstrip("\n"))
            if part in line:
                return line

    async def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        await asyncio.wait_for(self.process.communicate(), LIMIT)
        return self.process.returncode or 0


async def tail(url: str, *arguments: str) -> Tail:
    return Tail(
        await asyncio.create_subprocess_exec(
            *PERDURE,
            "sessions",
            "tail",
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=environment(url),
        )
    )


async def test_a_tail_shows_old_and_new_events_through_a_restart_of_the_server(
    client: Client, server: Server
) -> None:
    session = await client.create_session()
    follower = await tail(server.url, session.id)
    await follower.until("session.started")
    await server.restart()
    await client.ask(session.id, script(CLOCK, {"text": "Late."}))
    await follower.until("session.idled")
    assert await follower.interrupt() == 0
    shown = "\n".join(follower.lines)
    assert "input.message              Please." in shown
    assert re.search(r"tool.completed +get_current_time success", shown)
    events = await client.list_events(session.id, limit=1000)
    assert [int(line.split()[1]) for line in follower.lines] == [event.sequence for event in events]


async def test_a_tail_honours_its_start_and_its_filter(client: Client, server: Server) -> None:
    session = await client.create_session()
    await client.ask(session.id, script({"text": "One."}))
    events = await client.list_events(session.id)
    last = await tail(server.url, session.id, "--last", "2", "--json")
    since = await tail(server.url, session.id, "--since", events[-3].id, "--json")
    for one in (last, since):
        await one.until("session.idled")
        assert await one.interrupt() == 0
        assert [json.loads(line)["id"] for line in one.lines] == [event.id for event in events[-2:]]
    live = await tail(server.url, session.id, "-n", "1", "--types", "output.message.delta,session.idled")
    await live.until("session.idled")
    await client.ask(session.id, script({"tokens": 20, "delay_ms": 10}))
    await live.until("output.message.delta")
    await live.until("session.idled")
    assert await live.interrupt() == 0


# --- chat through a pipe ---------------------------------------------------------


async def test_each_line_of_a_pipe_is_answered_and_nothing_else_is_printed(
    client: Client, server: Server
) -> None:
    lines = f"{script(CLOCK, {'text': 'One.'})}\n\n{script({'text': 'Two.'})}\n"
    done = await perdure("chat", url=server.url, given=lines)
    assert (done.status, done.out, done.err) == (0, "One.\nTwo.\n", "")
    (session,) = (await client.list_sessions()).data
    assert len(await client.list_messages(session.id)) == 6


async def test_a_failed_turn_is_reported_and_the_next_line_is_read(client: Client, server: Server) -> None:
    lines = (
        f"{script({'fail': {'code': 'provider_auth', 'message': 'bad key'}})}\n{script({'text': 'Two.'})}\n"
    )
    done = await perdure("chat", url=server.url, given=lines)
    assert (done.status, done.out) == (1, "Two.\n")
    assert done.err == "error: bad key\n"


async def test_a_session_and_a_model_can_be_named(client: Client, server: Server) -> None:
    session = await client.create_session()
    for model in ("simulated", "The simulated one", (await client.list_models())[0].id):
        done = await perdure(
            "chat", session.id, "--model", model, url=server.url, given=script({"text": "Here."})
        )
        assert (done.status, done.out) == (0, "Here.\n")
    assert len(await client.list_messages(session.id)) == 6
    done = await perdure("chat", "--model", "other", url=server.url, given="hi")
    unknown = "error: this server has no model named 'other'; its models: simulated\n"
    assert (done.status, done.err) == (1, unknown)
    done = await perdure("chat", "--agent", "nobody", url=server.url, given="hi")
    assert (done.status, done.err) == (1, "error: no such agent; `perdure agents list` lists them.\n")


async def test_without_a_model_the_error_says_how_to_register_one(server: Server) -> None:
    done = await perdure("chat", url=server.url, given="hi")
    assert (done.status, done.out) == (1, "")
    assert "no model yet" in done.err
    for step in ("perdure providers add openai", "--base-url http", "perdure serve --local-model"):
        assert step in done.err


async def test_client_side_tools_end_a_pipe_with_an_error(client: Client, server: Server) -> None:
    session = await client.create_session(tools=(WEATHER,))
    asked = script({"tool_calls": [{"name": "weather", "arguments": {}}]}, {"text": "Never."})
    done = await perdure("chat", session.id, url=server.url, given=asked)
    assert (done.status, done.out) == (1, "")
    assert "cannot run: weather" in done.err
    assert (await client.get_session(session.id)).status == "idle"


# --- serve and keys ---------------------------------------------------------------


async def test_a_new_server_says_where_it_is_and_what_is_missing(tmp_path: Path) -> None:
    data = tmp_path / "data"

    async def greeting(*missing: str) -> list[str]:
        process = await asyncio.create_subprocess_exec(
            *(*PERDURE, "serve", "--port", "0", "--data", str(data)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        lines = [
            await asyncio.wait_for(process.stdout.readline(), LIMIT)
            for _ in ("url", "docs", "data", *missing)
        ]
        if missing:
            async with Client(lines[0].decode().split()[-1]) as client:
                await use_simulated_model(client)
        process.send_signal(signal.SIGINT)
        rest, err = await asyncio.wait_for(process.communicate(), LIMIT)
        assert (process.returncode, rest) == (0, b"")
        # Nothing is logged but the active protections, and this client's requests.
        first, *requests = err.decode().splitlines()
        assert re.fullmatch(r"\S+ \S+ INFO perdure: memory and environment: .+; sandbox processes: .+", first)
        assert len(requests) == (2 if missing else 0)
        assert all(" POST /v1/providers" in line for line in requests)
        return [line.decode().strip() for line in lines]

    url, docs, folder, hint = await greeting("model")
    assert url.startswith("listening on http://127.0.0.1:")
    assert docs == f"docs: {url.split()[-1]}/docs"
    assert folder == f"data: {data}"
    assert hint.startswith("no model yet: ")
    assert "OPENAI_API_KEY" in hint
    assert len(await greeting()) == 3


async def test_serving_beyond_loopback_requires_an_access_token(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    refused = await perdure("serve", "--host", "0.0.0.0", "--port", "0", *data)
    assert (refused.status, refused.out) == (1, "")
    assert "perdure keys create" in refused.err
    made = await perdure("keys", "create", "--name", "laptop", *data)
    token = made.out.strip()
    assert token.startswith("pdr_pat_")
    assert token not in made.err
    async with Server(tmp_path / "data") as server:
        closed = await perdure("sessions", "list", url=server.url)
        assert closed.status == 1
        assert "PERDURE_TOKEN" in closed.err
        assert (await perdure("sessions", "list", url=server.url, PERDURE_TOKEN=token)).status == 0
        taken = await perdure(
            "serve", "--port", server.url.rpartition(":")[2], "--data", str(tmp_path / "other")
        )
        assert (taken.status, taken.out) == (1, "")
        assert "error: cannot listen on" in taken.err
        assert "--port" in taken.err
        assert await server.stop() == 0
