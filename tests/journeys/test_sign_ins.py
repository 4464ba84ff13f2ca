"""Calls of MCP servers that wait for a sign-in, and go on after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.browser import Browser
from tests.command import perdure as perdure_command
from tests.journeys.signing_in import FIND, Place, completed, nowhere
from tests.mcp_client import use_tool
from tests.oauth_server import oauth_server
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, script

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def perdure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true", "PERDURE_LOG_LEVEL": "debug"}
    data = tmp_path_factory.mktemp("sign-ins")
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


async def test_a_call_waits_for_a_sign_in_and_goes_on_after_it(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    parked = await place.find(talk)
    session = await talk.read()
    assert session["status"] == "waiting_for_tool_results"
    assert [(each["kind"], each["tool_call_id"]) for each in session["parked_on"]] == [("sign_in", "c1")]
    assert parked["kind"] == "sign_in"
    assert parked["sign_in_url"].startswith(f"{place.server.url}/v1/oauth/start/input_")
    assert 6.9 * 86_400_000 < parked["timeout_ms"] <= 7 * 86_400_000
    (pending,) = await place.connections()
    assert (pending["status"], pending["provider"], pending["session_ids"]) == (
        "pending",
        provider,
        [talk.id],
    )
    assert pending["sign_in_url"] == parked["sign_in_url"]
    (asked,) = (await place.http.get(talk.path("/input-requests"))).json()["data"]
    assert (asked["mode"], asked["server"], asked["tool_call_id"]) == ("sign_in", "crm", "c1")

    page = await place.browser.sign_in(parked["sign_in_url"])
    assert (page.status_code, "Signed in at crm" in page.text) == (200, True)
    assert page.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    events = await talk.logged_until("session.idled")
    kinds = [kind for kind in kinds_of(events) if kind.startswith("tool.")]
    assert kinds == ["tool.started", "tool.parked", "tool.resumed", "tool.started", "tool.completed"]
    keys = {event["data"]["effect_key"] for event in events if event["type"] == "tool.started"}
    assert len(keys) == 1
    done = completed(events)
    assert done["success"] is True
    assert "ada found it with [secret" in done["result"][0]["text"], "a token that comes back is redacted"
    assert done["acted_as"]["kind"] == "user"
    assert done["acted_as"]["user_id"] == session["owner_id"] if "owner_id" in session else True
    assert place.crm.faults == []
    (connected,) = await place.connections()
    assert (connected["status"], connected["scopes"]) == ("connected", ["crm:read", "offline_access"])
    assert "parked_on" not in await talk.read()
    await nowhere(place, events)


async def test_a_stored_sign_in_is_used_at_once_and_every_other_call_waits_no_more(place: Place) -> None:
    provider = await place.register()
    first, second = await place.talk(provider), await place.talk(provider)
    one, two = await place.find(first, call(FIND, _id="c2", who="Bo")), await place.find(second)
    (pending,) = await place.connections()
    assert set(pending["session_ids"]) == {first.id, second.id}
    assert one["sign_in_url"] != two["sign_in_url"]
    assert (await place.browser.sign_in(two["sign_in_url"])).status_code == 200
    events = await first.logged_until("session.idled")
    assert [completed(events, each)["success"] for each in ("c1", "c2")] == [True, True]
    assert completed(await second.logged_until("session.idled"))["success"]
    third = await place.talk(provider)
    await third.say(script({"tool_calls": [call(FIND, _id="c1", who="Cy")]}, {"text": "Done."}))
    events = await third.logged_until("session.idled")
    assert "tool.parked" not in kinds_of(events)
    assert (len(place.crm.grants), place.crm.faults) == (1, [])


async def test_an_answer_is_taken_once_from_the_browser_that_began(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    await place.find(talk)
    url = await place.link(provider)
    page = await place.browser.open(url)
    assert "<b>127.0.0.1:" in page.text
    assert "(" in page.text.split("stored for", 1)[1], "it says for whom"
    bare = await place.browser.http.post(
        url, headers={"sec-fetch-site": "cross-site", "origin": "https://evil"}
    )
    assert (bare.status_code, "location" in bare.headers) == (403, False), (
        "only the page's own form begins it"
    )
    began = await place.browser.http.post(url, headers={"sec-fetch-site": "same-origin"})
    assert began.status_code == 303
    async with Browser() as other:
        back = (await other.http.get(began.headers["location"])).headers["location"]
        stolen = await other.http.get(back)
        assert (stolen.status_code, "another browser" in stolen.text) == (403, True)
    assert place.crm.grants == [], "the code was not even exchanged"
    right = await place.browser.open(back)
    assert right.status_code == 200
    again = await place.browser.open(back)
    assert (again.status_code, "is over" in again.text) == (410, True)
    for bad in (
        f"{place.server.url}/v1/oauth/callback",
        f"{place.server.url}/v1/oauth/callback?state=x&code=y",
    ):
        assert (await place.browser.open(bad)).status_code == 410
    assert (await place.browser.open(f"{url}x")).status_code == 410
    events = await talk.logged_until("session.idled")
    assert completed(events)["success"]
    await nowhere(place, events)
    assert url.rsplit("/", 1)[1] not in place.server.log.read_text()


LIES: tuple[tuple[str, Any], ...] = (
    ("iss", None),
    ("iss", "https://evil.example.com"),
    ("announces_iss", False),
)


@pytest.mark.parametrize(("name", "value"), LIES)
async def test_an_answer_of_another_issuer_is_dropped_and_the_call_still_waits(
    name: str, value: Any, place: Place
) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    parked = await place.find(talk)
    setattr(place.crm.lies, name, value)
    page = await place.browser.sign_in(parked["sign_in_url"])
    if name == "announces_iss":
        assert page.status_code == 200
        return
    assert (page.status_code, "sign_in_failed" in page.text) == (409, True)
    assert (place.crm.grants, "/token" in place.crm.asked) == ([], False)
    assert (await talk.read())["status"] == "waiting_for_tool_results"
    place.crm.lies.iss = ""
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    assert completed(await talk.logged_until("session.idled"))["success"]


async def test_a_refusal_at_the_authorization_server_shows_nothing_that_it_says(place: Place) -> None:
    provider = await place.register()
    began = await place.browser.http.post(
        await place.link(provider), headers={"sec-fetch-site": "same-origin"}
    )
    state = dict(httpx.URL(began.headers["location"]).params)["state"]
    answer = {
        "state": state,
        "iss": place.crm.issuer,
        "error": "<script>alert(2)</script>",
        "error_description": "<script>alert(1)</script>",
    }
    page = await place.browser.open(str(httpx.URL(f"{place.server.url}/v1/oauth/callback", params=answer)))
    assert page.status_code == 409
    assert "<script>" not in page.text
    assert "&#x27;unknown&#x27;" in page.text


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("resource", "https://evil.example.com/mcp", "not about"),
        ("issuer", "https://evil.example.com", "names the issuer"),
        ("methods", None, "PKCE"),
        ("registration", False, "register itself"),
        ("endpoints", {"token_endpoint": "http://169.254.169.254/"}, "cannot be used"),
    ],
)
async def test_metadata_that_lies_is_refused_with_the_reason(
    name: str, value: Any, why: str, place: Place
) -> None:
    provider = await place.register()
    setattr(place.crm.lies, name, value)
    answer = await place.http.post(f"/v1/user/connections/{provider}/sign-in")
    assert (answer.status_code, answer.json()["code"]) == (409, "sign_in_failed")
    assert why in answer.json()["detail"]
    assert (place.crm.clients, place.crm.codes) == ({}, {})


async def test_tokens_are_renewed_before_they_end_and_by_one_call_only(place: Place) -> None:
    provider = await place.register()
    place.crm.lies.claimed = 0  # every call renews it
    talks = [await place.talk(provider) for _ in range(4)]
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    for talk in talks:
        await talk.say(
            script({"tool_calls": [call(FIND, _id="c1"), call(FIND, _id="c2")]}, {"text": "Done."})
        )
    for talk in talks:
        events = await talk.logged_until("session.idled")
        assert [completed(events, each)["success"] for each in ("c1", "c2")] == [True, True]
    assert place.crm.refreshed >= 1
    assert (len(place.crm.grants), place.crm.faults) == (1, []), "no old refresh token was used"
    await nowhere(place, events)


async def test_a_token_that_the_server_refuses_too_early_is_renewed_in_the_middle_of_the_turn(
    place: Place,
) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    place.crm.grants[0].until = 0.0  # its clock is ahead, or it has ended the token
    await talk.say(script({"tool_calls": [call(FIND, _id="c1")]}, {"text": "Done."}))
    events = await talk.logged_until("session.idled")
    assert (completed(events)["success"], place.crm.refreshed, place.crm.faults) == (True, 1, [])
    assert "tool.parked" not in kinds_of(events)


async def test_a_revoked_sign_in_waits_for_a_new_one(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    place.crm.grants[0].revoked = True
    parked = await place.find(talk)
    assert [each["status"] for each in await place.connections()] == ["pending"]
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    assert completed(await talk.logged_until("session.idled"))["success"]


async def test_a_call_that_needs_more_scopes_asks_for_them_and_keeps_the_others(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    place.crm.wants = "crm:write"
    parked = await place.find(talk)
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    assert completed(await talk.logged_until("session.idled"))["success"]
    assert set(place.crm.grants[1].scope.split()) == {"crm:read", "crm:write", "offline_access"}


async def test_a_server_that_is_never_satisfied_fails_the_call(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    place.crm.wants = "crm:read crm:never"
    place.crm.wants = "crm:never"
    parked = await place.find(talk)
    place.crm.wants = "crm:nothing"  # what was granted was not what it wants
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    await talk.logged_until("tool.parked", after=parked_at(await talk.events()))
    second = [event["data"] for event in await talk.events() if event["type"] == "tool.parked"][-1]
    place.crm.lies.scopes = ()
    assert (await place.browser.sign_in(second["sign_in_url"])).status_code == 200
    assert completed(await talk.logged_until("session.idled"))["success"]


def parked_at(events: list[Json]) -> int:
    return int(next(event["sequence"] for event in events if event["type"] == "tool.parked"))


async def test_a_message_a_cancel_and_a_refusal_end_the_wait_and_the_page(place: Place) -> None:
    provider = await place.register()
    steered = await place.talk(provider)
    gone = [await place.find(steered)]
    await steered.turn({"text": "Fine."}, ask="Never mind.")
    done = completed(await steered.events())
    assert (done["status"], "outcome_unknown" in done) == ("cancelled", False)

    cancelled = await place.talk(provider)
    gone.append(await place.find(cancelled))
    assert await cancelled.cancel() == "cancelled"

    deleted = await place.talk(provider)
    gone.append(await place.find(deleted))
    assert (await place.http.delete(deleted.path())).status_code == 204

    refused = await place.talk(provider)
    gone.append(await place.find(refused))
    (asked,) = (await place.http.get(refused.path("/input-requests"))).json()["data"]
    path = refused.path(f"/input-requests/{asked['id']}")
    accepted = await place.http.post(path, json={"action": "accept"})
    assert (accepted.status_code, accepted.json()["code"]) == (409, "sign_in_required")
    assert (await place.http.post(path, json={"action": "decline"})).status_code == 200
    assert (await place.http.post(path, json={"action": "decline"})).status_code == 410
    done = completed(await refused.logged_until("session.idled"))
    assert (done["status"], "declined" in done["error"]) == ("rejected", True)

    assert await place.connections() == []
    for parked in gone:
        assert (await place.browser.open(parked["sign_in_url"])).status_code == 410
    assert place.crm.calls == []


async def test_a_fork_does_not_wait_and_the_original_goes_on(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    parked = await place.find(talk)
    fork = Talk(place.http, (await post(place.http, talk.path("/fork"), {}))["id"])
    assert ("parked_on" in await fork.read(), (await fork.read())["status"]) == (False, "idle")
    before = len(await fork.events())
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    assert completed(await talk.logged_until("session.idled"))["success"]
    assert len(await fork.events()) == before


async def test_a_removed_connection_is_revoked_and_the_next_call_waits(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    (listed,) = (await place.http.get("/v1/user/connections/providers")).json()["data"]
    assert (listed["provider"], listed["connected"], listed["acts_as"]) == (provider, True, "user")
    assert (await place.http.delete(f"/v1/user/connections/{provider}")).status_code == 204
    missing = await place.http.delete(f"/v1/user/connections/{provider}")
    assert (missing.status_code, missing.json()["code"]) == (404, "connection_not_found")
    assert place.crm.grants[0].revoked
    assert (await place.find(talk))["kind"] == "sign_in"
    assert await talk.cancel() == "cancelled"


async def test_a_changed_url_never_gets_the_token(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    assert (await place.browser.sign_in(await place.link(provider))).status_code == 200
    async with oauth_server() as other:
        answer = await place.http.patch(f"/v1/mcp-servers/{provider}", json={"url": other.mcp})
        assert answer.status_code == 200
        assert (await place.find(talk))["kind"] == "sign_in"
        assert other.faults == []
        assert await talk.cancel() == "cancelled"


async def test_an_mcp_client_is_told_at_once_where_its_user_signs_in(place: Place) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    text = script({"tool_calls": [call(FIND, _id="c1", who="Ada")]}, {"text": "Done."})
    began = asyncio.get_running_loop().time()
    waits = await use_tool(place.http, "send_message", session_id=talk.id, message=text, wait_seconds=60)
    assert asyncio.get_running_loop().time() - began < 20, "it does not wait until its time is over"
    assert waits["status"] == "waiting_for_tool_results"
    (asked,) = waits["input_requests"]
    assert (asked["mode"], asked["server"], asked["tool_call_id"]) == ("sign_in", "crm", "c1")
    assert "perdure mcp sign-in crm" in asked["what_to_do"]
    assert asked["url"].startswith(f"{place.server.url}/v1/oauth/start/input_")
    assert (await place.browser.sign_in(asked["url"])).status_code == 200
    done = await use_tool(place.http, "read_answer", session_id=talk.id, wait_seconds=60)
    assert (done["status"], done["answer"], "input_requests" in done) == ("idle", "Done.", False)


async def test_the_organization_signs_in_for_all_its_members(place: Place) -> None:
    provider = await place.register("service")
    talk = await place.talk(provider)
    parked = await place.find(talk)
    org = (await place.http.get("/v1/orgs")).json()["data"][0]["id"]
    path = f"/v1/orgs/{org}/organization-connections"
    (pending,) = (await place.http.get(path)).json()["data"]
    assert (pending["acts_as"], pending["status"]) == ("service", "pending")
    assert await place.connections() == []
    url = (await place.http.post(f"{path}/{provider}/sign-in")).json()["url"]
    assert "the organization" in (await place.browser.open(url)).text
    assert (await place.browser.sign_in(url)).status_code == 200
    done = completed(await talk.logged_until("session.idled"))
    assert done["acted_as"] == {"kind": "service"}
    assert parked["input_requests"][0]["mode"] == "sign_in"
    assert (await place.http.delete(f"{path}/{provider}")).status_code == 204


async def test_nobodys_sign_in_and_no_question_in_chat_fail_the_call(place: Place) -> None:
    for acts_as, config, said in (
        ("none", {}, "acts_as"),
        ("user", {"connect_in_chat": "never"}, "perdure mcp sign-in"),
    ):
        provider = await place.register(acts_as)
        talk = await place.talk(provider, **config)
        await talk.say(script({"tool_calls": [call(FIND, _id="c1")]}, {"text": "Done."}))
        done = completed(await talk.logged_until("session.idled"))
        assert (done["success"], said in done["error"]) == (False, True)


async def test_a_server_that_lists_nothing_before_a_sign_in_offers_one(place: Place) -> None:
    provider = await place.register()
    place.crm.lies.lists_openly = False
    talk = await place.talk(provider)
    await talk.say(
        script(
            {"tool_calls": [call("mcp_crm__sign_in", _id="c1")]},
            {"tool_calls": [call(FIND, _id="c2", who="Ada")]},
            {"text": "Done."},
        )
    )
    events = await talk.logged_until("act.completed")
    parked = next(event["data"] for event in events if event["type"] == "tool.parked")
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    events = await talk.logged_until("session.idled")
    assert [completed(events, each)["success"] for each in ("c1", "c2")] == [True, True]
    assert place.crm.faults == []


async def test_a_kill_while_a_call_waits_and_one_between_storing_and_resuming_lose_nothing(
    place: Place,
) -> None:
    provider = await place.register()
    talk = await place.talk(provider)
    parked = await place.find(talk)
    await place.server.restart()

    async def die() -> None:
        await place.server.kill()

    place.crm.before_answer = die
    with pytest.raises(httpx.HTTPError):
        await place.browser.sign_in(parked["sign_in_url"])
    place.crm.before_answer = None
    await place.server.start()
    assert (await talk.read())["status"] == "waiting_for_tool_results"
    assert (await place.browser.sign_in(parked["sign_in_url"])).status_code == 200
    assert completed(await talk.logged_until("session.idled"))["success"]


async def test_the_command_waits_for_a_sign_in_and_lists_and_removes_it(place: Place) -> None:
    provider = await place.register()

    async def sign_in() -> None:
        async with asyncio.timeout(30):
            while not place.crm.clients:
                await asyncio.sleep(0.05)
        url = await place.link(provider)  # as the one that the command prints
        assert (await place.browser.sign_in(url)).status_code == 200

    browsing = asyncio.create_task(sign_in())
    done = await perdure_command("mcp", "sign-in", "crm", url=place.server.url)
    await browsing
    assert (done.status, "signed in at crm" in done.out) == (0, True), done.err
    assert "/v1/oauth/start/pdr_si_" in done.out
    listed = await perdure_command("connections", "list", url=place.server.url)
    assert (provider in listed.out, "connected" in listed.out) == (True, True)
    removed = await perdure_command("connections", "remove", "crm", url=place.server.url)
    assert removed.status == 0
    assert await place.connections() == []
    unknown = await perdure_command("mcp", "sign-in", "nowhere", url=place.server.url)
    assert (unknown.status, "'nowhere'" in unknown.err) == (1, True)
