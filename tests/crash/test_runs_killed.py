"""Requests that wait for a result while servers are killed, stopped, or run the turns of one another."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx

from tests.crash.test_kills import KEY
from tests.journeys.people import fresh
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, body_of, call, kinds_of, new_talk, script, text_in, when

SLOW = {"text": "At last.", "first_ms": 60_000}


def client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=60)


async def asked(http: httpx.AsyncClient, path: str, body: Json) -> Json:
    """Send it and wait; again under the same key, as long as no server answers."""
    headers = {"idempotency-key": fresh("key")}
    while True:
        try:
            answer = await http.post(path, params={"wait": 60}, json=body, headers=headers)
        except httpx.TransportError:
            await asyncio.sleep(0.05)
            continue
        assert answer.status_code in (200, 202), answer.text
        found: Json = answer.json()
        return found


async def test_a_repetition_after_a_kill_waits_for_the_turn_of_the_same_message(
    database_url: str, tmp_path: Path
) -> None:
    async with Server(tmp_path / "data", database_url=database_url) as server, client(server) as http:
        await use_simulated_model(http)
        talk = await new_talk(http)
        text = script({"text": "Survived.", "first_ms": 700})
        sent = asyncio.create_task(asked(http, talk.path("/messages"), body_of(text)))
        run = asyncio.create_task(asked(http, "/v1/runs", {"message": text, "title": "run"}))

        async def both_run() -> bool:
            return (await http.get("/v1/sessions?status=active")).json()["total"] == 2

        await when(both_run)
        await server.restart()
        for result in (await sent, await run):
            assert (result["status"], text_in(result["answer"])) == ("completed", "Survived.")
            log = await Talk(http, result["session_id"]).events()
            assert kinds_of(log).count("input.message") == 1
        assert (await http.get("/v1/sessions")).json()["total"] == 2


async def test_a_server_that_stops_lets_nobody_wait_longer_than_its_turns(tmp_path: Path) -> None:
    environment = {"PERDURE_DRAIN_SECONDS": "0.5"}
    async with Server(tmp_path / "data", environment=environment) as server, client(server) as http:
        await use_simulated_model(http)
        talks = [await new_talk(http) for _ in range(2)]
        texts = [script({"text": "In time.", "first_ms": 200}), script(SLOW)]
        waiting = [
            asyncio.create_task(asked(http, talk.path("/messages"), body_of(text)))
            for talk, text in zip(talks, texts, strict=True)
        ]
        for talk in talks:
            await talk.logged_until("reason.started")
        async with asyncio.timeout(10):
            await server.kill(signal.SIGTERM)
            results = await asyncio.gather(*waiting)
        assert [each["status"] for each in results] == ["completed", "running"]


async def test_a_process_answers_for_turns_that_another_one_runs(postgres_url: str, tmp_path: Path) -> None:
    left = Server(tmp_path / "left", database_url=postgres_url, environment=KEY)
    right = Server(tmp_path / "right", database_url=postgres_url, environment=KEY)
    async with left, right, client(left) as http, client(right) as other:
        await use_simulated_model(http)
        careful = {"capabilities": [{"ref": "tool_approval", "config": {"mode": "normal"}}]}
        steps = [{"tool_calls": [call("bash", "call_1", command="true")]}, {"text": "Done.", "first_ms": 100}]
        talks = [await new_talk(http, **careful) for _ in range(4)]
        parked = await asyncio.gather(
            *(
                asked(each, talk.path("/messages"), body_of(script(*steps)))
                for talk, each in zip(talks, (http, other, http, other), strict=True)
            )
        )
        assert {each["status"] for each in parked} == {"waiting"}
        decision = {"decisions": [{"tool_call_id": "call_1", "decision": "allow"}]}
        for talk in talks:
            assert (await other.post(talk.path("/tool-approvals"), json=decision)).status_code == 200
        links = [each["links"]["wait"] for each in parked]
        results = await asyncio.gather(*(each.get(link) for link in links for each in (http, other)))
        assert {text_in(each.json()["answer"]) for each in results} == {"Done."}
