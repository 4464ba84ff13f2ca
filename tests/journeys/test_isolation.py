"""With a login.

Every operation of the server's own document, without credentials, from another organization, by a mere
member.

What is checked is found in the document, so an operation that is added is checked from its first day.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.whole_api import ENDLESS, OF_THE_SERVER, Operation, Place, operations_in
from tests.journeys.world import complaint
from tests.server import Server, post
from tests.talk import Json, body_of

NEEDS_ADMIN = {
    "create_harness", "import_harness", "update_harness", "delete_harness", "copy_harness", "create_provider",
    "update_provider", "delete_provider", "sync_models", "check_provider", "check_provider_credentials",
    "create_model", "update_model", "delete_model",
    "update_organization", "update_limits", "complete_org_onboarding", "add_user", "create_user_token",
    "update_user", "remove_user", "list_invitations", "create_invitation", "withdraw_invitation",
    "create_mcp_server",
    "update_mcp_server", "delete_mcp_server", "destroy_mcp_server", "set_mcp_tool_label", "accept_mcp_tool",
    "accept_session_mcp_tool",
    "list_audit_logs",
    "list_organization_connections", "sign_in_organization", "delete_organization_connection",
    "create_webhook", "list_webhooks", "get_webhook", "update_webhook", "delete_webhook", "test_webhook",
    "list_webhook_deliveries",
    "create_budget", "update_budget", "delete_budget", "top_up_budget",
    "redact_memory_version",
    "update_retention", "preview_retention", "hold_session", "release_session",
    "list_workers", "drain_worker", "resume_worker", "get_turns_health", "get_metrics_timeseries",
    "list_circuit_breakers", "get_circuit_breaker", "close_circuit_breaker", "list_workflows", "get_workflow",
    "list_workflow_events", "cancel_workflow", "list_dead_letters", "retry_dead_letter",
}  # fmt: skip


PUBLIC = {
    "health": 200, "health_live": 200, "health_ready": 200, "openapi_document": 200,
    "docs": 200, "docs_errors": 200, "answer_callback": 410,
    "start_sign_in": 410, "begin_sign_in": 410, "finish_sign_in": 410, "read_oauth_client": 404,
    "show_link": 410, "decide_by_link": 410,
}  # fmt: skip
"""Operations without a login, with their status for somebody who knows no token."""

CHANGING = {
    "list_tokens", "export_user_data", "get_limits", "get_spend", "list_workers", "list_workflows",
    "get_turns_health", "get_metrics_timeseries", "list_audit_logs",
}  # fmt: skip
"""Operations whose answers change with every request, or with time."""

NEEDS_OWN_TOKEN = {"create_organization", "update_profile", "export_user_data"}
"""Operations beyond one organization, which a token that an admin created for a member cannot use."""


class Scene(NamedTuple):
    """One server, two unrelated organizations, and the operations."""

    server: Server
    mine: Place
    other: Place
    operations: list[Operation]

    async def state(self) -> dict[str, str]:
        """Return what the first organization sees of its own resources."""
        found = {}
        for each in self.operations:
            if each.method == "GET" and not each.public and each.id not in ENDLESS | CHANGING:
                text = (await each.send(self.mine.http, self.mine.of(each))).text
                # What became of attempts to send goes on changing.
                found[f"{each.id}"] = re.sub(r'"(last_\w+|request_id)":"[^"]*",?', "", text)
        return found


@pytest.fixture
async def scene(any_server: Server) -> AsyncIterator[Scene]:
    """Two users of two organizations, neither of whom is a member of another one."""
    token = await with_login(any_server)
    async with person(any_server, token) as http:
        first = (await http.get("/v1/orgs")).json()["data"][0]["id"]
        second = (await post(http, "/v1/orgs", {"name": "Second"}))["id"]
        async with person(any_server, token, second) as founder:
            _, others_token = await add_member(founder, "carol", "owner")
        async with person(any_server, token, first) as founder:
            _, my_token = await add_member(founder, "alice", "owner")
        async with (
            person(any_server, my_token, first) as mine,
            person(any_server, others_token, second) as other,
        ):
            places = Place(mine), Place(other)
            for place in places:
                await place.fill()
            document = (await http.get("/api-doc/openapi.json")).json()
            yield Scene(any_server, *places, list(operations_in(document)))
    assert "Traceback" not in Path(any_server.log).read_text()


async def test_without_good_credentials_nothing_but_the_public_operations_answers(scene: Scene) -> None:
    before, told = await scene.state(), []
    bad = [
        None,
        "",
        "Bearer",
        "Bearer pdr_pat_" + "A" * 43,
        "Basic b3duZXI6",
        "pdr_pat_",
        "Bearer " + "x" * 5000,
    ]
    async with httpx.AsyncClient(base_url=scene.server.url, timeout=30) as nobody:
        for each in scene.operations:
            for number, authorization in enumerate(bad if each.method == "GET" else bad[:4]):
                headers = {} if authorization is None else {"authorization": authorization}
                path = ("/api" if number % 2 else "") + each.at(scene.mine.of(each))
                body = {**each.body, "headers": {**each.body.get("headers", {}), **headers}}
                answer = await nobody.request(each.method, path, **body)
                if each.public and answer.status_code != PUBLIC[each.id]:
                    told.append(f"{each.id}: {answer.status_code}")
                elif not each.public and (
                    answer.status_code,
                    complaint(answer),
                    answer.headers.get("www-authenticate"),
                ) != (
                    401,
                    None,
                    "Bearer",
                ):
                    told.append(f"{each.id} with {authorization!r}: {answer.status_code} {answer.text[:80]}")
    assert told == []
    assert {each.id for each in scene.operations if each.public} == set(PUBLIC)
    assert await scene.state() == before


async def test_no_id_of_another_organization_is_known_anywhere_in_a_path(scene: Scene) -> None:
    before, told = await scene.state(), []
    for each in scene.operations:
        for name in each.names:
            if name in OF_THE_SERVER:
                continue
            # This id is the other organization's, the others are the caller's own: an own parent must not
            # give access to a foreign child.
            path_values = scene.other.of(each) | {name: scene.mine.of(each)[name]}
            if name == "path":
                continue
            answer = await each.send(scene.other.http, path_values)
            if (answer.status_code, complaint(answer)) != (404, None):
                told.append(f"{each.id} {name}: {answer.status_code} {answer.text[:120]}")
            elif scene.mine.marks & set(re.findall(r"[\w-]+", answer.text.replace(path_values[name], ""))):
                told.append(f"{each.id} {name} tells: {answer.text[:200]}")
    assert told == []
    assert await scene.state() == before


async def test_no_list_shows_anything_of_another_organization(scene: Scene) -> None:
    told, seen = [], set()
    for each in scene.operations:
        if each.method != "GET" or each.public or each.id in ENDLESS:
            continue
        answer = await each.send(scene.other.http, scene.other.of(each))
        told += [f"{each.id} shows {mark}" for mark in scene.mine.marks if mark in answer.text]
        seen |= {mark for mark in scene.other.marks if mark in answer.text}
    assert told == []
    # Checks the test itself: each of the organization's own resources appears in some answer.
    assert scene.other.marks - seen == set()


async def test_no_query_and_no_body_reaches_into_another_organization(scene: Scene) -> None:
    theirs, own, http = scene.mine.values, scene.other.values, scene.other.http
    session, agent = f"/v1/sessions/{own['session_id']}", f"/v1/agents/{own['agent_id']}"
    event = (await scene.mine.http.get(f"/v1/sessions/{theirs['session_id']}/events")).json()["data"][0]["id"]
    before, told = await scene.state(), []
    bodies: list[tuple[str, str, Json]] = [
        ("POST", "/v1/sessions", {"agent_id": theirs["agent_id"]}),
        ("POST", "/v1/sessions", {"harness_id": theirs["harness_id"]}),
        ("POST", "/v1/sessions", {"model_id": theirs["model"]}),
        ("PATCH", session, {"model_id": theirs["model"]}),
        ("POST", f"{session}/fork", {"agent_id": theirs["agent_id"]}),
        ("POST", f"{session}/fork", {"model_id": theirs["model"]}),
        ("POST", f"{session}/messages", body_of("x", controls={"model_id": theirs["model"]})),
        ("POST", f"{session}/messages", body_of("x", addressed_participant_id=theirs["participant_id"])),
        ("POST", f"{session}/participants", {"kind": "agent", "agent_id": theirs["agent_id"]}),
        ("POST", "/v1/agents", {"name": "new", "system_prompt": "x", "harness_id": theirs["harness_id"]}),
        ("POST", "/v1/agents", {"name": "new", "system_prompt": "x", "default_model_id": theirs["model"]}),
        ("POST", "/v1/agents", {"id": theirs["agent_id"], "name": "new", "system_prompt": "x"}),
        ("PATCH", agent, {"harness_id": theirs["harness_id"]}),
        ("PATCH", agent, {"default_model_id": theirs["model"]}),
        ("POST", f"{agent}/versions/default", {"version_id": theirs["version_id"]}),
        ("POST", "/v1/agents/preview", {"system_prompt": "x", "harness_id": theirs["harness_id"]}),
        ("POST", "/v1/harnesses", {"name": "new", "parent_harness_id": theirs["harness_id"]}),
        ("POST", "/v1/harnesses", {"name": "new", "default_model_id": theirs["model"]}),
        ("PATCH", f"/v1/harnesses/{own['harness_id']}", {"parent_harness_id": theirs["harness_id"]}),
        ("PATCH", f"/v1/harnesses/{own['harness_id']}", {"default_model_id": theirs["model"]}),
        ("PATCH", f"/v1/models/{own['model']}", {"provider_id": theirs["provider_id"]}),
        ("PATCH", f"/v1/orgs/{own['org']}", {"default_model_id": theirs["model"]}),
        ("PATCH", f"/v1/orgs/{own['org']}", {"default_harness_id": theirs["harness_id"]}),
        ("POST", "/v1/users/me/switch-org", {"org_id": theirs["org"]}),
        ("GET", f"/v1/resolve-org?id={theirs['session_id']}", {}),
        ("GET", f"/v1/resolve-org?id={theirs['org']}", {}),
    ]
    for method, path, body in bodies:
        answer = await http.request(method, path, **({"json": body} if body else {}))
        if answer.status_code not in (400, 404) or complaint(answer) is not None:
            told.append(f"{method} {path} {body}: {answer.status_code} {answer.text[:120]}")
    assert told == []
    assert (await http.get("/v1/sessions", params={"agent_id": theirs["agent_id"]})).json()["total"] == 0
    # A foreign event's id is no cursor in the caller's log: the same answer as for one that never existed.
    for path, cursor in (("events", "around"), ("events", "since_id"), ("sse", "since_id")):
        answer = await http.get(f"{session}/{path}", params={cursor: event})
        assert (answer.status_code, answer.json()["code"]) == (400, "unknown_cursor")
    assert await scene.state() == before
    for name in ("agent_name", "harness_name"):
        answer = await http.post(
            "/v1/sessions", json={name: next(mark for mark in scene.mine.marks if mark.startswith("kept-"))}
        )
        assert answer.status_code == 404, name


async def test_the_header_that_picks_an_organization_opens_only_ones_own(scene: Scene) -> None:
    told = []
    for each in scene.operations:
        if each.public:
            continue
        body = {
            **each.body,
            "headers": {**each.body.get("headers", {}), "x-org-id": scene.mine.values["org"]},
        }
        answer = await scene.other.http.request(each.method, each.at(scene.mine.of(each)), **body)
        if (answer.status_code, complaint(answer)) != (401, None):
            told.append(f"{each.id}: {answer.status_code}")
    assert told == []


async def test_a_mere_member_is_refused_exactly_what_needs_an_admin(scene: Scene) -> None:
    _, token = await add_member(scene.mine.http, "dave")
    assert {each.id for each in scene.operations} >= NEEDS_ADMIN
    before, told = await scene.state(), []
    async with person(scene.server, token) as member:
        for each in scene.operations:
            if each.id in NEEDS_ADMIN:
                answer = await each.send(member, scene.mine.of(each))
                if (answer.status_code, complaint(answer)) != (403, None) or answer.json()[
                    "code"
                ] != "role_required":
                    told.append(f"{each.id}: {answer.status_code} {answer.text[:120]}")
        assert told == []
        assert await scene.state() == before
        for each in scene.operations:
            if each.id not in NEEDS_ADMIN | ENDLESS | {"delete_account"} and not each.public:
                answer = await each.send(member, scene.mine.of(each))
                refused = answer.status_code == 403 and answer.json()["code"] == "own_token_required"
                if refused != (each.id in NEEDS_OWN_TOKEN) or (
                    answer.status_code in (401, 403) and not refused
                ):
                    told.append(f"{each.id}: {answer.status_code} {answer.text[:120]}")
                # The MCP server does not exist, so it cannot be asked for its tools.
                asked = {"list_mcp_server_tools", "list_mcp_server_prompts", "list_session_mcp_tools"}
                assert answer.status_code < 500 or each.id in asked, each.id
    assert told == []


async def _me(scene: Scene, token: str) -> Json:
    async with person(scene.server, token) as http:
        found: Json = (await http.get("/v1/users/me")).json()
        return found


async def test_an_admin_makes_nobody_an_owner_and_no_token_for_an_owner_or_another_admin(
    scene: Scene,
) -> None:
    _, token = await add_member(scene.mine.http, "erin", "admin")
    _, peer = await add_member(scene.mine.http, "fred", "admin")
    peer_id = (await _me(scene, peer))["id"]
    async with person(scene.server, token) as admin:
        owner = await admin.post("/v1/users", json={"email": "o@example.com", "name": "O", "role": "owner"})
        taken = await admin.post(f"/v1/users/{scene.mine.values['user_id']}/tokens", json={"name": "mine"})
        peers = await admin.post(f"/v1/users/{peer_id}/tokens", json={"name": "mine"})
        for answer in (owner, taken, peers):
            assert (answer.status_code, complaint(answer)) == (403, None), answer.text
        await post(admin, "/v1/users", {"email": "p@example.com", "name": "P", "role": "admin"})


async def test_who_adds_a_person_of_another_organization_learns_nothing_and_reaches_nothing(
    scene: Scene,
) -> None:
    http, their_id = scene.other.http, scene.mine.values["user_id"]
    person_there = (await scene.mine.http.get(f"/v1/users/{their_id}")).json()
    before = await scene.state()
    answers = [
        await post(http, "/v1/users", {"email": email, "name": "Sent", "role": "member"})
        for email in (person_there["email"].upper(), "nobody-at-all@example.com")
    ]
    for known, unknown in ((answers[0][name], answers[1][name]) for name in ("name", "roles")):
        assert known == unknown
    assert answers[0].keys() == answers[1].keys()
    assert answers[0]["email"] == person_there["email"].upper()
    assert answers[0]["id"] != their_id
    assert answers[0]["created_at"] > person_there["created_at"]
    for each in answers:
        made = await post(http, f"/v1/users/{each['id']}/tokens", {"name": "theirs"})
        async with person(scene.server, made["token"]) as caught:
            elsewhere = {"x-org-id": scene.mine.values["org"]}
            assert (await caught.get("/v1/sessions", headers=elsewhere)).status_code == 401
            assert scene.mine.values["org"] not in (await caught.get("/v1/orgs")).text
    assert (await http.post(f"/v1/users/{their_id}/tokens", json={"name": "x"})).status_code == 404
    # Nothing has changed for the person: they still belong to one organization, so need not name it.
    del scene.mine.http.headers["x-org-id"]
    assert (await scene.mine.http.get("/v1/sessions")).status_code == 200
    assert await scene.state() == before
