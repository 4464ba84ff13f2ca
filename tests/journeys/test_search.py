"""Searches in an organization with enough sessions for the index, over HTTP, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from msgspec.structs import replace

from perdure.domain.ids import new_id
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.rows import insert, values
from perdure.store.search import SEGMENT
from perdure.store.session_counts import count_sessions
from perdure.store.session_lists import EXACT
from perdure.store.sessions import SessionRow, get_session
from perdure.wiring import open_parts
from perdure.worker.sorter import sort_sessions
from tests.server import Server, post, use_simulated_model
from tests.talk import Talk, call, new_talk


async def crowd(data: Path, database_url: str, org_id: str, session_id: str) -> None:
    """Insert enough copies of a session to fill a segment, and index them."""
    async with open_parts(Settings(data=str(data), database_url=database_url)) as parts:

        async def fill(tx: Tx) -> None:
            row = await get_session(tx, org_id, session_id)
            copies = [
                replace(row, id=new_id("session"), title=f"copy {n}", created_at=row.created_at - n)
                for n in range(1, SEGMENT)
            ]
            await tx.run_many(insert("sessions", SessionRow), [values(copy) for copy in copies])
            await count_sessions(tx, org_id, len(copies))

        await parts.database.write(fill)
        assert await sort_sessions(parts.database) == 1


async def test_a_title_is_found_however_it_came_and_not_once_it_is_gone(
    database_url: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with (
        Server(data, database_url=database_url) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        await use_simulated_model(http)
        first = await new_talk(http, title="Original", tags=["kept"])
        org_id = (await first.read())["organization_id"]
    await crowd(data, database_url, org_id, first.id)
    async with (
        Server(data, database_url=database_url) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):

        async def find(search: str, **more: Any) -> list[str]:
            answer = (await http.get("/v1/sessions", params={"search": search, **more})).json()
            assert answer["total"] == len(answer["data"])
            return [each["id"] for each in answer["data"]]

        talk = Talk(http, first.id)
        assert await find("ORIGINAL") == [talk.id]
        assert await find("original", tags=["kept"]) == [talk.id]
        assert (await http.get("/v1/sessions", params={"search": "copy"})).json()["total"] == EXACT + 1
        assert (await http.get("/v1/sessions", params={"search": "copy", "offset": 2040})).json()[
            "total"
        ] == SEGMENT - 1

        assert (await http.patch(talk.path(), json={"title": "Ünlike"})).status_code == 200
        assert (await find("ünli"), await find("original")) == ([talk.id], [])
        assert (await http.patch(talk.path(), json={"tags": ["other"]})).status_code == 200
        assert (await find("ün", tags=["other"]), await find("ün", tags=["kept"])) == ([talk.id], [])

        await talk.turn(
            {"tool_calls": [call("write_session_title", title="By the model")]}, {"text": "Done."}
        )
        assert (await find("by the mod"), await find("ünlike")) == ([talk.id], [])

        created = await post(http, "/v1/sessions", {"title": "Brand new"})
        fork = await post(http, talk.path("/fork"), {})
        copy = (await find("copy 2047"))[0]
        twin = await post(http, f"/v1/sessions/{copy}/fork", {})
        assert await find("brand") == [created["id"]]
        assert await find("by the model") == [fork["id"], talk.id]
        assert await find("copy 2047") == [twin["id"], copy]

        for gone in (fork["id"], copy):
            assert (await http.delete(f"/v1/sessions/{gone}")).status_code == 204
        assert (await find("by the model"), await find("copy 2047")) == ([talk.id], [twin["id"]])
