"""Upgrades without a pause: processes of an older release serve while this one migrates, beside it, and until
they stop (promise P11)."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script
from tests.upgrade.build import ROOT, extract
from tests.upgrade.releases import RELEASES, Release

KEY = {"PERDURE_MASTER_KEY": "11" * 32}
SLOW = {"text": "A slow answer.", "first_ms": 1500}


def has_commit(release: Release) -> bool:
    """Whether the repository has the release: a shallow copy does not."""
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{release.commit}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    return known.returncode == 0


@asynccontextmanager
async def beside(release: Release, url: str, folder: Path) -> AsyncIterator[tuple[Server, Server]]:
    """A server of the release, which has begun to serve, and one of the present code, which has not."""
    if not has_commit(release):
        pytest.skip(f"this copy of the repository has no history with the commit of {release.version}")
    source = await asyncio.to_thread(extract, release, folder / "code")
    environment = {**KEY, "PYTHONPATH": str(source), "PERDURE_DRAIN_SECONDS": "1"}
    old = Server(folder / "old", database_url=url, environment=environment)
    if not (source / "perdure" / "__main__.py").exists():
        old.module = "perdure.cli"
    new = Server(folder / "new", database_url=url, environment=KEY)
    async with old:
        try:
            yield old, new
        finally:
            await new.kill(signal.SIGTERM)


def client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=30)


async def idle(talk: Talk, turns: int) -> list[Json]:
    """Wait for the end of so many turns; return the log, which has each of them once."""
    events = await talk.events()
    while [event["type"] for event in events].count("turn.completed") < turns:
        await talk.logged_until("session.idled", after=events[-1]["sequence"])
        events = await talk.events()
    kinds = [event["type"] for event in events]
    assert kinds.count("turn.started") == kinds.count("turn.completed") == turns, kinds
    assert "turn.failed" not in kinds
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    return events


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
async def test_an_older_release_serves_while_this_one_migrates_and_until_it_stops(
    release: Release, empty_postgres_url: str, tmp_path: Path
) -> None:
    async with beside(release, empty_postgres_url, tmp_path) as (old, new):
        async with client(old) as http:
            await use_simulated_model(http)
            talks = [await new_talk(http) for _ in range(4)]
            for talk in talks:
                await talk.turn({"tool_calls": [call("get_current_time")]}, {"text": "Before."})
            running = await new_talk(http)
            await running.say(script(SLOW))
            await new.start()  # it migrates while a turn runs in the older process
            await idle(running, 1)
            async with client(new) as other:
                twins = [Talk(other, talk.id) for talk in talks]
                # Both serve the same sessions: messages through one, and through the other.
                for number, (talk, twin) in enumerate(zip(talks, twins, strict=True)):
                    first, second = (talk, twin) if number % 2 else (twin, talk)
                    await first.say(
                        script({"tool_calls": [call("get_current_time")]}, {"text": "Through one."})
                    )
                    await idle(first, 2)
                    await second.say(script({"text": "Through the other."}))
                    await idle(second, 3)
                    assert (await talk.messages())[-1] == (await twin.messages())[-1]
                answer = await http.patch(f"/v1/sessions/{talks[0].id}", json={"title": "By the older one"})
                assert answer.status_code == 200, answer.text
                assert (await twins[0].read())["title"] == "By the older one"
                answer = await other.patch(f"/v1/sessions/{talks[0].id}", json={"title": "By the newer one"})
                assert (await talks[0].read())["title"] == "By the newer one"
                # New sessions of either one go on in the other.
                made = [await new_talk(http), await new_talk(other)]
                for talk, through in zip(made, (other, http), strict=True):
                    await Talk(through, talk.id).turn({"text": "Elsewhere."})
                # The older one stops in the middle of a turn, and the newer one ends it.
                left = await new_talk(http)
                await left.say(script(SLOW, ask="Take over."))
                await left.logged_until("reason.started")
                assert await old.stop() == 0
                await idle(Talk(other, left.id), 1)
                for twin in twins:
                    await twin.turn({"text": "After."})
                    await idle(twin, 4)
        assert "Traceback" not in old.log.read_text()
        assert await new.stop() == 0
        assert "Traceback" not in new.log.read_text()


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
async def test_a_killed_process_of_an_older_release_is_taken_over(
    release: Release, empty_postgres_url: str, tmp_path: Path
) -> None:
    async with beside(release, empty_postgres_url, tmp_path) as (old, new):
        async with client(old) as http:
            await use_simulated_model(http)
            talk = await new_talk(http)
            await talk.say(script({"tool_calls": [call("get_current_time")]}, SLOW))
            await new.start()
            await talk.logged_until("tool.completed")
            await old.kill()
        async with client(new) as http:
            events = await idle(Talk(http, talk.id), 1)
            assert [event["type"] for event in events].count("tool.completed") == 1
