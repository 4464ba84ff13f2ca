"""Model calls that another runner continues: with the model that the log names, or as those of another."""

from __future__ import annotations

import asyncio

import pytest

from perdure.app.messages import post_message
from perdure.app.models import change_model
from perdure.domain.messages import Controls, CreateMessage, InputMessage, TextPart
from perdure.domain.providers import UpdateModel
from perdure.store.queue import Job
from tests.simulation.checks import check_world
from tests.simulation.client import Client
from tests.simulation.model import SPARE, message_text
from tests.simulation.scenarios import Scenario, Step
from tests.simulation.schedule import Staged
from tests.simulation.store import Store
from tests.simulation.world import World

LIMITED = Scenario("limited", ((Step(seconds=20.0, failures=2),),), (), fallback=True)
LONG = Scenario("long", ((Step(seconds=20.0),),), ())


async def _resume(world: World) -> None:
    """Let another process continue after the first one has died, and check the promises at the end."""
    world.live()[0].kill()
    world.start().queue.put(Job(world.store.caller.organization_id, world.session_id, again=True))
    await world.loop.quiet()
    await check_world(world)
    assert world.log()[-1].type == "session.idled"


async def _enable(world: World, enabled: bool) -> None:
    app, caller = world.live()[0].app, world.store.caller
    await change_model(app, caller, world.store.spare, UpdateModel(enabled=enabled))


@pytest.mark.parametrize("gone", ["unusable", "disabled"])
def test_a_call_whose_fallback_is_gone_when_it_is_resumed_is_followed_by_a_call_of_another_model(
    gone: str, store: Store
) -> None:
    async def scene(world: World, client: Client) -> None:
        await client.post(0)
        await asyncio.sleep(50)
        assert world.calls[-1].model == SPARE
        if gone == "unusable":
            world.unplugged = 1
        else:
            await _enable(world, enabled=False)
        try:
            await _resume(world)
        finally:
            await _enable(world, enabled=True)
        log = world.log()
        assert [call.model for call in world.calls] == ["simulated", "simulated", SPARE, "simulated"]
        fallbacks = [event.decoded() for event in log if event.type == "reason.fallback"]
        codes = {"unusable": "provider_misconfigured", "disabled": "model_not_found"}
        assert [each.error_code for each in fallbacks] == ["provider_rate_limited", codes[gone]]
        ended = [event.decoded() for event in log if event.type == "output.message.withdrawn"]
        begun = [event.decoded() for event in log if event.type == "output.message.started"]
        assert [each.message_id for each in ended] == [each.message_id for each in begun[:2]]

    Staged(LIMITED, scene).play(store)


def test_a_call_is_resumed_with_its_own_model_although_a_message_asks_for_another(store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        await client.post(0)
        await asyncio.sleep(1)
        message = InputMessage((TextPart(message_text(2, None)),))
        asks = CreateMessage(message, controls=Controls(model_id=world.store.spare))
        await post_message(world.live()[0].app, world.store.caller, world.session_id, asks)
        await _resume(world)
        assert [call.model for call in world.calls] == ["simulated", "simulated", SPARE]
        assert not any(event.type == "reason.fallback" for event in world.log())

    Staged(LONG, scene).play(store)
