"""MCP servers that lie, never end, or send too much: every call ends, within its bounds."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any

import psutil
import pytest

from perdure.domain.mcp import McpContent, McpLost, McpOffer, McpRefused, McpUnreachable
from perdure.domain.network import NetworkRules
from perdure.net.mcp.hosts import McpHosts
from tests.mcp_scripts import Json, Scripted, Step, Talk, error, event, replies, result, text
from tests.sites import INSIDE, PUBLIC, Names
from tests.unit.fake_server import Reply, Request

Rpc = dict[str, Any]


def notified(size: int = 10) -> str:
    params = {"level": "info", "data": "x" * size}
    return event({"jsonrpc": "2.0", "method": "notifications/message", "params": params})


def raw(body: bytes, content_type: str = "application/json", **headers: str) -> Step:
    async def step(_: Request, reply: Reply, __: Json) -> None:
        await reply.start(200, content_type, content_length=str(len(body)), **headers)
        await reply.send(body)

    return step


async def endless(_: Request, reply: Reply, __: Json) -> None:
    await reply.start(200, "text/event-stream")
    while True:
        await reply.frames(notified(100_000))


async def drip(_: Request, reply: Reply, __: Json) -> None:
    await reply.start(200, "text/event-stream")
    while True:
        await reply.send(b": still here\n")
        await asyncio.sleep(0.01)


async def long_line(_: Request, reply: Reply, __: Json) -> None:
    await reply.start(200, "text/event-stream")
    await reply.send(b"data: ")
    while True:
        await reply.send(b"x" * 100_000)


async def long_body(_: Request, reply: Reply, __: Json) -> None:
    await reply.start(200, "application/json", transfer_encoding="chunked")
    while True:
        await reply.send(b"186a0\r\n" + b" " * 50_000 + b"[" * 50_000 + b"\r\n")


async def asking(_: Request, reply: Reply, __: Json) -> None:
    await reply.start(200, "text/event-stream")
    for key in range(100_000):
        await reply.frames(event({"jsonrpc": "2.0", "id": key, "method": "ping"}))


def bomb(size: int) -> bytes:
    return gzip.compress(b" " * size, compresslevel=9)


UNREADABLE: dict[str, Step] = {
    "endless": endless,
    "long line": long_line,
    "long body": long_body,
    "asking": asking,
    "deep": raw(b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep objects": raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "rather deep": raw(b'{"jsonrpc":"2.0","id":1,"result":{"a":' + b"[" * 200 + b"]" * 200 + b"}}"),
    "many values": raw(b'{"jsonrpc":"2.0","id":1,"result":{"a":[' + b"[]," * 1_000_000 + b"1]}}"),
    "extreme": raw(b'{"jsonrpc":"2.0","id":1,"result":{"a":[' + b"1e999," * 500_000 + b"1]}}"),
    "bomb": raw(bomb(300_000_000), content_encoding="gzip"),
    "bomb in a stream": raw(bomb(300_000_000), "text/event-stream", content_encoding="gzip"),
    "not gzip": raw(b"{}", content_encoding="gzip"),
    "brotli": raw(b"{}", content_encoding="br"),
    "page": raw(b"<html><body>Welcome</body></html>", "text/html"),
    "page as JSON": raw(b"<html>", "application/json"),
    "bytes": raw(bytes(range(256)) * 10),
    "not UTF-8": raw(b'{"jsonrpc":"2.0","id":1,"result":{"content":"\xff"}}'),
    "list": raw(b"[1, 2, 3]"),
    "other result": raw(b'{"jsonrpc":"2.0","id":1,"result":7}'),
    "half": raw(b'{"jsonrpc":"2.0","id":1,"resu'),
    "big batch": raw(json.dumps([{"method": "x"}] * 2_000).encode()),
    "nothing": raw(b""),
    "endless redirects": replies(307, None, location="/mcp"),
}


@pytest.mark.parametrize("era", ["stateless", "legacy"])
@pytest.mark.parametrize("answer", UNREADABLE)
async def test_an_answer_that_cannot_be_read_ends_the_call_in_little_memory(answer: str, era: str) -> None:
    async with Scripted(era) as server, Talk.to(server.url) as talk:
        await talk.call()
        server.steps["tools/call"] = UNREADABLE[answer]
        server.steps["response"] = replies(202)
        before, began = psutil.Process().memory_info().rss, time.monotonic()
        with pytest.raises((McpLost, McpUnreachable)) as failed:
            await talk.call(timeout=20)
        assert "within 20 seconds" not in failed.value.message
        assert time.monotonic() - began < 15
        assert psutil.Process().memory_info().rss - before < 200 << 20
        assert server.count("tools/call") <= (5 if "redirects" in answer else 2)
        del server.steps["tools/call"]
        assert await talk.said() == "done"  # nothing is left behind


async def test_bytes_that_drip_end_with_the_time() -> None:
    async with Scripted(tools__call=drip) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpLost, match=r"within 0\.5 seconds"):
            await talk.call(timeout=0.5)


async def test_responses_with_other_ids_are_ignored() -> None:
    async def others(_: Request, reply: Reply, message: Json) -> None:
        await reply.start(200, "text/event-stream")
        for key in (message["id"] + 1, str(message["id"]), None, "server-error"):
            await reply.frames(event(text({"id": key}, "of another")))
        await reply.frames(event(text(message, "mine")))

    async with Scripted(tools__call=others) as server, Talk.to(server.url) as talk:
        assert await talk.said() == "mine"

    async def only_others(_: Request, reply: Reply, message: Json) -> None:
        await reply.json(200, text({"id": message["id"] + 1}, "of another"))

    async with Scripted(tools__call=only_others) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpLost):
            await talk.call()


async def test_the_content_decides_what_an_answer_is_and_not_its_declared_type() -> None:
    async def as_stream(_: Request, reply: Reply, message: Json) -> None:
        await reply.start(200, "text/event-stream")
        await reply.send(json.dumps(text(message, "json")).encode())

    async def as_json(_: Request, reply: Reply, message: Json) -> None:
        await reply.start(200, "application/json")
        await reply.send(b"\r\n\xef\xbb\xbf" + event(text(message, "stream")).replace("\n", "\r\n").encode())
        await reply.send(b"\r\n\r\n")

    async def batch(_: Request, reply: Reply, message: Json) -> None:
        await reply.json(200, [{"jsonrpc": "2.0", "method": "x"}, text(message, "batch")])

    async with Scripted() as server, Talk.to(server.url) as talk:
        for step, said in ((as_stream, "json"), (as_json, "stream"), (batch, "batch")):
            server.steps["tools/call"] = step
            assert await talk.said() == said


async def test_half_an_emoji_does_not_spoil_an_answer() -> None:
    async def cut(_: Request, reply: Reply, message: Json) -> None:
        body = json.dumps(text(message, "\\u0041 \U0001f600")).encode()
        body = body.replace(b"\\ude00", b"")
        await reply.start(200, "application/json", content_length=str(len(body)))
        await reply.send(body)

    async with Scripted(tools__call=cut) as server, Talk.to(server.url) as talk:
        assert await talk.said() == "\\u0041 \ufffd"


async def test_progress_is_shown_in_bounded_lines_and_not_too_often() -> None:
    async def busy(_: Request, reply: Reply, message: Json) -> None:
        token = message["params"]["_meta"]["progressToken"]
        await reply.start(200, "text/event-stream")
        for count in range(500):
            params: Json = {"progressToken": token, "progress": count, "message": "a\u202e\n" + "x" * 10_000}
            other = {**params, "progressToken": "another", "message": "of another"}
            for each in (params, other):
                await reply.frames(event({"method": "notifications/progress", "params": each}))
        await reply.frames(event(text(message, "done")))

    async with Scripted(tools__call=busy) as server, Talk.to(server.url) as talk:
        began = time.monotonic()
        await talk.call()
        assert 1 <= len(talk.lines) <= 2 + (time.monotonic() - began) * 20
        assert all(line.startswith("a x") and len(line) < 600 for line in talk.lines)


# --- addresses and redirects


async def test_only_the_same_origin_is_redirected_to() -> None:
    async with Scripted() as inner, Scripted() as server, Talk.to(server.url) as talk:
        await talk.call()

        async def once(request: Request, reply: Reply, message: Json) -> None:
            del server.steps["tools/call"]
            await replies(307, None, location="/other")(request, reply, message)

        server.steps["tools/call"] = once
        assert await talk.said() == "done"
        assert server.requests[-1].path == "/other"
        for status in (301, 302, 303, 307, 308):
            server.steps["tools/call"] = replies(status, None, location=inner.url)
            with pytest.raises(McpUnreachable, match="redirects"):
                await talk.call()
        assert inner.seen == []


async def test_private_addresses_are_refused_by_name_and_by_number() -> None:
    async with Scripted() as server:
        names = Names(inside_example=["127.0.0.1"], meta_example=["169.254.169.254"])
        hosts = McpHosts(names)
        port = server.url.rpartition(":")[2]
        for url, rules in [
            (server.url, PUBLIC),
            (f"http://inside.example:{port}", PUBLIC),
            (f"http://[::ffff:127.0.0.1]:{port}", PUBLIC),
            (f"http://2130706433:{port}", PUBLIC),
            ("http://169.254.169.254/mcp", INSIDE),
            ("http://meta.example/mcp", INSIDE),
            (server.url, NetworkRules(allowed=(("example.com",),), private=True)),
            ("file:///etc/passwd", INSIDE),
            ("http://user:secret-password@example.com/", INSIDE),
            ("http://example.com:22/", INSIDE),
            ("not a URL", INSIDE),
        ]:
            talk = Talk(Talk.to(url, rules=rules).endpoint, hosts)
            with pytest.raises(McpUnreachable) as failed:
                await talk.hosts.offer(talk.endpoint, timeout=10)
            assert "secret-password" not in failed.value.message
        assert server.seen == []
        await hosts.close()


async def test_a_name_that_turns_private_between_the_first_request_and_the_call_is_refused() -> None:
    async with Scripted() as server:
        hosts = McpHosts(Names(turning_example=["127.0.0.1", "169.254.169.254"]))
        port = server.url.rpartition(":")[2]
        talk = Talk(Talk.to(f"http://turning.example:{port}").endpoint, hosts)
        with pytest.raises(McpUnreachable, match="not a public host"):
            await talk.call()  # each answer closes its connection
        host = f"turning.example:{port.split('/')[0]}"
        assert {request.headers["host"] for request in server.requests} == {host}
        assert server.seen == ["server/discover"]
        await hosts.close()


# --- headers


async def test_no_header_can_be_smuggled_and_no_cookie_is_kept() -> None:
    async with Scripted() as server:
        headers = (
            ("Authorization", "Bearer very-secret-token"),
            ("Host", "metadata"),
            ("Mcp-Method", "tools/list"),
            ("Content-Length", "3"),
        )
        async with Talk.to(server.url, headers=headers) as talk:
            server.steps["tools/call"] = replies(200, (-1, "I know very-secret-token"), set_cookie="a=b")
            for _ in range(2):
                with pytest.raises(McpRefused) as failed:
                    await talk.call(headers={"mcp-name": "other", "X-Effect": "k1"})
                assert "very-secret-token" not in failed.value.message
        sent = server.requests[-1].headers
        assert (sent["mcp-method"], sent["mcp-name"], sent["x-effect"]) == ("tools/call", "act", "k1")
        assert sent["authorization"] == "Bearer very-secret-token"
        assert sent["host"].startswith("127.0.0.1")
        assert "cookie" not in sent
        async with Talk.to(server.url, headers=(("X-A", "b\r\nX-Evil: 1"),)) as talk:
            with pytest.raises(McpUnreachable, match="cannot be sent"):
                await talk.call()


async def test_a_session_id_with_other_characters_is_refused() -> None:
    async with Scripted("legacy") as server, Talk.to(server.url) as talk:
        for bad in ("a b", "é", "x" * 2_000):

            async def hello(_: Request, reply: Reply, message: Json, bad: str = bad) -> None:
                body = result(message, protocolVersion="2025-06-18", capabilities={})
                await reply.json(200, body, mcp_session_id=bad)

            server.steps["initialize"] = hello
            with pytest.raises(McpUnreachable, match="session"):
                await talk.call()
        assert server.count("tools/call") == 0


async def test_a_revision_that_nobody_knows_is_refused() -> None:
    async def hello(_: Request, reply: Reply, message: Json) -> None:
        await reply.json(200, result(message, protocolVersion="1999-01-01\u202e", capabilities={}))

    async with Scripted("legacy", initialize=hello) as server, Talk.to(server.url) as talk:
        with pytest.raises(McpUnreachable, match="'1999-01-01'"):
            await talk.hosts.offer(talk.endpoint, timeout=10)


# --- lists


async def offer_of(server: Scripted) -> McpOffer:
    async with server, Talk.to(server.url) as talk:
        return await talk.hosts.offer(talk.endpoint, timeout=30)


async def test_ten_thousand_tools_become_five_hundred() -> None:
    server = Scripted()
    server.tools = [{"name": f"tool_{number}", "inputSchema": {"type": "object"}} for number in range(10_000)]
    offer = await offer_of(server)
    assert len(offer.tools) == 500
    assert offer.faults == ("9500 tools were left out: a server may offer 500",)


@pytest.mark.parametrize("loop", ["same", "two", "new"])
async def test_a_list_that_never_ends_is_cut(loop: str) -> None:
    async def page(_: Request, reply: Reply, message: Json) -> None:
        now = int(message["params"].get("cursor") or "0")
        following = {"same": 1, "two": 1 if now != 1 else 2, "new": now + 1}[loop]
        tools = [{"name": f"t{now}", "inputSchema": {}}]
        await reply.json(200, result(message, tools=tools, nextCursor=str(following)))

    server = Scripted(tools__list=page)
    offer = await offer_of(server)
    assert server.count("tools/list") <= 20
    assert "the list" in offer.faults[-1]
    assert offer.tools


async def test_tools_that_are_wrong_are_left_out_and_named() -> None:
    deep: Json = {"type": "object"}
    for _ in range(40):
        deep = {"type": "object", "properties": {"a": deep}}
    marked = {"type": "object", "properties": {"a": {"type": "number", "x-mcp-header": "A"}}}
    server = Scripted()
    server.tools = [
        {"name": "good", "description": "a\u202eb\x1b[31m\U000e0041c", "title": "T"},
        {"name": "good", "description": "again"},
        {"name": ""},
        {"name": "x" * 300},
        {"name": "hidden\u200b"},
        {"name": "list", "inputSchema": []},
        {"name": "array", "inputSchema": {"type": "array"}},
        {"name": "large", "inputSchema": {"description": "x" * 200_000}},
        {"name": "marked", "inputSchema": marked},
        {"name": 7},
        "nothing",  # type: ignore[list-item]
        {"name": "long", "description": "d" * 20_000, "annotations": {"readOnlyHint": "yes"}},
    ]
    offer = await offer_of(server)
    assert [tool.name for tool in offer.tools] == ["good", "long"]
    assert (offer.tools[0].description, offer.tools[0].input_schema) == ("ab[31mc", {"type": "object"})
    assert (len(offer.tools[1].description), offer.tools[1].readonly) == (16_000, None)
    assert len(offer.faults) == 10
    assert all("\u200b" not in fault for fault in offer.faults)


async def test_a_page_that_is_too_large_is_refused() -> None:
    server = Scripted()
    server.tools = [{"name": "t", "description": "x" * 5_000_000}]
    with pytest.raises(McpUnreachable, match="longer than"):
        await offer_of(server)


async def test_a_server_without_tools_offers_none() -> None:
    async def discover(_: Request, reply: Reply, message: Json) -> None:
        await reply.json(200, result(message, supportedVersions=["2026-07-28"], capabilities={"prompts": {}}))

    async def none(_: Request, reply: Reply, message: Json) -> None:
        await reply.json(404, error(message, -32601))

    offer = await offer_of(Scripted(server__discover=discover, tools__list=none))
    assert (offer.tools, offer.has_prompts, offer.has_resources) == ((), True, False)


async def test_results_of_another_form_are_lost_answers() -> None:
    bad: list[Rpc] = [
        {},
        {"content": {}},
        {"content": ["text"]},
        {"content": [{"type": 1}]},
        {"content": [{"type": "text"}]},
        {"content": [{"type": "image", "data": 1, "mimeType": "image/png"}]},
        {"content": [{"type": "resource"}]},
        {"content": [{"type": "resource", "resource": {"uri": "a"}}]},
        {"content": [{"type": "text", "text": ""}] * 1_001},
        {"resultType": "task", "taskId": "t"},
        {"resultType": "input_required"},
        {"resultType": "input_required", "inputRequests": {"a": {"method": "sampling/createMessage"}}},
    ]
    async with Scripted() as server, Talk.to(server.url, elicitation="url") as talk:
        for fields in bad:

            async def step(_: Request, reply: Reply, message: Json, fields: Rpc = fields) -> None:
                await reply.json(200, result(message, **fields))

            server.steps["tools/call"] = step
            with pytest.raises(McpLost, match="cannot be read"):
                await talk.call()


async def test_large_arguments_and_results_arrive_whole() -> None:
    async def large(_: Request, reply: Reply, message: Json) -> None:
        await reply.json(200, text(message, message["params"]["arguments"]["said"]))

    async with Scripted(tools__call=large) as server, Talk.to(server.url) as talk:
        content = await talk.call(arguments={"said": "é" * 1_000_000})
        assert isinstance(content, McpContent)
        assert content.content[0]["text"] == "é" * 1_000_000
