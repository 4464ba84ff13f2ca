"""Processes with a role on one PostgreSQL: the API, workers, and how each of them stops."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.server import Server, use_simulated_model
from tests.talk import Talk, call, kinds_of, new_talk, script

KEY = {"PERDURE_MASTER_KEY": "22" * 32}


def process(folder: Path, command: str, url: str, **environment: str) -> Server:
    server = Server(folder, database_url=url, environment={**KEY, **environment})
    server.command = command
    return server


@contextlib.asynccontextmanager
async def talking_to(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        yield http


async def ready(server: Server) -> tuple[int, str]:
    async with talking_to(server) as http:
        answer = await http.get("/health/ready")
        return answer.status_code, answer.json()["status"]


async def test_workers_run_the_turns_that_the_api_accepts(postgres_url: str, tmp_path: Path) -> None:
    api = process(tmp_path / "api", "api", postgres_url)
    one = process(tmp_path / "one", "worker", postgres_url)
    two = process(tmp_path / "two", "worker", postgres_url)
    async with api, talking_to(api) as http:
        await use_simulated_model(http)
        early = await new_talk(http)
        await early.say(script({"text": "It waited."}))  # until there is a worker
        async with one, talking_to(one) as aside:
            await early.logged_until("session.idled")
            assert (await aside.get("/v1/sessions")).status_code == 404
            assert (await aside.get("/health")).json()["status"] == "ok"
            async with two:
                talk = await new_talk(http, capabilities=[{"ref": "session_storage"}])
                async with talk.follow() as stream:
                    told = {"text": "It is done, word by word.", "delay_ms": 100}
                    await talk.turn({"tool_calls": [call("kv_set", key="a", value="1")]}, told)
                    seen = await stream.until("session.idled")
                assert any(each.live for each in seen)  # live text arrives from another process
                long = await new_talk(http)
                await long.say(script({"text": "At last.", "first_ms": 4000}))
                await long.logged_until("reason.started")
                await one.kill()  # if it was this one, the other one takes the turn over
                ended = await long.logged_until("session.idled")
                assert kinds_of(ended).count("turn.completed") == 1
            assert (await http.get("/health")).json()["running_sessions"] == 0


async def test_a_process_that_was_asked_to_stop_is_not_ready_but_serves(
    postgres_url: str, tmp_path: Path
) -> None:
    api = process(tmp_path / "api", "api", postgres_url, PERDURE_DRAIN_DELAY_SECONDS="30")
    other = process(tmp_path / "other", "serve", postgres_url)
    async with other, api, talking_to(api) as http, talking_to(other) as elsewhere:
        await use_simulated_model(http)
        assert await ready(api) == (200, "ready")
        talk = await new_talk(http)
        api.send(signal.SIGTERM)
        async with asyncio.timeout(10):
            while (await ready(api))[1] != "draining":
                await asyncio.sleep(0.01)
        assert (await http.get("/health/live")).json() == {"status": "ok"}
        await talk.turn({"text": "Still served."})
        assert "turn.completed" in kinds_of(await Talk(elsewhere, talk.id).events())
        api.send(signal.SIGINT)  # do not wait for the rest of the delay
        await api.ended()


async def test_a_follower_moves_to_another_process_when_its_own_stops(
    postgres_url: str, tmp_path: Path
) -> None:
    one = process(tmp_path / "one", "api", postgres_url)
    two = process(tmp_path / "two", "api", postgres_url)
    worker = process(tmp_path / "worker", "worker", postgres_url)
    async with one, two, worker, talking_to(one) as http, talking_to(two) as elsewhere:
        await use_simulated_model(http)
        talk = await new_talk(http)
        async with talk.follow() as stream:
            await talk.say(script({"text": "One two three.", "first_ms": 1500}))
            before = await stream.until("reason.started")
            one.send(signal.SIGTERM)
            before += await stream.to_end()
        last = [each for each in before if each.logged][-1]
        moved = Talk(elsewhere, talk.id)
        async with moved.follow(since_id=str(last.id)) as stream:
            after = await stream.until("session.idled")
        seen = [each.data["id"] for each in before + after if each.logged]
        logged = [event["id"] for event in await moved.events()]
        assert seen == logged  # nothing twice, nothing missing
        assert await one.ended() == 0
