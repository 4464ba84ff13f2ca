"""Results that come from outside while the runner of the same calls is busy with its own append."""

from __future__ import annotations

import asyncio

import pytest

from perdure.app.sessions import create_session
from perdure.capabilities.port import ToolContext, ToolOutcome
from perdure.domain.events import Event
from perdure.domain.messages import JsonObject
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import CapabilityRef
from perdure.store.queue import Job
from tests.simulation import tools
from tests.simulation.callbacks import OPEN_FOR
from tests.simulation.checks import check_world
from tests.simulation.client import Client
from tests.simulation.scenarios import TEXT, Scenario, Step
from tests.simulation.schedule import Repeated, Staged
from tests.simulation.store import Store, Witness
from tests.simulation.world import Process, World

SLOWLY = Scenario("slowly", ((Step((("look", {}), ("later", {"slowly": 1.0}))), TEXT),), ())
RESUMED = Scenario("resumed", ((Step((("consent", {}), ("later", {"slowly": 4.0}))), TEXT),), ())
NARROW = Scenario("narrow", ((Step((("later", {}),)), TEXT),), (), window=40)
FULL = Scenario(
    "full",
    ((Step((("look", {}),) * 6), TEXT), (Step((("later", {}),)), TEXT)),
    (),
    window=260,
    compaction=True,
)


def _pause(world: World, where: str, after: int, seconds: float) -> None:
    """Let the operation at one of these points take some seconds; no other process takes over."""

    async def pause(process: Process, where: str, kind: str) -> None:
        await process.pause(seconds)

    world.plan, world.inject, world.counting = Repeated(where, "pause", 1, after), pause, True


async def _settle(world: World) -> list[Event]:
    """Wait until nothing is at work, and check the promises; returns the log."""
    await world.loop.quiet()
    world.counting = False
    await check_world(world)
    return world.log()


@pytest.mark.parametrize("after", range(7))
def test_a_call_whose_result_arrives_during_a_slow_append_is_not_parked_afterwards(
    after: int, store: Store
) -> None:
    async def scene(world: World, client: Client) -> None:
        _pause(world, "engine.committed", after, 5)
        await client.post(0)
        while not world.callbacks:
            await asyncio.sleep(0.5)
        await asyncio.sleep(2)  # the call has returned, and waits for its place in the log
        await client.call_back()
        log = await _settle(world)
        assert log[-1].type == "session.idled"
        assert [event.type for event in log].count("tool.completed") == 2

    Staged(SLOWLY, scene).play(store)


@pytest.mark.parametrize("after", range(3))
def test_a_call_whose_result_arrives_while_another_runner_takes_over_is_not_made_again(
    after: int, store: Store
) -> None:
    async def scene(world: World, client: Client) -> None:
        first = world.live()[0]
        await client.post(0)
        await asyncio.sleep(1)
        await client.consent()
        first.kill()
        second, third = world.start(), world.start()
        _pause(world, "engine.committed", after, 5)
        second.queue.put(Job(world.store.caller.organization_id, world.session_id))
        await asyncio.sleep(2)
        await client.call_back(third)
        log = await _settle(world)
        assert log[-1].type == "session.idled"
        assert [effect.tool for effect in world.effects] == ["later", "consent"]

    Staged(RESUMED, scene).play(store)


def test_a_batch_that_goes_on_is_ended_before_the_history_is_compacted(store: Store) -> None:
    """A tool fails after it has given its URL away, and the URL is called before that is in the log."""

    async def scene(world: World, client: Client) -> None:
        for _ in range(2):
            await client.post(0)
            await world.loop.quiet()
        other = world.start()

        async def fail(process: Process, where: str, kind: str) -> None:
            await client.call_back(other)
            process.fault(where)

        world.plan, world.inject, world.counting = Repeated("tool.sent", "fail", 1, 0), fail, True
        await client.post(1, world.live()[0])
        kinds = [event.type for event in await _settle(world)]
        last = len(kinds) - kinds[::-1].index("act.completed")
        assert kinds[last] == "context.compacting"

    Staged(FULL, scene).play(store)


async def _give_files(world: World) -> None:
    """Replace the session by one with a file system."""
    world.store.forget(world.session_id)
    world.witness = None
    refs = CapabilityRef("simulation"), CapabilityRef("session_file_system")
    body = CreateSession(harness_name="base", capabilities=refs)
    world.session_id = (await create_session(world.live()[0].app, world.store.caller, body)).id
    world.witness = Witness(world.store, world.session_id, world.blame)


def test_a_batch_that_goes_on_is_ended_before_the_next_model_call(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool returns too much for the window, and its URL was called before that is in the log."""

    async def much(context: ToolContext, arguments: JsonObject, tool: str) -> ToolOutcome:
        hands = tools.HANDS.get()
        callback = await context.callback(OPEN_FOR)
        hands.take_url(callback.url, context.tool_call_id, callback.deadline)
        await hands.point("tool.sent")
        return ToolOutcome("word " * 300)

    async def scene(world: World, client: Client) -> None:
        other = world.start()
        await _give_files(world)

        async def answer(process: Process, where: str, kind: str) -> None:
            await client.call_back(other)

        world.plan, world.inject, world.counting = Repeated("tool.sent", "answer", 1, 0), answer, True
        await client.post(0, world.live()[0])
        kinds = [event.type for event in await _settle(world)]
        assert [kind for kind in kinds if kind in {"act.started", "act.completed", "reason.started"}] == [
            "reason.started",
            "act.started",
            "act.completed",
            "reason.started",
        ]

    monkeypatch.setattr(tools, "_defer", much)
    Staged(NARROW, scene).play(store)
