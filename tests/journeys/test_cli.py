"""The `perdure` command, as people and scripts use it: real processes, a real server, a real terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from perdure import __version__
from perdure.client import BuiltinTool, CapabilityRef, Client, ClientSideTool, is_live
from tests.server import Server
from tests.unit.fake_server import FakeServer, answers

PERDURE = (sys.executable, "-m", "perdure.cli")
LIMIT = 30.0
WEATHER = ClientSideTool("weather", "The weather in a city.", {"type": "object"})


class Done:
    """What a finished command left behind."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status = status
        self.out = out.decode()
        self.err = err.decode()


def environment(url: str = "", **more: str) -> dict[str, str]:
    """The test's own environment without anybody's settings or keys."""
    kept = {name: value for name, value in os.environ.items() if not re.match("PERDURE_|OPENAI_|ANTHROPIC_", name)}
    return {**kept, "PERDURE_URL": url, "TERM": "xterm-256color", "COLUMNS": "100", **more}


async def perdure(*arguments: str, url: str = "", given: str = "", **more: str) -> Done:
    """Run the command to its end, without a terminal."""
    process = await asyncio.create_subprocess_exec(
        *PERDURE, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(url, **more)
    )
    out, err = await asyncio.wait_for(process.communicate(given.encode()), LIMIT)
    return Done(process.returncode or 0, out, err)


def script(*steps: dict[str, Any], words: str = "Please.") -> str:
    return f"{words} [[sim {json.dumps(steps)}]]"


CLOCK = {"tool_calls": [{"name": "get_current_time", "arguments": {"timezone": "UTC"}}]}


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        provider = await made.create_provider(name="Simulated", provider_type="llmsim")
        await made.create_model(provider.id, model_id="simulated", display_name="The simulated one")
        yield made


# --- the command itself ---------------------------------------------------------


async def test_the_version_is_printed_either_way() -> None:
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
        ["nonsense"], ["sessions", "show"], ["sessions", "list", "--limit", "0"], ["serve", "--port", "70000"],
        ["sessions", "update", "session_1"], ["sessions", "update", "session_1", "--title", "x", "--clear-title"],
        ["sessions", "delete", "session_1"], ["chat", "session_1", "--agent", "x"],
        ["sessions", "list", "--url", "localhost:9000"],
    ],
    ids=" ".join,
)  # fmt: skip
async def test_wrong_usage_ends_with_status_2(arguments: list[str]) -> None:
    done = await perdure(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("arguments", [["sessions", "list"], ["chat"], ["sessions", "tail", "session_1"]], ids=" ".join)
async def test_no_server_is_said_in_words_with_what_to_do(arguments: list[str], unused_url: str) -> None:
    done = await perdure(*arguments, url=unused_url)
    assert (done.status, done.out) == (1, "")
    first, second = done.err.splitlines()
    assert first.startswith(f"error: no answer from {unused_url}: ")
    assert "perdure serve" in second


@pytest.fixture
def unused_url() -> Iterator[str]:
    """An address where nobody listens: the port is taken, but not served."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_the_traceback_is_there_for_those_who_ask(unused_url: str) -> None:
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
        "sessions", "list", "--search", "order", "--tag", "support", "--status", "started", "--json", url=server.url
    )
    assert [json.loads(line)["id"] for line in found.out.splitlines()] == [first.id]

    changed = await perdure("sessions", "update", first.id, "--clear-title", "--tag", "a b", "--tag", "c", url=server.url)
    assert changed.status == 0
    assert re.search("tags +a b, c", changed.out)
    renamed = await perdure("sessions", "update", first.id, "--title", "New", "--clear-tags", "--json", url=server.url)
    assert (json.loads(renamed.out)["title"], json.loads(renamed.out)["tags"]) == ("New", [])

    await client.ask(first.id, script({"text": "Paris."}, words="Which city?"))
    shown = await perdure("sessions", "show", first.id, url=server.url)
    assert re.search("status +idle", shown.out)
    assert re.search(r"user  Which city\?", shown.out)
    assert "agent  Paris." in shown.out
    assert json.loads((await perdure("sessions", "show", first.id, "--json", url=server.url)).out)["id"] == first.id
    assert (await perdure("sessions", "cancel", first.id, url=server.url)).status == 0

    gone = await perdure("sessions", "delete", first.id, second.id, "--yes", url=server.url)
    assert gone.out.splitlines() == [f"deleted {first.id}", f"deleted {second.id}"]
    missing = await perdure("sessions", "show", first.id, url=server.url)
    assert (missing.status, missing.err) == (1, "error: no such session\n")


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
            *PERDURE, "sessions", "tail", *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(url)
        )
    )


async def test_a_tail_shows_what_was_and_what_comes_through_a_restart_of_the_server(client: Client, server: Server) -> None:
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


async def test_a_tail_begins_and_chooses_as_it_is_told(client: Client, server: Server) -> None:
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


async def test_each_line_of_a_pipe_is_answered_and_nothing_else_is_printed(client: Client, server: Server) -> None:
    lines = f"{script(CLOCK, {'text': 'One.'})}\n\n{script({'text': 'Two.'})}\n"
    done = await perdure("chat", url=server.url, given=lines)
    assert (done.status, done.out, done.err) == (0, "One.\nTwo.\n", "")
    (session,) = (await client.list_sessions()).data
    assert len(await client.list_messages(session.id)) == 6


async def test_a_failed_turn_is_reported_and_the_next_line_taken_up(client: Client, server: Server) -> None:
    lines = f"{script({'fail': {'code': 'provider_auth', 'message': 'bad key'}})}\n{script({'text': 'Two.'})}\n"
    done = await perdure("chat", url=server.url, given=lines)
    assert (done.status, done.out) == (1, "Two.\n")
    assert done.err == "error: bad key\n"


async def test_a_session_and_a_model_can_be_named(client: Client, server: Server) -> None:
    session = await client.create_session()
    for model in ("simulated", "The simulated one", (await client.list_models())[0].id):
        done = await perdure("chat", session.id, "--model", model, url=server.url, given=script({"text": "Here."}))
        assert (done.status, done.out) == (0, "Here.\n")
    assert len(await client.list_messages(session.id)) == 6
    done = await perdure("chat", "--model", "other", url=server.url, given="hi")
    assert (done.status, done.err) == (1, "error: no model is called 'other' here; known are: simulated\n")
    done = await perdure("chat", "--agent", "nobody", url=server.url, given="hi")
    assert (done.status, done.err) == (1, "error: no such agent\n")


async def test_a_server_without_a_model_is_told_how_to_get_one(server: Server) -> None:
    done = await perdure("chat", url=server.url, given="hi")
    assert (done.status, done.out) == (1, "")
    assert "no model yet" in done.err
    assert f"curl -s {server.url}/v1/providers" in done.err


async def test_tools_that_only_a_client_can_run_end_a_pipe_in_words(client: Client, server: Server) -> None:
    session = await client.create_session(tools=(WEATHER,))
    asked = script({"tool_calls": [{"name": "weather", "arguments": {}}]}, {"text": "Never."})
    done = await perdure("chat", session.id, url=server.url, given=asked)
    assert (done.status, done.out) == (1, "")
    assert "cannot run: weather" in done.err
    assert (await client.get_session(session.id)).status == "idle"


# --- chat at a terminal ----------------------------------------------------------


class Terminal:
    """A person at a terminal: sees what is printed, without colours and movement, and types."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
            preexec_fn=take_terminal,  # noqa: PLW1509 - makes one system call and takes no lock
        )
        os.close(slave)
        self._raw = ""
        self._taken = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    async def see(self, part: str) -> str:
        """Wait until it is printed; what was printed up to there since the last time."""
        deadline = time.monotonic() + LIMIT
        while (found := self.whole.find(part, self._taken)) < 0:
            assert await asyncio.to_thread(self._read), f"the program ended without {part!r}: {self.whole}"
            assert time.monotonic() < deadline, f"never saw {part!r}: {self.whole}"
        before, self._taken = self._taken, found + len(part)
        return self.whole[before : self._taken]

    @property
    def whole(self) -> str:
        """Everything that was printed."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\x01\x02]", "", self._raw)

    def _read(self) -> bool:
        """Take in what there is; whether there may be more."""
        if not select.select([self._master], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self._raw += data.decode(errors="replace")
        return bool(data)

    async def end(self) -> int:
        """The exit status, once everything that it prints has been read."""
        while await asyncio.to_thread(self._read):
            pass
        return await asyncio.to_thread(self.process.wait, LIMIT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@pytest.fixture
async def chat(client: Client, server: Server) -> AsyncIterator[Terminal]:
    """`perdure chat` at a terminal, at its first prompt."""
    terminal = Terminal(*PERDURE, "chat", **environment(server.url))
    try:
        await terminal.see("/help")
        await terminal.see("> ")
        yield terminal
    finally:
        terminal.close()


async def test_a_conversation_shows_text_tools_and_thinking_and_ends_with_ctrl_d(chat: Terminal, client: Client) -> None:
    chat.type(script(CLOCK, {"text": "It is late.", "thinking": "Hm, hm."}) + "\n")
    await chat.see('→ get_current_time {"timezone":"UTC"}')
    await chat.see("← get_current_time ")
    await chat.see("Hm, hm.\n")
    await chat.see("It is late.\n")
    await chat.see("> ")
    chat.type(script({"fail": {"code": "provider_auth", "message": "bad key"}}) + "\n")
    await chat.see("✗ bad key (provider_auth)")
    await chat.see("> ")
    chat.type("\x04")
    assert await chat.end() == 0
    assert len((await client.list_sessions()).data) == 1


async def test_ctrl_c_cancels_the_turn_and_not_the_program(chat: Terminal, client: Client) -> None:
    chat.type(script({"tokens": 2000, "delay_ms": 20}) + "\n")
    await chat.see("word word")
    chat.type("\x03")
    await chat.see("ancelled")
    await chat.see("> ")
    (session,) = (await client.list_sessions()).data
    assert session.status == "idle"
    chat.type(script({"text": "Still here."}) + "\n")
    await chat.see("Still here.\n")
    await chat.see("> ")
    chat.type("\x03")
    assert await chat.end() == 0
    kinds = [event.type for event in await client.list_events(session.id, limit=1000)]
    assert [kind for kind in kinds if kind.startswith("turn.") and kind != "turn.started"] == ["turn.cancelled", "turn.completed"]


async def test_the_commands_of_the_prompt(chat: Terminal, client: Client) -> None:
    for line, answer in (
        ("/help", "Ctrl-D"), ("/title An order", "title: An order"), ("/tags a b", "tags: a, b"), ("/show", "An order"),
        ("/tags", "tags: none"), ("/nonsense", "no command /nonsense"), ("/new", " · new"), ("/title", "title: none"),
    ):  # fmt: skip
        chat.type(line + "\n")
        await chat.see(answer)
        await chat.see("> ")
    chat.type("/quit\n")
    assert await chat.end() == 0
    assert [session.title for session in (await client.list_sessions()).data] == [None, "An order"]


async def test_going_on_with_a_session_shows_where_it_stands(client: Client, server: Server) -> None:
    session = await client.create_session(title="An order", tools=(WEATHER,))
    await client.ask(session.id, script({"text": "Paris."}, words="Which city?"))
    await client.send_message(session.id, script({"text": "It takes time. " * 40, "delay_ms": 10}))
    terminal = Terminal(*PERDURE, "chat", session.id, **environment(server.url))
    try:
        await terminal.see("Which city?")
        await terminal.see("Paris.")
        await terminal.see("· An order")
        await terminal.see("cannot run them")
        await terminal.see("A turn is running.")
        await terminal.see("It takes time.")
        await terminal.see("> ")
        terminal.type(script({"tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}, {"text": "Never."}) + "\n")
        await terminal.see('→ for a client to run: weather {"city":"Rome"}')
        await terminal.see("> ")
        terminal.type(script({"text": "Without it, then."}) + "\n")
        await terminal.see("Without it, then.\n")
        await terminal.see("> ")
        terminal.type("\x04")
        assert await terminal.end() == 0
    finally:
        terminal.close()


async def test_calls_that_need_leave_are_asked_about(client: Client, server: Server) -> None:
    gated = BuiltinTool("get_current_time", "The time.", {"type": "object"}, policy="requires_approval")
    session = await client.create_session(tools=(gated,), capabilities=(CapabilityRef("current_time"),))
    done = await perdure("chat", session.id, url=server.url, given=script(CLOCK, {"text": "Never."}))
    assert (done.status, done.out) == (1, "")
    assert "nobody can be asked here: get_current_time" in done.err
    await client.send_message(session.id, script(CLOCK, CLOCK, {"text": "It is late."}))
    async with aclosing(
        client.follow(session.id, await client.last_event_id(session.id), types=("tool.call_requested",))
    ) as events:
        async for _ in events:
            break
    terminal = Terminal(*PERDURE, "chat", session.id, **environment(server.url))
    try:
        await terminal.see('? may get_current_time run? {"timezone":"UTC"}')
        await terminal.see("ne[v]er: ")
        terminal.type("perhaps\n")
        await terminal.see("ne[v]er: ")
        terminal.type("no\n")
        await terminal.see("rejected")
        await terminal.see("ne[v]er: ")
        terminal.type("y\n")
        await terminal.see("← get_current_time {")
        await terminal.see("It is late.\n")
        await terminal.see("> ")
        terminal.type(script(CLOCK, {"text": "Never."}) + "\n")
        await terminal.see("ne[v]er: ")
        terminal.type("\x03")
        await terminal.see("ancelled")
        await terminal.see("> ")
        terminal.type("\x04")
        assert await terminal.end() == 0
    finally:
        terminal.close()
    assert (await client.get_session(session.id)).status == "idle"


async def test_a_killed_server_does_not_end_the_conversation(chat: Terminal, server: Server) -> None:
    chat.type(script({"tokens": 150, "delay_ms": 10}) + "\n")
    await chat.see("word word")
    await server.restart()
    await chat.see("END.")
    await chat.see("> ")
    await server.kill()
    chat.type("Hello?\n")
    await chat.see("error: no answer from")
    await chat.see("> ")
    chat.type("\x04")
    assert await chat.end() == 0


# --- serve and keys ---------------------------------------------------------------


async def test_serving_anywhere_needs_a_key_and_the_key_opens_the_door(tmp_path: Path) -> None:
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
        taken = await perdure("serve", "--port", server.url.rpartition(":")[2], "--data", str(tmp_path / "other"))
        assert (taken.status, taken.out) == (1, "")
        assert "error: cannot listen on" in taken.err
        assert await server.stop() == 0


# --- the demo ----------------------------------------------------------------------


def processes_with(text: str) -> list[psutil.Process]:
    """Running processes that have this in their command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(text in argument for argument in process.info["cmdline"] or ())
    ]


async def test_the_demo_shows_what_it_promises_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = await asyncio.wait_for(perdure("demo", TMPDIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache")), 120)
    assert done.status == 0, done.out + done.err
    for part in ("SmolLM2", "→ get_current_time", "simulated model", "survivor", "kill -9", "All of this was checked"):
        assert part in done.out
    assert "\x1b" not in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert processes_with(str(tmp_path)) == []


async def test_ctrl_c_ends_the_demo_tidily(tmp_path: Path) -> None:
    terminal = Terminal(*PERDURE, "demo", **environment(TMPDIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache")))
    try:
        await terminal.see("kill -9")
        await terminal.see("restart")
        terminal.type("\x03")
        assert await terminal.end() == 130
    finally:
        terminal.close()
    assert "Traceback" not in terminal.whole
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert processes_with(str(tmp_path)) == []


async def test_the_demo_uses_a_vendors_model_when_there_is_a_key(tmp_path: Path, llama_url: str) -> None:
    done = await perdure(
        "demo", TMPDIR=str(tmp_path), OPENAI_API_KEY="sk-anything", OPENAI_BASE_URL=llama_url, PERDURE_DEMO_MODEL="smollm2-135m"
    )
    assert done.status == 0, done.out + done.err
    assert "because OPENAI_API_KEY is set" in done.out
    assert "sk-anything" not in done.out + done.err


async def test_a_demo_that_cannot_be_true_fails(tmp_path: Path) -> None:
    async with FakeServer(answers(401, {"error": {"type": "authentication_error", "message": "invalid key"}})) as vendor:
        done = await perdure("demo", TMPDIR=str(tmp_path), ANTHROPIC_API_KEY="sk-wrong", ANTHROPIC_BASE_URL=vendor.url)
    assert done.status == 1
    assert "sk-wrong" not in done.out + done.err
    assert "error: the demo failed: the turn did not complete" in done.err
    assert list(tmp_path.iterdir()) == []


# --- the guides --------------------------------------------------------------------


async def test_the_getting_started_guide_works_as_written(server: Server, llama_url: str) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "getting-started.md").read_text("utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", guide, re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", "\n".join(blocks),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(URL=server.url, LOCAL=llama_url),
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), LIMIT)
    assert process.returncode == 0, out.decode()
    (python,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", python.replace("http://127.0.0.1:9000", server.url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), LIMIT)
    assert process.returncode == 0, out.decode()
    assert len(out.split()) > 3
    async with Client(server.url) as client:
        titles = {session.title: session for session in (await client.list_sessions()).data}
        assert titles["Paris"].tags == ("trial", "geography")
        assert not any(is_live(event) for event in await client.list_events(titles["From Python"].id))
