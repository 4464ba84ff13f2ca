"""kill -9 during tools in the background: each task ends once, and no effect takes place twice unnoticed."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.crash.effects import EffectsServer
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script, when

NAMES = ("charge", "asked", "clueless", "repeatable")
CASES = {
    "charge before": ("failed", 0),
    "charge after": ("failed", 1),
    "asked after": ("succeeded", 1),
    "clueless after": ("failed", 1),
    "repeatable before": ("succeeded", 1),
    "repeatable after": ("succeeded", 2),
}
"""By tool and by the moment of the kill: how the task ends, and how often its effect took place."""


async def _begin(http: httpx.AsyncClient) -> Talk:
    enabled = {"ref": "background_tools", "config": {"tools": list(NAMES)}}
    talk = await new_talk(http, harness_name="base", capabilities=[{"ref": "effects"}, enabled])
    calls = []
    for number, case in enumerate(CASES):
        tool, hang = case.split()
        calls.append(call(tool, f"c{number}", hang=hang, run_in_background=True))
    await talk.say(script({"tool_calls": calls}, {"text": "Meanwhile."}))
    return talk


def _ends(events: list[Json]) -> list[Json]:
    tasks = [event["data"]["task"] for event in events if event["type"] == "task.updated"]
    return [task for task in tasks if "finished_at" in task]


async def _check(server: EffectsServer, talk: Talk) -> None:
    async def all_ended() -> bool:
        return len(_ends(await talk.events())) >= len(CASES)

    await when(all_ended)
    events = await talk.events()
    created = [event["data"]["task"] for event in events if event["type"] == "task.created"]
    ends = {task["id"]: task for task in _ends(events)}
    assert len(_ends(events)) == len(ends) == len(created) == len(CASES)
    effects, told = server.effects(), []
    for task, (case, (state, times)) in zip(created, CASES.items(), strict=True):
        end = ends[task["id"]]
        assert end["state"] == state, (case, end)
        assert len(effects.get(task["spec"]["effect_key"], [])) == times, (case, end)
        if state == "failed":
            assert end["error"]["kind"] == "interrupted", case
            assert "may or may not have taken effect" in end["error"]["message"], case
        told.append(task["id"])
    messages = [event["data"]["message"] for event in events if event["type"] == "input.message"]
    about = [each["metadata"]["task_id"] for each in messages if "task_id" in (each.get("metadata") or {})]
    assert sorted(about) == sorted(told)


async def test_what_a_killed_server_ran_in_the_background_ends_once(
    database_url: str, tmp_path: Path
) -> None:
    server = EffectsServer(tmp_path / "data", database_url=database_url)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await _begin(http)

        async def all_hang() -> bool:
            return len(server.hanging()) == len(CASES)

        await when(all_hang)
        await server.restart()
        await _check(server, talk)


@pytest.mark.soak  # waits until the dead process no longer counts
async def test_another_process_takes_over_what_a_killed_one_ran(
    empty_postgres_url: str, tmp_path: Path
) -> None:
    url = empty_postgres_url
    key = {"PERDURE_MASTER_KEY": "11" * 32}
    first = EffectsServer(tmp_path / "data", database_url=url, environment=key)
    async with first, httpx.AsyncClient(base_url=first.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await _begin(http)

        async def all_hang() -> bool:
            return len(first.hanging()) == len(CASES)

        await when(all_hang)
        second = Server(tmp_path / "two", database_url=url, environment=key)
        second.program = (__file__.replace("test_background_killed", "effects"), "runs", *first.program[2:])
        async with second, httpx.AsyncClient(base_url=second.url, timeout=30) as other:
            await first.kill()
            await _check(first, Talk(other, talk.id))
