"""kill -9 after a decision with edited arguments: what a person wrote runs, with the call's one key."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.server import Server, post, use_simulated_model
from tests.talk import call, new_talk, script

ASKS = [
    {"ref": "session_file_system"},
    {"ref": "tool_approval", "config": {"mode": "protective"}},
]


async def test_edited_arguments_run_after_a_kill_with_the_same_key(database_url: str, tmp_path: Path) -> None:
    writes = {"tool_calls": [call("write_file", "call_1", path="/a", content="model")]}
    edited = {"path": "/a", "content": "person"}
    server = Server(tmp_path / "data", database_url=database_url)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await new_talk(http, capabilities=ASKS)
        await talk.say(script(writes, {"text": "Done."}))
        await talk.logged_until("tool.call_requested")
        (item,) = (await http.get("/v1/inbox", params={"session_id": talk.id})).json()["data"]
        await server.restart()
        assert (await http.get(item["links"]["self"])).json()["arguments"] == item["arguments"]
        body = {"decision": "allow", "arguments": edited, "reason": "Rather so."}
        decided = await post(http, item["links"]["decide"], body, 200)
        await server.restart()
        again = await http.post(item["links"]["decide"], json=body)
        assert (again.status_code, again.json()["code"]) == (409, "already_decided")
        assert (await http.get(item["links"]["self"])).json() == {**decided, "you_may_decide": False}
        events = await talk.logged_until("session.idled")
        starts = [each["data"] for each in events if each["type"] == "tool.started"]
        assert {each["tool_call"]["arguments"]["content"] for each in starts} == {"person"}
        assert len({each["effect_key"] for each in starts}) == 1
        assert (await http.get(talk.path("/fs/a"))).json()["content"] == "person"
