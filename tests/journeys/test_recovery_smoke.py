"""Stops, kills, restarts, and two servers on one database: turns continue where their log ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from perdure.domain.events import ENDED_TURN
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, body_of, call, kinds_of, new_talk, script, when

WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather.",
    "parameters": {"type": "object"},
}
TAKE_OVER = 15.0
"""Seconds within which another server continues a dead server's turns."""


def check_one_whole_turn(events: list[Json]) -> None:
    """The log is gapless, and has one turn, which is complete, with one answer to each model call."""
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    kinds = kinds_of(events)
    assert [kind for kind in kinds if kind in ENDED_TURN] == ["turn.completed"]
    assert kinds.count("turn.started") == kinds.count("session.idled") == 1
    assert kinds.count("reason.started") == kinds.count("llm.generation") == kinds.count("reason.completed")


# --- one server -------------------------------------------------------------


async def test_a_stopping_server_finishes_short_turns_starts_no_others_and_loses_nothing(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    running, later = await new_talk(http), await new_talk(http)
    async with running.follow() as stream:
        await running.say(script({"text": "one two three four five", "delay_ms": 200}))
        await stream.until("output.message.delta")
        stopping = asyncio.create_task(any_server.stop())
        await asyncio.sleep(0)
        message = await later.say("For later.")
        ended = await stream.until("session.idled")
        (last,) = await stream.to_end()
    assert await stopping == 0
    assert ended[-2].kind == "turn.completed"
    assert (last.kind, last.data["reason"]) == ("disconnecting", "shutdown")
    await any_server.start()
    check_one_whole_turn(await running.events())
    events = await later.logged_until("session.idled")
    check_one_whole_turn(events)
    assert events[1]["data"]["message"]["id"] == message["id"]
    assert next(event["ts"] for event in events if event["type"] == "turn.started") > ended[-1].data["ts"]


async def test_a_turn_that_outlasts_the_stop_is_resumed_at_the_next_start(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path, database_url=database_url, environment={"PERDURE_DRAIN_SECONDS": "0.2"})
    async with server, httpx.AsyncClient(base_url=server.url) as http:
        await use_simulated_model(http)
        talk = await new_talk(http)
        await talk.say(script({"text": "At last.", "first_ms": 2000}))
        await talk.logged_until("output.message.started")
        began = time.monotonic()
        assert await server.stop() == 0
        assert time.monotonic() - began < 2
        await server.start()
        events = await talk.logged_until("session.idled")
        check_one_whole_turn(events)
        print(f"resumed and done {time.monotonic() - began:.1f} s after the stop")
        assert kinds_of(events).count("reason.started") == 1
        assert time.monotonic() - began < 6  # the server gave the turn back, so no sweep had to find it


async def test_a_killed_servers_turn_continues_at_its_next_start(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    talk = await new_talk(http)
    async with talk.follow() as stream:
        await talk.say(
            script(
                {"tool_calls": [call("write_session_title", title="Alive")]},
                {"text": "one two " * 10, "delay_ms": 50},
            )
        )
        seen = await stream.until("output.message.delta")
        await any_server.kill()
    before = [frame.data for frame in seen if frame.logged]
    began = time.monotonic()
    await any_server.start()
    events = await talk.logged_until("session.idled")
    print(f"done {time.monotonic() - began:.1f} s after the start")
    check_one_whole_turn(events)
    assert events[: len(before)] == before
    assert (await talk.read())["title"] == "Alive"
    assert kinds_of(events).count("tool.completed") == 1


async def test_a_session_that_waits_for_a_client_still_waits_after_a_kill(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    talk = await new_talk(http, tools=[WEATHER])
    await talk.say(script({"tool_calls": [call("weather", "call_1")]}, {"text": "Sunny."}))
    waiting = await talk.logged_until("tool.call_requested")
    await any_server.restart()
    assert (await talk.read())["status"] == "waiting_for_tool_results"
    assert await talk.events() == waiting
    await talk.answer({"tool_call_id": "call_1", "result": "sun"})
    check_one_whole_turn(await talk.logged_until("session.idled"))


async def test_messages_acknowledged_just_before_a_kill_are_answered(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    talks = await asyncio.gather(*(new_talk(http) for _ in range(10)))
    await asyncio.gather(*(talk.say(script({"text": "Here I am.", "first_ms": 50})) for talk in talks))
    await any_server.restart()
    for talk in talks:
        check_one_whole_turn(await talk.logged_until("session.idled"))


# --- two servers ------------------------------------------------------------


@pytest.fixture
async def pair(postgres_url: str, tmp_path: Path) -> AsyncIterator[tuple[Server, Server]]:
    """Two servers on one PostgreSQL."""
    settings = {"PERDURE_MASTER_KEY": "00" * 32, "PERDURE_DRAIN_SECONDS": "0.5"}
    left = Server(tmp_path / "left", database_url=postgres_url, environment=settings)
    right = Server(tmp_path / "right", database_url=postgres_url, environment=settings)
    async with left, right, httpx.AsyncClient(base_url=left.url) as http:
        await use_simulated_model(http)
        yield left, right


@asynccontextmanager
async def both_sides(
    pair: tuple[Server, Server],
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    async with (
        httpx.AsyncClient(base_url=pair[0].url, timeout=30) as left,
        httpx.AsyncClient(base_url=pair[1].url, timeout=30) as right,
    ):
        yield left, right


async def runner_among(
    pair: tuple[Server, Server], clients: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> int:
    """The index of the server that runs the only running session."""
    found: list[int] = []

    async def look() -> bool:
        found[:] = [
            number for number in (0, 1) if (await clients[number].get("/health")).json()["running_sessions"]
        ]
        return len(found) == 1

    await when(look)
    return found[0]


async def test_a_session_can_be_read_followed_and_cancelled_through_either_server(
    pair: tuple[Server, Server],
) -> None:
    async with both_sides(pair) as (left, right):
        here = await new_talk(left, title="Shared")
        there = Talk(right, here.id)
        assert (await there.read())["title"] == "Shared"
        async with here.follow() as first, there.follow() as second:
            await here.say(script({"text": "one two three four five six seven eight", "delay_ms": 60}))
            frames = [await stream.until("session.idled") for stream in (first, second)]
        logs = [[frame.data for frame in each if frame.logged] for each in frames]
        assert logs[0] == logs[1] == await there.events()
        for each in frames:
            deltas = [frame.data["data"] for frame in each if frame.live]
            assert len(deltas) > 2
            assert (
                "".join(delta["delta"] for delta in deltas)
                == deltas[-1]["accumulated"]
                == "one two three four five six seven eight"
            )
        for asker in (here, there):
            async with asker.follow(after_sequence=(await asker.events())[-1]["sequence"]) as stream:
                await here.say(script({"text": "word " * 1000, "delay_ms": 30}))
                await stream.until("output.message.delta")
                assert await asker.cancel() == "cancelled"
                await stream.until("session.idled")
            for client in (left, right):
                await when(lambda client=client: _rests(client), patience=1)


async def _rests(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/health")).json()["running_sessions"] == 0)


async def test_a_late_follower_at_the_other_server_gets_the_text_so_far(pair: tuple[Server, Server]) -> None:
    async with both_sides(pair) as clients:
        here = await new_talk(clients[0])
        async with here.follow() as stream:
            await here.say(
                script({"text": "one two three four five six seven eight nine ten", "delay_ms": 250})
            )
            await stream.until(
                "output.message.delta", where=lambda event: "four" in event["data"]["accumulated"]
            )
            for client in clients:
                async with Talk(client, here.id).follow() as late:
                    first = (await late.until("output.message.delta"))[-1].data["data"]
                    assert first["delta"] == first["accumulated"]
                    assert first["accumulated"].startswith("one two three four")
            await here.cancel()


async def test_a_killed_servers_turns_continue_at_the_other_server_by_themselves(
    pair: tuple[Server, Server],
) -> None:
    async with both_sides(pair) as clients:
        talk = await new_talk(clients[0])
        await talk.say(script({"text": "Done.", "first_ms": 1500}))
        await talk.logged_until("output.message.started")
        runner = await runner_among(pair, clients)
        began = time.monotonic()
        await pair[runner].kill()
        talk = Talk(clients[1 - runner], talk.id)
        async with asyncio.timeout(TAKE_OVER), talk.follow() as stream:
            await stream.until("session.idled")
        print(f"done {time.monotonic() - began:.1f} s after the kill, 1.5 s of that the model's")
        check_one_whole_turn(await talk.events())


async def test_a_message_to_a_session_whose_runner_died_is_answered_by_the_other_server(
    pair: tuple[Server, Server],
) -> None:
    async with both_sides(pair) as clients:
        talk = await new_talk(clients[0])
        await talk.say(script({"text": "First.", "first_ms": 1500}))
        await talk.logged_until("output.message.started")
        runner = await runner_among(pair, clients)
        began = time.monotonic()
        await pair[runner].kill()
        talk = Talk(clients[1 - runner], talk.id)
        await talk.say(script({"text": "Second."}, ask="Instead, this."))
        async with asyncio.timeout(TAKE_OVER), talk.follow() as stream:
            frames = await stream.until("session.idled")
        print(f"answered {time.monotonic() - began:.1f} s after the kill, 1.5 s of that the model's")
        received = [frame.data["data"]["messages"] for frame in frames if frame.kind == "llm.generation"][-1]
        assert [message["role"] for message in received][-1] == "user"
        assert (await talk.read())["output_preview"] == "Second."


async def test_a_stopped_server_hands_its_turns_to_the_other_server_at_once(
    pair: tuple[Server, Server],
) -> None:
    async with both_sides(pair) as clients:
        talk = await new_talk(clients[0])
        await talk.say(script({"text": "Done.", "first_ms": 20_000}, {"text": "x"}))
        await talk.logged_until("output.message.started")
        runner = await runner_among(pair, clients)
        stopping = asyncio.create_task(pair[runner].stop())
        other = Talk(clients[1 - runner], talk.id)
        assert await stopping == 0
        await when(lambda: _runs(clients[1 - runner]), patience=2)
        assert await other.cancel() == "cancelled"


async def _runs(client: httpx.AsyncClient) -> bool:
    return not await _rests(client)


# --- start ------------------------------------------------------------------


async def perdure(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int | None, str, str]:
    """The exit status, standard output and standard error of the `perdure` command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "perdure",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), err.decode()


async def test_a_second_server_on_the_same_folder_refuses_to_start_and_says_what_to_do(
    server: Server,
) -> None:
    status, out, err = await perdure("serve", "--port", "0", "--data", str(server.data))
    assert (status, out) == (1, "")
    assert "another Perdure server uses the data folder" in err
    assert "PERDURE_DATABASE_URL" in err
    assert "Traceback" not in err
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.get("/health")).json()["status"] == "ok"


async def test_without_an_access_token_a_server_refuses_to_listen_to_other_machines(tmp_path: Path) -> None:
    status, out, err = await perdure("serve", "--host", "0.0.0.0", "--port", "0", "--data", str(tmp_path))
    assert (status, out) == (1, "")
    assert "perdure keys create" in err
    assert "Traceback" not in err


async def test_with_an_access_token_a_server_listens_anywhere_and_requires_it(tmp_path: Path) -> None:
    status, out, _ = await perdure("keys", "create", "--data", str(tmp_path))
    assert status == 0
    token = out.split()[-1]
    assert token.startswith("pdr_pat_")
    async with (
        Server(tmp_path, environment={"PERDURE_HOST": "0.0.0.0"}) as server,
        httpx.AsyncClient(base_url=server.url.replace("0.0.0.0", "127.0.0.1")) as http,
    ):
        assert (await http.get("/health")).status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer pdr_pat_wrong"},
            {"Authorization": f"Basic {token}"},
            {"Authorization": ""},
        ):
            refused = await http.get("/v1/sessions", headers=headers)
            assert refused.status_code == 401
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["code"] == refused.json()["error"]["code"] == "unauthenticated"
        for value in (token, f"Bearer {token}"):
            http.headers["Authorization"] = value
            talk = await new_talk(http)
            assert (await http.get(talk.path())).status_code == 200
            assert (await http.post(talk.path("/messages"), json=body_of("Hello?"))).status_code == 201


async def test_ctrl_c_stops_a_server_gracefully(tmp_path: Path) -> None:
    async with Server(tmp_path) as server:
        await server.kill(signal.SIGINT)
        assert await server.stop() == 0
