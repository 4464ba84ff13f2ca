"""Calls that require approval at the terminal: what is shown, the editor, the reason."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perdure.cli.argument_editor import arguments_of, is_same, text_of
from perdure.cli.common import CommandFailed
from perdure.client import CapabilityRef, Client, data_of
from tests.command import PERDURE, Terminal, environment, script, use_simulated_model
from tests.server import Server

PROTECTIVE = (CapabilityRef("tool_approval", {"mode": "protective"}),)
PLAN = "".join(f"step {number}\n" for number in range(1, 11))


@pytest.fixture
async def client(sqlite_server: Server) -> AsyncIterator[Client]:
    async with Client(sqlite_server.url) as made:
        await use_simulated_model(made)
        yield made


@asynccontextmanager
async def chatting(server: Server, session_id: str, **env: str) -> AsyncIterator[Terminal]:
    terminal = Terminal(*PERDURE, "chat", session_id, **environment(server.url, **env))
    try:
        await terminal.see("> ")
        yield terminal
    finally:
        terminal.close()


class Editor:
    """An editor that saves these texts, one each time; None makes it fail."""

    def __init__(self, folder: Path, *texts: str | None) -> None:
        self._state = folder / "editor.json"
        self._state.write_text(json.dumps({"seen": [], "texts": texts}))
        program = folder / "editor.py"
        program.write_text(
            "import json, pathlib, sys\n"
            f"state = pathlib.Path({str(self._state)!r})\n"
            "path, now = pathlib.Path(sys.argv[-1]), json.loads(state.read_text())\n"
            "now['seen'].append(path.read_text())\n"
            "text = now['texts'].pop(0)\n"
            "state.write_text(json.dumps(now))\n"
            "sys.exit(3) if text is None else path.write_text(text)\n"
        )
        self.command = shlex.join([sys.executable, str(program), "--wait"])

    @property
    def seen(self) -> list[str]:
        """The texts that it was opened with."""
        found: list[str] = json.loads(self._state.read_text())["seen"]
        return found


async def test_a_change_of_a_file_is_shown_as_a_diff_and_a_command_in_whole(
    client: Client, sqlite_server: Server
) -> None:
    session = await client.create_session(capabilities=PROTECTIVE)
    await client.write_file(session.id, "/plan.md", PLAN)
    calls = [
        {
            "name": "edit_file",
            "arguments": {"path": "/workspace/plan.md", "old_text": "step 5", "new_text": "step\u202e V"},
        },
        {"name": "write_file", "arguments": {"path": "/new.md", "content": "one\ntwo"}},
        {"name": "delete_file", "arguments": {"path": "/plan.md"}},
        {"name": "bash", "arguments": {"command": "cd /tmp\n" + "true\n" * 80 + "rm -rf /workspace"}},
    ]
    async with chatting(sqlite_server, session.id) as terminal:
        for asked in calls:
            terminal.type(script({"tool_calls": [asked]}, {"text": "Well."}) + "\n")
            shown = (await terminal.see("ne[v]er: ")).replace("\r", "")
            match asked["name"]:
                case "edit_file":
                    assert "  · path: /workspace/plan.md\n  · 1 unchanged lines\n" in shown
                    assert "  │ step 4\n  - step 5\n  + step\\u202e V\n  │ step 6\n" in shown
                    assert "  · 2 unchanged lines\n" in shown
                case "write_file":
                    assert "  · a new file\n  + one\n  + two\n" in shown
                case "delete_file":
                    assert "  - step 1\n" in shown
                case _:
                    assert "  │ cd /tmp\n" in shown
                    assert shown.count("  │ true\n") == 80
                    assert "  │ rm -rf /workspace\n" in shown
            terminal.type("n\n")
            await terminal.see("Well.\n")
            await terminal.see("> ")


async def test_arguments_are_edited_in_the_persons_editor_and_checked(
    client: Client, sqlite_server: Server, tmp_path: Path
) -> None:
    session = await client.create_session(capabilities=PROTECTIVE)
    asked = {"name": "write_file", "arguments": {"path": "/a.md", "content": "draft\u200b"}}
    unknown, final = '{"path": "/a.md", "content": "x", "folder": 1}', '{"path": "/a.md", "content": "final"}'
    editor = Editor(tmp_path, None, "{", unknown, final)
    async with chatting(sqlite_server, session.id, VISUAL=editor.command) as terminal:
        terminal.type(script({"tool_calls": [asked]}, {"text": "Written."}) + "\n")
        assert "  + draft\\u200b" in await terminal.see("ne[v]er: ")
        terminal.type("e\n")
        await terminal.see("ended with status 3: nothing was changed")
        await terminal.see("ne[v]er: ")
        terminal.type("e\n")
        await terminal.see("error: the arguments are not valid JSON")
        await terminal.see("ne[v]er: ")
        terminal.type("e\n")  # now with a field that the tool does not have
        await terminal.see("with your arguments?")
        assert '"folder":1' in await terminal.see("ne[v]er: ")
        terminal.type("a\n")
        await terminal.see("Your arguments are for this call alone")
        await terminal.see("ne[v]er: ")
        terminal.type("y\n")
        await terminal.see("error: ")  # the server refuses them, and nothing is decided
        await terminal.see("ne[v]er: ")
        terminal.type("e\n")
        await terminal.see("with your arguments?")
        assert "  + final" in await terminal.see("ne[v]er: ")
        terminal.type("y\n")
        await terminal.see("Written.\n")
    assert await client.read_file(session.id, "/a.md") == b"final"
    first = '{\n  "path": "/a.md",\n  "content": "draft\\u200b"\n}\n'
    assert editor.seen == [first, first, "{", unknown]  # what is not valid stays for the next try


async def test_without_an_editor_the_terminal_says_so_and_a_reason_reaches_the_model(
    client: Client, sqlite_server: Server
) -> None:
    session = await client.create_session(capabilities=PROTECTIVE)
    asked = {"name": "write_file", "arguments": {"path": "/a.md", "content": "x"}}
    async with chatting(sqlite_server, session.id, VISUAL="", EDITOR="") as terminal:
        terminal.type(script({"tool_calls": [asked]}, {"text": "As you wish."}) + "\n")
        await terminal.see("ne[v]er: ")
        terminal.type("e\n")
        await terminal.see("no editor is set: set VISUAL or EDITOR")
        await terminal.see("ne[v]er: ")
        terminal.type("y because\n")
        await terminal.see("A reason can follow `n` and `v` only.")
        await terminal.see("ne[v]er: ")
        terminal.type("n the file is frozen\n")
        await terminal.see("As you wish.\n")
    (generation,) = await client.list_events(
        session.id, types=("llm.generation",), newest_first=True, limit=1
    )
    assert "the file is frozen" in bytes(generation.data).decode()
    (decided, *_) = await client.list_events(session.id, types=("tool.completed",))
    assert data_of(decided).decided.via == "chat"


def test_arguments_in_the_editor_keep_their_value_and_show_every_character() -> None:
    arguments = {"a": "\u202e\x1b\n", "n": 2**60, "é": [1.5, None, True]}
    text = text_of(arguments)
    assert not any(each in text for each in "\u202e\x1b")
    assert arguments_of(text) == arguments
    assert is_same(arguments, dict(reversed(arguments.items())))
    assert not any(is_same({"all": True}, {"all": other}) for other in (1, 1.0, "true", False))
    for wrong in ("[1]", "{", "", '{"a": 1} x', "[" * 100_000):
        with pytest.raises(CommandFailed):
            arguments_of(wrong)
