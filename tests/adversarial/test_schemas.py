"""Tool schemas that cost very much to check: they hang neither the server nor the one after it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from perdure.store.postgres.database import open_postgres
from perdure.store.sqlite import open_sqlite
from tests.adversarial.costly_schemas import COSTLY, Costly
from tests.server import Server, use_simulated_model
from tests.soak import amounts
from tests.talk import Json, Talk, call, new_talk, script

HEALTHY = 3.0
"""Seconds that `/health` may take on a busy machine; each of these schemas would take hours."""


def tool(schema: Json) -> Json:
    return {"type": "client_side", "name": "look", "description": "Look.", "parameters": schema}


@asynccontextmanager
async def healthy(http: httpx.AsyncClient) -> AsyncIterator[list[float]]:
    """Ask for the server's health all the time; the longest answer must come soon."""
    times: list[float] = []

    async def ask() -> None:
        while True:
            began = time.monotonic()
            (await http.get("/health")).raise_for_status()
            times.append(time.monotonic() - began)
            await asyncio.sleep(0.02)

    asking = asyncio.create_task(ask())
    try:
        yield times
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    assert times
    assert max(times) < HEALTHY


async def answered(talk: Talk) -> Json:
    """What became of the call: its error, or the request to the client, whichever comes first."""
    events = await talk.logged_until("tool.completed", "tool.call_requested", "turn.failed")
    assert events[-1]["type"] != "turn.failed", events[-1]
    return dict(events[-1]["data"])


@pytest.mark.parametrize("name", [name for name, each in COSTLY.items() if each.refused])
async def test_a_schema_that_costs_too_much_is_refused(one: httpx.AsyncClient, name: str) -> None:
    began = time.monotonic()
    answer = await one.post("/v1/sessions", json={"tools": [tool(COSTLY[name].schema)]})
    assert time.monotonic() - began < HEALTHY
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_tool_schema"), answer.text
    assert answer.json()["detail"].startswith("`tools[0].parameters"), answer.text


async def test_every_door_refuses_it(each: httpx.AsyncClient) -> None:
    bad = tool(COSTLY["doubling through anyOf"].schema)
    agent = (await each.post("/v1/agents", json={"name": "plain-schemas", "system_prompt": "x"})).json()
    doors = [
        ("POST", "/v1/sessions", {"tools": [bad]}),
        ("POST", "/v1/agents", {"name": "costly-schemas", "system_prompt": "x", "tools": [bad]}),
        (
            "PUT",
            f"/v1/agents/{agent['id']}",
            {"name": "costly-schemas", "system_prompt": "x", "tools": [bad]},
        ),
        ("PATCH", f"/v1/agents/{agent['id']}", {"tools": [bad]}),
    ]
    for method, path, body in doors:
        answer = await each.request(method, path, json=body)
        assert (answer.status_code, answer.json().get("code")) == (400, "invalid_tool_schema"), (
            path,
            answer.text,
        )
    file = f"---\nname: costly-schemas\ntools: {msgspec.json.encode([bad]).decode()}\n---\nHelp."
    answer = await each.post("/v1/agents/import", content=file, headers={"content-type": "text/markdown"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_tool_schema"), answer.text
    checked = await each.post("/v1/agents/preview", json={"system_prompt": "Help.", "tools": [bad]})
    assert "invalid_tool_schema" in checked.text


async def test_what_may_be_stored_is_checked_within_its_time(each: httpx.AsyncClient) -> None:
    allowed = {name: costly for name, costly in COSTLY.items() if not costly.refused}
    async with healthy(each):
        talks = await asyncio.gather(*(_called(each, costly) for costly in allowed.values()))
        await asyncio.gather(*(answered(talk) for talk in talks))


async def _called(http: httpx.AsyncClient, costly: Costly) -> Talk:
    talk = await new_talk(http, harness_name="base", tools=[tool(costly.schema)])
    await talk.say(script({"tool_calls": [call("look", **costly.arguments)]}, {"text": "Done."}))
    return talk


@pytest.mark.parametrize("every", amounts(3, 1))
async def test_a_database_that_already_has_such_schemas_hangs_no_server(
    database_url: str, tmp_path: Path, every: int
) -> None:
    """Older releases stored them; their calls are in the log when the next server starts."""
    async with Server(tmp_path / "data", database_url=database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
            # PostgreSQL takes half as many: the checks are the same, and each costs its time.
            names = [*COSTLY][:: every * 2 if database_url else every]
            ids = {name: (await new_talk(http, harness_name="base", tools=[tool({})])).id for name in names}
        await server.kill()
        await _store(database_url, tmp_path / "data", ids)
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            async with healthy(http):
                for name, each in ids.items():
                    asked = call("look", **COSTLY[name].arguments)
                    await Talk(http, each).say(script({"tool_calls": [asked]}, {"text": "Done."}))
            await server.restart()  # kill -9 in the midst of it
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http, healthy(http):
            became = {name: await answered(Talk(http, each)) for name, each in ids.items()}
    hopeless = became["doubling through anyOf"]
    assert hopeless["status"] == "error"
    assert "too complex" in hopeless["error"]
    if "no schema" in became:
        assert "tool_calls" in became["no schema"]  # the client has to check the arguments


async def _store(database_url: str, data: Path, ids: dict[str, str]) -> None:
    """Give each session its schema, past all checks."""
    database = await open_postgres(database_url) if database_url else await open_sqlite(data / "perdure.db")
    try:
        for name, session_id in ids.items():
            config = msgspec.json.encode({"tools": [tool(COSTLY[name].schema)]}).decode()
            await database.write(
                lambda tx, config=config, key=session_id: tx.run(
                    "UPDATE sessions SET config = ? WHERE id = ?", config, key
                )
            )
    finally:
        await database.close()
