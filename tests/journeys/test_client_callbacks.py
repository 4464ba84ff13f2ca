"""Callbacks through the Python client and the `perdure` command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from perdure.client import ApiError, CapabilityRef, Client, data_of
from tests.command import PERDURE, Terminal, environment, perdure, script, use_simulated_model
from tests.deferring import installed, urls_on
from tests.server import Server


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def deferring(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server whose tools defer their results."""
    folder = tmp_path_factory.mktemp("deferring")
    async with (
        Server(folder / "data", environment=installed(folder / "site")) as server,
        Client(server.url) as client,
    ):
        await use_simulated_model(client)
        yield server


def order_of(desk: Path, note: str) -> str:
    """A message that makes the model order something."""
    call = {"name": "order", "arguments": {"desk": str(desk), "note": note}}
    return script({"tool_calls": [call]}, {"text": f"{note} is over."})


async def test_callbacks_are_listed_answered_failed_and_cancelled(deferring: Server, tmp_path: Path) -> None:
    async with Client(deferring.url) as client:
        session = await client.create_session(capabilities=(CapabilityRef("deferring"),))

        async def order(note: str) -> tuple[asyncio.Task[str], str]:
            asking = asyncio.create_task(client.ask(session.id, order_of(tmp_path, note)))
            (url,) = await urls_on(tmp_path, note)
            return asking, url

        asking, url = await order("one")
        (opened,) = await client.list_callbacks(session.id)
        assert (opened.tool_name, opened.in_background) == ("order", False)
        await client.answer_callback(url, {"tracking": 4711})
        assert await asking == "one is over."
        await client.answer_callback(url, {"tracking": 4711})  # as a repeated request does
        with pytest.raises(ApiError) as caught:
            await client.answer_callback(url, "late")
        assert caught.value.status == 410

        asking, url = await order("two")
        await client.answer_callback(url.rpartition("/")[2], error="sold out")
        assert await asking == "two is over."

        asking, _ = await order("three")
        done = await perdure("callbacks", "list", session.id, "--json", url=deferring.url)
        callback_id = json.loads(done.out)["id"]
        done = await perdure("callbacks", "cancel", session.id, callback_id, url=deferring.url)
        assert done.out == f"cancelled {callback_id}\n"
        assert await asking == "three is over."
        assert await client.list_callbacks(session.id) == ()

        completed = await client.list_events(session.id, types=("tool.completed",))
        first, second, third = (data_of(event) for event in completed)
        assert (first.success, second.error, third.success) == (True, "sold out", False)


async def test_a_chat_leaves_a_tool_waiting_for_its_callback(deferring: Server, tmp_path: Path) -> None:
    async with Client(deferring.url) as client:
        session = await client.create_session(capabilities=(CapabilityRef("deferring"),))
        chat = Terminal(*PERDURE, "chat", session.id, **environment(deferring.url))
        try:
            await chat.see("> ")
            chat.type(order_of(tmp_path, "tea") + "\n")
            await chat.see("‖ order waits for a callback until 20")
            await chat.see("Ctrl-C returns to the prompt and leaves it waiting.")
            chat.type("\x03")
            await chat.see("Enter without a message waits.")
            await chat.see("> ")
            chat.type("/show\n")
            await chat.see("order (callback) until 20")
            await chat.see("> ")
            (url,) = await urls_on(tmp_path, "tea")
            await client.answer_callback(url, "here")
            chat.type("\n")
            await chat.see("tea is over.\n")
            await chat.see("> ")

            chat.type(order_of(tmp_path, "cup") + "\n")
            await chat.see("leaves it waiting.")
            chat.type("\x03")
            await chat.see("> ")
            chat.type("/quit\n")
            assert await chat.end() == 0
        finally:
            chat.close()
        chat = Terminal(*PERDURE, "chat", session.id, **environment(deferring.url))
        try:
            await chat.see("‖ order waits for a callback until 20")
            await chat.see("> ")
            chat.type(script({"text": "Meanwhile."}) + "\n")
            await chat.see("Meanwhile.\n")
        finally:
            chat.close()
        types = ("turn.cancelled", "tool.parked")
        parked = [event.type for event in await client.list_events(session.id, types=types)]
        assert parked == ["tool.parked"] * 2


async def test_without_a_terminal_a_chat_says_on_standard_error_what_it_waits_for(
    deferring: Server, tmp_path: Path
) -> None:
    async with Client(deferring.url) as client:
        session = await client.create_session(capabilities=(CapabilityRef("deferring"),))
        line = order_of(tmp_path, "pot") + "\n"
        chatting = asyncio.create_task(perdure("chat", session.id, url=deferring.url, given=line))
        (url,) = await urls_on(tmp_path, "pot")
        async with aclosing(client.follow(session.id)) as events:
            while (await anext(events)).type != "tool.parked":
                pass
        await client.answer_callback(url, "here")
        done = await chatting
        assert done.out == "pot is over.\n"
        assert done.err.startswith("order waits for a callback until 20")
