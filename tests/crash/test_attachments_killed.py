"""kill -9 while messages with files arrive: each is in the log with all of its files, or left nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from pathlib import Path

import httpx
import pytest

from perdure.settings import Settings
from perdure.store.blobs import KEPT, purge_blobs
from perdure.store.database import Tx
from perdure.wiring import open_parts
from tests.media_files import png
from tests.server import Server, use_simulated_model
from tests.talk import Json, new_talk

USED = (
    "SELECT hash FROM files WHERE is_directory = 0 UNION SELECT hash FROM content_holds"
    " UNION SELECT hash FROM images"
)


def picture() -> bytes:
    """An image of half a megabyte like no other."""
    return png(700, 700, rows=b"".join(b"\0" + os.urandom(700) for _ in range(700)))


@pytest.mark.soak
async def test_a_message_has_all_of_its_files_or_is_not_there(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", database_url=database_url)
    async with server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            await use_simulated_model(http)
            talk = await new_talk(http)
        acknowledged: list[str] = []
        for delay in (0.03, 0.15, 0.6):
            files = [picture(), picture()]
            parts: list[Json] = [
                {"type": "file", "base64": base64.b64encode(data).decode(), "filename": f"{n}.png"}
                for n, data in enumerate(files)
            ]
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
                body = {"message": {"content": parts}}
                sending = asyncio.ensure_future(http.post(talk.path("/messages"), json=body))
                await asyncio.wait((sending,), timeout=delay)
                await server.restart()
                (result,) = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(result, httpx.Response) and result.status_code == 201:
                acknowledged.append(result.json()["id"])
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            talk.http = http
            await talk.turn({"text": "Still here."})
            sent = [each for each in await talk.messages() if each["content"][0]["type"] == "file"]
            assert set(acknowledged) <= {each["id"] for each in sent}
            for message in sent:
                assert len(message["content"]) == 2
                for part in message["content"]:
                    stored = part["stored"]
                    data = (await http.get(talk.path(f"/fs/_/download{stored['path']}"))).content
                    assert hashlib.sha256(data).hexdigest() == stored["digest"]
        await server.stop()
        async with open_parts(Settings(data=str(tmp_path / "data"), database_url=database_url)) as opened:
            database = opened.app.database
            await database.write(lambda tx: purge_blobs(tx, opened.app.now() + 2 * KEPT))

            async def left(tx: Tx) -> tuple[set[str], set[str]]:
                rows, used = await tx.all("SELECT hash FROM blobs"), await tx.all(USED)
                return {row[0] for row in rows}, {row[0] for row in used}

            kept, used = await database.read(left)
            assert kept == used, "what a killed request has uploaded is removed"
        await server.start()
