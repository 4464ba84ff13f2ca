"""The audit log: every change leaves one entry, whose secrets nobody can read and which nobody can change."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import signal
import sqlite3
import sys
from typing import Any

import asyncpg
import httpx
import pytest

from perdure.api.kernel.audits import OPERATIONS
from perdure.domain.audits import ACTIONS
from perdure.routing import ThisProcess, all_routes, door_routes
from perdure.settings import Settings
from perdure.store.audit_tables import Audited
from tests.browser import Browser
from tests.command import LIMIT, perdure
from tests.command import environment as clean_environment
from tests.journeys import audit_walk
from tests.journeys.audit_walk import SECRET, Walk
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import fresh, get, patch
from tests.journeys.whole_api import Place
from tests.oauth_server import oauth_server
from tests.server import Server, post
from tests.talk import Json


@pytest.fixture
def environment() -> dict[str, str]:
    return {"PERDURE_PRIVATE_ADDRESSES": "true"}


def test_every_operation_that_changes_something_has_a_line_in_the_table() -> None:
    routes = (*all_routes(Settings(), ThisProcess()), *door_routes(asyncio.Event()))
    names = {each.operation_id for each in routes}
    changing = {each.operation_id for each in routes if each.method != "GET"}
    assert changing - OPERATIONS.keys() == set(), "say in api/kernel/audits.py what they leave"
    assert OPERATIONS.keys() - names == set()
    assert {name for name, what in OPERATIONS.items() if isinstance(what, str) and len(what) < 20} == set()
    hot = ("create_message", "create_run", "submit_tool_results", "submit_tool_approvals", "mcp")
    assert not any(isinstance(OPERATIONS[name], Audited) for name in hot), "they use the plain database"


def test_the_table_of_actions_has_what_operations_do_and_nothing_else() -> None:
    possible, certain = set[str](), set[str]()
    for what in OPERATIONS.values():
        for watched in what.kinds if isinstance(what, Audited) else ():
            verbs = (
                [what.verb] if isinstance(what, Audited) and what.verb else ["created", "updated", "deleted"]
            )
            actions = {f"{watched.type}.{verb}" for verb in verbs}
            possible |= actions
            certain |= actions if len(actions) == 1 else set()
    listed = {f"{kind}.{verb}" for kind, verbs in ACTIONS.items() for verb in verbs}
    assert (listed - possible, certain - listed) == (set(), set())
    assert {each.partition(".")[0] for each in possible} == ACTIONS.keys()


async def test_every_audited_operation_leaves_exactly_one_entry(any_server: Server) -> None:
    token = await with_login(any_server)
    async with (
        person(any_server, token) as http,
        oauth_server() as crm,
        Browser() as browser,
    ):
        org = (await get(http, "/v1/orgs"))["data"][0]["id"]
        http.headers["x-org-id"] = org
        place = Place(http)
        await place.fill()
        walk = Walk(http, org)
        await audit_walk.walk_sessions(walk)
        await audit_walk.walk_agents(walk)
        await audit_walk.walk_people(walk, "Ada")
        await audit_walk.walk_models(walk)
        await audit_walk.walk_files(walk)
        await audit_walk.walk_skills(walk)
        task = f"/v1/sessions/{place.values['session_id']}/tasks/{place.values['task_id']}"
        await audit_walk.walk_hooks(walk, task, place.values["item_id"])
        await audit_walk.walk_mcp(walk, crm, browser)
        exported = await http.get(f"/v1/orgs/{org}/audit-logs", params={"format": "ndjson"})
        await audit_walk.walk_out(walk, any_server, token)
    done = {each["action"] for each in walk.entries}
    assert done <= {f"{kind}.{verb}" for kind, verbs in ACTIONS.items() for verb in verbs}
    audited = {name for name, what in OPERATIONS.items() if isinstance(what, Audited)}
    elsewhere = {"retry_dead_letter"}  # test_workflows
    assert audited - walk.done == elsewhere
    assert SECRET not in exported.text


async def log_of(http: httpx.AsyncClient, **query: Any) -> list[Json]:
    """The entries that match, newest first."""
    org = (await get(http, "/v1/orgs"))["data"][0]["id"]
    found: list[Json] = (await get(http, f"/v1/orgs/{org}/audit-logs", **query))["data"]
    return found


async def test_entries_are_found_by_each_filter_and_come_in_pages(http: httpx.AsyncClient) -> None:
    agents = [await post(http, "/v1/agents", {"name": fresh("a"), "system_prompt": "x"}) for _ in range(5)]
    path = f"/v1/agents/{agents[0]['id']}"
    await patch(http, path, {"description": "One."})
    session = await post(http, "/v1/sessions", {"title": "Filtered"})
    kept = {"secrets": {"KEY": "value of the key"}}
    await http.put(f"/v1/sessions/{session['id']}/storage/secrets", json=kept)
    everything = await log_of(http, limit=1000)
    assert [each["id"] for each in everything] == sorted((each["id"] for each in everything), reverse=True)
    of_agent = await log_of(http, entity_id=agents[0]["id"])
    assert [each["action"] for each in of_agent] == ["agent.updated", "agent.created"]
    assert await log_of(http, action="agent.updated") == of_agent[:1]
    assert await log_of(http, event_type="agent.updated") == of_agent[:1]
    for query in ({"action": "agent.*"}, {"domain": "agent"}, {"entity_type": "agent"}):
        assert len(await log_of(http, **query)) == 6
    of_session = await log_of(http, session_id=session["id"])
    assert [each["action"] for each in of_session] == ["secret.created", "session.created"]
    assert of_session[0]["entity"]["id"] == f"{session['id']}/KEY"
    assert await log_of(http, actor_id=everything[0]["actor"]["id"], limit=1000) == everything
    assert await log_of(http, actor_id="user_" + "0" * 32) == []
    assert await log_of(http, outcome="denied") == []
    middle = everything[3]
    newer = await log_of(http, after=middle["id"])
    assert newer == everything[:3]
    assert await log_of(http, before=middle["id"], limit=1000) == everything[4:]
    since = await log_of(http, since=middle["created_at"])
    assert since == [each for each in everything if each["created_at"] >= middle["created_at"]]
    until = await log_of(http, until=middle["created_at"], limit=1000)
    assert since + until == everything
    org = middle["organization_id"]
    paged: list[Json] = []
    query: Json = {"limit": 3}
    while True:
        page = await get(http, f"/v1/orgs/{org}/audit-logs", **query)
        paged += page["data"]
        assert page["has_more"] is ("next_before" in page)
        if not page["has_more"]:
            break
        query["before"] = page["next_before"]
    assert paged == everything
    for wrong in ({"since": "yesterday"}, {"before": "x"}, {"limit": "0"}, {"format": "xml"}):
        assert (await http.get(f"/v1/orgs/{org}/audit-logs", params=wrong)).status_code == 400


async def test_an_export_has_all_entries_as_lines_or_as_a_table(http: httpx.AsyncClient) -> None:
    for number in range(4):
        prompt = '=1+1, "quoted"' if number else "x"
        await post(http, "/v1/agents", {"name": fresh("a"), "system_prompt": prompt, "description": "ö\n"})
    reason = {"perdure-reason": "=HYPERLINK(1)"}
    await http.post("/v1/agents", json={"name": fresh("a"), "system_prompt": "x"}, headers=reason)
    everything = await log_of(http, limit=1000)
    path = f"/v1/orgs/{everything[0]['organization_id']}/audit-logs"
    for asked in (
        {"params": {"format": "ndjson", "limit": 1}},
        {"headers": {"accept": "application/x-ndjson"}},
    ):
        answer = await http.get(path, **asked)  # type: ignore[arg-type]
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in answer.text.splitlines()] == everything
    for asked in ({"params": {"format": "csv"}}, {"headers": {"accept": "text/csv;q=1, */*"}}):
        answer = await http.get(path, **asked)  # type: ignore[arg-type]
        assert "attachment" in answer.headers["content-disposition"]
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [row["id"] for row in rows] == [each["id"] for each in everything]
        assert json.loads(rows[1]["after"]) == everything[1]["after"]
        assert rows[0]["reason"] == "'=HYPERLINK(1)", "no spreadsheet takes it for a formula"
    assert (await http.get(path, params={"format": "csv", "domain": "none"})).text.count("\n") == 1


async def test_who_may_not_change_something_leaves_an_entry_and_cannot_read_it(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        org = (await get(owner, "/v1/orgs"))["data"][0]["id"]
        user, theirs = await add_member(owner, "eve")
        other = (await post(owner, "/v1/orgs", {"name": "Other"}))["id"]
        owner.headers["x-org-id"] = org
        async with person(any_server, theirs) as eve:
            refused = await eve.patch(f"/v1/orgs/{org}", json={"name": "Eve's"})
            assert refused.status_code == 403
            assert (
                await eve.post("/v1/providers", json={"name": "x", "provider_type": "llmsim"})
            ).status_code == 403
            assert (await eve.get(f"/v1/orgs/{org}/audit-logs")).status_code == 403
            assert (await eve.get(f"/v1/orgs/{org}/audit-logs", params={"format": "csv"})).status_code == 403
            assert (await eve.get(f"/v1/orgs/{other}/audit-logs")).status_code == 404
            assert (await get(eve, "/v1/history"))["data"] == []
        found = (await get(owner, f"/v1/orgs/{org}/audit-logs", outcome="denied"))["data"]
        assert [(each["action"], each["entity"]["id"], each["rows_changed"]) for each in found] == [
            ("provider.created", org, 0),
            ("organization.updated", org, 0),
        ]
        assert {(each["actor"]["id"], each["actor"]["token_name"]) for each in found} == {(user["id"], "eve")}
        assert all("before" not in each and "after" not in each for each in found)


async def test_a_repeated_request_and_one_that_changes_nothing_leave_no_entry(
    http: httpx.AsyncClient,
) -> None:
    body, key = {"name": fresh("a"), "system_prompt": "x"}, {"idempotency-key": fresh("key")}
    answers = await asyncio.gather(*(http.post("/v1/agents", json=body, headers=key) for _ in range(8)))
    assert {each.status_code for each in answers} == {201}
    agent = answers[0].json()
    path = f"/v1/agents/{agent['id']}"
    await patch(http, path, {})
    await patch(http, path, {"system_prompt": "x"})
    found = await log_of(http, entity_id=agent["id"])
    assert [each["action"] for each in found] == ["agent.created"]
    assert len((await get(http, f"/v1/history/{agent['id']}"))["data"]) == 1
    refused = await http.patch(path, json={"default_model_id": "model_" + "0" * 32})
    assert refused.status_code == 404
    assert await log_of(http, entity_id=agent["id"]) == found


async def test_a_key_that_was_replaced_is_seen_and_not_read(http: httpx.AsyncClient) -> None:
    body = {"name": "Keyed", "provider_type": "llmsim", "api_key": SECRET}
    provider = await post(http, "/v1/providers?check=false", body)
    path = f"/v1/providers/{provider['id']}?check=false"
    await patch(http, path, {"api_key": f"{SECRET}-2"})
    await patch(http, path, {"api_key": SECRET})
    await patch(http, path, {"api_key": SECRET})
    back, there, made = await log_of(http, entity_id=provider["id"])
    assert made["after"]["secrets"] == there["before"]["secrets"] == back["after"]["secrets"]
    assert there["after"]["secrets"] == back["before"]["secrets"] != made["after"]["secrets"]
    assert SECRET not in str((back, there, made))


async def test_reasons_are_bounded_and_come_with_commands_too(http: httpx.AsyncClient) -> None:
    agent = await post(http, "/v1/agents", {"name": fresh("a"), "system_prompt": "x"})
    path = f"/v1/agents/{agent['id']}"
    refused = await http.patch(path, json={"description": "x"}, headers={"perdure-reason": "x" * 1001})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_reason")
    for reason in ("x" * 1000, "mit Umlaut: ü".encode(), b"\x80\xff"):
        headers = {"perdure-reason": reason, "user-agent": "a" * 2000}
        changed = await http.patch(path, json={"description": str(reason)}, headers=headers)  # type: ignore[arg-type]
        assert changed.status_code == 200
    command = {"params": {"agent_id": agent["id"], "description": "C."}, "reason": "By a command"}
    assert (await http.post("/v1/commands/update_agent", json=command)).status_code == 200
    found = await log_of(http, entity_id=agent["id"])
    assert [each.get("reason") for each in found] == [
        "By a command",
        "\ufffd\ufffd",
        "mit Umlaut: ü",
        "x" * 1000,
        None,
    ]
    assert found[0]["operation"] == "update_agent"
    assert found[1]["user_agent"] == "a" * 300


async def test_a_folder_that_is_deleted_is_one_entry(http: httpx.AsyncClient) -> None:
    session = await post(http, "/v1/sessions", {})
    base = f"/v1/sessions/{session['id']}/fs"
    for number in range(120):
        await post(http, f"{base}/many/{number}.txt", {"content": str(number)})
    assert (await http.delete(f"{base}/many", params={"recursive": "true"})).status_code < 300
    found = (await log_of(http, entity_type="file"))[0]
    assert (found["action"], found["rows_changed"] > 100) == ("file.deleted", True)
    assert len(await log_of(http, action="file.deleted")) == 1


async def test_a_key_that_the_command_makes_leaves_an_entry_of_the_server(any_server: Server) -> None:
    await any_server.stop()
    data, url = ("--data", str(any_server.data)), any_server.database_url
    more = {"PERDURE_DATABASE_URL": url} if url else {}
    token = (await perdure("keys", "create", "--name", "made here", *data, **more)).out.split()[-1]
    await any_server.start()
    async with person(any_server, token) as http:
        (entry,) = await log_of(http)
    assert (entry["action"], entry["operation"]) == ("token.created", "perdure keys create")
    assert (entry["actor"], entry["entity"]["name"]) == ({"type": "server"}, "made here")
    assert token not in str(entry)


async def test_the_log_is_followed_until_ctrl_c(any_server: Server) -> None:
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as http:
        first = await post(http, "/v1/agents", {"name": fresh("first"), "system_prompt": "x"})
        command = (sys.executable, "-m", "perdure", "audit", "--follow", "--limit", "1")
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env=clean_environment(any_server.url)
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(LIMIT):
                assert (await process.stdout.readline()).startswith(b"ID\tTIME")
                assert first["name"].encode() in await process.stdout.readline()
                later = await post(http, "/v1/agents", {"name": fresh("later"), "system_prompt": "x"})
                assert later["name"].encode() in await process.stdout.readline()
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_nobody_can_change_or_delete_an_entry_in_the_database(any_server: Server) -> None:
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as http:
        agent = await post(http, "/v1/agents", {"name": fresh("a"), "system_prompt": "x"})
        before = await log_of(http), await get(http, f"/v1/history/{agent['id']}")
        statements = [
            f"{change} {table}{more}"
            for table in ("audit_entries", "revisions")
            for change, more in (("UPDATE", " SET reason = 'none'"), ("DELETE FROM", ""))
        ]
        refusals = [await executed(any_server, each) for each in statements]
        assert all("append-only" in each for each in refusals), refusals
        assert (await log_of(http), await get(http, f"/v1/history/{agent['id']}")) == before


async def executed(server: Server, sql: str) -> str:
    """Run a statement on the server's database; return why it was refused."""
    if server.database_url:
        connection = await asyncpg.connect(server.database_url)
        try:
            await connection.execute(sql)
        except asyncpg.PostgresError as error:
            return str(error)
        finally:
            await connection.close()
    else:
        with contextlib.closing(sqlite3.connect(server.data / "perdure.db")) as file:
            try:
                file.executescript(sql)
            except sqlite3.Error as error:
                return str(error)
    return ""
