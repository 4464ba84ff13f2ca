"""Attacks on MCP servers in use: clocks that differ, sign-ins that end, credentials in what people read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from tests.browser import Browser
from tests.journeys.keyed import person, with_login
from tests.journeys.signing_in import FIND, Place, completed, nowhere
from tests.journeys.whole_api import ENDLESS, operations_in
from tests.mcp_stub import Call, McpStub, text, tool
from tests.oauth_server import OAuthServer, Tokens, oauth_server
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, new_talk, script

pytestmark = pytest.mark.asyncio(loop_scope="session")

SKEW = 600


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def perdure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true", "PERDURE_LOG_LEVEL": "debug"}
    async with Server(tmp_path_factory.mktemp("in-use"), environment=environment) as server:
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


async def again(talk: Talk, call_id: str, until: str = "session.idled") -> list[Json]:
    """Call the tool in another turn; its events, up to one of this kind."""
    events = await talk.events()
    await talk.say(script({"tool_calls": [call(FIND, _id=call_id)]}, {"text": "Done."}))
    return await talk.logged_until(until, after=events[-1]["sequence"] if events else 0)


@pytest.mark.parametrize("ahead", [-SKEW, SKEW])
async def test_an_authorization_server_whose_clock_is_ten_minutes_off_signs_in_and_renews(
    place: Place, ahead: int
) -> None:
    """Its secrets live five minutes: for us they have ended at once, or last ten minutes too long."""
    place.crm.lies.secret = "client_secret_basic"
    place.crm.lies.secret_until = round(time.time()) + ahead + 300
    provider = await place.register()
    talk = await place.talk(provider)
    parked = await place.find(talk)
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    assert completed(await talk.logged_until("session.idled"))["success"]
    place.crm.grants[0].until = 0.0
    assert completed(await again(talk, "c2"), "c2")["success"]
    assert (place.crm.refreshed, len(place.crm.clients), place.crm.faults) == (1, 1, [])


async def test_a_client_secret_that_ended_before_our_clock_says_so_is_replaced(place: Place) -> None:
    place.crm.lies.secret = "client_secret_post"
    place.crm.lies.secret_until = round(time.time()) + SKEW + 300
    provider = await place.register()
    talk = await place.talk(provider)
    parked = await place.find(talk)
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    assert completed(await talk.logged_until("session.idled"))["success"]
    place.crm.clients.clear()
    place.crm.grants[0].until = 0.0
    events = await again(talk, "c2", "act.completed")
    parked = next(each["data"] for each in events if each["type"] == "tool.parked")
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    events = await talk.logged_until("session.idled", after=events[-1]["sequence"])
    assert completed(events, "c2")["success"]
    assert place.crm.faults == ["a wrong client secret"], "that of the client that is gone, once"


@pytest.mark.parametrize("who", ["user", "server"])
async def test_a_sign_in_that_ends_while_a_call_runs_does_not_spoil_the_call(place: Place, who: str) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: OAuthServer, key: Any, params: Json, holder: Tokens) -> web.Response:
        token = holder.access
        running.set()
        await go_on.wait()
        result = {"content": [{"type": "text", "text": f"found with {token}"}]}
        return web.json_response({"jsonrpc": "2.0", "id": key, "result": result})

    provider = await place.register()
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    place.crm.tool = slow
    talk = await place.talk(provider)
    turn = asyncio.create_task(again(talk, "c1"))
    await asyncio.wait_for(running.wait(), 20)
    if who == "user":
        assert (await place.http.delete(f"/v1/user/connections/{provider}")).status_code == 204
    place.crm.grants[0].revoked = True
    go_on.set()
    done = completed(await turn)
    assert done["success"], done
    assert "found with [secret" in done["result"][0]["text"], "the token of a removed sign-in is blanked too"
    place.crm.tool = None
    assert "tool.parked" in kinds_of(await again(talk, "c2", "act.completed"))
    assert len(place.crm.calls) == 1, "the next call waits for a new sign-in"
    await nowhere(place, await talk.events())
    assert await talk.cancel() == "cancelled"


SECRETS = ("k3y-of-the-registered", "h3ader-of-the-registered", "s3cret-of-the-session")


async def test_nothing_that_can_be_read_of_a_session_has_credentials_of_its_servers(place: Place) -> None:
    """The server repeats what it got wherever it can; then every GET, a fork and an export are searched."""
    key, header, secret = SECRETS
    got: dict[str, str] = {}

    async def repeats(made: Call) -> Json:
        got.update(made.headers)
        said = " ".join(value for name, value in made.headers.items() if name in ("Authorization", "X-Own"))
        return text(said, structuredContent={said: [said]})

    said, own = f"I know {key} and {header}", f"I know {secret}"
    async with (
        McpStub([tool("buy", said, {"properties": {"a": {"description": said}}})], answer=repeats) as stub,
        McpStub([tool("sell", own)], answer=repeats, instructions=own) as other,
    ):
        body = {"name": "Reg", "url": stub.url, "api_key": key, "headers": {"X-Own": header}}
        server = await post(place.http, "/v1/mcp-servers", body)
        talk = await new_talk(
            place.http,
            capabilities=[{"ref": f"mcp:{server['id']}"}],
            mcpServers={"Own": {"url": other.url, "headers": {"X-Own": "a {{secret:TOKEN}}"}}},
        )
        await place.http.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": secret}})
        calls = [call("mcp_reg__buy", _id="c1"), call("mcp_own__sell", _id="c2")]
        await talk.say(script({"tool_calls": calls}, {"text": "Done."}))
        events = await talk.logged_until("session.idled")
        assert [completed(events, each)["success"] for each in ("c1", "c2")] == [True, True]
        fork = await post(place.http, talk.path("/fork"), {})
        document = (await place.http.get("/api-doc/openapi.json")).json()
        read, told = 0, []
        for session in (talk.id, fork["id"]):
            for each in operations_in(document):
                if each.method != "GET" or each.id in ENDLESS or each.public:
                    continue
                path = each.path.replace("{session_id}", session).replace("{server_id}", server["id"])
                path = path.replace("{server_name}", "Own")
                if "{" in path:
                    continue
                answer = await place.http.get(path)
                read += answer.status_code == 200
                told += [f"{each.id} {mark}" for mark in SECRETS if mark in answer.text]
        check = await place.http.post(f"/v1/mcp-servers/{server['id']}/check-connection")
        told += [f"check {mark}" for mark in SECRETS if mark in check.text]
        assert read > 40
        assert told == []
        assert got["X-Own"] in (header, f"a {secret}")


async def test_no_configuration_reaches_a_server_of_another_organization(perdure: Server) -> None:
    token = await with_login(perdure)
    async with McpStub([tool("buy")]) as stub, person(perdure, token) as mine:
        mine.headers["x-org-id"] = (await mine.get("/v1/orgs")).json()["data"][0]["id"]
        other_org = await post(mine, "/v1/orgs", {"name": "Another"})
        server = await post(mine, "/v1/mcp-servers", {"name": "Shop", "url": stub.url, "api_key": SECRETS[0]})
        ref = [{"ref": f"mcp:{server['id']}"}]
        harness = await post(mine, "/v1/harnesses", {"name": "with-shop", "capabilities": ref})
        agent = await post(mine, "/v1/agents", {"name": "buyer", "system_prompt": "x", "capabilities": ref})
        exported = (await mine.get(f"/v1/agents/{agent['id']}/export")).text
        mine.headers["x-org-id"] = other_org["id"]
        tries: list[tuple[str, str, Json | str]] = [
            ("POST", "/v1/sessions", {"capabilities": ref}),
            ("POST", "/v1/sessions", {"harness_id": harness["id"]}),
            ("POST", "/v1/sessions", {"harness_name": "with-shop"}),
            ("POST", "/v1/sessions", {"agent_id": agent["id"]}),
            ("POST", "/v1/harnesses", {"name": "mine", "capabilities": ref}),
            ("POST", "/v1/harnesses", {"name": "mine", "parent_harness_id": harness["id"]}),
            ("POST", "/v1/agents", {"name": "mine", "system_prompt": "x", "capabilities": ref}),
            (
                "POST",
                "/v1/agents",
                {"name": "mine", "system_prompt": "x", "harness_id": harness["id"]},
            ),
            ("POST", "/v1/agents/import", exported),
            ("POST", f"/v1/mcp-servers/{server['id']}/check-connection", {}),
            ("GET", f"/v1/mcp-servers/{server['id']}/tools", {}),
        ]
        told = []
        for method, path, given in tries:
            content = {"json": given} if isinstance(given, dict) else {
                "content": given, "headers": {"content-type": "text/markdown"}
            }  # fmt: skip
            answer = await mine.request(method, path, **content)  # type: ignore[arg-type]
            if answer.status_code not in (400, 404) or SECRETS[0] in answer.text:
                told.append(f"{method} {path} {given}: {answer.status_code} {answer.text[:200]}")
        assert told == []
        assert stub.lists == 0
