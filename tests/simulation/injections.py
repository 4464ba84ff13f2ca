"""What can happen at a point: a crash, a stall, a message, a cancel ..."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from perdure.domain.errors import PerdureError
from perdure.store.queue import Job
from tests.simulation.client import Client
from tests.simulation.world import Crash, Process, World

LATE = 11.0
"""Seconds after which a sweep takes an active session for forgotten, and one more."""


class Injections:
    """The things that happen, by name, in one world."""

    def __init__(self, world: World, client: Client) -> None:
        self._world, self._client = world, client
        world.inject = self._happen

    async def _happen(self, process: Process, where: str, kind: str) -> None:
        await KINDS[kind](self, process, where)

    def _another(self, process: Process) -> Process:
        """A process beside this one."""
        others = [each for each in self._world.live() if each is not process]
        return others[0] if others else self._world.start()

    async def crash(self, process: Process, where: str) -> None:
        """The process dies here; the one that takes its place looks at once for what was left."""
        process.kill()
        raise Crash

    async def stop(self, process: Process, where: str) -> None:
        """The process is told to stop, and gives its runners a moment to end by themselves."""
        process.stopping = True
        grace = self._world.rng.choice((0.0, 0.5, 30.0))

        async def stop() -> None:
            await asyncio.wait([process.spawn(process.worker.drain(grace))])
            if process.alive:
                process.kill()

        self._world.keep(stop())

    async def fault(self, process: Process, where: str) -> None:
        """What is called at this point fails."""
        process.fault(where)

    async def stall(self, process: Process, where: str) -> None:
        """This step takes so long that another process takes the session over.

        Sooner or later it comes back.
        """
        await self._overtake_later(process, self._world.rng.choice((0.0, 0.0, 1.0, 40.0)))

    async def oversleep(self, process: Process, where: str) -> None:
        """This step takes so long that another process goes through with the turn before it comes back."""
        await self._overtake_later(process, 40.0)

    async def freeze(self, process: Process, where: str) -> None:
        """The whole process stands still meanwhile, and comes back."""
        process.thawed = self._world.loop.create_future()
        thawed = process.thawed
        try:
            await self._overtake_later(process, self._world.rng.choice((0.0, 1.0, 40.0)))
        finally:
            process.thawed = None
            thawed.set_result(None)

    async def _overtake_later(self, process: Process, then: float) -> None:
        other = self._another(process)
        await process.pause(LATE)
        other.spawn(sweep(other))
        await process.pause(then)

    async def overtake(self, process: Process, where: str) -> None:
        """Another process starts, and takes over whatever it finds unfinished: two runners race from here."""
        other = self._another(process)
        other.spawn(sweep(other, stale_after=0))

    async def wake(self, process: Process, where: str) -> None:
        """A job is delivered once more."""
        process.queue.put(Job(self._world.store.caller.organization_id, self._world.session_id))

    async def wake_elsewhere(self, process: Process, where: str) -> None:
        await self.wake(self._another(process), where)

    async def message(self, process: Process, where: str) -> None:
        await self._client.post(None, process)

    async def message_elsewhere(self, process: Process, where: str) -> None:
        await self._client.post(None, self._another(process))

    async def cancel(self, process: Process, where: str) -> None:
        await self._client.cancel(process)

    async def cancel_elsewhere(self, process: Process, where: str) -> None:
        await self._client.cancel(self._another(process))

    async def delete(self, process: Process, where: str) -> None:
        await self._client.delete(process)

    async def delete_elsewhere(self, process: Process, where: str) -> None:
        await self._client.delete(self._another(process))

    async def patch(self, process: Process, where: str) -> None:
        await self._client.patch(process)

    async def answer(self, process: Process, where: str) -> None:
        await self._client.answer(server=process)

    async def decide(self, process: Process, where: str) -> None:
        """A decision on one of several open questions."""
        await self._client.answer(self._world.rng.choice(("allow", "reject", "reject_always")), 1, process)

    async def unplug(self, process: Process, where: str) -> None:
        """The model's provider is set up wrongly, for a while."""
        self._world.unplugged += 1

    async def linger(self, process: Process, where: str) -> None:
        """This step takes a moment: others go first."""
        await process.pause(self._world.rng.choice((0.0, 0.0, 0.001, 0.5, 4.0)))


async def sweep(process: Process, **how: int) -> None:
    """One sweep, as the server's own loop does it."""
    with contextlib.suppress(PerdureError):
        await process.sweep.once(**how)


KINDS: dict[str, Callable[[Injections, Process, str], Awaitable[None]]] = {
    name: method for name, method in vars(Injections).items() if not name.startswith("_")
}
"""Every method of `Injections` is a kind of thing that happens."""

ROUGH = frozenset({"crash", "stop", "fault", "stall", "oversleep", "freeze"})
GENTLE = frozenset(KINDS) - ROUGH
"""What the server must get over at once, without a sweep: no process dies, nothing fails and nothing
stalls."""
