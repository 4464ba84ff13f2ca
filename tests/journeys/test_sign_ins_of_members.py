"""Sign-ins on a server with a login: each is its own user's, and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.browser import Browser
from tests.journeys.keyed import add_member, person, with_login
from tests.oauth_server import OAuthServer, oauth_server
from tests.server import Server, post
from tests.talk import Json, Talk, call, new_talk, script

FINDS = script({"tool_calls": [call("mcp_crm__find", _id="c1", who="Ada")]}, {"text": "Done."})


@dataclass
class Office:
    """A server with a login, two people, and an MCP server at which they sign in."""

    server: Server
    crm: OAuthServer
    ada: httpx.AsyncClient
    bob: httpx.AsyncClient
    bob_id: str
    provider: str

    async def parked(self, http: httpx.AsyncClient) -> tuple[Talk, str]:
        talk = await new_talk(http, harness_name="base", capabilities=[{"ref": f"mcp:{self.provider}"}])
        await talk.say(
            script({"tool_calls": [call("mcp_crm__find", _id="c1", who="Ada")]}, {"text": "Done."})
        )
        events = await talk.logged_until("act.completed")
        data = next(event["data"] for event in events if event["type"] == "tool.parked")
        return talk, data["sign_in_url"]


@pytest_asyncio.fixture
async def office(database_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true"}
    server = Server(tmp_path / "data", database_url=database_url, environment=environment)
    async with server, oauth_server() as crm:
        token = await with_login(server)
        async with person(server, token) as ada:
            bob_user, bob_token = await add_member(ada, "bob")
            body = {"name": "crm", "url": crm.mcp, "auth_mode": "o_auth", "acts_as": "user"}
            provider = (await post(ada, "/v1/mcp-servers", body))["id"]
            async with person(server, bob_token) as bob:
                yield Office(server, crm, ada, bob, bob_user["id"], provider)


async def own_link(http: httpx.AsyncClient, provider: str) -> str:
    answer = await http.post(f"/v1/user/connections/{provider}/sign-in")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["url"])


async def listed(http: httpx.AsyncClient) -> list[Json]:
    found: list[Json] = (await http.get("/v1/user/connections")).json()["data"]
    return found


async def result(talk: Talk) -> Json:
    events = await talk.logged_until("session.idled")
    return next(event["data"] for event in events if event["type"] == "tool.completed")


async def test_only_the_owner_signs_in_for_a_session(office: Office) -> None:
    talk, url = await office.parked(office.ada)
    async with Browser() as browser:
        page = await browser.open(url)
        assert (page.status_code, "sign_in_needs_token" in page.text) == (403, True)
        assert (await browser.click(url)).status_code == 403, "whoever reads the log has this URL"

        office.crm.person = "bob"  # Bob signs in: for himself, and Ada's call still waits
        assert (await browser.sign_in(await own_link(office.bob, office.provider))).status_code == 200
        assert [each["status"] for each in await listed(office.bob)] == ["connected"]
        assert [each["status"] for each in await listed(office.ada)] == ["pending"]
        assert (await talk.read())["status"] == "waiting_for_tool_results"

        office.crm.person = "ada"
        link = await own_link(office.ada, office.provider)
        page = await browser.open(link)
        name = (await office.ada.get("/v1/users/me")).json()["name"]
        assert name in page.text, "it says for whom it is: Ada's link is of no use to phish Bob"
        assert (await browser.sign_in(link)).status_code == 200
    done = await result(talk)
    assert "ada found it" in done["result"][0]["text"]
    assert done["acted_as"]["user_id"] == (await office.ada.get("/v1/users/me")).json()["id"]
    of_bob = await new_call(office)
    assert "bob found it" in (await result(of_bob))["result"][0]["text"]
    assert office.crm.faults == []


async def new_call(office: Office) -> Talk:
    talk = await new_talk(office.bob, harness_name="base", capabilities=[{"ref": f"mcp:{office.provider}"}])
    await talk.say(FINDS)
    return talk


async def test_a_link_that_is_passed_on_without_its_page_is_of_no_use(office: Office) -> None:
    """Bob begins a sign-in for himself, and sends Ada the address of the authorization server."""
    async with Browser() as of_bob, Browser() as of_ada:
        link = await own_link(office.bob, office.provider)
        began = await of_bob.http.post(link, headers={"sec-fetch-site": "same-origin"})
        finished = await of_ada.open(began.headers["location"])
        assert (finished.status_code, "another browser" in finished.text) == (403, True)
    assert await listed(office.bob) == []
    assert office.crm.grants == []


async def test_members_do_not_sign_in_for_the_organization(office: Office) -> None:
    org = (await office.ada.get("/v1/orgs")).json()["data"][0]["id"]
    path = f"/v1/orgs/{org}/organization-connections"
    assert (await office.bob.get(path)).json()["code"] == "role_required"
    for method, rest in (("POST", f"/{office.provider}/sign-in"), ("DELETE", f"/{office.provider}")):
        refused = await office.bob.request(method, f"{path}{rest}")
        assert (refused.status_code, refused.json()["code"]) == (403, "role_required")
    assert (await office.ada.get(path)).status_code == 200
    other = (await post(office.ada, "/v1/orgs", {"name": "Elsewhere"}))["id"]
    assert (await office.bob.get(f"/v1/orgs/{other}/organization-connections")).status_code == 404
    elsewhere = {"x-org-id": other}
    foreign = await office.ada.post(
        f"/v1/orgs/{other}/organization-connections/{office.provider}/sign-in", headers=elsewhere
    )
    assert (foreign.status_code, foreign.json()["code"]) == (404, "mcp_server_not_found")


async def test_a_member_who_leaves_leaves_no_tokens(office: Office) -> None:
    async with Browser() as browser:
        assert (await browser.sign_in(await own_link(office.bob, office.provider))).status_code == 200
        late = await own_link(office.bob, office.provider)
        assert (await office.ada.delete(f"/v1/users/{office.bob_id}")).status_code < 300
        assert (await browser.open(late)).status_code == 410


@pytest.mark.parametrize("path", ["/v1/oauth/callback", "/v1/oauth/start/x", "/.well-known/oauth-client"])
async def test_pages_need_no_login_and_tell_nothing(path: str, office: Office) -> None:
    async with httpx.AsyncClient(base_url=office.server.url) as http:
        answer = await http.get(path)
    assert answer.status_code in (404, 410)
    assert office.provider not in answer.text
