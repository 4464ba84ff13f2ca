"""What commands ask before something is gone, and what a terminal shows of the audit log and of turns."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.command import PERDURE, Terminal, environment, perdure
from tests.journeys.people import fresh
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, new_talk, script, when


async def answered(server: Server, question: str, answer: str, *arguments: str) -> tuple[str, int]:
    """Run a command on a terminal, and answer its question; returns what it has shown, and its status."""
    terminal = Terminal(*PERDURE, *arguments, **environment(server.url))
    try:
        await terminal.see(question)
        terminal.type(f"{answer}\n")
        status = await terminal.end()
        return terminal.whole, status
    finally:
        terminal.close()


async def test_an_erasure_is_asked_for_with_what_goes(http: httpx.AsyncClient, any_server: Server) -> None:
    talk = await new_talk(http, title="Refund of order 4711")
    await talk.turn({"text": "Done."})
    await post(http, f"/v1/sessions/{talk.id}/fs/a/b.txt", {"content": "x"})
    shown, status = await answered(any_server, "[y/N]", "n", "erase", "session", talk.id)
    assert "(Refund of order 4711: 2 messages, 1 file)" in " ".join(shown.split())
    assert (status, (await http.get(talk.path())).status_code) == (1, 200)
    shown, status = await answered(any_server, "[y/N]", "n", "erase", "user", "owner@localhost")
    assert "(Owner, owner@localhost: " in " ".join(shown.split())
    assert status == 1
    shown, status = await answered(any_server, "[y/N]", "y", "erase", "session", talk.id)
    assert (status, "finished" in shown) == (0, True)


async def test_retention_is_set_once_somebody_has_seen_what_goes(any_server: Server) -> None:
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as http:
        for _ in range(2):
            await post(http, "/v1/sessions", {})
        quiet = await perdure("retention", "set", "idle_sessions=3650", url=any_server.url)
        assert (quiet.status, "3650 days" in quiet.out) == (0, True), quiet.err


async def test_a_hold_is_shown_and_named_where_it_is_in_the_way(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    url = any_server.url
    session = (await post(http, "/v1/sessions", {"title": "Held"}))["id"]
    await perdure("erase", "hold", session, url=url)
    release = f"`perdure erase hold --release {session}`"
    for command in (("sessions", "delete"), ("erase", "session")):
        refused = await perdure(*command, session, "--yes", url=url)
        assert (refused.status, release in refused.err) == (1, True), refused.err
    refused = await perdure("sessions", "show", session, url=url)
    assert release in refused.out
    listed = (await perdure("sessions", "list", url=url)).out.splitlines()
    assert listed[0].split("\t")[-1] == "HELD"
    assert [line.split("\t")[-1][:2] for line in listed if session in line] == ["20"]
    terminal = Terminal(*PERDURE, "sessions", "list", **environment(url))
    try:
        await terminal.see("held")
    finally:
        terminal.close()
    await perdure("erase", "hold", "--release", session, url=url)
    assert (await perdure("sessions", "delete", session, "--yes", url=url)).status == 0


async def test_a_terminal_shows_an_entry_of_the_log_on_each_line_and_all_of_one(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    headers = {"perdure-reason": "because, " * 40 + "yes"}
    name = fresh("agent-with-a-name-that-is-long")
    body = {"name": name, "system_prompt": "x"}
    assert (await http.post("/v1/agents", json=body, headers=headers)).status_code == 201
    terminal = Terminal(*PERDURE, "audit", "--limit", "1", **environment(any_server.url))
    try:
        assert await terminal.end() == 0
        head, row, hint = terminal.whole.strip().splitlines()
    finally:
        terminal.close()
    assert head.split() == ["ID", "TIME", "WHO", "ACTION", "ENTITY", "CHANGED", "WHY"]
    assert max(len(head), len(row)) <= 100
    assert "agent.created" in row
    assert "audit show" in hint
    shown = await perdure("audit", "show", row.split()[0], url=any_server.url)
    assert name in shown.out
    assert "because, because" in shown.out


async def check_queue(server: Server) -> None:
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        busy, waits = await new_talk(http), await new_talk(http)
        await busy.say(script({"text": "Late.", "first_ms": 60_000}))
        await busy.logged_until("reason.started")
        await waits.say(script({"text": "Later."}))
        assert await statuses(http) == {busy.id: "running", waits.id: "pending"}
        for status, talk in (("running", busy), ("pending", waits)):
            assert list(await statuses(http, status=status)) == [talk.id]
        shown = await perdure("admin", "turns", "--status", "pending", url=server.url)
        assert [line.split("\t")[1] for line in shown.out.splitlines()] == ["STATUS", "pending"]
        (turn,) = (await http.get("/v1/durable/workflows", params={"status": "pending"})).json()["data"]
        assert (await http.get(f"/v1/durable/workflows/{turn['id']}")).json()["status"] == "pending"
        sealed = await perdure("admin", "turns", "--status", "sealed", url=server.url)
        assert (sealed.status, len(sealed.out.splitlines())) == (0, 1)
        wrong = await perdure("admin", "turns", "--status", "done", url=server.url)
        assert (wrong.status, "running, parked, pending, failed, sealed" in wrong.err) == (2, True)
        await end(busy, http)
        await waits.logged_until("turn.completed")

        async def is_idle() -> bool:
            return await statuses(http) == {}

        await when(is_idle)


async def statuses(http: httpx.AsyncClient, **query: str) -> dict[str, str]:
    found: list[Json] = (await http.get("/v1/durable/workflows", params=query)).json()["data"]
    return {each["input"]["session_id"]: each["status"] for each in found}


async def end(talk: Talk, http: httpx.AsyncClient) -> None:
    assert (await http.post(talk.path("/cancel"))).status_code == 200


async def test_a_turn_that_no_process_has_taken_is_pending(database_url: str, tmp_path: Path) -> None:
    one = {"PERDURE_MAX_TURNS": "1"}
    await check_queue(Server(tmp_path / "data", database_url=database_url, environment=one))
