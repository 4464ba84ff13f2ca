"""What was denied is in the audit log under what it was about, and is erased with its session."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.journeys.erasing import erased
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import fresh, get
from tests.server import Server, post
from tests.talk import Json


async def log_of(http: httpx.AsyncClient, **query: Any) -> list[Json]:
    org = (await get(http, "/v1/auth/me"))["organization_id"]
    found: list[Json] = (await get(http, f"/v1/orgs/{org}/audit-logs", outcome="denied", **query))["data"]
    return found


def told(found: list[Json]) -> list[tuple[str, str, str]]:
    return [(each["action"], each["entity"]["type"], each["entity"]["id"]) for each in found]


async def test_denied_requests_about_a_session_are_found_by_it_and_erased_with_it(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        session = await post(owner, "/v1/sessions", {"title": "Of the owner"})
        other = await post(owner, "/v1/sessions", {"title": "Another"})
        _, theirs = await add_member(owner, "eve")
        path = f"/v1/sessions/{session['id']}"
        money = {"currency": "usd", "limit": 3.0}
        asked: list[tuple[str, str, Json | None]] = [
            ("PUT", f"{path}/hold", None),
            ("DELETE", f"{path}/hold", None),
            ("POST", "/v1/erasures", {"session_id": session["id"]}),
            ("POST", "/v1/budgets", {"subject_type": "session", "subject_id": session["id"], **money}),
            ("POST", f"/v1/durable/dlq/{session['id']}.turn_{'0' * 32}/retry", None),
        ]
        async with person(any_server, theirs) as eve:
            for method, where, body in asked:
                answer = await eve.request(method, where, json=body)
                assert answer.status_code == 403, (where, answer.text)
            command = {"params": {"session_id": session["id"]}}
            assert (await eve.post("/v1/commands/create_erasure", json=command)).status_code == 403
            assert (await eve.put(f"/v1/sessions/{other['id']}/hold")).status_code == 403
        mine = session["id"]
        found = await log_of(owner, session_id=mine)
        assert told(found) == [
            ("erasure.begun", "erasure", mine),
            ("turn.retried", "turn", mine),
            ("budget.created", "budget", mine),
            ("erasure.begun", "erasure", mine),
            ("session.released", "session", mine),
            ("session.held", "session", mine),
        ]
        assert found[-1]["entity"]["name"] == "Of the owner"
        await erased(owner, {"session_id": mine})
        left = await log_of(owner)
        assert told(left) == [("session.held", "session", other["id"])]


async def test_a_budget_of_a_session_is_denied_in_its_session(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        session = await post(owner, "/v1/sessions", {})
        about = {"subject_type": "session", "subject_id": session["id"]}
        budget = await post(owner, "/v1/budgets", {**about, "currency": "usd", "limit": 3.0})
        _, theirs = await add_member(owner, "eve")
        async with person(any_server, theirs) as eve:
            assert (await eve.delete(f"/v1/budgets/{budget['id']}")).status_code == 403
        found = await log_of(owner, session_id=session["id"])
        assert told(found) == [("budget.deleted", "budget", budget["id"])]


async def test_what_only_the_body_names_is_what_the_entry_names(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        org = (await get(owner, "/v1/auth/me"))["organization_id"]
        eves_id, theirs = await add_member(owner, "eve")
        ann, _ = await add_member(owner, "ann")
        name = fresh("desk")
        harness = await post(owner, "/v1/harnesses", {"name": name})
        money = {"currency": "usd", "limit": 3.0}
        async with person(any_server, theirs) as eve:
            asked: list[tuple[str, Json]] = [
                ("/v1/erasures", {"user_id": ann["id"]}),
                ("/v1/budgets", {"subject_type": "user", "subject_id": ann["id"], **money}),
                ("/v1/budgets", {"subject_type": "organization", "subject_id": org, **money}),
                ("/v1/users", {"email": "bob@example.com", "name": "Bob"}),
                ("/v1/providers", {"name": "Mine", "provider_type": "llmsim"}),
                ("/v1/task-webhooks", {"url": "https://hook.invalid/x"}),
                (f"/v1/history/{name}/restore", {"revision": 1, "kind": "harness"}),
                (f"/v1/history/{harness['id']}/restore", {"revision": 1}),
            ]
            for where, body in asked:
                answer = await eve.post(where, json=body)
                assert answer.status_code == 403, (where, answer.text)
            assert (await eve.patch(f"/v1/harnesses/{name}", json={"description": "x"})).status_code == 403
        found = list(reversed(await log_of(owner)))
        assert told(found) == [
            ("erasure.begun", "erasure", ann["id"]),
            ("budget.created", "budget", ann["id"]),
            ("budget.created", "budget", org),
            ("member.added", "member", org),
            ("provider.created", "provider", org),
            ("webhook.created", "webhook", org),
            ("harness.restored", "harness", harness["id"]),
            ("harness.restored", "harness", harness["id"]),
            ("harness.updated", "harness", harness["id"]),
        ]
        names = [each["entity"].get("name") for each in found]
        assert names[3:] == ["Bob", "Mine", "https://hook.invalid/x", name, name, name]
        assert {each["actor"]["id"] for each in found} == {eves_id["id"]}
        assert all("session_id" not in each for each in found)


@pytest.mark.parametrize("wrong", ["session_" + "0" * 32, "someone-elses"])
async def test_a_session_of_another_organization_is_no_session_of_the_entry(
    any_server: Server, wrong: str
) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        org = (await get(owner, "/v1/auth/me"))["organization_id"]
        _, theirs = await add_member(owner, "eve")
        elsewhere = (await post(owner, "/v1/orgs", {"name": "Elsewhere"}))["id"]
        if wrong == "someone-elses":
            owner.headers["x-org-id"] = elsewhere
            wrong = (await post(owner, "/v1/sessions", {"title": "Secret"}))["id"]
        owner.headers["x-org-id"] = org
        async with person(any_server, theirs) as eve:
            assert (await eve.put(f"/v1/sessions/{wrong}/hold")).status_code == 403
        (entry,) = await log_of(owner)
        assert (entry["entity"], entry.get("session_id")) == ({"type": "session", "id": wrong}, None)
        assert "Secret" not in str(entry)


async def test_what_was_denied_names_no_secret_of_a_url_and_no_hidden_character(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        _, theirs = await add_member(owner, "eve")
        async with person(any_server, theirs) as eve:
            for url in ("https://eve:hunter22@hook.invalid/x?token=hush#y", "https://hush@hook.invalid/x"):
                assert (await eve.post("/v1/task-webhooks", json={"url": url})).status_code == 403
            budget = {"subject_type": "user", "subject_id": "a\u202e\nb", "currency": "usd", "limit": 3.0}
            assert (await eve.post("/v1/budgets", json=budget)).status_code == 403
        found = await log_of(owner)
        names = [each["entity"].get("name") for each in found if each["entity"]["type"] == "webhook"]
        assert names == ["https://...@hook.invalid/x", "https://...@hook.invalid/x?..."]
        assert not [secret for secret in ("hush", "hunter22") if secret in str(found)]
        ids = [each["entity"]["id"] for each in found]
        assert ids[0] == "a\\u202e\\nb"


async def test_a_file_is_denied_under_what_it_is_in_whatever_it_is_called(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        session = await post(owner, "/v1/sessions", {})
        place = f"/v1/sessions/{session['id']}/fs/file_of_ann.txt"
        made = await owner.post(place, json={"content": "x", "is_readonly": True})
        assert made.status_code == 201, made.text
        assert (await owner.put(place, json={"content": "y"})).status_code == 403
        assert told(await log_of(owner, session_id=session["id"])) == [
            ("file.updated", "file", session["id"])
        ]
