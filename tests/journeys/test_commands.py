"""`POST /v1/commands/{command}`: every route under the names that command-line clients use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.api.kernel.route import Route
from tests.journeys.keyed import person, with_login
from tests.journeys.world import ROUTES, World, complaint
from tests.server import Server, post
from tests.talk import Json, body_of

COMMANDS: list[Json] = json.loads(
    (Path(__file__).resolve().parents[1] / "contract" / "commands.json").read_text()
)
SAMPLES = {
    "string": "sample",
    "integer": 1,
    "boolean": True,
    "json": {},
    "number": 1.5,
    "string_list": ["sample"],
}
"""A value of each kind of parameter."""


def place(method: str, path: str) -> str:
    return f"{method} {re.sub('{[^}]+}', '{}', path)}"


HERE = {place(route.method, route.path): route for route in ROUTES}


async def run(http: httpx.AsyncClient, command: str, headers: Json | None = None, /, **params: Any) -> Any:
    return await http.post(f"/v1/commands/{command}", json={"params": params}, headers=headers)


def params_of(world: World, command: Json, route: Route | None) -> Json:
    """Build parameters for a command: ids that exist, and samples for what it requires."""
    params: Json = {}
    if route is not None:
        names = re.findall(r"{(\w+)}", command["path"])
        own = re.findall(r"{(\w+)}", route.path)
        params = {name: world.id_for(route, mine) for name, mine in zip(names, own, strict=True)}
    for name, kind in command["fields"].items():
        if not kind.endswith("?") and name not in params:
            params[name] = SAMPLES[kind]
    return params


async def test_every_command_of_the_contract_is_run_or_said_to_be_missing(
    any_server: Server, http: httpx.AsyncClient
) -> None:
    wrong, ran = [], 0
    world = World(any_server, http)
    await world.fill()
    # What deletes comes last.
    for command in sorted(COMMANDS, key=lambda each: each["method"] == "DELETE"):
        name, route = command["command"], HERE.get(place(command["method"], command["path"]))
        params = params_of(world, command, route)
        answer = await run(http, name, **params)
        if route is None:
            code = answer.json().get("code")
            if (answer.status_code, code) != (404, "unknown_command") or name not in answer.text:
                wrong.append(f"{name}: {answer.status_code} {answer.text[:120]}")
            continue
        ran += 1
        if answer.status_code == 200:
            if answer.json().keys() - {"output", "warnings"}:
                wrong.append(f"{name}: {answer.text[:120]}")
        elif complaint(answer) or answer.json()["code"] in ("unknown_command", "route_not_found"):
            wrong.append(f"{name}: {complaint(answer)} {answer.text[:120]}")
        if command["method"] == "GET" and name not in ("stream_sse", "health_check"):
            path = re.sub(r"{(\w+)}", lambda match, params=params: params.pop(match[1]), command["path"])
            direct = await http.get(path, params=params)
            told = answer.json()["output"] if answer.status_code == 200 else answer.json()["code"]
            said = body_or_code(direct)
            if told != said and name != "get_session_context_report":
                wrong.append(f"{name}: {str(told)[:200]} is not {str(said)[:200]}")
    assert wrong == []
    assert (ran, len(COMMANDS)) == (sum(place(c["method"], c["path"]) in HERE for c in COMMANDS), 374)


def body_or_code(answer: httpx.Response) -> Any:
    if answer.status_code >= 400:
        return answer.json()["code"]
    return answer.json() if answer.headers["content-type"] == "application/json" else answer.text


async def test_every_route_is_a_command_under_its_operation_id(sqlite_server: Server) -> None:
    told = []
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as http:
        for route in ROUTES:
            # An unknown parameter, so that nothing happens.
            answer = await run(http, route.operation_id, {"Perdure-Strict": "true"}, nobody_knows=1)
            code = answer.json().get("code")
            expected = {
                "run_command": "unknown_command",
                "stream_sse": "command_not_supported",
                "answer_callback": "command_not_supported",
                "decide_by_link": "command_not_supported",
                "download_path": "command_not_supported",
                "session_download_path": "command_not_supported",
            }.get(route.operation_id)
            if (code == "unknown_command" or expected) and code != expected:
                told.append(f"{route.operation_id}: {answer.text[:100]}")
    assert told == []


async def test_a_command_returns_what_its_route_returns(shared_server: Server) -> None:
    async with httpx.AsyncClient(base_url=shared_server.url, timeout=30) as http:
        made = (await run(http, "create_session", title="one", tags=["two"])).json()
        assert (made["output"]["title"], made["output"]["tags"]) == ("one", ["two"])
        session = made["output"]["id"]
        base = f"/v1/sessions/{session}"
        assert (await run(http, "pin_session", session_id=session)).json() == {"output": None}
        read = (await run(http, "get_session", session_id=session)).json()
        assert read == {"output": (await http.get(base)).json()}
        assert read["output"]["is_pinned"]
        # A query, with a list and a map.
        await http.patch(base, json={"metadata": {"case": "4711"}})
        found = await run(http, "list_sessions", tags=["two"], metadata={"case": "4711"}, limit=1)
        assert [each["id"] for each in found.json()["output"]["data"]] == [session]
        # A path of a file, text, and other bytes.
        path = "/notes/ä b/50%2f.txt"
        assert (
            await run(http, "create_workspace_file", session_id=session, path=path, content="x")
        ).is_success
        kept = (await run(http, "get_workspace_file", session_id=session, path=path)).json()["output"]
        assert (kept["path"], kept["content"]) == (path, "x")
        agent = (await run(http, "import_agent", content="---\nname: by-command\n---\nHelp.")).json()[
            "output"
        ]
        text = (await run(http, "export_agent", id=agent["id"])).json()["output"]
        assert text == (await http.get(f"/v1/agents/{agent['id']}/export")).text
        assert (await run(http, "delete_agent", agent_id="by-command")).json() == {"output": None}


async def test_a_commands_values_stay_in_their_places(sqlite_server: Server) -> None:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as http:
        session = (await post(http, "/v1/sessions", {}))["id"]
        for params, code in (
            ({"session_id": f"{session}/fs"}, "invalid_id"),
            ({"session_id": f"{session}?x=1"}, "invalid_id"),
            ({"session_id": f"../sessions/{session}"}, "invalid_id"),
            ({"session_id": ""}, "invalid_request"),
            ({"session_id": [session]}, "invalid_request"),
            ({"session_id": None}, "invalid_request"),
            ({}, "invalid_request"),
        ):
            answer = await run(http, "delete_session", **params)
            assert (answer.status_code, answer.json()["code"]) == (400, code), params
        for name in ("a/b", "../x", "a\x00", "%2e%2e%2f"):
            answer = await run(http, "delete_session_database", session_id=session, name=name)
            assert answer.status_code in (400, 404), name
            assert complaint(answer) is None
        # A value cannot become another parameter.
        answer = await run(http, "list_sessions", search="x&limit=0", limit=1)
        assert answer.json()["output"]["total"] == 0
        answer = await run(http, "list_sessions", search={"a": {}})
        assert answer.status_code == 400
        assert (await http.get(f"/v1/sessions/{session}")).is_success


async def test_an_unknown_command_is_explained(sqlite_server: Server) -> None:
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as http:
        for name, words in (
            ("get_sesion", "did you mean 'get_session'?"),
            ("create_knowledge", "POST /v1/knowledge"),
            ("run_command", "run_command"),
            ("x" * 5000, "xxx"),
        ):
            answer = await run(http, name)
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown_command"), name
            assert words in answer.json()["detail"]
            assert complaint(answer) is None
        for body in (b"[]", b'{"params":[]}', b'{"params":{"a":' + b"[" * 200, b'{"params":{"a":1e999}}'):
            answer = await http.post(
                "/v1/commands/list_sessions", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 400, body[:40]


async def test_a_command_is_as_idempotent_and_as_strict_as_its_route(shared_server: Server) -> None:
    async with httpx.AsyncClient(base_url=shared_server.url, timeout=30) as http:
        key = {"Idempotency-Key": f"once-{id(http)}"}
        first = await run(http, "create_session", key, title="once")
        again = await run(http, "create_session", key, title="once")
        assert again.json() == first.json()
        assert again.headers["idempotency-replayed"] == "true"
        assert (await run(http, "create_session", key, title="twice")).status_code == 409
        session = first.json()["output"]["id"]
        answer = await run(http, "update_session", session_id=session, titel="x")
        assert answer.json()["warnings"] == ["unknown field `titel` was ignored: did you mean `title`?"]
        answer = await run(http, "get_session", session_id=session, titel="x")
        assert answer.json()["warnings"] == ["unknown parameter `titel` was ignored"]
        answer = await run(http, "update_session", {"Perdure-Strict": "true"}, session_id=session, titel="x")
        assert (answer.status_code, answer.json()["code"]) == (400, "unknown_field")
        message = await run(http, "create_message", session_id=session, **body_of("hello"))
        assert message.json()["output"]["role"] == "user"


@pytest.mark.parametrize("several", [False, True])
async def test_a_command_is_authenticated_as_its_route(any_server: Server, several: bool) -> None:
    token = await with_login(any_server)
    async with person(any_server, token) as http:
        if several:
            await post(http, "/v1/orgs", {"name": "Second"})
        assert (await run(http, "list_orgs")).is_success
        answer = await run(http, "list_sessions")
        assert answer.status_code == (400 if several else 200), answer.text
        me = (await http.get("/v1/users/me")).json()
        org = (await http.get("/v1/orgs")).json()["data"][0]
        identity = (await http.get("/v1/auth/me", headers={"X-Org-Id": org["id"]})).json()
        assert identity == {
            **me,
            "organization_id": org["id"],
            "organization_name": org["name"],
            "role": "owner",
            "scopes": ["*"],
        }
        assert (await http.get("/v1/auth/me", headers={"authorization": "Bearer x"})).status_code == 401
        for name in ("list_sessions", "nobody_knows", "health"):
            answer = await http.post(f"/v1/commands/{name}", json={}, headers={"authorization": "Bearer x"})
            assert answer.status_code == 401, name
