"""A server is killed in the middle of uploads: nothing half-written is seen, and what is left is removed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from perdure.store.blobs import purge_blobs
from perdure.store.database import Database
from tests.conformance.places import eventually, open_database
from tests.journeys.trees import Tree, sha
from tests.server import Server, use_simulated_model
from tests.talk import new_talk

MB = 1024 * 1024
LATER = 1 << 60


async def rows(database: Database, what: str) -> int:
    found = await database.read(lambda tx: tx.one(f"SELECT COUNT(*) FROM {what}"))
    assert found is not None
    return int(found[0])


async def test_nothing_half_written_is_seen_and_nothing_stays(database_url: str, tmp_path: Path) -> None:
    old = os.urandom(2 * MB)
    async with (
        Server(tmp_path / "data", database_url=database_url) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as http,
    ):
        await use_simulated_model(http)
        talk = await new_talk(http)
        tree = Tree(talk, talk.path())
        assert (await http.put(tree.url("a"), content=old)).status_code == 201
        database = await open_database(database_url or str(server.data / "perdure.db"))
        try:
            await _killed_in_the_middle(server, database, tree)
            answer = await http.get(f"{tree.base}/fs/_/download/a")
            assert sha(answer.content) == sha(old)
            assert await tree.paths() == ["/a"]
            assert await rows(database, "blobs WHERE hash LIKE 'upload_%'") == 1
            while (await database.write(lambda tx: purge_blobs(tx, LATER))).more:
                pass
            assert (await rows(database, "blobs"), await rows(database, "blob_parts")) == (1, 8)
            again = os.urandom(20 * MB)
            assert (await http.put(tree.url("a"), content=again)).status_code == 200
            assert sha((await http.get(f"{tree.base}/fs/_/download/a")).content) == sha(again)
        finally:
            await database.close()


async def _killed_in_the_middle(server: Server, database: Database, tree: Tree) -> None:
    """Send most of a new file and of a new content of /a, and kill the server once much of it is stored."""
    before = await rows(database, "blob_parts")
    url = urlsplit(server.url)
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    head = f"PUT {tree.url('a')} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {30 * MB}\r\n\r\n"
    writer.write(head.encode() + os.urandom(20 * MB))
    await eventually(lambda: rows(database, "blob_parts"), lambda count: count >= before + 40)
    await server.restart()
    writer.close()
