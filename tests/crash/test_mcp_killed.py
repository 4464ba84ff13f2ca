"""kill -9 around calls of MCP servers' tools: a call that is not idempotent is never sent twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.mcp_stub import Call, McpStub, text, tool
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script, when

MOMENTS = ("before", "during", "after")
HINTS: dict[str, dict[str, bool]] = {
    "plain": {},
    "idempotent": {"idempotentHint": True},
    "readonly": {"readOnlyHint": True},
}
UNSURE = "It may or may not have taken effect"


@dataclass
class Shop:
    """What the server does: a call hangs before or after its effect, in the first process only.

    Attributes:
        effects: how often the effect of each order took place.
        keys: the keys that came with each order.
        waiting: the orders whose calls hang.
    """

    effects: Counter[str] = field(default_factory=Counter)
    keys: dict[str, set[str]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    hangs: bool = True

    async def answer(self, made: Call) -> Json:
        order, moment = made.arguments["order"], made.arguments["moment"]
        self.keys.setdefault(order, set()).add(made.meta.get("io.perdure/effect-key", ""))
        if moment == "before":
            await self._hang(order)
        self.effects[order] += 1
        if moment == "during":
            await self._hang(order)
        self.answered.add(order)
        return text(f"ordered {order}")

    async def _hang(self, order: str) -> None:
        if self.hangs:
            self.waiting.add(order)
            await asyncio.Event().wait()


async def _begin(http: httpx.AsyncClient, url: str, hint: str, moment: str) -> Talk:
    """Begin a turn with a call that the kill meets at this moment.

    After its answer, a call cannot be met by itself. Results enter the log in the order of the calls, so a
    call before it that hangs keeps its result out of the log.
    """
    servers = {"Shop": {"url": url}}
    talk = await new_talk(http, harness_name="base", mcpServers=servers)
    calls = [call(f"mcp_shop__{hint}", f"{hint}_{moment}", order=f"{hint}_{moment}", moment=moment)]
    if moment == "after":
        blocker = f"{hint}_blocker"
        calls.insert(0, call("mcp_shop__readonly", blocker, order=blocker, moment="during"))
    await talk.say(script({"tool_calls": calls}, {"text": "Done."}))
    return talk


@pytest.mark.parametrize("hint", list(HINTS))
async def test_a_call_that_is_killed_is_repeated_only_if_that_is_safe(
    hint: str, database_url: str, tmp_path: Path
) -> None:
    shop = Shop()
    listed = [tool(name, **hints) for name, hints in HINTS.items()]
    server = Server(
        tmp_path / "data", database_url=database_url, environment={"PERDURE_PRIVATE_ADDRESSES": "true"}
    )
    async with (
        McpStub(listed, answer=shop.answer) as stub,
        server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        talks = {moment: await _begin(http, stub.url, hint, moment) for moment in MOMENTS}

        async def all_there() -> bool:
            hanging = {f"{hint}_before", f"{hint}_during", f"{hint}_blocker"}
            return shop.waiting >= hanging and f"{hint}_after" in shop.answered

        await when(all_there)
        shop.hangs = False
        await server.restart()
        for moment, talk in talks.items():
            await talk.logged_until("session.idled")
            _check(shop, stub, hint, moment, await talk.events())


def _check(shop: Shop, stub: McpStub, hint: str, moment: str, events: list[Json]) -> None:
    order = f"{hint}_{moment}"
    ended: dict[str, Any] = {
        event["data"]["tool_call_id"]: event["data"] for event in events if event["type"] == "tool.completed"
    }
    data = ended[order]
    arrived = sum(made.arguments["order"] == order for made in stub.calls)
    keys = {
        event["data"]["effect_key"]
        for event in events
        if event["type"] == "tool.started" and event["data"]["tool_call"]["id"] == order
    }
    assert data["capability_id"] == "mcp_inline:Shop"
    if hint == "plain":
        assert data["status"] == "interrupted", data
        assert UNSURE in data["error"]
        assert arrived == 1
        assert shop.effects[order] == (0 if moment == "before" else 1)
    else:
        assert data["status"] == "success", data
        assert data["result"][0]["text"] == f"ordered {order}"
        assert arrived == 2
    assert shop.keys[order] == ({""} if hint == "readonly" else keys)
