"""Terminals: whatever models, tools and clients write, a terminal gets only what Perdure itself sends."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import shlex
import sys
from pathlib import Path

import httpx
import pytest

from perdure.client import ApiError, BuiltinTool, CapabilityRef, Client
from perdure.domain.ids import is_id
from perdure.domain.log_lines import TRACE, LogFormatter
from perdure.domain.visible import exact, is_label, visible, visible_json, visible_line
from tests.adversarial.attack import unseen
from tests.command import PERDURE, Terminal, environment, perdure, use_simulated_model
from tests.server import Server

CONTROLS = [chr(code) for code in (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))]
BIDI = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u206a\u206f")
INVISIBLE = list(
    "\u00ad\u034f\u115f\u200b\u2028\u2029\u2060\u2063\u3164\ufeff\ufff9\U000e0001\U000e0041\U000e0101"
    "\ufff0\U00013430\U00016fe4\U0001d159\U0001d173"
)
BAD = [*CONTROLS, *BIDI, *INVISIBLE]
LOOSE = ["\u200c", "\u200d"]
MARK = "PWN"
NASTY = "\x1b]0;t\x07\x1b[2J\x9b31m\r" + "".join(f"{each}{MARK}" for each in [*BAD, *LOOSE])
"""Each bad character stands right before the mark, where nothing that Perdure sends can stand."""


def reached(raw: str) -> set[str]:
    """Return the bad characters that reached the terminal."""
    own = {"\x1b", "\r", "\x01", "\x02"}
    marked = {each for each in [*BAD, *LOOSE] if each + MARK in raw}
    return {ascii(each) for each in marked | {each for each in BAD if each not in own and each in raw}}


def test_every_bad_character_is_escaped_and_json_keeps_its_value() -> None:
    for text in (visible(NASTY), visible_line(NASTY), exact(NASTY), visible_json(json.dumps(NASTY))):
        assert reached(text) == set()
    raw = json.dumps(NASTY, ensure_ascii=False)
    assert json.loads(visible_json(raw)) == NASTY
    assert reached(visible_json(raw)) == set()
    assert [each for each in [*BAD, "\t", "\n"] if is_label(f"a{each}b")] == []
    assert visible("\ud800") == "\\ud800"
    assert visible("a\tb\n") == "a\tb\n"
    assert visible_line("a\tb\n") == "a\\tb\\n"


@pytest.mark.parametrize(
    "text",
    [
        "Grüße, 你好, שלום, مرحبا",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 ❤\ufe0f",
        "\u0645\u06cc\u200c\u062e\u0648",
        "क\u094d\u200dष",
    ],
)
def test_texts_of_all_scripts_and_emoji_stay_as_they_are(text: str) -> None:
    assert (visible(text), is_label(text)) == (text, True)


def test_a_record_of_the_log_is_one_line_that_cannot_control_a_terminal() -> None:
    record = logging.LogRecord(
        "perdure", logging.INFO, "x", 1, "from %s", (f"a\n2026 INFO forged {NASTY}",), None
    )
    line = LogFormatter("%(levelname)s %(name)s: %(message)s").format(record)
    assert line.startswith("INFO perdure: from a\\n2026 INFO forged ")
    assert "\n" not in line
    assert reached(line) == set()
    try:
        raise ValueError(NASTY)
    except ValueError:
        record.exc_info = sys.exc_info()
    assert reached(LogFormatter("%(message)s").format(record)) == set()
    record.exc_info, record.exc_text = None, None
    setattr(record, TRACE, f"Traceback:\n  line 3\nValueError: {NASTY}\n\n2026 INFO forged\r2026 INFO too\n")
    traced = LogFormatter("%(message)s").format(record)
    assert reached(traced) == set()
    assert "\n    line 3\n" in traced
    assert "\n2026" not in traced


def test_commands_write_through_the_terminal_writer_only() -> None:
    folder = Path(__file__).parents[2] / "src" / "perdure" / "cli"
    found = []
    for path in sorted(folder.glob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("print", "input", "typer.echo", "typer.secho", "Console") or name.startswith(
                ("sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer", "traceback.print")
            ):
                found.append(f"{path.name}:{node.lineno}: {name}")
    assert found == []


class Seen:
    """Runs commands at terminals and in pipes, and collects what reached them."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def terminal(self, *arguments: str, until: str = "", types: str = "\x03") -> str:
        terminal = Terminal(*arguments, **environment(self.url))
        try:
            if until:
                await terminal.see(until)
                terminal.type(types)
            await terminal.end()
            return terminal._raw
        finally:
            terminal.close()

    async def pipe(self, *arguments: str) -> str:
        """Run a command that ends by itself; return what a pipe got."""
        done = await perdure(*arguments, url=self.url)
        assert reached(done.out + done.err) == set(), arguments
        return done.out

    async def item_of(self, session_id: str) -> str:
        """Run the commands of the inbox in pipes; return the id of the session's item."""
        waiting = map(json.loads, (await self.pipe("inbox", "list", "--json")).splitlines())
        (item,) = [str(each["id"]) for each in waiting if each["session_id"] == session_id]
        for arguments in (("list",), ("show", item), ("show", item, "--json")):
            assert MARK in await self.pipe("inbox", *arguments)
        return item


async def test_no_command_lets_foreign_text_control_the_terminal(sqlite_server: Server) -> None:
    gated = BuiltinTool("get_current_time", "The time.", {"type": "object"}, policy="requires_approval")
    seen = Seen(sqlite_server.url)
    asked = unseen({"text": NASTY, "thinking": NASTY}, ask=NASTY.replace("\0", ""))
    odd = {"name": f"{NASTY[:40]}", "arguments": {NASTY: NASTY}}
    held = {"name": "get_current_time", "arguments": {"timezone": f"UTC{' ' * 2000}{NASTY}"}}
    async with Client(seen.url) as client:
        await use_simulated_model(client)
        session = await client.create_session(
            title="".join(f"{each}{MARK}" for each in BIDI),
            tags=("\u202e" + MARK,),
            tools=(gated,),
            capabilities=(CapabilityRef("current_time"),),
        )
        await client.ask(session.id, asked)
        await client.ask(session.id, unseen({"tool_calls": [odd]}, {"text": "Well."}))
        failing = unseen({"fail": {"code": "provider_auth", "message": NASTY}})
        with pytest.raises(Exception, match="PWN"):
            await client.ask(session.id, failing)
        await client.send_message(session.id, unseen({"tool_calls": [held]}, {"text": "Late."}))
        async for event in client.follow(session.id, None, types=("tool.call_requested",)):
            assert event.type == "tool.call_requested"
            break
        for json_too in ((), ("--json",)):
            listed = await seen.pipe("sessions", "list", *json_too)
            rows = listed.splitlines()[0 if json_too else 1 :]
            # Other tests' sessions are on this server too; each is one line.
            ids = [json.loads(row)["id"] if json_too else row.partition("\t")[0] for row in rows]
            assert ids.count(session.id) == 1
            assert all(is_id(each, "session") for each in ids)
            await seen.pipe("sessions", "show", session.id, *json_too)
            await seen.pipe("sessions", "update", session.id, "--tag", f"{MARK}\u2066{MARK}", *json_too)
        for verb in ("archive", "unarchive"):
            assert await seen.pipe("sessions", verb, session.id) == f"{verb}d {session.id}\n"
        strange = f"{MARK}\u202e{MARK}\x1b]0;t\x07"
        for arguments in (
            ("sessions", "show", strange),
            ("sessions", "archive", strange),
            ("sessions", "unarchive", strange),
            ("sessions", strange),
            ("chat", "--model", strange),
            ("sessions", "list", f"--{strange}"),
        ):
            await seen.pipe(*arguments)
        hello = shlex.quote(unseen({"text": NASTY}))
        tail = (*PERDURE, "sessions", "tail", session.id, "-n", "100")
        shown, chat, *others = await asyncio.gather(
            seen.terminal(*PERDURE, "sessions", "show", session.id),
            seen.terminal(*PERDURE, "chat", session.id, until="ne[v]er", types="\x03\x04"),
            seen.terminal(*PERDURE, "sessions", "list"),
            seen.terminal(*PERDURE, "inbox", "show", await seen.item_of(session.id)),
            seen.terminal(*tail, until="tool.call_requested"),
            seen.terminal(*tail, "--json", until="tool.call_requested"),
            seen.terminal("sh", "-c", f"printf %s {hello} | {shlex.join((*PERDURE, 'chat'))}"),
        )
    for raw in (shown, chat, *others):
        assert MARK in raw
        assert reached(raw) == set()
    for raw in (shown, chat):
        assert "␠\N{MULTIPLICATION SIGN}2000\\u001b]0;t" in raw


async def test_a_traceback_cannot_control_the_terminal() -> None:
    url = f"http://127.0.0.1:9/{MARK}\u202e{MARK}\x9b"
    done = await perdure("sessions", "list", "--url", url, PERDURE_DEBUG="1")
    assert done.status != 0
    assert reached(done.out + done.err) == set()


async def test_names_that_people_read_refuse_such_characters(one: httpx.AsyncClient) -> None:
    made = await one.post("/v1/providers", json={"name": "Plain", "provider_type": "llmsim"})
    models = f"/v1/providers/{made.json()['id']}/models"
    for bad in ("\x1b", "\x9b", "\u202e", "\u2066", "\u200b", "\n", "\ufeff"):
        name = f"a{bad}b"
        for path, body, field in (
            ("/v1/providers", {"name": name, "provider_type": "llmsim"}, "name"),
            (models, {"model_id": name, "display_name": "x"}, "model_id"),
            (models, {"model_id": "x", "display_name": name}, "display_name"),
            ("/v1/users", {"email": f"{name}@x.test", "name": "x", "role": "member"}, "email"),
            ("/v1/invitations", {"email": f"{name}@x.test", "role": "member"}, "email"),
            (
                "/v1/sessions",
                {"tools": [{"type": "client_side", "name": name, "description": "", "parameters": {}}]},
                "",
            ),
        ):
            refused = await one.post(path, json=body)
            assert refused.status_code == 400, (path, bad, refused.text)
            assert field in refused.text
            assert reached(refused.text) == set()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/users", {"email": "ada@x.test\n", "name": "x", "role": "member"}),
        ("/v1/sessions", {"locale": "en\n"}),
    ],
)
async def test_a_field_with_a_pattern_does_not_end_with_a_newline(
    one: httpx.AsyncClient, path: str, body: dict[str, str]
) -> None:
    refused = await one.post(path, json=body)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request"), refused.text


def test_the_errors_of_the_client_are_the_servers_words() -> None:
    assert visible(ApiError(400, "x", f"bad {NASTY}", {}).message).startswith("bad \\u001b")
