"""A model that does not answer holds up neither the deletion of its session nor the end of its server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.server import Server
from tests.stub_model import endless_model, use_model_at
from tests.talk import PATIENCE, Talk, kinds_of, new_talk

ENVIRONMENT = {"PERDURE_PRIVATE_ADDRESSES": "true", "PERDURE_DRAIN_SECONDS": "0.2"}


@pytest.mark.parametrize("mute", [True, False], ids=["no answer", "one word"])
async def test_a_silent_model_holds_up_neither_a_delete_nor_sigterm(
    database_url: str, tmp_path: Path, mute: bool
) -> None:
    async with endless_model(mute=mute) as (url, asked, hung_up):
        server = Server(tmp_path, database_url=database_url, environment=ENVIRONMENT)
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_model_at(http, url)
            gone = await _waiting_for(http, asked)
            async with asyncio.timeout(5):
                assert (await http.delete(gone.path())).status_code == 204
                await hung_up.wait()
            hung_up.clear()
            kept = await _waiting_for(http, asked)
            async with asyncio.timeout(10):
                assert await server.stop() == 0
                await hung_up.wait()
        asked.clear()
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await asyncio.wait_for(asked.wait(), PATIENCE)  # the turn goes on
            talk = Talk(http, kept.id)
            assert await talk.cancel() == "cancelled"
            kinds = kinds_of(await talk.logged_until("session.idled"))
            assert kinds.count("reason.started") == 1
            assert "turn.cancelled" in kinds
            assert (await http.get(gone.path())).status_code == 404
        assert await asyncio.wait_for(server.stop(), 10) == 0
        assert "Traceback" not in server.log.read_text()


async def _waiting_for(http: httpx.AsyncClient, asked: asyncio.Event) -> Talk:
    """A session whose model was asked, and stays silent."""
    asked.clear()
    talk = await new_talk(http)
    await talk.say("Hello?")
    await asyncio.wait_for(asked.wait(), PATIENCE)
    return talk
