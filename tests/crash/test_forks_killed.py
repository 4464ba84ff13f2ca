"""A server is killed in the middle of a fork of many files: nobody sees half a copy, and its rows go."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import httpx

from perdure.app.file_copies import PATIENCE
from perdure.domain.files import MAX_ENTRIES
from perdure.store.database import Database
from perdure.store.gone_files import AT_ONCE, purge_gone
from tests.conformance.desk import count
from tests.conformance.places import eventually, open_database
from tests.server import Server, use_simulated_model
from tests.talk import call, new_talk

MANY = MAX_ENTRIES - 10
"""On SQLite, which copies so many in batches. On PostgreSQL they are one statement."""
LATER = 1 << 60


async def test_nobody_sees_half_a_fork_and_its_files_are_removed(tmp_path: Path) -> None:
    async with (
        Server(tmp_path / "data") as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as http,
    ):
        await use_simulated_model(http)
        talk = await new_talk(http)
        command = f"for i in $(seq {MANY}); do : > $i; done"
        await talk.turn({"tool_calls": [call("bash", command=command)]}, {"text": "Done."})
        database = await open_database(str(server.data / "perdure.db"))
        try:
            assert await count(database, "files") == MANY
            forking = asyncio.create_task(http.post(talk.path("/fork"), json={}))
            await eventually(lambda: count(database, "files"), lambda files: files > MANY)
            await server.restart()
            with contextlib.suppress(httpx.HTTPError):
                await forking
            left = await count(database, "files")
            assert MANY < left < 2 * MANY
            assert [each["id"] for each in (await http.get("/v1/sessions")).json()["data"]] == [talk.id]
            assert await count(database, "gone_workspaces") == 1
            assert await removed(database) == left - MANY
            assert len((await http.get(talk.path("/fs?recursive=true"))).json()["data"]) == MANY
            whole = await http.post(talk.path("/fork"), json={})
            assert whole.status_code == 201, json.dumps(whole.json())
            assert (await count(database, "files"), await count(database, "gone_workspaces")) == (2 * MANY, 0)
        finally:
            await database.close()


async def removed(database: Database) -> int:
    """Remove what is left of copies, as the sweep does later; return how many files."""
    gone, more = 0, True
    while more:
        purged = await database.write(lambda tx: purge_gone(tx, LATER, LATER + PATIENCE, AT_ONCE))
        gone, more = gone + purged.gone, purged.more
    return gone
