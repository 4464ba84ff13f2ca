"""Members of an organization: who may change their roles or remove them, and what remains afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import NamedTuple
from uuid import UUID

import httpx
import pytest

from perdure.domain.ids import new_id
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import get, patch
from tests.journeys.world import refusal
from tests.server import Server, post


class Place(NamedTuple):
    """A server with a login, its first user's token, and that user's client; the user is an owner."""

    server: Server
    token: str
    owner: httpx.AsyncClient


@pytest.fixture
async def place(any_server: Server) -> AsyncIterator[Place]:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        yield Place(any_server, token, owner)


def roles(users: list[dict[str, object]]) -> dict[object, object]:
    return {each["name"]: each["roles"] for each in users}


ABOVE = (403, "role_required")
DONE = (200, "")


CHANGES = (
    ("owner", "member", "owner", DONE),
    ("owner", "owner", "member", DONE),
    ("owner", "admin", "member", DONE),
    ("admin", "member", "admin", DONE),
    ("admin", "admin", "member", DONE),
    ("admin", "member", "owner", ABOVE),
    ("admin", "owner", "member", ABOVE),
    ("admin", "owner", "owner", ABOVE),
    ("member", "member", "admin", ABOVE),
    ("member", "admin", "member", ABOVE),
)
"""Who changes whose role to which, and what comes of it."""


async def test_a_role_is_changed_by_admins_within_their_own(place: Place, subtests: pytest.Subtests) -> None:
    for number, change in enumerate(CHANGES):
        with subtests.test(change=change):
            await check_change(place, number, *change)


async def check_change(
    place: Place, number: int, caller: str, target: str, role: str, expected: tuple[int, str]
) -> None:
    _, token = await add_member(place.owner, f"caller{number}", caller)
    user, theirs = await add_member(place.owner, f"target{number}", target)
    async with person(place.server, token) as http:
        answer = await http.patch(f"/v1/users/{user['id']}", json={"role": role})
        if expected == DONE:
            assert (answer.status_code, answer.json()) == (200, {**user, "roles": [role]})
        else:
            assert refusal(answer) == expected
        now = role if expected == DONE else target
        assert (await get(http, f"/v1/users/{user['id']}"))["roles"] == [now]
    async with person(place.server, theirs) as http:  # takes effect at once
        body = {"email": f"x{number}@example.com", "name": "X"}
        status = (await http.post("/v1/users", json=body)).status_code
        assert status == (403 if now == "member" else 201)


@pytest.mark.parametrize("role", ["member", "admin"])
async def test_nobody_raises_themselves(place: Place, role: str) -> None:
    user, token = await add_member(place.owner, "climber", role)
    async with person(place.server, token) as http:
        for wanted in ("admin", "owner") if role == "member" else ("owner",):
            assert refusal(await http.patch(f"/v1/users/{user['id']}", json={"role": wanted})) == ABOVE
    assert roles((await get(place.owner, "/v1/users"))["data"])["climber"] == [role]


async def test_an_empty_change_changes_nothing_and_a_wrong_one_is_refused(place: Place) -> None:
    user, _ = await add_member(place.owner, "plain")
    path = f"/v1/users/{user['id']}"
    assert await patch(place.owner, path, {}) == await patch(place.owner, path, {"role": "member"}) == user
    warned = await patch(place.owner, path, {"role": "member", "unknown": 1})
    assert warned == {**user, "warnings": ["unknown field `unknown` was ignored"]}
    for bad in ({"role": None}, {"role": "king"}, {"role": ["owner"]}, []):
        assert (await place.owner.patch(path, json=bad)).status_code == 400, bad
    for method in ("GET", "PATCH", "DELETE"):
        body = {"json": {"role": "member"}} if method == "PATCH" else {}
        assert refusal(await place.owner.request(method, f"/v1/users/{new_id('user')}", **body)) == (
            404,
            "user_not_found",
        )
        assert refusal(await place.owner.request(method, f"/v1/users/{new_id('agent')}", **body)) == (
            400,
            "invalid_id",
        )


async def test_the_last_owner_stays_owner(place: Place) -> None:
    me = (await get(place.owner, "/v1/users/me"))["id"]
    _, admin = await add_member(place.owner, "admin", "admin")
    assert refusal(await place.owner.patch(f"/v1/users/{me}", json={"role": "admin"})) == (409, "last_owner")
    assert refusal(await place.owner.delete(f"/v1/users/{me}")) == (409, "last_owner")
    async with person(place.server, admin) as http:
        assert refusal(await http.delete(f"/v1/users/{me}")) == ABOVE
    heir, _ = await add_member(place.owner, "heir", "owner")
    assert (await place.owner.patch(f"/v1/users/{me}", json={"role": "member"})).status_code == 200
    assert refusal(await place.owner.patch(f"/v1/users/{heir['id']}", json={"role": "member"})) == ABOVE


@pytest.mark.parametrize("way", ["demote the next", "leave", "delete the account and leave"])
async def test_of_owners_who_all_go_at_once_one_stays(place: Place, way: str) -> None:
    me = (await get(place.owner, "/v1/users/me"))["id"]
    made = [await add_member(place.owner, f"owner{number}", "owner") for number in range(5)]
    ids = [me, *(user["id"] for user, _ in made)]
    async with AsyncExitStack() as stack:
        people = [
            await stack.enter_async_context(person(place.server, token))
            for token in (place.token, *(token for _, token in made))
        ]
        await asyncio.gather(*(http.get("/v1/users/me") for http in people))  # all are connected
        going: list[Awaitable[httpx.Response]] = []
        for number, http in enumerate(people):
            if way == "demote the next":
                going.append(http.patch(f"/v1/users/{ids[number - 1]}", json={"role": "admin"}))
            elif way == "leave" or number:
                going.append(http.delete(f"/v1/users/{ids[number]}"))
            else:
                going.append(http.delete("/v1/users/me"))
        answers = await asyncio.gather(*going)
        seen = [answer for http in people if (answer := await http.get("/v1/users")).status_code == 200]
    owners = [each["id"] for each in seen[0].json()["data"] if each["roles"] == ["owner"]]
    assert owners
    if way != "demote the next":
        assert max(answer.status_code for answer in answers) == 409
        assert len(owners) == 1


async def test_a_removed_member_is_out_at_once_and_what_they_made_stays(place: Place) -> None:
    first = (await get(place.owner, "/v1/orgs"))["data"][0]["id"]
    user, bound = await add_member(place.owner, "gone", "admin")
    second = (await post(place.owner, "/v1/orgs", {"name": "Second"}))["id"]
    async with person(place.server, place.token, second) as elsewhere:
        _, there = await add_member(elsewhere, "gone", "admin")
    async with person(place.server, place.token, first) as owner, person(place.server, bound) as http:
        session = await post(http, "/v1/sessions", {"title": "theirs"})
        assert (await http.put(f"/v1/sessions/{session['id']}/pin")).status_code == 204
        assert (await owner.delete(f"/v1/users/{user['id']}")).status_code == 204
        assert refusal(await http.get("/v1/sessions"))[0] == 401
        assert refusal(await owner.delete(f"/v1/users/{user['id']}")) == (404, "user_not_found")
        assert refusal(await owner.post(f"/v1/users/{user['id']}/tokens", json={"name": "x"})) == (
            404,
            "user_not_found",
        )
        assert "gone" not in roles((await get(owner, "/v1/users"))["data"])
        assert (await get(owner, f"/v1/sessions/{session['id']}"))["title"] == "theirs"
        async with person(place.server, there) as still:
            assert [each["id"] for each in (await get(still, "/v1/orgs"))["data"]] == [second]
        # A member who is added again is the same user, but has none of the earlier access.
        assert (await post(owner, "/v1/users", {"email": "GONE@example.com", "name": "Gone"}))["id"] == user[
            "id"
        ]
        assert refusal(await http.get("/v1/sessions"))[0] == 401
        again = (await post(owner, f"/v1/users/{user['id']}/tokens", {"name": "again"}))["token"]
        async with person(place.server, again) as back:
            assert (await get(back, f"/v1/sessions/{session['id']}"))["is_pinned"] is False


async def test_everybody_may_leave(place: Place) -> None:
    user, token = await add_member(place.owner, "leaver")
    other, _ = await add_member(place.owner, "stayer")
    async with person(place.server, token) as http:
        assert refusal(await http.delete(f"/v1/users/{other['id']}")) == ABOVE
        assert (await http.delete(f"/v1/users/{user['id']}")).status_code == 204
        assert refusal(await http.get("/v1/users"))[0] == 401
    assert set(roles((await get(place.owner, "/v1/users"))["data"])) == {"Owner", "stayer"}


async def test_a_session_says_whose_it_is_and_a_fork_is_its_makers(place: Place) -> None:
    me = (await get(place.owner, "/v1/users/me"))["id"]
    user, token = await add_member(place.owner, "maker")
    async with person(place.server, token) as http:
        made = await post(http, "/v1/sessions", {"title": "theirs"})
    fork = await post(place.owner, f"/v1/sessions/{made['id']}/fork", {})
    listed = (await get(place.owner, "/v1/sessions"))["data"]
    for session, owner_id in ((made, user["id"]), (fork, me)):
        hexes = owner_id.removeprefix("user_")
        owner = {"id": f"principal_{hexes}", "kind": "user", "subject_id": str(UUID(hexes))}
        assert (session["owner"], session["effective_owner"], session["owner_principal_id"]) == (
            owner,
            owner,
            owner["id"],
        )
        assert session["resolved_owner_user_id"] == owner["subject_id"]
        assert owner in [each["owner"] for each in listed]
