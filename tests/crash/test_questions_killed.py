"""kill -9 while an agent's question is open, while it is answered, and at its deadline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.crash.hanging_appends import AppendingServer, Moment
from tests.journeys.people import get
from tests.journeys.test_questions import COLOUR, SECRET, TOKEN, asked, asking, result_of
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, kinds_of, new_talk, script

ANSWERS = {"colour": "red", "token": SECRET}


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        yield http


async def secrets_of(talk: Talk) -> list[str]:
    return [each["name"] for each in (await get(talk.http, talk.path("/storage/secrets")))["data"]]


async def test_an_open_question_outlives_a_kill_with_its_deadline(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    async with serving(server) as http:
        talk = await new_talk(http)
        item = await asked(talk, COLOUR, TOKEN)
        parked = (await talk.read())["parked_on"]
        await server.restart()
        assert (await get(http, item["links"]["self"]))["expires_at"] == item["expires_at"]
        assert (await talk.read())["parked_on"] == parked
        await post(http, item["links"]["decide"], {"answers": ANSWERS}, 200)
        await server.restart()
        again = await http.post(item["links"]["decide"], json={"answers": ANSWERS})
        assert (again.status_code, again.json()["code"]) == (409, "already_decided")
        assert [each["status"] for each in (await result_of(talk))["answers"]] == ["answered", "stored"]
        assert await secrets_of(talk) == ["SHOP_TOKEN"]


async def test_a_kill_during_the_answer_leaves_all_of_it_or_nothing(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    async with serving(server) as http:
        talks = [await new_talk(http) for _ in range(6)]
        items = [await asked(talk, COLOUR, TOKEN) for talk in talks]

        async def answer(item: Json) -> None:
            with suppress(httpx.HTTPError):
                await http.post(item["links"]["decide"], json={"answers": ANSWERS})

        sent = [asyncio.create_task(answer(item)) for item in items]
        await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
        await server.restart()
        await asyncio.gather(*sent)
        for talk, item in zip(talks, items, strict=True):
            stored = await secrets_of(talk)
            ended = (await get(http, item["links"]["self"])).get("outcome") is not None
            assert ended == (stored == ["SHOP_TOKEN"])
            if not ended:
                await post(http, item["links"]["decide"], {"answers": ANSWERS}, 200)
            assert (await result_of(talk))["answers"][0]["answer"] == "red"
            events = await talk.events()
            assert kinds_of(events).count("tool.completed") == 1
            assert SECRET not in json.dumps(events)


SOON = [{"ref": "ask_user", "config": {"timeout_seconds": 1}}]


@pytest.mark.soak
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 9))
async def test_a_kill_at_any_append_of_a_turn_that_asks_ends_the_question_once(
    number: int, moment: Moment, database_url: str, tmp_path: Path
) -> None:
    """The last appends are those of the deadline, and of what follows."""
    server = AppendingServer(tmp_path / "data", moment, number, database_url=database_url)
    async with serving(server) as http:
        talk = await new_talk(http, harness_name="base", capabilities=SOON)
        await talk.say(script(asking(COLOUR, TOKEN), {"text": "Well."}))
        ended = asyncio.create_task(talk.logged_until("session.idled"))
        hangs = asyncio.create_task(server.until_it_hangs())
        await asyncio.wait({ended, hangs}, return_when=asyncio.FIRST_COMPLETED)
        hung = not ended.done()
        for task in (ended, hangs):
            task.cancel()
        await asyncio.gather(ended, hangs, return_exceptions=True)
        if hung:
            await server.restart()
        told = await result_of(talk)
        assert (told["timed_out"], told["answers"][0]["answer"]) == (True, "blue")
        events = await talk.events()
        assert kinds_of(events)[-2:] == ["turn.completed", "session.idled"]
        assert kinds_of(events).count("tool.parked") == 1
        assert kinds_of(events).count("tool.completed") == 1


async def test_a_deadline_that_passes_while_no_server_runs_is_noticed_afterwards(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    async with serving(server) as http:
        talk = await new_talk(http, harness_name="base", capabilities=SOON)
        await asked(talk, COLOUR)
        await server.kill()
        await server.start()
        told = await result_of(talk)
        assert (told["timed_out"], told["answers"][0]["answer"]) == (True, "blue")
