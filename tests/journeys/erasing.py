"""A session that has used everything, with a mark in each place, and what waits for erasures."""

from __future__ import annotations

import base64
from typing import Any
from uuid import uuid4

import httpx

from tests.journeys.families import spawns
from tests.media_files import png
from tests.server import post
from tests.talk import Json, Talk, call, new_talk, script, when

ASKS = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object"},
}


def a_mark() -> str:
    """A word that is nowhere else."""
    return f"mark{uuid4().hex}"


async def used_session(http: httpx.AsyncClient, mark: str, **fields: Any) -> Talk:
    """A session with the mark wherever a session can have something."""
    key = {"idempotency-key": f"{mark}-create"}
    body = {
        "title": f"About {mark}",
        "tags": [f"tag-{mark}"],
        "metadata": {"case": mark},
        "system_prompt": f"Be brief about {mark}.",
        "tools": [ASKS],
        "initial_files": [{"path": "/first.txt", "content": mark, "encoding": "text"}],
        "capabilities": [
            {"ref": "session_file_system"},
            {"ref": "session_storage"},
            {"ref": "session_sql_database"},
            {"ref": "session_schedule"},
            {"ref": "virtual_bash"},
            {"ref": "subagents"},
            {"ref": "tool_approval", "config": {"mode": "protective"}},
        ],
        **fields,
    }
    answer = await http.post("/v1/sessions", json=body, headers=key)
    assert answer.status_code == 201, answer.text
    talk = Talk(http, answer.json()["id"])
    await _fill(talk, mark)
    return talk


async def _allow_all(talk: Talk, *calls: Json, text: str) -> None:
    """A turn with calls that a person approves for good."""
    message = await talk.say(script({"tool_calls": list(calls)}, {"text": text}), client_message_id=text)
    asked = (await talk.logged_until("tool.call_requested", after=message["sequence"] - 1))[-1]
    decisions = [
        {"tool_call_id": each["arguments"]["tool_call_id"], "decision": "allow_always"}
        for each in asked["data"]["tool_calls"]
    ]
    await post(talk.http, talk.path("/tool-approvals"), {"decisions": decisions}, 200)
    await talk.logged_until("session.idled", after=message["sequence"] - 1)


async def _fill(talk: Talk, mark: str) -> None:
    http = talk.http
    await _allow_all(
        talk,
        call("write_file", path=f"/{mark}.txt", content=mark),
        call("kv_store", operation="set", key=mark, value=mark),
        call("sql_execute", sql=f"create table t{mark} as select '{mark}' as word"),
        call("bash", command=f"export WORD={mark}; echo $WORD > shell.txt"),
        text=f"Said {mark}.",
    )
    await post(http, talk.path(f"/fs/by-hand-{mark}.txt"), {"content": mark})
    moved = {"src_path": f"/by-hand-{mark}.txt", "dst_path": f"/moved-{mark}.txt"}
    await post(http, talk.path("/fs/_/move"), moved, 200)
    await http.put(talk.path("/storage/secrets"), json={"secrets": {f"S_{mark}": mark}})
    await post(http, talk.path("/schedules"), {"message": mark, "cron": "0 9 * * *", "name": mark})
    picture = base64.b64encode(png(8, 8)).decode()
    text = base64.b64encode(mark.encode() * 30_000).decode()
    parts = [
        {"type": "text", "text": f"Look at {mark}. " + script({"text": mark})},
        {"type": "image", "base64": picture, "media_type": "image/png"},
        {"type": "file", "base64": text, "filename": f"{mark}.txt", "media_type": "text/plain"},
    ]
    answer = await http.post(
        talk.path("/messages"),
        json={"message": {"role": "user", "content": parts}, "metadata": {"note": mark}, "tags": [mark]},
        headers={"idempotency-key": f"{mark}-message"},
    )
    assert answer.status_code == 201, answer.text
    await talk.logged_until("session.idled", after=answer.json()["sequence"] - 1)
    files = {"file": (f"{mark}.png", png(16, 16), "image/png")}
    uploaded = await http.post("/v1/images", files=files, params={"session_id": talk.id})
    assert uploaded.status_code == 201, uploaded.text
    said = (await talk.messages())[-1]
    rating = {"rating": "down", "comment": f"No {mark}."}
    assert (await http.put(talk.path(f"/messages/{said['id']}/feedback"), json=rating)).status_code == 200
    await http.put(talk.path("/pin"))
    await _with_subagents(talk, mark)
    # Now a turn waits for a client, with a sub-agent's task open beside it.
    message = await talk.say(script({"tool_calls": [call("weather", city=mark)]}))
    await talk.logged_until("tool.call_requested", after=message["sequence"] - 1)


async def _with_subagents(talk: Talk, mark: str) -> None:
    http = talk.http
    waits = {"tool_calls": [call("weather")]}
    spawn = {"mode": "background", "wake_policy": "silent", "instructions": script(waits, ask=mark)}
    begins = spawns(mark, {"text": mark}, mode="foreground")
    await _allow_all(talk, begins, text=f"Begun {mark}.")
    second = {"name": "spawn_agent", "arguments": {"name": f"w{mark}", **spawn}}
    await talk.turn({"tool_calls": [second]}, {"text": mark})
    task = (await talk.events(types="task.created"))[-1]["data"]["task"]["id"]
    url = {"url": f"https://hooks.invalid/{mark}"}
    await post(http, talk.path(f"/tasks/{task}/push-configs"), url)


async def erased(http: httpx.AsyncClient, body: Json) -> Json:
    """Erase, and wait until it is finished; return the receipt."""
    return await finished(http, await post(http, "/v1/erasures", body))


async def finished(http: httpx.AsyncClient, erasure: Json) -> Json:
    """Wait until an erasure is finished; return the receipt."""
    seen: list[Json] = []

    async def there() -> bool:
        answer = await http.get(f"/v1/erasures/{erasure['id']}")
        assert answer.status_code == 200, answer.text
        seen[:] = [answer.json()]
        return bool(seen[0]["status"] == "finished")

    await when(there)
    return seen[0]


def counts(receipt: Json) -> dict[str, int]:
    """What a receipt says was erased, by kind."""
    return {each["kind"]: each["items"] for each in receipt["erased"]}


def kinds_left(receipt: Json) -> set[str]:
    """What a receipt says remains."""
    return {each["kind"] for each in receipt["remains"]}


async def plain_session(http: httpx.AsyncClient, mark: str, **fields: Any) -> Talk:
    """A session with one turn."""
    talk = await new_talk(http, title=mark, **fields)
    await talk.turn({"text": f"Said {mark}."}, ask=f"Say {mark}.")
    return talk
