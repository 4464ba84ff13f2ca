"""A session with a damaged row in its log can still be read, and forked from before the damage."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from perdure.store.postgres.database import open_postgres
from perdure.store.sqlite import open_sqlite
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script

DAMAGES = {
    "no JSON": "data = '{\"message'",
    "another type": "data = 'null'",
    "other fields": 'data = \'{"message": 5, "tool_name": []}\'',
    "an unknown type": "type = 'never.heard'",
    "no context": "context = '{'",
    "odd extras": "tags = '[', metadata = '{'",
    "a time before all times": "ts = -9000000000000000000",
    "a time after all times": "ts = 9000000000000000000",
}
ROWS = {
    "no configuration": "config = '{'",
    "another configuration": "config = '7'",
    "no tags": "tags = '{'",
    "no usage": "usage = '{'",
    "times before all times": "created_at = -9000000000000000000, started_at = -9000000000000000000",
}
"""Damage to the session's own row."""
TYPES = ("input.message", "output.message.completed", "tool.completed", "llm.generation", "turn.completed")
READS = ("", "/messages", "/export", "/events?limit=1000", "/events?order=desc", "/events/summary")


@pytest.fixture
async def talks(database_url: str, tmp_path: Path) -> AsyncIterator[dict[tuple[str, str], Talk]]:
    """A session for each kind of damage to each type of event."""
    async with Server(tmp_path, database_url=database_url) as server:  # noqa: SIM117
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
            made = {
                (name, kind): await new_talk(http, harness_name="generic")
                for name in DAMAGES
                for kind in TYPES
            } | {(name, "session"): await new_talk(http, harness_name="generic") for name in ROWS}
            said = script({"tool_calls": [call("get_current_time")]}, {"text": "Done."})
            await asyncio.gather(*(talk.say(said) for talk in made.values()))
            await asyncio.gather(*(talk.logged_until("session.idled") for talk in made.values()))
            agent = {"name": "damaged", "system_prompt": "Help."}
            (await http.post("/v1/agents", json=agent)).raise_for_status()
            place = open_postgres(database_url) if database_url else open_sqlite(tmp_path / "perdure.db")
            database = await place
            try:
                for (name, kind), talk in made.items():
                    if kind == "session":
                        sql = f"UPDATE sessions SET {ROWS[name]} WHERE id = ?"
                        await database.write(lambda tx, sql=sql, key=talk.id: tx.run(sql, key))
                        continue
                    sql = f"UPDATE events SET {DAMAGES[name]} WHERE session_id = ? AND type = ?"
                    await database.write(lambda tx, sql=sql, args=(talk.id, kind): tx.run(sql, *args))
                await database.write(lambda tx: tx.run("UPDATE agents SET config = '{'"))
                await database.write(lambda tx: tx.run("UPDATE harnesses SET tags = '{' WHERE name = 'base'"))
            finally:
                await database.close()
            await server.restart()  # it remembers nothing of them
            yield made


async def test_a_damaged_row_leaves_the_rest_of_its_session_readable(
    talks: dict[tuple[str, str], Talk],
) -> None:
    for damage, talk in talks.items():
        await check_reads(talk, damage)
    for kind, role in (("input.message", "user"), ("output.message.completed", "agent")):
        messages = await talks["no JSON", kind].messages()
        assert {each["role"] for each in messages if "cannot be read" in str(each["content"])} == {role}
    await check_errors(talks["no JSON", "input.message"])
    http = talks["no JSON", "input.message"].http
    for path, known in (("/v1/agents", "damaged"), ("/v1/harnesses", "base")):
        listed = await http.get(path)
        assert listed.status_code == 200, listed.text
        assert f'"{known}"' in listed.text
    for name in ROWS:
        await check_list(talks[name, "session"], name)


async def check_list(talk: Talk, damage: str) -> None:
    """The list has the session, and its next turn ends, one way or the other."""
    answer = await talk.http.get("/v1/sessions?limit=100")
    assert answer.status_code == 200, (damage, answer.text)
    assert talk.id in answer.text
    posted = await talk.http.post(talk.path("/messages"), json=text_message("Again?"))
    assert posted.status_code == 201, (damage, posted.text)
    events = await talk.logged_until("session.idled", after=posted.json()["sequence"])
    assert events[-2]["type"] in ("turn.completed", "turn.sealed", "turn.failed"), damage


async def check_reads(talk: Talk, damage: tuple[str, str]) -> None:
    """Every read answers, with JSON; what needs the damaged event says so."""
    for path in READS:
        answer = await talk.http.get(talk.path(path))
        assert answer.status_code == 200, (damage, path, answer.text)
        for line in answer.text.splitlines():
            json.loads(line)
    listed = (await talk.http.get(talk.path("/events?limit=1000"))).json()["data"]
    streamed = await frames(talk, len(listed))
    assert [each["sequence"] for each in streamed] == [each["sequence"] for each in listed]
    for path, body in (("/context-report", None), ("/fork", {})):
        answer = await talk.http.request("GET" if body is None else "POST", talk.path(path), json=body)
        assert answer.status_code < 300 or answer.json()["code"] in ("event_unreadable", "row_damaged"), (
            damage,
            answer.text,
        )
    assert (await talk.http.post(talk.path("/cancel"))).status_code == 200, damage


async def check_errors(talk: Talk) -> None:
    """The error names the event, and a fork of what was before it works."""
    event = next(each for each in await talk.events() if each["type"] == "input.message")
    report = await talk.http.get(talk.path("/context-report"))
    assert report.status_code == 409
    assert f"event {event['sequence']} ('input.message')" in report.json()["detail"]
    fork = await talk.http.post(talk.path("/fork"), json={"from_sequence": event["sequence"] - 1})
    assert fork.status_code == 201, fork.text
    assert (await Talk(talk.http, fork.json()["id"]).turn({"text": "Fine."}))[-1]["type"] == "session.idled"


def text_message(text: str) -> Json:
    return {"message": {"role": "user", "content": [{"type": "text", "text": text}]}}


async def frames(talk: Talk, count: int) -> list[dict[str, object]]:
    """The first frames of the session's stream."""
    found: list[dict[str, object]] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10), talk.http.stream("GET", talk.path("/sse")) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and "sequence" in line:
                    found.append(json.loads(line[6:]))
                if len(found) == count:
                    break
    return found
