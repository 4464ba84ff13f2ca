"""MCP servers are registered, listed, changed, archived and deleted; their secrets go nowhere else."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.world import refusal
from tests.server import Server, post
from tests.talk import Json

URL = "https://mcp.invalid/mcp"
"""A name that never exists, so nothing is looked up or reached."""
SECRETS = ("k3y-value", "t0ken-value")


async def add(http: httpx.AsyncClient, name: str = "Issues", **fields: Any) -> Json:
    return await post(http, "/v1/mcp-servers", {"name": name, "url": URL, **fields})


async def patch(http: httpx.AsyncClient, server: Json, body: Json, status: int = 200) -> Json:
    found = await http.patch(server["self_url"], json=body)
    assert found.status_code == status, found.text
    changed: Json = found.json()
    return changed


async def names(http: httpx.AsyncClient, **params: Any) -> list[str]:
    found = await http.get("/v1/mcp-servers", params=params)
    return [each["name"] for each in found.json()["data"]]


async def test_a_server_is_registered_and_its_secrets_are_never_returned(http: httpx.AsyncClient) -> None:
    server = await add(
        http,
        "Issue tracker",
        description="Where bugs go.",
        api_key=SECRETS[0],
        headers={"X-Token": SECRETS[1], "X-User": "{{secret:USER_TOKEN}}"},
        tool_timeout_ms=5000,
        approval={"*": "ask", "list_issues": "auto"},
        denied_tools=["drop_database"],
        acts_as="user",
        deferred=True,
    )
    assert server["id"].startswith("mcp_")
    assert (server["slug"], server["status"], server["transport_type"]) == ("issue_tracker", "active", "http")
    assert (server["auth_mode"], server["api_key_set"]) == ("api_key", True)
    assert server["headers"] == {"X-Token": "***", "X-User": "{{secret:USER_TOKEN}}"}
    assert (server["tool_timeout_ms"], server["acts_as"], server["deferred"]) == (5000, "user", True)
    read = await http.get(server["self_url"])
    assert read.json() == server
    listed = (await http.get("/v1/mcp-servers")).text
    assert not any(secret in text for secret in SECRETS for text in (read.text, listed))


async def test_slugs_are_unique_and_stay_when_the_name_changes(http: httpx.AsyncClient) -> None:
    slugs = [(await add(http, name))["slug"] for name in ("Issues!", "issues", "ISSUES", "問題")]
    assert slugs[:3] == ["issues", "issues_2", "issues_3"]
    assert slugs[3].startswith("s")
    first = (await http.get("/v1/mcp-servers")).json()["data"][0]
    renamed = await patch(http, first, {"name": "Bugs"})
    assert (renamed["name"], renamed["slug"]) == ("Bugs", "issues")
    assert (await http.post(f"{first['self_url']}/delete")).status_code == 204
    assert (await add(http, "issues"))["slug"] == "issues"


async def test_servers_that_are_registered_at_once_get_different_slugs(http: httpx.AsyncClient) -> None:
    made = await asyncio.gather(*(add(http, "Issues") for _ in range(6)))
    assert sorted(each["slug"] for each in made) == [
        "issues",
        *(f"issues_{number}" for number in range(2, 7)),
    ]


async def test_a_repeated_registration_with_the_same_key_makes_one_server(http: httpx.AsyncClient) -> None:
    body, key = {"name": "Issues", "url": URL}, {"Idempotency-Key": "once"}
    first, second = [await http.post("/v1/mcp-servers", json=body, headers=key) for _ in range(2)]
    assert first.json() == second.json()
    assert await names(http) == ["Issues"]


async def test_lists_are_searched_and_hide_archived_servers(http: httpx.AsyncClient) -> None:
    one, two = await add(http, "One", description="About 100% of it"), await add(http, "Two")
    assert await names(http) == ["One", "Two"]
    assert await names(http, search="100%") == ["One"]
    assert await names(http, search="0_%") == []
    assert (await http.delete(two["self_url"])).status_code == 204
    assert (await http.delete(two["self_url"])).status_code == 204
    assert await names(http) == ["One"]
    assert await names(http, include_archived=True) == ["One", "Two"]
    archived = (await http.get(two["self_url"])).json()
    assert (archived["status"], archived["archived_at"] is None) == ("archived", False)
    restored = await patch(http, two, {"status": "active"})
    assert (restored["status"], restored.get("archived_at")) == ("active", None)
    await patch(http, one, {"status": "disabled"})
    assert await names(http) == ["One", "Two"]
    assert refusal(await http.patch(one["self_url"], json={"status": "deleted"})) == (400, "invalid_request")


async def test_a_deleted_server_is_gone_with_its_secrets_and_breaks_no_agent(http: httpx.AsyncClient) -> None:
    server = await add(http, api_key=SECRETS[0])
    agent = await post(
        http,
        "/v1/agents",
        {"name": "helper", "system_prompt": "Help.", "capabilities": [{"ref": f"mcp:{server['id']}"}]},
    )
    session = await post(http, "/v1/sessions", {"agent_id": agent["id"]})
    assert (await http.post(f"{server['self_url']}/delete")).status_code == 204
    assert refusal(await http.get(server["self_url"])) == (404, "mcp_server_not_found")
    assert refusal(await http.post(f"{server['self_url']}/delete")) == (404, "mcp_server_not_found")
    found = (await http.get(f"/v1/sessions/{session['id']}/mcp-servers")).json()["data"]
    assert [(each["server_id"], each["available"]) for each in found] == [(server["id"], False)]
    assert (await http.get(f"/v1/sessions/{session['id']}")).status_code == 200
    changed = await http.patch(f"/v1/agents/{agent['id']}", json={"description": "Still here."})
    assert changed.status_code == 200
    assert (await http.post(f"/v1/agents/{agent['id']}/copy")).status_code == 201


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"transport_type": "stdio"}, "transport_type", "stdio_not_allowed"),
        ({"url": "ftp://example.com/mcp"}, "url", "invalid_mcp_url"),
        ({"url": "http://example.com:22/mcp"}, "url", "invalid_mcp_url"),
        ({"url": "http://["}, "url", "invalid_mcp_url"),
        ({"url": "https://me:pw@example.com/mcp"}, "url", "secret_in_url"),
        ({"url": "https://example.com/mcp?api_key=1"}, "url", "secret_in_url"),
        ({"url": "http://127.0.0.1:9999/mcp"}, "url", "mcp_address_refused"),
        ({"url": "http://localhost:9999/mcp"}, "url", "mcp_address_refused"),
        ({"url": "http://[::ffff:10.0.0.1]/mcp"}, "url", "mcp_address_refused"),
        ({"url": "http://0x7f000001/mcp"}, "url", "mcp_address_refused"),
        ({"url": "http://169.254.169.254/mcp"}, "url", "mcp_address_refused"),
        ({"url": "http://metadata.google.internal/mcp"}, "url", "mcp_address_refused"),
        ({"headers": {"Host": "example.com"}}, "headers", "invalid_header"),
        ({"headers": {"Mcp-Session-Id": "1"}}, "headers", "invalid_header"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers", "invalid_header"),
        ({"headers": {"X Y": "1"}}, "headers", "invalid_header"),
        ({"headers": {"X-Y": "1\r\nX-Z: 2"}}, "headers", "invalid_header"),
        ({"headers": {"X-Y": "***"}}, "headers", "invalid_header"),
        ({"headers": {"X-Y": "{{secret:}}"}}, "headers", "invalid_header"),
        ({"headers": {"X-Y": "1", "x-y": "2"}}, "headers", "invalid_header"),
        ({"headers": {"Authorization": "Bearer 1"}, "api_key": "2"}, "headers", "invalid_header"),
        ({"api_key": "two\nlines"}, "api_key", "invalid_request"),
        ({"api_key": " "}, "api_key", "invalid_request"),
        ({"name": "a\u202eb"}, "name", "invalid_request"),
        ({"effect_key_header": "Content-Length"}, "effect_key_header", "invalid_header"),
        ({"headers": {"X-Y": "1"}, "effect_key_header": "x-y"}, "effect_key_header", "invalid_header"),
        ({"tool_timeout_ms": 0}, "tool_timeout_ms", "invalid_request"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(
    http: httpx.AsyncClient, fields: Json, field: str, code: str
) -> None:
    answer = await http.post("/v1/mcp-servers", json={"name": "Issues", "url": URL, **fields})
    assert refusal(answer) == (400, code)
    assert answer.json()["field"] == field
    assert await names(http) == []


async def test_a_command_needs_no_url_to_be_refused_and_any_other_server_does(
    http: httpx.AsyncClient,
) -> None:
    body = {"name": "Local", "transport_type": "stdio", "command": "npx", "args": ["server"]}
    command = await http.post("/v1/mcp-servers", json=body)
    assert refusal(command) == (400, "stdio_not_allowed")
    assert "PERDURE_MCP_SERVERS" in command.json()["detail"]
    missing = await http.post("/v1/mcp-servers", json={"name": "Local"})
    assert refusal(missing) == (400, "invalid_request")
    assert "`url` is missing" in missing.json()["detail"]


async def test_the_refusal_of_a_private_address_names_the_setting(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/mcp-servers", json={"name": "Inside", "url": "http://10.1.2.3/mcp"})
    assert "PERDURE_PRIVATE_ADDRESSES" in answer.json()["detail"]
    metadata = await http.post("/v1/mcp-servers", json={"name": "Inside", "url": "http://169.254.169.254/"})
    assert "PERDURE_PRIVATE_ADDRESSES" not in metadata.json()["detail"]


async def test_stored_headers_are_kept_replaced_and_removed(http: httpx.AsyncClient) -> None:
    server = await add(http, headers={"X-A": "one", "X-B": "two"})
    kept = await patch(http, server, {"headers": {"x-a": "***", "X-C": "{{secret:C}}"}})
    assert kept["headers"] == {"x-a": "***", "X-C": "{{secret:C}}"}
    assert refusal(await http.patch(server["self_url"], json={"headers": {"X-B": "***"}})) == (
        400,
        "invalid_header",
    )
    assert (await patch(http, server, {"headers": None})).get("headers") in (None, {})
    assert (await patch(http, server, {"api_key": "new"}))["api_key_set"] is True
    assert (await patch(http, server, {"api_key": None}))["api_key_set"] is False
    before = (await http.get(server["self_url"])).json()
    assert await patch(http, server, {}) == before


async def test_a_stored_secret_is_never_sent_to_a_new_host(http: httpx.AsyncClient) -> None:
    server = await add(http, api_key=SECRETS[0], headers={"X-Token": SECRETS[1]})
    elsewhere = "https://other.invalid/mcp"
    for body in (
        {"url": elsewhere},
        {"url": "http://mcp.invalid/mcp"},
        {"url": elsewhere, "api_key": "new"},
        {"url": elsewhere, "api_key": "new", "headers": {"X-Token": "***"}},
        {"url": elsewhere, "headers": None},
    ):
        assert refusal(await http.patch(server["self_url"], json=body)) == (400, "secret_would_move"), body
    moved = await patch(http, server, {"url": "https://mcp.invalid/other/path"})
    assert moved["api_key_set"] is True
    moved = await patch(http, server, {"url": elsewhere, "api_key": None, "headers": {"X-Token": "new"}})
    assert (moved["url"], moved["api_key_set"]) == (elsewhere, False)


async def test_tools_are_labelled(http: httpx.AsyncClient) -> None:
    server = await add(http)
    path = f"{server['self_url']}/tools/create%20issue/label"
    set_ = await http.put(path, json={"label": "New issue"})
    assert set_.json() == {"tool_name": "create issue", "label": "New issue"}
    assert (await http.put(path, json={})).json()["label"] is None
    assert refusal(await http.put(path, json={"label": "a\u202eb"})) == (400, "invalid_request")


async def test_a_server_that_cannot_be_reached_is_explained(http: httpx.AsyncClient) -> None:
    server = await add(http, headers={"X-User": "{{secret:USER}}"})
    found = (await http.post(f"{server['self_url']}/check-connection")).json()
    assert found["ok"] is False
    assert found["error"]["code"] == "name_not_found"
    assert "mcp.invalid" in found["error"]["message"]
    assert "X-User" in found["notes"][0]
    listed = await http.get(f"{server['self_url']}/tools")
    assert (listed.status_code, listed.json()["code"]) == (502, "mcp_server_unreachable")


# --- capabilities, agents, sessions ---------------------------------------------


async def test_servers_are_capabilities(http: httpx.AsyncClient) -> None:
    server, hidden = await add(http, "Issues"), await add(http, "Hidden")
    await patch(http, hidden, {"status": "disabled"})
    found = (await http.get("/v1/capabilities", params={"search": "issues"})).json()
    assert [(each["id"], each["is_mcp"]) for each in found["data"]] == [(f"mcp:{server['id']}", True)]
    everything = (await http.get("/v1/capabilities", params={"limit": 100})).json()
    assert everything["total"] == len(everything["data"])
    assert everything["data"][-1]["id"] == f"mcp:{server['id']}"
    last = {"offset": everything["total"] - 1, "limit": 5}
    assert (await http.get("/v1/capabilities", params=last)).json()["data"] == everything["data"][-1:]
    one = await http.get(f"/v1/capabilities/mcp:{server['id']}")
    assert one.json() == everything["data"][-1]
    missing = await http.get(f"/v1/capabilities/mcp:mcp_{'0' * 32}")
    assert refusal(missing) == (404, "mcp_server_not_found")
    assert refusal(await http.get("/v1/capabilities/mcp:x")) == (404, "capability_not_found")


async def test_an_unknown_server_is_refused_where_capabilities_are_set(http: httpx.AsyncClient) -> None:
    refs = {"capabilities": [{"ref": "current_time"}, {"ref": f"mcp:mcp_{'0' * 32}"}]}
    agent = await post(http, "/v1/agents", {"name": "helper", "system_prompt": "Help."})
    harness = await post(http, "/v1/harnesses", {"name": "base-of-mine"})
    answers = [
        await http.post("/v1/sessions", json=refs),
        await http.post("/v1/agents", json={"name": "other", "system_prompt": "Help.", **refs}),
        await http.post("/v1/harnesses", json={"name": "other", **refs}),
        await http.patch(f"/v1/agents/{agent['id']}", json=refs),
        await http.patch(f"/v1/harnesses/{harness['id']}", json=refs),
        await http.post("/v1/harnesses/preview", json=refs),
    ]
    assert [(*refusal(each), each.json()["field"]) for each in answers] == [
        (400, "unknown_capability", "capabilities[1]")
    ] * 6
    analysis = await http.post("/v1/agents/analyze", json={"system_prompt": "Help.", **refs})
    assert "unknown_capability" in [each["rule_id"] for each in analysis.json()["findings"]]


INLINE = {"url": URL, "headers": {"X-Team": "blue"}, "tool_timeout_ms": 9000, "approval": {"*": "ask"}}


async def test_inline_servers_are_kept_at_every_level_and_in_versions_and_files(
    http: httpx.AsyncClient,
) -> None:
    servers = {"mcpServers": {"Issues": INLINE}}
    harness = await post(http, "/v1/harnesses", {"name": "with-mcp", **servers})
    agent = await post(
        http,
        "/v1/agents",
        {"name": "with-mcp", "system_prompt": "Help.", "harness_id": harness["id"], **servers},
    )
    session = await post(http, "/v1/sessions", {"agent_id": agent["id"], **servers})
    copy = await post(http, f"/v1/agents/{agent['id']}/copy", {})
    for kept in (harness, agent, session, copy):
        assert kept["mcpServers"] == servers["mcpServers"]
    version = (await http.get(f"/v1/agents/{agent['id']}/versions")).json()[0]
    assert version["authored_config"]["mcpServers"] == servers["mcpServers"]
    text = (await http.get(f"/v1/agents/{agent['id']}/export")).text
    assert "mcpServers:" in text
    cleared = await http.patch(f"/v1/agents/{agent['id']}", json={"mcpServers": None})
    assert "mcpServers" not in cleared.json()
    imported = await http.post("/v1/agents/import", content=text, headers={"content-type": "text/markdown"})
    assert imported.json()["mcpServers"] == servers["mcpServers"]
    cleared = await http.patch(f"/v1/harnesses/{harness['id']}", json={"mcpServers": {}})
    assert "mcpServers" not in cleared.json()


@pytest.mark.parametrize(
    ("server", "field", "code"),
    [
        ({"type": "stdio", "command": "sh"}, "mcpServers.it.type", "stdio_not_allowed"),
        ({}, "mcpServers.it.url", "invalid_mcp_url"),
        ({"url": "http://192.168.0.1/mcp"}, "mcpServers.it.url", "mcp_address_refused"),
        (
            {"url": URL, "headers": {"Authorization": "Bearer 1"}},
            "mcpServers.it.headers",
            "literal_credential",
        ),
        ({"url": URL, "headers": {"X-Api-Key": "1"}}, "mcpServers.it.headers", "literal_credential"),
        ({"url": URL, "headers": {"Cookie": "a=b"}}, "mcpServers.it.headers", "literal_credential"),
        ({"url": URL, "headers": {"X-Access-Token": "***"}}, "mcpServers.it.headers", "literal_credential"),
        ({"url": URL, "headers": {"Connection": "close"}}, "mcpServers.it.headers", "invalid_header"),
    ],
)
async def test_an_inline_server_that_cannot_be_used_is_refused_everywhere(
    http: httpx.AsyncClient, server: Json, field: str, code: str
) -> None:
    servers = {"mcpServers": {"it": server}}
    agent = await post(http, "/v1/agents", {"name": "helper", "system_prompt": "Help."})
    for answer in (
        await http.post("/v1/sessions", json=servers),
        await http.post("/v1/agents", json={"name": "other", "system_prompt": "Help.", **servers}),
        await http.post("/v1/harnesses", json={"name": "other", **servers}),
        await http.patch(f"/v1/agents/{agent['id']}", json=servers),
    ):
        assert refusal(answer) == (400, code)
        assert answer.json()["field"] == field
    analysis = await http.post("/v1/agents/analyze", json={"system_prompt": "Help.", **servers})
    assert code in [each["rule_id"] for each in analysis.json()["findings"]]


async def test_an_inline_credential_may_stand_for_a_secret_of_the_session(http: httpx.AsyncClient) -> None:
    headers = {"Authorization": "Bearer {{secret:ISSUES_TOKEN}}"}
    session = await post(http, "/v1/sessions", {"mcpServers": {"it": {"url": URL, "headers": headers}}})
    assert session["mcpServers"]["it"]["headers"] == headers


async def test_a_sessions_servers_are_listed_by_level_and_its_own_can_be_removed(
    http: httpx.AsyncClient,
) -> None:
    registered = await add(http, "Registered", api_key=SECRETS[0])
    agent = await post(
        http,
        "/v1/agents",
        {
            "name": "helper",
            "system_prompt": "Help.",
            "mcpServers": {"Shared": INLINE, "Agents": INLINE},
        },
    )
    session = await post(
        http,
        "/v1/sessions",
        {
            "agent_id": agent["id"],
            "capabilities": [{"ref": f"mcp:{registered['id']}"}, {"ref": "current_time"}],
            "mcpServers": {"Shared": {"url": "https://own.invalid/mcp"}},
        },
    )
    base = f"/v1/sessions/{session['id']}/mcp-servers"

    async def listed() -> list[tuple[str, str, bool]]:
        found = (await http.get(base)).json()["data"]
        return [(each["name"], each["level"], each["removable"]) for each in found]

    assert await listed() == [
        ("Shared", "session", True),
        ("Agents", "agent", False),
        ("Registered", "session", True),
    ]
    assert refusal(await http.delete(f"{base}/Agents")) == (409, "mcp_server_inherited")
    assert refusal(await http.delete(f"{base}/Nobody")) == (404, "mcp_server_not_found")
    assert (await http.delete(f"{base}/{registered['id']}")).status_code == 204
    assert (await http.delete(f"{base}/Shared")).status_code == 204
    assert await listed() == [("Shared", "agent", False), ("Agents", "agent", False)]
    left = (await http.get(f"/v1/sessions/{session['id']}")).json()
    assert [each["ref"] for each in left["capabilities"]] == ["current_time"]
    assert "mcpServers" not in left


async def test_only_admins_change_servers_and_members_use_them(server: Server) -> None:
    token = await with_login(server)
    async with person(server, token) as owner:
        made = await add(owner)
        _, members = await add_member(owner, "carol")
    async with person(server, members) as member:
        assert (await member.get("/v1/mcp-servers/config")).json() == {
            "policies": {"mcp_server.manage": False}
        }
        assert await names(member) == ["Issues"]
        assert (await member.get(made["self_url"])).status_code == 200
        assert (await member.post(f"{made['self_url']}/check-connection")).status_code == 200
        for answer in (
            await member.post("/v1/mcp-servers", json={"name": "Mine", "url": URL}),
            await member.patch(made["self_url"], json={"name": "Mine"}),
            await member.delete(made["self_url"]),
            await member.post(f"{made['self_url']}/delete"),
        ):
            assert refusal(answer) == (403, "role_required")
