"""Sign-ins on two servers with one database: one of them renews a token, whoever asks first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.browser import Browser
from tests.journeys.signing_in import FIND, Place, completed
from tests.oauth_server import oauth_server
from tests.postgres_server import PostgresServer
from tests.server import Server, use_simulated_model
from tests.talk import Talk, call, script


async def test_two_servers_renew_a_token_once_and_take_an_answer_once(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = await postgres_server.create_database()
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true", "PERDURE_MASTER_KEY": "11" * 32}
    one = Server(tmp_path / "one", database_url=url, environment=environment)
    two = Server(tmp_path / "two", database_url=url, environment=environment)
    async with (
        one,
        two,
        oauth_server() as crm,
        Browser() as browser,
        httpx.AsyncClient(base_url=one.url, timeout=30) as http,
        httpx.AsyncClient(base_url=two.url, timeout=30) as http_of_two,
    ):
        await use_simulated_model(http)
        place = Place(one, http, crm, browser)
        provider = await place.register()
        began = await browser.http.post(await place.link(provider), headers={"sec-fetch-site": "same-origin"})
        back = httpx.URL((await browser.http.get(began.headers["location"])).headers["location"])
        elsewhere = back.copy_with(port=httpx.URL(two.url).port)
        pages = await asyncio.gather(*(browser.http.get(each) for each in (back, elsewhere) * 3))
        assert sorted(page.status_code for page in pages) == [200] + [410] * 5
        assert len(crm.grants) == 1
        talks = [await place.talk(provider) for _ in range(6)]
        talks = [Talk(client, talk.id) for talk, client in zip(talks, (http, http_of_two) * 3, strict=True)]
        crm.grants[0].until = 0
        text = script({"tool_calls": [call(FIND, _id="c1", who="Ada")]}, {"text": "Done."})
        await asyncio.gather(*(talk.say(text) for talk in talks))
        for talk in talks:
            assert completed(await talk.logged_until("session.idled"))["success"] is True
        assert (crm.refreshed, crm.faults) == (1, [])
