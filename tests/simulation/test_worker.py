"""The worker and the sweep in virtual time: stops, drains, superfluous jobs, turns that crash servers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from perdure.engine import attempt
from perdure.engine.run import OpenedSession
from perdure.store.bus import Stop
from perdure.store.queue import Job, PutBack
from tests.simulation.client import Client
from tests.simulation.injections import sweep
from tests.simulation.scenarios import CLIENT_TOOL, Scenario, Step, by_name
from tests.simulation.schedule import Listed, Schedule, Staged, listed, repeated
from tests.simulation.store import Store
from tests.simulation.world import Crash, World

SLOW = Scenario("slow", ((Step(seconds=60.0),),), ("post 0", "rest"))
NEXT = Scenario("next turn", ((Step(seconds=1.0),), (Step(seconds=9.0),)), ("post 0", "queue 1", "rest"))
PARKED = Scenario("parked", ((Step(((CLIENT_TOOL, {}),)), Step()),), ("post 0", "rest"))


def _kinds(world: World) -> Counter[str]:
    assert world.witness is not None
    return Counter(event.type for event in world.witness.log)


def _job(world: World) -> Job:
    return Job(world.store.caller.organization_id, world.session_id)


def test_a_turn_that_crashes_every_process_is_sealed_after_three_recoveries(
    store: Store,
) -> None:
    world = repeated(SLOW, "model.during", "crash").play(store)
    assert len(world.calls) == 1 + 3
    assert _kinds(world)["turn.sealed"] == 1


def test_a_session_whose_reading_kills_every_process_is_sealed_without_being_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, reads = attempt.read_session, []

    async def deadly(engine: Any, *args: Any, **how: Any) -> Any:
        found = await real(engine, *args, **how)
        if isinstance(found, OpenedSession):
            reads.append(found.row.recoveries)
            engine.clock.kill()
            raise Crash
        return found

    monkeypatch.setattr(attempt, "read_session", deadly)
    world = Schedule(SLOW, Listed({}), random.Random(0), "deadly", lossy=False, gentle=False).play(store)
    assert reads == [0, 1, 2, 3]
    assert _kinds(world) == {
        "session.started": 1, "input.message": 1, "output.message.completed": 1, "turn.sealed": 1,
        "session.idled": 1,
    }  # fmt: skip


def test_messages_do_not_put_off_the_seal(store: Store) -> None:
    """Somebody writes to the session again and again while each of its processes dies."""

    async def scene(world: World, client: Client) -> None:
        for _ in range(4):
            process = world.live()[-1]
            await client.post(0, process)
            await asyncio.sleep(5)
            process.kill()
            fresh = world.start()
            fresh.spawn(sweep(fresh, stale_after=0))
            await asyncio.sleep(1)
        await world.loop.quiet()
        assert _kinds(world)["turn.sealed"] == 1
        assert world.store.row(world.session_id).status == "idle"

    Staged(SLOW, scene).play(store)


def test_a_message_to_a_session_whose_runner_is_gone_wakes_it(store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        first = world.live()[0]
        await client.post(0, first)
        await asyncio.sleep(1)
        first.kill()
        second = world.start()
        await client.post(0, second)
        await world.loop.quiet()  # no sweep
        assert world.store.row(world.session_id).status == "idle"

    Staged(SLOW, scene).play(store)


@pytest.mark.parametrize("hours", [-3, 3, 87_660])
def test_a_clock_that_jumps_strands_no_session(store: Store, hours: int) -> None:
    async def scene(world: World, client: Client) -> None:
        first = world.live()[0]
        await client.post(0, first)
        await asyncio.sleep(1)
        first.kill()
        world.skews = [hours * 3_600_000_000]
        second = world.start()
        for _ in range(2):
            second.spawn(sweep(second))
            await asyncio.sleep(11)
        await world.loop.quiet()
        assert world.store.row(world.session_id).status == "idle"
        done = [event.decoded() for event in world.log() if event.type == "turn.completed"]
        assert all(each.duration_ms >= 0 for each in done)
        assert len(done) == 1

    Staged(SLOW, scene).play(store)


def test_planned_stops_never_seal_a_turn(store: Store) -> None:
    world = repeated(SLOW, "model.before", "stop", times=10).play(store)
    assert len(world.calls) == 11
    assert _kinds(world)["turn.completed"] == 1


def test_a_cancel_whose_signal_is_lost_still_stops_the_model_call_within_a_second(store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        process = world.live()[0]
        world.lossy = True
        process.spawn(process.worker.start())
        await client.post(0)
        await asyncio.sleep(5)
        assert process.worker.running == 1
        await client.cancel()
        await asyncio.sleep(1)
        assert process.worker.running == 0

    Staged(SLOW, scene).play(store)


def test_a_stop_signal_for_an_older_runner_does_not_stop_the_current_one(store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        process = world.live()[0]
        await client.post(0)
        await asyncio.sleep(1)
        epoch = process.engine.claimed_epochs[world.session_id]
        process.engine.bus.publish(Stop(world.session_id, epoch))
        await asyncio.sleep(1)
        assert process.worker.runs(world.session_id)
        process.engine.bus.publish(Stop(world.session_id, epoch + 1))
        await asyncio.sleep(1)
        assert not process.worker.runs(world.session_id)

    Staged(SLOW, scene).play(store)


def test_a_draining_worker_gives_its_turn_back_without_counting_a_recovery(
    store: Store,
) -> None:
    async def scene(world: World, client: Client) -> None:
        first, second = world.live()[0], world.start()
        await client.post(0, first)
        await asyncio.sleep(1)
        task = first.spawn(first.worker.drain(10.0))
        await asyncio.wait([task])
        assert task.result() == 1
        row = world.store.row(world.session_id)
        assert (row.status, row.recoveries, row.claimed_head) == ("active", 0, -1)
        await asyncio.sleep(1)
        second.spawn(second.sweep.once(stale_after=0))
        await world.loop.quiet()
        assert world.store.row(world.session_id).status == "idle"

    Staged(SLOW, scene).play(store)


def test_a_draining_worker_finishes_short_turns_and_puts_new_jobs_back(store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        process = world.live()[0]
        await client.post(0)
        await asyncio.sleep(55)
        task = process.spawn(process.worker.drain(10.0))
        await asyncio.wait([task])
        assert task.result() == 0
        assert world.store.row(world.session_id).status == "idle"
        refused = process.spawn(process.worker.handle(_job(world)))
        await asyncio.wait([refused])
        assert isinstance(refused.exception(), PutBack)

    Staged(SLOW, scene).play(store)


def test_jobs_for_a_running_session_wait_for_its_runner(store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        process = world.live()[0]
        await client.post(0)
        for _ in range(3):
            process.queue.put(_job(world))
        await asyncio.sleep(30)
        assert process.worker.running == 1
        await world.loop.quiet()
        assert len(world.calls) == 1
        assert _kinds(world)["turn.completed"] == 1

    Staged(SLOW, scene).play(store)


@pytest.mark.parametrize("name", ["tool", "rounds", "next turn"])
def test_a_superfluous_job_elsewhere_repeats_nothing(name: str, store: Store) -> None:
    scenario = NEXT if name == "next turn" else by_name(name)
    undisturbed = listed(scenario, {})
    expected = undisturbed.play(store)
    for point in range(undisturbed.points):
        for later in range(point + 2, point + 6):
            injections = {point: "wake_elsewhere", point + 1: "linger", later: "linger"}
            world = listed(scenario, injections).play(store)
            assert len(world.calls) == len(expected.calls)
            assert len(world.effects) == len(expected.effects)


def test_a_superfluous_job_leaves_a_turn_to_the_process_that_recovered_it(store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        first, second = world.live()[0], world.start()
        await client.post(0, first)
        await asyncio.sleep(1)
        first.kill()
        second.spawn(second.sweep.once(stale_after=0))
        await asyncio.sleep(1)
        third = world.start()
        for _ in range(5):
            third.queue.put(_job(world))
            await asyncio.sleep(1)
        assert world.store.row(world.session_id).recoveries == 1
        await world.loop.quiet()
        assert (len(world.calls), _kinds(world)["turn.completed"]) == (2, 1)

    Staged(SLOW, scene).play(store)


def test_a_recovered_session_that_rests_again_needs_no_sweep_for_the_next_message(store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        first = world.live()[0]
        await client.post(0)
        await world.loop.quiet()
        await first.queue.stop()
        await client.call_back()  # one of two
        first.kill()
        second = world.start()
        second.spawn(second.sweep.once(stale_after=0))
        await world.loop.quiet()
        row = world.store.row(world.session_id)
        assert (row.status, row.resting, row.recoveries) == ("active", 1, 0)
        await client.post(1)
        await world.loop.quiet()
        assert _kinds(world)["turn.completed"] == 1

    Staged(by_name("background"), scene).play(store)


def test_jobs_for_a_parked_session_do_not_change_it(store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        process = world.live()[0]
        await client.post(0)
        await world.loop.quiet()
        parked = world.store.row(world.session_id)
        assert parked.status == "waiting_for_tool_results"
        for _ in range(10):
            process.queue.put(_job(world))
            await world.loop.quiet()
        assert world.store.row(world.session_id) == parked

    Staged(PARKED, scene).play(store)


def test_a_sweep_takes_sessions_abandoned_elsewhere_but_not_those_of_its_own_process(
    store: Store,
) -> None:
    async def scene(world: World, client: Client) -> None:
        first, second = world.live()[0], world.start()
        await client.post(0, first)
        await asyncio.wait([process.spawn(process.sweep.once()) for process in (first, second)])
        await asyncio.sleep(11)
        sweeps = [first.spawn(first.sweep.once()), second.spawn(second.sweep.once())]
        await asyncio.wait(sweeps)
        assert [sweep.result() for sweep in sweeps] == [0, 1]

    Staged(SLOW, scene).play(store)


@pytest.mark.parametrize("seconds", [299, 301])
def test_a_client_has_five_minutes_to_answer(seconds: int, store: Store) -> None:
    async def scene(world: World, client: Client) -> None:
        process = world.live()[0]
        await client.post(0)
        await asyncio.sleep(seconds)
        process.spawn(process.sweep.once())
        await world.loop.quiet()
        assert world.store.row(world.session_id).status == (
            "waiting_for_tool_results" if seconds < 300 else "idle"
        )

    Staged(PARKED, scene).play(store)


def test_a_runner_that_loses_the_session_while_it_logs_a_tool_start_does_not_run_the_tool(
    store: Store,
) -> None:
    for skipped in range(5):
        world = repeated(by_name("tool"), "engine.committed", "oversleep", times=1, after=skipped).play(store)
        assert all(effect.current for effect in world.effects)
