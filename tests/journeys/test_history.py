"""The history of agents and harnesses: see every state, compare two, restore one."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from perdure.client import Client, Conflict
from tests.command import perdure
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import elsewhere, fresh, get, new_agent, new_harness, patch
from tests.journeys.world import refusal
from tests.server import Server, post
from tests.talk import Json


async def revisions(http: httpx.AsyncClient, ref: str, **query: Any) -> list[Json]:
    found: list[Json] = (await get(http, f"/v1/history/{ref}", **query))["data"]
    return found


async def restore(http: httpx.AsyncClient, ref: str, revision: int, status: int = 200, **more: Any) -> Json:
    body = {"revision": revision, **more}
    restored: Json = await post(http, f"/v1/history/{ref}/restore", body, status)
    return restored


async def test_a_history_begins_with_the_creation_and_has_every_change(http: httpx.AsyncClient) -> None:
    agent = await new_agent(http, description="One")
    path = f"/v1/agents/{agent['id']}"
    reason = {"perdure-reason": "Two is better"}
    assert (await http.patch(path, json={"description": "Two"}, headers=reason)).status_code == 200
    await patch(http, path, {"name": fresh("renamed"), "tags": ["a"], "max_iterations": 5})
    await http.delete(path)
    found = await revisions(http, agent["id"])
    assert [(each["revision"], each["action"]) for each in found] == [
        (4, "agent.archived"),
        (3, "agent.updated"),
        (2, "agent.updated"),
        (1, "agent.created"),
    ]
    assert [each.get("reason") for each in found] == [None, None, "Two is better", None]
    assert all("content" not in each and each["audit_entry_id"] for each in found)
    shown = await get(http, f"/v1/history/{agent['id']}/revisions/3")
    assert (shown["content"]["tags"], shown["content"]["max_iterations"]) == (["a"], 5)
    diff = await get(http, f"/v1/history/{agent['id']}/diff", **{"from": 1})
    assert (diff["from_revision"], diff["to_revision"]) == (1, 4)
    assert {each["path"] for each in diff["changes"]} == {
        "/description",
        "/name",
        "/tags",
        "/max_iterations",
        "/status",
    }
    diff = await get(http, f"/v1/history/{agent['id']}/diff", **{"from": 2, "to": 1})
    assert diff["changes"] == [{"op": "replace", "path": "/description", "value": "One", "old": "Two"}]
    of_all = (await get(http, "/v1/history", kind="agent", action="agent.archived"))["data"]
    assert [each["entity_id"] for each in of_all] == [agent["id"]]
    second = await revisions(http, agent["id"], before=found[1]["id"])
    assert second == found[2:]
    page = await get(http, f"/v1/history/{agent['id']}", limit=2)
    assert (page["has_more"], page["next_before"], page["data"]) == (True, found[1]["id"], found[:2])
    for wrong in ("0", "x", "99999999999", "-1"):
        answer = await http.get(f"/v1/history/{agent['id']}/revisions/{wrong}")
        assert answer.status_code in (400, 404), wrong
    assert refusal(await http.get(f"/v1/history/{agent['id']}/revisions/5")) == (404, "revision_not_found")
    assert refusal(await http.get(f"/v1/history/agent_{'0' * 32}")) == (404, "agent_not_found")


async def test_a_restored_agent_is_as_it_was_and_makes_a_revision_and_a_version(
    http: httpx.AsyncClient,
) -> None:
    tool = {"type": "client_side", "name": "look", "description": "Look.", "parameters": {"type": "object"}}
    agent = await new_agent(
        http, description="One", tags=["a"], tools=[tool], capabilities=[{"ref": "current_time"}]
    )
    path = f"/v1/agents/{agent['id']}"
    before = (await http.get(path)).json()
    await patch(http, path, {"name": fresh("other"), "description": None, "tags": [], "tools": []})
    await http.delete(path)
    restored = await restore(http, agent["id"], 1)
    assert (restored["revision"], restored["action"], restored["reason"]) == (
        4,
        "agent.restored",
        "Restores revision 1",
    )
    after = (await http.get(path)).json()
    assert {name for name in before if before[name] != after[name]} == {"updated_at"}
    versions = await get(http, f"{path}/versions")
    assert versions[0]["change_kind"] == "rollback"
    again = await restore(http, agent["id"], 1)
    assert again == restored, "it has that state already"
    assert len(await revisions(http, agent["id"])) == 4
    await restore(http, agent["id"], 2, fields=["description", "tags"])
    partly = (await http.get(path)).json()
    assert (partly["name"], partly["tools"], partly.get("description")) == (
        before["name"],
        before["tools"],
        None,
    )
    refused = await http.post(f"/v1/history/{agent['id']}/restore", json={"revision": 1, "fields": ["id"]})
    assert refusal(refused) == (400, "invalid_request")


async def test_an_archived_one_is_found_by_its_name_as_long_as_no_other_had_it(
    http: httpx.AsyncClient,
) -> None:
    for kind, make, places in (("agent", new_agent, "agents"), ("harness", new_harness, "harnesses")):
        first = await make(http, description="One")
        name = first["name"]
        await http.delete(f"/v1/{places}/{first['id']}")
        shown = await get(http, f"/v1/history/{name}", kind=kind)
        assert {each["entity_id"] for each in shown["data"]} == {first["id"]}
        await restore(http, name, 1, kind=kind)
        assert (await get(http, f"/v1/{places}/{first['id']}"))["status"] == "active"
        await http.delete(f"/v1/{places}/{first['id']}")
        second = await make(http, name=name)
        shown = await get(http, f"/v1/history/{name}", kind=kind)
        assert {each["entity_id"] for each in shown["data"]} == {second["id"]}
        await http.delete(f"/v1/{places}/{second['id']}")
        answer = await http.get(f"/v1/history/{name}", params={"kind": kind})
        assert refusal(answer) == (400, "invalid_request")
        assert first["id"] in answer.json()["detail"]
        assert second["id"] in answer.json()["detail"]
    headers = await elsewhere(http)
    answer = await http.get(f"/v1/history/{name}", params={"kind": "harness"}, headers=headers)
    assert refusal(answer) == (404, "harness_not_found")


async def test_an_unseen_change_is_not_overwritten_and_a_repetition_restores_once(
    http: httpx.AsyncClient,
) -> None:
    agent = await new_agent(http, description="0")
    path = f"/v1/agents/{agent['id']}"
    for number in range(3):
        await patch(http, path, {"description": str(number + 1)})
    refused = await http.post(
        f"/v1/history/{agent['id']}/restore", json={"revision": 1, "expected_revision": 3}
    )
    assert refusal(refused) == (409, "revision_conflict")
    key = {"idempotency-key": fresh("key")}
    body = {"revision": 1, "expected_revision": 4}
    at = f"/v1/history/{agent['id']}/restore"
    answers = await asyncio.gather(*(http.post(at, json=body, headers=key) for _ in range(6)))
    assert {each.status_code for each in answers} == {200}
    assert len({each.content for each in answers}) == 1
    assert len(await revisions(http, agent["id"])) == 5
    at_once = await asyncio.gather(
        *(
            http.post(at, json={"revision": number, "expected_revision": 5, "fields": ["description"]})
            for number in (2, 3, 4)
        )
    )
    assert sorted(each.status_code for each in at_once) == [200, 409, 409]
    found = await revisions(http, agent["id"])
    assert [each["revision"] for each in found] == [6, 5, 4, 3, 2, 1]


async def test_changes_at_once_make_revisions_without_a_gap(http: httpx.AsyncClient) -> None:
    agent = await new_agent(http, description="start")
    path = f"/v1/agents/{agent['id']}"
    answers = await asyncio.gather(*(http.patch(path, json={"description": str(n)}) for n in range(12)))
    assert {each.status_code for each in answers} == {200}
    found = await revisions(http, agent["id"])
    assert [each["revision"] for each in found] == list(range(13, 0, -1))
    last = await get(http, f"/v1/history/{agent['id']}/revisions/13")
    assert last["content"]["description"] == (await http.get(path)).json()["description"]


async def test_harnesses_have_a_history_too_by_id_and_by_name(http: httpx.AsyncClient) -> None:
    parent = await new_harness(http)
    harness = await new_harness(http, description="One", parent_harness_id=parent["id"])
    path = f"/v1/harnesses/{harness['id']}"
    await patch(http, path, {"description": "Two", "parent_harness_id": None})
    assert (await http.get(f"/v1/history/{harness['name']}")).status_code == 404, "a name is an agent's"
    found = await revisions(http, harness["name"], kind="harness")
    assert [each["action"] for each in found] == ["harness.updated", "harness.created"]
    restored = await restore(http, harness["name"], 1, kind="harness")
    assert restored["action"] == "harness.restored"
    after = (await http.get(path)).json()
    assert (after["description"], after["parent_harness_id"]) == ("One", parent["id"])
    wrong = await http.get(f"/v1/history/{harness['id']}", params={"kind": "agent"})
    assert wrong.status_code == 400
    await http.delete(f"/v1/harnesses/{parent['id']}")
    await patch(http, path, {"parent_harness_id": None})
    refused = await http.post(f"/v1/history/{harness['id']}/restore", json={"revision": 1})
    assert refusal(refused) == (400, "harness_archived")


async def test_an_agent_from_before_there_was_a_history_gets_its_state_with_the_next_change(
    any_server: Server,
) -> None:
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as http:
        agent = await new_agent(http, description="Old")
        await _forget(any_server)
        assert await revisions(http, agent["id"]) == []
        refused = await http.post(f"/v1/history/{agent['id']}/restore", json={"revision": 1})
        assert refusal(refused) == (404, "revision_not_found")
        await patch(http, f"/v1/agents/{agent['id']}", {"description": "New"})
        found = await revisions(http, agent["id"])
        assert [(each["revision"], each["action"], each["actor"]["type"]) for each in found] == [
            (2, "agent.updated", "user"),
            (1, "agent.found", "server"),
        ]
        assert "audit_entry_id" not in found[1]
        await restore(http, agent["id"], 1)
        assert (await get(http, f"/v1/agents/{agent['id']}"))["description"] == "Old"


async def _forget(server: Server) -> None:
    """Leave no revisions, as a release before has it."""
    from tests.journeys.test_audit import executed

    opened = "INSERT INTO audit_gate (one) VALUES (1); DELETE FROM revisions; DELETE FROM audit_gate"
    assert await executed(server, opened) == ""


async def test_members_restore_agents_but_loosen_nothing_and_no_harness(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        guarded = [{"ref": "tool_approval", "config": {"mode": "protective"}}]
        agent = await new_agent(owner, description="One")
        path = f"/v1/agents/{agent['id']}"
        await patch(owner, path, {"description": "Two"})
        await patch(owner, path, {"capabilities": guarded})
        harness = await new_harness(owner)
        await patch(owner, f"/v1/harnesses/{harness['id']}", {"description": "Two"})
        _, theirs = await add_member(owner, "eve")
        async with person(any_server, theirs) as eve:
            mine = await eve.patch(path, json={"capabilities": []})
            refused = await eve.post(f"/v1/history/{agent['id']}/restore", json={"revision": 1})
            assert refusal(refused) == refusal(mine)
            some = {"revision": 1, "fields": ["description"]}
            allowed = await eve.post(f"/v1/history/{agent['id']}/restore", json=some)
            assert allowed.status_code == 200, allowed.text
            refused = await eve.post(f"/v1/history/{harness['id']}/restore", json={"revision": 1})
            assert refusal(refused) == (403, "role_required")


async def test_commands_and_the_client_show_and_restore(http: httpx.AsyncClient, any_server: Server) -> None:
    url = any_server.url
    agent = await new_agent(http, description="One")
    name = agent["name"]
    async with Client(url, reason="Grund: größer") as client:
        await client.update_agent(name, description="Two")
        org_id = (await client.identity()).organization_id
        log = await client.list_audit_logs(org_id, entity_id=agent["id"], limit=1)
        assert (log.data[0].reason, log.has_more) == ("Grund: größer", True)
        every = [each async for each in client.iterate_audit_logs(org_id, entity_id=agent["id"])]
        assert [each.action for each in every] == ["agent.updated", "agent.created"]
        exported = await client.export_audit_logs(org_id, "csv", entity_id=agent["id"])
        assert exported.count(b"agent.") >= 2
        with pytest.raises(Conflict):
            await client.restore_entity_revision(name, 1, expected_revision=1)
        assert (await client.list_org_history(kind="agent", limit=1)).data[0].entity_id == agent["id"]
    listed = (await perdure("history", "list", name, url=url)).out.splitlines()
    assert [line.split("\t")[2:4] for line in listed[1:]] == [["2", "agent.updated"], ["1", "agent.created"]]
    shown = await perdure("history", "show", name, "1", url=url)
    assert "description\tOne" in shown.out
    diff = await perdure("history", "diff", name, "1", url=url)
    assert diff.out.splitlines() == ["/description", "  - One", "  + Two"]
    done = await perdure("history", "restore", name, "1", "--expect", "2", "--reason", "Back", url=url)
    assert done.out == f"{name} is at revision 3\n", done.err
    stale = await perdure("history", "restore", name, "2", "--expect", "2", url=url)
    assert (stale.status, "newest revision is 3" in stale.err) == (1, True)
    nothing = await perdure("history", "restore", name, "1", url=url)
    assert nothing.out == f"nothing to restore: {name} is like that already, at revision 3\n"
    prompt = "\n".join(f"Rule {number}." for number in range(20))
    async with Client(url) as client:
        await client.update_agent(name, system_prompt=prompt)
        await client.update_agent(name, system_prompt=prompt.replace("Rule 9.", "Rule nine."))
        found = await client.list_audit_logs(org_id, entity_id=agent["id"], limit=1)
    diff = await perdure("history", "diff", name, "4", "5", url=url)
    lines = diff.out.splitlines()
    assert (lines[0], lines[1]) == ("/system_prompt", "  ... 6 unchanged lines ...")
    assert lines[5:7] == ["  - Rule 9.", "  + Rule nine."]
    assert len(lines) == 11
    whole = await perdure("audit", "show", found.data[0].id, url=url)
    assert lines[1:] == whole.out.splitlines()[-10:]
    same = await perdure("history", "diff", name, "1", "3", url=url)
    assert same.out == "The revisions are equal.\n"
    audit = await perdure("audit", "--entity", agent["id"], url=url)
    rows = [line.split("\t")[3:] for line in audit.out.splitlines()[1:]]
    assert rows[2] == ["agent.restored", name, "description", "Back"]
    assert len(rows) == 5
    lines = await perdure("audit", "--entity", agent["id"], "--export", "-", url=url)
    assert len(lines.out.splitlines()) == 5
    reason = {"PERDURE_REASON": "From the environment"}
    await perdure("agents", "create", fresh("cli"), "--prompt", "x", url=url, **reason)
    newest = await perdure("audit", "--limit", "1", "--type", "agent", url=url)
    assert newest.out.splitlines()[1].endswith("From the environment")
