"""kill -9 while events are sent to webhooks: each is sent again, under its id, and in order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from aiohttp import web

from tests.conformance.places import open_database
from tests.hooks import SECRET, receiving, spawns
from tests.server import Server, post, use_simulated_model
from tests.talk import new_talk, script

FAMILIES, CHILDREN = 3, 2


async def _lease_ends(server: Server) -> None:
    """On PostgreSQL, another server may be alive: what the dead one has taken is free after a minute."""
    if server.database_url:
        database = await open_database(server.database_url)
        await database.write(lambda tx: tx.run("UPDATE webhook_lines SET leased_until = 1"))
        await database.close()


async def _begin(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http, capabilities=[{"ref": "subagents"}])
    calls = [spawns(f"a{each}", {"text": "Found it."}) for each in range(CHILDREN)]
    await talk.say(script({"tool_calls": calls}, {"text": "Begun."}))


async def test_a_server_that_dies_while_it_sends_loses_no_event(database_url: str, tmp_path: Path) -> None:
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true"}
    server = Server(tmp_path / "data", database_url=database_url, environment=environment)
    async with (
        receiving() as receiver,
        server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        made = await post(http, "/v1/task-webhooks", {"url": receiver.url(), "secret": SECRET})
        receiver.open.clear()
        await asyncio.gather(*(_begin(http) for _ in range(FAMILIES)))
        await receiver.until(FAMILIES)  # one of each session, because they come in order
        await server.kill()
        killed = {each.id: each for each in receiver.came}
        assert len(killed) == FAMILIES
        await _lease_ends(server)
        # Answers that never reach the server: it dies once more after the receiver has seen them.
        receiver.answer = lambda received: web.Response(status=204)
        await server.start()
        await receiver.until(2 * FAMILIES)
        assert {each.id for each in receiver.came} == killed.keys()
        await server.kill()
        receiver.open.set()
        await _lease_ends(server)
        await server.start()
        while len({each.id for each in receiver.came}) < FAMILIES * CHILDREN:
            await receiver.until(len(receiver.came) + 1)
        bodies: dict[str, set[bytes]] = {}
        for each in receiver.came:
            assert each.is_signed_with(SECRET)
            bodies.setdefault(each.id, set()).add(each.body)
        assert {len(each) for each in bodies.values()} == {1}
        for session in {each.json["data"]["session_id"] for each in receiver.came}:
            first = dict.fromkeys(
                each.sequence for each in receiver.came if each.json["data"]["session_id"] == session
            )
            assert list(first) == sorted(first)
        async with asyncio.timeout(30):
            while True:
                answer = await http.get(f"/v1/task-webhooks/{made['id']}/deliveries")
                listed = answer.json()["data"]
                if [each["state"] for each in listed] == ["delivered"] * (FAMILIES * CHILDREN):
                    break
                await asyncio.sleep(0.05)
        # A server that is asked to stop does not wait for a receiver that hangs.
        receiver.open.clear()
        came = len(receiver.came)
        await _begin(http)
        await receiver.until(came + 1)
        assert await server.stop() == 0
    assert "Traceback" not in server.log.read_text()
