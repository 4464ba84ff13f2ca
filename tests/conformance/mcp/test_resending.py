"""A call is never sent twice, unless the server has not run it or the tool is idempotent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from perdure.domain.mcp import (
    McpContent,
    McpLost,
    McpRefused,
    McpTool,
    McpUnauthorized,
    McpUnreachable,
)
from perdure.domain.network import NetworkRules
from perdure.net.mcp import http, over_http
from tests.mcp_scripts import TOOL, Json, Scripted, Talk, error, event, replies, result, says, settled, text
from tests.unit.fake_server import Reply, Request

ERAS = ["stateless", "legacy"]


async def cut(_: Request, reply: Reply, __: Json) -> None:
    reply.cut()


async def never(_: Request, reply: Reply, __: Json) -> None:
    await reply.silence()


async def half(_: Request, reply: Reply, message: Json) -> None:
    await reply.start(200, "application/json", content_length="1000")
    await reply.send(json.dumps(text(message, "x")).encode()[:30])
    reply.cut()


async def ended_stream(_: Request, reply: Reply, message: Json) -> None:
    await reply.start(200, "text/event-stream")
    await reply.frames(event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}))


LOSSES = {
    "cut": cut,
    "half": half,
    "ended": ended_stream,
    "accepted": replies(202),
    "empty": replies(200),
    "page": replies(200, "<html>"),
    "500": replies(500),
    "502": replies(502),
    "503": replies(503),
    "504": replies(504, "x"),
}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("loss", LOSSES)
async def test_a_call_whose_answer_is_lost_is_not_sent_again(era: str, loss: str) -> None:
    async with Scripted(era, tools__call=LOSSES[loss]) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpLost):
            await talk.call()
        assert server.count("tools/call") == 1


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("loss", ["cut", "half", "ended", "502"])
async def test_an_idempotent_call_is_sent_again(era: str, loss: str) -> None:
    async with Scripted(era) as server, Talk.to(server.url) as talk:

        async def once(request: Request, reply: Reply, message: Json) -> None:
            del server.steps["tools/call"]
            await LOSSES[loss](request, reply, message)

        server.steps["tools/call"] = once
        assert await talk.said(idempotent=True) == "done"
        assert server.count("tools/call") == 2


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_takes_too_long_is_lost_and_the_server_is_told(era: str) -> None:
    async with Scripted(era, tools__call=never) as server, Talk.to(server.url) as talk:
        await talk.hosts.offer(talk.endpoint, timeout=10)
        with pytest.raises(McpLost, match=r"within 0.3 seconds"):
            await talk.call(timeout=0.3)
        if era == "legacy":
            await settled(lambda: "notifications/cancelled" in server.seen)
            sent = next(each for each in server.messages if each["method"] == "tools/call")
            assert server.messages[-1]["params"]["requestId"] == sent["id"]
        assert server.count("tools/call") == 1


@pytest.mark.parametrize("era", ERAS)
async def test_an_idempotent_call_that_takes_too_long_may_be_repeated(era: str) -> None:
    async with Scripted(era, tools__call=never) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpUnreachable):
            await talk.call(timeout=0.5, idempotent=True)


async def test_a_cancelled_call_ends_at_once_and_the_server_is_told() -> None:
    begun = asyncio.Event()

    async def hang(_: Request, reply: Reply, __: Json) -> None:
        begun.set()
        await reply.silence()

    async with Scripted("legacy", tools__call=hang) as server, Talk.to(server.url) as talk:
        task = asyncio.create_task(talk.call())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settled(lambda: "notifications/cancelled" in server.seen)


async def test_a_server_that_cannot_be_reached_has_not_run_the_call() -> None:
    async with Scripted() as server, Talk.to(server.url) as talk:
        await talk.call()
        await server.__aexit__()
        with pytest.raises(McpUnreachable, match="cannot be reached"):
            await talk.call()


async def test_silence_before_the_call_is_sent_leaves_no_doubt() -> None:
    async with Scripted(server__discover=never) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpUnreachable):
            await talk.call(timeout=0.3)
        assert server.count("tools/call") == 0


# --- sessions


async def test_an_expired_session_is_replaced_and_the_call_sent_again() -> None:
    async with Scripted("legacy") as server, Talk.to(server.url) as talk:
        await talk.call()
        server.sessions.clear()
        before = talk.hosts.changes(talk.endpoint)
        assert await talk.said() == "done"
        assert server.count("tools/call") == 3
        assert server.count("initialize") == 2
        assert talk.hosts.changes(talk.endpoint) > before
        again = [request for request in server.requests if request.json().get("method") == "initialize"][-1]
        assert "mcp-session-id" not in again.headers


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, (-32000, "Bad Request: No valid session ID provided")),
        (400, (-32000, "Bad Request: Server not initialized")),
        (404, (-32001, "Session not found")),
        (404, None),
        (410, None),
    ],
)
async def test_every_way_to_say_that_a_session_is_over_is_understood(status: int, said: object) -> None:
    async with Scripted("legacy") as server, Talk.to(server.url) as talk:

        async def once(request: Request, reply: Reply, message: Json) -> None:
            del server.steps["tools/call"]
            await replies(status, said)(request, reply, message)

        await talk.call()
        server.steps["tools/call"] = once
        assert await talk.said() == "done"
        assert server.count("initialize") == 2


async def test_a_server_that_always_forgets_its_session_ends_the_call() -> None:
    async with Scripted("legacy", tools__call=replies(404)) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpUnreachable, match="forgets"):
            await talk.call()
        assert server.count("tools/call") == 2
        assert server.count("initialize") == 2


async def test_scopes_share_no_session() -> None:
    async with Scripted("legacy") as server, Talk.to(server.url) as talk:
        await talk.hosts.offer(talk.endpoint, timeout=10)
        for scope in ("one", "two", "one"):
            await talk.call(scope=scope)
        calls = [each for each in server.requests if each.json().get("method") == "tools/call"]
        used = [each.headers["mcp-session-id"] for each in calls]
        assert used[0] == used[2] != used[1]
        assert server.count("initialize") == 3


async def test_a_session_is_ended_when_its_scope_is_forgotten_and_at_the_close() -> None:
    async with Scripted("legacy", DELETE=replies(200)) as server:
        async with Talk.to(server.url) as talk:
            await talk.call()
            await talk.call(scope="two")
            talk.hosts.forget("one")
            await settled(lambda: server.count("DELETE") == 1)
        assert server.count("DELETE") == 2
        assert "mcp-session-id" in server.requests[-1].headers


async def test_a_refreshed_token_keeps_the_session() -> None:
    async with Scripted("legacy") as server, Talk.to(server.url, identity="bob") as talk:
        for token in ("old-token", "new-token"):
            talk.endpoint = Talk.to(
                server.url, identity="bob", headers=(("Authorization", f"Bearer {token}"),)
            ).endpoint
            await talk.call()
        assert server.count("initialize") == 1
        assert server.requests[-1].headers["authorization"] == "Bearer new-token"


async def test_a_broken_stream_is_resumed_without_sending_the_call_again() -> None:
    async def primed(_: Request, reply: Reply, __: Json) -> None:
        await reply.start(200, "text/event-stream")
        await reply.frames("id: e1\nretry: 10\ndata: ")

    async with Scripted("legacy", tools__call=primed) as server, Talk.to(server.url) as talk:

        async def rest(request: Request, reply: Reply, _: Json) -> None:
            assert request.headers["last-event-id"] == "e1"
            call = next(each for each in server.messages if each["method"] == "tools/call")
            await reply.start(200, "text/event-stream")
            await reply.frames(event(text(call, "resumed"), "e2"))

        server.steps["GET"] = rest
        assert await talk.said() == "resumed"
        assert server.count("tools/call") == 1


# --- eras


@pytest.mark.parametrize(("first", "second"), [("stateless", "legacy"), ("legacy", "stateless")])
async def test_a_server_that_changes_its_era_is_asked_again(first: str, second: str) -> None:
    async with Scripted(first) as server, Talk.to(server.url) as talk:
        assert (await talk.hosts.offer(talk.endpoint, timeout=10)).era == first
        await talk.call()
        server.era = second
        server.sessions.clear()
        if second == "stateless":
            server.steps["initialize"] = replies(400, (-32022, "no", {"supported": ["2026-07-28"]}))
        assert await talk.said() == "done"
        assert (await talk.hosts.offer(talk.endpoint, timeout=10)).era == second


OLDER = {
    "python 1, sessions": replies(400, (-32600, "Bad Request: Missing session ID")),
    "typescript 1": replies(400, (-32000, "Bad Request: Unsupported protocol version: 2026-07-28")),
    "no method": replies(200, (-32601, "Method not found")),
    "python 1": replies(200, (-32602, "Invalid request parameters")),
    "no method, 404": replies(404, (-32601, "Method not found")),
    "other revisions": replies(400, (-32022, "no", {"supported": ["2025-11-25"]})),
    "page, 404": replies(404, "<html>"),
    "page": replies(200, "<html>"),
    "405": replies(405),
    "202": replies(202),
    "other result": replies(200, {"jsonrpc": "2.0", "id": 1, "result": {}}),
}


@pytest.mark.parametrize("answer", OLDER)
async def test_whatever_an_older_server_answers_to_the_probe_it_gets_a_session(answer: str) -> None:
    async with Scripted("legacy", server__discover=OLDER[answer]) as server, Talk.to(server.url) as talk:
        assert (await talk.hosts.offer(talk.endpoint, timeout=10)).era == "legacy"
        hello = server.requests[server.seen.index("initialize")]
        assert not [name for name in hello.headers if name.startswith("mcp-")]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_server_in_trouble_is_no_older_server(status: int) -> None:
    step = replies(status, retry_after="7")
    async with Scripted(server__discover=step) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpUnreachable) as failed:
            await talk.hosts.offer(talk.endpoint, timeout=10)
        assert "initialize" not in server.seen
        assert (failed.value.retry_after == 7) == (status in (429, 503))


async def test_a_server_of_an_unknown_revision_is_refused() -> None:
    step = replies(400, (-32022, "no", {"supported": ["2099-01-01"]}))
    async with Scripted(server__discover=step) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpUnreachable, match="2099-01-01"):
            await talk.hosts.offer(talk.endpoint, timeout=10)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("era", ERAS)
async def test_a_sign_in_is_asked_for_with_the_servers_challenge(era: str, status: int) -> None:
    step = replies(status, None, www_authenticate='Bearer scope="files"')
    async with Scripted(era) as server, Talk.to(server.url) as talk:
        await talk.call()
        server.steps["tools/call"] = step
        with pytest.raises(McpUnauthorized) as failed:
            await talk.call()
        assert (failed.value.status, failed.value.challenge) == (status, 'Bearer scope="files"')
        assert server.count("tools/call") == 2


# --- answers of the server


@pytest.mark.parametrize("era", ERAS)
async def test_an_error_of_the_server_is_an_answer(era: str) -> None:
    step = replies(200, (-32602, "unknown\u202e tool", {"a": 1}))
    async with Scripted(era, tools__call=step) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpRefused, match="unknown tool") as failed:
            await talk.call()
        assert (failed.value.rpc_code, failed.value.data) == (-32602, {"a": 1})


async def test_headers_that_the_server_wants_otherwise_are_looked_up_once() -> None:
    async with Scripted() as server, Talk.to(server.url) as talk:

        async def strict(request: Request, reply: Reply, message: Json) -> None:
            if request.headers.get("mcp-param-region") != "eu":
                await reply.json(400, error(message, -32020))
                return
            await says("routed")(request, reply, message)

        server.steps["tools/call"] = strict
        schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
        server.tools = [{"name": "act", "inputSchema": schema}]
        assert await talk.said(TOOL, {"region": "eu"}) == "routed"
        assert server.count("tools/call") == 2
        with pytest.raises(McpRefused):
            await talk.call(McpTool("act", header_arguments=(("region", "Mcp-Param-Region"),)))


async def test_a_result_has_all_its_blocks() -> None:
    blocks = [
        {"type": "text", "text": "t"},
        {"type": "image", "data": "aGk=", "mimeType": "image/png"},
        {"type": "resource_link", "uri": "x://y", "name": "y"},
        {"type": "resource", "resource": {"uri": "x://z", "text": "z"}},
        {"type": "new kind", "x": 1},
    ]

    async def step(_: Request, reply: Reply, message: Json) -> None:
        await reply.json(200, result(message, content=blocks, structuredContent=[1], isError=True))

    for era, structured in (("stateless", [1]), ("legacy", None)):
        async with Scripted(era, tools__call=step) as server, Talk.to(server.url) as talk:
            assert await talk.call() == McpContent(tuple(blocks), structured, True)


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, (-32601, "Method not found")), (400, (-32000, "The browser's session data is odd")), (400, None)],
)
async def test_other_refusals_are_no_expired_session(status: int, said: Any) -> None:
    async with Scripted("legacy") as server, Talk.to(server.url) as talk:
        await talk.call()
        server.steps["tools/call"] = replies(status, said)
        with pytest.raises((McpRefused, McpUnreachable)):
            await talk.call()
        assert server.count("tools/call") == 2


async def test_a_changed_list_of_tools_is_noticed_during_a_call() -> None:
    async def telling(_: Request, reply: Reply, message: Json) -> None:
        await reply.start(200, "text/event-stream")
        await reply.frames(event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))
        await reply.frames(event(text(message, "done")))

    for era in ERAS:
        async with Scripted(era, tools__call=telling) as server, Talk.to(server.url) as talk:
            assert talk.hosts.changes(talk.endpoint) == 0
            await talk.call()
            assert talk.hosts.changes(talk.endpoint) == 1


async def test_the_sessions_that_are_kept_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_http, "MAX_SESSIONS", 2)
    async with Scripted("legacy", DELETE=replies(200)) as server, Talk.to(server.url) as talk:
        for scope in "abcd":
            await talk.call(scope=scope)
        await settled(lambda: server.count("DELETE") == 2)
        ended = [each.headers["mcp-session-id"] for each in server.requests if each.method == "DELETE"]
        assert ended == ["session-1", "session-2"]


async def test_a_session_is_not_ended_while_a_call_runs_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_http, "MAX_SESSIONS", 1)
    there, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Request, reply: Reply, message: Json) -> None:
        if request.headers["mcp-session-id"] == "session-1":
            there.set()
            await go_on.wait()
        await reply.json(200, text(message, "done"))

    async with (
        Scripted("legacy", tools__call=slow, DELETE=replies(200)) as server,
        Talk.to(server.url) as talk,
    ):
        first = asyncio.create_task(talk.said(scope="a"))
        await there.wait()
        for scope in "bcd":
            await talk.call(scope=scope)
        await settled(lambda: server.count("DELETE") == 2)
        ended = {each.headers["mcp-session-id"] for each in server.requests if each.method == "DELETE"}
        assert "session-1" not in ended
        go_on.set()
        assert await first == "done"


async def test_a_server_that_says_all_the_time_that_its_tools_change_is_believed_now_and_then() -> None:
    async def telling(_: Request, reply: Reply, message: Json) -> None:
        await reply.start(200, "text/event-stream")
        news = event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        await reply.frames(*[news] * 200, event(text(message, "done")))

    async with Scripted(tools__call=telling) as server, Talk.to(server.url) as talk:
        for _ in range(10):
            await talk.call()
        assert 1 <= talk.hosts.changes(talk.endpoint) <= 5


async def test_sessions_that_nobody_uses_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Scripted("legacy", DELETE=replies(200)) as server, Talk.to(server.url) as talk:
        await talk.call(scope="a")
        monkeypatch.setattr(over_http, "IDLE_SESSION", 0.0)
        await talk.call(scope="b")
        await settled(lambda: server.count("DELETE") == 1)


async def test_the_connections_that_are_kept_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_POOLS", 2)
    async with Scripted() as server, Talk.to(server.url) as talk:
        for number in range(6):
            rules = NetworkRules(blocked=(f"host-{number}.example",), private=True)
            talk.endpoint = Talk.to(server.url, rules=rules).endpoint
            assert await talk.said() == "done"


async def test_resources_and_prompts_are_read() -> None:
    async def resources(_: Request, reply: Reply, message: Json) -> None:
        listed = [{"uri": "a://b", "name": "b", "size": 3, "mimeType": "text/plain"}, {"uri": 7}, "x"]
        await reply.json(200, result(message, resources=listed))

    async def read(request: Request, reply: Reply, message: Json) -> None:
        assert request.headers["mcp-name"] == "a://b"
        await reply.json(200, result(message, contents=[{"uri": "a://b", "blob": "aGk="}]))

    async def prompts(_: Request, reply: Reply, message: Json) -> None:
        listed = [{"name": "p", "arguments": [{"name": "x", "required": True}, 7]}, {"name": ""}]
        await reply.json(200, result(message, prompts=listed))

    async def prompt(_: Request, reply: Reply, message: Json) -> None:
        said = {"role": "user", "content": {"type": "text", "text": message["params"]["arguments"]["x"]}}
        await reply.json(200, result(message, messages=[said]))

    steps = {"resources__list": resources, "resources__read": read}
    server = Scripted(**steps, prompts__list=prompts, prompts__get=prompt)
    async with server, Talk.to(server.url) as talk:
        at: Any = {"scope": "one", "timeout": 10}
        (resource,) = await talk.hosts.list_resources(talk.endpoint, **at)
        assert (resource.uri, resource.size, resource.mime_type) == ("a://b", 3, "text/plain")
        content = await talk.hosts.read_resource(talk.endpoint, uri="a://b", **at)
        assert content.content == ({"type": "resource", "resource": {"uri": "a://b", "blob": "aGk="}},)
        (listed,) = await talk.hosts.list_prompts(talk.endpoint, **at)
        assert [(each.name, each.required) for each in listed.arguments] == [("x", True)]
        (message,) = await talk.hosts.get_prompt(talk.endpoint, name="p", arguments={"x": "hi"}, **at)
        assert (message.role, message.content["text"]) == ("user", "hi")
        server.steps["prompts/get"] = cut
        with pytest.raises(McpUnreachable):
            await talk.hosts.get_prompt(talk.endpoint, name="p", arguments={}, **at)
