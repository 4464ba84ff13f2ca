"""kill -9 around a model that does not answer: the turn goes on with the model that the log names."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.conformance.drivers.protocols import WIRES
from tests.conformance.drivers.vendor import JSON, Reply, Vendor, open_vendor
from tests.server import Server
from tests.talk import PATIENCE, Json, Talk, kinds_of, new_talk
from tests.vendors import CHAT, answer, new_model, vendor_provider

ENVIRONMENT = {"PERDURE_PRIVATE_ADDRESSES": "true"}
MESSAGES = WIRES[2]
HANGS = Reply(before="hang")
HALF = Reply(CHAT.answer(text=["Half of"])[:2], then="hang")


def refusal(seconds: int) -> Reply:
    return Reply([CHAT.refusal("rate_limit", "Too many.")], 429, JSON | {"Retry-After": str(seconds)})


async def begin(http: httpx.AsyncClient, vendor: Vendor, spare: Vendor | None) -> Talk:
    model = await new_model(http, await vendor_provider(http, vendor), "first")
    others = []
    if spare is not None:
        others = [(await new_model(http, await vendor_provider(http, spare, MESSAGES), "second"))["id"]]
    return await new_talk(http, model_id=model["id"], fallback_models=others)


async def reached(vendor: Vendor) -> None:
    await asyncio.wait_for(vendor.reached.wait(), PATIENCE)
    vendor.reached.clear()


def models_of(events: list[Json]) -> list[str]:
    """The models that were called, by the starts of their calls."""
    return [event["data"]["metadata"]["model"] for event in events if event["type"] == "reason.started"]


async def test_a_fallback_survives_kills_at_each_of_its_points(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", database_url=database_url, environment=ENVIRONMENT)
    async with (
        open_vendor() as vendor,
        open_vendor() as spare,
        server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        talk = await begin(http, vendor, spare)
        vendor.will(HALF)
        await talk.say("Hello.")
        await reached(vendor)  # killed in the middle of the first model's answer
        vendor.will(refusal(9))
        spare.will(HANGS)
        await server.restart()
        await reached(spare)  # killed before the first byte of the other model's answer
        spare.will(Reply(MESSAGES.answer(text=["Half of"])[:3], then="hang"))
        await server.restart()
        await reached(spare)  # killed in the middle of its answer
        spare.will(answer("All of it.", MESSAGES))
        await server.restart()
        events = await talk.logged_until("session.idled")
        kinds = kinds_of(events)
        assert models_of(events) == ["first", "second"]
        for kind in ("output.message.withdrawn", "reason.fallback", "turn.completed"):
            assert kinds.count(kind) == 1
        assert kinds.count("llm.generation") == 2
        assert [message["role"] for message in await talk.messages()] == ["user", "agent"]


async def test_a_parked_rate_limit_survives_kills(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path / "data", database_url=database_url, environment=ENVIRONMENT)
    async with (
        open_vendor() as vendor,
        server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        talk = await begin(http, vendor, None)
        vendor.will(HANGS)
        await talk.say("Hello.")
        await reached(vendor)  # killed before the refusal
        vendor.will(refusal(61))
        await server.restart()
        await talk.logged_until("turn.parked")
        await server.restart()  # killed as soon as the turn is parked
        (waits,) = (await talk.read())["parked_on"]
        assert (waits["kind"], (await talk.read())["status"]) == ("rate_limit", "active")
        assert len(vendor.asked) == 2
        vendor.will(HANGS)
        await talk.say("Now?")
        await reached(vendor)  # killed in the middle of the call that a message brought about
        vendor.will(refusal(61))
        await server.restart()
        events = await talk.logged_until("turn.parked", after=(await talk.events())[-1]["sequence"] - 1)
        assert kinds_of(await talk.events()).count("turn.parked") == 2, kinds_of(events)
        await server.restart()
        vendor.will(answer("At last."))
        await talk.say("And now?")
        kinds = kinds_of(await talk.logged_until("session.idled"))
        assert kinds.count("turn.started") == kinds.count("turn.completed") == 1
        assert kinds.count("turn.resumed") == 2
