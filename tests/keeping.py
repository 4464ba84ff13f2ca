"""Backups and checks of a server's database, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from perdure.domain.verification import Difference, Verified
from perdure.keeping import verify_database
from perdure.settings import Settings
from tests.command import Done, perdure
from tests.journeys.families import SLOW, all_ended, new_family, spawns, task_in, tasks_of
from tests.postgres_server import _installation
from tests.server import post, use_simulated_model
from tests.talk import body_of, call, new_talk, script


async def keep(command: str, data: Path, url: str, *arguments: str | Path) -> Done:
    """Run a command on a database, with the programs of the tests' own PostgreSQL."""
    return await perdure(*words(command, data, url, *arguments), PERDURE_DATABASE_URL=url, limit=60)


def words(command: str, data: Path, url: str, *arguments: str | Path) -> list[str]:
    """The arguments of a command on a database."""
    tools = ["--pg-bin", str(_installation() / "bin")] if url and command in ("backup", "restore") else []
    return [command, *map(str, arguments), "--data", str(data), *tools]


async def verified(data: Path, url: str = "", *, contents: bool = True) -> tuple[Verified, list[Difference]]:
    """Check a database in this process; return what was checked, and what differs."""
    found: list[Difference] = []
    settings = Settings(data=str(data), database_url=url)
    done = await verify_database(settings, found.append, lambda *_: None, contents=contents)
    return done, found


def manifest_in(done: Done) -> dict[str, Any]:
    """The manifest that a command with --json has printed."""
    assert done.status == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


async def fill(http: httpx.AsyncClient, folder: Path) -> str:
    """Make one of everything that is checked; return a session with most of it."""
    await use_simulated_model(http)
    talk = await new_family(http, spawns("one", {"text": "1"}), spawns("slow", SLOW), title="A family")
    by_name = {task["display_name"]: task["id"] for task in await tasks_of(talk)}
    await task_in(talk, by_name["one"], "succeeded")
    await task_in(talk, by_name["slow"], "running")
    for task in await tasks_of(talk):
        await http.post(talk.path(f"/tasks/{task['id']}/cancel"))
    await all_ended(talk)
    answer = (await talk.messages())[-1]
    await http.put(talk.path(f"/messages/{answer['id']}/feedback"), json={"rating": "up"})
    body = {"currency": "tokens", "subject_type": "session", "subject_id": talk.id, "limit": 1_000_000}
    budget = await post(http, "/v1/budgets", body)
    await post(http, f"/v1/budgets/{budget['id']}/top-up", {"amount": 5}, 200)
    await talk.turn({"text": "Paid."})
    after = (await talk.messages())[-1]["sequence"]
    await post(http, talk.path("/messages"), body_of("Hello.", client_message_id="mine"))
    await talk.logged_until("session.idled", after=after + 5)
    await post(http, talk.path("/fs/notes.md"), {"content": "kept"})
    memory = await post(http, "/v1/memories", {"name": "notes"})
    await post(http, f"/v1/memories/{memory['id']}/fs/a.md", {"content": "remembered"})
    agent = await post(http, "/v1/agents", {"name": "helper", "system_prompt": "Help."})
    await post(http, talk.path("/participants"), {"kind": "agent", "agent_id": agent["id"]})
    waiting = await new_talk(http, harness_name="base", capabilities=[{"ref": "deferring"}])
    await waiting.say(script({"tool_calls": [call("order", _id="c1", desk=str(folder), note="one")]}))
    await waiting.logged_until("act.completed")
    return talk.id
