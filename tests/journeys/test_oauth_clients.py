"""Clients that somebody registered at an authorization server which registers none itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.browser import Browser
from tests.command import perdure as perdure_command
from tests.journeys.signing_in import FIND, Place, completed, nowhere
from tests.oauth_server import oauth_server
from tests.postgres_server import PostgresServer
from tests.server import Server, use_simulated_model
from tests.talk import Json, call, kinds_of, script

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECRET = "cl1ent:s3cret%/+"


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def perdure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true", "PERDURE_LOG_LEVEL": "debug"}
    data = tmp_path_factory.mktemp("clients")
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
        crm.lies.registration = False
        yield Place(perdure, http, crm, browser)


def known(place: Place, client_id: str, secret: str | None = None, method: str = "") -> Json:
    """Register a client at the authorization server; return the fields of the MCP server."""
    place.crm.add_client(client_id, secret, method, f"{place.server.url}/v1/oauth/callback")
    return {"oauth_client_id": client_id} | ({} if secret is None else {"oauth_client_secret": secret})


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "none"])
async def test_a_client_that_somebody_registered_signs_in_and_renews(place: Place, method: str) -> None:
    place.crm.lies.auth_methods = (method,)
    fields = known(place, "our app/1", None if method == "none" else SECRET, method)
    provider = await place.register(**fields, oauth_scopes=["crm:read", "crm:more"])
    shown = (await place.http.get(f"/v1/mcp-servers/{provider}")).json()
    assert (shown["oauth_client_id"], shown["oauth_scopes"]) == ("our app/1", ["crm:read", "crm:more"])
    assert (shown["oauth_client_secret_set"], shown["oauth_issuer"]) == (method != "none", None)
    talk = await place.talk(provider)
    parked = await place.find(talk)
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    events = await talk.logged_until("session.idled")
    assert completed(events)["success"] is True
    place.crm.grants[0].until = 0
    talk = await place.talk(provider)
    await talk.say(script({"tool_calls": [call(FIND, _id="c1", who="Bo")]}, {"text": "Done."}))
    assert completed(await talk.logged_until("session.idled"))["success"] is True
    (connected,) = await place.connections()
    assert connected["scopes"] == ["crm:read", "crm:more", "offline_access"]
    assert "/register" not in place.crm.asked
    assert (place.crm.faults, place.crm.refreshed) == ([], 1)
    shown = (await place.http.get(f"/v1/mcp-servers/{provider}")).json()
    assert shown["oauth_issuer"] == place.crm.issuer
    assert SECRET not in str(shown)
    await nowhere(place, events)


async def test_a_new_secret_is_used_at_the_next_renewal(place: Place) -> None:
    provider = await place.register(**known(place, "app", SECRET, "client_secret_basic"))
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    place.crm.clients["app"]["client_secret"] = "an0ther"
    body = {"oauth_client_secret": "an0ther", "oauth_issuer": place.crm.issuer}
    changed = await place.http.patch(f"/v1/mcp-servers/{provider}", json=body)
    assert changed.status_code == 200, changed.text
    place.crm.grants[0].until = 0
    talk = await place.talk(provider)
    await talk.say(script({"tool_calls": [call(FIND, _id="c1", who="Ada")]}, {"text": "Done."}))
    events = await talk.logged_until("session.idled")
    assert completed(events)["success"] is True
    assert (place.crm.faults, place.crm.refreshed) == ([], 1)


async def test_the_secret_goes_to_no_other_issuer_than_the_first(place: Place) -> None:
    provider = await place.register(**known(place, "app", SECRET, "client_secret_basic"))
    path = f"/v1/mcp-servers/{provider}"
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    place.crm.lies.path = "/tenant"
    place.crm.asked.clear()
    refused = await place.http.post(f"/v1/user/connections/{provider}/sign-in")
    assert (refused.status_code, refused.json()["code"]) == (409, "sign_in_failed")
    assert "oauth_issuer" in refused.json()["detail"]
    assert not any("tenant" in each for each in place.crm.asked), "it is not even asked for its metadata"
    moved = await place.http.patch(path, json={"oauth_issuer": place.crm.issuer})
    assert (moved.status_code, moved.json()["code"]) == (400, "secret_would_move")
    away = await place.http.patch(path, json={"url": "http://localhost:1/mcp"})
    assert (away.status_code, away.json()["code"]) == (400, "secret_would_move")
    both = {"oauth_issuer": place.crm.issuer, "oauth_client_secret": SECRET}
    assert (await place.http.patch(path, json=both)).status_code == 200
    place.crm.faults.clear()
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    other = await place.http.patch(path, json={"oauth_client_id": "another"})
    assert other.json()["oauth_client_secret_set"] is False
    assert (other.json()["oauth_issuer"], await place.connections()) == (None, [])
    assert place.crm.faults == []


async def test_the_organizations_client_needs_no_person_where_that_is_offered(place: Place) -> None:
    place.crm.lies.grants = ("authorization_code", "client_credentials")
    place.crm.lies.refreshes = False
    fields = known(place, "robot", SECRET, "client_secret_basic")
    provider = await place.register("service", **fields, oauth_scopes=["crm:read"])
    for _ in range(2):
        talk = await place.talk(provider)
        await talk.say(script({"tool_calls": [call(FIND, _id="c1", who="Ada")]}, {"text": "Done."}))
        events = await talk.logged_until("session.idled")
        assert "tool.parked" not in kinds_of(events)
        done = completed(events)
        assert (done["success"], done["acted_as"]) == (True, {"kind": "service"})
        assert "nobody found it" in done["result"][0]["text"]
        place.crm.grants[0].revoked = True
    assert (len(place.crm.grants), place.crm.grants[0].scope, place.crm.faults) == (2, "crm:read", [])
    await nowhere(place, events)


async def test_the_organizations_client_waits_for_an_admin_where_it_is_not_offered(place: Place) -> None:
    provider = await place.register("service", **known(place, "robot", SECRET, "client_secret_basic"))
    talk = await place.talk(provider)
    assert (await place.find(talk))["kind"] == "sign_in"
    await talk.cancel()
    place.crm.lies.grants = ("client_credentials",)
    place.crm.clients["robot"]["client_secret"] = "changed"
    again = await place.talk(provider)
    assert (await place.find(again))["kind"] == "sign_in", "the client is refused"
    await again.cancel()


async def test_a_session_cannot_choose_to_act_as_the_organizations_client(place: Place) -> None:
    place.crm.lies.grants = ("client_credentials",)
    provider = await place.register("user", **known(place, "app", SECRET, "client_secret_basic"))
    talk = await place.talk(provider, acts_as="service")
    assert (await place.find(talk))["kind"] == "sign_in"
    assert place.crm.grants == []
    await talk.cancel()


async def test_a_server_of_2025_03_26_grants_access_itself(place: Place) -> None:
    place.crm.lies.old, place.crm.lies.header, place.crm.lies.registration = True, False, True
    provider = await place.register()
    talk = await place.talk(provider)
    parked = await place.find(talk)
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    assert completed(await talk.logged_until("session.idled"))["success"] is True
    assert place.crm.faults == []


async def test_the_command_registers_a_client(place: Place) -> None:
    done = await perdure_command(
        "mcp", "add", "vendor", place.crm.mcp, "--sign-in", "--acts-as", "user", "--oauth-client-id", "app",
        "--oauth-client-secret-env", "VENDOR_SECRET", "--oauth-issuer", place.crm.issuer, "--scope", "a",
        "--scope", "b", "--no-check", url=place.server.url, VENDOR_SECRET=SECRET,
    )  # fmt: skip
    assert done.status == 0, done
    (server,) = [
        each for each in (await place.http.get("/v1/mcp-servers")).json()["data"] if each["name"] == "vendor"
    ]
    assert (server["oauth_client_id"], server["oauth_scopes"]) == ("app", ["a", "b"])
    assert (server["oauth_client_secret_set"], server["oauth_issuer"]) == (True, place.crm.issuer)
    assert (server["auth_mode"], server["acts_as"]) == ("o_auth", "user")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"oauth_client_secret": "x"}, "oauth_client_secret"),
        ({"oauth_client_id": "a\nb"}, "oauth_client_id"),
        ({"oauth_client_id": "a", "oauth_client_secret": " "}, "oauth_client_secret"),
        ({"oauth_client_id": "a", "oauth_issuer": "javascript:x"}, "oauth_issuer"),
        ({"oauth_client_id": "a", "oauth_scopes": ["a b"]}, "oauth_scopes"),
    ],
)
async def test_a_client_that_cannot_be_used_is_refused_by_name(place: Place, body: Json, field: str) -> None:
    answer = await place.http.post("/v1/mcp-servers", json={"name": "x", "url": place.crm.mcp, **body})
    assert answer.status_code == 400
    assert field in answer.text
