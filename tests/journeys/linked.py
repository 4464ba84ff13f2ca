"""Sessions that wait for a person, and links that decide."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx

from perdure.domain.ids import SessionId
from perdure.domain.inbox import item_id
from tests.server import post
from tests.talk import Json, Talk, call, new_talk, script

CAREFUL: Json = {"capabilities": [{"ref": "tool_approval", "config": {"mode": "normal"}}]}


def deletion(path: str = "/a.md", id_: str = "call_1") -> Json:
    """A call that waits for approval."""
    return call("delete_file", id_, path=path)


async def ask(talk: Talk, *calls: Json, then: str = "Done.") -> list[str]:
    """Have the model make these calls; returns the ids of the inbox items that they become."""
    message = await talk.say(script({"tool_calls": list(calls)}, {"text": then}))
    return await items_after(talk, message["sequence"])


async def items_after(talk: Talk, sequence: int) -> list[str]:
    """The ids of the items of the next questions of a session."""
    event = (await talk.logged_until("tool.call_requested", after=sequence))[-1]
    count = len(event["data"]["tool_calls"])
    return [item_id(SessionId(talk.id), event["sequence"], index) for index in range(count)]


async def waiting(http: httpx.AsyncClient, **fields: Any) -> tuple[Talk, str]:
    """A session that waits for approval to delete `/a.md`, and the item's id."""
    files = [{"path": "/a.md", "content": "Old.\n"}]
    talk = await new_talk(http, **{**CAREFUL, "initial_files": files, **fields})
    (item,) = await ask(talk, deletion())
    return talk, item


async def link_to(http: httpx.AsyncClient, item: str, **body: Any) -> str:
    """Create a link; returns the path of its URL."""
    made = await post(http, f"/v1/inbox/{item}/links", body)
    return urlsplit(made["url"]).path


async def use(http: httpx.AsyncClient, link: str, decision: str, status: int = 200, **more: Any) -> Json:
    """Read a link without a login, and decide by it."""
    async with httpx.AsyncClient(base_url=http.base_url, timeout=30) as stranger:
        seen = await stranger.get(link)
        shown = seen.json().get("shown", "0" * 64)
        answer = await stranger.post(link, json={"decision": decision, "shown": shown, **more})
    assert answer.status_code == status, answer.text
    found: Json = answer.json()
    return found


async def outcome(talk: Talk, call_id: str = "call_1") -> str:
    """The status of a call's result."""
    found = [
        each["data"]["status"]
        for each in await talk.events(types="tool.completed")
        if each["data"]["tool_call_id"] == call_id
    ]
    return str(found[-1]) if found else ""
