"""What registered MCP servers offer, what is wrong with them, and the commands for people."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from tests.command import PERDURE, Terminal, perdure, script
from tests.command import environment as environment_of
from tests.journeys.world import refusal
from tests.mcp_scripts import LISTED, Scripted, replies
from tests.server import Server, post
from tests.sites import serving
from tests.talk import Json, new_talk
from tests.unit.fake_server import Reply, Request


@pytest.fixture
def environment() -> dict[str, str]:
    """This machine is one network of those that may be reached."""
    return {"PERDURE_PRIVATE_ADDRESSES": "10.99.0.0/16,127.0.0.0/8"}


TOOLS: list[Json] = [
    LISTED,
    {
        "name": "delete everything",
        "description": "Deletes.",
        "inputSchema": {"type": "object"},
        "annotations": {"destructiveHint": True, "idempotentHint": True},
    },
    {"name": "hidden", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
]


async def added(http: httpx.AsyncClient, url: str, **fields: object) -> Json:
    return await post(http, "/v1/mcp-servers", {"name": "Desk", "url": url, **fields})


async def checked(http: httpx.AsyncClient, url: str, **fields: object) -> Json:
    server = await added(http, url, **fields)
    answer = await http.post(f"{server['self_url']}/check-connection")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


@pytest.mark.parametrize("era", ["stateless", "legacy"])
async def test_a_server_is_checked_and_its_tools_are_listed(http: httpx.AsyncClient, era: str) -> None:
    async with Scripted(era) as desk:
        desk.tools = TOOLS
        server = await added(
            http,
            desk.url,
            api_key="k3y-value",
            headers={"X-Team": "blue"},
            denied_tools=["hidden"],
            approval={"act": "ask"},
        )
        found = (await http.post(f"{server['self_url']}/check-connection")).json()
        assert (found["ok"], found["era"], found["tool_count"]) == (True, era, 3)
        assert found["protocol"]
        sent = desk.requests[-1].headers
        assert (sent["authorization"], sent["x-team"]) == ("Bearer k3y-value", "blue")
        await http.put(f"{server['self_url']}/tools/act/label", json={"label": "Act now"})
        listed = (await http.get(f"{server['self_url']}/tools")).json()["data"]
    assert [(each["original_name"], each["mode"]) for each in listed] == [
        ("act", "ask"),
        ("delete everything", "ask"),
        ("hidden", "deny"),
    ]
    assert [each["name"].partition("__")[0] for each in listed] == ["mcp_desk"] * 3
    assert listed[0]["label"] == "Act now"
    assert listed[1]["annotations"] == {"destructiveHint": True, "idempotentHint": True}


async def test_what_is_wrong_with_a_server_is_said_in_words(http: httpx.AsyncClient) -> None:
    async with serving() as site:
        site.answers["/"] = web.Response(text="<html>Hello</html>", content_type="text/html")
        site.answers["/none"] = web.Response(status=404)
        site.answers["/closed"] = web.Response(status=401)
        site.answers["/barred"] = web.Response(status=403)
        codes = {
            path: (await checked(http, site.url(path)))["error"]
            for path in ("/", "/none", "/closed", "/barred")
        }
        encrypted = (await checked(http, site.url("/").replace("http:", "https:")))["error"]
        port = site.port
    gone = (await checked(http, f"http://127.0.0.1:{port}/mcp"))["error"]
    found = {path: error["code"] for path, error in codes.items()}
    assert found == {
        "/": "not_mcp",
        "/none": "wrong_path",
        "/closed": "sign_in_required",
        "/barred": "access_refused",
    }
    assert (encrypted["code"], gone["code"]) == ("tls_failed", "connection_refused")
    assert all(error["message"] and error["hint"] for error in (*codes.values(), encrypted, gone))


async def test_a_servers_own_error_is_passed_on(http: httpx.AsyncClient) -> None:
    async with Scripted(tools__list=replies(200, (-32000, "out of order"))) as desk:
        server = await added(http, desk.url)
        found = (await http.post(f"{server['self_url']}/check-connection")).json()
        assert found["error"]["code"] == "refused"
        assert "out of order" in found["error"]["message"]
        listed = await http.get(f"{server['self_url']}/tools")
        assert (listed.status_code, listed.json()["code"]) == (502, "mcp_refused")


async def test_a_server_that_is_removed_from_a_session_is_gone_in_its_next_turn(
    http: httpx.AsyncClient,
) -> None:
    call = {"tool_calls": [{"name": "mcp_desk__act", "arguments": {}}]}
    async with Scripted() as desk:
        talk = await new_talk(http, mcpServers={"Desk": {"url": desk.url}})
        outcomes = []
        for _ in range(2):
            events = await talk.turn(call, {"text": "Done."})
            outcomes.append([each["data"] for each in events if each["type"] == "tool.completed"][-1])
            await http.delete(talk.path("/mcp-servers/Desk"))
        assert desk.count("tools/call") == 1
    assert [each["success"] for each in outcomes] == [True, False]


async def test_an_address_beside_the_allowed_networks_stays_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/mcp-servers", json={"name": "Inside", "url": "http://10.98.0.1/mcp"})
    assert refusal(answer) == (400, "mcp_address_refused")


async def test_the_commands_add_check_list_change_and_remove_servers(any_server: Server) -> None:
    async def run(*arguments: str, status: int = 0, **more: str) -> str:
        done = await perdure("mcp", *arguments, url=any_server.url, **more)
        assert done.status == status, done.out + done.err
        return done.out or done.err

    async with Scripted() as desk:
        desk.tools = TOOLS
        out = await run(
            "add", "Desk", desk.url, "--key-env", "DESK_KEY", "--header", "X-Team=blue", "--ask", "act",
            "--deny", "hidden", "--timeout", "1.5", DESK_KEY="k3y-value",
        )  # fmt: skip
        assert "added mcp_" in out
        assert "ok: " in out
        assert "3 tools" in out
        assert "k3y-value" not in out
        server = json.loads(await run("list", "--json"))
        assert (server["tool_timeout_ms"], server["api_key_set"]) == (1500, True)
        assert (server["approval"], server["denied_tools"]) == ({"act": "ask"}, ["hidden"])
        assert (await run("list")).splitlines()[1].split("\t")[1:4] == ["active", "Desk", "mcp_desk__*"]
        assert (await run("tools", "Desk")).splitlines()[1].split("\t")[:2] == ["act", "ask"]
        assert "ok: " in await run("check", "desk")
        await run("update", "Desk", "--name", "Front desk", "--status", "disabled")
        assert "disabled\tFront desk" in await run("list")
    assert "Is the server running" in await run("check", server["id"], status=1)
    assert "archived" in await run("remove", "Front desk")
    assert len((await run("list")).splitlines()) == 1
    assert "deleted" in await run("remove", server["id"], "--for-good")
    assert "no MCP server" in await run("check", "Desk", status=1)
    assert "DESK_KEY is not set" in await run("add", "Desk", desk.url, "--key-env", "DESK_KEY", status=2)
    assert "NAME=VALUE" in await run("add", "Desk", desk.url, "--header", "X-Team", status=2)


async def test_the_commands_say_what_to_change_and_change_it(any_server: Server) -> None:
    async def run(*arguments: str, status: int = 0, **more: str) -> str:
        done = await perdure("mcp", *arguments, url=any_server.url, **more)
        assert done.status == status, done.out + done.err
        return done.out or done.err

    async def seen() -> Json:
        found: Json = json.loads(await run("list", "--json"))
        return found

    async with Scripted() as desk:
        desk.tools = [LISTED]
        await run(
            "add", "Front", desk.url, "--sign-in", "--questions", "url", "--allow", "nothing", "--search"
        )
        server = await seen()
        assert (server["auth_mode"], server["acts_as"]) == ("o_auth", "user")
        assert (server["elicitation_policy"], server["deferred"]) == ("url", True)
        assert "`allowed_tools` names tools that the server does not have: nothing" in await run(
            "check", "Front"
        )
        assert "is called 'Front' already" in await run("add", "Front", desk.url, status=1)
        assert "nothing to change" in await run("update", "Front", status=2)
        assert "none of allow" in await run("update", "Front", "--clear", "all", status=2)
        await run("update", "Front", "--clear", "allow", "--offer", "--acts-as", "service")
        server = await seen()
        assert (server["allowed_tools"], server["deferred"], server["acts_as"]) == (None, False, "service")
        assert "has no tool 'other'" in await run("accept", "Front", "other", status=1)
        assert "nothing to accept" in await run("accept", "Front", "*")
        await run("remove", "Front", "--for-good")


async def test_a_wrong_credential_is_said_to_be_wrong(http: httpx.AsyncClient) -> None:
    async with serving() as site:
        site.answers["/mcp"] = web.Response(status=401)
        without = await checked(http, site.url("/mcp"))
        wrong = await checked(http, site.url("/mcp"), api_key="wr0ng-key")
    assert without["error"]["code"] == wrong["error"]["code"] == "sign_in_required"
    assert "Set `api_key`" in without["error"]["hint"]
    assert "does not accept the stored credential" in wrong["error"]["hint"]


async def test_an_inline_command_is_refused_with_the_way_to_configure_it(http: httpx.AsyncClient) -> None:
    servers = {"Local": {"command": "npx", "args": ["server"]}}
    answer = await http.post("/v1/sessions", json={"mcpServers": servers})
    assert refusal(answer) == (400, "invalid_mcp_url")
    assert "PERDURE_MCP_SERVERS" in answer.json()["detail"]


QUESTION: Json = {
    "method": "elicitation/create",
    "params": {
        "mode": "form",
        "message": "Which size?",
        "requestedSchema": {
            "type": "object",
            "properties": {"size": {"enum": ["S", "M"]}, "count": {"type": "integer", "default": 1}},
            "required": ["size"],
        },
    },
}


async def test_a_question_of_a_server_is_shown_and_answered_in_chat(http: httpx.AsyncClient) -> None:
    given: list[Json] = []

    async def call(_: Request, reply: Reply, message: Json) -> None:
        answers = message["params"].get("inputResponses")
        if answers is None:
            asked = {"resultType": "input_required", "inputRequests": {"q": QUESTION}, "requestState": "s"}
            await reply.json(200, {"jsonrpc": "2.0", "id": message["id"], "result": asked})
        else:
            given.append(answers["q"])
            content = [{"type": "text", "text": "Ordered."}]
            done = {"resultType": "complete", "content": content}
            await reply.json(200, {"jsonrpc": "2.0", "id": message["id"], "result": done})

    async with Scripted(tools__call=call) as desk:
        talk = await new_talk(
            http, mcpServers={"Desk": {"url": desk.url, "elicitation_policy": "url_and_form"}}
        )
        await talk.say(
            script({"tool_calls": [{"name": "mcp_desk__act", "arguments": {}}]}, {"text": "Done."})
        )
        await talk.logged_until("tool.parked")
        terminal = Terminal(*PERDURE, "chat", talk.id, **environment_of(str(http.base_url)))
        try:
            await terminal.see("Desk asks: Which size?")
            await terminal.see("size (S, M)")
            await terminal.see("count (integer; 1 by default)")
            await terminal.see("> ")
            terminal.type("/answer\n")
            await terminal.see("size (S, M): ")
            terminal.type("M\n")
            await terminal.see("by default): ")
            terminal.type("two\n")
            await terminal.see("Please answer again")
            await terminal.see("size (S, M): ")
            terminal.type("M\n")
            await terminal.see("by default): ")
            terminal.type("2\n")
            await terminal.see("Done.")
            await terminal.see("> ")
            terminal.type("/answer\n")
            await terminal.see("Nothing asks you")
            await terminal.see("> ")
            terminal.type("\x04")
            assert await terminal.end() == 0
        finally:
            terminal.close()
    assert given == [{"action": "accept", "content": {"size": "M", "count": 2}}]


# --- the operator's servers -------------------------------------------------------

PROGRAM = """
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    if message["method"] == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "local", "version": "1"}}
    elif message["method"] == "tools/list":
        names = ",".join(sorted(os.environ))
        result = {"tools": [{"name": "act", "description": names, "inputSchema": {"type": "object"}}]}
    else:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"],
                          "error": {"code": -32601, "message": "no such method"}}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


async def test_the_operators_servers_can_be_used_by_every_organization_and_changed_by_none(
    database_url: str, tmp_path: Path
) -> None:
    program, file = tmp_path / "local.py", tmp_path / "servers.json"
    program.write_text(PROGRAM)
    async with Scripted() as desk:
        servers = {
            "Local tools": {
                "command": "python3",
                "args": [str(program)],
                "env": {"LOCAL_MODE": "${MODE:-on}"},
            },
            "Desk": {"url": desk.url, "headers": {"X-Key": "${DESK_KEY}"}, "approval": {"*": "ask"}},
            "Broken": {"command": "no-such-program-of-mine"},
            "Off": {"command": "nothing", "disabled": True},
        }
        file.write_text(json.dumps({"mcpServers": servers}))
        environment = {"PERDURE_MCP_SERVERS": str(file), "DESK_KEY": "d3sk-key"}
        async with (
            Server(tmp_path / "data", database_url=database_url, environment=environment) as server,
            httpx.AsyncClient(base_url=server.url, timeout=60) as http,
        ):
            first, second, broken = (await http.get("/v1/mcp-servers")).json()["data"]
            assert (first["name"], first["transport_type"], first["slug"]) == (
                "Local tools",
                "stdio",
                "local_tools",
            )
            assert (second["transport_type"], second["headers"]) == ("http", {"X-Key": "***"})
            assert "d3sk-key" not in json.dumps(second)
            for each in (first, second):
                found = (await http.post(f"{each['self_url']}/check-connection")).json()
                assert found["ok"], found
            assert desk.requests[-1].headers["x-key"] == "d3sk-key"
            (tool,) = (await http.get(f"{first['self_url']}/tools")).json()["data"]
            seen = set(tool["description"].split(","))
            assert {"PATH", "LOCAL_MODE"} <= seen
            assert not {name for name in seen if name.startswith(("PERDURE_", "DESK_"))}
            found = (await http.post(f"{broken['self_url']}/check-connection")).json()
            assert found["error"]["code"] == "not_started"
            for answer in (
                await http.patch(first["self_url"], json={"name": "Mine"}),
                await http.delete(first["self_url"]),
                await http.post(f"{first['self_url']}/delete"),
            ):
                assert refusal(answer) == (403, "configured_by_operator")
            session = await post(http, "/v1/sessions", {"capabilities": [{"ref": f"mcp:{first['id']}"}]})
            (used,) = (await http.get(f"/v1/sessions/{session['id']}/mcp-servers")).json()["data"]
            assert (used["name"], used["type"]) == ("Local tools", "stdio")
            assert (await post(http, "/v1/mcp-servers", {"name": "Desk", "url": "https://mcp.invalid/"}))[
                "slug"
            ] == "desk_2"
