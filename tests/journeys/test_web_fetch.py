"""`web_fetch` through the model loop: the layers' lists and the server's setting limit what it reaches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, new_talk

WEB = {"capabilities": [{"ref": "web_fetch"}]}


async def fetched(talk: Talk, url: str) -> Json:
    """The result of one call."""
    events = await talk.turn({"tool_calls": [call("web_fetch", url=url)]}, {"text": "Done."})
    assert events[-2]["type"] == "turn.completed"
    return next(event["data"] for event in events if event["type"] == "tool.completed")


@pytest.fixture
async def intranet(database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server, on each of the databases, whose tools may reach private addresses."""
    settings = {"PERDURE_PRIVATE_ADDRESSES": "true"}
    server = Server(tmp_path / "data", database_url=database_url, environment=settings)
    async with server, httpx.AsyncClient(timeout=30) as client:
        client.base_url = server.url
        await use_simulated_model(client)
        yield client


async def test_this_machine_is_not_reachable_unless_the_server_allows_it(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, **WEB)
    for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"):
        data = await fetched(talk, f"http://{host}:{api.base_url.port}/health")
        assert (data["success"], data["status"]) == (False, "error")
        assert "not a public host" in data["error"]


async def test_a_page_is_fetched_where_private_addresses_are_allowed(intranet: httpx.AsyncClient) -> None:
    data = await fetched(await new_talk(intranet, **WEB), str(intranet.base_url.join("/health")))
    assert data["success"], data
    assert "running_sessions" in data["result"][0]["text"]


async def test_every_layer_can_narrow_where_tools_go_and_none_can_widen_it(
    intranet: httpx.AsyncClient,
) -> None:
    here = str(intranet.base_url.join("/health"))
    harness = await post(
        intranet,
        "/v1/harnesses",
        {
            "name": "narrow",
            "system_prompt": "x",
            "network_access": {"allowed": ["127.0.0.1", "*.test"]},
            **WEB,
        },
    )
    agent = await post(
        intranet,
        "/v1/agents",
        {
            "name": "a",
            "system_prompt": "x",
            "harness_id": harness["id"],
            "network_access": {"blocked": ["b.test"]},
        },
    )
    for access, reached in (
        (None, True),
        ({"allowed": ["127.0.0.1"]}, True),
        ({"allowed": ["*"]}, True),
        ({"allowed": ["a.test"]}, False),
        ({"blocked": ["127.0.0.1"]}, False),
    ):
        talk = await new_talk(
            intranet, agent_id=agent["id"], **({} if access is None else {"network_access": access})
        )
        assert (await fetched(talk, here))["success"] is reached, access
        for host in ("b.test", "elsewhere.example"):
            assert "may reach" in (await fetched(talk, f"http://{host}/"))["error"]


async def test_a_site_whose_headers_are_no_text_does_not_harm_the_turn(intranet: httpx.AsyncClient) -> None:
    """The client returns header bytes that are not UTF-8 as lone surrogates, which cannot be stored."""
    kinds = {b"/page": b"text/ht\xffml", b"/other": b"appl\xff/zip", b"/odd": b"text/plain; charset=\xff"}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: " + kinds[path] + b"\r\nContent-Length: 5\r\n\r\nhello"
        )
        await writer.drain()
        writer.close()

    talk = await new_talk(intranet, **WEB)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as site:
        url = f"http://127.0.0.1:{site.sockets[0].getsockname()[1]}"
        page, other, odd = [await fetched(talk, url + path.decode()) for path in kinds]
    assert "hello" in page["result"][0]["text"]
    assert "appl?/zip" in other["error"]
    assert "hello" in odd["result"][0]["text"]


@pytest.mark.parametrize("entry", ["10.0.0.0/8", "fd00::/8", "", " ", "/path", "x" * 301])
async def test_a_host_that_could_not_mean_what_it_says_is_refused(api: httpx.AsyncClient, entry: str) -> None:
    for which in ("allowed", "blocked"):
        problem = await post(api, "/v1/sessions", {"network_access": {which: ["example.com", entry]}}, 400)
        assert problem["field"] == f"network_access.{which}[1]"
    await post(api, "/v1/sessions", {"network_access": {"blocked": ["x.test"] * 501}}, 400)
