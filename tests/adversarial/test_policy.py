"""Policy: nobody loosens what a layer below has set, and no page or proxy becomes the owner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest

from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import get, patch
from tests.journeys.world import head, raw_exchange, refusal
from tests.server import Server, post
from tests.talk import Json, Talk, call, new_talk, script

STRICT = {"ref": "tool_approval", "config": {"mode": "protective"}}
OFF = {"ref": "tool_approval", "config": {"mode": "off"}}
WRITE = ({"tool_calls": [call("write_file", "call_1", path="/a", content="x")]}, {"text": "Done."})


class Place(NamedTuple):
    """A server with a login, an owner, and a member."""

    server: Server
    owner: httpx.AsyncClient
    member: httpx.AsyncClient


@pytest.fixture
async def place(any_server: Server) -> AsyncIterator[Place]:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        _, theirs = await add_member(owner, "mallory")
        async with person(any_server, theirs) as member:
            yield Place(any_server, owner, member)


async def waits(talk: Talk) -> bool:
    """Whether a write waits for approval."""
    message = await talk.say(script(*WRITE))
    events = await talk.logged_until("tool.call_requested", "session.idled", after=message["sequence"])
    return events[-1]["type"] == "tool.call_requested"


async def _strict_harness(owner: httpx.AsyncClient, name: str) -> str:
    fields = {"name": name, "capabilities": [{"ref": "session_file_system"}, STRICT]}
    return str((await post(owner, "/v1/harnesses", fields))["id"])


async def test_no_layer_loosens_another_and_the_report_shows_what_applies(place: Place) -> None:
    parent = await _strict_harness(place.owner, "strict-parent")
    child = await post(
        place.owner, "/v1/harnesses", {"name": "strict", "parent_harness_id": parent, "capabilities": [OFF]}
    )
    agent = {"system_prompt": "x", "harness_id": child["id"], "capabilities": [OFF]}
    loose = await post(place.member, "/v1/agents", {"name": "loose", **agent})
    auto = {"type": "builtin", "name": "write_file", "description": "", "parameters": {}, "policy": "auto"}
    base = next(each for each in (await get(place.owner, "/v1/harnesses"))["data"] if each["name"] == "base")
    ways: list[Json] = [
        {"harness_id": child["id"], "capabilities": [OFF]},
        {"harness_id": child["id"], "capabilities": [OFF, OFF], "tools": [auto]},
        {"agent_id": loose["id"], "capabilities": [OFF]},
        # Under another harness, the policies of the agent's harness still apply.
        {
            "agent_id": loose["id"],
            "harness_id": base["id"],
            "capabilities": [{"ref": "session_file_system"}, OFF],
        },
    ]
    for fields in ways:
        talk = await new_talk(place.member, **fields)
        assert await waits(talk), fields
        report = await get(place.member, talk.path("/context-report"))
        assert "write_file" in report["policy"]["approval_required"], fields
    forked = await post(place.member, talk.path("/fork"), {})
    assert await waits(Talk(place.member, forked["id"]))
    free = await new_talk(place.member, capabilities=[OFF])
    assert not await waits(free)
    assert (await get(place.member, free.path("/context-report")))["policy"]["approval_required"] == []


async def test_a_fork_with_another_agent_keeps_the_policies_that_guard_what_it_copies(place: Place) -> None:
    strict = {"name": "strict-agent", "system_prompt": "x", "capabilities": [STRICT]}
    agent = await post(place.owner, "/v1/agents", strict | {"network_access": {"allowed": ["a.com"]}})
    talk = await new_talk(place.owner, agent_id=agent["id"])
    free = {"name": "free-agent", "system_prompt": "x"}
    agents = {
        False: await post(place.member, "/v1/agents", free),
        True: await post(place.member, "/v1/agents", agent_like(agent, "tighter")),
    }
    for allowed, other in agents.items():
        answer = await place.member.post(talk.path("/fork"), json={"agent_id": other["id"]})
        assert answer.status_code == (201 if allowed else 403), answer.text
    assert refusal(await place.member.post(talk.path("/fork"), json={"agent_id": agents[False]["id"]})) == (
        403,
        "policy_protected",
    )
    await post(place.owner, talk.path("/fork"), {"agent_id": agents[False]["id"]})
    own = await new_talk(place.member, agent_id=agent["id"])
    await post(place.member, own.path("/fork"), {"agent_id": agents[False]["id"]})


def agent_like(agent: Json, name: str) -> Json:
    """The body of an agent with the same policies under another name."""
    network = {"allowed": ["a.com"], "blocked": ["b.com"]}
    return {
        "name": name,
        "system_prompt": "y",
        "capabilities": agent["capabilities"],
        "network_access": network,
    }


NO_HOSTS = (
    "*evil.com", "evil.*", "*.*", "a.com,b.com", "a.com b.com", "10.0.0.*", "10.0.0.1-10.0.0.9", "10.1",
    "0x7f000001", "a.com:80,b.com", "a.com:x", "..", "-", "a..com",
)  # fmt: skip
HOSTS = (
    "*", "*.evil.com", "evil.com.", "EVIL.com:8080", "http://u@evil.com:8080/x?y", "evil.com?x", "10.0.0.1",
    "[::1]", "[::1]:80", "::1", "stra\u00dfe.de", "*.b\u00fccher.de", "evil_1", "x-9",
)  # fmt: skip


async def test_a_list_of_hosts_has_no_entry_that_would_match_nothing(place: Place) -> None:
    bodies: list[tuple[str, Json]] = [
        ("/v1/sessions", {}),
        ("/v1/agents", {"name": "a", "system_prompt": "x"}),
        ("/v1/harnesses", {"name": "h"}),
    ]
    for path, body in bodies:
        for kind in ("allowed", "blocked"):
            answer = await place.owner.post(path, json=body | {"network_access": {kind: ["a.com", "*b"]}})
            assert refusal(answer) == (400, "invalid_request")
            assert f"network_access.{kind}[1]" in answer.json()["detail"]
    agent = await post(place.owner, "/v1/agents", {"name": "hosts", "system_prompt": "x"})
    harness = await post(place.owner, "/v1/harnesses", {"name": "hosts"})
    for path in (f"/v1/agents/{agent['id']}", f"/v1/harnesses/{harness['id']}"):
        assert refusal(await place.owner.patch(path, json={"network_access": {"blocked": ["*b"]}}))[0] == 400
    for entry in NO_HOSTS:
        answer = await place.owner.post("/v1/sessions", json={"network_access": {"blocked": [entry]}})
        assert refusal(answer)[0] == 400, entry
    await post(place.owner, "/v1/sessions", {"network_access": {"blocked": list(HOSTS)}})


async def test_only_its_creator_and_admins_loosen_an_agent(place: Place) -> None:
    strict = await _strict_harness(place.owner, "house")
    agent = await post(
        place.owner,
        "/v1/agents",
        {
            "name": "shared",
            "system_prompt": "x",
            "capabilities": [STRICT],
            "network_access": {"allowed": ["a.com"]},
        },
    )
    path, before = f"/v1/agents/{agent['id']}", agent["updated_at"]
    whole = {"name": "shared", "system_prompt": "y"}
    version = await post(place.owner, f"{path}/versions", {"change_kind": "minor"}, 200)
    tries: list[tuple[str, str, Json | None]] = [
        ("PATCH", path, {"capabilities": []}),
        ("PATCH", path, {"capabilities": [OFF]}),
        ("PATCH", path, {"network_access": None}),
        ("PATCH", path, {"network_access": {"allowed": ["a.com", "b.com"]}}),
        ("PATCH", path, {"name": "moved-away"}),
        ("PATCH", path, {"status": "archived"}),
        ("PATCH", path, {"status": "deleted"}),
        ("DELETE", path, None),
        ("POST", "/v1/agents", whole),
        ("PUT", path, whole),
    ]
    for method, where, body in tries:
        answer = await place.member.request(method, where, **({} if body is None else {"json": body}))
        assert refusal(answer) == (403, "policy_protected"), (method, where, body, answer.text)
    imported = await place.member.post(
        "/v1/agents/import",
        content="---\nname: shared\n---\nHi.",
        headers={"content-type": "text/markdown"},
    )
    assert refusal(imported) == (403, "policy_protected")
    assert (await get(place.owner, path))["updated_at"] == before
    # What loosens nothing stays free: the prompt, tighter policies, older versions as tight, and a copy.
    for change in ({"system_prompt": "z"}, {"harness_id": strict}):
        await patch(place.member, path, change)
    await post(place.member, f"{path}/versions/{version['id']}/rollback", {}, 200)
    await post(place.member, f"{path}/copy", None)
    loosened = await patch(place.owner, path, {"capabilities": [OFF], "network_access": None})
    assert loosened["capabilities"] == [OFF]
    pin = f"{path}/versions/default"
    await post(place.member, pin, {"version_id": version["id"]}, 200)
    assert refusal(await place.member.post(pin, json={"version_id": None})) == (403, "policy_protected")
    mine = await post(
        place.member, "/v1/agents", {"name": "mine", "system_prompt": "x", "capabilities": [STRICT]}
    )
    await patch(place.member, f"/v1/agents/{mine['id']}", {"capabilities": []})


async def test_only_the_sessions_owner_and_admins_decide_for_always(place: Place) -> None:
    _, other_token = await add_member(place.owner, "bystander")
    talk = await new_talk(place.member, capabilities=[{"ref": "session_file_system"}, STRICT])
    assert await waits(talk)
    async with person(place.server, other_token) as other:
        for decision in ("allow_always", "reject_always"):
            answer = await other.post(
                talk.path("/tool-approvals"),
                json={"decisions": [{"tool_call_id": "call_1", "decision": decision}]},
            )
            assert refusal(answer) == (403, "session_owner_required"), decision
            assert decision.removesuffix("_always") in answer.json()["detail"]
        allow = {"decisions": [{"tool_call_id": "call_1", "decision": "allow"}]}
        assert (await other.post(talk.path("/tool-approvals"), json=allow)).status_code == 200
    await talk.logged_until("turn.completed")
    for http in (place.owner, place.member):  # an admin, and the session's owner
        talk = await new_talk(place.member, capabilities=[{"ref": "session_file_system"}, STRICT])
        assert await waits(talk)
        always = {"decisions": [{"tool_call_id": "call_1", "decision": "allow_always"}]}
        assert (await http.post(talk.path("/tool-approvals"), json=always)).status_code == 200


async def test_who_allows_one_call_allows_no_other_whatever_their_ids_are(place: Place) -> None:
    for ids in (("x", "approve_x"), ("approve_x", "x"), ("same", "same"), ("", "approve_")):
        talk = await new_talk(place.member, capabilities=[{"ref": "session_file_system"}, STRICT])
        paths = ("/shown", "/hidden")
        for shown in paths:
            calls = [
                call("write_file", each, path=path, content="x")
                for each, path in zip(ids, paths, strict=True)
            ]
            message = await talk.say(script({"tool_calls": calls}, {"text": "Done."}))
            asked = (await talk.logged_until("tool.call_requested", after=message["sequence"]))[-1]
            questions = [each["arguments"] for each in asked["data"]["tool_calls"]]
            decisions = [
                {
                    "tool_call_id": each["tool_call_id"],
                    "decision": "allow" if each["arguments"]["path"] == shown else "reject",
                }
                for each in questions
            ]
            for one in decisions:
                await post(place.member, talk.path("/tool-approvals"), {"decisions": [one]}, 200)
            events = await talk.logged_until("session.idled", after=asked["sequence"])
            written = [each["data"]["path"] for each in events if each["type"] == "file.written"]
            assert written == [shown], ids


FORWARDED = [
    "X-Forwarded-For: 203.0.113.7", "x-forwarded-for: 127.0.0.1", "X-Forwarded-Host: example.com",
    "X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-Server: front",
    "Forwarded: for=203.0.113.7;proto=https", "X-Real-IP: 203.0.113.7", "Via: 1.1 front",
    "True-Client-IP: 203.0.113.7", "CF-Connecting-IP: 203.0.113.7", "Fastly-Client-IP: 203.0.113.7",
    "X-Client-IP: 203.0.113.7", "X-Cluster-Client-IP: 203.0.113.7", "Fly-Client-IP: 203.0.113.7",
    "X-Original-Host: example.com", "X-Envoy-External-Address: 203.0.113.7",
    "X_Forwarded_For: 203.0.113.7", "X-Originating-IP: 203.0.113.7", "WL-Proxy-Client-IP: 203.0.113.7",
    "X-ProxyUser-IP: 203.0.113.7", "DO-Connecting-IP: 203.0.113.7", "Proxy-Client-IP: 203.0.113.7",
    "X-Forwarder-For: 203.0.113.7", "X-HTTP-Forwarded-For: 203.0.113.7", "X-Scheme: https", "X-Real-Port: 1",
    "HTTP-X-Forwarded-For: 203.0.113.7", "X-Vercel-Forwarded-For: 203.0.113.7", "CDN-Loop: cloudflare",
    "X-NF-Client-Connection-IP: 203.0.113.7", "X-Sucuri-ClientIP: 203.0.113.7", "Remote-Addr: 203.0.113.7",
    "Tailscale-User-Login: a@example.com", "Ngrok-Trace-Id: 1", "X-Amzn-Trace-Id: Root=1", "X-ARR-SSL: x",
    "Ali-CDN-Real-IP: 203.0.113.7", "Incap-Client-IP: 203.0.113.7", "X-Varnish: 1", "Max-Forwards: 9",
]  # fmt: skip


async def _status(server: Server, *lines: str, method: str = "GET", path: str = "/v1/sessions") -> int:
    data = head(method, path, {})
    more = "".join(f"{line}\r\n" for line in lines).encode()
    return int((await raw_exchange(server, data.replace(b"\r\n\r\n", b"\r\n" + more + b"\r\n", 1)))[0])


@pytest.mark.parametrize("line", FORWARDED)
async def test_without_a_login_a_proxys_request_is_refused(sqlite_server: Server, line: str) -> None:
    assert await _status(sqlite_server, line) == 403
    answer = httpx.get(f"{sqlite_server.url}/v1/sessions", headers=dict([line.split(": ", 1)]))
    assert refusal(answer) == (403, "proxy_not_allowed")


async def test_without_a_login_the_default_of_nginx_is_refused(sqlite_server: Server) -> None:
    """It names this machine as the host and adds no header, but it speaks HTTP/1.0."""
    host = sqlite_server.url.removeprefix("http://")
    for version, status in (("1.0", 403), ("1.1", 400)):  # the id of a session is not valid
        request = f"GET /v1/sessions/x HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert (await raw_exchange(sqlite_server, request.encode()))[0] == status


async def test_a_request_names_one_host(sqlite_server: Server, place: Place) -> None:
    for server in (sqlite_server, place.server):
        here = server.url.removeprefix("http://")
        for url, host, status in (
            ("http://example.com/nothing", here, 400),
            (f"{server.url}/nothing", "example.com", 400),
            ("http://example.com", here, 400),
            (f"http://{here}@example.com/nothing", here, 400),
            (f"{server.url}/nothing", here, 404),
            (f"{server.url.replace('http', 'HTTP')}/nothing?x=//y", here, 404),
        ):
            request = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            assert (await raw_exchange(server, request.encode()))[0] == status, (url, host)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        (
            {
                "user-agent": "x/1",
                "x-request-id": "1",
                "x-requested-with": "x",
                "traceparent": "00-1-1-01",
                "referer": "http://localhost/",
                "x-stainless-os": "Linux",
                "x-client-version": "1",
                "x-array": "1",
            },
            200,
        ),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "SAME-ORIGIN"}, 403),
        ({"sec-fetch-site": ""}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "https://{host}"}, 403),
        ({"origin": "http://[::1]:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://{host}"}, 200),
        ({"origin": "http://{host}", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://{host}", "sec-fetch-site": "cross-site"}, 403),
    ],
)
async def test_without_a_login_pages_of_other_origins_are_refused(
    sqlite_server: Server, headers: dict[str, str], status: int
) -> None:
    host = sqlite_server.url.removeprefix("http://")
    sent = {name: value.format(host=host) for name, value in headers.items()}
    for method, path in (("GET", "/v1/sessions"), ("POST", "/v1/sessions")):
        body = {"json": {}} if method == "POST" else {}
        answer = httpx.request(method, f"{sqlite_server.url}{path}", headers=sent, **body)
        assert answer.status_code == (201 if status == 200 and method == "POST" else status), method
        if status == 403:
            assert refusal(answer) == (403, "origin_not_allowed")
    # A link in another page may lead to the documentation, which is public.
    assert httpx.get(f"{sqlite_server.url}/docs", headers=sent).status_code == 200


async def test_a_header_that_decides_about_access_comes_once(sqlite_server: Server, place: Place) -> None:
    for server in (sqlite_server, place.server):
        for line in ("Host: localhost", "Host: example.com"):
            assert await _status(server, line) == 400
        for line in ("Origin: http://a", "Authorization: Bearer x", "X-Org-Id: x", "Sec-Fetch-Site: none"):
            assert await _status(server, line, line) == 400, line


async def test_with_a_login_the_token_decides_and_nothing_else(place: Place) -> None:
    headers = {
        "origin": "https://example.com",
        "sec-fetch-site": "cross-site",
        "x-forwarded-for": "203.0.113.7",
        "host": "perdure.example.com",
    }
    assert (await place.member.get("/v1/sessions", headers=headers)).status_code == 200
    anonymous = httpx.get(f"{place.server.url}/v1/sessions", headers=headers)
    assert refusal(anonymous) == (401, "unauthenticated")
