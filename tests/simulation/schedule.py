"""A schedule: plays a scenario with injections at points, waits for rest, and checks the promises."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from perdure.store.sessions import SessionRow
from tests.simulation.checks import check_world
from tests.simulation.client import Client
from tests.simulation.injections import GENTLE, KINDS, LATE, Injections, sweep
from tests.simulation.loop import Stuck, VirtualLoop
from tests.simulation.scenarios import EDITED, SECOND, Scenario, by_name, draw_scenario
from tests.simulation.store import Store
from tests.simulation.world import Plan, World

PATIENCE = 80
"""Sweeps after which a session that is not at rest violates promise P4."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Listed:
    """A plan with given injections: kinds by the number of their point."""

    injections: dict[int, str]

    def at(self, number: int, where: str) -> str | None:
        return self.injections.get(number)


@dataclass
class Repeated:
    """A plan with the same injection at up to `times` points of one place, after skipping `after` of them."""

    where: str
    kind: str
    times: int
    after: int

    def at(self, number: int, where: str) -> str | None:
        if where != self.where or self.times == 0:
            return None
        if self.after > 0:
            self.after -= 1
            return None
        self.times -= 1
        return self.kind


class Drawn:
    """A plan with injections drawn at random, up to a drawn number of them."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._rate = rng.choice((0.02, 0.05, 0.1, 0.2, 0.5))
        self._left = rng.choice((1, 2, 3, 5, 8, 13))
        kinds = rng.sample(sorted(KINDS), k=rng.randint(2, 8))
        self._kinds = ["linger", *kinds]
        self.gentle = GENTLE.issuperset(self._kinds)

    def at(self, number: int, where: str) -> str | None:
        if self._left == 0 or self._rng.random() >= self._rate:
            return None
        self._left -= 1
        return self._rng.choice(self._kinds)


class Schedule:
    """A schedule that can be played once; its name is for playing it again, with the tests in `replay`."""

    replay = "tests/simulation/test_drawn.py"

    def __init__(
        self, scenario: Scenario, plan: Plan, rng: random.Random, name: str, *, lossy: bool, gentle: bool
    ) -> None:
        self.scenario, self.plan, self.rng, self.name, self.lossy, self.gentle = (
            scenario,
            plan,
            rng,
            name,
            lossy,
            gentle,
        )
        self.points = 0

    def play(self, store: Store) -> World:
        """Play it.

        Raises:
            Violation: a promise was broken; the message contains the history and the command that replays it.
        """
        loop = VirtualLoop()
        world = World(loop, store, self.scenario, self.plan, self.rng)
        with _strict_logging(world):
            try:
                loop.run_until_complete(self._live(world))
            except Stuck:
                world.blame("deadlock")
            except Exception as error:
                world.blame(f"the simulation itself failed: {error!r}")
                raise Violation(self._report(world)) from error
            finally:
                loop.run_until_complete(_kill_all(world))
                loop.close()
                if world.session_id:  # also after a violation: it must not fail the schedules that follow
                    (store.forget_tree if self.scenario.tree else store.forget)(world.session_id)
        self.points = world.passed
        if world.violations:
            raise Violation(self._report(world))
        return world

    def _report(self, world: World) -> str:
        log = (
            "\n".join(f"  {event.sequence:3} {event.type}" for event in world.witness.log)
            if world.witness
            else ""
        )
        return (
            f"{world.violations[0]}\nreplay: "
            f"PERDURE_SIMULATION_SEED='{self.name}' .venv/bin/pytest {self.replay}\n"
            + "\n".join(world.trace)
            + f"\nthe log:\n{log}"
        )

    async def _live(self, world: World) -> None:
        client = Client(world)
        Injections(world, client)
        await self._open(world, client)
        for action in self.scenario.actions:
            await self._do(world, client, *action.split())
        await self._rest(world)
        await self._expire(world)
        if self.gentle and any(event.type == "turn.sealed" for event in world.log()):
            world.blame("P4: nothing died, failed or stalled, but a turn is sealed")
        if self.gentle and world.witness is not None and world.witness.robbed:
            world.blame("P3: nothing died, failed or stalled, but a runner at work lost the session")
        world.counting = False
        await check_world(world)

    async def _open(self, world: World, client: Client) -> None:
        if isinstance(self.plan, Drawn) and self.rng.random() < 0.5:
            world.skews = [self.rng.randrange(-5_000_000, 5_000_000) for _ in range(5)]
        for _ in range(self.rng.choice((1, 2))):
            world.start()
        await client.create()
        world.lossy, world.counting = self.lossy, True

    async def _do(self, world: World, client: Client, verb: str, what: str = "") -> None:
        match verb:
            case "post":
                if not await client.post(int(what)):
                    await client.post(int(what))
            case "address":
                to = f"@{SECOND}-{self.scenario.history}"
                if not await client.post(int(what), to=to):
                    await client.post(int(what), to=to)
            case "steer" | "queue" | "interrupt" | "reject":
                await client.post(int(what), when_busy=verb)
            case "rest":
                await self._rest(world)
            case "wait":
                await asyncio.sleep(float(what))
            case "decide":
                edited = {"seconds": EDITED} if what == "edit" else None
                await client.answer("reject" if what == "reject" else "allow", 1, edited=edited)
            case "link":
                await client.decide_by_link("reject" if what == "reject" else "allow")
            case _:
                await getattr(client, verb)()

    async def _rest(self, world: World) -> None:
        """Wait until the session is at rest; run sweeps, and start a process when none lives."""
        await world.loop.quiet()
        row = world.store.row(world.session_id)
        if self.gentle and row.status == "active" and not row.resting:
            world.blame("P4: nothing died, failed or stalled, but the session needs a sweep to continue")
        for _ in range(PATIENCE):
            if world.violations:
                return
            if not world.live():
                process = world.start()
                process.spawn(sweep(process, stale_after=0))
                await world.loop.quiet()
                continue
            if at_rest(world.store.row(world.session_id), world.now()):
                return
            await asyncio.sleep(LATE)
            for process in world.live():
                process.spawn(sweep(process))
            await world.loop.quiet()
        world.blame(f"P4: the session never gets to rest: {world.store.row(world.session_id)}")

    async def _expire(self, world: World) -> None:
        """Let every deadline pass at which the session is parked, and check that it continues."""
        for _ in range(PATIENCE):
            if world.consents.signed_in_at is not None:
                await self._look(world)
            row = world.store.row(world.session_id)
            if row.deleted_at is not None or row.status in {"idle", "started"} or world.violations:
                return
            if world.loop.timers() or any(
                process.worker.running or process.queue.depth() for process in world.live()
            ):
                world.blame("a parked session holds a timer, a task or a job")
            await asyncio.sleep(max(0, (row.wake_at or 0) - world.now()) / 1_000_000 + 1)
            for process in world.live():
                process.spawn(sweep(process))
            await self._rest(world)

    async def _look(self, world: World) -> None:
        """Let each process look for calls whose sign-in has happened, as it does every few seconds."""
        for _ in range(3):  # one of them may fail
            for process in world.live() or (world.start(),):
                process.spawn(sweep(process))
            await world.loop.quiet()
            await self._rest(world)


async def _kill_all(world: World) -> None:
    """Kill all processes, so that nothing of this schedule affects the next one."""
    for process in world.live():
        process.kill()
    await world.loop.quiet()


def at_rest(row: SessionRow, now: int) -> bool:
    """Whether the session has nothing to do now."""
    if row.deleted_at is not None or row.status in {"idle", "started"}:
        return True
    parked = row.status in {"waiting_for_tool_results", "paused"} or (row.status == "active" and row.resting)
    return parked and row.wake_at is not None and row.wake_at > now


class Staged(Schedule):
    """A schedule that a test writes out as a coroutine, in virtual time.

    The promises are checked at every append, but not at the end.
    """

    def __init__(self, scenario: Scenario, scene: Callable[[World, Client], Awaitable[None]]) -> None:
        super().__init__(scenario, Listed({}), random.Random(0), scenario.name, lossy=False, gentle=False)
        self._scene = scene

    async def _live(self, world: World) -> None:
        client = Client(world)
        world.start()
        await client.create()
        await self._scene(world, client)


def repeated(scenario: Scenario, where: str, kind: str, times: int = 1000, after: int = 0) -> Schedule:
    """A schedule with the same injection at every point of one place."""
    return Schedule(
        scenario,
        Repeated(where, kind, times, after),
        random.Random(0),
        f"{kind} at every {where}",
        lossy=False,
        gentle=False,
    )


def listed(scenario: Scenario, injections: dict[int, str]) -> Schedule:
    """A schedule with these injections: kinds by the number of their point."""
    name = f"{scenario.name}:{','.join(f'{point}={kind}' for point, kind in injections.items())}"
    gentle = GENTLE.issuperset(injections.values())
    return Schedule(scenario, Listed(injections), random.Random(name), name, lossy=False, gentle=gentle)


def drawn(seed: int) -> Schedule:
    """The schedule that is drawn with this seed."""
    rng = random.Random(seed)
    scenario, plan = draw_scenario(rng), Drawn(rng)
    return Schedule(scenario, plan, rng, str(seed), lossy=rng.random() < 0.3, gentle=plan.gentle)


def named(name: str) -> Schedule:
    """The schedule with this name: a seed, or `scenario:point=kind,...`."""
    if name.isdecimal():
        return drawn(int(name))
    scenario, _, rest = name.partition(":")
    injections = {
        int(point): kind for point, _, kind in (pair.partition("=") for pair in rest.split(",") if pair)
    }
    return listed(by_name(scenario), injections)


class _Strict(logging.Handler):
    """Makes a logged error of a worker, a sweep or the store a violation, because it hides a failure."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.note(f"{record.name}: {record.getMessage()}")
        # Tools that fail and turns that are sealed are told to operators; the checks judge them.
        if record.levelno >= logging.ERROR and record.name not in ("perdure.act", "perdure.turns"):
            self._world.blame(
                f"{record.getMessage()}: {record.exc_info[1]!r}" if record.exc_info else record.getMessage()
            )


@contextmanager
def _strict_logging(world: World) -> Iterator[None]:
    logger, handler = logging.getLogger("perdure"), _Strict(world)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
