"""Memories, for the tests that use them: through their own routes, and in the files of sessions."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx

from tests.journeys.people import fresh
from tests.server import post
from tests.talk import Json, Talk, call, new_talk


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """A memory, through its own routes."""

    def __init__(self, http: httpx.AsyncClient, memory: Json) -> None:
        self.http = http
        self.memory = memory
        self.base = f"/v1/memories/{memory['id']}"

    async def send(self, method: str, path: str, status: int, **request: Any) -> Any:
        answer = await self.http.request(method, f"{self.base}{path}", **request)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def write(self, path: str, text: str) -> Json:
        made: Json = await self.send("POST", f"/fs{path}", 201, json={"content": text})
        return made

    async def put(self, path: str, text: str, status: int = 200, **more: Any) -> Json:
        made: Json = await self.send("PUT", f"/fs{path}", status, json={"content": text, **more})
        return made

    async def text(self, path: str) -> str:
        return str((await self.send("GET", f"/fs{path}", 200))["content"])

    async def versions(self, **query: Any) -> list[Json]:
        found: list[Json] = (await self.send("GET", "/versions", 200, params=query))["data"]
        return found


async def new_store(http: httpx.AsyncClient, **fields: Any) -> Store:
    return Store(http, await post(http, "/v1/memories", {"name": fresh("notes"), **fields}))


def mounts(*stores: Json, **config: Any) -> list[Json]:
    return [{"ref": "memory", "config": {"stores": list(stores)}}, *config.get("also", [])]


async def results(talk: Talk, *calls: Json) -> list[Json]:
    """The results of the calls of one answer, in order."""
    events = await talk.turn({"tool_calls": list(calls)}, {"text": "Done."})
    return [event["data"] for event in events if event["type"] == "tool.completed"]


async def use(talk: Talk, name: str, **arguments: Any) -> Json:
    (result,) = await results(talk, call(name, **arguments))
    assert result["success"], result
    value: Json = json.loads(result["result"][0]["text"])
    return value


async def fails(talk: Talk, name: str, **arguments: Any) -> str:
    (result,) = await results(talk, call(name, **arguments))
    assert not result["success"], result
    return str(result["error"])


async def talk_with(store: Store, mode: str = "read_write", **fields: Any) -> Talk:
    """A session that has the memory in its files."""
    mount = {"name": "notes", "memory_id": store.memory["id"], "mode": mode}
    return await new_talk(store.http, capabilities=mounts(mount), **fields)
