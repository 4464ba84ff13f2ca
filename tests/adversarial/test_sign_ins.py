"""Attacks on sign-ins at MCP servers: by browsers, by servers, and by what happens at the same time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.browser import Browser
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.signing_in import FIND, Place, completed, nowhere
from tests.oauth_server import oauth_server
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import Talk, call, kinds_of, new_talk, script

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAME = {"sec-fetch-site": "same-origin"}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def perdure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true", "PERDURE_LOG_LEVEL": "debug"}
    data = tmp_path_factory.mktemp("attacks")
    async with Server(data, database_url=url, environment=environment) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def place(perdure: Server) -> AsyncIterator[Place]:
    async with (
        httpx.AsyncClient(base_url=perdure.url, timeout=30) as http,
        oauth_server() as crm,
        Browser() as browser,
    ):
        yield Place(perdure, http, crm, browser)
        provider = None
        for each in (await http.get("/v1/mcp-servers")).json()["data"]:
            provider = each["id"]
            await http.post(f"/v1/mcp-servers/{provider}/delete")


async def back_from(place: Place, url: str) -> str:
    """Sign in at the authorization server; the callback's address, which is not opened yet."""
    began = await place.browser.http.post(url, headers=SAME)
    assert began.status_code == 303, began.text
    answer = await place.browser.http.get(began.headers["location"])
    return str(answer.headers["location"])


async def once(place: Place, provider: str) -> tuple[Talk, list[Any]]:
    """Have a session call the tool once, with the sign-in that is there."""
    talk = await place.talk(provider)
    await talk.say(script({"tool_calls": [call(FIND, _id="c1", who="Ada")]}, {"text": "Done."}))
    return talk, await talk.logged_until("act.completed")


QUERIES = (
    "state=%FF%FE&code=x",
    "state=%ED%A0%80",
    "state=pdr_st_" + "A" * 65,
    "state=a&state=b",
    "state=%00",
    "code=x&iss=%FF",
    "error=%3Cscript%3Ealert(1)%3C/script%3E&state=%3Cscript%3E",
    "next=https://evil.example.com&redirect_uri=https://evil.example.com",
)


@pytest.mark.parametrize("query", QUERIES)
async def test_a_made_up_answer_is_refused_and_shows_nothing_of_itself(place: Place, query: str) -> None:
    page = await place.browser.http.get(f"{place.server.url}/v1/oauth/callback?{query}")
    assert page.status_code in (400, 410), page.text
    assert "script>alert" not in page.text
    assert "location" not in page.headers
    assert "evil" not in page.text


async def test_a_very_long_answer_is_refused(place: Place) -> None:
    page = await place.browser.http.get(f"{place.server.url}/v1/oauth/callback?state={'x' * 5_000}")
    assert page.status_code == 400
    host = httpx.URL(place.server.url)
    reader, writer = await asyncio.open_connection(host.host, host.port)
    writer.write(b"GET /v1/oauth/callback?state=" + b"x" * 1_000_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    try:
        said = await reader.read(10_000)
    except ConnectionError:
        said = b""
    assert b" 200 " not in said[:20]
    writer.close()


async def test_two_answers_at_once_store_one_sign_in(place: Place) -> None:
    provider = await place.register()
    back = await back_from(place, await place.link(provider))
    pages = await asyncio.gather(*(place.browser.http.get(back) for _ in range(8)))
    assert sorted(page.status_code for page in pages) == [200] + [410] * 7
    assert (len(place.crm.grants), place.crm.faults) == (1, [])


async def test_nothing_of_a_sign_in_is_logged_or_stored(place: Place) -> None:
    provider = await place.register()
    link = await place.link(provider)
    back = await back_from(place, link)
    cookies = dict(place.browser.http.cookies)
    sent = httpx.URL(back).params
    assert (await place.browser.open(back)).status_code == 200
    _, events = await once(place, provider)
    await nowhere(place, events)
    text = place.server.log.read_text() + json.dumps(events)
    text += (await place.http.get("/v1/user/connections")).text
    for secret in (sent["code"], sent["state"], link.rsplit("/", 1)[1], *cookies.values()):
        assert secret not in text


async def test_a_server_that_is_deleted_during_a_sign_in_leaves_no_tokens_anywhere(place: Place) -> None:
    provider = await place.register()
    back = await back_from(place, await place.link(provider))

    async def delete() -> None:
        assert (await place.http.post(f"/v1/mcp-servers/{provider}/delete")).status_code < 300

    place.crm.before_answer = delete
    assert (await place.browser.http.get(back)).status_code == 404
    assert [grant.revoked for grant in place.crm.grants] == [True]
    assert await place.connections() == []


async def test_a_connection_that_is_removed_during_a_refresh_leaves_no_tokens_anywhere(place: Place) -> None:
    provider = await place.register()
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    place.crm.grants[0].until = 0

    async def remove() -> None:
        place.crm.before_answer = None
        assert (await place.http.delete(f"/v1/user/connections/{provider}")).status_code == 204
        place.crm.grants[0].revoked = False  # a server that revokes only the token that it is told

    place.crm.before_answer = remove
    talk, events = await once(place, provider)
    assert "tool.parked" in kinds_of(events)
    assert place.crm.refreshed == 1
    assert place.crm.grants[0].revoked
    await talk.cancel()


async def test_a_server_that_lists_after_a_sign_in_is_checked_with_it_and_gets_no_token_shown(
    place: Place,
) -> None:
    place.crm.lies.lists_openly, place.crm.lies.repeats = False, True
    provider = await place.register()
    path = f"/v1/mcp-servers/{provider}"
    check = (await place.http.post(f"{path}/check-connection")).json()
    assert (check["ok"], check["error"]["code"]) == (False, "sign_in_required")
    assert "perdure mcp sign-in" in check["error"]["hint"]
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    assert (await place.http.post(f"{path}/check-connection")).json()["ok"] is True
    listed = await place.http.get(f"{path}/tools")
    assert "You sent Bearer [secret" in listed.text, "a token that comes back is blanked"
    assert place.crm.grants[0].access not in listed.text
    accepted = await place.http.post(f"{path}/tools/find/accept", json={})
    assert accepted.status_code == 200
    keyed = {"name": "keyed", "url": place.crm.mcp, "api_key": "k3y-of-an-admin"}
    place.crm.lies.lists_openly = True
    server = await post(place.http, "/v1/mcp-servers", keyed)
    listed = await place.http.get(f"/v1/mcp-servers/{server['id']}/tools")
    assert "k3y-of" not in listed.text, "members do not read the key from what the server repeats"


ODD: tuple[dict[str, Any], ...] = (
    {"expires_in": -5},
    {"expires_in": 1e308},
    {"expires_in": "1e999"},
    {"expires_in": "soon"},
    {"expires_in": None},
    {"expires_in": [1]},
    {"expires_in": True},
    {"scope": ["crm:read"]},
    {"scope": " ".join(f"s{number}" * 20 for number in range(2_000))},
    {"scope": 'a"b \x1b[31m \u202e crm:read'},
    {"scope": None},
    {"refresh_token": ""},
    {"refresh_token": None},
    {"refresh_token": "r" * 100_000},
    {"id_token": "x" * 100_000, "extra": {"a": [1, 2, {}]}},
)


@pytest.mark.parametrize("answer", ODD, ids=lambda each: str(each)[:40])
async def test_odd_answers_with_tokens_still_sign_in(place: Place, answer: dict[str, Any]) -> None:
    place.crm.lies.answer = answer
    provider = await place.register()
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    for _ in range(2):
        _, events = await once(place, provider)
        assert "tool.parked" not in kinds_of(events)
        assert completed(events)["success"] is True
    (connected,) = await place.connections()
    assert len(json.dumps(connected)) < 30_000
    assert "\x1b" not in json.dumps(connected, ensure_ascii=False)
    assert place.crm.refreshed <= 3


BAD: tuple[dict[str, Any], ...] = (
    {"access_token": ""},
    {"access_token": "a b"},
    {"access_token": "a\r\nX-Evil: 1"},
    {"access_token": "x" * 20_000},
    {"access_token": 7},
    {"token_type": "mac"},
    {"error": "<b>no</b>"},
    {"padding": "x" * 300_000},
)


@pytest.mark.parametrize("answer", BAD, ids=lambda each: str(each)[:40])
async def test_answers_without_a_token_that_can_be_sent_are_refused(
    place: Place, answer: dict[str, Any]
) -> None:
    place.crm.lies.answer = answer
    provider = await place.register()
    page = await place.browser.sign_in(await place.link(provider))
    assert (page.status_code, "sign_in_failed" in page.text) == (409, True)
    assert "<b>no</b>" not in page.text
    assert await place.connections() == []


ENDPOINTS = (
    "{base}/authorize?x=1\r\nSet-Cookie: a=b",
    "{base}/auth\x00orize",
    "{base}/\u202eauthorize",
    " {base}/authorize",
    "{base}/authorize#frag",
    "//evil.example.com/authorize",
    "data:text/html,hi",
)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_an_address_of_the_authorization_server_cannot_change_our_answer(
    place: Place, endpoint: str
) -> None:
    place.crm.lies.endpoints = {"authorization_endpoint": endpoint.format(base=place.crm.base)}
    provider = await place.register()
    link = await place.http.post(f"/v1/user/connections/{provider}/sign-in")
    if link.status_code == 409:
        assert link.json()["code"] == "sign_in_failed"
        return
    began = await place.browser.http.post(link.json()["url"], headers=SAME)
    assert began.status_code == 303
    assert began.headers["location"].startswith(place.crm.base)
    assert began.headers["location"].isascii()
    assert began.headers["location"].isprintable()
    assert [name for name in began.cookies if not name.startswith("perdure_sign_in_")] == []


async def test_sign_ins_under_way_are_bounded_also_if_many_begin_at_once(place: Place) -> None:
    provider = await place.register()
    path = f"/v1/user/connections/{provider}/sign-in"
    statuses = [
        answer.status_code
        for _ in range(4)
        for answer in await asyncio.gather(*(place.http.post(path) for _ in range(16)))
    ]
    assert statuses.count(200) == 50
    assert statuses.count(429) == 14


async def test_a_member_who_is_removed_during_a_sign_in_leaves_no_tokens_anywhere(
    database_url: str, tmp_path: Path
) -> None:
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true"}
    server = Server(tmp_path / "data", database_url=database_url, environment=environment)
    async with server, oauth_server() as crm, Browser() as browser:
        token = await with_login(server)
        async with person(server, token) as ada:
            user, bob_token = await add_member(ada, "bob")
            body = {"name": "crm", "url": crm.mcp, "auth_mode": "o_auth", "acts_as": "user"}
            provider = (await post(ada, "/v1/mcp-servers", body))["id"]
            async with person(server, bob_token) as bob:
                link = (await bob.post(f"/v1/user/connections/{provider}/sign-in")).json()["url"]
                of_bob = Place(server, bob, crm, browser)
                back = await back_from(of_bob, link)

                async def remove() -> None:
                    assert (await ada.delete(f"/v1/users/{user['id']}")).status_code < 300

                crm.before_answer = remove
                assert (await browser.http.get(back)).status_code == 409
            assert [grant.revoked for grant in crm.grants] == [True]


async def test_another_organization_reads_answers_and_removes_nothing(
    database_url: str, tmp_path: Path
) -> None:
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true"}
    server = Server(tmp_path / "data", database_url=database_url, environment=environment)
    async with server, oauth_server() as crm, Browser() as browser:
        token = await with_login(server)
        async with person(server, token) as ada:
            org = (await ada.get("/v1/orgs")).json()["data"][0]["id"]
            other = (await post(ada, "/v1/orgs", {"name": "Elsewhere"}))["id"]
            body = {"name": "crm", "url": crm.mcp, "auth_mode": "o_auth", "acts_as": "user"}
            ada.headers["x-org-id"] = org
            provider = (await post(ada, "/v1/mcp-servers", body))["id"]
            talk = await new_talk(ada, harness_name="base", capabilities=[{"ref": f"mcp:{provider}"}])
            await talk.say(script({"tool_calls": [call(FIND, _id="c1", who="Ada")]}, {"text": "Done."}))
            await talk.logged_until("act.completed")
            (asked,) = (await ada.get(talk.path("/input-requests"))).json()["data"]
            elsewhere = {"x-org-id": other}
            for answer in (
                await ada.get(talk.path("/input-requests"), headers=elsewhere),
                await ada.post(
                    talk.path(f"/input-requests/{asked['id']}"), json={"action": "decline"}, headers=elsewhere
                ),
                await ada.post(f"/v1/user/connections/{provider}/sign-in", headers=elsewhere),
                await ada.delete(f"/v1/user/connections/{provider}", headers=elsewhere),
                await ada.get(f"/v1/mcp-servers/{provider}", headers=elsewhere),
            ):
                assert answer.status_code == 404, answer.text
            mine = (await ada.get("/v1/user/connections", headers=elsewhere)).json()["data"]
            assert mine == [], "the same person has other sign-ins in another organization"
            assert (await talk.read())["status"] == "waiting_for_tool_results"
            assert (await browser.open(asked["url"])).status_code == 403
