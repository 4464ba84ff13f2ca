"""Erasures: what they reach, what they say, and who may ask for one."""

from __future__ import annotations

import asyncio

import httpx

from tests.journeys.erasing import (
    a_mark,
    counts,
    erased,
    finished,
    kinds_left,
    plain_session,
    used_session,
)
from tests.journeys.families import all_ended, new_family, spawns
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.stores import mounts, use
from tests.remnants import database_of, files_with, tables_with
from tests.server import Server, post
from tests.talk import new_talk, script

WRITTEN_ANEW = {"processes"}
"""Names the sessions that run, and is written anew within seconds."""


async def test_an_erased_session_is_in_no_table_and_no_byte_of_any_file(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    mark, other = a_mark(), a_mark()
    kept = await plain_session(http, other)
    talk = await used_session(http, mark)
    budget = {"subject_type": "session", "subject_id": talk.id, "currency": "tokens", "limit": 10_000_000}
    await post(http, "/v1/budgets", {**budget, "metadata": {"why": mark}})
    async with database_of(any_server) as database:
        before = await tables_with(database, mark, talk.id)
    assert {
        "events", "sessions", "files", "blob_parts", "images", "content_holds", "key_values", "secrets",
        "sql_databases", "schedules", "shell_states", "client_messages", "standing_approvals", "feedback",
        "tasks", "idempotency", "pins", "webhooks", "workspaces", "model_calls",
        "audit_entries", "budgets",
    } <= set(before), sorted(before)  # fmt: skip
    receipt = await erased(http, {"session_id": talk.id})
    assert {"events", "files", "secrets", "sessions", "idempotency_answers", "tasks", "contents"} <= set(
        counts(receipt)
    )
    assert counts(receipt)["sessions"] == 3
    assert {"model_calls", "backups", "outside"} <= kinds_left(receipt)
    async with database_of(any_server) as database:
        assert await tables_with(database, mark) == {}
        # The ledger, the receipt and the entry about the erasure name the session, without any content.
        named = set(await tables_with(database, talk.id)) - WRITTEN_ANEW
        assert named == {"model_calls", "erasures", "audit_entries"}
        assert "events" in await tables_with(database, other)
    if not any_server.database_url:
        assert "gaps" not in kinds_left(receipt)
        assert files_with(any_server.data, mark) == {}
    else:
        assert "dead_rows" in kinds_left(receipt)
    assert (await http.get(talk.path())).status_code == 404
    assert (await kept.turn({"text": "Still here."}))[-2]["type"] == "turn.completed"
    again = await post(http, "/v1/erasures", {"session_id": talk.id})
    assert again == receipt


async def test_an_erased_user_is_in_no_table_but_the_receipt_and_others_keep_what_they_have(
    any_server: Server,
) -> None:
    mark = a_mark()
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        ann, anns_token = await add_member(owner, mark)
        async with person(any_server, anns_token) as hers:
            first = await used_session(hers, mark)
            second = await plain_session(hers, mark)
            handbook = await post(owner, "/v1/memories", {"name": "handbook"})
            await post(hers, f"/v1/memories/{handbook['id']}/fs/hers.txt", {"content": "Ours."})
            remembers = mounts({"name": "me", "scope": "user", "mode": "read_write"})
            third = await new_talk(hers, title=mark, capabilities=remembers)
            await use(third, "write_file", path=f"/memories/me/{mark}.txt", content=mark * 2_000)
            await post(hers, "/v1/users/me/tokens", {"name": mark})
            kept = await plain_session(owner, "kept")
            await hers.put(kept.path("/pin"))
        async with database_of(any_server) as database:
            before = set(await tables_with(database, mark, ann["id"]))
        assert {"users", "tokens", "memberships", "memories", "memory_versions", "files", "pins"} <= before
        receipt = await erased(owner, {"user_id": ann["id"]})
        found = counts(receipt)
        assert found["sessions"] == 5
        assert found["memories"] == 1
        assert found["users"] == 1
        assert found["pseudonymized"] > 1
        assert {"model_calls", "memory_versions", "backups"} <= kinds_left(receipt)
        async with database_of(any_server) as database:
            assert await tables_with(database, mark) == {}
            assert set(await tables_with(database, ann["id"])) == {"erasures"}
            named = set(await tables_with(database, first.id, second.id)) - WRITTEN_ANEW
            assert named == {"model_calls"}
        if not any_server.database_url:
            assert files_with(any_server.data, mark) == {}
        async with person(any_server, anns_token) as hers:
            assert (await hers.get("/v1/sessions")).status_code == 401
        assert (await owner.get(f"/v1/users/{ann['id']}")).status_code == 404
        spent = (await owner.get("/v1/spend", params={"group_by": "user"})).json()
        assert ann["id"] not in str(spent)
        versions = (await owner.get(f"/v1/memories/{handbook['id']}/versions")).json()["data"]
        assert [each["path"] for each in versions] == ["/hers.txt"]
        assert (await kept.turn({"text": "Still here."}))[-2]["type"] == "turn.completed"
        assert await post(owner, "/v1/erasures", {"user_id": ann["id"]}) == receipt


async def test_an_erasure_does_not_touch_entries_that_only_have_the_same_words(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        log = f"/v1/orgs/{(await owner.get('/v1/orgs')).json()['data'][0]['id']}/audit-logs"
        await add_member(owner, "surname")  # the other's e-mail address is a part of this one
        user, users_token = await add_member(owner, "name", "admin")  # as a field of each agent is called
        async with person(any_server, users_token) as theirs:
            made = await post(theirs, "/v1/agents", {"name": "named", "system_prompt": "You help."})
        await post(owner, "/v1/agents", {"name": "helper", "system_prompt": "You help."})
        before = (await owner.get(log)).json()["data"]
        await erased(owner, {"user_id": user["id"]})
        after = {each["id"]: each for each in (await owner.get(log)).json()["data"]}
        kept = [each for each in before if user["id"] not in str(each)]
        assert {each["action"] for each in kept} >= {"agent.created", "member.added", "token.created"}
        assert [after[each["id"]] for each in kept] == kept
        theirs_was = next(each for each in after.values() if each["entity"]["id"] == made["id"])
        assert theirs_was["actor"]["id"] != user["id"]
        assert theirs_was["after"]["system_prompt"] == "You help."
        rest = str([each for each in after.values() if each["action"] != "erasure.begun"])
        assert user["id"] not in rest
        assert user["email"] not in rest.replace("surname@", "")


async def test_who_may_erase_what(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        me = (await owner.get("/v1/users/me")).json()["id"]
        ann, anns = await add_member(owner, "ann")
        bob, bobs = await add_member(owner, "bob", "admin")
        elsewhere = (await post(owner, "/v1/orgs", {"name": "Elsewhere"}))["id"]
        here = (await owner.get("/v1/users/me")).request.headers.get("x-org-id")
        org = next(
            each["id"] for each in (await owner.get("/v1/orgs")).json()["data"] if each["id"] != elsewhere
        )
    assert here is None
    async with (
        person(any_server, token, org) as owner,
        person(any_server, token, elsewhere) as stranger,
        person(any_server, anns) as ann_http,
        person(any_server, bobs) as bob_http,
    ):
        of_owner, of_ann = await new_talk(owner), await new_talk(ann_http)

        async def refused(http: httpx.AsyncClient, status: int, code: str, **body: str) -> None:
            answer = await http.post("/v1/erasures", json=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text

        await refused(owner, 400, "invalid_request")
        await refused(owner, 400, "invalid_request", session_id=of_ann.id, user_id=ann["id"])
        await refused(owner, 400, "invalid_id", session_id=ann["id"])
        await refused(ann_http, 403, "role_required", session_id=of_owner.id)
        await refused(ann_http, 403, "role_required", user_id=bob["id"])
        await refused(bob_http, 403, "role_required", user_id=me)
        await refused(owner, 409, "last_owner", user_id=me)
        await refused(stranger, 404, "session_not_found", session_id=of_ann.id)
        await refused(stranger, 404, "user_not_found", user_id=ann["id"])
        assert (await of_owner.read())["status"] == "started"
        own = await erased(ann_http, {"session_id": of_ann.id})
        assert own["requested_by"] == ann["id"]
        other = await erased(bob_http, {"session_id": of_owner.id})
        assert (await ann_http.get(f"/v1/erasures/{other['id']}")).status_code == 404
        assert (await stranger.get(f"/v1/erasures/{own['id']}")).status_code == 404
        listed = (await bob_http.get("/v1/erasures")).json()
        assert [each["id"] for each in listed["data"]] == [other["id"], own["id"]]
        assert [each["id"] for each in (await ann_http.get("/v1/erasures")).json()["data"]] == [own["id"]]
        mine = await post(ann_http, "/v1/erasures", {"user_id": ann["id"]})
        assert (await ann_http.get("/v1/sessions")).status_code in (400, 401, 403)
        assert (await finished(bob_http, mine))["status"] == "finished"


async def test_a_session_under_legal_hold_is_neither_deleted_nor_erased(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        ann, anns = await add_member(owner, "ann")
        async with person(any_server, anns) as hers:
            talk = await new_family(hers, spawns("child", {"text": "Done."}))
            (task,) = await all_ended(talk)
            child = task["links"]["child_session_id"]
            assert (await hers.put(talk.path("/hold"))).status_code == 403
            for _ in range(2):
                held = (await owner.put(talk.path("/hold"))).json()["held_at"]
            assert (await talk.read())["held_at"] == held
            below = await owner.put(f"/v1/sessions/{child}/hold")
            assert (below.status_code, below.json()["code"]) == (409, "not_a_root_session")
            for method, path, body in (
                ("DELETE", talk.path(), None),
                ("DELETE", f"/v1/sessions/{child}", None),
                ("POST", "/v1/erasures", {"session_id": talk.id}),
                ("POST", "/v1/erasures", {"session_id": child}),
                ("POST", "/v1/erasures", {"user_id": ann["id"]}),
            ):
                answer = await owner.request(method, path, json=body)
                assert (answer.status_code, answer.json()["code"]) == (409, "session_held"), path
            await talk.turn({"text": "It can be used."})
            assert "held_at" not in (await owner.delete(talk.path("/hold"))).json()
            assert (await erased(hers, {"session_id": talk.id}))["status"] == "finished"


async def test_a_deleted_session_can_still_be_erased_and_a_child_alone(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    mark = a_mark()
    talk = await new_family(http, spawns(mark, {"text": mark}), title="Parent")
    (task,) = await all_ended(talk)
    child = task["links"]["child_session_id"]
    receipt = await erased(http, {"session_id": child})
    assert counts(receipt)["sessions"] == 1
    assert "parent_log" in kinds_left(receipt)
    async with database_of(any_server) as database:
        # What the parent has told and heard is the parent's.
        assert set(await tables_with(database, mark)) == {"events", "tasks", "sessions"}
    assert (await talk.turn({"text": "Go on."}))[-2]["type"] == "turn.completed"
    assert (await http.delete(talk.path())).status_code == 204
    assert counts(await erased(http, {"session_id": talk.id}))["sessions"] == 1
    async with database_of(any_server) as database:
        assert await tables_with(database, mark) == {}


async def test_a_running_turn_a_follower_a_fork_and_a_beginning_sub_agent_do_not_outlive_an_erasure(
    http: httpx.AsyncClient, any_server: Server
) -> None:
    for _ in range(3):
        mark = a_mark()
        talk = await new_talk(http, capabilities=[{"ref": "subagents"}], title=mark)
        slow = {"tokens": 2000, "delay_ms": 20}
        children = [spawns(f"{mark}{n}", slow) for n in range(3)]
        await talk.say(script({"tool_calls": children}, slow, ask=mark))
        async with talk.follow() as stream:
            await stream.until("task.created")
            forks = [http.post(talk.path("/fork"), json={"title": f"copy {n}"}) for n in range(4)]
            erasing = http.post("/v1/erasures", json={"session_id": talk.id})
            *copies, erasure = await asyncio.gather(*forks, erasing)
            assert erasure.status_code == 201, erasure.text
            assert {copy.status_code for copy in copies} <= {201, 404, 409}
            await stream.to_end()
        receipt = await finished(http, erasure.json())
        made = [copy.json()["id"] for copy in copies if copy.status_code == 201]
        for each in made:
            await erased(http, {"session_id": each})
        async with database_of(any_server) as database:
            assert await tables_with(database, mark) == {}, (made, receipt)
        assert counts(receipt)["sessions"] >= 1
