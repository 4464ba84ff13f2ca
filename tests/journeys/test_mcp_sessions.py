"""Sessions of the protocol's older era: each belongs to one session of Perdure."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.mcp_scripts import LISTED, Json, Scripted
from tests.server import Server, use_simulated_model
from tests.talk import call, new_talk, script, when
from tests.unit.fake_server import Reply, Request


async def test_a_cancelled_turn_keeps_the_servers_session_and_a_deleted_session_ends_it(
    database_url: str, tmp_path: Path
) -> None:
    called, sessions = asyncio.Event(), list[str]()

    async def hangs(request: Request, reply: Reply, message: Json) -> None:
        sessions.append(request.headers["mcp-session-id"])
        if len(sessions) == 1:
            called.set()
            await reply.silence()
        else:
            await scripted._common(reply, message)

    scripted = Scripted("legacy", tools__call=hangs)
    server = Server(
        tmp_path / "data", database_url=database_url, environment={"PERDURE_PRIVATE_ADDRESSES": "true"}
    )
    async with scripted, server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await new_talk(http, harness_name="base", mcpServers={"Old": {"url": scripted.url}})
        name = f"mcp_old__{LISTED['name']}"
        await talk.say(script({"tool_calls": [call(name)]}, {"text": "Done."}))
        await called.wait()
        assert await talk.cancel() == "cancelled"
        await talk.turn({"tool_calls": [call(name)]}, {"text": "Done."})
        assert len(sessions) == 2
        assert len(set(sessions)) == 1
        assert scripted.count("DELETE") == 0

        async def ended() -> bool:
            return sessions[0] in [
                each.headers["mcp-session-id"] for each in scripted.requests if each.method == "DELETE"
            ]

        assert (await http.delete(talk.path())).status_code == 204
        await when(ended)
