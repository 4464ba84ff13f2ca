"""Organizations, users and access tokens: authentication, access to organizations, and rate limits."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from perdure.domain.ids import new_id
from tests.command import perdure
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import get, patch
from tests.journeys.world import refusal
from tests.server import Server, post
from tests.talk import when


class Place(NamedTuple):
    """A server with a login, and its first user's token."""

    server: Server
    token: str


@pytest.fixture
async def place(any_server: Server) -> Place:
    return Place(any_server, await with_login(any_server))


@pytest.fixture
async def owner(place: Place) -> AsyncIterator[httpx.AsyncClient]:
    async with person(*place) as http:
        yield http


def soon(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


async def test_a_token_is_shown_once_and_kept_only_as_a_hash(place: Place, owner: httpx.AsyncClient) -> None:
    made = await post(owner, "/v1/users/me/tokens", {"name": "build server", "expires_at": soon(days=1)})
    secret = made["token"]
    assert re.fullmatch(r"pdr_pat_[\w-]{43}", secret)
    listed = (await get(owner, "/v1/users/me/tokens"))["data"]
    assert (listed[0]["id"], listed[0]["name"], listed[0]["hint"]) == (
        made["id"],
        "build server",
        secret[-4:],
    )
    for path in ("/v1/users/me/tokens", "/v1/users/me/export"):
        assert secret not in (await owner.get(path)).text
    assert place.server.data.exists()
    for file in place.server.data.iterdir():
        assert secret.encode() not in file.read_bytes(), file


async def test_a_token_works_with_and_without_bearer_and_not_with_a_letter_changed(place: Place) -> None:
    async with httpx.AsyncClient(base_url=place.server.url) as http:
        for good in (place.token, f"Bearer {place.token}", f"bearer {place.token}", f"BEARER  {place.token}"):
            assert (await http.get("/v1/users/me", headers={"authorization": good})).status_code == 200
        for bad in (
            place.token[:-1],
            place.token + "x",
            place.token.upper(),
            f"Basic {place.token}",
            f"Bearer Bearer {place.token}",
        ):
            assert refusal(await http.get("/v1/users/me", headers={"authorization": bad})) == (
                401,
                "unauthenticated",
            ), bad


async def test_a_revoked_token_is_refused_at_once_and_revoking_twice_is_fine(
    place: Place, owner: httpx.AsyncClient
) -> None:
    made = await post(owner, "/v1/users/me/tokens", {"name": "short-lived"})
    async with person(place.server, made["token"]) as http:
        assert (await http.get("/v1/sessions")).status_code == 200
        for _ in range(2):
            assert (await owner.delete(f"/v1/users/me/tokens/{made['id']}")).status_code == 204
            assert refusal(await http.get("/v1/sessions")) == (401, "unauthenticated")
    listed = {each["id"]: each for each in (await get(owner, "/v1/users/me/tokens"))["data"]}
    assert listed[made["id"]]["revoked_at"]
    assert refusal(await owner.delete(f"/v1/users/me/tokens/{new_id('token')}")) == (404, "token_not_found")


async def test_a_token_ends_when_its_time_is_over(place: Place, owner: httpx.AsyncClient) -> None:
    made = await post(owner, "/v1/users/me/tokens", {"name": "brief", "expires_at": soon(seconds=1)})
    async with person(place.server, made["token"]) as http:
        assert (await http.get("/v1/users/me")).status_code == 200

        async def refused() -> bool:
            return (await http.get("/v1/users/me")).status_code == 401

        await when(refused)
    for bad in (soon(seconds=-1), "tomorrow", "2030-01-01T00:00:00"):
        assert (
            await owner.post("/v1/users/me/tokens", json={"name": "bad", "expires_at": bad})
        ).status_code == 400, bad


async def test_it_is_remembered_when_a_token_was_last_used(place: Place, owner: httpx.AsyncClient) -> None:
    made = await post(owner, "/v1/users/me/tokens", {"name": "used"})
    assert "last_used_at" not in made
    async with person(place.server, made["token"]) as http:
        await get(http, "/v1/users/me")
    listed = {each["id"]: each for each in (await get(owner, "/v1/users/me/tokens"))["data"]}
    assert listed[made["id"]]["last_used_at"] >= made["created_at"]


async def test_who_belongs_to_several_organizations_can_find_them_without_choosing_one(
    place: Place, owner: httpx.AsyncClient
) -> None:
    first = (await get(owner, "/v1/orgs"))["data"][0]
    session = await post(owner, "/v1/sessions", {})
    second = await post(owner, "/v1/orgs", {"name": "Second"})
    assert [each["id"] for each in (await get(owner, "/v1/orgs"))["data"]] == [first["id"], second["id"]]
    assert (await get(owner, "/v1/users/me"))["email"] == "owner@localhost"
    assert await get(owner, "/v1/resolve-org", id=session["id"]) == {
        "org_id": first["id"],
        "org_name": first["name"],
    }
    assert (await post(owner, "/v1/users/me/switch-org", {"org_id": second["id"]}, 200))["success"]
    for path in ("/v1/sessions", "/v1/users", "/v1/agents"):
        assert refusal(await owner.get(path)) == (400, "organization_required")
    answer = await owner.get("/v1/orgs", headers={"x-org-id": new_id("org")})
    assert refusal(answer)[0] == 401


async def test_an_organizations_default_harness_is_named_when_it_is_wrong(owner: httpx.AsyncClient) -> None:
    path = f"/v1/orgs/{(await get(owner, '/v1/orgs'))['data'][0]['id']}"
    refused = await owner.patch(path, json={"default_harness_id": "harness_1"})
    assert refusal(refused) == (400, "invalid_id")
    assert refused.json()["field"] == "default_harness_id"


async def test_who_belongs_to_several_organizations_says_which(
    place: Place, owner: httpx.AsyncClient
) -> None:
    first = (await get(owner, "/v1/orgs"))["data"][0]
    session = await post(owner, "/v1/sessions", {})
    second = await post(owner, "/v1/orgs", {"name": "Second"})
    assert refusal(await owner.get("/v1/sessions")) == (400, "organization_required")
    for organization, total in ((first, 1), (second, 0)):
        async with person(*place, organization["id"]) as http:
            assert (await get(http, "/v1/sessions"))["total"] == total
            assert [each["id"] for each in (await get(http, "/v1/orgs"))["data"]] == [
                first["id"],
                second["id"],
            ]
    async with person(*place, second["id"]) as http:
        assert refusal(await http.get(f"/v1/sessions/{session['id']}"))[0] == 404
        resolved = await get(http, "/v1/resolve-org", id=session["id"])
        assert resolved == {"org_id": first["id"], "org_name": first["name"]}
        assert refusal(await http.get("/v1/resolve-org", params={"id": new_id("session")}))[0] == 404
        switched = await post(http, "/v1/users/me/switch-org", {"org_id": first["id"]}, 200)
        assert switched == {"org_id": first["id"], "success": True}
        assert refusal(await http.post("/v1/users/me/switch-org", json={"org_id": new_id("org")}))[0] == 404
    for bad in ("nonsense", "ORG_" + "0" * 32, session["id"]):
        assert refusal(await owner.get("/v1/sessions", headers={"x-org-id": bad})) == (400, "invalid_id")
    assert refusal(await owner.get("/v1/sessions", headers={"x-org-id": new_id("org")}))[0] == 401


async def test_an_organization_is_read_and_changed_by_its_admins(
    place: Place, owner: httpx.AsyncClient
) -> None:
    organization = (await get(owner, "/v1/orgs"))["data"][0]
    path = f"/v1/orgs/{organization['id']}"
    changed = await patch(owner, path, {"name": "Ours"})
    assert (changed["name"], changed["updated_at"] > organization["updated_at"]) == ("Ours", True)
    assert await patch(owner, path, {}) == changed
    base = next(each for each in (await get(owner, "/v1/harnesses"))["data"] if each["name"] == "base")
    assert (await patch(owner, path, {"default_harness_name": "base"}))["default_harness_id"] == base["id"]
    assert (await post(owner, "/v1/sessions", {}))["harness_id"] == base["id"]
    assert "default_harness_id" not in await patch(owner, path, {"default_harness_id": None})
    done = await post(owner, f"{path}/onboarding/complete", None, 200)
    assert (await post(owner, f"{path}/onboarding/complete", None, 200)) == done
    for role, status in (("member", 403), ("admin", 200)):
        _, token = await add_member(owner, f"{role}-dora", role)
        async with person(place.server, token) as http:
            assert (await http.patch(path, json={"name": role})).status_code == status


async def test_users_are_added_once_listed_and_found(place: Place, owner: httpx.AsyncClient) -> None:
    user, token = await add_member(owner, "Ada", "admin")
    assert user["roles"] == ["admin"]
    assert refusal(await owner.post("/v1/users", json={"email": "ADA@example.com", "name": "Ada"})) == (
        409,
        "already_member",
    )
    assert refusal(await owner.post("/v1/users", json={"email": "no address", "name": "No"}))[0] == 400
    for search in ("ada", "ADA@", "example.c"):
        assert [each["id"] for each in (await get(owner, "/v1/users", search=search))["data"]] == [user["id"]]
    assert (await get(owner, "/v1/users", search="%"))["data"] == []
    async with person(place.server, token) as http:
        assert await get(http, "/v1/users/me") == {
            "id": user["id"],
            "name": "Ada",
            "email": "Ada@example.com",
        }


async def test_a_token_that_an_admin_made_stays_in_the_admins_organization(
    place: Place, owner: httpx.AsyncClient
) -> None:
    first = (await get(owner, "/v1/orgs"))["data"][0]["id"]
    user, token = await add_member(owner, "frank")
    me = (await get(owner, "/v1/users/me"))["id"]
    own = await post(owner, "/v1/users/me/tokens", {"name": "own"})
    assert (own["created_by"], "organization_id" in own) == (me, False)
    second = (await post(owner, "/v1/orgs", {"name": "Second"}))["id"]
    async with person(*place, second) as elsewhere:
        namesake, _ = await add_member(elsewhere, "frank")
        assert namesake["id"] != user["id"]
        other = await post(elsewhere, f"/v1/users/{namesake['id']}/tokens", {"name": "second"})
    async with person(place.server, token) as http:
        assert [each["id"] for each in (await get(http, "/v1/orgs"))["data"]] == [first]
        assert refusal(await http.get("/v1/sessions", headers={"x-org-id": second}))[0] == 401
        assert refusal(await http.get(f"/v1/orgs/{second}"))[0] == 404
        own = await post(http, "/v1/users/me/tokens", {"name": "child"})
        assert (own["organization_id"], own["created_by"]) == (first, user["id"])
        assert {each["organization_id"] for each in (await get(http, "/v1/users/me/tokens"))["data"]} == {
            first
        }
        assert refusal(await http.delete(f"/v1/users/me/tokens/{other['id']}"))[0] == 404
        for method, path in (("DELETE", "/v1/users/me"), ("GET", "/v1/users/me/export")):
            assert refusal(await http.request(method, path)) == (403, "own_token_required")


async def test_the_caller_is_renamed_and_takes_everything_along(owner: httpx.AsyncClient) -> None:
    assert (await patch(owner, "/v1/users/me", {"name": "Grace"}))["name"] == "Grace"
    for empty in ({}, {"unknown": 1}):
        assert (await patch(owner, "/v1/users/me", empty))["name"] == "Grace"
    exported = await get(owner, "/v1/users/me/export")
    assert exported["user"]["name"] == "Grace"
    assert [each["role"] for each in exported["organizations"]] == ["owner"]
    assert [each["name"] for each in exported["personal_access_tokens"]] == ["first"]


async def test_the_last_owner_stays_and_a_deleted_account_is_gone_at_once(
    place: Place, owner: httpx.AsyncClient
) -> None:
    assert refusal(await owner.delete("/v1/users/me")) == (409, "last_owner")
    session = await post(owner, "/v1/sessions", {"title": "stays"})
    _, heir = await add_member(owner, "heir", "owner")
    assert (await owner.delete("/v1/users/me")).json() == {"deleted": True}
    assert refusal(await owner.get("/v1/users/me"))[0] == 401
    async with person(place.server, heir) as http:
        assert (await get(http, f"/v1/sessions/{session['id']}"))["title"] == "stays"
        assert [each["name"] for each in (await get(http, "/v1/users"))["data"]] == ["heir"]


async def test_too_many_requests_are_told_when_to_come_again(tmp_path: Path, database_url: str) -> None:
    async with Server(
        tmp_path / "data", database_url=database_url, environment={"PERDURE_RATE_LIMIT": "2"}
    ) as server:
        token = await with_login(server)
        async with person(server, token) as http:
            answers = [await http.get("/v1/users/me") for _ in range(12)]
            refused = [each for each in answers if each.status_code != 200]
            assert refused
            for way in ("{}", "bearer {}", "Bearer  {}"):  # one token, however it is written
                headers = {"authorization": way.format(token)}
                assert (await http.get("/v1/users/me", headers=headers)).status_code == 429, way
            assert {refusal(each) for each in refused} == {(429, "rate_limited")}
            assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
            assert all(each.json()["retry_after_seconds"] > 0 for each in refused)
            assert (await http.get("/health")).status_code == 200

            async def again() -> bool:
                return (await http.get("/v1/users/me")).status_code == 200

            await when(again)
            second = await _made(http, "/v1/users/me/tokens", name="second")
            async with person(server, second["token"]) as other:
                spent = [await each.get("/v1/users/me") for each in (http, other) * 6]
                # A second token does not double the rate.
                assert [each.status_code for each in spent].count(429) >= 6

            user = await _made(http, "/v1/users", email="mo@example.com", name="Mo")
            theirs = await _made(http, f"/v1/users/{user['id']}/tokens", name="theirs")
            async with person(server, theirs["token"]) as somebody_else:
                assert (await somebody_else.get("/v1/users/me")).status_code == 200


async def _made(http: httpx.AsyncClient, path: str, **body: str) -> dict[str, str]:
    """Create something as soon as the server allows it."""
    found: list[httpx.Response] = []

    async def made() -> bool:
        found.append(await http.post(path, json=body))
        return found[-1].status_code == 201

    await when(made)
    answer: dict[str, str] = found[-1].json()
    return answer


async def test_the_command_makes_the_first_key_and_from_then_on_one_is_needed(
    tmp_path: Path, database_url: str
) -> None:
    where = ("--data", str(tmp_path / "data"), *(("--database-url", database_url) if database_url else ()))
    made = await perdure("keys", "create", "--name", "laptop", *where)
    token = made.out.strip()
    assert re.fullmatch(r"pdr_pat_[\w-]{43}", token)
    async with Server(tmp_path / "data", database_url=database_url) as server:
        assert refusal(httpx.get(f"{server.url}/v1/sessions"))[0] == 401
        async with person(server, token) as http:
            assert (await get(http, "/v1/users/me/tokens"))["data"][0]["name"] == "laptop"
            assert (await get(http, "/v1/users/me"))["email"] == "owner@localhost"
