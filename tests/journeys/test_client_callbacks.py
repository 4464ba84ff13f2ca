"""Callbacks through the Python client and the `perdure` command."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from perdure.client import ApiError, CapabilityRef, Client, data_of
from tests.command import perdure, script, use_simulated_model
from tests.deferring import installed, urls_on
from tests.server import Server


async def test_callbacks_are_listed_answered_failed_and_cancelled(tmp_path: Path) -> None:
    environment = installed(tmp_path / "site")
    async with (
        Server(tmp_path / "data", environment=environment) as server,
        Client(server.url) as client,
    ):
        await use_simulated_model(client)
        session = await client.create_session(capabilities=(CapabilityRef("deferring"),))

        async def order(note: str) -> tuple[asyncio.Task[str], str]:
            call = {"name": "order", "arguments": {"desk": str(tmp_path), "note": note}}
            text = script({"tool_calls": [call]}, {"text": f"{note} is over."})
            asking = asyncio.create_task(client.ask(session.id, text))
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
        done = await perdure("callbacks", "list", session.id, "--json", url=server.url)
        callback_id = json.loads(done.out)["id"]
        done = await perdure("callbacks", "cancel", session.id, callback_id, url=server.url)
        assert done.out == f"cancelled {callback_id}\n"
        assert await asking == "three is over."
        assert await client.list_callbacks(session.id) == ()

        completed = await client.list_events(session.id, types=("tool.completed",))
        first, second, third = (data_of(event) for event in completed)
        assert (first.success, second.error, third.success) == (True, "sold out", False)
