"""The `Idempotency-Key` of each HTTP request that a tool makes (promise P10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from perdure.app.messages import post_message
from perdure.capabilities import (
    NOT_DONE,
    ONCE,
    REPEATABLE,
    Capability,
    Tool,
    ToolError,
    ToolHints,
    ToolOutcome,
    Verified,
    schema,
)
from perdure.capabilities.registry import Registry
from perdure.domain.effects import part_key
from perdure.domain.events import ToolStartedData
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.engine.advance import advance
from perdure.tools import Context
from perdure.tools.own_services import with_own_services
from tests.journeys.test_discovery import Inside, Shelf, inside, with_shelf
from tests.journeys.test_found_tools import log_of
from tests.sites import Site
from tests.talk import call, script

Pay = Callable[[Context], Awaitable[object]]


class Shop:
    """A service that notes the keys of its requests, and answers a path with the statuses it is told."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.keys: list[tuple[str, str | None]] = []
        self.statuses: dict[str, list[int]] = {}
        for letter in "abcdefgh":
            site.answers[f"/{letter}"] = self._answer

    async def _answer(self, request: web.Request) -> web.Response:
        self.keys.append((request.path, request.headers.get("Idempotency-Key")))
        statuses = self.statuses.get(request.path)
        status = statuses.pop(0) if statuses else 200
        if status == 0:  # no answer at all
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({}, status=status or 200)

    def url(self, path: str) -> str:
        return self.site.url(path)


class Till:
    """The attempts of one call; `hold` keeps the first one."""

    def __init__(self) -> None:
        self.held = asyncio.Event()

    async def hold(self) -> None:
        if not self.held.is_set():
            self.held.set()
            await asyncio.Event().wait()


@asynccontextmanager
async def paying(
    folder: Path,
    pay: Pay,
    hints: ToolHints = REPEATABLE,
    verify: Pay | None = None,
    timeout: float = 10.0,
) -> AsyncIterator[Inside]:
    """Perdure with one tool."""

    async def run(context: Any, arguments: object) -> ToolOutcome:
        return ToolOutcome(await pay(context))

    async def found(context: Any, arguments: object) -> Verified:
        assert verify is not None
        return Verified("done", await verify(context))

    tool = Tool(
        "pay", "Pay.", schema({}), run, hints, timeout=timeout, verify=None if verify is None else found
    )
    capability = Capability("till", "Till", "For tests.", "test", tools=lambda config: (tool,))
    async with inside("", folder, Shelf(), session=with_shelf()) as there:
        registry = Registry(
            (
                *(each for each in there.app.registry.all() if each.id != "shelf"),
                replace(with_own_services(there.app, capability), id="shelf"),
            )
        )
        policy = replace(there.engine.policy, private_addresses=True)
        yield replace(
            there,
            app=replace(there.app, registry=registry),
            engine=replace(there.engine, registry=registry, policy=policy),
        )


async def play(there: Inside) -> str:
    """Have the model call the tool; returns the call's key."""
    message = InputMessage((TextPart(script({"tool_calls": [call("pay")]}, {"text": "Paid."})),))
    await post_message(there.app, there.owner, there.session.id, CreateMessage(message))
    await advance(there.engine, there.session.id)
    return await key_of_call(there)


async def play_twice(there: Inside, till: Till) -> str:
    """The same, with a runner that dies where the till holds it."""
    work = asyncio.create_task(play(there))
    await till.held.wait()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await advance(there.engine, there.session.id, again=True)
    return await key_of_call(there)


async def key_of_call(there: Inside) -> str:
    (started,) = [data for event in await log_of(there) if (data := event.get(ToolStartedData))]
    assert started.effect_key is not None
    return started.effect_key


async def test_each_request_of_a_call_has_a_key_of_its_own_which_is_the_same_in_each_attempt(
    site: Site, tmp_path: Path
) -> None:
    shop, till = Shop(site), Till()

    async def pay(ctx: Context) -> str:
        await ctx.http.post(shop.url("/a"), json=1)
        await ctx.http.get(shop.url("/b"))
        await ctx.http.post(shop.url("/c"), json=1)
        await ctx.http.request("put", shop.url("/c"), json=2)
        await ctx.http.post(shop.url("/a"), json=1)  # the same again, and meant
        await ctx.http.post(shop.url("/d"), headers={"idempotency-KEY": "mine"})
        await ctx.http.request("DELETE", shop.url("/e"))
        await asyncio.gather(*(ctx.http.post(shop.url("/f"), json=number) for number in range(2)))
        await till.hold()
        return "paid"

    async with paying(tmp_path, pay) as there:
        key = await play_twice(there, till)
    numbered = [part_key(key, f"#{number}") for number in range(9)]
    expected = [
        ("/a", key),
        ("/b", None),
        ("/c", numbered[2]),
        ("/c", numbered[3]),
        ("/a", numbered[4]),
        ("/d", "mine"),
        ("/e", numbered[6]),
        *sorted((("/f", numbered[7]), ("/f", numbered[8]))),
    ]
    first, second = shop.keys[:9], shop.keys[9:]
    assert [*first[:7], *sorted(first[7:])] == expected
    assert [*second[:7], *sorted(second[7:])] == expected


async def test_requests_in_a_step_have_the_step_s_key_and_do_not_change_those_of_others(
    site: Site, tmp_path: Path
) -> None:
    shop, till = Shop(site), Till()

    async def pay(ctx: Context) -> str:
        async def two() -> None:
            await ctx.http.post(shop.url("/a"))
            await asyncio.gather(ctx.http.post(shop.url("/b")))  # in a task of its own

        async def one(path: str) -> int:
            return (await ctx.http.post(shop.url(path))).status

        await ctx.step("two", two)
        await asyncio.gather(*(ctx.step(name, partial(one, f"/{name}")) for name in "cd"))
        await ctx.step("outer", lambda: ctx.step("inner", partial(one, "/e")))
        await ctx.http.post(shop.url("/f"))
        await till.hold()
        await ctx.http.post(shop.url("/g"))
        return "paid"

    async with paying(tmp_path, pay, ONCE) as there:
        key = await play_twice(there, till)
    two = part_key(key, "two")
    once = [("/a", two), ("/b", part_key(two, "#2")), *((f"/{name}", part_key(key, name)) for name in "cd")]
    assert sorted(shop.keys[:4]) == sorted(once)
    assert shop.keys[4:] == [
        ("/e", part_key(key, "inner")),
        ("/f", key),
        ("/f", key),  # by the second attempt, which does not repeat the steps
        ("/g", part_key(key, "#2")),
    ]


@pytest.mark.parametrize("status", [0, 408, 409, 425, 429, 500, 503])
async def test_a_request_that_is_sent_again_for_want_of_an_answer_keeps_its_key(
    status: int, site: Site, tmp_path: Path
) -> None:
    shop, till = Shop(site), Till()

    async def pay(ctx: Context) -> str:
        for _ in range(4):
            try:
                if (await ctx.http.post(shop.url("/a"), json=7)).status == 200:
                    break
            except ToolError:
                pass
        await ctx.http.post(shop.url("/b"))
        await till.hold()
        return "paid"

    shop.statuses["/a"] = [status, status, 200]
    async with paying(tmp_path, pay) as there:
        key = await play_twice(there, till)
    second = ("/b", part_key(key, "#2"))
    assert shop.keys == [*[("/a", key)] * 3, second, ("/a", key), second]


async def test_a_request_that_was_answered_is_another_effect_when_it_is_made_again(
    site: Site, tmp_path: Path
) -> None:
    shop = Shop(site)

    async def pay(ctx: Context) -> str:
        for body in (1, 1, 2):
            await ctx.http.post(shop.url("/a"), json=body)
        return "paid"

    shop.statuses["/a"] = [422, 500, 200]
    async with paying(tmp_path, pay) as there:
        key = await play(there)
    assert shop.keys == [("/a", key), ("/a", part_key(key, "#2")), ("/a", part_key(key, "#3"))]


async def test_the_questions_of_a_verification_have_no_key(site: Site, tmp_path: Path) -> None:
    shop, till = Shop(site), Till()

    async def ask(ctx: Context) -> str:
        await ctx.http.post(shop.url("/h"), json={"find": ctx.effect_key})
        return "found"

    async def pay(ctx: Context) -> Any:
        async def charge() -> str:
            await ctx.http.post(shop.url("/b"))
            await till.hold()
            return "charged"

        async def not_yet() -> Verified:
            await ask(ctx)
            return NOT_DONE

        await ctx.http.post(shop.url("/a"))
        await ctx.step("charge", charge, verify=not_yet)
        await ctx.http.post(shop.url("/c"))
        return "paid"

    # The server waits for so long until it asks again, and the first attempt has to be faster.
    async with paying(tmp_path / "step", pay, ONCE, timeout=2.0) as there:
        key = await play_twice(there, till)
    charge = ("/b", part_key(key, "charge"))
    assert [each for each in shop.keys if each[0] != "/h"] == [
        ("/a", key),
        charge,
        ("/a", key),
        charge,
        ("/c", part_key(key, "#2")),
    ]
    assert {key for path, key in shop.keys if path == "/h"} == {None}

    async def lost(ctx: Context) -> None:
        await ctx.http.post(shop.url("/a"))
        await till.hold()

    shop.keys.clear()
    till.held.clear()
    async with paying(tmp_path / "call", lost, ONCE, verify=ask) as there:
        assert await play_twice(there, till) == shop.keys[0][1]
    assert shop.keys[1:] == [("/h", None)]
