"""Tokens that one person made for another, and invitations: what works, for whom, and how long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest

from perdure.app.login import MAX_TOKENS
from perdure.domain.ids import new_id
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import get, patch
from tests.journeys.world import refusal
from tests.server import Server, post
from tests.talk import Json, Talk, new_talk


class Place(NamedTuple):
    """A server with a login, whose first user is an owner with a token of their own."""

    server: Server
    token: str
    owner: httpx.AsyncClient

    async def works(self, token: str) -> bool:
        async with person(self.server, token) as http:
            answer = await http.get("/v1/sessions")
        assert answer.status_code in (200, 401), answer.text
        return answer.status_code == 200

    async def as_(self, token: str, method: str, path: str, body: Json | None = None) -> httpx.Response:
        async with person(self.server, token) as http:
            return await http.request(method, path, **({} if body is None else {"json": body}))


@pytest.fixture
def environment() -> dict[str, str]:
    return {"PERDURE_HEARTBEAT_SECONDS": "0.2", "OPENAI_API_KEY": "sk-of-the-operator"}


@pytest.fixture
async def place(any_server: Server) -> AsyncIterator[Place]:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        yield Place(any_server, token, owner)


async def _made(place: Place, by: str, user: Any) -> str:
    answer = await place.as_(by, "POST", f"/v1/users/{user['id']}/tokens", {"name": "made"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


async def test_tokens_are_made_for_lower_roles_and_for_oneself_only(place: Place) -> None:
    people = {role: await add_member(place.owner, role, role) for role in ("owner", "admin", "member")}
    others = {role: await add_member(place.owner, f"other-{role}", role) for role in people}
    ranks = ("member", "admin", "owner")
    for maker, (own, token) in people.items():
        for target, (user, _) in others.items():
            answer = await place.as_(token, "POST", f"/v1/users/{user['id']}/tokens", {"name": "x"})
            if ranks.index(maker) > ranks.index(target):
                assert answer.status_code == 201, (maker, target, answer.text)
            else:
                assert refusal(answer) == (403, "role_required"), (maker, target)
        mine = await place.as_(token, "POST", f"/v1/users/{own['id']}/tokens", {"name": "mine"})
        assert mine.status_code == (403 if maker == "member" else 201), maker


async def test_with_a_removed_person_go_all_tokens_that_they_may_know(place: Place) -> None:
    me = (await get(place.owner, "/v1/users/me"))["id"]
    gone, theirs = await add_member(place.owner, "gone", "admin")
    user, from_me = await add_member(place.owner, "user")
    direct = await _made(place, theirs, user)
    # A token that was made with a known token is known too.
    child = (await place.as_(direct, "POST", "/v1/users/me/tokens", {"name": "child"})).json()
    assert child["created_by"] == user["id"]
    # A person whom they let in, and raised afterwards.
    async with person(place.server, theirs) as http:
        friend, for_friend = await add_member(http, "friend", "admin")
        invitation = await post(http, "/v1/invitations", {"role": "admin"})
    for token in (theirs, direct, child["token"], for_friend, from_me):
        assert await place.works(token)
    listed = (await get(place.owner, "/v1/users/me/tokens"))["data"]
    assert {each["created_by"] for each in listed} == {me}
    async with person(place.server, from_me) as http:
        makers = [each["created_by"] for each in (await get(http, "/v1/users/me/tokens"))["data"]]
        assert makers == [user["id"], gone["id"], me]

    assert (await place.owner.delete(f"/v1/users/{gone['id']}")).status_code == 204
    for token in (theirs, direct, child["token"], for_friend):
        assert not await place.works(token)
    assert await place.works(from_me)
    assert await place.works(place.token)
    # The organization can invite nobody in the name of someone who is not in it.
    second = await post(place.owner, "/v1/orgs", {"name": "Second"})
    async with person(place.server, place.token, second["id"]) as http:
        path, code = f"/v1/invitations/{invitation['id']}/accept", {"code": invitation["code"]}
        assert refusal(await http.post(path, json=code)) == (404, "invitation_not_found")
    # Added again, they have none of their earlier access, nor do those whom they had given some.
    async with person(place.server, place.token, (await _first(place))) as http:
        again = await post(http, "/v1/users", {"email": "gone@example.com", "name": "Gone", "role": "admin"})
        assert again["id"] == gone["id"]
        assert friend["id"] in {each["id"] for each in (await get(http, "/v1/users"))["data"]}
    for token in (theirs, direct, child["token"], for_friend):
        assert not await place.works(token)


async def _first(place: Place) -> str:
    return str((await get(place.owner, "/v1/orgs"))["data"][0]["id"])


async def test_a_changed_role_ends_tokens_that_reach_above_their_maker(place: Place) -> None:
    admin, admins = await add_member(place.owner, "admin", "admin")
    rising, risings = await add_member(place.owner, "rising")
    staying, _ = await add_member(place.owner, "staying")
    for_rising, for_staying = await _made(place, admins, rising), await _made(place, admins, staying)
    await patch(place.owner, f"/v1/users/{rising['id']}", {"role": "admin"})
    assert await place.works(for_rising)  # no more than its maker may do
    await patch(place.owner, f"/v1/users/{rising['id']}", {"role": "owner"})
    assert not await place.works(for_rising)
    assert await place.works(risings)  # an owner made it
    await patch(place.owner, f"/v1/users/{rising['id']}", {"role": "admin"})
    assert not await place.works(for_rising)
    assert await place.works(for_staying)
    # As a member, the maker could make no token for another member: none that was made earlier works either.
    await patch(place.owner, f"/v1/users/{admin['id']}", {"role": "member"})
    assert not await place.works(for_staying)
    assert await place.works(risings)


async def test_who_leaves_leaves_only_owners_their_tokens(place: Place) -> None:
    boss, boss_token = await add_member(place.owner, "boss", "owner")
    async with person(place.server, boss_token) as http:
        heir, for_heir = await add_member(http, "heir", "owner")
        _, for_member = await add_member(http, "member")
    # The boss's own token was made by the first owner: whoever knows it may know these too.
    own = (await get(place.owner, "/v1/users/me"))["id"]
    async with person(place.server, for_heir) as http:
        listed = (await get(http, "/v1/users/me/tokens"))["data"]
        assert {each["created_by"] for each in listed} == {boss["id"]}
    answer = await place.owner.delete(f"/v1/users/{own}")
    assert answer.status_code == 204, answer.text
    assert await place.works(for_heir)
    assert await place.works(boss_token)
    assert not await place.works(for_member)
    assert (await place.as_(for_heir, "DELETE", f"/v1/users/{boss['id']}")).status_code == 204
    assert not await place.works(boss_token)
    assert heir["roles"] == ["owner"]


async def test_a_user_has_a_bounded_number_of_tokens_that_work(place: Place) -> None:
    path = "/v1/users/me/tokens"
    made = [await post(place.owner, path, {"name": f"t{number}"}) for number in range(MAX_TOKENS - 1)]
    assert refusal(await place.owner.post(path, json={"name": "one more"})) == (409, "too_many_tokens")
    for _ in range(3):  # revoked ones make room, and are forgotten in the end
        for each in made[:40]:
            assert (await place.owner.delete(f"{path}/{each['id']}")).status_code == 204
        made = made[40:] + [await post(place.owner, path, {"name": "again"}) for _ in range(40)]
    listed = (await get(place.owner, path))["data"]
    working = [each for each in listed if "revoked_at" not in each]
    assert len(working) == MAX_TOKENS
    assert len(listed) <= 2 * MAX_TOKENS
    user, _ = await add_member(place.owner, "other")
    await post(place.owner, f"/v1/users/{user['id']}/tokens", {"name": "x"})


async def test_an_open_stream_ends_soon_after_its_readers_access(place: Place) -> None:
    user, token = await add_member(place.owner, "reader")
    talk = await new_talk(place.owner)
    async with person(place.server, token) as http, Talk(http, talk.id).follow() as stream:
        await stream.next()
        assert (await place.owner.delete(f"/v1/users/{user['id']}")).status_code == 204
        frames = await stream.to_end()
    assert (frames[-1].kind, frames[-1].data["reason"]) == ("disconnecting", "access_ended")


async def test_joining_takes_an_invitation_and_its_acceptance(place: Place) -> None:
    second = (await post(place.owner, "/v1/orgs", {"name": "Second"}))["id"]
    first = await _first(place)
    me = (await get(place.owner, "/v1/users/me"))["id"]
    async with person(place.server, place.token, second) as founder:
        _, heir = await add_member(founder, "heir", "owner")
        assert (await founder.delete(f"/v1/users/{me}")).status_code == 204  # leaves the second one
    async with person(place.server, heir) as host:
        # To know an address brings nobody in.
        added = await post(host, "/v1/users", {"email": "owner@localhost", "name": "Guess"})
        assert added["id"] != me
        assert [each["id"] for each in (await get(place.owner, "/v1/orgs"))["data"]] == [first]
        assert (await place.owner.get("/v1/sessions")).status_code == 200
        made = await post(host, "/v1/invitations", {"email": "owner@localhost", "role": "admin"})
        assert made["code"].startswith("pdr_inv_")
        listed = (await get(host, "/v1/invitations"))["data"]
        assert [(each["id"], "code" in each) for each in listed] == [(made["id"], False)]
        path = f"/v1/invitations/{made['id']}/accept"
        # Nothing has changed for the invited person yet.
        assert (await place.owner.get("/v1/sessions")).status_code == 200
        wrong = await place.owner.post(path, json={"code": made["code"] + "x"})
        unknown = await place.owner.post(
            f"/v1/invitations/{new_id('invitation')}/accept", json={"code": made["code"]}
        )
        assert refusal(wrong) == refusal(unknown) == (404, "invitation_not_found")
        # A token that somebody else made opens one organization, and no door to another.
        _, bound = await add_member(place.owner, "bound")
        assert refusal(await place.as_(bound, "POST", path, {"code": made["code"]})) == (
            403,
            "own_token_required",
        )
        joined = await post(place.owner, path, {"code": made["code"]}, 200)
        assert joined == {"org_id": second, "org_name": "Second"}
        assert refusal(await place.owner.post(path, json={"code": made["code"]}))[0] == 404
        assert (await get(host, "/v1/invitations"))["data"] == []
        assert (await get(host, f"/v1/users/{me}"))["roles"] == ["admin"]
        assert refusal(await place.owner.get("/v1/sessions")) == (400, "organization_required")
        twice = await post(host, "/v1/invitations", {})
        again = await place.owner.post(f"/v1/invitations/{twice['id']}/accept", json={"code": twice["code"]})
        assert refusal(again) == (409, "already_member")
        assert (await host.delete(f"/v1/invitations/{twice['id']}")).status_code == 204
        assert refusal(await host.delete(f"/v1/invitations/{twice['id']}"))[0] == 404
        _, admins = await add_member(host, "admin", "admin")
        above = await place.as_(admins, "POST", "/v1/invitations", {"role": "owner"})
        assert refusal(above) == (403, "role_required")


async def test_the_operators_keys_serve_the_operators_organization(place: Place) -> None:
    found = (await get(place.owner, "/v1/models"))["data"]
    assert [each["healthy"] for each in found if each["provider_type"] == "openai"] == [True]
    second = (await post(place.owner, "/v1/orgs", {"name": "Second"}))["id"]
    async with person(place.server, place.token, second) as http:
        provider = await post(http, "/v1/providers", {"name": "Free", "provider_type": "openai"})
        named = {"model_id": "gpt-5", "display_name": "GPT-5"}
        await post(http, f"/v1/providers/{provider['id']}/models", named)
        (model,) = (await get(http, "/v1/models"))["data"]
        assert model["healthy"] is False
        refused = await http.post(f"/v1/providers/{provider['id']}/sync-models")
        assert refusal(refused) == (400, "api_key_missing")
        assert "api_key" in refused.json()["detail"]
        talk = await new_talk(http)
        message = await talk.say("Hello?")
        events = await talk.logged_until("session.idled", after=message["sequence"])
        (failed,) = [each["data"] for each in events if each["type"] == "turn.failed"]
        assert (failed["error_code"], "there is no API key" in failed["error"]) == (
            "provider_misconfigured",
            True,
        )
        assert "sk-of-the-operator" not in str(events)
        await patch(http, f"/v1/providers/{provider['id']}?check=false", {"api_key": "sk-their-own"})
        assert (await get(http, "/v1/models"))["data"][0]["healthy"] is True
