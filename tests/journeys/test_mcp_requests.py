"""`POST /mcp`: who may use it, and what each kind of wrong request is told."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import new_agent
from tests.mcp_client import ACCEPT, STATELESS, envelope, official_client, rpc, use_tool
from tests.server import Server, post
from tests.talk import Json, Talk, script, when

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
SLOW = script({"text": "At last.", "first_ms": 60_000})


async def send(
    http: httpx.AsyncClient,
    method: str,
    params: Json | None = None,
    *,
    stateless: bool,
    headers: Json | None = None,
    without: tuple[str, ...] = (),
) -> httpx.Response:
    """Send a request with some other headers, and without some."""
    body, own = envelope(method, params or {}, stateless=stateless)
    own = {name: value for name, value in {**own, **(headers or {})}.items() if name not in without}
    return await http.post("/mcp", json=body, headers=own)


def refusal(answer: httpx.Response) -> tuple[int, int, Any]:
    """The HTTP status, the code and the id of an error."""
    assert answer.headers["content-type"] == "application/json", answer.text
    body = answer.json()
    assert set(body) == {"jsonrpc", "id", "error"}
    assert body["error"]["message"]
    return answer.status_code, body["error"]["code"], body["id"]


# Who may use it.


async def test_each_organization_sees_and_reaches_its_own_only(any_server: Server) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as http:
        first = (await http.get("/v1/orgs")).json()["data"][0]["id"]
        second = (await post(http, "/v1/orgs", {"name": "Second"}))["id"]
    async with person(any_server, token, first) as mine, person(any_server, token, second) as others:
        agent = await new_agent(mine, expose_mcp=True)
        begun = await use_tool(mine, "start_session", agent=agent["name"], message=SLOW, wait_seconds=0)
        session = {"session_id": begun["session_id"]}
        assert f"agent_{agent['name']}" in [each["name"] for each in (await rpc(mine, "tools/list"))["tools"]]
        assert len((await rpc(others, "tools/list"))["tools"]) == 9
        params = {"name": f"agent_{agent['name']}", "arguments": {"message": "Hi"}}
        assert refusal(await send(others, "tools/call", params, stateless=True))[:2] == (400, -32602)
        assert (await use_tool(others, "list_sessions"))["total"] == 0
        assert (await use_tool(others, "list_agents"))["total"] == 0
        assert (await use_tool(others, "list_approvals")) == {"approvals": []}
        decision = {"tool_call_id": "call_1", "decision": "allow"}
        for tool, arguments in (
            ("send_message", {"message": "Hi"}),
            ("read_answer", {"wait_seconds": 5}),
            ("list_approvals", {}),
            ("decide_approval", decision),
            ("cancel_turn", {}),
        ):
            found = await use_tool(others, tool, **session, **arguments)
            assert found == {"failed": "session_not_found: no such session"}, tool
        named = await use_tool(others, "start_session", agent=agent["id"])
        assert named["failed"].startswith("agent_not_found")
        assert (await use_tool(mine, "read_answer", **session))["status"] == "active"
        await Talk(mine, begun["session_id"]).cancel()


async def test_a_token_is_needed_and_its_end_ends_the_waiting(any_server: Server) -> None:
    token = await with_login(any_server)
    body, headers = envelope("tools/list", {}, stateless=True)
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as nobody:
        for authorization in (None, "Bearer", "Bearer pdr_pat_" + "A" * 43, "Basic b3duZXI6", "x" * 5000):
            sent = headers if authorization is None else {**headers, "authorization": authorization}
            answer = await nobody.post("/mcp", json=body, headers=sent)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    async with person(any_server, token) as http:
        _, members = await add_member(http, "bob")
        soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
        short = await post(http, "/v1/users/me/tokens", {"name": "short", "expires_at": soon})
        async with person(any_server, short["token"]) as passing:

            async def expired() -> bool:
                return (await passing.post("/mcp", json=body, headers=headers)).status_code == 401

            await when(expired)
        async with person(any_server, members) as member:
            begun = await use_tool(member, "start_session", message=SLOW, wait_seconds=0)
            talk = Talk(http, begun["session_id"])
            waiting = asyncio.create_task(
                use_tool(member, "read_answer", session_id=talk.id, wait_seconds=300)
            )
            own = (await member.get("/v1/users/me/tokens")).json()["data"]
            assert (await member.delete(f"/v1/users/me/tokens/{own[0]['id']}")).status_code == 204
            await talk.cancel()
            ended = await waiting if (await _began(waiting)) else {"failed": "unauthenticated"}
            assert ended["failed"].startswith("unauthenticated")
        async with official_client(any_server.url, STATELESS, token) as official:
            assert (await official.call("list_sessions"))["total"] == 1


async def _began(waiting: asyncio.Task[Json]) -> bool:
    """Whether the request was authenticated before the token's end; else it was refused as a whole."""
    await asyncio.wait({waiting})
    return waiting.exception() is None


async def test_pages_of_other_origins_and_other_hosts_are_refused(any_server: Server) -> None:
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as http:
        for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
            answer = await send(http, "tools/list", stateless=True, headers=headers)
            assert answer.status_code == 403
        port = any_server.url.rsplit(":", 1)[1]
        same = await send(http, "tools/list", stateless=True, headers={"origin": f"http://127.0.0.1:{port}"})
        assert same.status_code == 200


# What wrong requests are told.


@pytest.fixture
async def one(sqlite_server: Server) -> Any:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "status", "code", "request_id"),
    [
        (b"{", 400, -32700, None),
        (b'"\xff"', 400, -32700, None),
        (b'{"a":' * 200 + b"1" + b"}" * 200, 400, -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1' + b"0" * 400 + b"}}", 400, -32700, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', 400, -32600, None),
        (b"1", 400, -32600, None),
        (b'{"id":1,"method":"ping"}', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":"' + b"x" * 201 + b'","method":"ping"}', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":7}', 400, -32600, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}', 400, -32600, 7),
        (b'{"jsonrpc":"2.0","id":"7","method":"nothing"}', 200, -32601, "7"),
        (b'{"jsonrpc":"2.0","id":7,"method":"server/discover"}', 200, -32601, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"initialize"}', 200, -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"cursor":"x"}}', 200, -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":1}}', 200, -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"agent_"}}', 200, -32602, 7),
        (
            b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read_answer","arguments":[]}}',
            200,
            -32602,
            7,
        ),
        (
            b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"progressToken":[]}}}',
            400,
            -32602,
            7,
        ),
    ],
)
async def test_a_malformed_message_is_told_what_is_wrong(
    one: httpx.AsyncClient, body: bytes, status: int, code: int, request_id: Any
) -> None:
    headers = {**ACCEPT, "content-type": "application/json"}
    assert refusal(await one.post("/mcp", content=body, headers=headers)) == (status, code, request_id)


async def test_only_json_posts_of_a_bounded_size_are_read(one: httpx.AsyncClient) -> None:
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    as_text = {**ACCEPT, "content-type": "text/plain"}
    assert refusal(await one.post("/mcp", content=ping, headers=as_text))[0] == 415
    only_html = {"accept": "text/html", "content-type": "application/json"}
    assert refusal(await one.post("/mcp", content=ping, headers=only_html))[0] == 406
    large = await one.post("/mcp", content=b" " * 10_000_001, headers={"content-type": "application/json"})
    assert large.status_code == 413
    for method in ("GET", "DELETE", "PUT"):
        other = await one.request(method, "/mcp", headers={"accept": "text/event-stream"})
        assert (other.status_code, other.headers["allow"]) == (405, "POST")


async def test_the_handshake_agrees_on_a_revision_and_keeps_no_session(one: httpx.AsyncClient) -> None:
    for offered, agreed in (
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2024-11-05", "2025-11-25"),
        (STATELESS, "2025-11-25"),
    ):
        params = {"protocolVersion": offered, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        answer = await one.post("/mcp", json=body, headers=ACCEPT)
        result = answer.json()["result"]
        assert (result["protocolVersion"], result["capabilities"]) == (agreed, {"tools": {}})
        assert "mcp-session-id" not in answer.headers
    assert await rpc(one, "ping") == {}
    for message in (
        {"method": "notifications/initialized"},
        {"method": "notifications/cancelled", "params": {"requestId": 1}},
        {"id": 1, "result": {}},
    ):
        answer = await one.post("/mcp", json={"jsonrpc": "2.0", **message}, headers=ACCEPT)
        assert (answer.status_code, answer.content) == (202, b"")


async def test_the_stateless_era_is_discovered_and_its_results_say_so(one: httpx.AsyncClient) -> None:
    found = await rpc(one, "server/discover", stateless=True)
    assert found["supportedVersions"] == [STATELESS]
    assert (found["resultType"], found["ttlMs"], found["cacheScope"]) == ("complete", 0, "private")
    listed = await rpc(one, "tools/list", stateless=True)
    assert (listed["ttlMs"], listed["cacheScope"]) == (0, "private")
    assert listed["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "perdure"
    called = await rpc(one, "tools/call", {"name": "list_sessions"}, stateless=True)
    assert called["resultType"] == "complete"
    assert "ttlMs" not in called


@pytest.mark.parametrize(
    ("method", "params", "headers", "without", "status", "code"),
    [
        ("tools/list", {"_meta": {VERSION: 1}}, {}, (), 400, -32602),
        ("tools/list", {"_meta": {CAPABILITIES: []}}, {}, (), 400, -32602),
        ("tools/list", {}, {}, ("mcp-protocol-version",), 400, -32020),
        ("tools/list", {}, {"mcp-protocol-version": "2025-11-25"}, (), 400, -32020),
        ("tools/list", {}, {}, ("mcp-method",), 400, -32020),
        ("tools/list", {}, {"mcp-method": "tools/call"}, (), 400, -32020),
        ("tools/call", {"name": "list_agents"}, {}, ("mcp-name",), 400, -32020),
        ("tools/call", {"name": "list_agents"}, {"mcp-name": "cancel_turn"}, (), 400, -32020),
        ("tools/call", {"name": "list_agents"}, {"mcp-name": "=?base64?bGlzdF9hZ2VudHM?="}, (), 400, -32020),
        ("tools/list", {"_meta": {VERSION: "v9"}}, {"mcp-protocol-version": "v9"}, (), 400, -32022),
        ("tools/list", {"_meta": {VERSION: "v9"}}, {}, (), 400, -32020),
        ("initialize", {}, {}, (), 404, -32601),
        ("ping", {}, {}, (), 404, -32601),
        ("tools/call", {"name": "nothing"}, {}, (), 400, -32602),
    ],
)
async def test_headers_and_envelope_of_the_stateless_era_must_agree(
    one: httpx.AsyncClient,
    method: str,
    params: Json,
    headers: Json,
    without: tuple[str, ...],
    status: int,
    code: int,
) -> None:
    answer = await send(one, method, params, stateless=True, headers=headers, without=without)
    assert refusal(answer) == (status, code, 1)
    if code == -32022:
        assert answer.json()["error"]["data"] == {"supported": [STATELESS], "requested": "v9"}


async def test_a_name_may_come_in_base64(one: httpx.AsyncClient) -> None:
    params = {"name": "list_agents", "arguments": {}}
    coded = {"mcp-name": "=?base64?bGlzdF9hZ2VudHM=?="}
    answer = await send(one, "tools/call", params, stateless=True, headers=coded)
    assert answer.json()["result"]["isError"] is False


async def test_a_routing_header_that_comes_twice_is_refused(one: httpx.AsyncClient) -> None:
    body, headers = envelope("tools/list", {}, stateless=True)
    twice = [*headers.items(), ("mcp-method", "tools/call")]
    answer = await one.post("/mcp", json=body, headers=twice)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("tool", "arguments", "failed"),
    [
        ("send_message", {"message": "Hi"}, "invalid_arguments: the arguments do not fit: "),
        ("start_session", {"agent": "x", "nothing": 1}, "invalid_arguments: the arguments do not fit: "),
        ("start_session", {"wait_seconds": 301}, "invalid_arguments: the arguments do not fit: "),
        ("start_session", {"wait_seconds": "5"}, "invalid_arguments: the arguments do not fit: "),
        ("start_session", {"agent": "no-such-agent"}, "agent_not_found: "),
        ("start_session", {"harness": "no-such-harness"}, "harness_not_found: "),
        ("read_answer", {"session_id": "x"}, "invalid_"),
        ("read_answer", {"session_id": "session_" + "0" * 32}, "session_not_found: "),
        (
            "decide_approval",
            {"session_id": "session_" + "0" * 32, "tool_call_id": "c", "decision": "maybe"},
            "invalid_",
        ),
    ],
)
async def test_what_the_model_can_mend_is_a_result_that_it_sees(
    one: httpx.AsyncClient, tool: str, arguments: Json, failed: str
) -> None:
    assert (await use_tool(one, tool, **arguments))["failed"].startswith(failed)


async def test_needless_decisions_and_reused_ids_are_conflicts(one: httpx.AsyncClient) -> None:
    begun = await use_tool(one, "start_session", message=script({"text": "Sun."}))
    session = {"session_id": begun["session_id"]}
    decision = {"tool_call_id": "call_1", "decision": "allow"}
    found = await use_tool(one, "decide_approval", **session, **decision)
    assert found["failed"].startswith("not_waiting_for_approval: ")
    assert (await use_tool(one, "cancel_turn", **session))["status"] == "no_op"
    await use_tool(one, "send_message", **session, message="Hi", client_message_id="m")
    other = await use_tool(one, "send_message", **session, message="Ho", client_message_id="m")
    assert other["failed"].startswith("client_message_id_reused: ")


async def test_schemas_are_plain_and_small(one: httpx.AsyncClient) -> None:
    tools = (await rpc(one, "tools/list"))["tools"]
    for each in tools:
        text = json.dumps(each)
        assert "$ref" not in text
        assert '"null"' not in text
        assert each["inputSchema"]["type"] == each["outputSchema"]["type"] == "object"
        assert each["inputSchema"]["additionalProperties"] is False
        assert set(each["annotations"]) == {
            "readOnlyHint",
            "destructiveHint",
            "idempotentHint",
            "openWorldHint",
        }
        assert len(text) < 6_000
