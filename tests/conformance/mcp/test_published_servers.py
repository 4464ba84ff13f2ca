"""Servers that others have published: the official package in both eras, and more."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.domain.mcp import (
    McpAnswers,
    McpContent,
    McpInputRequired,
    McpLost,
    McpRefused,
    McpTool,
    McpUnreachable,
)
from perdure.net.mcp.endpoints import McpStdioEndpoint
from tests import mcp_scripts
from tests.mcp_peers import EVERYTHING, NEW, OLD, node, require
from tests.mcp_scripts import Talk, settled
from tests.ports import free_port, until_open

PROGRAM = str(Path(mcp_scripts.__file__).with_name("mcp_official.py"))
KINDS = [
    ("new", "http", "auto", "stateless"),
    ("new", "http", "legacy", "legacy"),
    ("new", "stdio", "auto", "stateless"),
    ("new", "stdio", "legacy", "legacy"),
    ("old", "http", "auto", "legacy"),
    ("old", "stdio", "auto", "legacy"),
]


@contextlib.asynccontextmanager
async def running(*command: str, port: int, **environment: str) -> AsyncIterator[str]:
    """The URL of a server process that listens on the port."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **environment},
    )  # fmt: skip
    try:
        await until_open(port, process, seconds=30)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def talking(version: str, transport: str, protocol: str, **fields: str) -> AsyncIterator[Talk]:
    python = str(require(NEW if version == "new" else OLD))
    fields["protocol"] = protocol
    if transport == "stdio":
        async with Talk(McpStdioEndpoint("official", python, (PROGRAM, "stdio"), **fields)) as talk:  # type: ignore[arg-type]
            yield talk
        return
    port = free_port()
    async with running(python, PROGRAM, str(port), port=port) as url, Talk.to(url, **fields) as talk:
        yield talk


@pytest.mark.parametrize(("version", "transport", "protocol", "era"), KINDS)
async def test_the_official_server_works_whole(version: str, transport: str, protocol: str, era: str) -> None:
    async with talking(version, transport, protocol) as talk:
        offer = await talk.hosts.offer(talk.endpoint, timeout=30)
        tools = {tool.name: tool for tool in offer.tools}
        assert (offer.era, offer.server_name, offer.instructions) == (era, "official", "Be kind.")
        assert tools["add"].input_schema["required"] == ["a", "b"]
        assert await talk.call(tools["add"], {"a": 1, "b": 2}) == McpContent(
            ({"type": "text", "text": "3"},), {"result": 3}
        )
        assert await talk.said(tools["slowly"], {"count": 3}) == "counted"
        assert talk.lines[0] == "step 0 (0 of 3)"
        failed = await talk.call(tools["fail"])
        assert isinstance(failed, McpContent)
        assert failed.is_error
        assert "fail" in failed.content[0]["text"]
        drawn = await talk.call(tools["picture"])
        assert isinstance(drawn, McpContent)
        assert drawn.content[0]["mimeType"] == "image/png"
        with contextlib.suppress(McpRefused):
            unknown = await talk.call(McpTool("unknown"))
            assert isinstance(unknown, McpContent)
            assert unknown.is_error

        read = await talk.hosts.read_resource(talk.endpoint, scope="one", uri="note://one", timeout=10)
        assert read.content[0]["resource"]["text"] == "the note"
        listed = await talk.hosts.list_resources(talk.endpoint, scope="one", timeout=10)
        assert [each.uri for each in listed] == ["note://one"]
        prompts = await talk.hosts.list_prompts(talk.endpoint, scope="one", timeout=10)
        assert prompts[0].arguments[0].name == "name"
        messages = await talk.hosts.get_prompt(
            talk.endpoint, scope="one", name="greeting", arguments={"name": "Ann"}, timeout=10
        )
        assert messages[0].content["text"] == "Greet Ann."
        with pytest.raises(McpRefused):
            await talk.hosts.read_resource(talk.endpoint, scope="one", uri="note://two", timeout=10)

        # A call that nobody waits for is stopped at the server.
        with pytest.raises(McpLost):
            await talk.call(tools["slowly"], {"count": 10}, timeout=0.2)
        assert await talk.said(tools["slowly"], {"count": 12}) == "counted"
        assert await talk.said(tools["finished"]) == "slowly,slowly"


@pytest.mark.parametrize(
    ("version", "transport", "protocol"),
    [
        ("new", "http", "legacy"),
        ("old", "http", "auto"),
        ("old", "stdio", "auto"),
    ],
)
async def test_a_question_of_the_official_server_is_answered_later(
    version: str, transport: str, protocol: str
) -> None:
    async with talking(version, transport, protocol, elicitation="url_and_form") as talk:
        required = await talk.call(McpTool("ask"), idempotent=True)
        assert isinstance(required, McpInputRequired)
        assert required.requests[0].message == "Who are you?"
        given = {required.requests[0].key: {"action": "accept", "content": {"name": "Ann"}}}
        answers = McpAnswers(given, required.state)
        assert await talk.said(McpTool("ask"), answers=answers, idempotent=True) == "accept: Ann"


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
async def test_the_official_server_may_restart_at_any_time(protocol: str) -> None:
    port = free_port()
    command = (str(require(NEW)), PROGRAM, str(port))
    async with Talk.to(f"http://127.0.0.1:{port}/mcp", protocol=protocol) as talk:
        for _ in range(2):
            async with running(*command, port=port):
                for number in range(2):
                    assert await talk.said(McpTool("add"), {"a": number, "b": 1}) == str(number + 1)
                task = asyncio.create_task(talk.call(McpTool("slowly"), {"count": 100}))
                await settled(lambda: bool(talk.lines))
            with pytest.raises(McpLost):
                await task
            talk.lines.clear()
            with pytest.raises(McpUnreachable):
                await talk.call(McpTool("add"), {"a": 1, "b": 1})


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_server_that_does_everything_works(transport: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if transport == "stdio":
            endpoint = McpStdioEndpoint(
                "everything", str(node()), (str(require(EVERYTHING)), "stdio"), elicitation="url_and_form"
            )
            talk = await stack.enter_async_context(Talk(endpoint))
        else:
            port = free_port()
            server = running(
                str(node()), str(require(EVERYTHING)), "streamableHttp", port=port, PORT=str(port)
            )
            url = await stack.enter_async_context(server)
            talk = await stack.enter_async_context(Talk.to(url, elicitation="url_and_form"))
        offer = await talk.hosts.offer(talk.endpoint, timeout=30)
        tools = {tool.name: tool for tool in offer.tools}
        assert await talk.said(tools["echo"], {"message": "hi"}) == "Echo: hi"
        long = {"duration": 0.4, "steps": 4}
        assert "completed" in await talk.said(tools["trigger-long-running-operation"], long)
        assert talk.lines[-1] in ("3 of 4", "4 of 4")
        image = await talk.call(tools["get-tiny-image"])
        assert isinstance(image, McpContent)
        assert image.content[1]["type"] == "image"
        assert await talk.hosts.list_resources(talk.endpoint, scope="one", timeout=10)
        if transport == "http":
            asked = await talk.call(tools["trigger-elicitation-request"], idempotent=True)
            assert isinstance(asked, McpInputRequired)
            given = {asked.requests[0].key: {"action": "accept", "content": {"name": "Ann"}}}
            answers = McpAnswers(given, asked.state)
            assert "Ann" in await talk.said(tools["trigger-elicitation-request"], answers=answers)


async def test_the_server_of_times_works() -> None:
    async with Talk(McpStdioEndpoint("time", str(require(OLD)), ("-m", "mcp_server_time"))) as talk:
        offer = await talk.hosts.offer(talk.endpoint, timeout=30)
        assert [tool.name for tool in offer.tools] == ["get_current_time", "convert_time"]
        said = await talk.said(McpTool("get_current_time"), {"timezone": "Asia/Tokyo"})
        assert "+09:00" in said
