"""Without a login.

Nothing crosses from one organization to another, and only this machine is answered (promise P8).
"""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from perdure.domain.ids import new_id
from tests.journeys.world import ROUTES, World, complaint, head, raw_exchange, strictly, watched
from tests.server import Server, post, use_simulated_model

# The same user works in both organizations, so accounts, memberships and tokens are shared.
PERSONAL = {"org", "user", "token"}
# Processes belong to nobody: see test_workers.py.
OWNED = [route for route in ROUTES if route.ids and not (PERSONAL | {"worker"}) & set(route.ids.values())]


@pytest.fixture
async def other(any_server: Server, http: httpx.AsyncClient) -> Any:
    """A client in another organization of the same server, with a model of its own."""
    organization = await post(http, "/v1/orgs", {"name": "Other"})
    async with httpx.AsyncClient(
        base_url=any_server.url, timeout=30, headers={"x-org-id": organization["id"]}
    ) as client:
        await use_simulated_model(client)
        yield client


@pytest.fixture
async def mine(any_server: Server, http: httpx.AsyncClient) -> Any:
    """The first organization, with one of everything."""
    organization = (await http.get("/v1/orgs")).json()["data"][0]
    http.headers["x-org-id"] = organization["id"]
    async for world in watched(any_server, http):
        yield world


def without_names(answer: httpx.Response, path: str) -> Any:
    """Return the answer without the parts that repeat the request."""
    return re.sub(r"_[0-9a-f]{32}", "_", answer.text.replace(path, ""))


async def test_what_is_somebody_elses_is_as_if_it_had_never_been(
    mine: World, other: httpx.AsyncClient
) -> None:
    before, told = await mine.state(), []
    for route in OWNED:
        answers = []
        for ids in (mine.ids, {}):
            path = re.sub(
                r"{(\w+)}", lambda match, ids=ids, route=route: _id(route, match[1], ids), route.path
            )  # type: ignore[misc]
            request = {"json": route.body_example} if route.body is not None else {}
            answers.append((await other.request(route.method, path, **request), path))
        (theirs, path), (nobodys, missing) = answers
        if (theirs.status_code, complaint(theirs)) != (404, None):
            told.append(f"{route.method} {route.path}: {theirs.status_code} {theirs.text[:100]}")
        # An upsert creates what does not exist.
        elif route.operation_id != "upsert_agent" and without_names(theirs, path) != without_names(
            nobodys, missing
        ):
            told.append(f"{route.method} {route.path}: {theirs.text[:200]} / {nobodys.text[:200]}")
    assert told == []
    assert await mine.state() == before


def _id(route: Any, name: str, known: dict[str, str]) -> str:
    kind = route.ids.get(name)
    return known.get(kind) or (new_id(kind) if kind else "nothing")


async def test_names_are_looked_up_in_the_own_organization_only(
    mine: World, other: httpx.AsyncClient
) -> None:
    for kind, path in (("agent", "/v1/agents"), ("harness", "/v1/harnesses")):
        name = (await mine.http.get(f"{path}/{mine.ids[kind]}")).json()["name"]
        assert (await mine.http.get(f"{path}/{name}")).status_code == 200
        assert (await other.get(f"{path}/{name}")).status_code == 404


async def test_lists_show_what_is_ones_own(mine: World, other: httpx.AsyncClient) -> None:
    for path in ("/v1/sessions", "/v1/agents", "/v1/harnesses", "/v1/providers", "/v1/models"):
        ours = {each["id"] for each in (await mine.http.get(path)).json()["data"]}
        theirs = {each["id"] for each in (await other.get(path)).json()["data"]}
        assert ours, path
        assert ours & theirs == set(), path


@pytest.mark.parametrize("field", ["agent_id", "harness_id", "model_id"])
async def test_no_session_stands_on_what_is_somebody_elses(
    mine: World, other: httpx.AsyncClient, field: str
) -> None:
    answer = await other.post("/v1/sessions", json={field: mine.ids[field.removesuffix("_id")]})
    assert (answer.status_code, complaint(answer)) == (404, None)


async def test_no_field_of_a_body_reaches_into_another_organization(
    mine: World, other: httpx.AsyncClient
) -> None:
    session = await post(other, "/v1/sessions", {})
    agent = await post(other, "/v1/agents", {"name": "theirs", "system_prompt": "x"})
    text = {"content": [{"type": "text", "text": "x"}]}
    tries = [
        ("PATCH", f"/v1/sessions/{session['id']}", {"model_id": mine.ids["model"]}),
        (
            "POST",
            f"/v1/sessions/{session['id']}/messages",
            {"message": text, "controls": {"model_id": mine.ids["model"]}},
        ),
        ("PATCH", f"/v1/agents/{agent['id']}", {"default_model_id": mine.ids["model"]}),
        ("PATCH", f"/v1/agents/{agent['id']}", {"harness_id": mine.ids["harness"]}),
        ("POST", "/v1/agents", {"name": "new", "system_prompt": "x", "harness_id": mine.ids["harness"]}),
        ("POST", "/v1/harnesses", {"name": "new", "parent_harness_id": mine.ids["harness"]}),
        ("POST", "/v1/harnesses", {"name": "new", "default_model_id": mine.ids["model"]}),
        ("POST", f"/v1/providers/{mine.ids['provider']}/models", {"model_id": "x", "display_name": "x"}),
    ]
    for method, path, body in tries:
        answer = await other.request(method, path, json=body)
        assert (answer.status_code, complaint(answer)) == (404, None), (method, path, body, answer.text)
    assert (await other.get(f"/v1/sessions/{session['id']}/messages")).json()["data"] == []


async def test_an_id_of_somebody_elses_agent_cannot_be_taken_over(
    mine: World, other: httpx.AsyncClient
) -> None:
    agent = f"/v1/agents/{mine.ids['agent']}"
    before = (await mine.http.get(agent)).json()
    for method, path, body in (
        ("PUT", agent, {"name": "stolen", "system_prompt": "x"}),
        ("POST", "/v1/agents", {"id": mine.ids["agent"], "name": "stolen", "system_prompt": "x"}),
    ):
        assert (await other.request(method, path, json=body)).status_code == 404
    assert (await mine.http.get(agent)).json() == before


async def test_an_organization_that_one_does_not_belong_to_is_refused(
    any_server: Server, http: httpx.AsyncClient
) -> None:
    for organization, status in ((new_id("org"), 401), ("org_", 400), ("ORG_" + "0" * 32, 400), ("", 400)):
        answer = await http.get("/v1/sessions", headers={"x-org-id": organization})
        assert (answer.status_code, complaint(answer)) == (status, None), organization


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.2:9000", "[::1]", "[::1]:9000"]
)
async def test_this_machine_is_answered_by_any_of_its_names(sqlite_server: Server, host: str) -> None:
    answer = httpx.get(f"{sqlite_server.url}/v1/sessions?limit=1", headers={"host": host})
    assert answer.status_code == 200
    strictly(answer.content)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "10.0.0.1",
        "[fe80::1]",
        "::1",
        "evil@localhost",
        "",
    ],
)
async def test_a_web_page_under_a_name_of_its_own_is_not(sqlite_server: Server, host: str) -> None:
    answer = httpx.post(f"{sqlite_server.url}/v1/sessions", headers={"host": host}, json={})
    assert (answer.status_code, complaint(answer)) == (403, None)


async def test_a_request_without_a_host_is_not_answered(sqlite_server: Server) -> None:
    data = (
        head("GET", "/v1/sessions", {}).replace(b"host: localhost\r\n", b"").replace(b"HTTP/1.1", b"HTTP/1.0")
    )
    assert (await raw_exchange(sqlite_server, data))[0] == 403
