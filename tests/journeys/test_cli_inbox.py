"""`perdure inbox`: what all sessions wait for, at a terminal and in scripts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.command import PERDURE, Terminal, environment, perdure
from tests.journeys.linked import CAREFUL, ask, outcome, waiting
from tests.server import Server
from tests.talk import call, new_talk


@pytest.fixture
async def http(sqlite_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as client:
        yield client


async def inbox(http: httpx.AsyncClient, *arguments: str, status: int = 0, given: str = "") -> str:
    done = await perdure("inbox", *arguments, url=str(http.base_url).rstrip("/"), given=given)
    assert done.status == status, done.err + done.out
    return done.err if status else done.out


async def test_items_are_listed_shown_and_decided(http: httpx.AsyncClient, tmp_path: Path) -> None:
    talk, item = await waiting(http, title="Tidy\u202e up")
    rows = [line.split("\t") for line in (await inbox(http, "list", "--kind", "approval")).splitlines()]
    assert rows[0] == ["ITEM", "KIND", "UNTIL", "SESSION", "WHAT"]
    (row,) = [each for each in rows if each[0] == item]
    assert (row[1], row[3], row[4]) == ("approval", "Tidy\\u202e up", "May delete_file run?")
    listed = [json.loads(line)["id"] for line in (await inbox(http, "list", "--json")).splitlines()]
    assert listed.count(item) == 1
    shown = await inbox(http, "show", item)
    assert "  · path: /a.md\n  - Old.\n" in shown
    assert json.loads(await inbox(http, "show", item, "--json"))["arguments"] == {"path": "/a.md"}
    edited = tmp_path / "edited.json"
    edited.write_text('{"path": "/other.md"}')
    said = await inbox(http, "approve", item, "--arguments", str(edited))
    assert said == "decided: allow delete_file with your arguments\n"
    await talk.logged_until("session.idled")
    assert (await http.get(talk.path("/fs/a.md"))).status_code == 200
    assert ": allow, by user_" in (said := await inbox(http, "show", item))
    assert " via cli" in said
    assert "decided already" in await inbox(http, "reject", item, status=1)


async def test_a_rejection_has_a_reason_and_a_link_is_printed_alone(http: httpx.AsyncClient) -> None:
    talk, item = await waiting(http)
    link = (await inbox(http, "link", item, "--expires-in", "60")).strip()
    assert urlsplit(link).path.startswith("/v1/links/pdr_il_")
    assert json.loads(await inbox(http, "link", item, "--json")).keys() == {"url", "expires_at"}
    assert (await http.get(link)).json()["tool_name"] == "delete_file"
    assert await inbox(http, "reject", item, "--reason", "It is needed.") == "decided: reject delete_file\n"
    await talk.logged_until("session.idled")
    assert await outcome(talk) == "rejected"
    assert (await http.get(link)).status_code == 410


async def test_arguments_that_cannot_be_used_are_explained(http: httpx.AsyncClient, tmp_path: Path) -> None:
    _, item = await waiting(http)
    assert "needs a terminal" in await inbox(http, "approve", item, "--edit", status=1)
    assert "cannot be read" in await inbox(
        http, "approve", item, "--arguments", str(tmp_path / "none"), status=1
    )
    assert "not valid JSON" in await inbox(http, "approve", item, "--arguments", "-", status=1, given="{")
    assert "must be a JSON object" in await inbox(
        http, "approve", item, "--arguments", "-", status=1, given="[]"
    )
    assert "path" in await inbox(http, "approve", item, "--arguments", "-", status=1, given="{}")
    await inbox(http, "approve", item, "--edit", "--arguments", "-", status=2)
    await inbox(http, "show", "inbox_" + "0" * 44, status=1)


async def test_watching_prints_what_waits_and_what_comes_and_goes(
    http: httpx.AsyncClient, sqlite_server: Server
) -> None:
    _, first = await waiting(http)
    terminal = Terminal(*PERDURE, "inbox", "watch", **environment(sqlite_server.url, COLUMNS="400"))
    try:
        await terminal.see(f"+ {first}")
        talk = await new_talk(http, **CAREFUL)
        (second,) = await ask(talk, call("bash", "call_1", command="true"))
        assert "May bash run?" in await terminal.see(second) + await terminal.see("May bash run?")
        await inbox(http, "reject", first)
        await terminal.see(f"- {first}")
        terminal.type("\x03")
        assert await terminal.end() == 130
    finally:
        terminal.close()
